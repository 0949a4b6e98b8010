"""Search on steps, level by level: the best few steps of each level are gone on from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from led_agent.strategies._steps import Steps, at_least, is_step
from led_agent.strategies._values import value
from led_agent.tree import ROOT, Node, Tree
from led_agent.types import DecodeRequest

__all__ = ["Beam", "levels", "surplus", "wanting"]

Select = Callable[[Tree, list[Node]], list[Node]]


@dataclass(frozen=True)
class Beam(Steps):
    """The ``width`` best steps of each level are continued, each by ``expand`` new ones; the others are given up.

    A step is as good as its verdict says (a process reward, ``step`` of a verifier), and without one as likely as the
    model finds all that leads to it. A level is ranked when it is complete, so that the tree does not depend on the
    order of results. Self-evaluation guided beam search: Xie et al., 2023; with a process reward: Snell et al.,
    "Scaling LLM Test-Time Compute Optimally", 2024; the penalty of siblings: Li and Jurafsky, 2016.

    Attributes:
        width: Steps that are kept of a level.
        expand: Continuations of each; the first level has ``width * expand``.
        diversity: What each better sibling that is kept takes from a step's value; 0 is an ordinary beam.
        max_depth: Levels, at most; in the last one branches go on to their end.
        stop_at_first: End at the first accepted answer.

    Raises:
        UsageError: a number is below its limit.
    """

    width: int = 4
    expand: int = 4
    diversity: float = 0.0
    max_depth: int = 64
    stop_at_first: bool = True

    def __post_init__(self) -> None:
        self._check_steps()
        at_least(self, 1, "width", "expand", "max_depth")
        at_least(self, 0, "diversity")

    def propose(self, tree: Tree, slots: int) -> Sequence[DecodeRequest]:
        return wanting(self, tree, slots, self._levels(tree))

    def prune(self, tree: Tree) -> Sequence[tuple[str, str]]:
        return surplus(tree, self._levels(tree))

    def finished(self, tree: Tree) -> bool:
        return self.stop_at_first and bool(tree.accepted())

    def _levels(self, tree: Tree) -> Iterator[Level]:
        return levels(tree, self.width * self.expand, self.expand, self.max_depth, self._best)

    def _best(self, tree: Tree, steps: list[Node]) -> list[Node]:
        """The best, one after the other, equals once: what two branches say alike is one step."""
        worth = {step.id: value(tree, step) for step in steps}
        kept: list[Node] = []
        while len(kept) < self.width:
            said = {(step.parent, _said(step)) for step in kept}
            left = [step for step in steps if (step.parent, _said(step)) not in said]
            if not left:
                break
            taken = [step.parent for step in kept]
            kept.append(max(left, key=lambda s: (worth[s.id] - self.diversity * taken.count(s.parent), -s.order)))
        return kept


def _said(step: Node) -> tuple[int, ...] | str:
    return (step.branch.token_ids or step.branch.text) if step.branch is not None else ""


@dataclass(frozen=True)
class Level:
    """One level of a search: what it still lacks, and, once it is complete, its steps and those that are kept.

    Attributes:
        missing: How many more children each parent is to have, and how many in all.
        waiting: Whether something is not settled.
        last: Whether its branches go on to their end.
        steps, kept: The level's steps that could be gone on from; those that are.
    """

    missing: dict[str, tuple[int, int]]
    waiting: bool
    last: bool
    steps: list[Node]
    kept: list[Node]


def levels(tree: Tree, first: int, each: int, depth: int, select: Select) -> Iterator[Level]:
    """The levels of a tree from the root down to the first that is not complete."""
    parents = [ROOT]
    for at in range(depth):
        quota = each if at else first
        children = {name: tree.children(name, purpose="explore")[:quota] for name in parents}
        missing = {name: (quota - len(found), quota) for name, found in children.items() if len(found) < quota}
        nodes = [node for found in children.values() for node in found]
        waiting = any(not node.settled for node in nodes)
        if missing or waiting:
            yield Level(missing, waiting, at == depth - 1, [], [])
            return
        steps = [node for node in nodes if is_step(tree, node)]
        kept = select(tree, steps)
        yield Level({}, False, at == depth - 1, steps, kept)
        if not kept:
            return
        parents = [node.id for node in kept]


def wanting(steps: Steps, tree: Tree, slots: int, found: Iterator[Level]) -> list[DecodeRequest]:
    """The requests that the last level lacks."""
    *_, level = found
    requests: list[DecodeRequest] = []
    for parent, (count, of) in level.missing.items():
        room = min(count, slots - len(requests))
        if room < 1:
            break
        options = {} if level.last else steps.step_options
        requests += tree.requests(room, parent=parent, siblings=of, **options)
    return requests


def surplus(tree: Tree, found: Iterator[Level]) -> list[tuple[str, str]]:
    """The steps that were not kept, each with the reason."""
    doomed = []
    for level in found:
        kept = {step.id for step in level.kept}
        worst = min((value(tree, step) for step in level.kept), default=0.0)
        for step in level.steps:
            if step.id not in kept and step.status == "open":
                told = f"value {value(tree, step):.2f}; the {len(kept)} kept have {worst:.2f} or more"
                doomed.append((step.id, told if kept else "no step of this level is worth going on from"))
    return doomed
