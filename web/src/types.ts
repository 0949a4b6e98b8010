// The data that the pages read, format "led_agent.page/1"; led_agent/pages/data.py makes it.

export const FORMAT = "led_agent.page/1";

export type Status = "accepted" | "rejected" | "open" | "expanded" | "pruned" | "failed";
export type VerdictStatus = "accepted" | "rejected" | "abstained" | "error";
export type Kind = "explored" | "noisy" | "explored+noisy" | "plain" | "conservative";

export interface Usage {
  generated_tokens: number;
  prefill_tokens: number;
  seconds: number;
  branches: number;
  verifier_calls: number;
}

export interface Confidence {
  answer: string;
  votes: number;
  of: number;
  share: number;
  entropy: number;
  logprob: number | null;
  probability: number;
  calibrated: boolean;
}

export interface Ended {
  status: "verified" | "exhausted" | "budget" | "interrupted" | "failed";
  reason: string;
  best: string | null;
  answer: string | null;
  verified: boolean;
  usage: Usage;
  confidence: Confidence | null;
}

export interface TreeNode {
  id: string;
  parent: string;
  status: Status;
  pending: boolean;
  tokens: number;
  label: string;
  kind: Kind;
  purpose: string;
  trigger: string;
  part: string;
  reason: string;
  answer: string | null;
  score: number | null;
  verifiers: Record<string, VerdictStatus>;
  explored: number;
  logprob: number | null;
  rollbacks: number;
  seconds: number;
  tail: string;
}

export interface Message {
  role: string;
  content: string;
}

export interface ProblemHead {
  key: string;
  prompt: string;
  messages: Message[] | null;
  model: string;
  seed: string; // 63 bits: more than a number holds
  decoding: string;
  reference: string | null;
  notes: string[];
  ended: Ended | null;
}

export interface ProblemData extends ProblemHead {
  nodes: TreeNode[];
}

export interface IndexData {
  format: string;
  title: string;
  live: boolean;
  problems: ProblemData[];
}

export interface Rollback {
  cause: string;
  measured: number;
  threshold: number;
  at: number;
  back_to: number;
  lasting: boolean;
}

export interface Verdict {
  verifier: string;
  status: VerdictStatus;
  score: number;
  reason: string;
  seconds: number;
  answer: string | null;
}

export interface Detail {
  id: string;
  text: string;
  before: string;
  finish: string;
  error: string | null;
  pieces: string[] | null;
  token_ids: number[];
  entropies: number[];
  explored: number[];
  noise: number[];
  logprobs: number[];
  final_logprobs: number[];
  span: string;
  rollbacks: Rollback[];
  notes: string[];
  verdicts: Verdict[];
  decoder: string;
  attempts: number;
  seed: string; // 63 bits: more than a number holds
  prompt: string | null;
  decoding: Record<string, unknown>;
}

export interface Growing {
  problem: string;
  id: string;
  tokens: number;
  tail: string;
}
