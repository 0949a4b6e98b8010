"""Ask again, with what the verifier had to say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from led_agent.comparing import complete
from led_agent.protocols import Strategy
from led_agent.strategies._asking import ask_again
from led_agent.strategies._inner import check_inner, chosen_by, finished_by, place, pruned_by
from led_agent.strategies._steps import at_least
from led_agent.strategies._values import reward
from led_agent.strategies.best_of_n import BestOfN
from led_agent.tree import Node, Tree
from led_agent.types import DecodeRequest

__all__ = ["REPAIR", "Repair", "repairs"]

REPAIR = "repair"
_INNER = "inner"


def repairs(tree: Tree, rounds: int, width: int, slots: int) -> list[DecodeRequest]:
    """The next requests of a repair that has so many rounds: of the rejected answer with the highest score, the newest
    of equals, that was not repaired yet. None where the model can't be asked again (``Started.follow_up``), something
    is still to be waited for, or an answer is there that nobody rejected."""
    asked = [node for node in tree.nodes() if node.purpose == REPAIR]
    if not tree.started.follow_up or slots < 1 or tree.unsettled():
        return []
    begun = next((node.parent for node in reversed(asked) if len(_of(tree, node.parent)) < width), None)
    answers = complete(tree)
    if begun is None and (len(asked) >= rounds * width or any(node.status != "rejected" for node in answers)):
        return []
    wrong = [node for node in answers if not _of(tree, node.id)]
    source = tree[begun] if begun is not None else max(wrong, key=_promise, default=None)
    if source is None:
        return []
    told = source.reason or "no reason was given"
    missing = width - len(_of(tree, source.id))
    return tree.requests(
        min(missing, slots),
        parent=source.id,
        siblings=width,
        prompt=ask_again(tree, source),
        purpose=REPAIR,
        trigger=f"{source.id} was rejected: {told}",
    )


def _promise(node: Node) -> tuple[float, int, list[int]]:
    """How likely an answer is to be mended: by its score; of equals what was mended last, else the last on the tree.
    Repairs come one after another, but the inner strategy's branches may have been asked for in any order."""
    return reward(node) or 0.0, node.order if node.purpose == REPAIR else -1, place(node)


def _of(tree: Tree, node: str | None) -> list[Node]:
    return tree.children(node, purpose=REPAIR) if node is not None else []


@dataclass(frozen=True)
class Repair:
    """Run ``inner``; when all its answers were rejected, ask the model again: its best answer and the verifier's reason
    (the failing test, what it got and what was expected) are put to it as a chat. What comes may be repaired in turn.

    Self-refinement by outside feedback: Chen et al., "Teaching Large Language Models to Self-Debug", 2023; Olausson et
    al., "Is Self-Repair a Silver Bullet for Code Generation?", 2023. A model that can't be asked about what it has said
    (``Started.follow_up``: the embedded ones, and those without a chat template) is not.

    Attributes:
        inner: What makes the first answers.
        rounds: How often it is asked again.
        width: Branches of a round.

    Raises:
        UsageError: a number is below 1, or inner is no strategy.
    """

    inner: Strategy = field(default_factory=lambda: BestOfN(4))
    rounds: int = 4
    width: int = 1

    def __post_init__(self) -> None:
        at_least(self, 1, "rounds", "width")
        check_inner(self, self.inner)

    def propose(self, tree: Tree, slots: int) -> Sequence[DecodeRequest]:
        wanted = list(self.inner.propose(tree.part(_INNER), slots))
        if wanted or tree.accepted():
            return wanted
        return repairs(tree, self.rounds, self.width, slots)

    def prune(self, tree: Tree) -> Sequence[tuple[str, str]]:
        return pruned_by(self.inner, tree.part(_INNER))

    def finished(self, tree: Tree) -> bool:
        return any(node.purpose == REPAIR for node in tree.accepted()) or finished_by(self.inner, tree.part(_INNER))

    def choose(self, tree: Tree) -> str | None:
        return chosen_by(self.inner, tree.part(_INNER))
