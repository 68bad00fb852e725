// What the AI SDK makes of the server; its schemas are strict about chunks. Prints one JSON object. Arguments: base URL, model.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { embedMany, generateText, streamText } from "ai";

const [baseURL, name] = process.argv.slice(2);
const provider = createOpenAICompatible({ name: "bloomery", baseURL, includeUsage: true });
const messages = [{ role: "user", content: "Hello there" }];
const asked = { model: provider(name), messages, maxOutputTokens: 12, temperature: 1, seed: 5, maxRetries: 0 };

const whole = await generateText(asked);

const parts = [], problems = [];
const stream = streamText({ ...asked, onError: ({ error }) => problems.push(String(error)) });
for await (const part of stream.textStream) parts.push(part);

const completed = await generateText({ model: provider.completionModel(name), prompt: "one two", maxOutputTokens: 4,
                                       temperature: 0, maxRetries: 0 });
const embedded = await embedMany({ model: provider.textEmbeddingModel(name), values: ["one", "two"], maxRetries: 0 });

let refused = null;
try {
  await generateText({ ...asked, temperature: 9 });
} catch (error) {
  refused = { status: error.statusCode, message: error.message, retry: error.isRetryable };
}

console.log(JSON.stringify({
  whole: whole.text, finish: whole.finishReason, usage: whole.usage, streamed: parts.join(""), problems,
  streamFinish: await stream.finishReason, streamUsage: await stream.usage, completed: completed.text,
  embeddings: embedded.embeddings, refused,
}));
