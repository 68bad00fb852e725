// Markdown of a model, shown safely: every piece becomes an element made here around text nodes, so that no text can
// be markup.  Known are headings, paragraphs, lists, quotes, fenced code, tables, rules; code, bold, italic, struck,
// links to http(s).  Images are left as text: showing one would ask another machine for it.

import { h } from "./dom.js";

// No alternative may run over a second opening mark, so that a hostile text costs linear time.
const INLINE = new RegExp([
  /(?<tick>`+)(?<code>[^`\n]+)\k<tick>(?!`)/,
  /\*\*(?=[^\s*])(?<bold>[^*\n]+)\*\*/,
  /\*(?=[^\s*])(?<italic>[^*\n]+)\*/,
  /(?<![\w_])_(?=[^\s_])(?<under>[^_\n]+)_(?!\w)/,
  /~~(?=\S)(?<struck>[^~\n]+)~~/,
  /(?<!!)\[(?<label>[^\][\n]{1,300})\]\((?<address>https?:\/\/[^\s()]{1,2000})\)/,
  /(?<bare>https?:\/\/[^\s<>()[\]"'`]{1,2000}[^\s<>()[\]"'`.,;:!?])/,
].map(part => part.source).join("|"), "gu");

const link = (href, label) => h("a", { href, target: "_blank", rel: "noopener noreferrer nofollow" }, label);
const MARKS = {
  code: text => h("code", null, text),
  bold: text => h("strong", null, inline(text)),
  italic: text => h("em", null, inline(text)),
  under: text => h("em", null, inline(text)),
  struck: text => h("s", null, inline(text)),
  bare: text => link(text, text),
};

function inline(text) {
  const nodes = [];
  let last = 0;
  for (const { 0: whole, index, groups } of text.matchAll(INLINE)) {
    if (index > last) nodes.push(text.slice(last, index));
    const mark = Object.keys(MARKS).find(name => groups[name] !== undefined);
    nodes.push(mark ? MARKS[mark](groups[mark]) : link(groups.address, groups.label));
    last = index + whole.length;
  }
  if (last < text.length) nodes.push(text.slice(last));
  return nodes;
}

const lines = text => inline(text).flatMap(node => typeof node === "string"
  ? node.split("\n").flatMap((line, i) => i ? [h("br"), line] : [line]) : [node]);

const ITEM = /^(\s{0,8})([-*+]|\d{1,9}[.)])\s+(.*)$/;
const FENCE = /^\s{0,3}(```|~~~)/, QUOTE = /^\s{0,3}>\s?/;
const RULE = /^\s{0,3}([-*_])(\s*\1){2,}\s*$/, HEADING = /^(#{1,6})\s+/;
const DASHES = /^[\s|:-]*-[\s|:-]*$/;
const cells = row => row.trim().replace(/^\||\|$/g, "").split("|").map(cell => cell.trim());

function list(rows) {
  const [, indent, mark] = ITEM.exec(rows[0]), ordered = /\d/.test(mark), items = [];
  for (const row of rows) {
    const found = ITEM.exec(row);
    if (found && found[1].length <= indent.length) items.push([found[3]]);
    else items.at(-1).push(row.slice(Math.min(indent.length + 2, row.search(/\S|$/))));
  }
  return h(ordered ? "ol" : "ul", ordered && { start: parseInt(mark) }, items.map(([first, ...rest]) => {
    const inner = rest.findIndex(row => ITEM.test(row)), own = inner < 0 ? rest : rest.slice(0, inner);
    return h("li", null, lines([first, ...own].join("\n").trim()), inner >= 0 && list(rest.slice(inner)));
  }));
}

function fenced(rows) {
  const fence = rows[0].trim().slice(0, 3), name = rows[0].trim().slice(3).trim().slice(0, 20);
  const closed = rows.length > 1 && rows.at(-1).trim() === fence;
  const code = rows.slice(1, closed ? -1 : undefined).join("\n");
  return h("pre", name && { "data-language": name }, h("code", null, code));
}

const table = ([head, , ...body]) => h("div", { class: "table", tabindex: 0, role: "group", "aria-label": "Table" },
  h("table", null, h("thead", null, h("tr", null, cells(head).map(cell => h("th", null, inline(cell))))),
    h("tbody", null, body.map(row => h("tr", null, cells(row).map(cell => h("td", null, inline(cell))))))));

function heading([row]) {
  const level = HEADING.exec(row)[1].length;
  return h(`h${Math.min(6, level + 2)}`, null, inline(row.replace(HEADING, "").replace(/\s+#+$/, "")));
}

// Quotes in quotes in quotes end somewhere: a stack does.
const quote = (rows, depth) => h("blockquote", null, depth > 8 ? rows.join("\n")
  : blocks(rows.map(row => row.replace(QUOTE, "")), depth + 1).map(block => block.draw()));

function through(rows, at, holds) {
  while (at < rows.length && holds(rows[at])) at++;
  return at;
}

function fenceEnd(rows, at) {
  const close = rows.findIndex((row, i) => i > at && row.trim() === rows[at].trim().slice(0, 3));
  return close < 0 ? rows.length : close + 1;
}

// One rule a kind of block: does it start here, how far does it reach, how is it drawn.  The first that fits wins.
const BLOCKS = [
  { starts: row => FENCE.test(row), ends: fenceEnd, draw: fenced },
  { starts: row => HEADING.test(row), ends: (rows, at) => at + 1, draw: heading },
  { starts: row => RULE.test(row), ends: (rows, at) => at + 1, draw: () => h("hr") },
  { starts: row => QUOTE.test(row), ends: (rows, at) => through(rows, at, row => QUOTE.test(row)), draw: quote },
  { starts: row => ITEM.test(row), draw: list,
    ends: (rows, at) => through(rows, at, row => ITEM.test(row) || /^\s+\S/.test(row)) },
  { starts: (row, next = "") => row.includes("|") && next.includes("|") && DASHES.test(next), draw: table,
    ends: (rows, at) => through(rows, at, row => row.includes("|")) },
];

function blocks(rows, depth = 0) {
  const found = [], ruleAt = at => BLOCKS.find(rule => rule.starts(rows[at], rows[at + 1]));
  for (let at = 0; at < rows.length;) {
    if (!rows[at].trim()) { at++; continue; }
    const rule = ruleAt(at);
    let end = at + 1;
    if (rule) end = rule.ends(rows, at);
    else while (end < rows.length && rows[end].trim() && !ruleAt(end)) end++;
    const own = rows.slice(at, end), source = own.join("\n");
    found.push({ source, draw: () => rule ? rule.draw(own, depth) : h("p", null, lines(source.trim())) });
    at = end;
  }
  return found;
}

const drawn = new WeakMap();                    // node -> the sources of its blocks

// Draws `text` into `node`.  A growing text redraws only its last blocks, so that a selection in the others stays.
export function markdown(node, text) {
  const now = blocks(text.split("\n")), before = drawn.get(node) ?? [];
  let same = 0;
  while (same < now.length && same < before.length && now[same].source === before[same]) same++;
  while (node.childNodes.length > same) node.lastChild.remove();
  node.append(...now.slice(same).map(block => block.draw()));
  drawn.set(node, now.map(block => block.source));
}
