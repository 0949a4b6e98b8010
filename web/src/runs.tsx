// The list of earlier runs, newest first.
import { flat } from "./text";

export interface RunRow {
  id: string;
  status: "queued" | "running" | "done";
  created: number;
  prompt: string;
  answer: string | null;
  verified: boolean;
  reason: string;
}

interface RunsProps {
  rows: readonly RunRow[];
  chosen: string | null;
  onOpen(id: string): void;
  onNew(): void;
}

export function Runs({ rows, chosen, onOpen, onNew }: RunsProps) {
  return (
    <nav class="problems" aria-label="runs" data-testid="runs">
      <div class="problems-top"><button type="button" onClick={onNew} data-testid="new">new problem</button></div>
      <ul class="rows">
        {rows.map((row) => {
          const standing = row.status === "done" ? (row.verified ? "verified" : "unverified") : "running";
          return (
            <li key={row.id}>
              <button
                type="button" class={row.id === chosen ? "run-row chosen" : "run-row"} aria-current={row.id === chosen}
                onClick={() => onOpen(row.id)} data-testid="run-row" title={flat(row.reason ?? "", 200)}
              >
                <span class="problem-name"><bdi>{flat(row.prompt, 90)}</bdi></span>
                <span class={`o-${standing}`}>
                  {row.status === "done" ? (row.verified ? "✓ verified" : "✕ not verified") : `… ${row.status}`}
                  {row.answer !== null && <> · <bdi>{flat(row.answer, 40)}</bdi></>}
                </span>
              </button>
            </li>
          );
        })}
      </ul>
      {rows.length === 0 && <p class="hint pad">no run yet</p>}
    </nav>
  );
}
