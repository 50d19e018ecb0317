// The server: requests with their key, and streams of events.

import { recall } from "./kept.js";

/** The server says no, and why. */
export class Refusal extends Error {
  constructor(status, error) {
    super(error?.message ?? `the server answers ${status}`);
    this.status = status;
    this.code = error?.code ?? null;
  }
}

/** The server does not answer, or stopped in the middle. */
export class Dropped extends Error {}

/** Tells of keys that are missing or wrong: "key-wanted" and "admin-key-wanted". */
export const keys = new EventTarget();

/** A response, or an error that says what is wrong. */
async function sent(path, { method = "GET", body, headers = {}, signal } = {}) {
  const name = path.startsWith("/admin") ? "admin-key" : "key";
  const key = recall(name, "");
  const all = { ...headers };
  if (key) all.Authorization = `Bearer ${key}`;
  if (body !== undefined) all["Content-Type"] = "application/json";
  const response = await onTheWire(() => fetch(path, {
    method, headers: all, signal, body: body === undefined ? undefined : JSON.stringify(body),
  }));
  if (response.ok) return response;
  if (response.status === 401) keys.dispatchEvent(new Event(`${name}-wanted`));
  const told = await onTheWire(() => response.text());
  throw new Refusal(response.status, errorIn(told));
}

function errorIn(text) {
  try {
    return JSON.parse(text).error;
  } catch (error) {
    if (error instanceof SyntaxError) return null; // of a proxy, perhaps
    throw error;
  }
}

/** The browser's own errors say little and differ; one that was asked for (AbortError) stays what it is. */
async function onTheWire(work) {
  try {
    return await work();
  } catch (error) {
    if (error instanceof TypeError) throw new Dropped("the connection was lost");
    throw error;
  }
}

/** What the server says, as JSON. */
export async function request(path, how) {
  const response = await sent(path, how);
  return onTheWire(() => response.json());
}

/** What the server says piece by piece: the events of a stream, up to its proper end. */
export async function* events(path, body, signal) {
  const response = await sent(path, { method: "POST", body, signal });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await onTheWire(() => reader.read());
    if (done) throw new Dropped("the connection was lost");
    const [...whole] = (rest + value).split("\n\n");
    rest = whole.pop();
    for (const event of whole) {
      const data = event.replace(/^data: /, "");
      if (data === "[DONE]") return;
      const told = JSON.parse(data);
      if (told.error) throw new Refusal(500, told.error);
      yield told;
    }
  }
}
