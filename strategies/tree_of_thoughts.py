"""Tree of thoughts: proposed steps are judged, and the search goes broad or deep with the promising ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from led_agent.errors import UsageError
from led_agent.strategies._steps import Steps, at_least, is_step
from led_agent.strategies._values import value
from led_agent.strategies.beam import Level, levels, surplus, wanting
from led_agent.tree import ROOT, Node, Tree
from led_agent.types import DecodeRequest

__all__ = ["TreeOfThoughts"]


@dataclass(frozen=True)
class TreeOfThoughts(Steps):
    """``propose_n`` steps are drawn at a node and judged; breadth first keeps the best of a level, depth first goes
    down the best and comes back where nothing below is worth it.

    Yao et al., "Tree of Thoughts: Deliberate Problem Solving with Large Language Models", 2023. The judge is the
    verifiers' ``step``; without one a step is as likely as the model finds what leads to it. A group of siblings is
    judged when it is complete, so that the tree does not depend on the order of results.

    Attributes:
        method: "bfs" or "dfs".
        propose_n: Steps drawn at a node.
        keep: Breadth first: steps that are kept of a level.
        threshold: Steps of a lower value are not gone on from.
        max_depth: Branches of a path, at most; the last one goes on to its end.
        n: Depth first: branches in all, at most.
        stop_at_first: End at the first accepted answer.

    Raises:
        UsageError: no such method, or a number is below its limit.
    """

    method: Literal["bfs", "dfs"] = "bfs"
    propose_n: int = 3
    keep: int = 5
    threshold: float = 0.0
    max_depth: int = 16
    n: int = 64
    stop_at_first: bool = True

    def __post_init__(self) -> None:
        self._check_steps()
        at_least(self, 1, "propose_n", "keep", "max_depth", "n")
        if self.method not in ("bfs", "dfs"):
            raise UsageError(f"TreeOfThoughts: method is {self.method!r}; allowed are 'bfs' and 'dfs'")
        if not 0 <= self.threshold <= 1:
            raise UsageError(f"TreeOfThoughts: threshold is {self.threshold}; a value in [0, 1] is allowed")

    def propose(self, tree: Tree, slots: int) -> Sequence[DecodeRequest]:
        if self.method == "bfs":
            return wanting(self, tree, slots, self._levels(tree))
        room = min(slots, self.n - len(tree.nodes()))
        parent = self._next_parent(tree, ROOT, 0) if room > 0 else None
        if parent is None or any(node.parent != parent for node in tree.unsettled()):
            return []  # what is under way comes first
        missing = self.propose_n - len(tree.children(parent, purpose="explore"))
        options = self.step_options if tree.depth(parent) < self.max_depth - 1 else {}
        return tree.requests(min(missing, room), parent=parent, siblings=self.propose_n, **options)

    def prune(self, tree: Tree) -> Sequence[tuple[str, str]]:
        return surplus(tree, self._levels(tree)) if self.method == "bfs" else []

    def finished(self, tree: Tree) -> bool:
        return self.stop_at_first and bool(tree.accepted())

    def _levels(self, tree: Tree) -> Iterator[Level]:
        return levels(tree, self.propose_n, self.propose_n, self.max_depth, self._promising)

    def _promising(self, tree: Tree, steps: list[Node]) -> list[Node]:
        """Those that are worth going on from, the best first."""
        worth = {step.id: value(tree, step) for step in steps}
        good = [step for step in steps if worth[step.id] >= self.threshold]
        return sorted(good, key=lambda step: (-worth[step.id], step.order))[: self.keep]

    def _next_parent(self, tree: Tree, node: str, depth: int) -> str | None:
        """Depth first: the node that is to get children next; None where all is tried, or its siblings must
        be waited for."""
        children = tree.children(node, purpose="explore")[: self.propose_n]
        if depth >= self.max_depth:
            return None
        if len(children) < self.propose_n:
            return node
        if any(not child.settled for child in children):
            return None
        steps = [child for child in children if is_step(tree, child)]
        good = [step for step in steps if value(tree, step) >= self.threshold]
        for step in sorted(good, key=lambda step: (-value(tree, step), step.order)):
            found = self._next_parent(tree, step.id, depth + 1)
            if found is not None:
                return found
        return None
