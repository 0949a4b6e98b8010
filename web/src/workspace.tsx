// One problem of one run, or of two side by side: trees, legend and filters, and the panel. Both pages are built on it.
import type { ComponentChildren, RefObject } from "preact";
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { Legend, SearchBar } from "./filters";
import { type Filter, matching, NO_FILTER, type Problem, ROOT } from "./model";
import { largest } from "./layout";
import { Outline } from "./outline";
import { Panel } from "./panel";
import type { Source } from "./source";
import { many, Said } from "./text";
import { TreeCanvas } from "./tree";

export interface Side {
  name: string; // "" where there is only one
  title: string;
  problem: Problem | undefined;
  source: Source;
}

export interface Chosen {
  side: number;
  id: string;
}

interface WorkspaceProps {
  sides: readonly Side[];
  version: number;
  view: "tree" | "list";
  opened: Chosen | null;
  onOpened(chosen: Chosen | null): void;
  searchInput: RefObject<HTMLInputElement | null>;
  top?: ComponentChildren; // above the tree, where what came of it is told otherwise than in the heading
}

export function Workspace({ sides, version, view, opened, onOpened, searchInput, top }: WorkspaceProps) {
  const [filter, setFilter] = useState<Filter>(NO_FILTER);
  const [selected, setSelected] = useState<Chosen>({ side: opened?.side ?? 0, id: opened?.id ?? "" });
  const hits = useTextHits(sides, filter.query);
  const problems = sides.flatMap((side) => side.problem ?? []);
  const versions = problems.map((problem) => `${problem.key} ${problem.version}`).join();
  const matches = useMemo(
    () => sides.map((side, at) => (side.problem ? matching(side.problem, filter, hits[at] ?? new Set()) : null)),
    [versions, filter, hits],
  );
  const most = largest(problems);
  const found = matches.some(Boolean) ? matches.reduce((so, each) => so + (each?.size ?? 0), 0) : null;
  void version;

  useEffect(() => {
    if (opened) setSelected(opened);
  }, [opened]);
  const keys = sides.map((side) => side.problem?.key).join("\n");
  const before = useRef(keys);
  useEffect(() => {
    if (before.current !== keys) setSelected({ side: 0, id: "" });
    before.current = keys;
  }, [keys]);

  const open = (chosen: Chosen) => (setSelected(chosen), onOpened(chosen));
  const next = (by: 1 | -1) => {
    const all = matches.flatMap((each, side) => [...(each ?? [])].map((id) => ({ side, id })));
    if (!all.length) return;
    const at = all.findIndex((each) => each.side === selected.side && each.id === selected.id);
    const to = all[(at + by + all.length + (at < 0 && by < 0 ? 1 : 0)) % all.length];
    if (to) opened ? open(to) : setSelected(to);
  };
  const onKeyDown = (event: KeyboardEvent) => {
    const typing = event.target instanceof HTMLInputElement || event.target instanceof HTMLTextAreaElement || event.target instanceof HTMLSelectElement;
    if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "n" || event.key === "N") next(event.key === "n" ? 1 : -1);
  };

  const shownSide = opened ? sides[opened.side] : undefined;
  return (
    <div class={opened ? "workspace with-panel" : "workspace"} onKeyDown={onKeyDown}>
      <div class="main">
        {top}
        <SearchBar
          ref={searchInput} problems={problems} filter={filter} found={found} onFilter={setFilter} onNext={next}
          whole={sides.every((side) => side.source.search)}
        />
        <div class={`sides n${sides.length}`}>
          {sides.map((side, at) => (
            <div class="side" key={side.name} data-testid={`side-${side.name || "A"}`}>
              <Heading side={side} told={top !== undefined} onOpen={(id) => open({ side: at, id })} />
              {side.problem ? (
                <View
                  view={view} problem={side.problem} version={side.problem.version} matches={matches[at] ?? null} only={filter.only} most={most}
                  selected={selected.side === at && selected.id ? selected.id : null} label={side.name ? `run ${side.name}` : "search tree"}
                  onSelect={(id) => (opened ? open({ side: at, id }) : setSelected({ side: at, id }))} onOpen={(id) => open({ side: at, id })}
                />
              ) : (
                <p class="empty">this run has no such problem</p>
              )}
            </div>
          ))}
        </div>
        <Legend problems={problems} filter={filter} onFilter={setFilter} />
      </div>
      {opened && shownSide?.problem && (opened.id === ROOT || shownSide.problem.nodes.has(opened.id)) && (
        <Panel
          problem={shownSide.problem} version={shownSide.problem.version} id={opened.id} source={shownSide.source}
          heading={shownSide.name && `Run ${shownSide.name}`} onClose={() => onOpened(null)} onOpen={(id) => open({ side: opened.side, id })}
        />
      )}
    </div>
  );
}

const View = ({ view, ...given }: { view: "tree" | "list" } & Parameters<typeof TreeCanvas>[0]) =>
  view === "tree" ? <TreeCanvas key={given.problem.key} {...given} /> : <Outline {...given} />;

function Heading({ side, told, onOpen }: { side: Side; told: boolean; onOpen(id: string): void }) {
  const { problem } = side;
  if (!problem) return side.name ? <div class="heading"><b>{side.name}</b> <Said text={side.title} most={60} /></div> : null;
  const { ended } = problem.head;
  return (
    <button type="button" class="heading" onClick={() => onOpen(ROOT)} title="about the problem" data-testid="heading">
      {side.name && <b class="run-name">{side.name}</b>}
      {!told && <span class={`badge s-${problem.outcome}`}>{problem.outcome === "unverified" ? "not verified" : problem.outcome}</span>}
      {!told && ended?.answer != null && <b><Said text={ended.answer} most={40} /></b>}
      <span class="asked"><Said text={problem.head.prompt} most={200} /></span>
      <span class="quiet cost">{many(problem.nodes.size, "branch", "branches")}, {many(problem.tokens, "token")}</span>
    </button>
  );
}

/** Where the query is found in whole texts, as far as the sources can tell; a set for each side. */
function useTextHits(sides: readonly Side[], query: string): readonly ReadonlySet<string>[] {
  const [hits, setHits] = useState<readonly ReadonlySet<string>[]>([]);
  const keys = sides.map((side) => side.problem?.key).join("\n");
  useEffect(() => {
    setHits([]);
    const wanted = query.trim();
    if (!wanted) return;
    const ending = new AbortController();
    const timer = setTimeout(() => {
      sides.forEach((side, at) => {
        if (!side.problem || !side.source.search) return;
        const found = new Set<string>();
        let told = 0;
        const tell = () => {
          if (found.size === told || ending.signal.aborted) return;
          told = found.size;
          setHits((before) => Object.assign([...before], { [at]: new Set(found) }));
        };
        const ticking = setInterval(tell, 200);
        side.source
          .search(side.problem.key, wanted, ending.signal, (id) => found.add(id))
          .catch(() => undefined) // then what the index says of a branch is all that is searched
          .finally(() => (clearInterval(ticking), tell()));
      });
    }, 150);
    return () => (clearTimeout(timer), ending.abort());
  }, [query, keys]);
  return hits;
}
