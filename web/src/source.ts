// Where a run's data comes from: the page's own file, or a server. Both give an index and the detail of a node.
import { type StreamState, stream } from "./sse";
import type { Run } from "./model";
import { type Detail, FORMAT, type Growing, type IndexData, type ProblemHead, type TreeNode } from "./types";

export interface Source {
  index(): Promise<IndexData>;
  detail(problem: string, node: string): Promise<Detail>;
  /** Call back for every node whose whole text holds the query; undefined where that can't be known. */
  search?(problem: string, query: string, signal: AbortSignal, hit: (node: string) => void): Promise<void>;
  /** Follow a run that goes on; returns how to stop. */
  watch?(run: Run, state: (now: StreamState) => void): () => void;
}

export class Refusal extends Error {
  constructor(
    readonly status: number, // 0: no answer came at all
    message: string,
    readonly retryAfter: number | null = null,
  ) {
    super(message);
  }
}

const checked = (data: unknown): IndexData => {
  const index = data as IndexData | null;
  if (index?.format !== FORMAT) throw new Error(`expected data of the format ${FORMAT}, found ${String(index?.format)}`);
  return index;
};

interface Chunk {
  from: number;
  count: number;
  element: Element;
}

const KEPT_CHUNKS = 8;

/** What the exporter put into the page's file: gzipped chunks of nodes, unpacked when one of them is opened. */
export class FileSource implements Source {
  private readonly chunks = new Map<number, Chunk[]>();
  private readonly unpacked = new Map<Element, Promise<Detail[]>>();
  private places: Map<string, [number, Map<string, number>]> | null = null;
  private data: IndexData | null = null;

  constructor(
    private readonly element: Element,
    side: "" | "-b",
  ) {
    for (const found of document.querySelectorAll(`script[data-led-details="${side || "-a"}"]`)) {
      const at = (name: string) => Number(found.getAttribute(`data-${name}`));
      const of = this.chunks.get(at("problem")) ?? [];
      of.push({ from: at("from"), count: at("count"), element: found });
      this.chunks.set(at("problem"), of);
    }
  }

  static find(side: "" | "-b"): FileSource | null {
    const element = document.getElementById(`led-index${side}`);
    return element ? new FileSource(element, side) : null;
  }

  async index(): Promise<IndexData> {
    this.data ??= checked(JSON.parse(this.element.textContent ?? ""));
    return this.data;
  }

  async detail(problem: string, node: string): Promise<Detail> {
    const [place, nodes] = await this.place(problem);
    const at = nodes.get(node) ?? -1;
    const chunk = this.chunks.get(place)?.find((each) => at >= each.from && at < each.from + each.count);
    const detail = chunk && (await this.unpack(chunk))[at - chunk.from];
    if (!detail) throw new Error("this file holds no more about this branch: it was still being decoded");
    return detail;
  }

  async search(problem: string, query: string, signal: AbortSignal, hit: (node: string) => void): Promise<void> {
    const wanted = query.toLowerCase();
    const [place] = await this.place(problem);
    for (const chunk of this.chunks.get(place) ?? []) {
      if (signal.aborted) return;
      for (const detail of await this.unpack(chunk)) {
        if (detail?.text.toLowerCase().includes(wanted)) hit(detail.id);
      }
    }
  }

  private async place(problem: string): Promise<[number, Map<string, number>]> {
    this.places ??= new Map(
      (await this.index()).problems.map((each, at) => [each.key, [at, new Map(each.nodes.map((n, k) => [n.id, k]))]]),
    );
    const found = this.places.get(problem);
    if (!found) throw new Error("this file has no such problem");
    return found;
  }

  private unpack(chunk: Chunk): Promise<Detail[]> {
    let found = this.unpacked.get(chunk.element);
    if (!found) {
      found = gunzip(chunk.element.textContent ?? "").then((text) => JSON.parse(text) as Detail[]);
      for (const oldest of this.unpacked.keys()) {
        if (this.unpacked.size < KEPT_CHUNKS) break;
        this.unpacked.delete(oldest);
      }
      this.unpacked.set(chunk.element, found);
    }
    return found;
  }
}

async function gunzip(base64: string): Promise<string> {
  const binary = atob(base64.trim());
  const bytes = new Uint8Array(binary.length);
  for (let at = 0; at < binary.length; at += 1) bytes[at] = binary.charCodeAt(at);
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
}

export type Key = () => string | null;

const said = async (answer: Response): Promise<string> => {
  try {
    const body = (await answer.json()) as { error?: { message?: string }; detail?: unknown };
    return body.error?.message ?? (typeof body.detail === "string" ? body.detail : answer.statusText);
  } catch {
    return answer.statusText;
  }
};

/** Ask the server that the page came from; every refusal is a Refusal that says why in words. */
export async function ask<T>(path: string, key: Key, given: RequestInit = {}): Promise<T> {
  const secret = key();
  const headers = new Headers(given.headers);
  if (secret) headers.set("Authorization", `Bearer ${secret}`);
  let answer: Response;
  try {
    answer = await fetch(path, { ...given, headers, cache: "no-store" });
  } catch (error) {
    if (given.signal?.aborted) throw error;
    throw new Refusal(0, "the server does not answer; is it still running?");
  }
  if (!answer.ok) {
    const wait = Number(answer.headers.get("Retry-After") ?? Number.NaN);
    throw new Refusal(answer.status, (await said(answer)) || `status ${answer.status}`, Number.isFinite(wait) ? wait : null);
  }
  const text = await answer.text();
  return (text ? JSON.parse(text) : null) as T;
}

/** A run on a server, under a base address of the page's own origin. */
export class ServerSource implements Source {
  constructor(
    private readonly base: string,
    private readonly key: Key = () => null,
  ) {}

  async index(): Promise<IndexData> {
    return checked(await ask(this.base, this.key));
  }

  detail(problem: string, node: string): Promise<Detail> {
    const of = new URLSearchParams({ problem, id: node });
    return ask(`${this.base}/node?${of}`, this.key);
  }

  watch(run: Run, state: (now: StreamState) => void): () => void {
    return stream(`${this.base}/events`, this.key, state, (event, data) => {
      if (event === "index") run.replace(checked(data));
      else if (event === "problem") run.problem(data as ProblemHead);
      else if (event === "node") {
        const { problem, node } = data as { problem: string; node: TreeNode };
        run.node(problem, node);
      } else if (event === "growing") run.grow(data as Growing);
      else if (event === "done") run.done();
    });
  }
}
