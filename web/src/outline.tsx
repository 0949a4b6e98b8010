// The same tree as a plain nested list: for screen readers, for copying, and for those who prefer it.
import { type Problem, ROOT, shownStatus, withAncestors } from "./model";
import { flat, flatEnd, many, Said } from "./text";
import type { TreeProps } from "./tree";

export function Outline({ problem, matches, only, selected, label, onOpen }: TreeProps) {
  const kept = only && matches ? withAncestors(problem, matches) : null;
  return (
    <nav class="outline" aria-label={label} data-testid="outline">
      <button type="button" class={selected === ROOT ? "row selected" : "row"} onClick={() => onOpen(ROOT)}>
        <b>problem</b> <Said text={problem.head.prompt} most={160} />
      </button>
      <Level problem={problem} of={ROOT} kept={kept} matches={matches} selected={selected} onOpen={onOpen} />
    </nav>
  );
}

interface LevelProps {
  problem: Problem;
  of: string;
  kept: ReadonlySet<string> | null;
  matches: ReadonlySet<string> | null;
  selected: string | null;
  onOpen(id: string): void;
}

/** A chain of single children stays on one level: deep ones would run out of the page otherwise. */
function chain(problem: Problem, from: string, kept: ReadonlySet<string> | null): string[] {
  const found = [from];
  for (;;) {
    const below = problem.below(found[found.length - 1] ?? from).filter((id) => !kept || kept.has(id));
    const only = below[0];
    if (below.length !== 1 || only === undefined) return found;
    found.push(only);
  }
}

function Level({ problem, of, kept, matches, selected, onOpen }: LevelProps) {
  const below = problem.below(of).filter((id) => !kept || kept.has(id));
  if (!below.length) return null;
  return (
    <ul>
      {below.map((first) => {
        const ids = chain(problem, first, kept);
        return (
          <li key={first}>
            {ids.map((id) => <Row key={id} {...{ problem, id, matches, selected, onOpen }} />)}
            <Level {...{ problem, kept, matches, selected, onOpen }} of={ids[ids.length - 1] ?? first} />
          </li>
        );
      })}
    </ul>
  );
}

function Row({ problem, id, matches, selected, onOpen }: Omit<LevelProps, "of" | "kept"> & { id: string }) {
  const node = problem.nodes.get(id);
  if (!node) return null;
  const status = shownStatus(node);
  const classes = ["row", selected === id && "selected", matches && !matches.has(id) && "faint"].filter(Boolean).join(" ");
  return (
    <button type="button" class={classes} onClick={() => onOpen(id)} aria-current={selected === id}>
      <b>{flat(id, 60)}</b> <span class={`badge s-${status}`}>{status}</span>{" "}
      {node.answer !== null && <><b><Said text={node.answer} most={60} /></b>{" "}</>}
      <span class="quiet">
        {many(node.tokens, "token")} · {node.kind}
        {node.purpose !== "explore" && ` · ${flat(node.purpose, 30)}`}
        {node.reason ? <> · <Said text={node.reason} most={100} /></> : node.tail && <> · <bdi>{flatEnd(node.tail, 60)}</bdi></>}
      </span>
    </button>
  );
}
