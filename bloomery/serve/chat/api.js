// The server's HTTP interface as the page uses it: JSON, and streams of server-sent events.

export class ApiError extends Error {
  constructor(message, { status = 0, code = null } = {}) {
    super(message);
    Object.assign(this, { status, code });
  }
}

// The key of a server that asks for one lives as long as the tab: never in localStorage, never in an address.
export const key = {
  get: () => sessionStorage.getItem("bloomery/key") ?? "",
  set: value => sessionStorage.setItem("bloomery/key", value),
};

async function send(path, body, signal) {
  const headers = key.get() ? { Authorization: `Bearer ${key.get()}` } : {};
  if (body) headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(path, { headers, signal, ...(body && { method: "POST", body: JSON.stringify(body) }) });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The server does not answer.");
  }
  if (response.ok) return response;
  const { error } = await response.json().catch(() => ({}));
  const words = error?.message ?? `The server answered ${response.status}.`;
  throw new ApiError(words, { status: response.status, code: error?.code });
}

export const ask = async (path, body, signal) => (await send(path, body, signal)).json();
export const models = async () => (await ask("v1/models")).data;
export const reload = id => ask(`v1/models/${encodeURIComponent(id)}/reload`, {});

// Whether the server says that it is well; null while nothing answers.
export async function health() {
  try {
    return (await fetch("health", { signal: AbortSignal.timeout(5000), cache: "no-store" })).ok;
  } catch {
    return null;
  }
}

const dataOf = event => event.split(/\r?\n/).filter(line => line.startsWith("data:"))
  .map(line => line.slice(5).trimStart()).join("\n");

// The chunks of a streamed answer.  Events may be cut anywhere, also between the bytes of one character.
export async function* stream(path, body, signal) {
  const response = await send(path, { ...body, stream: true, stream_options: { include_usage: true } }, signal);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { value, done } = await reader.read().catch(error => {
      if (error.name === "AbortError") throw error;
      return { done: true };
    });
    if (done) throw new ApiError("The answer broke off: the server went away.");
    held += value;
    const events = held.split(/\r?\n\r?\n/);
    held = events.pop();
    for (const data of events.map(dataOf).filter(Boolean)) {
      if (data === "[DONE]") return;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new ApiError(chunk.error.message, { status: 500, code: chunk.error.code });
      yield chunk;
    }
  }
}
