// The list of problems with what came of each, of one run or of two side by side. Only the rows in sight are made.
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import type { Problem, Run } from "./model";
import { count, flat } from "./text";

const ROW = 46; // pixels, as in the style sheet
const OVER = 6; // rows made beyond what is in sight

const MARKS = { verified: "✓", unverified: "✕", running: "…" } as const;
const WORDS = { verified: "verified", unverified: "not verified", running: "running" } as const;

interface Entry {
  key: string;
  a: Problem | undefined;
  b: Problem | undefined;
}

export function entries(a: Run, b: Run | null): Entry[] {
  const keys = new Set([...a.problems.keys(), ...(b?.problems.keys() ?? [])]);
  return [...keys].map((key) => ({ key, a: a.problems.get(key), b: b?.problems.get(key) }));
}

const CHOICES: Record<string, (entry: Entry) => boolean> = {
  all: () => true,
  verified: ({ a }) => a?.outcome === "verified",
  "not verified": ({ a }) => a?.outcome === "unverified",
  running: ({ a }) => a?.outcome === "running",
};
const COMPARED: Record<string, (entry: Entry) => boolean> = {
  all: () => true,
  "only A verified": ({ a, b }) => a?.outcome === "verified" && b?.outcome !== "verified",
  "only B verified": ({ a, b }) => a?.outcome !== "verified" && b?.outcome === "verified",
  "both verified": ({ a, b }) => a?.outcome === "verified" && b?.outcome === "verified",
  "neither verified": ({ a, b }) => a?.outcome !== "verified" && b?.outcome !== "verified",
  "in one run only": ({ a, b }) => !a || !b,
};

interface ProblemsProps {
  a: Run;
  b: Run | null;
  version: number;
  chosen: string | null;
  onChoose(key: string): void;
}

export function Problems({ a, b, version, chosen, onChoose }: ProblemsProps) {
  const [query, setQuery] = useState("");
  const [choice, setChoice] = useState("all");
  const all = useMemo(() => entries(a, b), [a, b, version]);
  const choices = b ? COMPARED : CHOICES;
  const shown = useMemo(() => {
    const wanted = query.trim().toLowerCase();
    const test = choices[choice] ?? (() => true);
    return all.filter((entry) => {
      const head = (entry.a ?? entry.b)?.head;
      return test(entry) && (!wanted || `${entry.key}\n${head?.prompt}\n${head?.ended?.answer ?? ""}`.toLowerCase().includes(wanted));
    });
  }, [all, query, choice, choices]);

  return (
    <nav class="problems" aria-label="problems" data-testid="problems">
      <div class="problems-top">
        <input
          type="search" placeholder="find a problem" aria-label="find a problem" value={query}
          onInput={(event) => setQuery(event.currentTarget.value)} data-testid="problem-search"
        />
        <select aria-label="which problems" value={choice} onChange={(event) => setChoice(event.currentTarget.value)} data-testid="problem-choice">
          {Object.keys(choices).map((each) => (
            <option key={each} value={each}>
              {each} ({count(all.filter(choices[each] ?? (() => true)).length)})
            </option>
          ))}
        </select>
      </div>
      <Rows {...{ shown, chosen, onChoose }} pair={b !== null} />
    </nav>
  );
}

function Rows({ shown, chosen, onChoose, pair }: { shown: Entry[]; chosen: string | null; onChoose(key: string): void; pair: boolean }) {
  const box = useRef<HTMLDivElement>(null);
  const [top, setTop] = useState(0);
  const [high, setHigh] = useState(600);
  useEffect(() => {
    if (!box.current) return;
    const watching = new ResizeObserver(([entry]) => setHigh(entry?.contentRect.height ?? 600));
    watching.observe(box.current);
    return () => watching.disconnect();
  }, []);
  const at = shown.findIndex((entry) => entry.key === chosen);
  useEffect(() => {
    const element = box.current;
    if (!element || at < 0) return;
    if (at * ROW < element.scrollTop) element.scrollTop = at * ROW;
    else if ((at + 1) * ROW > element.scrollTop + element.clientHeight) element.scrollTop = (at + 1) * ROW - element.clientHeight;
  }, [chosen]);
  const from = Math.max(0, Math.floor(top / ROW) - OVER);
  const to = Math.min(shown.length, Math.ceil((top + high) / ROW) + OVER);

  const onKeyDown = (event: KeyboardEvent) => {
    const by = { ArrowDown: 1, ArrowUp: -1, PageDown: 10, PageUp: -10, Home: -Infinity, End: Infinity }[event.key];
    if (by === undefined || !shown.length) return;
    const next = shown[Math.min(shown.length - 1, Math.max(0, (at < 0 ? -1 : at) + by))];
    if (next) onChoose(next.key);
    event.preventDefault();
  };

  return (
    <div
      ref={box} class="rows" role="listbox" tabIndex={0} aria-label={`${count(shown.length)} problems`}
      aria-activedescendant={at >= from && at < to ? `problem-${at}` : undefined}
      onScroll={(event) => setTop(event.currentTarget.scrollTop)} onKeyDown={onKeyDown}
    >
      <div role="presentation" style={{ height: `${shown.length * ROW}px`, position: "relative" }}>
        {shown.slice(from, to).map((entry, k) => (
          <Row
            key={entry.key} entry={entry} place={from + k} of={shown.length} pair={pair}
            chosen={entry.key === chosen} onChoose={onChoose}
          />
        ))}
      </div>
      {shown.length === 0 && <p class="hint">no such problem</p>}
    </div>
  );
}

interface RowProps {
  entry: Entry;
  place: number;
  of: number;
  pair: boolean;
  chosen: boolean;
  onChoose(key: string): void;
}

function Row({ entry, place, of, pair, chosen, onChoose }: RowProps) {
  const head = (entry.a ?? entry.b)?.head;
  return (
    <div
      id={`problem-${place}`} role="option" aria-selected={chosen} aria-setsize={of} aria-posinset={place + 1}
      class={chosen ? "problem-row chosen" : "problem-row"} style={{ top: `${place * ROW}px` }}
      onClick={() => onChoose(entry.key)} data-testid="problem-row"
    >
      <span class="problem-name"><bdi>{flat(entry.key, 40)}</bdi></span>
      <span class="problem-said"><bdi>{flat(head?.prompt ?? "", 90)}</bdi></span>
      <span class="problem-marks">
        <Mark of={entry.a} name={pair ? "A" : ""} />
        {pair && <Mark of={entry.b} name="B" />}
      </span>
      <span class="problem-tokens">
        {pair ? `${short(entry.a)} / ${short(entry.b)}` : `${short(entry.a)} tok`}
      </span>
    </div>
  );
}

const short = (problem: Problem | undefined): string => {
  if (!problem) return "–";
  const tokens = problem.tokens;
  return tokens < 10_000 ? count(tokens) : `${(tokens / 1000).toFixed(tokens < 100_000 ? 1 : 0)}k`;
};

function Mark({ of, name }: { of: Problem | undefined; name: string }) {
  if (!of) return <span class="quiet" title={`not in run ${name}`}>{name}–</span>;
  const outcome = of.outcome;
  return (
    <span class={`o-${outcome}`} title={WORDS[outcome]}>
      {name}
      <span aria-hidden="true">{MARKS[outcome]}</span>
      <span class="unseen"> {WORDS[outcome]}</span>
    </span>
  );
}

export interface Sum {
  problems: number;
  ended: number;
  verified: number;
  tokens: number;
}

export function sum(run: Run): Sum {
  const found = { problems: run.problems.size, ended: 0, verified: 0, tokens: 0 };
  for (const problem of run.problems.values()) {
    if (problem.head.ended) found.ended += 1;
    if (problem.outcome === "verified") found.verified += 1;
    found.tokens += problem.tokens;
  }
  return found;
}

/** What differs between two runs, in a line. Only problems that both have are compared. */
export function Difference({ a, b }: { a: Run; b: Run }) {
  const both = entries(a, b).filter((entry) => entry.a && entry.b);
  const won = (one: Problem | undefined, other: Problem | undefined) => one?.outcome === "verified" && other?.outcome !== "verified";
  const onlyA = both.filter(({ a: one, b: two }) => won(one, two)).length;
  const onlyB = both.filter(({ a: one, b: two }) => won(two, one)).length;
  const tokens = (of: "a" | "b") => both.reduce((so, entry) => so + (entry[of]?.tokens ?? 0), 0);
  const [spentA, spentB] = [tokens("a"), tokens("b")];
  const solved = (of: "a" | "b") => both.filter((entry) => entry[of]?.outcome === "verified").length;
  const more = spentA ? ` (${spentB >= spentA ? "+" : "−"}${Math.abs((100 * (spentB - spentA)) / spentA).toFixed(0)} %)` : "";
  return (
    <p class="difference" data-testid="difference">
      <b>Of {count(both.length)} in both:</b> A verified {count(solved("a"))}, B {count(solved("b"))}; only A {count(onlyA)}, only B{" "}
      {count(onlyB)}. Tokens: A {count(spentA)}, B {count(spentB)}{more}.
    </p>
  );
}
