// The chat and search page: ask, watch the tree grow, stop it, read the result, ask on.
//
// Selectors that tests use (data-testid): prompt, send, stop, new, settings-toggle, answer, strategy, decoding,
// verifier-NAME, budget-tokens, budget-seconds, budget-branches, max-tokens, seed, error, countdown, key-dialog, key,
// key-send, runs, runs-button, run-row, conversation, message, reply, standing, result-answer, why, cost, open-best, live,
// model, view, theme, keys-button; inside the tree those of the viewer: tree, described, heading, panel, tokens, search,
// found, legend, status-NAME, outline, close.
import { render } from "preact";
import { useCallback, useEffect, useRef, useState } from "preact/hooks";
import { type Asked, Composer, type Settings } from "./composer";
import { Keys, useShortcuts } from "./keys";
import { Live } from "./live";
import { type Problem, Run } from "./model";
import { Runs, type RunRow } from "./runs";
import { ask, type Key, Refusal, ServerSource } from "./source";
import type { StreamState } from "./sse";
import "./style.css";
import { flat, LongText, many, Said } from "./text";
import { useTheme } from "./theme";
import type { Detail, Message } from "./types";
import { type Chosen, Workspace } from "./workspace";

const KEY = "led-agent-key";
const RUNS = "/v1/runs";

const key: Key = () => {
  try {
    return sessionStorage.getItem(KEY);
  } catch {
    return null;
  }
};

/** The run that the page's address names. */
const named = (): string | null => new URLSearchParams(location.hash.slice(1)).get("run");

interface Failed {
  text: string;
  until: number | null;
  passing?: boolean; // told until the list of runs can be read again
}

interface Current {
  id: string;
  run: Run;
  source: ServerSource;
}

/** A chat as a model is asked to continue it: what was asked, and what was answered, without the thinking before it. */
async function continued(current: Current, problem: Problem): Promise<Message[]> {
  const before = problem.head.messages ?? [{ role: "user", content: problem.head.prompt }];
  const best = problem.head.ended?.best;
  if (!best) return [];
  const detail = await current.source.detail(problem.key, best);
  return [...before, { role: "assistant", content: spoken(detail) }];
}

const spoken = (detail: Detail): string => {
  const whole = detail.before + detail.text;
  const thought = whole.lastIndexOf("</think>");
  return (thought < 0 ? whole : whole.slice(thought + "</think>".length)).trim();
};

function Page() {
  const [settings, setSettings] = useState<Settings | null>(null);
  const [rows, setRows] = useState<RunRow[]>([]);
  const [current, setCurrent] = useState<Current | null>(null);
  const [stream, setStream] = useState<StreamState | null>(null);
  const [version, setVersion] = useState(0);
  const [opened, setOpened] = useState<Chosen | null>(null);
  const [failure, setFailure] = useState<Failed | null>(null);
  const [asking, setAsking] = useState<(() => void) | null>(null); // for a key; what to do again once it is there
  const [busy, setBusy] = useState(false);
  const [view, setView] = useState<"tree" | "list">("tree");
  const [keys, setKeys] = useState(false);
  const [list, setList] = useState(false);
  const searchInput = useRef<HTMLInputElement>(null);
  const lists = useRef({ asked: 0, shown: 0 }); // of runs: an answer may come after that to a later request
  const problem = current ? [...current.run.problems.values()][0] : undefined;

  /** Do something with the server; what it refuses is said, and a missing key is asked for. */
  const attempt = useCallback(async (what: () => Promise<void>, passing = false) => {
    try {
      await what();
    } catch (error) {
      if (error instanceof Refusal && error.status === 401) setAsking(() => () => void attempt(what, passing));
      else setFailure({ ...told(error), passing });
    }
  }, []);

  const refresh = useCallback(() => {
    const turn = (lists.current.asked += 1);
    return attempt(async () => {
      const { data } = await ask<{ data: RunRow[] }>(RUNS, key);
      setFailure((now) => (now?.passing ? null : now));
      if (turn < lists.current.shown) return;
      lists.current.shown = turn;
      setRows(data);
    }, true);
  }, []);
  const begin = useCallback(
    () =>
      attempt(async () => {
        const asked = named();
        const found = await ask<Settings>("/v1/settings", key);
        setSettings(found);
        if (found.key_needed && !key()) return setAsking(() => () => void begin());
        await refresh();
        if (asked && asked === named()) open(asked); // another may have been begun by now
      }),
    [],
  );
  useEffect(() => void begin(), []);

  const open = useCallback((id: string) => {
    const run = new Run();
    setOpened(null);
    setFailure(null);
    setList(false);
    setStream(null);
    setCurrent({ id, run, source: new ServerSource(`${RUNS}/${encodeURIComponent(id)}`, key) });
    history.replaceState(null, "", `#${new URLSearchParams({ run: id })}`);
  }, []);
  useEffect(() => {
    if (!current) return;
    const forget = current.run.listen(() => setVersion((now) => now + 1));
    const end = current.source.watch(current.run, (now) => {
      setStream(now);
      if (now.now === "done") void refresh();
      if (now.now === "refused" && now.status === 401) setAsking(() => () => setCurrent({ ...current }));
      if (now.now === "refused" && now.status === 404) setFailure({ text: "the server knows no such run; it may have been started anew", until: null });
    });
    return () => (forget(), end());
  }, [current]);
  const going = rows.some((row) => row.status !== "done");
  useEffect(() => {
    if (!going) return;
    const timer = setInterval(() => document.visibilityState === "visible" && void refresh(), 4000);
    return () => clearInterval(timer);
  }, [going]);

  const chat = settings !== null && !settings.embedded && problem?.head.ended?.best != null;
  const send = async (asked: Asked): Promise<boolean> => {
    setFailure(null);
    setBusy(true);
    let sent = false;
    await attempt(async () => {
      const before = chat && current && problem ? await continued(current, problem) : [];
      const body = { ...asked.rest, messages: [...before, { role: "user", content: asked.prompt }] };
      const made = await ask<{ id: string }>(RUNS, key, {
        method: "POST", body: JSON.stringify(body), headers: { "Content-Type": "application/json" },
      });
      sent = true;
      open(made.id);
      void refresh();
    });
    setBusy(false);
    return sent;
  };
  const stop = () => current && attempt(async () => (await ask(`${RUNS}/${encodeURIComponent(current.id)}`, key, { method: "DELETE" }), void refresh()));
  const fresh = () => {
    setCurrent(null);
    setStream(null);
    setOpened(null);
    setFailure(null);
    setList(false);
    history.replaceState(null, "", location.pathname);
    document.querySelector<HTMLElement>("[data-testid=prompt]")?.focus();
  };
  const close = () => {
    setOpened(null);
    document.querySelector<HTMLElement>("canvas")?.focus();
  };
  useShortcuts({
    "/": () => searchInput.current?.focus(),
    "?": () => setKeys(true),
    Escape: () => (list ? setList(false) : opened && close()),
    l: () => setView((now) => (now === "tree" ? "list" : "tree")),
  });

  const running = current !== null && stream?.now !== "done" && stream?.now !== "refused" && !problem?.head.ended;
  return (
    <>
      <Header {...{ settings, stream: current && stream, view, running }} onStop={stop} onView={setView} onKeys={() => setKeys(true)} onList={() => setList(!list)} />
      <div class={list ? "body listing" : "body"}>
        <Runs rows={rows} chosen={current?.id ?? null} onOpen={open} onNew={fresh} />
        <main class="chat">
          {current && problem && (
            <Workspace
              sides={[{ name: "", title: current.run.title, problem, source: current.source }]} version={version} view={view}
              opened={opened} onOpened={(next) => (next ? setOpened(next) : close())} searchInput={searchInput}
              top={<Conversation problem={problem} current={current} onOpen={(id) => setOpened({ side: 0, id })} />}
            />
          )}
          {current && !problem && !failure && <p class="empty">waiting for its turn …</p>}
          {!current && <Welcome settings={settings} />}
          {failure && <Failure {...failure} onClose={() => setFailure(null)} />}
          <Composer
            settings={settings} busy={busy} blocked={failure?.until ?? null} follows={chat} compact={current !== null} onSend={send}
          />
        </main>
      </div>
      {keys && <Keys onClose={() => setKeys(false)} />}
      {asking && (
        <AskKey
          wrong={key() !== null}
          onKey={(given) => {
            sessionStorage.setItem(KEY, given);
            setAsking(null);
            asking();
          }}
        />
      )}
    </>
  );
}

function told(error: unknown): Failed {
  if (!(error instanceof Refusal)) return { text: error instanceof Error ? error.message : String(error), until: null };
  if (error.status === 429) return { text: `The server is busy: ${error.message}`, until: Date.now() + 1000 * (error.retryAfter ?? 5) };
  if (error.status >= 500) return { text: `The server failed (${error.status}): ${error.message}`, until: null };
  return { text: error.message, until: null };
}

function Failure({ text, until, onClose }: { text: string; until: number | null; onClose(): void }) {
  const [now, setNow] = useState(Date.now());
  const left = until === null ? 0 : Math.ceil((until - now) / 1000);
  useEffect(() => {
    if (until === null) return;
    const timer = setInterval(() => setNow(Date.now()), 250);
    return () => clearInterval(timer);
  }, [until]);
  return (
    <div class="problem failure" role="alert" data-testid="error">
      <span><Said text={text} /></span>
      {until !== null && <b data-testid="countdown">{left > 0 ? `again in ${left} s` : "you can try again now"}</b>}
      <button type="button" onClick={onClose} aria-label="close the message">✕</button>
    </div>
  );
}

interface HeaderProps {
  settings: Settings | null;
  stream: StreamState | null;
  view: "tree" | "list";
  running: boolean;
  onStop(): void;
  onView(view: "tree" | "list"): void;
  onKeys(): void;
  onList(): void;
}

function Header({ settings, stream, view, running, onStop, onView, onKeys, onList }: HeaderProps) {
  const [theme, toggle] = useTheme();
  return (
    <header class="top">
      <button type="button" class="narrow" onClick={onList} data-testid="runs-button">runs</button>
      <h1>led-agent</h1>
      {settings && <span class="quiet model" data-testid="model"><Said text={settings.model} most={50} /></span>}
      {stream && <Live stream={stream} />}
      {running && <button type="button" class="stop" onClick={onStop} data-testid="stop">stop</button>}
      <span class="space" />
      <button type="button" onClick={() => onView(view === "tree" ? "list" : "tree")} data-testid="view" title="tree or plain list (l)">
        {view === "tree" ? "list" : "tree"}
      </button>
      <button type="button" onClick={toggle} data-testid="theme" title="light or dark">{theme === "dark" ? "light" : "dark"}</button>
      <button type="button" onClick={onKeys} aria-label="keys" title="keys (?)" data-testid="keys-button">?</button>
    </header>
  );
}

function Welcome({ settings }: { settings: Settings | null }) {
  return (
    <div class="welcome">
      <h2>Ask for something that can be checked</h2>
      <p>
        Several branches are decoded at once, some of them exploring in latent space; verifiers judge each, and where none holds,
        the search falls back to more conservative decoding. You see all of it.
      </p>
      {settings?.example && <p class="quiet">For example: <Said text={settings.example} /></p>}
    </div>
  );
}

/** What was asked and answered so far, and what came of it. */
function Conversation({ problem, current, onOpen }: { problem: Problem; current: Current; onOpen(id: string): void }) {
  const { head } = problem;
  const { ended } = head;
  const [reply, setReply] = useState<{ of: string; text: string } | null>(null);
  const of = `${current.id} ${ended?.best}`;
  useEffect(() => {
    if (!ended?.best || !head.messages) return;
    let wanted = true;
    current.source.detail(head.key, ended.best).then(
      (detail) => wanted && setReply({ of, text: spoken(detail) }),
      () => undefined, // the branch itself says what is wrong when it is opened
    );
    return () => void (wanted = false);
  }, [of, ended?.best]);
  const messages = head.messages && head.messages.length > 1 ? head.messages : null;
  return (
    <section class="conversation" aria-label="conversation" data-testid="conversation">
      {messages?.map((message, at) => (
        <div key={at} class={`bubble ${message.role === "assistant" ? "theirs" : "ours"}`} data-testid="message">
          <b><Said text={message.role} /></b> <LongText text={message.content} label={`message of ${flat(message.role, 20)}`} />
        </div>
      ))}
      {ended && (
        <div class="result" data-testid="result">
          <span class={`badge s-${ended.verified ? "verified" : "unverified"}`} data-testid="standing">{ended.verified ? "verified" : "not verified"}</span>
          <b data-testid="result-answer">{ended.answer === null ? "no answer" : <Said text={ended.answer} most={200} />}</b>
          <span data-testid="why"><Said text={ended.reason} most={240} /></span>
          {ended.confidence && (
            <span class="quiet">
              {ended.confidence.votes} of {ended.confidence.of} agree
              {ended.confidence.calibrated && `, right with probability ${ended.confidence.probability.toFixed(2)}`}
            </span>
          )}
          <span class="quiet" data-testid="cost">
            {many(ended.usage.branches, "branch", "branches")}, {many(ended.usage.generated_tokens, "token")}, {ended.usage.seconds.toFixed(1)} s
          </span>
          {ended.best && (
            <button type="button" class="link" onClick={() => onOpen(ended.best ?? "")} data-testid="open-best">branch {flat(ended.best, 20)}</button>
          )}
        </div>
      )}
      {reply?.of === of && reply.text && (
        <div class="bubble theirs" data-testid="reply"><LongText text={reply.text} label="the reply" /></div>
      )}
    </section>
  );
}

function AskKey({ wrong, onKey }: { wrong: boolean; onKey(key: string): void }) {
  const dialog = useRef<HTMLDialogElement>(null);
  const [given, setGiven] = useState("");
  useEffect(() => dialog.current?.showModal(), []);
  return (
    <dialog ref={dialog} class="keys" aria-labelledby="key-title" data-testid="key-dialog" onCancel={(event) => event.preventDefault()}>
      <form onSubmit={(event) => (event.preventDefault(), given && onKey(given))}>
        <h2 id="key-title">This server asks for a key</h2>
        <p class="hint">{wrong ? "It has refused the one that was given. " : ""}It is kept until this tab is closed, and sent to this server only.</p>
        <p>
          <input
            type="password" autocomplete="off" aria-label="key" value={given} onInput={(event) => setGiven(event.currentTarget.value)} data-testid="key"
          />{" "}
          <button type="submit" class="primary" disabled={!given} data-testid="key-send">use it</button>
        </p>
      </form>
    </dialog>
  );
}

const app = document.getElementById("app");
if (app) {
  app.textContent = "";
  render(<Page />, app);
}
