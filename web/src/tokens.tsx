// A branch's text, token by token: shaded by what was measured at each, a window at a time, with neighbours of equal
// shade in one element. Keys and pointer tell the values of one token.
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { count, flat, LongText, marked, Pager, WINDOW } from "./text";
import type { Detail } from "./types";

const TOKENS = 3000; // in one window
const LEVELS = 8;

interface Measure {
  name: string;
  unit: string;
  values: (detail: Detail) => readonly number[];
  inverse?: boolean; // the lower the stronger
}

export const MEASURES: Record<string, Measure> = {
  entropy: { name: "entropy", unit: "nat", values: (d) => d.entropies },
  explored: { name: "explored or exploited", unit: "", values: (d) => d.explored },
  noise: { name: "noise scale σ", unit: "", values: (d) => d.noise },
  logprob: { name: "log-probability under the law that drew it", unit: "nat", values: (d) => d.logprobs, inverse: true },
  final: { name: "log-probability under the model's own posterior", unit: "nat", values: (d) => d.final_logprobs, inverse: true },
};

const LOWEST = -12; // nat; a token that is less likely still is as dark as it gets

interface Scale {
  level(at: number): number;
  from: string;
  to: string;
}

function scale(measure: Measure | undefined, detail: Detail): Scale | null {
  if (!measure) return null;
  const values = measure.values(detail);
  if (!values.length) return null;
  let most = 0;
  for (const value of values) most = Math.max(most, measure.inverse ? -Math.max(LOWEST, value) : value);
  const of = (value: number) => (measure.inverse ? -Math.max(LOWEST, value) : value) / (most || 1);
  const unit = measure.unit && ` ${measure.unit}`;
  return {
    level: (at) => {
      const value = values[at];
      return value === undefined || !Number.isFinite(value) ? 0 : Math.round(Math.max(0, of(value)) * LEVELS);
    },
    from: `0${unit}`,
    to: `${measure.inverse ? "−" : ""}${most.toPrecision(3)}${unit}`,
  };
}

/** The characters at which each token begins, and where the last one ends. */
function starts(pieces: readonly string[]): Uint32Array {
  const found = new Uint32Array(pieces.length + 1);
  for (let at = 0; at < pieces.length; at += 1) found[at + 1] = (found[at] ?? 0) + (pieces[at]?.length ?? 0);
  return found;
}

/** The token that holds a character. Tokens that add no text are passed over. */
function tokenAt(begin: Uint32Array, character: number): number {
  let [low, high] = [0, begin.length - 2];
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if ((begin[middle] ?? 0) <= character) low = middle;
    else high = middle - 1;
  }
  return low;
}

export function values(detail: Detail, at: number): string {
  const piece = detail.pieces?.[at];
  const told = [`token ${count(at + 1)} of ${count(detail.token_ids.length)}`, `id ${detail.token_ids[at]}`];
  if (piece !== undefined) told.push(`“${flat(JSON.stringify(piece).slice(1, -1), 40)}”`);
  const add = (name: string, list: readonly number[], digits = 3) => {
    const value = list[at];
    if (value !== undefined) told.push(`${name} ${Number.isFinite(value) ? value.toFixed(digits).replace("-", "−") : value}`);
  };
  add("entropy", detail.entropies);
  if (detail.explored.length) told.push(detail.explored[at] ? "explored" : "exploited");
  add("σ", detail.noise);
  add("log p", detail.logprobs);
  add("log p of the model", detail.final_logprobs);
  return told.join(" · ");
}

/** The window: as many whole tokens as fit both limits. */
function window(begin: Uint32Array, from: number): number {
  const last = begin.length - 1;
  let to = Math.min(from + 1, last);
  while (to < last && to - from < TOKENS && (begin[to + 1] ?? 0) - (begin[from] ?? 0) <= WINDOW) to += 1;
  return to;
}

interface Span {
  from: number; // character
  level: number;
  text: string;
  here: boolean;
  cut: boolean;
}

function spans(detail: Detail, begin: Uint32Array, from: number, to: number, scale: Scale | null, cursor: number | null): Span[] {
  const found: Span[] = [];
  const end = detail.text.length;
  for (let at = from; at < to; at += 1) {
    const piece = detail.pieces?.[at] ?? "";
    if (!piece) continue;
    const start = begin[at] ?? 0;
    const [level, here, cut] = [scale ? scale.level(at) : 0, at === cursor, start >= end];
    const last = found[found.length - 1];
    if (last && last.level === level && last.here === here && last.cut === cut) last.text += piece;
    else found.push({ from: start, level, text: piece, here, cut });
  }
  return found;
}

export function BranchText({ detail }: { detail: Detail }) {
  const [shade, setShade] = useState("entropy");
  const shown = MEASURES[shade] && !MEASURES[shade].values(detail).length ? "none" : shade;
  if (!detail.pieces) {
    return (
      <>
        <p class="hint" data-testid="no-tokenizer">
          {detail.token_ids.length
            ? "The model's tokenizer isn't at hand, so the text can't be shaded token by token."
            : "No tokens were recorded for this text."}
        </p>
        <LongText text={detail.text} label="text of the branch" />
      </>
    );
  }
  return (
    <>
      <div class="shading">
        <label>
          shade by{" "}
          <select value={shown} onChange={(e) => setShade(e.currentTarget.value)} data-testid="shade">
            <option value="none">nothing</option>
            {Object.entries(MEASURES).map(([name, measure]) => (
              <option key={name} value={name} disabled={!measure.values(detail).length}>
                {measure.name}
                {measure.values(detail).length ? "" : " (not recorded)"}
              </option>
            ))}
          </select>
        </label>
        <Legend shade={shown} detail={detail} />
      </div>
      <Shaded detail={detail} pieces={detail.pieces} shade={shown} />
    </>
  );
}

function Legend({ shade, detail }: { shade: string; detail: Detail }) {
  const found = scale(MEASURES[shade], detail);
  if (!found) return null;
  if (shade === "explored") return <span class="scale"><span class="t8 sample">explored</span> exploited</span>;
  return (
    <span class="scale">
      {found.from}
      {Array.from({ length: LEVELS + 1 }, (_, level) => <i key={level} class={`t${level}`} />)}
      {found.to}
    </span>
  );
}

function Shaded({ detail, pieces, shade }: { detail: Detail; pieces: readonly string[]; shade: string }) {
  const begin = useMemo(() => starts(pieces), [pieces]);
  const [from, setFrom] = useState(0);
  const [cursor, setCursor] = useState<number | null>(null);
  const [hover, setHover] = useState<{ token: number; x: number; y: number } | null>(null);
  const text = useRef<HTMLPreElement>(null);
  useEffect(() => (setFrom(0), setCursor(null), setHover(null)), [pieces]);
  const to = window(begin, from);
  const measured = useMemo(() => scale(MEASURES[shade], detail), [shade, detail]);
  const parts = useMemo(() => spans(detail, begin, from, to, measured, cursor), [detail, begin, from, to, measured, cursor]);
  const told = cursor ?? hover?.token ?? null;

  useEffect(() => text.current?.querySelector(".here")?.scrollIntoView({ block: "nearest" }), [cursor]);

  const pointed = (event: MouseEvent): number | null => {
    const character = characterAt(event.clientX, event.clientY);
    return character === null ? null : tokenAt(begin, character);
  };
  const onKeyDown = (event: KeyboardEvent) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (by === undefined || event.altKey || event.ctrlKey || event.metaKey) return;
    const next = Math.min(pieces.length - 1, Math.max(0, cursor === null ? from : cursor + by));
    if (next < from) setFrom(Math.max(0, from - (to - from)));
    else if (next >= to) setFrom(to);
    setCursor(next);
    event.preventDefault();
    event.stopPropagation();
  };

  return (
    <>
      <Pager from={from} to={to} of={pieces.length} unit="tokens" step={Math.max(1, to - from)} onMove={(at) => setFrom(Math.max(0, Math.min(at, pieces.length - 1)))} />
      <pre
        ref={text} class={`said tokens by-${shade}`} dir="auto" tabIndex={0} role="region" data-testid="tokens"
        aria-label="text of the branch; left and right move from token to token"
        onKeyDown={onKeyDown}
        onClick={(event) => setCursor(pointed(event))}
        onMouseMove={(event) => {
          const token = pointed(event);
          setHover(token === null ? null : { token, x: event.clientX, y: event.clientY });
        }}
        onMouseLeave={() => setHover(null)}
      >
        {parts.map((part) => (
          <span
            key={part.from} data-from={part.from}
            class={`t${part.level}${part.here ? " here" : ""}${part.cut ? " cut" : ""}`}
          >
            {marked(part.text)}
          </span>
        ))}
      </pre>
      <p class="told" aria-live="polite" data-testid="token-values">
        {told === null ? "point at a token, or use the left and right keys in the text" : values(detail, told)}
      </p>
      {hover && (
        <div class="card fixed" aria-hidden="true" style={{ left: `${Math.min(hover.x, innerWidth - 280)}px`, top: `${hover.y}px` }}>
          {values(detail, hover.token)}
        </div>
      )}
    </>
  );
}

/** Which character of the branch is under the pointer, counted through marks; null where none is. */
function characterAt(x: number, y: number): number | null {
  let node: Node | null = null;
  let offset = 0;
  if ("caretPositionFromPoint" in document) {
    const found = document.caretPositionFromPoint(x, y);
    [node, offset] = [found?.offsetNode ?? null, found?.offset ?? 0];
  } else {
    const found = (document as Document).caretRangeFromPoint?.(x, y);
    [node, offset] = [found?.startContainer ?? null, found?.startOffset ?? 0];
  }
  const element = node instanceof Element ? node : node?.parentElement;
  const span = element?.closest<HTMLElement>("[data-from]");
  const box = document.elementFromPoint(x, y)?.closest("[data-from]");
  if (!span || !node || box !== span) return null;
  let before = Number(span.dataset["from"]);
  for (const child of span.childNodes) {
    if (child === node) {
      // The caret is between two characters: the one under the pointer may be that before it.
      const range = document.createRange();
      if (offset > 0) {
        range.setStart(node, offset - 1);
        range.setEnd(node, offset);
        if ([...range.getClientRects()].some((r) => x >= r.left && x < r.right && y >= r.top && y < r.bottom)) return before + offset - 1;
      }
      return before + offset;
    }
    if (child.contains(node)) return before;
    before += child instanceof HTMLElement ? Number(child.dataset["n"]) : (child.nodeValue ?? "").length;
  }
  return before;
}
