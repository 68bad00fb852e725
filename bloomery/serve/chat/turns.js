// How a turn looks: what was asked, and the answers, alone or side by side.

import { button, describe, grow, h, listed, signed } from "./dom.js";
import { markdown } from "./markdown.js";
import { round } from "./store.js";
import { showTokens } from "./tokens.js";

const ENDS = { length: "cut at the limit", cancelled: "stopped", interrupted: "interrupted", error: "failed" };
const HINTS = { context_length_exceeded: "Start anew, or edit an earlier message." };
const bodies = new WeakMap();                   // answer -> what is redrawn while it is written

// ---- an answer

const ofSeed = ({ seed }) => seed !== null && `seed ${seed}`;

function facts(answer, several) {
  const { model, count, seconds, first, finish, error, plain } = answer;
  const rate = count > 1 && first !== null && seconds > first && (count - 1) / (seconds - first);
  return listed(!several && model, count && `${count} tokens`, rate && `${rate.toFixed(rate < 10 ? 1 : 0)} tokens/s`,
    first !== null && `first after ${first < 1 ? `${Math.round(first * 1000)} ms` : `${first.toFixed(1)} s`}`,
    plain && "as plain text", !several && ofSeed(answer), !error && ENDS[finish]);
}

// What answers side by side have in common is said once, below them.
function shared(answer) {
  const { seconds, bound, reward, score } = answer, judge = reward === "logp" ? "their own probability" : reward;
  return listed(score !== null && `scored by ${judge}`, score !== null && seconds && `${seconds.toFixed(1)} s`,
    ofSeed(answer), bound != null && `KL ≤ ${bound.toFixed(2)} nats`, "the conversation goes on from the framed one");
}

// Brings what is shown of an answer up to date; cheap enough for every frame.
export function refresh(answer) {
  const shown = bodies.get(answer);
  if (!shown) return;
  const { body, note, plain, several, branch } = shown, odds = shown.odds && answer.tokens.length > 0;
  if (odds) showTokens(body, answer.tokens, branch);
  else if (plain) body.textContent = answer.text;
  else markdown(body, answer.text);
  body.classList.toggle("plain", plain || odds);
  body.classList.toggle("writing", !answer.finish);
  note.textContent = answer.finish || answer.first !== null ? facts(answer, several) : "…";
}

function drawAnswer(turn, index, at, { last, busy, odds, plain, actions }) {
  const { answers, pick, judged } = round(turn), answer = answers[at], several = answers.length > 1;
  const here = last && !busy, branch = here && ((i, text) => actions.branch(index, at, i, text));
  const body = h("div", { class: "text", dir: "auto" }), note = h("p", { class: "note facts" });
  const name = several ? `Answer ${at + 1} of ${answers.length}, ${answer.model}` : `Answer of ${answer.model}`;
  bodies.set(answer, { body, note, odds, plain, several, branch });
  refresh(answer);
  const mend = () => editor(body, { text: answer.text, label: "Edit this answer", done: "Keep as a version",
    plain: true, save: text => actions.rewrite(index, at, text), cancel: actions.draw });
  const preferred = at === pick && Boolean(judged);
  return h("section", { class: several && at === pick ? "answer pick" : "answer", "aria-label": name },
    several && h("h3", null, answer.score === null ? answer.model : `${at + 1}`, " ", score(answer)),
    body, failure(answer, here && (() => actions.again(index))),
    h("div", { class: "under" }, note, h("div", { class: "acts" },
      several && here && button(`pick-${at}`, preferred ? "Preferred" : "Prefer", () => actions.prefer(index, at),
        { "aria-pressed": String(preferred) }),
      here && answer.text && button(`edit-answer-${at}`, "Edit", mend),
      answer.finish && answer.text && button(`copy-${at}`, "Copy", event => actions.copy(answer.text, event.target)),
      !several && here && versions(turn, index, actions))));
}

function score({ score, reward }) {
  if (score === null) return false;
  const own = reward === "logp";
  return h("span", { class: "tag", title: own ? "the model's own log-probability" : `by ${reward}` },
    `${own ? "log p" : "score"} ${signed(score, 3)}`);
}

function failure({ error }, again) {
  if (!error) return false;
  return h("p", { class: "warns" }, error.message.replace(/[.!?]?$/, end => end || "."), " ", HINTS[error.code], " ",
    again && button("retry", "Try again", again));
}

const versions = (turn, index, { merge, page, again }) => [
  turn.rounds.length > 1 && button("merge", "Side by side", () => merge(index)),
  turn.rounds.length > 1 && h("span", { class: "pager", role: "group", "aria-label": "Versions" },
    button("back", "‹", () => page(index, turn.at - 1), { disabled: turn.at === 0, "aria-label": "Version before" }),
    `${turn.at + 1} / ${turn.rounds.length}`,
    button("forth", "›", () => page(index, turn.at + 1),
      { disabled: turn.at === turn.rounds.length - 1, "aria-label": "Version after" })),
  button("again", "Regenerate", () => again(index))];

// ---- what was asked

// Enter, in plain text Ctrl + Enter: that is how a message ends.
export const sends = (event, plain) => event.key === "Enter" && !event.isComposing &&
  (plain ? event.ctrlKey || event.metaKey : !event.shiftKey);

function editor(box, { text, label, done, plain, save, cancel }) {
  const area = h("textarea", { value: text, rows: 1, "aria-label": label, oninput: () => grow(area) });
  area.addEventListener("keydown", event => {
    if (event.key === "Escape") { event.stopPropagation(); cancel(); }
    if (sends(event, plain)) { event.preventDefault(); save(area.value); }
  });
  box.replaceChildren(h("div", { class: "editing" }, area, h("div", { class: "acts" },
    button("done", done, () => save(area.value), { class: "act strong" }), button("cancel", "Cancel", cancel))));
  grow(area);
  area.focus();
  area.setSelectionRange(area.value.length, area.value.length);
}

function drawUser(turn, index, { busy, plain, actions }) {
  const box = h("div", { class: "user" }), label = "Edit and start again from here";
  const show = () => box.replaceChildren(
    h("div", { class: "said", dir: "auto", onclick: () => !busy && getSelection().isCollapsed && edit() }, turn.user),
    button(`edit-${index}`, "Edit", edit, { class: "act edit", disabled: busy, "aria-label": label }));
  const cancel = () => { show(); box.querySelector(".edit").focus(); };
  const edit = () => editor(box, { text: turn.user, label, done: "Start again from here", plain,
    save: text => actions.edit(index, text), cancel });
  show();
  return box;
}

// ---- a turn

// Only the last can be asked again, paged or judged: what came after an earlier one rests on it.
export function drawTurn(conversation, index, view) {
  const turn = conversation.turns[index], last = index === conversation.turns.length - 1;
  const seen = { ...view, last, plain: conversation.kind === "text" };
  if (!turn.rounds.length) return h("article", { class: "turn" }, drawUser(turn, index, seen));
  const { answers, pick } = round(turn), wide = answers.length > 1 && (last || !seen.plain);
  const shown = answers.length > 1 && !wide ? [pick] : [...answers.keys()];
  return h("article", { class: `turn${last ? " last" : ""}${wide ? " wide" : ""}` },
    drawUser(turn, index, seen),
    h("div", { class: "answers" }, shown.map(at => drawAnswer(turn, index, at, seen))),
    wide && last && !view.busy && h("div", { class: "under" }, h("p", { class: "note facts" }, shared(answers[pick])),
      h("div", { class: "acts" }, versions(turn, index, view.actions))));
}

const DOUBT = ["Probabilities", "tints each token by the doubt it was written with and shows what else it might be."];
const WELCOME = {
  chat: { sentence: "What would you like to ask?", hints: [
    ["Compare", "asks up to four models the same thing with the same seed."],
    ["Best of", "draws candidates and puts the one a reward model likes best first."], DOUBT,
    ["Prefer", "an answer, or edit one: Save makes lines to train on of what you said and chose."]] },
  text: { sentence: "Write a beginning.", hints: [
    ["Text", "is continued as it stands, without a chat template: what a base model was trained for."], DOUBT,
    ["Ctrl + Enter", "continues. Click any passage to change it and go on from there."]] },
};

export function welcome(kind, model) {
  const { sentence, hints } = WELCOME[kind];
  return h("div", { class: "welcome" }, h("p", { class: "sentence" }, sentence),
    h("p", { class: "note lead" }, model ? listed(model.id, describe(model)) : "Looking for a model …"),
    h("dl", null, hints.map(([name, what]) => h("div", null, h("dt", null, name), " ", h("dd", null, what)))));
}
