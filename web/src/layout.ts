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

export function words(node: TreeNode, leaf: boolean): { name: string; text: string; quiet: string } {
  const room = (leaf ? LEAF_ROOM : INNER_ROOM) - Math.min(9, node.id.length);
  const answer = node.answer ? flat(node.answer, Math.min(room, 30)) : "";
  const purpose = node.purpose !== "explore" && node.purpose ? `${node.purpose}` : "";
  const text = [answer, purpose && `(${flat(purpose, 14)})`].filter(Boolean).join(" ").slice(0, room);
  const left = room - text.length - 2;
  const rest = node.pending ? flatEnd(node.tail, Math.max(left, 2)) : flat(node.reason, Math.max(left, 2)) || flatEnd(node.tail, Math.max(left, 2));
  return { name: shortId(node.id), text, quiet: left > 7 ? rest : "" };
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
    const told = node ? words(node, !at.children) : { name: "problem", text: "", quiet: "" };
    const one: Placed = {
      id: at.data, node, x: at.y, y: at.x, r: node ? radius(node.tokens, most) : 7, ...told,
      width: measure([told.name, told.text, told.quiet].filter(Boolean).join("  ")) + 4,
      parent: at.parent ? (made.byId.get(at.parent.data) ?? null) : null,
      place: made.all.length,
    };
    made.all.push(one);
    made.byId.set(one.id, one);
    const column = made.columns.get(one.x);
    if (column) column.push(one);
    else made.columns.set(one.x, [one]);
    made.right = Math.max(made.right, one.x + one.r + one.width);
    made.top = Math.min(made.top, one.y - one.r);
    made.bottom = Math.max(made.bottom, one.y + one.r);
  }
  for (const column of made.columns.values()) column.sort((a, b) => a.y - b.y);
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
