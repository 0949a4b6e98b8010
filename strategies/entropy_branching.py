"""Entropy branching: fork where the model was least sure of its next token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from led_agent.errors import UsageError
from led_agent.strategies._forking import fork, spot
from led_agent.tree import Node, Tree
from led_agent.types import DecodeRequest

__all__ = ["EntropyBranching"]


@dataclass(frozen=True)
class EntropyBranching:
    """A few branches from the prompt, then forks inside them: at the positions where the recorded entropy of the final
    posterior was highest, each with another token than was drawn there, until there are ``n`` branches in all.

    A fork decodes its own tail only: the prefix's keys and values are there already. Rejected branches are forked as
    well as undecided ones. Forking at the tokens of high entropy: Wang et al., "Beyond the 80/20 Rule: High-Entropy
    Minority Tokens Drive Effective Reinforcement Learning for LLM Reasoning", 2025; branching there while sampling:
    Hou et al., "TreeRL", 2025.

    Attributes:
        n: Branches in all.
        roots: How many of them begin at the prompt.
        forks: Positions of one branch that are forked, at most.
        gap: Tokens between two forks of one branch, at least.

    Raises:
        UsageError: a number is below 1, or roots are more than n.
    """

    n: int = 8
    roots: int = 2
    forks: int = 4
    gap: int = 4

    def __post_init__(self) -> None:
        for name in ("n", "roots", "forks", "gap"):
            if getattr(self, name) < 1:
                raise UsageError(f"EntropyBranching needs {name} of at least 1, found {getattr(self, name)}")
        if self.roots > self.n:
            raise UsageError(f"EntropyBranching: roots is {self.roots}, more than n, which is {self.n}")

    def propose(self, tree: Tree, slots: int) -> Sequence[DecodeRequest]:
        if slots < 1:
            return []
        missing = self.roots - len(tree.children(purpose="explore"))
        if missing > 0:
            return tree.requests(min(missing, slots), siblings=self.roots)
        asked = len(tree.children(purpose="explore")) + sum(node.purpose == "fork" for node in tree.nodes())
        if asked >= self.n or tree.unsettled():  # the most uncertain position of all is known when all have ended
            return []
        found = sorted(
            (spot for node in tree.nodes() for spot in self._spots(tree, node)), key=lambda s: (-s[0], s[1].order, s[2])
        )
        taken = found[: min(slots, self.n - asked)]
        # Those of one parent stand together.
        placed = [s for parent in dict.fromkeys(s[1].id for s in taken) for s in taken if s[1].id == parent]
        return tree.numbered(fork(tree, node, at, entropy) for entropy, node, at in placed)

    def finished(self, tree: Tree) -> bool:
        return bool(tree.accepted())

    def _spots(self, tree: Tree, node: Node) -> list[tuple[float, Node, int]]:
        """Where a branch may be forked: entropy, node and position, without those that are forked already."""
        near = [child.request.keep or 0 for child in tree.children(node.id, purpose="fork") if child.request]
        spots: list[tuple[float, Node, int]] = []
        while len(near) < self.forks and (found := spot(node, near, self.gap)) is not None:
            entropy, at = found
            spots.append((entropy, node, at))
            near.append(at)
        return spots
