// Server-sent events by fetch and a reader: EventSource can't send an Authorization header.
import type { Key } from "./source";

export type StreamState =
  | { now: "connecting" }
  | { now: "live" }
  | { now: "done" }
  | { now: "waiting"; seconds: number; why: string }
  | { now: "refused"; status: number };

const LONGEST_WAIT = 15;

/** The events in a body of text/event-stream, as its specification says. */
export async function* events(body: ReadableStream<Uint8Array>): AsyncGenerator<[string, string]> {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  let event = "";
  let data: string[] = [];
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return; // what no empty line has ended is dropped
      rest += decoder.decode(value, { stream: true });
      const lines = rest.split(/\r\n|\n|\r(?!$)/u);
      rest = lines.pop() ?? "";
      for (const line of lines) {
        if (line === "") {
          if (data.length) yield [event || "message", data.join("\n")];
          event = "";
          data = [];
          continue;
        }
        const colon = line.indexOf(":");
        const field = colon < 0 ? line : line.slice(0, colon);
        const content = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /u, "");
        if (field === "data") data.push(content);
        else if (field === "event") event = content;
      }
    }
  } finally {
    reader.cancel().catch(() => undefined);
  }
}

/** Follow a stream until it says `done`, reconnecting with growing waits; returns how to stop. */
export function stream(
  path: string,
  key: Key,
  state: (now: StreamState) => void,
  on: (event: string, data: unknown) => void,
): () => void {
  const ending = new AbortController();
  let wait = 0.5;

  const once = async (): Promise<"done" | "refused" | string> => {
    const secret = key();
    const answer = await fetch(path, {
      headers: { Accept: "text/event-stream", ...(secret ? { Authorization: `Bearer ${secret}` } : {}) },
      signal: ending.signal,
      cache: "no-store",
    });
    if (answer.status === 401 || answer.status === 403 || answer.status === 404) {
      state({ now: "refused", status: answer.status });
      return "refused";
    }
    if (!answer.ok || !answer.body) return `the server said ${answer.status}`;
    state({ now: "live" });
    for await (const [event, data] of events(answer.body)) {
      wait = 0.5;
      on(event, JSON.parse(data));
      if (event === "done") return "done";
    }
    return "the connection ended";
  };

  const follow = async () => {
    state({ now: "connecting" });
    while (!ending.signal.aborted) {
      let why: string;
      try {
        why = await once();
      } catch (error) {
        if (ending.signal.aborted) return;
        why = error instanceof TypeError ? "the server does not answer" : String(error);
      }
      if (why === "refused") return;
      if (why === "done") return state({ now: "done" });
      const seconds = wait * (1 + Math.random() / 4);
      state({ now: "waiting", seconds: Math.ceil(seconds), why });
      wait = Math.min(LONGEST_WAIT, wait * 2);
      await new Promise((go) => {
        const timer = setTimeout(go, seconds * 1000);
        ending.signal.addEventListener("abort", () => (clearTimeout(timer), go(null)), { once: true });
      });
    }
  };
  void follow();
  return () => ending.abort();
}
