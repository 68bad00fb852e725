// What hangs from the top of the page: the models, earlier conversations, saving, settings.

import { reload } from "./api.js";
import { panel } from "./controls.js";
import { button, find, h, icon, redraw, toast } from "./dom.js";
import { greet } from "./server.js";
import { changed, chosen, judge, judges, speakers, state, stop, store } from "./state.js";
import { created, discard, download, example, keep, kept, opened, preferences, title } from "./store.js";

const MOST = 4;                                 // models side by side: more columns than that cannot be read

export function drawModels(draw) {
  const all = speakers(), now = chosen(), ids = state.settings.chosen;
  const put = (...change) => { ids.splice(...change); draw(); changed(); };
  const other = all.find(model => !now.includes(model));
  redraw(find("models"), now.map((model, i) => h("span", { class: "chosen" },
    h("select", { "data-act": `model-${i}`, "aria-label": i ? `Model ${i + 1}` : "Model",
      onchange: event => put(i, 1, event.target.value) },
    all.map(other => h("option", { value: other.id, selected: other === model }, other.id))),
    now.length > 1 && button(`drop-${i}`, "×", () => put(i, 1), { "aria-label": `Without ${model.id}` }))),
  now.length > 0 && now.length < MOST && button("compare", [icon("compare"), h("span", null, "Compare")],
    () => put(ids.length, 0, other.id), { class: "tool", disabled: !other || Boolean(state.running),
      title: other ? "Ask another model the same" : "No other model is served here" }));
}

export function drawPanel(draw) {
  const told = ({ id, checkpoint, changed: other }) => {
    toast(`${id}: ${checkpoint} ${other ? "answers from now on" : "is still the newest"}.`);
    if (other) greet(draw);
  };
  panel({ settings: state.settings, conversation: state.conversation, models: state.models, judges: judges(),
    judge: judge(), chosen: state.settings.chosen, changed, close: () => tune(false, draw),
    reload: id => reload(id).then(told, error => toast(error.message)) });
}

export function tune(on, draw) {
  find("panel").hidden = !on;
  find("tune").setAttribute("aria-expanded", on);
  if (on) drawPanel(draw);
  (on ? find("panel").querySelector("textarea, input") : find("tune")).focus();
}

// A menu is drawn when it opens.
const menu = (id, draw) => find(id).addEventListener("beforetoggle", event => event.newState === "open" && draw());

export function listen(open) {
  menu("conversations", () => { store(); drawConversations(open); });
  menu("export", drawExport);
}

function drawConversations(open) {
  const when = one => new Date(one.changed).toLocaleDateString([], { day: "numeric", month: "short" });
  const show = one => { find("conversations").hidePopover(); stop(); open(opened(one)); store(); };
  const remove = one => {
    const own = one.id === state.conversation.id;
    if (own) { stop(); open(created(one.kind)); }
    discard(one.id);
    toast("Deleted.", () => { keep(one); if (own) open(one); });
    drawConversations(open);
  };
  const rows = kept().map(one => h("div", { class: "row" },
    button(one.id, [h("span", null, title(one)), h("small", null, when(one))], () => show(one),
      { class: "entry", "aria-current": one.id === state.conversation.id && "true" }),
    button(`delete-${one.id}`, "×", () => remove(one), { "aria-label": `Delete ${title(one)}` })));
  redraw(find("conversations"), rows.length ? rows
    : h("p", { class: "note" }, "Nothing yet. Conversations are kept in this browser only."));
}

function drawExport() {
  const every = [...kept().filter(one => one.id !== state.conversation.id), state.conversation];
  const offer = (name, label, rows) => button(name, [h("span", null, label),
    h("small", null, `${rows.length} line${rows.length === 1 ? "" : "s"}`)],
  () => { download(`${name}.jsonl`, rows); find("export").hidePopover(); }, { class: "entry", disabled: !rows.length });
  redraw(find("export"), offer("conversation", "This conversation", example(state.conversation)),
    offer("preferences", "Its preferences", preferences(state.conversation)),
    offer("conversations", "All conversations", every.flatMap(example)),
    offer("all-preferences", "All preferences", every.flatMap(preferences)),
    h("p", { class: "note" }, "Lines of JSON to train on: conversations for sft, preferences for dpo. ",
      "Prefer one of several answers to make a preference."));
}
