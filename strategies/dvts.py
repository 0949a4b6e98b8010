"""Diverse verifier tree search: independent trees, each going on from its best step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from led_agent.errors import UsageError
from led_agent.strategies._steps import Steps, at_least, is_step
from led_agent.strategies._values import value
from led_agent.tree import ROOT, Node, Tree
from led_agent.types import DecodeRequest

__all__ = ["DVTS"]


@dataclass(frozen=True)
class DVTS(Steps):
    """``n / width`` subtrees side by side; each draws ``width`` steps and goes on from the best one, alone.

    A beam whose places no good ancestor can take over. Beeching, Tunstall and Rush, "Scaling Test-Time Compute with
    Open Models", 2024. A subtree goes on as soon as its own steps are settled, and none looks at another, so that the
    tree does not depend on the order of results.

    Attributes:
        n: Steps that are drawn at a time, over all subtrees; a multiple of ``width``.
        width: Steps among which a subtree chooses.
        max_depth: Levels of a subtree, at most; in the last one branches go on to their end.
        stop_at_first: End at the first accepted answer.

    Raises:
        UsageError: a number is below 1, or n is no multiple of width.
    """

    n: int = 16
    width: int = 4
    max_depth: int = 64
    stop_at_first: bool = True

    def __post_init__(self) -> None:
        self._check_steps()
        at_least(self, 1, "n", "width", "max_depth")
        if self.n % self.width:
            raise UsageError(f"DVTS needs n to be a multiple of width, which is {self.width}; found {self.n}")

    def propose(self, tree: Tree, slots: int) -> Sequence[DecodeRequest]:
        if slots < 1:
            return []
        missing = self.n - len(tree.children(purpose="explore"))
        options = self.step_options if self.max_depth > 1 else {}
        requests = tree.requests(min(missing, slots), siblings=self.n, **options) if missing > 0 else []
        for found, parent in self._subtrees(tree):
            room = min(self.width - len(found), slots - len(requests))
            if room > 0 and parent != ROOT:
                options = self.step_options if tree.depth(parent) < self.max_depth - 1 else {}
                requests += tree.requests(room, parent=parent, siblings=self.width, **options)
        return requests

    def prune(self, tree: Tree) -> Sequence[tuple[str, str]]:
        doomed = []
        for parent in [ROOT, *(node.id for node in tree.nodes() if node.status == "expanded")]:
            children = tree.children(parent, purpose="explore")
            for at in range(0, len(children) - self.width + 1, self.width):
                group = children[at : at + self.width]
                best = self._best(tree, group)
                if best is not None:
                    told = f"step {best.id} of its subtree is worth {value(tree, best):.2f}"
                    doomed += [(n.id, told) for n in group if n.id != best.id and n.status == "open" and _step(n)]
        return doomed

    def finished(self, tree: Tree) -> bool:
        return self.stop_at_first and bool(tree.accepted())

    def _subtrees(self, tree: Tree) -> Iterator[tuple[list[Node], str]]:
        """The newest group of siblings of each subtree that lacks some, with their parent."""
        first = tree.children(purpose="explore")
        for at in range(0, self.n, self.width):
            group, parent = first[at : at + self.width], ROOT
            for _ in range(self.max_depth - 1):
                best = self._best(tree, group)
                if best is None:
                    break
                group, parent = tree.children(best.id, purpose="explore")[: self.width], best.id
            if len(group) < self.width:
                yield group, parent

    def _best(self, tree: Tree, group: list[Node]) -> Node | None:
        """The step that a complete group goes on from."""
        if len(group) < self.width or any(not node.settled for node in group):
            return None
        steps = [node for node in group if is_step(tree, node)]
        return max(steps, key=lambda step: (value(tree, step), -step.order), default=None)


def _step(node: Node) -> bool:
    return node.branch is not None and node.branch.finish == "step"
