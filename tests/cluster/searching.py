"""Searches that are run here and on a cluster, and what is the same of both."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any

from led_agent import Search
from led_agent.countdown_puzzles import sample_puzzles
from led_agent.events import Decoded, Event
from led_agent.protocols import BranchProgress
from led_agent.solution import Solution
from led_agent.strategies import BestOfN
from led_agent.tree import Tree
from led_agent.types import Branch, Problem

SOON = 120  # seconds; nothing here takes so long unless it is broken

Grown = dict[tuple[str, str], tuple[tuple[int, ...], str, str, str]]


def puzzles(count: int, seed: int = 3) -> list[Problem]:
    return [Problem(id=f"p{at}", prompt=str(puzzle)) for at, puzzle in enumerate(sample_puzzles("test", count, seed))]


def searching(model: str | None = "countdown", *, n: int = 4, **options: Any) -> Search:
    """A search whose every branch is decoded to its end, so that all of them can be compared."""
    given = {"strategy": BestOfN(n, stop_at_first=False), "device": "cpu", "dtype": "float32", "slots": 4, "seed": 7}
    return Search(model, **(given | options))


def branches(solutions: Iterable[Solution]) -> dict[tuple[str, str], Branch]:
    """Every branch of every problem."""
    return {
        (solution.problem.key, node.id): node.branch
        for solution in solutions
        for node in solution.tree.nodes()
        if node.branch is not None
    }


def grown(solutions: Iterable[Solution]) -> Grown:
    """What has to be the same wherever it is decoded: tokens, text, how it ended, and what verifiers made of it."""
    return {
        (solution.problem.key, node.id): (node.branch.token_ids, node.branch.text, node.branch.finish, node.status)
        for solution in solutions
        for node in solution.tree.nodes()
        if node.branch is not None
    }


class Once:
    """An observer that does something when the first branch has ended, or first grown."""

    def __init__(self, act: Callable[[], None], *, when: type = Decoded) -> None:
        self._act, self._when = act, when
        self.done = threading.Event()

    def __call__(self, tree: Tree, event: Event | BranchProgress) -> None:
        if isinstance(event, self._when) and not self.done.is_set():
            self.done.set()
            self._act()


def until(holds: Callable[[], bool]) -> bool:
    """Look again and again, as Ray tells nobody what this waits for; whether it came."""
    over = threading.Event()
    timer = threading.Timer(SOON, over.set)
    timer.start()
    while not (held := holds()) and not over.is_set():
        over.wait(0.1)
    timer.cancel()
    return held
