// What is known of one branch, or of the problem: beside the tree, or as a sheet at the bottom of a small screen.
import type { ComponentChildren } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { type Problem, ROOT, shownStatus } from "./model";
import { KIND_WORDS, STATUS_WORDS } from "./palette";
import { Refusal, type Source } from "./source";
import { count, flat, LongText, many, marked, Said } from "./text";
import { BranchText } from "./tokens";
import type { Detail, Ended, TreeNode, Verdict } from "./types";

interface PanelProps {
  problem: Problem;
  version: number;
  id: string;
  source: Source;
  heading: string; // which of two runs
  onClose(): void;
  onOpen(id: string): void;
}

export function Panel({ problem, version, id, source, heading, onClose, onOpen }: PanelProps) {
  const node = problem.nodes.get(id);
  const title = useRef<HTMLHeadingElement>(null);
  const status = node ? shownStatus(node) : problem.outcome;
  useEffect(() => title.current?.parentElement?.parentElement?.scrollTo(0, 0), [problem.key, id]);
  return (
    <aside class="panel" aria-label={node ? `branch ${flat(id, 40)}` : "the problem"} data-testid="panel">
      <header>
        <h2 ref={title}>
          {heading && <span class="quiet">{heading} </span>}
          {node ? `Branch ${flat(id, 40)}` : "Problem"} <span class={`badge s-${status}`} title={STATUS_WORDS[status]}>{status}</span>
        </h2>
        <button type="button" onClick={onClose} aria-label="close the panel" title="close (Esc)" data-testid="close">✕</button>
      </header>
      {node ? (
        <Branch {...{ problem, version, node, source, onOpen }} />
      ) : (
        <About problem={problem} onOpen={onOpen} />
      )}
    </aside>
  );
}

const Section = ({ title, children, id }: { title: string; children: ComponentChildren; id?: string }) => (
  <section data-testid={id}>
    <h3>{title}</h3>
    {children}
  </section>
);

const Facts = ({ of }: { of: readonly (readonly [string, ComponentChildren])[] }) => (
  <dl class="facts">
    {of.filter(([, value]) => value !== "" && value !== null && value !== undefined && value !== false).map(([name, value]) => (
      <div key={name}>
        <dt>{name}</dt>
        <dd>{value}</dd>
      </div>
    ))}
  </dl>
);

const seconds = (value: number): string => (value < 0.1 ? `${(value * 1000).toFixed(1)} ms` : `${value.toFixed(1)} s`);
const nat = (value: number | null): string => (value === null ? "" : `${value.toFixed(2).replace("-", "−")} nat/token`);

function Branch({ problem, version, node, source, onOpen }: { problem: Problem; version: number; node: TreeNode; source: Source; onOpen(id: string): void }) {
  const [detail, failure, again] = useDetail(source, problem.key, node, version);
  const above = node.parent === ROOT ? null : node.parent;
  return (
    <>
      <Facts
        of={[
          ["answer", node.answer !== null && <b><Said text={node.answer} /></b>],
          ["tokens", `${count(node.tokens)}${node.explored ? `, ${(node.explored * 100).toFixed(0)} % explored` : ""}`],
          ["decoding", `${node.kind}: ${KIND_WORDS[node.kind] ?? ""}`],
          ["mean log p", nat(node.logprob)],
          ["score", node.score === null ? "" : node.score.toFixed(2)],
          ["time", node.seconds ? seconds(node.seconds) : ""],
          ["ended by", detail?.finish ?? ""],
          ["continues", above && <button type="button" class="link" onClick={() => onOpen(above)}>branch {flat(above, 40)}</button>],
          ["part", node.part && <Said text={node.part} />],
        ]}
      />
      <Section title="Rung of the ladder" id="rung">
        <p><b><Said text={node.purpose || "explore"} /></b> <span class="quiet"><Said text={node.label} /></span></p>
        {node.trigger && <p class="hint">because <Said text={node.trigger} /></p>}
      </Section>
      {node.reason && node.status === "pruned" && <Section title="Given up"><p><Said text={node.reason} /></p></Section>}
      {failure && (
        <p class="problem" role="alert">
          {failure} <button type="button" class="link" onClick={again}>try again</button>
        </p>
      )}
      {!detail && !failure && node.pending && (
        <Section title="Text so far"><pre class="said" dir="auto">…{marked(node.tail)}</pre></Section>
      )}
      {!detail && !failure && !node.pending && <p class="hint">reading …</p>}
      {detail && <Told detail={detail} />}
    </>
  );
}

interface Found {
  of: string;
  detail: Detail | null;
  failure: string;
  unanswered: number | null; // the version at which it was asked for, where the server was not there
}

const NOTHING: Found = { of: "", detail: null, failure: "", unanswered: null };

function useDetail(source: Source, problem: string, node: TreeNode, version: number): [Detail | null, string, () => void] {
  const [found, setFound] = useState<Found>(NOTHING);
  const [turn, setTurn] = useState(0);
  // What is told of a node changes with its status, its verdicts and notes: then it is read again.
  const state = `${problem}\n${node.id}\n${node.pending}`;
  const verdicts = `${node.status} ${Object.values(node.verifiers).join()} ${node.rollbacks}`;
  useEffect(() => {
    if (node.pending) return;
    let wanted = true;
    source.detail(problem, node.id).then(
      (detail) => wanted && setFound({ ...NOTHING, of: state, detail }),
      (error: unknown) => {
        const gone = error instanceof Refusal && (error.status === 0 || error.status === 503);
        if (wanted) setFound({ of: state, detail: null, failure: error instanceof Error ? error.message : String(error), unanswered: gone ? version : null });
      },
    );
    return () => {
      wanted = false;
    };
  }, [source, state, verdicts, turn]);
  useEffect(() => {
    // Something was told since: the server is there again.
    if (found.of !== state || found.unanswered === null || found.unanswered === version) return;
    setFound(NOTHING);
    setTurn((now) => now + 1);
  }, [found, version]);
  return found.of === state ? [found.detail, found.failure, () => setTurn(turn + 1)] : [null, "", () => setTurn(turn + 1)];
}

function Told({ detail }: { detail: Detail }) {
  return (
    <>
      {detail.error && <Section title="Error"><pre class="said error" dir="auto">{marked(detail.error)}</pre></Section>}
      <Section title="Verdicts" id="verdicts"><Verdicts of={detail.verdicts} /></Section>
      {detail.prompt !== null && <Section title="Asked" id="asked"><LongText text={detail.prompt} label="what the model was asked" /></Section>}
      <Section title="Text" id="text">
        {detail.before && (
          <details class="before">
            <summary>what it continues ({many(detail.before.length, "character")})</summary>
            <LongText text={detail.before} label="text before the branch" />
          </details>
        )}
        <BranchText detail={detail} />
      </Section>
      {detail.rollbacks.length > 0 && (
        <Section title="Rollbacks" id="rollbacks">
          <ul class="plain">
            {detail.rollbacks.map((each, at) => (
              <li key={at}>
                at token {count(each.at)} back to {count(each.back_to)}: <b><Said text={each.cause} /></b>
                {each.cause !== "nonfinite" && ` ${each.measured.toPrecision(3)}, limit ${each.threshold.toPrecision(3)}`}
                {each.lasting ? "; conservative for good" : "; conservative to the end of the step"}
              </li>
            ))}
          </ul>
        </Section>
      )}
      {detail.notes.length > 0 && (
        <Section title="Notes" id="notes">
          <ul class="plain">{detail.notes.map((note, at) => <li key={at}><Said text={note} /></li>)}</ul>
        </Section>
      )}
      <Section title="Decoding settings" id="settings">
        <Facts
          of={[
            ["seed", detail.seed],
            ["exploration on", detail.span],
            ["decoder", detail.decoder && <Said text={detail.decoder} />],
            ["attempts", detail.attempts > 1 ? String(detail.attempts) : ""],
            ...settings(detail.decoding).map(([name, value]) => [name, <Said key={name} text={value} />] as const),
          ]}
        />
      </Section>
    </>
  );
}

function Verdicts({ of }: { of: readonly Verdict[] }) {
  if (!of.length) return <p class="hint">no verifier spoke of it</p>;
  return (
    <ul class="verdicts">
      {of.map((each, at) => (
        <li key={at}>
          <span class={`badge v-${each.status}`}>{each.status}</span> <b><Said text={each.verifier} /></b>{" "}
          <span class="quiet">score {each.score.toFixed(2)}, {seconds(each.seconds)}</span>
          {each.answer !== null && <div>answer <b><Said text={each.answer} /></b></div>}
          {each.reason && <div><Said text={each.reason} /></div>}
        </li>
      ))}
    </ul>
  );
}

/** Nested settings, flat: what isn't set is left out. */
function settings(of: Record<string, unknown>, above = ""): [string, string][] {
  return Object.entries(of).flatMap(([name, value]): [string, string][] => {
    const full = above ? `${above}.${name}` : name;
    if (value === null || value === undefined) return [];
    if (typeof value === "object" && !Array.isArray(value)) return settings(value as Record<string, unknown>, full);
    return [[full, typeof value === "string" ? value : JSON.stringify(value)]];
  });
}

function About({ problem, onOpen }: { problem: Problem; onOpen(id: string): void }) {
  const { head } = problem;
  return (
    <>
      {head.ended && <Result ended={head.ended} onOpen={onOpen} />}
      {head.notes.length > 0 && (
        <Section title="Notes"><ul class="plain">{head.notes.map((note, at) => <li key={at}><Said text={note} /></li>)}</ul></Section>
      )}
      <Section title="Question">
        {head.messages ? (
          head.messages.map((message, at) => (
            <div key={at} class="message">
              <b><Said text={message.role} /></b>
              <LongText text={message.content} label={`message of ${flat(message.role, 20)}`} />
            </div>
          ))
        ) : (
          <LongText text={head.prompt} label="the question" />
        )}
      </Section>
      <Section title="Search">
        <Facts
          of={[
            ["id", <Said key="id" text={head.key} />],
            ["reference answer", head.reference !== null && <b><Said text={head.reference} /></b>],
            ["model", head.model && <Said text={head.model} />],
            ["decoding", <Said key="d" text={head.decoding} />],
            ["seed", head.seed],
            ["branches", count(problem.nodes.size)],
          ]}
        />
      </Section>
    </>
  );
}

export function Result({ ended, onOpen }: { ended: Ended; onOpen(id: string): void }) {
  const { usage, confidence, best } = ended;
  const rate = usage.seconds > 0 ? `, ${count(Math.round(usage.generated_tokens / usage.seconds))} tokens/s` : "";
  return (
    <Section title="Result" id="result">
      <Facts
        of={[
          ["answer", <b key="a">{ended.answer === null ? "none" : <Said text={ended.answer} />}</b>],
          ["standing", <span key="s" class={`badge s-${ended.verified ? "verified" : "unverified"}`}>{ended.verified ? "verified" : "not verified"}</span>],
          ["why", <Said key="w" text={ended.reason} />],
          ["best branch", best && <button type="button" class="link" onClick={() => onOpen(best)}>branch {flat(best, 40)}</button>],
          ["agreement", confidence && `${confidence.votes} of ${confidence.of} answers agree, entropy ${confidence.entropy.toFixed(2)} nat`],
          [
            "confidence",
            confidence && (confidence.calibrated ? `right with probability ${confidence.probability.toFixed(2)}` : `share ${confidence.share.toFixed(2)}, not calibrated for this model`),
          ],
          [
            "cost",
            `${many(usage.branches, "branch", "branches")}, ${many(usage.generated_tokens, "token")} (+ ${count(usage.prefill_tokens)} of the prompt), ` +
              `${many(usage.verifier_calls, "verifier call")}, ${usage.seconds.toFixed(1)} s${rate}`,
          ],
        ]}
      />
    </Section>
  );
}
