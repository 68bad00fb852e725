// The settings: what each number does to an answer, in one line, and the form that changes it.

import { button, describe, find, grow, h, listed, redraw } from "./dom.js";

// `off` is the value at which a control does nothing and is not sent; an empty box counts as off.
export const CONTROLS = {
  temperature: { label: "Temperature", most: 2, step: 0.05, start: 0.8, off: 1,
    why: "How much chance decides. 0 always takes the likeliest token, 1 keeps the model's own odds." },
  top_p: { label: "Top-p", least: 0.05, most: 1, step: 0.01, start: 0.95, off: 1,
    why: "Draws among the fewest likeliest tokens that together reach this probability. 1 keeps all." },
  top_k: { label: "Top-k", most: 200, step: 1, start: 0, off: 0,
    why: "Draws among this many of the likeliest tokens. 0 keeps all." },
  min_p: { label: "Min-p", most: 1, step: 0.01, start: 0, off: 0,
    why: "Drops tokens below this share of the likeliest one's probability. 0 drops none." },
  repetition_penalty: { label: "Repetition penalty", least: 1, most: 2, step: 0.01, start: 1, off: 1,
    why: "Makes tokens that have appeared less likely to come again. 1 is none." },
  max_tokens: { label: "Most tokens", least: 1, step: 1, start: null, off: null,
    why: "Where an answer is cut. Empty: as far as the context reaches (a text: 128)." },
  seed: { label: "Seed", least: 0, step: 1, start: null, off: null,
    why: "The same seed and prompt give the same answer; regenerating counts up. Empty: a new one each time." },
};
export const STARTS = Object.fromEntries(Object.entries(CONTROLS).map(([name, control]) => [name, control.start]));

// The fields of a request.
export function sampling(settings) {
  const sent = Object.entries(CONTROLS).filter(([name, { off }]) => name !== "seed" && (settings[name] ?? off) !== off);
  return Object.fromEntries(sent.map(([name]) => [name, settings[name]]));
}

// A greedy choice has no use for what shapes the draw: those controls pale.
const pale = settings => find("panel").toggleAttribute("data-greedy", settings.temperature === 0);

function control(name, settings, changed) {
  const { label, why, least = 0, most, step, off } = CONTROLS[name], range = { min: least, max: most, step };
  const slider = most !== undefined &&
    h("input", { type: "range", ...range, value: settings[name], "aria-label": label, tabindex: -1 });
  const box = h("input", { type: "number", id: `set-${name}`, ...range, value: settings[name] ?? "",
    inputmode: "decimal", placeholder: off === null && "auto", "aria-describedby": `why-${name}` });
  const take = from => {
    if (!from.validity.valid) return;
    settings[name] = from.value === "" ? off : Number(from.value);
    for (const other of [slider, box]) if (other && other !== from) other.value = settings[name];
    pale(settings);
    changed();
  };
  for (const input of [slider, box]) if (input) input.addEventListener("input", () => take(input));
  box.addEventListener("change", () => { box.value = settings[name] ?? ""; });
  return h("div", { class: "control", "data-name": name }, h("label", { for: box.id }, label), box, slider,
    h("p", { class: "note", id: `why-${name}` }, why));
}

// Everything in the side panel.  `reload` asks the server for the newest checkpoint of a model.
export function panel(view) {
  const { settings, conversation, models, judges, judge, chosen, changed, reload, close } = view;
  const say = words => { conversation.system = words; grow(system); changed(); };
  const system = h("textarea", { id: "system", rows: 3, value: conversation.system, placeholder: "None",
    "aria-describedby": "why-system", oninput: () => say(system.value) });
  const load = id => button(`reload-${id}`, "Load its newest checkpoint", () => reload(id));
  const reward = h("select", { id: "reward", onchange: () => { settings.reward = reward.value; changed(); } },
    judges.map(id => h("option", { value: id, selected: id === judge }, id === "logp" ? "their own probability" : id)));
  const defaults = () => { Object.assign(settings, STARTS); changed(); panel(view); };
  redraw(find("panel"),
    h("div", { class: "bar" }, h("h2", null, "Settings"), button("close", "Close", close)),
    conversation.kind === "chat" && h("div", { class: "control wide" }, h("label", { for: "system" }, "System prompt"),
      system, h("p", { class: "note", id: "why-system" }, "Said to the model before the conversation begins.")),
    h("h3", null, "Sampling"),
    Object.keys(CONTROLS).map(name => control(name, settings, changed)),
    button("defaults", "Back to the defaults", defaults),
    h("div", { class: "control wide" }, h("label", { for: "reward" }, "Candidates are scored by"), reward,
      h("p", { class: "note" }, "“Best of” in the message box draws several answers and puts the best first.")),
    h("h3", null, "Models"),
    models.map(model => h("div", { class: "model" }, h("b", null, model.id),
      h("p", { class: "note" }, listed(model.kind, describe(model))),
      chosen.includes(model.id) && load(model.id))));
  pale(settings);
  grow(system);
}
