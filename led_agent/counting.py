"""The end of a search in which nothing was accepted: which answer it gives.

Answers that are equal as mathematics are one answer; comparing them may take long, so that it is done in a thread, for
a while. This file knows a tree and a strategy, and nothing of decoders or of the loop.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from led_agent.confidence import Agreement, Groups, agree, candidates, votes
from led_agent.errors import PluginError, UsageError, boundary
from led_agent.protocols import Strategy
from led_agent.tree import ROOT, Tree

__all__ = ["Count", "Counted", "decide"]

_PATIENCE = 5.0  # seconds that answers may be compared


@dataclass(frozen=True)
class Counted:
    """Which of the votes are for the same answer, and what went wrong in finding that out."""

    groups: Groups
    fault: str = ""


class Count:
    """The votes of a tree's branches, and, once that is known, which are for the same answer.

    Args:
        put: Called from another thread with what was counted; give it to ``take``.
        hurry: Whether spelling must do.
    """

    def __init__(self, tree: Tree, put: Callable[[Counted], None], *, hurry: bool) -> None:
        from led_agent.verifiers.equivalence import same_readings

        self.cast = [] if tree.accepted() else votes(tree)
        self._plain = same_readings([vote.answer for vote in self.cast])
        self._put, self._until = put, time.monotonic() + _PATIENCE
        self.groups: Groups | None = self._plain if hurry or len(self._plain) < 2 else None
        if self.groups is None:
            threading.Thread(target=self._compare, name="led-count", daemon=True).start()

    def take(self, counted: Counted) -> None:
        self.groups = counted.groups

    def done(self, *, hurry: bool) -> bool:
        """Whether it is known what is equal; when time is up, or there is a hurry, what reads the same."""
        if self.groups is None and (hurry or time.monotonic() >= self._until):
            self.groups = self._plain
        return self.groups is not None

    def _compare(self) -> None:
        from led_agent.verifiers.equivalence import equivalence_groups

        try:
            counted = Counted(equivalence_groups([vote.answer for vote in self.cast]).groups)
        except Exception as error:  # noqa: BLE001 - no worker can be started, say: spelling decides, and it is noted
            counted = Counted(self._plain, f"answers were compared by their spelling: {error}")
        self._put(counted)


def decide(tree: Tree, strategy: Strategy, count: Count | None) -> Agreement | None:
    """The answer where no branch was accepted: the strategy's choice, else the best score, else the most votes. None
    where a branch was accepted, or the tree's own order is all there is."""
    if tree.accepted():
        return None
    chosen = _chosen(tree, strategy)
    if chosen is None and any(node.verdict is not None and node.verdict.score > 0 for node in candidates(tree)):
        best = tree.best()
        chosen = best.id if best is not None else None
    cast, groups = (count.cast, count.groups or ()) if count is not None else ([], ())
    found = agree(cast, groups, chosen=chosen)
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
