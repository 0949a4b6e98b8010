// The legend, which is also the filter by status; the filter by verdict; the search in texts.
import type { ComponentChildren } from "preact";
import { forwardRef } from "preact/compat";
import { type Filter, filtering, type Problem, shownStatus } from "./model";
import { GLYPHS, KIND_WORDS, KINDS, STATUS_WORDS, STATUSES, STROKES } from "./palette";
import { count, flat } from "./text";

interface LegendProps {
  problems: readonly Problem[];
  filter: Filter;
  onFilter(filter: Filter): void;
}

export function Legend({ problems, filter, onFilter }: LegendProps) {
  const counts = new Map<string, number>();
  for (const problem of problems) {
    for (const node of problem.nodes.values()) {
      const status = shownStatus(node);
      counts.set(status, (counts.get(status) ?? 0) + 1);
    }
  }
  const toggle = (status: string) => {
    const statuses = new Set(filter.statuses);
    if (!statuses.delete(status)) statuses.add(status);
    onFilter({ ...filter, statuses });
  };
  return (
    <footer class="legend" data-testid="legend">
      <div role="group" aria-label="status: filter">
        {STATUSES.filter((status) => counts.has(status) || filter.statuses.has(status)).map((status) => (
          <button
            key={status} type="button" class="chip" aria-pressed={filter.statuses.has(status)} title={STATUS_WORDS[status]}
            onClick={() => toggle(status)} data-testid={`status-${status}`}
          >
            <i class={`dot s-${status}`} aria-hidden="true">{GLYPHS[status]}</i>
            {status} {count(counts.get(status) ?? 0)}
          </button>
        ))}
      </div>
      <div class="kinds" aria-label="edges: how a branch was decoded" role="group">
        {KINDS.map((kind) => (
          <span key={kind} title={KIND_WORDS[kind]}>
            <svg width="30" height="8" aria-hidden="true">
              <line
                x1="1" x2="29" y1="4" y2="4" class={`k-${kind.replace("+", "-")}`} stroke-width={STROKES[kind].width}
                stroke-dasharray={STROKES[kind].dash.join(" ")} stroke-linecap={kind.includes("noisy") ? "round" : "butt"}
              />
            </svg>
            {kind}
          </span>
        ))}
        <span title="the area of a node is as its number of tokens">
          <svg width="22" height="10" aria-hidden="true" class="sizes"><circle cx="4" cy="5" r="2.5" /><circle cx="15" cy="5" r="4.5" /></svg>
          tokens
        </span>
      </div>
    </footer>
  );
}

interface SearchProps {
  problems: readonly Problem[];
  filter: Filter;
  found: number | null;
  whole: boolean; // texts are searched whole, not only their ends
  onFilter(filter: Filter): void;
  onNext(by: 1 | -1): void;
  children?: ComponentChildren;
}

export const SearchBar = forwardRef<HTMLInputElement, SearchProps>(function SearchBar(
  { problems, filter, found, whole, onFilter, onNext }, input,
) {
  const verifiers = new Set<string>();
  for (const problem of problems) for (const node of problem.nodes.values()) for (const name in node.verifiers) verifiers.add(name);
  const verdict = filter.verifier ? JSON.stringify([filter.verifier, filter.verdict]) : "";
  return (
    <div class="searching" role="search">
      <input
        ref={input} type="search" placeholder="search branches  /" aria-label={whole ? "search in the texts of the branches" : "search in answers, reasons and the ends of texts"}
        title={whole ? "in texts, answers, reasons, settings" : "in answers, reasons, settings and the ends of texts"}
        value={filter.query} onInput={(event) => onFilter({ ...filter, query: event.currentTarget.value })}
        onKeyDown={(event) => {
          if (event.key === "Enter") onNext(event.shiftKey ? -1 : 1);
        }}
        data-testid="search"
      />
      {verifiers.size > 0 && (
        <select
          aria-label="verdict" value={verdict} data-testid="verdict-filter"
          onChange={(event) => {
            const [verifier, of] = event.currentTarget.value ? (JSON.parse(event.currentTarget.value) as [string, string]) : ["", ""];
            onFilter({ ...filter, verifier, verdict: of });
          }}
        >
          <option value="">any verdict</option>
          {[...verifiers].map((name) =>
            ["", "accepted", "rejected", "abstained", "error"].map((status) => (
              <option key={`${name} ${status}`} value={JSON.stringify([name, status])}>
                {flat(name, 30)}: {status || "any"}
              </option>
            )),
          )}
        </select>
      )}
      {filtering(filter) && (
        <span class="found" role="status">
          <b data-testid="found">{count(found ?? 0)}</b> found
          <button type="button" onClick={() => onNext(-1)} aria-label="previous match" title="previous (N)">‹</button>
          <button type="button" onClick={() => onNext(1)} aria-label="next match" title="next (n)">›</button>
          <label title="leave out branches that do not match, but for those above a match">
            <input type="checkbox" checked={filter.only} onChange={(event) => onFilter({ ...filter, only: event.currentTarget.checked })} data-testid="only" />
            only these
          </label>
        </span>
      )}
    </div>
  );
});
