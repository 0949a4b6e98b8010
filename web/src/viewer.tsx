// The viewer: a run, or two, from the page's own file or live from a server.
import { render } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { Keys, useShortcuts } from "./keys";
import { Live } from "./live";
import { Run } from "./model";
import { Difference, entries, Problems, sum } from "./problems";
import { FileSource, ServerSource, type Source } from "./source";
import type { StreamState } from "./sse";
import "./style.css";
import { count, flat, many } from "./text";
import { useTheme } from "./theme";
import { type Chosen, type Side, Workspace } from "./workspace";

const DEFAULT_BASE = "/api";

interface Shown {
  run: Run;
  source: Source;
}

/** Which base address to read: a path of this server, never another's. */
function base(): string {
  const asked = new URLSearchParams(location.search).get("base");
  return asked && /^\/(?!\/)[\w\-./]*$/u.test(asked) ? asked : DEFAULT_BASE;
}

/** What the address says is open; kept there, so that it can be sent to someone and survives a reload. */
function fromHash(): { problem: string | null; opened: Chosen | null } {
  const found = new URLSearchParams(location.hash.slice(1));
  const id = found.get("branch");
  return { problem: found.get("problem"), opened: id ? { side: found.get("run") === "B" ? 1 : 0, id } : null };
}

function toHash(problem: string | null, opened: Chosen | null): void {
  const told = new URLSearchParams();
  if (problem !== null) told.set("problem", problem);
  if (opened) told.set("branch", opened.id);
  if (opened?.side === 1) told.set("run", "B");
  history.replaceState(null, "", `${location.pathname}${location.search}#${told}`);
}

function useRuns(): { a: Shown | null; b: Shown | null; stream: StreamState | null; failure: string; version: number } {
  const [shown, setShown] = useState<{ a: Shown | null; b: Shown | null; failure: string }>({ a: null, b: null, failure: "" });
  const [stream, setStream] = useState<StreamState | null>(null);
  const [version, setVersion] = useState(0);
  useEffect(() => {
    const file = FileSource.find("");
    const ends: (() => void)[] = [];
    if (file) {
      const other = FileSource.find("-b");
      Promise.all([file.index(), other?.index()]).then(
        ([first, second]) =>
          setShown({
            a: { run: new Run(first), source: file },
            b: other && second ? { run: new Run(second), source: other } : null,
            failure: "",
          }),
        (error: unknown) => setShown({ a: null, b: null, failure: String(error) }),
      );
    } else {
      const source = new ServerSource(base());
      const run = new Run();
      ends.push(run.listen(() => setVersion((now) => now + 1)));
      ends.push(source.watch(run, setStream));
      setShown({ a: { run, source }, b: null, failure: "" });
    }
    return () => ends.forEach((end) => end());
  }, []);
  return { ...shown, stream, version };
}

function Viewer() {
  const { a, b, stream, failure, version } = useRuns();
  const [chosen, setChosen] = useState<string | null>(fromHash().problem);
  const [opened, setOpened] = useState<Chosen | null>(fromHash().opened);
  const [view, setView] = useState<"tree" | "list">("tree");
  const [keys, setKeys] = useState(false);
  const [list, setList] = useState(false); // on a small screen the list of problems is put away
  const searchInput = useRef<HTMLInputElement>(null);
  const all = a ? entries(a.run, b?.run ?? null) : [];
  const key = all.some((entry) => entry.key === chosen) ? chosen : (all[0]?.key ?? null);
  const choose = (next: string) => (setChosen(next), setOpened(null), setList(false));

  useEffect(() => {
    if (a && all.length) toHash(key, opened);
  }, [key, opened, all.length > 0]);
  useEffect(() => {
    document.title = a?.run.title ? `${flat(a.run.title, 60)} – led-agent` : "led-agent";
  }, [a?.run.title]);
  useShortcuts({
    "/": () => searchInput.current?.focus(),
    "?": () => setKeys(true),
    Escape: () => (list ? setList(false) : close()),
    l: () => setView((now) => (now === "tree" ? "list" : "tree")),
    "[": () => move(-1),
    "]": () => move(1),
  });
  const close = () => {
    if (!opened) return;
    setOpened(null);
    document.querySelector<HTMLElement>("canvas")?.focus();
  };
  const move = (by: number) => {
    const next = all[all.findIndex((entry) => entry.key === key) + by];
    if (next) choose(next.key);
  };

  if (failure) return <p class="problem" role="alert">{failure}</p>;
  const sides: Side[] = [];
  if (a) sides.push({ name: b ? "A" : "", title: a.run.title, problem: key === null ? undefined : a.run.problems.get(key), source: a.source });
  if (b) sides.push({ name: "B", title: b.run.title, problem: key === null ? undefined : b.run.problems.get(key), source: b.source });
  return (
    <>
      <Header {...{ a, b, stream, view, version }} several={all.length > 1} onList={() => setList(!list)} onView={setView} onKeys={() => setKeys(true)} />
      {a && b && <Difference a={a.run} b={b.run} />}
      <div class={list ? "body listing" : "body"}>
        {a && all.length > 1 && <Problems a={a.run} b={b?.run ?? null} version={version} chosen={key} onChoose={choose} />}
        {a && key !== null ? (
          <Workspace sides={sides} version={version} view={view} opened={opened} onOpened={(next) => (next ? setOpened(next) : close())} searchInput={searchInput} />
        ) : (
          <p class="empty">{stream && stream.now !== "done" ? "no problem has begun yet" : a ? "there is no problem in this run" : "reading …"}</p>
        )}
      </div>
      {keys && <Keys onClose={() => setKeys(false)} />}
    </>
  );
}

interface HeaderProps {
  a: Shown | null;
  b: Shown | null;
  stream: StreamState | null;
  view: "tree" | "list";
  version: number;
  several: boolean;
  onList(): void;
  onView(view: "tree" | "list"): void;
  onKeys(): void;
}

function Header({ a, b, stream, view, version, several, onList, onView, onKeys }: HeaderProps) {
  const [theme, toggle] = useTheme();
  void version;
  return (
    <header class="top">
      {several && <button type="button" class="narrow" onClick={onList} data-testid="problems-button">problems</button>}
      <h1>
        <bdi>{b ? `A ${flat(a?.run.title ?? "", 40)}  ·  B ${flat(b.run.title, 40)}` : flat(a?.run.title ?? "led-agent", 80)}</bdi>
      </h1>
      {a && !b && several && <Sums run={a.run} />}
      {stream && <Live stream={stream} />}
      <span class="space" />
      <button type="button" onClick={() => onView(view === "tree" ? "list" : "tree")} data-testid="view" title="tree or plain list (l)">
        {view === "tree" ? "list" : "tree"}
      </button>
      <button type="button" onClick={toggle} data-testid="theme" title="light or dark">{theme === "dark" ? "light" : "dark"}</button>
      <button type="button" onClick={onKeys} aria-label="keys" title="keys (?)" data-testid="keys-button">?</button>
    </header>
  );
}

function Sums({ run }: { run: Run }) {
  const found = sum(run);
  return (
    <span class="quiet sums" data-testid="sums">
      {count(found.verified)} of {many(found.problems, "problem")} verified
      {found.ended < found.problems && `, ${count(found.problems - found.ended)} not ended`} · {many(found.tokens, "token")}
    </span>
  );
}

const app = document.getElementById("app");
if (app) {
  app.textContent = "";
  render(<Viewer />, app);
}
