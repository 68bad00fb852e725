// Finding the server and its models, losing it, and finding it again.

import { health, key, models } from "./api.js";
import { button, find, h, redraw, say } from "./dom.js";
import { chosen, speakers, state } from "./state.js";

const SELDOM = 15_000, OFTEN = 2000;            // ms between looks while all is well, and while it is not
let up = true, timer = 0, found = () => {};

function banner(...what) {
  redraw(find("banner"), ...what);
  find("banner").hidden = !what.length;
}

export function askForKey() {
  const input = h("input", { type: "password", "aria-label": "Key", autocomplete: "off" });
  const use = event => { event.preventDefault(); key.set(input.value.trim()); banner(); greet(found); };
  banner(h("form", { onsubmit: use }, h("span", null, "This server asks for a key."), input,
    button("use", "Use it", null, { type: "submit", class: "act strong" })));
}

// Asks which models there are, and calls `then` when it is known.
export async function greet(then) {
  found = then;
  try {
    state.models = await models();
  } catch (error) {
    if (error.status === 401) askForKey(); else watch();
    return;
  }
  const now = chosen().length ? chosen() : speakers().slice(0, 1);
  state.settings.chosen = now.map(model => model.id);
  if (!state.conversation.turns.length && now[0]?.kind === "completion") state.conversation.kind = "text";
  found();
}

// Asks after the server; what was written stays on the page whatever it says.
export async function watch() {
  clearTimeout(timer);
  const before = up, well = document.hidden ? up : await health();
  up = Boolean(well);
  const words = well === null ? "The server does not answer." : "The server is not well.";
  if (!up) banner(`${words} `, h("small", null, "What you wrote stays here; looking again every two seconds."));
  else if (!before) { banner(); say("The server is back."); greet(found); }
  clearTimeout(timer);
  timer = setTimeout(watch, up ? SELDOM : OFTEN);
}
document.addEventListener("visibilitychange", () => document.hidden || watch());
