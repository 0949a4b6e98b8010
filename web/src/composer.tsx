// Where a problem is written, and what it is to be solved with.
import { useEffect, useRef, useState } from "preact/hooks";
import { flat } from "./text";

export interface Settings {
  model: string;
  embedded: boolean;
  example: string | null;
  strategies: string[];
  decodings: string[];
  verifiers: string[];
  default: { strategy: string; decoding: string };
  limits: { max_tokens: number; seconds: number };
  key_needed: boolean;
}

export interface Asked {
  prompt: string;
  rest: Record<string, unknown>; // of the request's body
}

interface ComposerProps {
  settings: Settings | null;
  busy: boolean;
  blocked: number | null; // until when
  follows: boolean; // what is sent continues a chat
  compact: boolean;
  onSend(asked: Asked): Promise<boolean>;
}

const FIELDS = { answer: "", strategy: "", decoding: "", tokens: "", seconds: "", branches: "", maxTokens: "", seed: "" };
type Fields = typeof FIELDS;

/** Only what was filled in is sent: everything else is the server's to choose. */
function rest(fields: Fields, verifiers: readonly string[]): Record<string, unknown> {
  const filled = (of: Record<string, unknown>) => Object.fromEntries(Object.entries(of).filter(([, value]) => value !== undefined));
  const number = (text: string) => (text.trim() ? Number(text) : undefined);
  const text = (given: string) => given.trim() || undefined;
  const budget = filled({ tokens: number(fields.tokens), seconds: number(fields.seconds), branches: number(fields.branches) });
  const led = filled({
    strategy: text(fields.strategy), decoding: text(fields.decoding), answer: text(fields.answer),
    verifiers: verifiers.length ? verifiers : undefined, budget: Object.keys(budget).length ? budget : undefined,
  });
  return filled({ max_tokens: number(fields.maxTokens), seed: number(fields.seed), led: Object.keys(led).length ? led : undefined });
}

export function Composer({ settings, busy, blocked, follows, compact, onSend }: ComposerProps) {
  const [prompt, setPrompt] = useState("");
  const [fields, setFields] = useState<Fields>(FIELDS);
  const [verifiers, setVerifiers] = useState<string[]>([]);
  const [more, setMore] = useState(false);
  const [waiting, setWaiting] = useState(false);
  const form = useRef<HTMLFormElement>(null);
  useEffect(() => {
    if (blocked === null) return setWaiting(false);
    setWaiting(blocked > Date.now());
    const timer = setTimeout(() => setWaiting(false), Math.max(0, blocked - Date.now()));
    return () => clearTimeout(timer);
  }, [blocked]);
  const ready = prompt.trim() !== "" && !busy && !waiting; // settings that are still to come need not be waited for
  const send = async () => {
    if (!ready || !form.current?.reportValidity()) return;
    if (await onSend({ prompt, rest: rest(fields, verifiers) })) setPrompt((now) => (now === prompt ? "" : now)); // what was typed meanwhile stays
  };
  const field = (name: keyof Fields) => ({
    value: fields[name],
    onInput: (event: { currentTarget: { value: string } }) => setFields({ ...fields, [name]: event.currentTarget.value }),
  });

  return (
    <form
      ref={form} class={compact ? "composer compact" : "composer"} aria-label="ask"
      onSubmit={(event) => (event.preventDefault(), void send())}
    >
      {more && settings && (
        <fieldset class="fields">
          <legend class="unseen">settings</legend>
          <label>
            reference answer
            <input {...field("answer")} placeholder="none: nothing is compared" data-testid="answer" />
          </label>
          <label>
            strategy
            <input {...field("strategy")} list="strategies" placeholder={settings.default.strategy} data-testid="strategy" />
          </label>
          <label>
            decoding
            <input {...field("decoding")} list="decodings" placeholder={settings.default.decoding} data-testid="decoding" />
          </label>
          <label>
            tokens a branch
            <input {...field("maxTokens")} type="number" min={1} max={settings.limits.max_tokens} placeholder={`up to ${settings.limits.max_tokens}`} data-testid="max-tokens" />
          </label>
          <label>
            budget: tokens
            <input {...field("tokens")} type="number" min={1} placeholder="no limit" data-testid="budget-tokens" />
          </label>
          <label>
            budget: seconds
            <input {...field("seconds")} type="number" min={0.1} step="any" max={settings.limits.seconds} placeholder={`up to ${settings.limits.seconds}`} data-testid="budget-seconds" />
          </label>
          <label>
            budget: branches
            <input {...field("branches")} type="number" min={1} placeholder="no limit" data-testid="budget-branches" />
          </label>
          <label>
            seed
            <input {...field("seed")} type="number" min={0} max={Number.MAX_SAFE_INTEGER} placeholder="0" data-testid="seed" />
          </label>
          {settings.verifiers.length > 0 && (
            <div class="wide" role="group" aria-label="verifiers">
              <span class="quiet">verifiers</span>
              {settings.verifiers.map((name) => (
                <label key={name} class="check">
                  <input
                    type="checkbox" checked={verifiers.includes(name)} data-testid={`verifier-${name}`}
                    onChange={(event) => setVerifiers(event.currentTarget.checked ? [...verifiers, name] : verifiers.filter((each) => each !== name))}
                  />
                  {flat(name, 40)}
                </label>
              ))}
            </div>
          )}
          <datalist id="strategies">{settings.strategies.map((name) => <option key={name} value={name} />)}</datalist>
          <datalist id="decodings">{settings.decodings.map((name) => <option key={name} value={name} />)}</datalist>
        </fieldset>
      )}
      <div class="ask">
        <textarea
          rows={compact ? 2 : 4} value={prompt} aria-label="problem" data-testid="prompt"
          placeholder={follows ? "ask on …" : settings?.example ? `for example: ${settings.example}` : "a problem"}
          onInput={(event) => setPrompt(event.currentTarget.value)}
          onKeyDown={(event) => {
            if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
              event.preventDefault();
              void send();
            }
          }}
        />
        <div class="buttons">
          <button type="submit" class="primary" disabled={!ready} title="Ctrl+Enter or ⌘+Enter" data-testid="send">{busy ? "sending" : follows ? "ask on" : "solve"}</button>
          <button type="button" aria-expanded={more} onClick={() => setMore(!more)} data-testid="settings-toggle">settings</button>
        </div>
      </div>
    </form>
  );
}
