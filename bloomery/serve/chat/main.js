// The chat page: what is asked, what becomes of it, and what the keys and buttons do.

import { sampling } from "./controls.js";
import { find, grow, grouped, h, icon, redraw, say, toast } from "./dom.js";
import { blank, rank, write } from "./generate.js";
import { drawModels, drawPanel, listen, tune } from "./menus.js";
import { askForKey, greet, watch } from "./server.js";
import { changed, chosen, judge, served, state, stop, store } from "./state.js";
import { created, keep, load, picked, round, title } from "./store.js";
import { hide, spelled } from "./tokens.js";
import { drawTurn, refresh, sends, welcome } from "./turns.js";

const draft = find("draft"), scroll = find("scroll");

// ---- asking

// A fixed seed counts up with every new round, so that regenerating shows something else and can still be repeated.
const seedOf = turn => state.settings.seed === null ? Math.floor(Math.random() * 2 ** 31)
  : state.settings.seed + turn.rounds.length;

// A new round of answers to a turn: of each chosen model, or several of one, or one that begins with a given `stem`.
async function answer(index, from = null) {
  const { conversation, settings } = state, turn = conversation.turns[index], asked = from ? [from.model] : chosen();
  if (!asked.length || state.running) return;
  const seed = seedOf(turn), many = asked.length === 1 && settings.best > 1 && !from;
  const writers = many ? Array(settings.best).fill(asked[0]) : asked;
  const answers = writers.map(model => blank(model.id, seed, from?.stem));
  turn.at = turn.rounds.push({ answers, pick: 0, judged: false }) - 1;
  const running = state.running = new AbortController();
  draw();
  down();
  say("Answering.");
  const { odds } = settings, { signal } = running;
  const how = { settings: sampling(settings), reward: judge(), odds, signal, changed: follow };
  await (many ? rank(answers, conversation, index, asked[0], how)
    : Promise.all(answers.map((one, i) => write(one, conversation, index, writers[i], how))));
  if (state.running === running) state.running = null;
  conversation.changed = Date.now();
  keep(conversation);
  if (state.conversation === conversation) answered(answers);
}

function answered(answers) {
  const low = atBottom();
  draw();
  if (low) down();
  say(answers.map(({ model, text, error }) => `${model}: ${error ? error.message : text}`).join(" "));
  if (answers.some(one => one.error?.status === 0)) watch();
  if (answers.some(one => one.error?.status === 401)) askForKey();
}

const waiting = new Set();

// Chunks come faster than the screen is drawn: answers are brought up to date once a frame.
function follow(answer) {
  if (waiting.add(answer).size > 1) return;
  requestAnimationFrame(() => {
    const low = atBottom();
    waiting.forEach(refresh);
    waiting.clear();
    if (low) down();
    changed();
  });
}

function submit() {
  const { conversation, running } = state, text = conversation.kind === "text";
  const words = text ? draft.value : draft.value.trim(), goesOn = text && conversation.turns.length > 0;
  if (words === "/clear") { empty(); start(); }
  if (running || !chosen().length || words === "/clear" || !(words || goesOn)) return;
  empty();
  conversation.turns.push({ user: words, rounds: [], at: 0 });
  conversation.changed = Date.now();
  store();
  answer(conversation.turns.length - 1);
}

function empty() {
  draft.value = "";
  grow(draft);
}

function open(conversation) {
  state.conversation = conversation;
  draw();
  down();
}

function start(kind = state.conversation.kind) {
  stop();
  store();
  open(created(kind, state.conversation.system));
  draft.focus();
}

const actions = {
  draw: () => draw(),
  again: index => answer(index),
  page(index, at) { state.conversation.turns[index].at = at; draw(); changed(); },
  prefer(index, pick) {
    Object.assign(round(state.conversation.turns[index]), { pick, judged: true });
    draw();
    changed();
    say("Preferred.");
  },
  // All versions become answers of one round.
  merge(index) {
    const turn = state.conversation.turns[index], all = turn.rounds.flatMap(one => one.answers);
    turn.rounds = [{ answers: all, pick: all.indexOf(picked(turn)), judged: false }];
    turn.at = 0;
    draw();
    changed();
  },
  edit(index, user) {
    if (!user.trim() || state.running) return;
    const before = structuredClone(state.conversation);
    state.conversation.turns.splice(index, Infinity, { user, rounds: [], at: 0 });
    answer(index);
    toast("Started again from here.", () => { stop(); open(before); changed(); draft.focus(); });
    draft.focus();
  },
  // What was mended by hand is one more version: beside the first it makes a preference.
  rewrite(index, at, text) {
    const turn = state.conversation.turns[index], { model, text: before, used } = round(turn).answers[at];
    if (text.trim() && text !== before) {
      const mended = { ...blank(`${model.replace(/, edited$/, "")}, edited`, null), text, used, finish: "stop" };
      turn.at = turn.rounds.push({ answers: [mended], pick: 0, judged: false }) - 1;
      changed();
    }
    draw();
    draft.focus();
  },
  // Another token in the place of token i, and on from there.
  branch(index, at, i, text) {
    const { tokens, model } = round(state.conversation.turns[index]).answers[at], others = tokens[i][2];
    const begin = tokens.slice(0, i), taken = [text, others.find(other => other[0] === text)[1], others];
    const stem = { text: spelled(begin) + text, tokens: [...begin, taken] };
    if (!served(model)) toast(`${model} is not served any more.`);
    else if (!stem.text.trim()) toast("An answer does not begin with an empty line.");
    else answer(index, { model: served(model), stem });
  },
  async copy(text, button) {
    const copied = navigator.clipboard?.writeText(text).then(() => "Copied", () => null);     // absent over plain http
    button.textContent = await copied ?? "Not allowed";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  },
};

// ---- drawing

const atBottom = () => scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < 60;
const down = () => { scroll.scrollTop = scroll.scrollHeight; };

function draw() {
  const { conversation, settings } = state, { kind, turns } = conversation, busy = Boolean(state.running);
  const view = { busy, odds: settings.odds, actions };
  hide();
  redraw(find("turns"), turns.length ? turns.map((_, i) => drawTurn(conversation, i, view))
    : welcome(kind, chosen()[0]));
  find("turns").className = kind;
  document.title = turns.length ? `${title(conversation)} · bloomery` : "bloomery";
  document.body.classList.toggle("several", chosen().length > 1);
  drawComposer(busy, kind === "text");
  drawModels(draw);
  if (!find("panel").hidden && !find("panel").querySelector(":is(input, textarea):focus")) drawPanel(draw);
}

function drawComposer(busy, text) {
  const { conversation: { kind, turns }, settings } = state, send = find("send");
  draft.placeholder = !text ? "Ask something" : turns.length ? "Add text, or just continue" : "Write a beginning";
  send.setAttribute("aria-label", busy ? "Stop" : text ? "Continue" : "Send");
  send.title = busy ? "Stop (Esc)" : text ? "Continue (Ctrl + Enter)" : "Send (Enter); a new line with Shift + Enter";
  send.disabled = !busy && !chosen().length;
  send.replaceChildren(icon(busy ? "stop" : "send"));
  find("odds").setAttribute("aria-pressed", settings.odds);
  for (const one of find("kind").children) one.setAttribute("aria-pressed", one.value === kind);
  find("best").value = settings.best;
  find("best").disabled = chosen().length > 1;
  const context = chosen()[0]?.context, used = picked(turns.at(-1))?.used;
  find("room").textContent = context && used ? `${grouped(Math.min(used, context))} of ${grouped(context)} tokens` : "";
}

// ---- keys and buttons

const on = (id, kind, act) => find(id).addEventListener(kind, act);

on("composer", "submit", event => { event.preventDefault(); if (state.running) stop(); else submit(); });
on("draft", "input", () => { grow(draft); changed(); });
on("draft", "keydown", event => {
  const { turns, kind } = state.conversation;
  if (sends(event, kind === "text")) { event.preventDefault(); submit(); }
  if (event.key === "ArrowUp" && !draft.value && turns.length && !state.running) {
    event.preventDefault();
    find("turns").querySelector(".turn:last-child .edit").click();
  }
});
addEventListener("keydown", event => {
  if (event.key !== "Escape" || document.querySelector(".menu:popover-open")) return;
  if (state.running) stop(); else if (find("panel").contains(document.activeElement)) tune(false, draw);
});
on("new", "click", () => start());
on("tune", "click", () => tune(find("panel").hidden, draw));
on("odds", "click", () => { state.settings.odds = !state.settings.odds; draw(); changed(); });
on("best", "change", () => { state.settings.best = Number(find("best").value); changed(); });
on("kind", "click", ({ target: { value: kind } }) => {
  if (!kind || kind === state.conversation.kind || state.running) return;
  if (state.conversation.turns.length) start(kind); else { state.conversation.kind = kind; draw(); changed(); }
});
scroll.addEventListener("scroll", () => { find("latest").hidden = atBottom(); }, { passive: true });
on("latest", "click", () => { down(); draft.focus(); });
listen(open);

find("best").append(...[1, 2, 4, 8, 16].map(n => h("option", { value: n }, n === 1 ? "1 answer" : `Best of ${n}`)));
draft.value = load("draft", "");
draw();
grow(draft);
down();
draft.focus();
greet(draw);
watch();
