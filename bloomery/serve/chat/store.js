// What the browser keeps: settings, the draft, and every conversation under a key of its own, so that two tabs never
// undo each other.
//
//   conversation  { id, kind: "chat" | "text", system, turns, changed }
//   turn          { user, rounds, at }            regenerating adds a round; `at` is the one shown
//   round         { answers, pick, judged }       several where answers are compared; `pick` is gone on from
//   answer        what `blank` in generate.js makes

const PREFIX = "bloomery/";

export function load(name, otherwise) {
  try {
    return JSON.parse(localStorage.getItem(PREFIX + name)) ?? otherwise;
  } catch {
    return otherwise;
  }
}

// Whether it could be kept: the browser allows a few megabytes.
export function save(name, value) {
  try {
    localStorage.setItem(PREFIX + name, JSON.stringify(value));
    return true;
  } catch {
    return false;
  }
}

export const created = (kind, system = "") => ({ id: crypto.getRandomValues(new Uint32Array(2)).join("-"), kind, system,
  turns: [], changed: 0 });
export const round = turn => turn.rounds[turn.at];
export const picked = turn => turn && turn.rounds.length ? round(turn).answers[round(turn).pick] : undefined;
export const discard = id => localStorage.removeItem(`${PREFIX}conversation/${id}`);

export function title(conversation) {
  const first = conversation.turns.map(turn => turn.user).find(text => text.trim());
  return first?.trim().slice(0, 80) || "Untitled";
}

// Token probabilities are the bulk of a conversation: they go first when there is no room.
export function keep(conversation) {
  const name = `conversation/${conversation.id}`, bare = (part, value) => part === "tokens" ? [] : value;
  return !conversation.turns.length || save(name, conversation) ||
    save(name, JSON.parse(JSON.stringify(conversation, bare)));
}

// All conversations, the latest first.
export function kept() {
  const names = Object.keys(localStorage).filter(name => name.startsWith(`${PREFIX}conversation/`));
  const found = names.map(name => load(name.slice(PREFIX.length), null)).filter(one => Array.isArray(one?.turns));
  return found.sort((a, b) => b.changed - a.changed);
}

// An answer whose page was closed while it came is what there is of it.
export function opened(conversation) {
  for (const answer of conversation.turns.flatMap(turn => turn.rounds.flatMap(one => one.answers)))
    if (!answer.finish && !answer.error) answer.finish = "interrupted";
  return conversation;
}

const said = answer => Boolean(answer?.text.trim()) && !answer.error;
const message = (role, content) => ({ role, content });

// What a model is shown at turn `end`, its question included: messages, or one text.  Unanswered turns are left out.
export function messages({ system, turns }, end) {
  const before = turns.slice(0, end).filter(turn => said(picked(turn)));
  return [...(system.trim() ? [message("system", system)] : []),
    ...before.flatMap(turn => [message("user", turn.user), message("assistant", picked(turn).text)]),
    message("user", turns[end].user)];
}
export const text = ({ turns }, end) =>
  turns.slice(0, end).map(turn => turn.user + (picked(turn)?.text ?? "")).join("") + turns[end].user;

// One line of JSON a conversation, as `sft` reads it; a text is a document, as `pretrain` reads it.
export function example(conversation) {
  const end = conversation.turns.findLastIndex(turn => said(picked(turn)));
  if (end < 0) return [];
  const last = picked(conversation.turns[end]).text;
  return conversation.kind === "text" ? [{ text: text(conversation, end) + last }]
    : [{ messages: [...messages(conversation, end), message("assistant", last)] }];
}

// One line a pair, as `dpo` reads it: what was preferred by hand, against each other answer to the same prompt.
export function preferences(conversation) {
  const pairs = (one, prompt) => {
    const chosen = one.answers[one.pick];
    const others = one.answers.filter(answer => said(answer) && answer.text !== chosen.text);
    return said(chosen) ? others.map(answer => ({ prompt, chosen: chosen.text, rejected: answer.text })) : [];
  };
  const prompt = end => conversation.kind === "chat" ? messages(conversation, end)
    : [message("user", text(conversation, end))];
  return conversation.turns.flatMap((turn, end) =>
    turn.rounds.filter(one => one.judged).flatMap(one => pairs(one, prompt(end))));
}

export function download(name, rows) {
  const lines = new Blob(rows.map(row => `${JSON.stringify(row)}\n`), { type: "application/jsonl" });
  const address = URL.createObjectURL(lines);
  Object.assign(document.createElement("a"), { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}
