// The tree as one sees and steers it: the canvas, its keys, a card for what is pointed at, buttons to zoom.
import { useEffect, useRef, useState } from "preact/hooks";
import { type Problem, ROOT, shownStatus } from "./model";
import { Scene } from "./scene";
import { flat, flatEnd, many, Said } from "./text";
import { onTheme } from "./theme";
import type { TreeNode } from "./types";

export interface TreeProps {
  problem: Problem;
  version: number; // of the problem: what makes this draw again
  matches: ReadonlySet<string> | null;
  only: boolean;
  selected: string | null;
  most: number; // tokens of the largest node, of all trees that are shown
  label: string;
  onSelect(id: string): void;
  onOpen(id: string): void;
}

declare global {
  interface HTMLCanvasElement {
    ledScene?: Scene; // for tests and measurements
  }
}

const ARROWS: Record<string, "left" | "right" | "up" | "down"> = {
  ArrowLeft: "left", ArrowRight: "right", ArrowUp: "up", ArrowDown: "down",
};

export function TreeCanvas({ problem, version, matches, only, selected, most, label, onSelect, onOpen }: TreeProps) {
  const canvas = useRef<HTMLCanvasElement>(null);
  const scene = useRef<Scene | null>(null);
  const [hover, setHover] = useState<{ id: string; x: number; y: number } | null>(null);
  const open = useRef(onOpen);
  open.current = onOpen;

  useEffect(() => {
    if (!canvas.current) return;
    const made = new Scene(canvas.current, { pick: (id) => open.current(id), hover: setHover });
    scene.current = canvas.current.ledScene = made;
    const forget = onTheme(() => made.recolour());
    return () => {
      forget();
      made.dispose();
    };
  }, []);
  useEffect(() => scene.current?.show(problem, matches, only, selected, most), [problem, version, matches, only, selected, most]);
  useEffect(() => {
    if (selected) scene.current?.reveal(selected);
  }, [selected]);

  const onKeyDown = (event: KeyboardEvent) => {
    const here = scene.current;
    if (!here || event.ctrlKey || event.metaKey || event.altKey) return;
    const arrow = ARROWS[event.key];
    if (arrow) onSelect(selected ? here.step(selected, arrow) : ROOT);
    else if (event.key === "Home") onSelect(ROOT);
    else if (event.key === "Enter" || event.key === " ") onOpen(selected ?? ROOT);
    else if (event.key === "+" || event.key === "=") here.by(1.3);
    else if (event.key === "-") here.by(1 / 1.3);
    else if (event.key === "0") here.fit();
    else return;
    event.preventDefault();
  };

  const over = hover && problem.nodes.get(hover.id);
  return (
    <div class="tree">
      <canvas
        ref={canvas} tabIndex={0} role="application" aria-roledescription="search tree" data-testid="tree"
        aria-label={`${label}: ${many(problem.nodes.size, "branch", "branches")}. Arrow keys move, Enter opens.`}
        onKeyDown={onKeyDown} onFocus={() => selected ?? onSelect(ROOT)}
      />
      <div class="zoom" role="group" aria-label="zoom">
        <button type="button" onClick={() => scene.current?.by(1.3)} aria-label="zoom in" title="zoom in (+)">+</button>
        <button type="button" onClick={() => scene.current?.by(1 / 1.3)} aria-label="zoom out" title="zoom out (-)">−</button>
        <button type="button" onClick={() => scene.current?.fit()} aria-label="fit the whole tree" title="fit (0)">fit</button>
      </div>
      {hover && over && <Card node={over} at={hover} />}
      {problem.nodes.size === 0 && <p class="empty">no branch has been asked for yet</p>}
      <p class="unseen" role="status" aria-live="polite" data-testid="described">
        {selected ? described(problem, selected) : ""}
      </p>
    </div>
  );
}

/** A node in words: what a screen reader says when it is selected. */
export function described(problem: Problem, id: string): string {
  const node = problem.nodes.get(id);
  const below = problem.below(id).length;
  if (!node) return `the problem: ${flat(problem.head.prompt, 120)}, ${many(below, "child", "children")}`;
  const parts = [
    `branch ${flat(id, 40)}`, shownStatus(node), many(node.tokens, "token"), node.kind,
    node.answer !== null ? `answer ${flat(node.answer, 60)}` : "",
    node.purpose !== "explore" ? flat(node.purpose, 40) : "",
    flat(node.reason, 120),
    below ? many(below, "child", "children") : "a leaf",
  ];
  return parts.filter(Boolean).join(", ");
}

function Card({ node, at }: { node: TreeNode; at: { x: number; y: number } }) {
  const status = shownStatus(node);
  return (
    <div class={at.y > 260 ? "card above" : "card"} aria-hidden="true" style={{ left: `max(0px, min(${at.x}px, 100% - 350px))`, top: `${at.y}px` }}>
      <b>{flat(node.id, 40)}</b> <span class={`badge s-${status}`}>{status}</span> {many(node.tokens, "token")}
      {node.explored > 0 && `, ${(node.explored * 100).toFixed(0)} % explored`}
      {node.rollbacks > 0 && `, ${many(node.rollbacks, "rollback")}`}
      <br />
      <span class="quiet">{flat(node.label, 60)}{node.purpose !== "explore" && ` · ${flat(node.purpose, 30)}`}</span>
      {node.answer !== null && <div>answer <Said text={node.answer} most={60} /></div>}
      {node.reason && <div><Said text={node.reason} most={110} /></div>}
      {node.tail && <div class="tail"><bdi>{flatEnd(node.tail, 80)}</bdi></div>}
    </div>
  );
}
