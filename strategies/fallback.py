"""The conservative fallback: when exploration has failed the verifiers, decode again without it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from led_agent.errors import UsageError
from led_agent.protocols import Strategy
from led_agent.strategies.best_of_n import BestOfN
from led_agent.tree import ROOT, Node, Tree
from led_agent.types import DecodeRequest, Decoding

__all__ = ["Fallback"]

_PURPOSE = "fallback"


@dataclass(frozen=True)
class Fallback:
    """Run ``inner``; when all its branches were rejected, re-decode conservatively, one try at a time.

    A try starts from the deepest sound node (a step that was continued and not itself given up), else from the
    prompt, with exploration off: greedily first, then plainly at ``temperature``. The greedy try is left out where a
    greedy branch from the same node has already failed: it would be the same branch.

    Attributes:
        inner: The exploring strategy.
        tries: Conservative branches, at most.
        temperature: Of the tries after the greedy one.

    Raises:
        UsageError: tries is negative or temperature isn't above 0.
    """

    inner: Strategy = field(default_factory=BestOfN)
    tries: int = 3
    temperature: float = 0.3

    def __post_init__(self) -> None:
        if self.tries < 0:
            raise UsageError(f"Fallback needs tries of at least 0, found {self.tries}")
        if not self.temperature > 0:
            raise UsageError(f"Fallback needs a temperature above 0, found {self.temperature}")

    def propose(self, tree: Tree, slots: int) -> Sequence[DecodeRequest]:
        wanted = self.inner.propose(tree, slots)
        if wanted or slots < 1 or tree.accepted() or tree.pending():
            return wanted
        failed = [leaf for leaf in tree.leaves() if leaf.status in ("rejected", "failed")]
        if not failed or any(leaf.status == "open" for leaf in tree.leaves()):
            return []
        base = _deepest_sound(tree)
        decodings = self._ladder(tree.children(base))
        done = sum(node.purpose == _PURPOSE for node in tree.nodes())
        if done >= self.tries or not decodings:
            return []
        trigger = f"{len(failed)} of {len(tree.leaves())} branches rejected or failed"
        return tree.requests(1, parent=base, decoding=decodings[0], purpose=_PURPOSE, trigger=trigger)

    def finished(self, tree: Tree) -> bool:
        if any(node.purpose == _PURPOSE for node in tree.accepted()):
            return True
        inner = getattr(self.inner, "finished", None)
        return bool(inner(tree)) if inner is not None else bool(tree.accepted())

    def _ladder(self, tried: list[Node]) -> list[Decoding]:
        greedy = any(node.request is not None and node.request.decoding.is_greedy for node in tried)
        warm = Decoding.plain(self.temperature)
        return [warm] if greedy else [Decoding.greedy(), warm]


def _deepest_sound(tree: Tree) -> str:
    """The deepest node that was continued and not given up; the oldest of equals; else the root."""
    sound = [node for node in tree.nodes() if node.status == "expanded"]
    return max(sound, key=lambda node: (tree.depth(node.id), -node.order)).id if sound else ROOT
