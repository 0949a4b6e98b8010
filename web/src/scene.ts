// The tree on a canvas: only what is in sight is drawn, in batches of one style each. It holds zoom and layout, and
// tells what was pointed at; what is selected or matches is told to it.
import { select } from "d3-selection";
import { type D3ZoomEvent, type ZoomBehavior, zoom, zoomIdentity, type ZoomTransform } from "d3-zoom";
import { COLUMN, type Layout, lay, type Placed, step } from "./layout";
import { type Problem, ROOT, shownStatus, withAncestors } from "./model";
import { GLYPHS, type Palette, palette, STROKES } from "./palette";
import type { Kind } from "./types";

const FONT = "12px ui-sans-serif, system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif";
const BOLD = `600 ${FONT}`;
const LABELS_FROM = 0.62; // zoom below which there is no room for labels
const LEAST = 0.004;
const MOST = 4;
const MARGIN = 36; // from the edge to what is in sight, and to what is fitted: selecting that moves nothing

export interface SceneEvents {
  pick(id: string): void;
  hover(at: { id: string; x: number; y: number } | null): void;
}

export class Scene {
  private readonly context: CanvasRenderingContext2D;
  private readonly behaviour: ZoomBehavior<HTMLCanvasElement, unknown>;
  private readonly watching: ResizeObserver;
  private colours: Palette = palette();
  private layout: Layout | null = null;
  private problem: Problem | null = null;
  private transform: ZoomTransform = zoomIdentity;
  private matches: ReadonlySet<string> | null = null;
  private only = false;
  private most = 64;
  private selected: string | null = null;
  private width = 0;
  private height = 0;
  private frame = 0;
  private touched = false; // someone has moved the view: it is theirs from then on
  private laid = "";
  private looks = -1;
  private readonly calm = matchMedia("(prefers-reduced-motion: reduce)");
  draws = 0;

  constructor(
    private readonly canvas: HTMLCanvasElement,
    private readonly events: SceneEvents,
  ) {
    const context = canvas.getContext("2d");
    if (!context) throw new Error("this browser has no 2D canvas");
    this.context = context;
    this.behaviour = zoom<HTMLCanvasElement, unknown>()
      .scaleExtent([LEAST, MOST])
      .clickDistance(4)
      .on("zoom", (event: D3ZoomEvent<HTMLCanvasElement, unknown>) => {
        this.transform = event.transform;
        if (event.sourceEvent) {
          this.touched = true;
          this.events.hover(null);
        }
        this.draw();
      });
    select(canvas).call(this.behaviour).on("dblclick.zoom", null);
    canvas.addEventListener("click", this.clicked);
    canvas.addEventListener("pointermove", this.moved);
    canvas.addEventListener("pointerleave", this.left);
    this.watching = new ResizeObserver(() => this.resized());
    this.watching.observe(canvas);
    this.resized();
  }

  dispose(): void {
    cancelAnimationFrame(this.frame);
    this.watching.disconnect();
    select(this.canvas).on(".zoom", null);
    this.canvas.removeEventListener("click", this.clicked);
    this.canvas.removeEventListener("pointermove", this.moved);
    this.canvas.removeEventListener("pointerleave", this.left);
  }

  /** Show this state of a problem; what has changed is found out here. */
  show(problem: Problem, matches: ReadonlySet<string> | null, only: boolean, selected: string | null, most: number): void {
    const other = problem !== this.problem;
    const laid = `${problem.shape} ${most} ${only && matches ? [...matches].join() : ""}`;
    const grown = problem.version !== this.looks;
    this.selected = selected;
    this.matches = matches;
    if (other) this.touched = false;
    if (other || laid !== this.laid || grown) {
      // While a tree grows its labels and sizes change as well as its shape; a layout is cheap enough for all of them.
      const anchor = other ? null : this.anchor();
      this.problem = problem;
      this.only = only;
      this.most = most;
      this.laid = laid;
      this.looks = problem.version;
      this.relay();
      this.keep(anchor);
    }
    this.draw();
  }

  recolour(): void {
    this.colours = palette();
    this.draw();
  }

  fit(): void {
    const layout = this.layout;
    if (!layout || !this.width || !this.height) return;
    const [wide, high] = [layout.right - layout.left, Math.max(1, layout.bottom - layout.top)];
    const k = Math.min(1.15, (this.width - 2 * MARGIN) / wide, (this.height - 2 * MARGIN) / high);
    const scale = Math.max(LEAST, k);
    this.to(zoomIdentity.translate(MARGIN - layout.left * scale, this.height / 2 - ((layout.top + layout.bottom) / 2) * scale).scale(scale));
    this.touched = false;
  }

  /** The first view: everything where that can be read, else the root and what is near it at a size that can. */
  private begin(): void {
    this.fit();
    const layout = this.layout;
    if (!layout || this.transform.k >= LABELS_FROM) return;
    const k = 0.8;
    const high = (layout.bottom - layout.top) * k;
    const middle = high < this.height ? (layout.top + layout.bottom) / 2 : (layout.byId.get(ROOT)?.y ?? 0);
    this.to(zoomIdentity.translate(MARGIN - layout.left * k, this.height / 2 - middle * k).scale(k));
    this.touched = false;
  }

  by(factor: number): void {
    this.touched = true;
    const here = this.selected ? this.layout?.byId.get(this.selected) : undefined;
    const at: [number, number] | undefined = here && this.visible(here) ? this.onScreen(here) : undefined;
    this.behaviour.scaleBy(select(this.canvas), factor, at);
  }

  step(from: string, key: "left" | "right" | "up" | "down"): string {
    return this.layout && this.problem ? step(this.layout, from, key, this.problem) : from;
  }

  /** Move the view no more than is needed for a node to be in it. */
  reveal(id: string): void {
    const at = this.layout?.byId.get(id);
    if (!at) return;
    const [dx, dy] = this.away(at);
    if (dx || dy) {
      this.touched = true;
      this.behaviour.translateBy(select(this.canvas), dx / this.transform.k, dy / this.transform.k);
    }
  }

  /** How far the view would have to move for a node and its label to be in it. */
  private away(at: Placed): [number, number] {
    const [x, y] = this.onScreen(at);
    const label = this.transform.k >= LABELS_FROM ? Math.min(at.width * this.transform.k, this.width / 2) : 0;
    const dx = x < MARGIN ? MARGIN - x : x + label > this.width - MARGIN ? this.width - MARGIN - label - x : 0;
    const dy = y < MARGIN ? MARGIN - y : y > this.height - MARGIN ? this.height - MARGIN - y : 0;
    return [dx, dy];
  }

  /** After a change of size: the middle of the height for what is out of sight by it; what is not does not move. */
  private recover(at: Placed): void {
    const [, y] = this.onScreen(at);
    if (this.away(at)[1]) this.behaviour.translateBy(select(this.canvas), 0, (this.height / 2 - y) / this.transform.k);
    this.reveal(at.id);
    this.touched = true;
  }

  /** Where a node is on the canvas, for tests and measurements. */
  whereIs(id: string): { x: number; y: number; k: number } | null {
    const at = this.layout?.byId.get(id);
    if (!at) return null;
    const [x, y] = this.onScreen(at);
    return { x, y, k: this.transform.k };
  }

  get shown(): number {
    return Math.max(0, (this.layout?.all.length ?? 1) - 1);
  }

  // --- inside ------------------------------------------------------------------------------------------------------

  private relay(): void {
    if (!this.problem) return;
    const kept = this.only && this.matches ? withAncestors(this.problem, this.matches) : null;
    this.context.font = FONT;
    this.layout = lay(this.problem, kept, this.most, (text) => this.context.measureText(text).width);
  }

  private anchor(): { id: string; x: number; y: number } | null {
    if (!this.layout) return null;
    const wanted = this.selected ? this.layout.byId.get(this.selected) : undefined;
    let best: Placed | null = wanted && this.visible(wanted) ? wanted : null;
    if (!best) {
      let least = Infinity;
      for (const each of this.layout.all) {
        const [x, y] = this.onScreen(each);
        const far = (x - this.width / 2) ** 2 + (y - this.height / 2) ** 2;
        if (far < least) [least, best] = [far, each];
      }
    }
    if (!best) return null;
    const [x, y] = this.onScreen(best);
    return { id: best.id, x, y };
  }

  /** After a layout: the view stays where it was, by a node that was in sight; an untouched one fits itself. */
  private keep(anchor: { id: string; x: number; y: number } | null): void {
    const now = anchor && this.layout?.byId.get(anchor.id);
    if (!this.touched || !now || !anchor) return this.begin();
    const [x, y] = this.onScreen(now);
    if (x !== anchor.x || y !== anchor.y) {
      const { k } = this.transform;
      this.to(zoomIdentity.translate(this.transform.x + anchor.x - x, this.transform.y + anchor.y - y).scale(k));
    }
  }

  private to(transform: ZoomTransform): void {
    this.behaviour.transform(select(this.canvas), transform);
  }

  private onScreen(at: Placed): [number, number] {
    return [this.transform.applyX(at.x), this.transform.applyY(at.y)];
  }

  private visible(at: Placed): boolean {
    const [x, y] = this.onScreen(at);
    return x >= 0 && y >= 0 && x <= this.width && y <= this.height;
  }

  private resized(): void {
    const { clientWidth, clientHeight } = this.canvas;
    if (!clientWidth || !clientHeight) return;
    const first = !this.width;
    const here = this.selected ? this.layout?.byId.get(this.selected) : undefined;
    const seen = here && !this.away(here).some(Boolean);
    const ratio = Math.min(2, window.devicePixelRatio || 1);
    this.width = clientWidth;
    this.height = clientHeight;
    this.canvas.width = Math.round(clientWidth * ratio);
    this.canvas.height = Math.round(clientHeight * ratio);
    if (first || !this.touched) this.begin();
    if (here && seen) this.recover(here); // a legend may take another line while a tree grows
    this.paint(); // at once: a resized canvas is empty until then
  }

  private readonly clicked = (event: MouseEvent) => {
    if (event.defaultPrevented) return;
    const hit = this.at(event);
    if (!hit) return;
    this.events.hover(null);
    this.events.pick(hit.id);
  };

  private readonly moved = (event: PointerEvent) => {
    if (event.pointerType === "touch" || event.buttons) return;
    const hit = this.at(event);
    this.canvas.style.cursor = hit ? "pointer" : "grab";
    this.events.hover(hit ? { id: hit.id, x: event.offsetX, y: event.offsetY } : null);
  };

  private readonly left = () => this.events.hover(null);

  private at(event: MouseEvent): Placed | null {
    if (!this.layout) return null;
    const { k } = this.transform;
    const [x, y] = this.transform.invert([event.offsetX, event.offsetY]);
    const labels = k >= LABELS_FROM;
    let best: Placed | null = null;
    let least = Infinity;
    for (const each of this.layout.all) {
      const dy = Math.abs(each.y - y);
      if (dy > each.r + 12 / k) continue;
      const reach = each.r + 5 / k;
      const far = Math.hypot(each.x - x, each.y - y);
      const onLabel = labels && x > each.x && x < each.x + each.r + 5 + each.width && dy < 9;
      if ((far <= reach || onLabel) && far < least) [least, best] = [onLabel && far > reach ? dy + 1e3 : far, each];
    }
    return best;
  }

  private draw(): void {
    if (!this.frame) this.frame = requestAnimationFrame(() => this.paint());
  }

  private paint(): void {
    cancelAnimationFrame(this.frame);
    this.frame = 0;
    this.draws += 1;
    const { context, layout } = this;
    const ratio = this.canvas.width / Math.max(1, this.width);
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, this.width, this.height);
    if (!layout) return;
    const { x, y, k } = this.transform;
    context.setTransform(ratio * k, 0, 0, ratio * k, ratio * x, ratio * y);
    const [left, top] = this.transform.invert([0, 0]);
    const [right, bottom] = this.transform.invert([this.width, this.height]);
    const labels = k >= LABELS_FROM;
    this.edges(layout, { left, right, top, bottom }, labels);
    const seen = layout.all.filter((p) => p.y + 16 >= top && p.y - 16 <= bottom && p.x + p.r + p.width >= left && p.x - 16 <= right);
    const moving = this.nodes(seen, labels);
    if (labels) this.labels(seen);
    this.marks(layout);
    if (moving && !this.calm.matches) this.draw();
  }

  private faint(each: Placed): boolean {
    return this.matches !== null && each.node !== null && !this.matches.has(each.id);
  }

  private edges(layout: Layout, box: { left: number; right: number; top: number; bottom: number }, labels: boolean): void {
    const groups = new Map<string, Placed[]>();
    for (const each of layout.all) {
      const above = each.parent;
      if (!above || !each.node || above.x > box.right || each.x < box.left) continue;
      if (Math.max(above.y, each.y) < box.top || Math.min(above.y, each.y) > box.bottom) continue;
      const name = `${each.node.kind}${this.faint(each) ? " faint" : ""}`;
      const group = groups.get(name);
      if (group) group.push(each);
      else groups.set(name, [each]);
    }
    const { context } = this;
    const { k } = this.transform;
    const thin = k < 0.25; // then dashes and curves are smaller than pixels
    for (const [name, group] of groups) {
      const [kind = "plain", faint] = name.split(" ") as [Kind, string?];
      const { width, dash } = STROKES[kind] ?? STROKES.plain;
      context.strokeStyle = this.colours.kind[kind] ?? this.colours.muted;
      context.globalAlpha = faint ? 0.22 : thin ? 0.7 : 0.9;
      context.lineWidth = thin ? 1 / k : Math.max(width, 0.8 / k);
      context.setLineDash(thin ? [] : dash);
      context.lineCap = kind.includes("noisy") && !thin ? "round" : "butt";
      context.beginPath();
      for (const each of group) this.edge(each, labels, thin);
      context.stroke();
    }
    context.setLineDash([]);
    context.globalAlpha = 1;
  }

  private edge(each: Placed, labels: boolean, thin: boolean): void {
    const above = each.parent as Placed;
    const from = above.x + above.r + (labels ? Math.min(above.width + 6, COLUMN - 50) : 0);
    const to = each.x - each.r - 1;
    this.context.moveTo(from, above.y);
    if (thin) this.context.lineTo(to, each.y);
    else {
      const bend = Math.max(18, (to - from) * 0.55);
      this.context.bezierCurveTo(from + bend, above.y, to - bend, each.y, to, each.y);
    }
  }

  private nodes(seen: readonly Placed[], labels: boolean): boolean {
    const groups = new Map<string, Placed[]>();
    for (const each of seen) {
      const name = each.node ? `${shownStatus(each.node)}${this.faint(each) ? " faint" : ""}` : "root";
      const group = groups.get(name);
      if (group) group.push(each);
      else groups.set(name, [each]);
    }
    const { context } = this;
    const { k } = this.transform;
    let moving = false;
    for (const [name, group] of groups) {
      const [status = "", faint] = name.split(" ");
      const colour = status === "root" ? this.colours.text : (this.colours.status[status] ?? this.colours.muted);
      const hollow = status === "open" || status === "pruned" || status === "pending";
      context.globalAlpha = faint ? 0.25 : 1;
      context.beginPath();
      for (const each of group) this.shape(each, status, each.r * k < 2.2);
      context.fillStyle = hollow ? this.colours.surface : colour;
      context.fill();
      context.strokeStyle = colour;
      context.lineWidth = hollow ? 2 : 1;
      if (status === "pruned") context.setLineDash([2.5, 2]);
      if (status === "pending") {
        moving = true;
        const turn = this.calm.matches ? 0 : (performance.now() / 40) % 12;
        context.setLineDash([4, 2]);
        context.lineDashOffset = -turn;
      }
      if (hollow || k > 0.3) context.stroke();
      context.setLineDash([]);
      context.lineDashOffset = 0;
      if (labels) this.glyphs(group, GLYPHS[status] ?? "", hollow ? colour : this.colours.surface);
    }
    context.globalAlpha = 1;
    return moving;
  }

  private shape(each: Placed, status: string, tiny: boolean): void {
    const { context } = this;
    const r = tiny ? Math.max(each.r, 1.2 / this.transform.k) : each.r;
    if (tiny || status === "failed") context.rect(each.x - r, each.y - r, 2 * r, 2 * r);
    else {
      context.moveTo(each.x + r, each.y);
      context.arc(each.x, each.y, r, 0, 2 * Math.PI);
    }
  }

  private glyphs(group: readonly Placed[], glyph: string, colour: string): void {
    if (!glyph) return;
    const { context } = this;
    context.fillStyle = colour;
    context.textAlign = "center";
    context.textBaseline = "middle";
    for (const each of group) {
      if (each.r < 4.2) continue;
      context.font = `700 ${Math.round(Math.min(13, each.r * 1.5))}px ui-sans-serif, system-ui, 'DejaVu Sans', sans-serif`;
      context.fillText(glyph, each.x, each.y + 0.5);
    }
    context.textAlign = "left";
  }

  private labels(seen: readonly Placed[]): void {
    const { context } = this;
    context.textBaseline = "middle";
    const space = 6;
    for (const each of seen) {
      context.globalAlpha = this.faint(each) ? 0.35 : 1;
      let x = each.x + each.r + 5;
      const put = (text: string, font: string, colour: string) => {
        if (!text) return;
        context.font = font;
        context.fillStyle = colour;
        context.fillText(text, x, each.y + 0.5);
        x += context.measureText(text).width + space;
      };
      put(each.name, FONT, each.node ? this.colours.muted : this.colours.text);
      put(each.text, BOLD, this.colours.text);
      put(each.quiet, FONT, this.colours.muted);
    }
    context.globalAlpha = 1;
  }

  /** What is selected, and rings around matches. */
  private marks(layout: Layout): void {
    const { context } = this;
    const { k } = this.transform;
    if (this.matches && this.matches.size < layout.all.length - 1) {
      context.strokeStyle = this.colours.match;
      context.lineWidth = 2 / Math.max(k, 0.5);
      context.beginPath();
      for (const id of this.matches) {
        const at = layout.byId.get(id);
        if (!at || !this.visible(at)) continue;
        const r = at.r + 2.5 / Math.max(k, 0.5);
        context.moveTo(at.x + r, at.y);
        context.arc(at.x, at.y, r, 0, 2 * Math.PI);
      }
      context.stroke();
    }
    const here = this.selected ? layout.byId.get(this.selected) : undefined;
    if (here) {
      const pad = 4 / Math.max(k, 0.5);
      context.strokeStyle = this.colours.accent;
      context.lineWidth = 2.5 / Math.max(k, 0.4);
      context.beginPath();
      const wide = k >= LABELS_FROM ? here.r + Math.min(here.width + 8, here.node && this.problem?.below(here.id).length ? COLUMN - 60 : Infinity) : here.r + pad;
      const high = Math.max(here.r, 8) + 1;
      context.roundRect(here.x - here.r - pad, here.y - high, here.r + pad + wide + pad, 2 * high, 6);
      context.stroke();
    }
  }
}
