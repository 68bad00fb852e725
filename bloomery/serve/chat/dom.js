// Elements without a framework.  Text is only ever a text node: nothing here, or anywhere in the page, parses markup.

export const find = id => document.getElementById(id);

// h("input", { class: "box", oninput: f, disabled: true }): functions become listeners, false and null nothing.
export function h(tag, properties, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties || {})) {
    if (value === false || value == null) continue;
    if (typeof value === "function") node.addEventListener(name.slice(2), value);
    else if (name === "value") node.value = value;
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter(child => child !== false && child != null));
  return node;
}

// A quiet button; `act` names it, so that a redrawn part of the page finds it again.
export const button = (act, label, onclick, more) =>
  h("button", { type: "button", class: "act", "data-act": act, onclick, ...more }, label);

export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", `#i-${name}`);
  svg.setAttribute("aria-hidden", "true");
  svg.append(use);
  return svg;
}

// A text box as tall as its text; the stylesheet sets the most.
export function grow(area) {
  area.style.height = "auto";
  area.style.height = `${area.scrollHeight + area.offsetHeight - area.clientHeight}px`;
}

// Redraws one part of the page and leaves the focus on the control of the same name, if it is still there.
export function redraw(node, ...children) {
  const act = node.contains(document.activeElement) ? document.activeElement.dataset.act : undefined;
  node.replaceChildren(...children.flat().filter(child => child !== false && child != null));
  if (act) node.querySelector(`[data-act="${CSS.escape(act)}"]`)?.focus({ preventScroll: true });
}

let hiding = 0;

// A few words at the foot of the page, for what can be taken back with a way to.
export function toast(words, undo) {
  clearTimeout(hiding);
  const back = () => { undo(); toast(""); };
  redraw(find("toast"), h("span", null, words), undo && button("undo", "Undo", back, { class: "act strong" }));
  find("toast").classList.toggle("open", Boolean(words));
  if (words) hiding = setTimeout(toast, 8000, "");
}

// For those who listen to the page.
export const say = words => { find("announce").textContent = words; };

const short = count => count >= 1e9 ? `${(count / 1e9).toPrecision(2)}B`
  : count >= 1e6 ? `${(count / 1e6).toPrecision(2)}M` : count >= 1e4 ? `${Math.round(count / 1e3)}k` : `${count}`;
export const grouped = count => count.toLocaleString("en");
export const listed = (...parts) => parts.filter(Boolean).join(" · ");
export const signed = (value, digits) => value.toFixed(digits).replace("-", "−");
export const describe = ({ parameters, context, checkpoint }) => listed(
  parameters && `${short(parameters)} parameters`, context && `${grouped(context)} tokens of context`, checkpoint);
