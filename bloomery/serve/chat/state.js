// What the page knows: the models, the settings, the conversation that is open, and the answers that are being written.

import { STARTS } from "./controls.js";
import { find, toast } from "./dom.js";
import { created, keep, load, opened, save } from "./store.js";

export const state = {
  models: [], running: null,                    // running: the AbortController of what is being written
  settings: { ...STARTS, chosen: [], odds: false, best: 1, reward: "", ...load("settings", {}) },
  conversation: opened(load(`conversation/${load("open", "")}`, null) ?? created("chat")),
};

export const speakers = () => state.models.filter(model => model.kind === "chat" || model.kind === "completion");
export const served = id => speakers().find(model => model.id === id);
export const chosen = () => state.settings.chosen.map(served).filter(Boolean);

// What can score candidates, reward models first, and what does.
export const judges = () => [...state.models.filter(model => model.kind === "reward").map(model => model.id), "logp"];
export const judge = () => judges().includes(state.settings.reward) ? state.settings.reward : judges()[0];

export function stop() {
  state.running?.abort();
  state.running = null;
}

let waiting = 0;
export function changed() {
  clearTimeout(waiting);
  waiting = setTimeout(store, 400);
}

export function store() {
  clearTimeout(waiting);
  save("settings", state.settings);
  save("open", state.conversation.id);
  save("draft", find("draft").value);
  if (!keep(state.conversation)) toast("The browser has no room left: this conversation is not kept.");
}
addEventListener("pagehide", store);
