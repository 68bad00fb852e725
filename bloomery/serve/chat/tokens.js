// What the model thought of each token it wrote: a tint where it was in doubt, and what else it might have written, on
// hover or focus.  Taking one of those writes on from there.

import { button, find, h, signed } from "./dom.js";

const visible = text => text.replace(/\n/g, "↵\n").replace(/\t/g, "⇥\t");
const named = text => text.replace(/ /g, "␣").replace(/\n/g, "↵").replace(/\t/g, "⇥") || "(nothing)";
const code = text => h("code", null, named(text));

function percent(logp) {
  const p = 100 * Math.exp(logp);
  return p >= 99.95 ? "100 %" : p >= 10 ? `${p.toFixed(0)} %` : p >= 0.1 ? `${p.toFixed(1)} %` : "< 0.1 %";
}

// Text that can stand for a token in a prompt: whole characters, and no control token, which text never becomes.
const writable = text => !/\ufffd|^bytes:|^<\|.*\|>$/.test(text);

// Tokens as text: those that are a part of a character say nothing until its last part comes.
function speller() {
  const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  return ([text, , , bytes]) => bytes ? decoder.decode(new Uint8Array(bytes), { stream: true }) : text;
}
export const spelled = tokens => tokens.map(speller()).join("");

const groups = new WeakMap();                   // group of tokens -> { spell, branch }
const known = new WeakMap();                    // element of a token -> the token

// Appends the tokens that `node` does not show yet.  A log-probability of null is a token that was given.
// `branch(i, text)`, if there is one, writes on with `text` in the place of token i.
export function showTokens(node, tokens, branch) {
  if (!groups.has(node)) listen(node);
  if (!node.childNodes.length || node.childNodes.length > tokens.length) {
    node.replaceChildren();
    groups.set(node, { spell: speller() });
  }
  const { spell } = Object.assign(groups.get(node), { branch });
  for (const token of tokens.slice(node.childNodes.length)) {
    const [text, logp] = token, label = logp === null ? text : `${named(text)}, ${percent(logp)}`;
    const at = node.childNodes.length ? -1 : 0;
    const span = h("span", { class: "token", role: "button", tabindex: at, "aria-label": label });
    span.append(visible(spell(token)) || "▫");
    span.style.setProperty("--doubt", logp === null ? 0 : (1 - Math.exp(logp)).toFixed(3));
    known.set(span, token);
    node.append(span);
  }
}

function listen(node) {
  node.setAttribute("role", "group");
  node.setAttribute("aria-label", "Tokens with their probabilities: arrow keys move between them");
  for (const kind of ["pointerover", "focusin"])
    node.addEventListener(kind, event => known.has(event.target) && open(event.target));
  node.addEventListener("pointerleave", () => pinned() || hide());
  node.addEventListener("focusout", event => find("token").contains(event.relatedTarget) || hide());
  node.addEventListener("click", event => known.has(event.target) && pin(event.target));
  node.addEventListener("keydown", event => {
    const { key, target } = event, { nextSibling: next, previousSibling: before } = target;
    const to = { ArrowRight: next, ArrowLeft: before, Home: node.firstChild, End: node.lastChild }[key];
    if (to) move(to);
    else if (key === "Enter" || key === " ") pin(target);
    else if (key === "Escape" && shown()) { hide(); event.stopPropagation(); } else return;
    event.preventDefault();
  });
}

// One token at a time is in the tab order, so that a long answer is one stop.
function move(span) {
  for (const other of span.parentNode.querySelectorAll('[tabindex="0"]')) other.tabIndex = -1;
  span.tabIndex = 0;
  span.focus();
}

const shown = () => find("token").matches(":popover-open");
const pinned = () => shown() && find("token").classList.contains("pinned");
export function hide() {
  if (shown()) find("token").hidePopover();
}

// Stays open, its alternatives buttons, until one is taken, Escape is pressed or the focus leaves.
function pin(span) {
  move(span);
  if (!groups.get(span.parentNode).branch) return;
  open(span, true);
  find("token").querySelector("button")?.focus();
}

function open(span, pinned = false) {
  const card = find("token"), group = span.parentNode, { branch } = groups.get(group);
  const i = [...group.childNodes].indexOf(span);
  if (card.contains(document.activeElement)) return;
  card.replaceChildren(...facts(known.get(span), pinned && (text => { hide(); branch(i, text); })));
  if (branch) card.append(h("p", { class: "note" }, pinned ? "Takes another token here and writes on."
    : "Click or Enter to take another token."));
  card.classList.toggle("pinned", pinned);
  card.setAttribute("role", pinned ? "dialog" : "tooltip");
  card.setAttribute("aria-label", pinned ? "Other tokens" : "Token");
  card.onkeydown = event => {
    const all = [...card.querySelectorAll("button")], step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step) { all.at((all.indexOf(event.target) + step) % all.length).focus(); event.preventDefault(); }
    if (event.key === "Escape") { event.stopPropagation(); span.focus(); hide(); }
  };
  card.onfocusout = event => card.contains(event.relatedTarget) || hide();
  card.showPopover();
  place(card, span.getClientRects()[0]);
}

function facts([text, logp, others], take) {
  const rows = logp === null || others.some(([other]) => other === text) ? others : [...others, [text, logp]];
  const name = other => take && other !== text && writable(other)
    ? button("take", code(other), () => take(other), { title: `Go on from here with “${named(other)}”` }) : code(other);
  const row = ([other, value]) => {
    const bar = h("span");
    bar.style.width = `${100 * Math.exp(value)}%`;
    return h("tr", other === text && { class: "first" }, h("th", { scope: "row" }, name(other)),
      h("td", { class: "track" }, bar), h("td", { class: "shown" }, percent(value)));
  };
  return [h("p", null, code(text), " ", h("b", null, logp === null ? "given" : percent(logp)),
    logp !== null && h("small", null, ` ${signed(logp, 2)} nats`)), h("table", { class: "bars" }, rows.map(row))];
}

function place(card, at) {
  const { offsetWidth: wide, offsetHeight: tall } = card, below = at.bottom + tall + 12 <= innerHeight;
  card.style.left = `${Math.max(8, Math.min(at.left, innerWidth - wide - 8))}px`;
  card.style.top = `${below ? at.bottom + 6 : Math.max(8, at.top - tall - 6)}px`;
}
