// A run as the pages hold it: problems and their trees, changed by events, and who wants to know of changes.
// It knows nothing of where the data comes from and nothing of how it is drawn.
import type { Growing, IndexData, ProblemData, ProblemHead, TreeNode } from "./types";

export const ROOT = "root";

export class Problem {
  readonly nodes = new Map<string, TreeNode>(); // in the order in which they were asked for
  readonly children = new Map<string, string[]>();
  version = 0; // of anything
  shape = 0; // of which nodes there are: what a layout depends on

  constructor(
    public head: ProblemHead,
    nodes: readonly TreeNode[] = [],
    readonly place = 0,
  ) {
    for (const node of nodes) this.put(node);
  }

  get key(): string {
    return this.head.key;
  }

  /** A new node, or one that has changed. One whose parent isn't there is refused. */
  put(node: TreeNode): void {
    const known = this.nodes.get(node.id);
    if (!known) {
      if (node.id === ROOT || (node.parent !== ROOT && !this.nodes.has(node.parent))) return;
      const beside = this.children.get(node.parent);
      if (beside) beside.push(node.id);
      else this.children.set(node.parent, [node.id]);
      this.shape += 1;
    }
    const fresh = known && node.pending && known.pending && known.tokens > node.tokens;
    this.nodes.set(node.id, fresh ? { ...node, tokens: known.tokens, tail: known.tail } : node);
    this.version += 1;
  }

  grow(told: Growing): void {
    const known = this.nodes.get(told.id);
    if (!known?.pending) return;
    this.nodes.set(told.id, { ...known, tokens: told.tokens, tail: told.tail });
    this.version += 1;
  }

  below(id: string): readonly string[] {
    return this.children.get(id) ?? [];
  }

  parent(id: string): string | null {
    return id === ROOT ? null : (this.nodes.get(id)?.parent ?? null);
  }

  depth(id: string): number {
    let found = 0;
    for (let at = this.parent(id); at !== null; at = this.parent(at)) found += 1;
    return found;
  }

  /** Tokens spent: what was told at the end, else what stands on the tree. */
  get tokens(): number {
    if (this.head.ended) return this.head.ended.usage.generated_tokens;
    let sum = 0;
    for (const node of this.nodes.values()) sum += node.tokens;
    return sum;
  }

  get outcome(): "verified" | "unverified" | "running" {
    if (!this.head.ended) return "running";
    return this.head.ended.verified ? "verified" : "unverified";
  }
}

export class Run {
  title = "";
  live = false;
  version = 0;
  readonly problems = new Map<string, Problem>();
  private readonly listeners = new Set<() => void>();
  private told = false;

  constructor(index?: IndexData) {
    if (index) this.replace(index);
  }

  /** Take over a whole index: what a file holds, or what a stream begins with after each reconnection. */
  replace(index: IndexData): void {
    this.title = index.title;
    this.live = index.live;
    const before = new Map(this.problems);
    this.problems.clear();
    for (const data of index.problems) {
      const { nodes, ...head } = data;
      const known = before.get(data.key);
      if (known && [...known.nodes.keys()].every((id, at) => nodes[at]?.id === id)) {
        known.head = head; // the same tree, grown further: it is kept, and with it layout and selection
        for (const node of nodes) known.put(node);
        known.version += 1;
        this.problems.set(data.key, known);
      } else {
        this.problems.set(data.key, new Problem(head, nodes, this.problems.size));
      }
    }
    this.changed();
  }

  problem(head: ProblemHead & { nodes?: ProblemData["nodes"] }): void {
    const { nodes, ...rest } = head;
    const known = this.problems.get(head.key);
    if (known) {
      known.head = rest;
      known.version += 1;
      for (const node of nodes ?? []) known.put(node);
    } else {
      this.problems.set(head.key, new Problem(rest, nodes ?? [], this.problems.size));
    }
    this.changed();
  }

  node(problem: string, node: TreeNode): void {
    this.problems.get(problem)?.put(node);
    this.changed();
  }

  grow(told: Growing): void {
    this.problems.get(told.problem)?.grow(told);
    this.changed();
  }

  done(): void {
    this.live = false;
    this.changed();
  }

  listen(listener: () => void): () => void {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  /** Many events may come at once: who listens is told once a frame. */
  private changed(): void {
    this.version += 1;
    if (this.told) return;
    this.told = true;
    setTimeout(() => {
      this.told = false;
      for (const listener of this.listeners) listener();
    }, 60);
  }
}

export interface Filter {
  statuses: ReadonlySet<string>; // empty: all
  verifier: string; // "": none asked for
  verdict: string; // "": any
  query: string;
  only: boolean; // leave out what doesn't match
}

export const NO_FILTER: Filter = { statuses: new Set(), verifier: "", verdict: "", query: "", only: false };

export const filtering = (filter: Filter): boolean =>
  filter.statuses.size > 0 || filter.verifier !== "" || filter.query.trim() !== "";

/** A node's status as it is shown: what is being decoded is none of the others. */
export const shownStatus = (node: TreeNode): string => (node.pending ? "pending" : node.status);

const searched = (node: TreeNode): string =>
  [node.id, node.answer ?? "", node.reason, node.label, node.purpose, node.trigger, node.tail].join("\n").toLowerCase();

/** The nodes that match; `hits` are those in whose whole text the query was found. Null: nothing is asked for. */
export function matching(problem: Problem, filter: Filter, hits: ReadonlySet<string>): Set<string> | null {
  if (!filtering(filter)) return null;
  const query = filter.query.trim().toLowerCase();
  const found = new Set<string>();
  for (const node of problem.nodes.values()) {
    if (filter.statuses.size && !filter.statuses.has(shownStatus(node))) continue;
    if (filter.verifier) {
      const said = node.verifiers[filter.verifier];
      if (said === undefined || (filter.verdict && said !== filter.verdict)) continue;
    }
    if (query && !hits.has(node.id) && !searched(node).includes(query)) continue;
    found.add(node.id);
  }
  return found;
}

/** Matches and what stands above them: what is laid out where the rest is left out. */
export function withAncestors(problem: Problem, matches: ReadonlySet<string>): Set<string> {
  const kept = new Set<string>();
  for (const id of matches) {
    for (let at: string | null = id; at !== null && at !== ROOT && !kept.has(at); at = problem.parent(at)) kept.add(at);
  }
  return kept;
}
