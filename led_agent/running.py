"""One problem on its way through a search: what is in flight, what was spent, and what is still to come."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from led_agent.counting import Count
from led_agent.events import Event, RunStatus
from led_agent.journal import Journal
from led_agent.protocols import BranchProgress, Strategy, Verifier
from led_agent.purse import Purse
from led_agent.tree import Tree
from led_agent.types import Budget, Problem, Verdict

__all__ = ["Comparison", "Judgement", "Observer", "Run", "Terms"]

Observer = Callable[[Tree, Event | BranchProgress], None]


@dataclass(frozen=True)
class Terms:
    """What a problem is searched with. ``verifiers`` gives those that judge it, ``plant`` its tree, new or resumed;
    ``check`` raises where it is not to be tried."""

    strategy: Strategy
    verifiers: Callable[[Problem], tuple[Verifier, ...]]
    budget: Budget
    journal: Journal | None
    observer: Observer | None
    plant: Callable[[Problem], Tree]
    check: Callable[[Problem], None]


@dataclass(frozen=True)
class Judgement:
    """What verifiers said of a branch, and how many of them were asked."""

    id: str
    verdicts: tuple[Verdict, ...]
    asked: int


@dataclass(frozen=True)
class Comparison:
    """What the comparer at this place said."""

    at: int
    verdicts: dict[str, Verdict]


@dataclass
class Run:
    """One problem on its way: what is in flight, and why it is ending once it is.

    ``judges`` are asked about each whole answer, ``step_judges`` about each step, ``comparers`` about all answers at
    the end: ``comparing`` holds those that have not answered, by their place, and is None until they are asked;
    ``patience`` is how long they are waited for.
    Of the branches in ``reserved``, the comparers' calls are paid for.
    ``count`` is that of the votes where nothing was accepted, None until it begins.
    """

    tree: Tree
    terms: Terms
    judges: tuple[Verifier, ...]
    comparers: tuple[Verifier, ...]
    step_judges: tuple[Verifier, ...]
    deadline: float | None
    purse: Purse
    began: float = field(default_factory=time.monotonic)
    decoding: dict[str, int] = field(default_factory=dict)  # request id -> tokens so far
    judging: set[str] = field(default_factory=set)
    generated: int = 0
    prefilled: int = 0
    branches: int = 0
    verifier_calls: int = 0
    reserved: set[str] = field(default_factory=set)
    ending: tuple[RunStatus, str] | None = None
    comparing: set[int] | None = None
    patience: float | None = None
    count: Count | None = None
    stirred: bool = True  # the tree has changed since the strategy was asked what it wants
    doubtful: bool = True  # the same, since it was asked whether it is content

    def stir(self, _event: Event | None = None) -> None:
        self.stirred = self.doubtful = True

    @property
    def key(self) -> str:
        return self.tree.problem.key
