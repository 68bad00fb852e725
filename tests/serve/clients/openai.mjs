// What the openai package of npm makes of the server; prints one JSON object. Arguments: base URL, model.
import OpenAI from "openai";

const [baseURL, model] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey: "none", maxRetries: 0 });
const messages = [{ role: "system", content: "Be brief." }, { role: "user", content: "Hello there" }];
const asked = { model, messages, max_tokens: 12, temperature: 1, seed: 5 };

const models = [];
for await (const one of client.models.list()) models.push(one.id);

const whole = await client.chat.completions.create(asked);
const two = await client.chat.completions.create({ ...asked, n: 2, logprobs: true, top_logprobs: 2 });

let text = "", roles = [], usage = null, finishes = [];
const stream = await client.chat.completions.create({ ...asked, stream: true, stream_options: { include_usage: true } });
for await (const chunk of stream) {
  usage = chunk.usage ?? usage;
  for (const choice of chunk.choices) {
    text += choice.delta.content ?? "";
    if ("role" in choice.delta) roles.push(choice.delta.role);
    if (choice.finish_reason) finishes.push(choice.finish_reason);
  }
}

// the accumulating helper is stricter: it asserts one role, one id, an index and a finish for every choice
const gathered = await client.chat.completions.stream({ ...asked, n: 2 }).finalChatCompletion();

const scored = await client.completions.create({ model, prompt: "one two", max_tokens: 1, echo: true, logprobs: 1, temperature: 0 });
const floats = await client.embeddings.create({ model, input: ["one", "two"], encoding_format: "float" });
const packed = await client.embeddings.create({ model, input: ["one", "two"] });      // asks for base64 and unpacks it

let refused = null;
try {
  await client.chat.completions.create({ ...asked, tools: [{ type: "function", function: { name: "f" } }] });
} catch (error) {
  refused = { kind: error.constructor.name, status: error.status, param: error.param, code: error.code, id: !!error.requestID };
}

const early = await client.chat.completions.create({ ...asked, max_tokens: 60, stream: true });
for await (const chunk of early) if (chunk.choices[0]?.delta.content) break;           // leaves: the client aborts

console.log(JSON.stringify({
  models, whole: whole.choices[0], id: !!whole._request_id, two: two.choices, text, roles, usage, finishes,
  gathered: gathered.choices, scored: scored.choices[0], refused,
  embeddings: [floats, packed].map((answer) => answer.data.map((one) => one.embedding)),
}));
