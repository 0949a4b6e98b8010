// How text that others wrote is shown: as it is, isolated from what is around it, with every control and invisible
// character as a visible mark. Only text nodes are made, never markup.
import type { ComponentChildren } from "preact";
import { useState } from "preact/hooks";

// Controls, format and default-ignorable characters, surrogates without their other half, line and paragraph separators.
const HIDDEN = /(?![\n\t])[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}\p{Default_Ignorable_Code_Point}]/u;
const HIDDEN_RUNS = /((?![\n\t])[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}\p{Default_Ignorable_Code_Point}])\1*/gu;
const EACH_HIDDEN = new RegExp(HIDDEN.source, "gu");

const named = (character: string): string =>
  `U+${(character.codePointAt(0) ?? 0).toString(16).toUpperCase().padStart(4, "0")}`;

/** One line without hidden characters, at most `most` long: for labels, titles and what a screen reader says. */
export function flat(text: string, most: number): string {
  const cut = text.slice(0, 4 * most).replace(/\s+/gu, " ").trim();
  const plain = cut.replace(EACH_HIDDEN, (found) => `⟨${named(found).slice(2)}⟩`);
  return plain.length > most || text.length > 4 * most ? `${plain.slice(0, most - 1)}…` : plain;
}

/** The end of a text on one line. */
export function flatEnd(text: string, most: number): string {
  const cut = text.slice(-4 * most).replace(/\s+/gu, " ").trim();
  const plain = cut.replace(EACH_HIDDEN, (found) => `⟨${named(found).slice(2)}⟩`);
  return plain.length > most || text.length > 4 * most ? `…${plain.slice(1 - most)}` : plain;
}

/** Text nodes and marks. A mark says in data-n how many characters it stands for, so that places can be counted. */
export function marked(text: string): ComponentChildren {
  if (!HIDDEN.test(text)) return text;
  const parts: ComponentChildren[] = [];
  let from = 0;
  for (const found of text.matchAll(HIDDEN_RUNS)) {
    if (found.index > from) parts.push(text.slice(from, found.index));
    const one = found[1] ?? "";
    const times = found[0].length / one.length;
    parts.push(
      <span class="mark" data-n={found[0].length} title="a control or invisible character">
        {times > 1 ? `⟨${named(one)} ×${times}⟩` : `⟨${named(one)}⟩`}
      </span>,
    );
    from = found.index + found[0].length;
  }
  if (from < text.length) parts.push(text.slice(from));
  return parts;
}

/** A piece of foreign text inside a sentence. */
export const Said = ({ text, most }: { text: string; most?: number }) => (
  <bdi>{most === undefined ? marked(text) : flat(text, most)}</bdi>
);

export const WINDOW = 12_000; // characters shown at once: a screenful or more, and cheap even as one line

/** Where a window may begin or end: not inside a character of two halves. */
export function whole(text: string, at: number): number {
  const code = text.charCodeAt(at);
  return at > 0 && at < text.length && code >= 0xdc00 && code < 0xe000 ? at - 1 : at;
}

/** A long text, a window at a time. */
export function LongText({ text, label }: { text: string; label: string }) {
  const [from, setFrom] = useState(0);
  const start = whole(text, Math.min(from, Math.max(0, text.length - 1)));
  const end = whole(text, Math.min(text.length, start + WINDOW));
  return (
    <>
      <Pager from={start} to={end} of={text.length} unit="characters" step={WINDOW} onMove={setFrom} />
      <pre class="said" dir="auto" role="region" tabIndex={0} aria-label={label}>
        {marked(text.slice(start, end))}
      </pre>
    </>
  );
}

interface PagerProps {
  from: number;
  to: number;
  of: number;
  unit: string;
  step: number;
  onMove: (from: number) => void;
}

const number = new Intl.NumberFormat("en");
export const count = (value: number): string => number.format(value);
/** "1 branch", "2 branches" */
export const many = (value: number, one: string, more = `${one}s`): string => `${count(value)} ${value === 1 ? one : more}`;

export function Pager({ from, to, of, unit, step, onMove }: PagerProps) {
  if (of <= step) return null;
  const last = Math.floor((of - 1) / step) * step;
  return (
    <div class="pager" data-testid="pager">
      <button type="button" disabled={from === 0} onClick={() => onMove(0)} aria-label="first part">⇤</button>
      <button type="button" disabled={from === 0} onClick={() => onMove(Math.max(0, from - step))} aria-label="previous part">
        ‹
      </button>
      <input
        type="range" min={0} max={last} step={step} value={from} aria-label={`part of the ${unit}`}
        onInput={(event) => onMove(Number(event.currentTarget.value))}
      />
      <button type="button" disabled={to >= of} onClick={() => onMove(to)} aria-label="next part">›</button>
      <button type="button" disabled={to >= of} onClick={() => onMove(last)} aria-label="last part">⇥</button>
      <span>
        {unit} {count(from + 1)}–{count(to)} of {count(of)}
      </span>
    </div>
  );
}
