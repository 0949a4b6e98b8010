// The colours of a tree, as the style sheet has them: one place for both canvas and page.
import type { Kind, Status } from "./types";

export const STATUSES: readonly (Status | "pending")[] = [
  "accepted", "rejected", "open", "expanded", "pruned", "failed", "pending",
];
export const STATUS_WORDS: Record<string, string> = {
  accepted: "a verifier accepted it",
  rejected: "a verifier rejected it",
  open: "ended, without a verdict that decides",
  expanded: "continued by its children",
  pruned: "given up by the search",
  failed: "decoding failed",
  pending: "still being decoded",
};
// What is drawn inside a node, so that its status doesn't hang on its colour.
export const GLYPHS: Record<string, string> = {
  accepted: "✓", rejected: "✕", open: "?", expanded: "", pruned: "–", failed: "!", pending: "…",
};
export const KINDS: readonly Kind[] = ["explored", "noisy", "explored+noisy", "plain", "conservative"];
export const KIND_WORDS: Record<Kind, string> = {
  explored: "tokens drawn from shallower posteriors",
  noisy: "noise in latent space",
  "explored+noisy": "both",
  plain: "sampled from the final posterior",
  conservative: "greedy, or a rung of the ladder below exploring",
};
export const STROKES: Record<Kind, { width: number; dash: number[] }> = {
  explored: { width: 2.2, dash: [] },
  noisy: { width: 2.2, dash: [1.5, 4] },
  "explored+noisy": { width: 2.2, dash: [9, 4, 1.5, 4] },
  plain: { width: 1, dash: [] },
  conservative: { width: 1.4, dash: [7, 4] },
};

export interface Palette {
  text: string;
  muted: string;
  surface: string;
  accent: string;
  match: string;
  status: Record<string, string>;
  kind: Record<string, string>;
}

export function palette(): Palette {
  const style = getComputedStyle(document.documentElement);
  const of = (name: string) => style.getPropertyValue(`--${name}`).trim();
  return {
    text: of("text"), muted: of("muted"), surface: of("ground"), accent: of("accent"), match: of("match"),
    status: Object.fromEntries(STATUSES.map((each) => [each, of(`s-${each}`)])),
    kind: Object.fromEntries(KINDS.map((each) => [each, of(`k-${each.replace("+", "-")}`)])),
  };
}
