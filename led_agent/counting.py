"""The end of a search in which nothing was accepted: which answer it gives.

Answers that are equal as mathematics are one answer; comparing them may take long, so that it is done in a thread, for
a while. This file knows a tree and a strategy, and nothing of decoders or of the loop.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from led_agent.answers import final_answer
from led_agent.confidence import Agreement, Calibration, Groups, Vote, agree, candidates, read_votes, votes
from led_agent.errors import PluginError, UsageError, boundary
from led_agent.protocols import Strategy
from led_agent.threads import start_thread
from led_agent.tree import ROOT, Tree

__all__ = ["Count", "Counted", "decide"]

_PATIENCE = 60.0  # seconds that answers may be compared: a bound, far above what a busy machine needs


@dataclass(frozen=True)
class Counted:
    """The votes, which of them are for the same answer, and what went wrong in finding that out."""

    cast: Sequence[Vote] = ()
    groups: Groups = ()
    fault: str = ""


class Count:
    """The votes of a tree's branches: what they answer, and, once that is known, which are for the same answer.

    Args:
        put: Called from another thread with what was counted; give it to ``take``.
        hurry: Whether spelling must do.
    """

    def __init__(self, tree: Tree, put: Callable[[Counted], None], *, hurry: bool) -> None:
        self._cast = [] if tree.accepted() else votes(tree)
        self._put, self._until = put, time.monotonic() + _PATIENCE
        self.counted: Counted | None = None
        # Answers that a verifier rejected are wrong, whichever of them are equal: spelling is good enough for these.
        refused = any(vote.node.status == "rejected" for vote in self._cast)
        if hurry or refused or self._is_plain():
            self.counted = self._by_spelling()
        else:
            start_thread("led-count", self._compare)

    def take(self, counted: Counted) -> None:
        self.counted = counted

    def done(self, *, hurry: bool) -> bool:
        """Whether it is known what is equal; when time is up, or there is a hurry, what reads the same."""
        if self.counted is None and (hurry or time.monotonic() >= self._until):
            self.counted = self._by_spelling()
        return self.counted is not None

    def _is_plain(self) -> bool:
        """Whether all answers are plain to see, and the same."""
        from led_agent.verifiers.equivalence import plain_answer, same_readings

        seen = [(True, v.answer) if v.answer is not None else plain_answer(v.text) for v in self._cast]
        return all(plain for plain, _ in seen) and len(same_readings([answer for _, answer in seen])) < 2

    def _by_spelling(self) -> Counted:
        from led_agent.verifiers.equivalence import same_readings

        cast = read_votes(self._cast, lambda texts: [final_answer(text) for text in texts])
        return Counted(cast, same_readings([vote.answer for vote in cast]))

    def _compare(self) -> None:
        from led_agent.verifiers.equivalence import equivalence_groups, final_answers

        try:
            cast = read_votes(self._cast, lambda texts: final_answers(texts).answers)
            counted = Counted(cast, equivalence_groups([vote.answer for vote in cast]).groups)
        except Exception as error:  # noqa: BLE001 - no worker can be started, say: spelling decides, and it is noted
            counted = replace(self._by_spelling(), fault=f"answers were compared by their spelling: {error}")
        self._put(counted)


def decide(tree: Tree, strategy: Strategy, count: Count | None, calibration: Calibration) -> Agreement | None:
    """The answer where no branch was accepted: the strategy's choice, else the best score, else the most votes. None
    where a branch was accepted, or the tree's own order is all there is."""
    if tree.accepted():
        return None
    chosen = _chosen(tree, strategy)
    if chosen is None and any(node.verdict is not None and node.verdict.score > 0 for node in candidates(tree)):
        best = tree.best()
        chosen = best.id if best is not None else None
    counted = (count.counted if count is not None else None) or Counted()
    found = agree(counted.cast, counted.groups, chosen=chosen, calibration=calibration)
    return found or (Agreement(chosen, None) if chosen is not None else None)


def _chosen(tree: Tree, strategy: Strategy) -> str | None:
    choose = getattr(strategy, "choose", None)
    if choose is None:
        return None
    try:
        with boundary(f"strategy {type(strategy).__name__}"):
            chosen: str | None = choose(tree)
            if chosen is not None and tree[chosen].branch is None:
                raise UsageError(f"it chose node {chosen!r}, which has not been decoded")
            return chosen
    except PluginError as error:
        tree.note(ROOT, str(error))
        return None
