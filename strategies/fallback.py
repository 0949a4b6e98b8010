"""The ladder: explore, verify, prune, repair, decode conservatively, and at last give the answer that most agree on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from led_agent.comparing import complete
from led_agent.errors import UsageError
from led_agent.protocols import Strategy
from led_agent.strategies._inner import check_inner, chosen_by, finished_by, place, pruned_by
from led_agent.strategies._steps import at_least
from led_agent.strategies.best_of_n import BestOfN
from led_agent.strategies.repair import REPAIR, repairs
from led_agent.tree import ROOT, Node, Tree
from led_agent.types import DecodeRequest, Decoding

__all__ = ["Fallback"]

_CALM = "fallback"
_INNER = "inner"


@dataclass(frozen=True)
class Fallback:
    """Run ``inner``; when all its answers were rejected, climb down rung by rung until one is accepted:

    1. explore and verify: ``inner``, with the search's decoding;
    2. prune: a step of which ``dead_end`` answers or more came, all of them rejected, is given up;
    3. repair: the best rejected answer is put to the model again with the verifier's reason (see ``Repair``);
    4. conservative decoding: exploration and noise off, from the deepest sound node (a step that was gone on from and
       not given up), else from the prompt; greedily first, then plainly at ``temperature``. The greedy try is left out
       where a greedy branch from the same node has failed: it would be the same branch;
    5. the answer that most branches agree on, unverified, with its confidence (``Solution.confidence``).

    Each rung is bounded, bears its purpose and trigger on the tree, and is switched off by a 0 (or ``vote=False``). A
    model that can't be asked about what it has said is not asked to repair, and the next rung's trigger says so.

    Attributes:
        inner: The exploring strategy.
        dead_end: Rejected answers from which on a step is given up; 0 never does.
        repairs: Repairs, at most; 0 is none.
        tries: Conservative branches, at most; 0 is none.
        temperature: Of the tries after the greedy one.
        vote: Whether answers are counted at the end; without it the best is the verifiers', then the likeliest.

    Raises:
        UsageError: a number is negative, temperature isn't above 0, or inner is no strategy.
    """

    inner: Strategy = field(default_factory=BestOfN)
    tries: int = 3
    temperature: float = 0.3
    repairs: int = 2
    dead_end: int = 3
    vote: bool = True

    def __post_init__(self) -> None:
        at_least(self, 0, "tries", "repairs", "dead_end")
        if not self.temperature > 0:
            raise UsageError(f"Fallback needs a temperature above 0, found {self.temperature}")
        check_inner(self, self.inner)

    def propose(self, tree: Tree, slots: int) -> Sequence[DecodeRequest]:
        wanted = list(self.inner.propose(tree.part(_INNER), slots))
        if wanted or slots < 1 or not self._has_failed(tree):
            return wanted
        asked_again = repairs(tree, self.repairs, 1, slots) if self.repairs else []
        return asked_again or self._calm(tree)

    def prune(self, tree: Tree) -> Sequence[tuple[str, str]]:
        """What the inner strategy gives up; and once it is through, steps that lead nowhere."""
        found = pruned_by(self.inner, tree.part(_INNER))
        if self.dead_end and not found and self._has_failed(tree) and not self.inner.propose(tree.part(_INNER), 1):
            found = [
                (node.id, f"all of its {count} answers were rejected")
                for node in tree.nodes()
                if node.status == "expanded" and (count := _rejected_below(tree, node)) >= self.dead_end
            ]
        return found

    def finished(self, tree: Tree) -> bool:
        if any(node.purpose in (_CALM, REPAIR) for node in tree.accepted()):
            return True
        return finished_by(self.inner, tree.part(_INNER))

    def choose(self, tree: Tree) -> str | None:
        if self.vote:
            return chosen_by(self.inner, tree.part(_INNER))
        best = tree.best()
        return best.id if best is not None else None

    def _has_failed(self, tree: Tree) -> bool:
        """Whether everything is settled, and no answer is left that might be right."""
        if tree.unsettled() or tree.accepted() or not tree.leaves():
            return False
        return all(node.status == "rejected" for node in complete(tree))

    def _calm(self, tree: Tree) -> list[DecodeRequest]:
        done = sum(node.purpose == _CALM for node in tree.nodes())
        if done >= self.tries:
            return []
        base = _deepest_sound(tree)
        greedy = any(n.request is not None and n.request.decoding.is_greedy for n in tree.children(base))
        decoding = Decoding.plain(self.temperature) if greedy else Decoding.greedy()
        failed = sum(leaf.status in ("rejected", "failed") for leaf in tree.leaves())
        trigger = f"{failed} of {len(tree.leaves())} branches rejected or failed"
        if self.repairs and not tree.started.follow_up:
            trigger += "; this model can't be asked to repair"
        return tree.requests(1, parent=base, decoding=decoding, purpose=_CALM, trigger=trigger)


def _rejected_below(tree: Tree, node: Node) -> int:
    """How many answers below a step were rejected."""
    count = 0
    for child in tree.children(node.id):
        count += child.status == "rejected" and child.branch is not None
        count += _rejected_below(tree, child)
    return count


def _deepest_sound(tree: Tree) -> str:
    """The deepest node that was gone on from and not given up, with room for more; of equals the first on the tree;
    else the root."""
    sound = [node for node in tree.nodes() if node.status == "expanded" and tree.room(node.id) > 0]
    return min(sound, key=lambda node: (-tree.depth(node.id), place(node))).id if sound else ROOT
