"""What a person sees in a terminal: the tree, and a search while it goes on. Rich renders; nothing here decides."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text
from rich.tree import Tree as RichTree

from led_agent.events import Decoded, Event, Judged, Started
from led_agent.protocols import BranchProgress
from led_agent.solution import Solution
from led_agent.tree import ROOT, Node, Tree
from led_agent.types import Branch, Confidence

__all__ = ["LinesView", "LiveView", "render_solution", "render_tree", "status_text"]

_STYLES = {
    "accepted": "bold green",
    "rejected": "red",
    "open": "yellow",
    "expanded": "cyan",
    "pruned": "dim",
    "failed": "bold red",
    "growing": "blue",
}
_SHOWN_ROWS = 24
_OTHER_COLUMNS = 72  # characters of the live table beside the text


def status_text(node: Node) -> Text:
    """A node's status in its colour."""
    name: str = "growing" if node.pending else node.status
    if name == "open":
        name = node.verdict.status if node.verdict else "unverified"
    return Text(name, style=_STYLES.get(name, "yellow"))


def _flat(text: str) -> str:
    """On one line, and without control characters: what a model writes must not steer the terminal."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _start(text: str, width: int) -> str:
    flat = _flat(text[: 4 * width])
    return flat if len(flat) <= width else flat[: width - 1] + "…"


def _end(text: str, width: int) -> str:
    flat = _flat(text[-4 * width :])
    return flat if len(flat) <= width else "…" + flat[-(width - 1) :]


def _node_line(node: Node, width: int) -> Text:
    line = Text(no_wrap=True, overflow="ellipsis")
    line.append(f"{node.id} ", style="bold")
    line.append_text(status_text(node))
    if node.verdict is not None and node.verdict.answer:
        line.append(f"  {_start(node.verdict.answer, 30)}", style="bold")
    if node.request is not None:
        line.append(f"  {node.request.decoding.label}", style="dim")
        if node.purpose != "explore":
            line.append(f"  {node.purpose}: {node.request.trigger}", style="magenta")
    if node.branch is not None:
        explored = sum(node.branch.explored)
        total = len(node.branch.token_ids)
        share = f", {explored / total:.0%} explored" if explored else ""
        line.append(f"  {total} tokens{share}", style="dim")
        if node.branch.rollbacks:
            line.append(f"  {_turned_back(node.branch)}", style="magenta")
    if node.reason:
        line.append(f"  {_start(node.reason, 60)}")
    if node.branch is not None and node.branch.text:
        line.append(f"  “{_end(node.branch.text, width)}”", style="italic")
    return line


def _turned_back(branch: Branch) -> str:
    """The guard's work in a few words: ``turned back at 96 to 64 (logprob -5.2 < -3) for good``."""
    told = []
    for event in branch.rollbacks:
        sign = "<" if event.cause == "logprob" else ">" if event.cause in ("entropy", "length") else "≥"
        measured = f" {event.measured:.3g} {sign} {event.threshold:.3g}" if event.cause != "nonfinite" else ""
        told.append(f"at {event.at} to {event.back_to} ({event.cause}{measured}){' for good' * event.lasting}")
    return f"turned back {', '.join(told)}"


def render_tree(tree: Tree, *, width: int = 60) -> RichTree:
    """The whole tree: a line a branch, with status, decoding, verdict and the end of its text."""
    title = Text(_start(tree.problem.text, 100), style="bold")
    top = RichTree(title)
    for note in tree[ROOT].notes:
        top.add(Text(note, style="bold red"))
    places = {ROOT: top}
    for node in tree.nodes():
        places[node.id] = places[node.parent or ROOT].add(_node_line(node, width))
    return top


def render_solution(solution: Solution) -> RenderableType:
    """Answer, standing and cost."""
    usage = solution.usage
    standing = Text("verified", style="bold green") if solution.verified else Text("not verified", style="bold yellow")
    rate = f", {usage.generated_tokens / usage.seconds:.0f} tokens/s" if usage.seconds > 0 else ""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", justify="right")
    table.add_column()
    table.add_row("answer", Text(solution.answer if solution.answer is not None else "none", style="bold"))
    table.add_row("standing", standing)
    table.add_row("why", Text(solution.reason))
    if solution.confidence is not None:
        table.add_row("agreement", Text(_agreement(solution.confidence)))
    table.add_row(
        "cost",
        Text(
            f"{usage.branches} branches, {usage.generated_tokens} tokens (+ {usage.prefill_tokens} of the prompt), "
            f"{usage.verifier_calls} verifier calls, {usage.seconds:.1f} s{rate}"
        ),
    )
    return table


def _agreement(found: Confidence) -> str:
    told = f"{found.votes} of {found.of} answers are {_start(found.answer, 40)}, entropy {found.entropy:.2f} nat"
    likely = f", log-probability {found.logprob:.2f} a token" if found.logprob is not None else ""
    if not found.calibrated:
        return f"{told}{likely}"
    return f"{told}{likely}: right with probability {found.probability:.2f}"


@dataclass
class LinesView:
    """For logs and pipes: a line for each branch that is done."""

    console: Console

    def __call__(self, tree: Tree, event: Event | BranchProgress) -> None:
        if isinstance(event, Started):
            self.console.print(Text(f"problem {tree.problem.key}: {_start(tree.problem.text, 80)}"))
        elif isinstance(event, Judged):
            self.console.print(_node_line(tree[event.id], 40))
        elif isinstance(event, Decoded) and event.branch.finish in ("error", "cancelled"):
            self.console.print(_node_line(tree[event.branch.id], 40))

    def __enter__(self) -> LinesView:
        return self

    def __exit__(self, *_: object) -> None:
        return None


@dataclass
class LiveView:
    """For terminals: branches as they grow, tokens per second, verdicts as they fall."""

    console: Console
    header: str
    _live: Live | None = None
    _growing: dict[str, BranchProgress] = field(default_factory=dict)
    _tokens: int = 0
    _began: float = field(default_factory=time.monotonic)
    _tree: Tree | None = None
    _nodes: Sequence[Node] = ()  # read where the tree is written: frames are made in a thread of rich's

    def __enter__(self) -> LiveView:
        self._live = Live(console=self.console, get_renderable=self.frame, refresh_per_second=8, transient=True)
        self._live.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.__exit__(None, None, None)
            self._live = None

    def __call__(self, tree: Tree, event: Event | BranchProgress) -> None:
        if isinstance(event, BranchProgress):
            before = self._growing.get(event.id)
            self._tokens += event.tokens - (before.tokens if before else 0)
            self._growing[event.id] = event
        elif isinstance(event, Started):
            self._tree, self._began = tree, time.monotonic()
        elif isinstance(event, Decoded):
            before = self._growing.pop(event.branch.id, None)
            spent = len(event.branch.token_ids) + event.branch.discarded
            self._tokens += spent - (before.tokens if before else 0)
        if not isinstance(event, BranchProgress):
            self._nodes = tree.nodes()[-_SHOWN_ROWS:]

    def frame(self) -> RenderableType:
        """What is shown now."""
        tree = self._tree
        if tree is None:
            return Text(self.header)
        seconds = max(time.monotonic() - self._began, 1e-3)
        title = Text(f"{self.header}   {seconds:.0f} s   {self._tokens} tokens   {self._tokens / seconds:.0f} tokens/s")
        table = Table(expand=True, show_edge=False, pad_edge=False)
        for name, width in (("branch", 8), ("status", 11), ("tokens", 7), ("verdict", 34)):
            table.add_column(name, width=width, no_wrap=True)
        table.add_column("text", ratio=1, no_wrap=True)
        for node in self._nodes:
            table.add_row(*self._row(node))
        return Group(title, Text(_start(tree.problem.text, 100), style="bold"), table)

    def _row(self, node: Node) -> tuple[RenderableType, ...]:
        growing = self._growing.get(node.id)
        text = growing.text if growing else node.branch.text if node.branch else ""
        tokens = growing.tokens if growing else len(node.branch.token_ids) if node.branch else 0
        mark = f"{node.id} ↩" if node.purpose != "explore" else node.id
        return (
            Text(mark),
            status_text(node),
            Text(str(tokens)),
            Text(_start(node.reason, 34)),
            Text(_end(text, max(20, self.console.width - _OTHER_COLUMNS))),
        )
