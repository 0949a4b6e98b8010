// Where each node stands: a tidy tree from left to right. Pure; it knows no canvas.
import { type HierarchyNode, hierarchy, tree } from "d3-hierarchy";
import { type Problem, ROOT } from "./model";
import { flat, flatEnd } from "./text";
import type { TreeNode } from "./types";

export const COLUMN = 210;
const GAP = 7; // between two nodes above each other
const LINE = 15; // a label's height
const LEAF_ROOM = 58; // characters beside a leaf, where nothing follows
const INNER_ROOM = 22;

export interface Placed {
  id: string;
  node: TreeNode | null; // null: the root, which is the problem
  x: number;
  y: number;
  r: number;
  name: string;
  text: string;
  quiet: string;
  width: number; // of the label
  parent: Placed | null;
  place: number; // among those shown
}

export interface Layout {
  all: Placed[]; // parents before children
  byId: Map<string, Placed>;
  columns: Map<number, Placed[]>; // by x, from top to bottom
  left: number;
  right: number;
  top: number;
  bottom: number;
}

/** The area is as the tokens; the smallest can still be hit, and the largest stays within two lines. */
export const radius = (tokens: number, most: number): number => Math.max(4.5, 13 * Math.sqrt(tokens / most));

/** The number of tokens that the largest node stands for: it changes seldom while a tree grows. */
export function largest(problems: readonly Problem[]): number {
  let most = 64;
  for (const problem of problems) for (const node of problem.nodes.values()) while (node.tokens > most) most *= 2;
  return most;
}

const shortId = (id: string): string => (id.length <= 9 ? id : `…${id.slice(-8)}`);

/** What is written beside a node, in so many characters: its answer, then why it stands as it does. */
export function words(node: TreeNode, room: number): { name: string; text: string; quiet: string } {
  const name = shortId(node.id);
  const text = node.answer ? flat(node.answer, Math.max(2, Math.min(room - name.length, 30))) : "";
  const left = room - name.length - text.length - 2;
  const purpose = node.purpose && node.purpose !== "explore" ? `${flat(node.purpose, 14)}: ` : "";
  if (left < 6) return { name, text, quiet: "" };
  const rest = (!node.pending && flat(node.reason, left)) || flatEnd(node.tail, left);
  return { name, text, quiet: flat(purpose + rest, left) };
}

type Range = [number, number];

/** Where edges leave each column, from top to bottom: a label there has to end before the next column. */
function crossings(columns: Map<number, Placed[]>): Map<number, Range[]> {
  const found = new Map<number, Range[]>();
  for (const [x, column] of columns) {
    const byParent = new Map<Placed, Range>();
    for (const each of column) {
      if (!each.parent) continue;
      const range = byParent.get(each.parent);
      if (range) range[1] = each.y;
      else byParent.set(each.parent, [Math.min(each.y, each.parent.y), Math.max(each.y, each.parent.y)]);
    }
    found.set(x - COLUMN, [...byParent.values()]);
  }
  return found;
}

function free(ranges: readonly Range[] | undefined, y: number): boolean {
  if (!ranges) return true;
  let [low, high] = [0, ranges.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((ranges[middle] as Range)[1] + LINE < y) low = middle + 1;
    else high = middle;
  }
  const range = ranges[low];
  return !range || range[0] - LINE > y;
}

export function lay(problem: Problem, shown: ReadonlySet<string> | null, most: number, measure: (text: string) => number): Layout {
  const below = (id: string) => {
    const children = problem.below(id);
    return shown ? children.filter((child) => shown.has(child)) : children;
  };
  const root = hierarchy<string>(ROOT, below);
  const size = (node: HierarchyNode<string>) => {
    const own = problem.nodes.get(node.data);
    return Math.max(LINE, own ? 2 * radius(own.tokens, most) : 0) + GAP;
  };
  const placed = tree<string>()
    .nodeSize([1, COLUMN])
    .separation((a, b) => (size(a) + size(b)) / 2 + (a.parent === b.parent ? 0 : GAP))(root);
  const made: Layout = { all: [], byId: new Map(), columns: new Map(), left: 0, right: 0, top: 0, bottom: 0 };
  for (const at of placed.descendants()) {
    const node = problem.nodes.get(at.data) ?? null;
    const one: Placed = {
      id: at.data, node, x: at.y, y: at.x, r: node ? radius(node.tokens, most) : 7, name: "problem", text: "", quiet: "", width: 0,
      parent: at.parent ? (made.byId.get(at.parent.data) ?? null) : null, place: made.all.length,
    };
    made.all.push(one);
    made.byId.set(one.id, one);
    const column = made.columns.get(one.x);
    if (column) column.push(one);
    else made.columns.set(one.x, [one]);
    made.top = Math.min(made.top, one.y - one.r);
    made.bottom = Math.max(made.bottom, one.y + one.r);
  }
  for (const column of made.columns.values()) column.sort((a, b) => a.y - b.y);
  const edges = crossings(made.columns);
  for (const each of made.all) {
    const clear = free(edges.get(each.x), each.y) && free(edges.get(each.x + COLUMN), each.y);
    if (each.node) Object.assign(each, words(each.node, clear ? LEAF_ROOM : INNER_ROOM));
    each.width = measure([each.name, each.text, each.quiet].filter(Boolean).join("  ")) + 4;
    made.right = Math.max(made.right, each.x + each.r + each.width);
  }
  made.left = -8;
  return made;
}

/** The next node by an arrow key; the same where there is none. */
export function step(layout: Layout, from: string, key: "left" | "right" | "up" | "down", problem: Problem): string {
  const here = layout.byId.get(from);
  if (!here) return ROOT;
  if (key === "left") return here.parent?.id ?? from;
  if (key === "right") return problem.below(from).find((id) => layout.byId.has(id)) ?? from;
  const column = layout.columns.get(here.x) ?? [];
  const at = column.indexOf(here) + (key === "up" ? -1 : 1);
  return column[at]?.id ?? from;
}
