"""Entropy branching: fork where the model was least sure of its next token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from led_agent.errors import UsageError
from led_agent.strategies._forking import fork, spot
from led_agent.strategies._inner import place
from led_agent.tree import Node, Tree
from led_agent.types import DecodeRequest

__all__ = ["EntropyBranching"]


@dataclass(frozen=True)
class EntropyBranching:
    """A few branches from the prompt, then forks inside them: at the positions where the recorded entropy of the final
    posterior was highest, each with another token than was drawn there, until there are ``n`` branches in all.

    Forks go in rounds, each of which doubles the branches: the most uncertain positions of all branches from before the
    round are taken, so that the tree depends neither on slots nor on the order of results. A fork decodes its own tail
    only: the prefix's keys and values are there already. Rejected branches are forked as well as undecided ones.
    Forking at the tokens of high entropy: Wang et al., "Beyond the 80/20 Rule: High-Entropy Minority Tokens Drive
    Effective Reinforcement Learning for LLM Reasoning", 2025; branching there while sampling: Hou et al., "TreeRL",
    2025.

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
        nodes = [node for node in tree.nodes() if node.purpose in ("explore", "fork")]
        asked = len(nodes)
        begun = self.roots  # branches when this round began
        while begun * 2 <= asked:
            begun *= 2
        if any(not node.settled for node in nodes[:begun]):
            return []
        taken = self._ranked(tree, nodes[:begun])[: min(slots, self.n - asked, begun * 2 - asked)]
        if not taken and asked < self.n and not tree.unsettled():
            # This round can't be filled: all that is known counts for the next fork.
            taken = self._ranked(tree, nodes)[:1]
        return tree.numbered(fork(tree, node, at, entropy) for entropy, node, at in taken)

    def finished(self, tree: Tree) -> bool:
        return bool(tree.accepted())

    def _ranked(self, tree: Tree, nodes: list[Node]) -> list[tuple[float, Node, int]]:
        """Where these branches may be forked, the most uncertain positions first."""
        spots = [spot for node in nodes for spot in self._spots(tree, node)]
        return sorted(spots, key=lambda spot: (-spot[0], place(spot[1]), spot[2]))

    def _spots(self, tree: Tree, node: Node) -> list[tuple[float, Node, int]]:
        """Where a branch may be forked: entropy, node and position, without those that are forked already."""
        near = [child.request.keep or 0 for child in tree.children(node.id, purpose="fork") if child.request]
        spots: list[tuple[float, Node, int]] = []
        while len(near) < self.forks and (found := spot(node, near, self.gap)) is not None:
            entropy, at = found
            spots.append((entropy, node, at))
            near.append(at)
        return spots
