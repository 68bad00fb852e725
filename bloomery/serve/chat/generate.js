// From a turn to its answers: what is asked of the server, and what comes back, chunk by chunk.

import { ask, stream } from "./api.js";
import { messages, text } from "./store.js";

const ALTERNATIVES = 5;

// An answer before it is written.  `stem` is how it has to begin: its text and its tokens.
export const blank = (model, seed, stem = { text: "", tokens: [] }) => ({
  model, seed, stem: stem.text, text: stem.text, tokens: [...stem.tokens],
  finish: null, error: null,                    // how it ended
  first: null, seconds: null, count: null,      // time to the first token, all time, tokens
  used: null, score: null,                      // tokens of context taken; what a reward model says
});

// A token is kept as [text, log-probability, [[text, log-probability], ...]], and its bytes where they are a part of a
// character: chat gives them beside the text, completions as the text "bytes:\xe2\x80".
function part(token, bytes) {
  if (token.includes("\ufffd")) return [bytes];
  if (!/^bytes:(\\x[0-9a-f]{2})+$/.test(token)) return [];
  return [token.split("\\x").slice(1).map(byte => parseInt(byte, 16))];
}
const chatTokens = ({ content }) => content.map(({ token, logprob, bytes, top_logprobs: others }) =>
  [token, logprob, others.map(other => [other.token, other.logprob]), ...part(token, bytes)]);
const textTokens = ({ tokens, token_logprobs: logps, top_logprobs: others }) => tokens.map((token, i) =>
  [token, logps[i], Object.entries(others?.[i] ?? {}).sort((a, b) => b[1] - a[1]), ...part(token)]);

// Where an answer is asked for, and how.  A model without a chat template continues the bare text.
function request(conversation, end, model, { stem, seed }, settings, odds) {
  const common = { model: model.id, ...settings, seed };
  if (conversation.kind === "chat" && model.kind === "chat") {
    const begun = stem ? { continue_final_message: true } : {};
    const shown = [...messages(conversation, end), ...(stem ? [{ role: "assistant", content: stem }] : [])];
    return ["v1/chat/completions", { ...common, messages: shown, ...begun,
      ...(odds && { logprobs: true, top_logprobs: ALTERNATIVES }) }];
  }
  const shown = conversation.kind === "text" ? text(conversation, end)
    : messages(conversation, end).map(message => message.content).join("\n\n");
  return ["v1/completions", { max_tokens: 128, ...common, prompt: shown + stem,
    ...(odds && { logprobs: ALTERNATIVES }) }];
}

function take(answer, choice) {
  const { logprobs } = choice;
  answer.text += choice.delta?.content ?? choice.message?.content ?? choice.text ?? "";
  if (logprobs) answer.tokens.push(...(logprobs.content ? chatTokens(logprobs) : textTokens(logprobs)));
  answer.finish = choice.finish_reason ?? answer.finish;
  answer.score = choice.score ?? answer.score;
}

// Streams one answer; resolves when it is whole, stopped or failed, and says which in `finish` and `error`.
export async function write(answer, conversation, end, model, { settings, odds, signal, changed }) {
  const [path, body] = request(conversation, end, model, answer, settings, odds);
  const begin = performance.now(), given = answer.tokens.length;
  answer.plain = conversation.kind === "chat" && path === "v1/completions";
  await guarded([answer], async () => {
    for await (const { choices: [choice], usage } of stream(path, body, signal)) {
      answer.seconds = (performance.now() - begin) / 1000;
      if (choice) take(answer, choice);
      if (answer.text !== answer.stem || answer.tokens.length > given) answer.first ??= answer.seconds;
      if (usage) Object.assign(answer, { count: usage.completion_tokens, used: usage.total_tokens });
      changed(answer);
    }
  });
}

// Asks for `answers.length` candidates at once; they come best first, each with its score.
export async function rank(answers, conversation, end, model, { settings, reward, odds, signal, changed }) {
  const n = answers.length, begin = performance.now();
  const [path, body] = request(conversation, end, model, answers[0], settings, odds);
  await guarded(answers, async () => {
    const { choices, usage, best_of: best } = await ask(path, { ...body, n, best_of: n, reward }, signal);
    const seconds = (performance.now() - begin) / 1000, bound = [best].flat()[0]?.kl_bound ?? null;
    answers.splice(choices.length);
    choices.forEach((choice, i) => {
      take(answers[i], choice);               // the usage is of all together: what each took is about its share
      const used = usage.prompt_tokens + Math.ceil(usage.completion_tokens / choices.length);
      Object.assign(answers[i], { seconds, bound, reward, used, count: answers[i].tokens.length || null });
    });
  });
  if (answers[0].error || answers[0].finish === "cancelled") answers.splice(1);         // said once
  answers.forEach(changed);
}

async function guarded(answers, work) {
  let finish = null, error = null;
  try {
    await work();
  } catch (failure) {
    const { name, message, code = null, status = 0 } = failure;
    finish = name === "AbortError" ? "cancelled" : "error";
    if (finish === "error") error = { message, code, status };
  }
  for (const answer of answers) Object.assign(answer, { finish: finish ?? answer.finish ?? "stop", error });
}
