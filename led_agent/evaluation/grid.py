"""Runs every setting on every problem, each in a folder of its own, and reads what came of it.

This file knows searches and folders. It does not know figures, nor how anything is shown.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from led_agent.errors import UsageError
from led_agent.evaluation.outcomes import Outcome, Truth, outcome_of, samples_independently
from led_agent.evaluation.tasks import Task
from led_agent.judging import judge
from led_agent.local import LocalDecoder
from led_agent.models import default_model
from led_agent.protocols import Decoder, Strategy, Verifier
from led_agent.runs import RunFolder
from led_agent.search import DefaultVerifiers, Search
from led_agent.solution import Solution
from led_agent.strategies import BestOfN
from led_agent.strategies.named import strategy_name
from led_agent.tree import summary_verdict
from led_agent.types import Branch, Budget, Decoding, Problem, Verdict
from led_agent.verifiers.named import parse_verifier

__all__ = ["Done", "Grid", "Plan", "Setting"]

_READERS = 4  # threads that compare answers: those wait for worker processes


@dataclass(frozen=True)
class Setting:
    """A strategy with a decoding. ``decoding`` is as it was given; None is the search's default."""

    strategy: Strategy
    decoding: str | None = None

    @property
    def strategy_name(self) -> str:
        return strategy_name(self.strategy)

    @property
    def decoding_name(self) -> str:
        return self.decoding or "default"

    @property
    def name(self) -> str:
        return f"{self.strategy_name}, {self.decoding_name}"

    @property
    def samples(self) -> int | None:
        """How many independent samples it draws of a problem; None where its branches are none."""
        one = self.strategy
        return one.n if isinstance(one, BestOfN) and samples_independently(one) else None

    @property
    def evaluated(self) -> Strategy:
        """The strategy as it is run: what samples independently draws all its samples."""
        return replace(self.strategy, stop_at_first=False) if isinstance(self.strategy, BestOfN) else self.strategy

    @property
    def folder(self) -> str:
        digest = hashlib.blake2b(f"{self.evaluated!r}\n{self.decoding}".encode(), digest_size=3).hexdigest()
        return f"{re.sub(r'[^A-Za-z0-9.=]+', '-', self.name).strip('-')[:80]}-{digest}"


@dataclass(frozen=True)
class Plan:
    """What is evaluated, and with what.

    Attributes:
        blind: The search is told nothing of the truth, which judges afterwards.
        verifiers: Names of verifiers. For a problems file they are the truth, unless ``blind``; else they are asked
            before the truth, so that they can rank what it rejects.

    Raises:
        UsageError: no setting, two of the same, a bad name, or problems with nothing that says whether they are solved.
    """

    task: Task
    settings: tuple[Setting, ...]
    model: str | None = None
    budget: Budget = field(default_factory=Budget)
    seed: int = 0
    max_tokens: int = 512
    verifiers: tuple[str, ...] = ()
    blind: bool = False
    device: str = "auto"
    dtype: str = "auto"
    slots: int = 16

    def __post_init__(self) -> None:
        if not self.settings:
            raise UsageError("there is no setting to evaluate; give at least one strategy")
        names = [setting.name for setting in self.settings]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise UsageError(f"the setting {twice!r} is given twice; each must be another one")
        for setting in self.settings:
            self.decoding_of(setting)
        self.named()
        if self.task.truth is None and (self.blind or not self.verifiers):
            self._refuse_untold()

    def _refuse_untold(self) -> None:
        chosen = DefaultVerifiers()
        untold = [problem for problem in self.task.problems if not chosen(problem)]
        if untold:
            raise UsageError(
                f"nothing says whether {len(untold)} of {len(self.task.problems)} problems are solved, the first "
                f"{untold[0].key!r}: give them an answer or tests, or name a verifier with --verifier"
            )

    def named(self) -> list[Verifier]:
        """The verifiers asked for by name, made anew: each search closes its own."""
        return [parse_verifier(name) for name in self.verifiers]

    def decoding_of(self, setting: Setting) -> Decoding | None:
        return Decoding.parse(setting.decoding) if setting.decoding is not None else None

    def record(self, setting: Setting) -> dict[str, Any]:
        """What must be the same for a setting to be resumed."""
        decoding = self.decoding_of(setting)
        return {
            "task": self.task.name,
            "model": self.model or default_model(),
            "strategy": repr(setting.evaluated),
            "decoding": decoding.model_dump(mode="json") if decoding is not None else "by the model",
            "seed": self.seed,
            "max_tokens": self.max_tokens,
            "budget": self.budget.model_dump(),
            "verifiers": list(self.verifiers),
            "blind": self.blind,
        }


@dataclass(frozen=True)
class Done:
    """A setting, and what became of the problems that are finished, in the task's order."""

    setting: Setting
    outcomes: tuple[Outcome, ...]


class Grid:
    """One evaluation: settings one after another, with one model.

    Args:
        plan: What is evaluated.
        out: The folder; each setting has a run's folder in it. What is finished there is not run again.
        tell: Called with each solution that is new, and for those that were there with None.
        decoder: Used in place of loading the plan's model, and not closed.
    """

    def __init__(
        self,
        plan: Plan,
        out: Path,
        *,
        tell: Callable[[Setting, Solution | None], None] = lambda _setting, _solution: None,
        decoder: Decoder | None = None,
    ) -> None:
        self.plan, self.out, self._tell, self._decoder = plan, out, tell, decoder
        self._stopping = threading.Event()
        self._search: Search | None = None

    def stop(self) -> None:
        """End soon, from any thread or signal handler; what is finished counts."""
        self._stopping.set()
        if self._search is not None:
            self._search.stop()

    @property
    def stopped(self) -> bool:
        return self._stopping.is_set()

    def run(self) -> Iterator[Done]:
        """Each setting once it is done, or as far as it got before a stop.

        Raises:
            UsageError: a folder holds a run with other settings, or the model can't do what a setting asks.
            ModelError, MachineError: as ``Search``.
        """
        with ExitStack() as stack:
            # All are opened before any is run: settings that don't agree with a folder are refused at once.
            folders = [
                stack.enter_context(RunFolder(self.out / setting.folder, self.plan.record(setting)))
                for setting in self.plan.settings
            ]
            pairs = list(zip(self.plan.settings, folders, strict=True))
            decoder = self._ready(stack, [s for s, folder in pairs if folder.remaining(self.plan.task.problems)])
            for setting, folder in pairs:
                self._solve(setting, folder, decoder)
                yield Done(setting, self._read(setting, folder))

    def _ready(self, stack: ExitStack, unfinished: Sequence[Setting]) -> Decoder | None:
        """The decoder, once it has agreed to every setting that is to be run."""
        if self._decoder is None and unfinished:
            plan = self.plan
            loaded = LocalDecoder.load(plan.model, device=plan.device, dtype=plan.dtype, slots=plan.slots)
            self._decoder = stack.enter_context(closing(loaded))
        for setting in unfinished:
            with self._made(setting, self._decoder, None) as search:
                search.prepare()
        return self._decoder

    def _made(self, setting: Setting, decoder: Decoder | None, folder: RunFolder | None) -> Search:
        plan = self.plan
        return Search(
            plan.model,
            strategy=setting.evaluated,
            verifiers=self._told(),
            decoding=plan.decoding_of(setting),
            budget=plan.budget,
            seed=plan.seed,
            max_tokens=plan.max_tokens,
            slots=plan.slots,
            decoder=decoder,
            journal=folder.journal if folder is not None else None,
        )

    def _told(self) -> list[Verifier] | None:
        """The verifiers that a search asks."""
        named = self.plan.named()
        if self.plan.blind:
            return named
        if self.plan.task.truth is not None:
            return [*named, *self.plan.task.truth()]
        return named or None

    def _solve(self, setting: Setting, folder: RunFolder, decoder: Decoder | None) -> None:
        problems = self.plan.task.problems
        left = folder.remaining(problems)
        for _ in range(len(problems) - len(left)):
            self._tell(setting, None)
        if not left or self.stopped:
            return
        with self._made(setting, decoder, folder) as search:
            self._search = search
            solutions = search.solve_many(self._until_stopped(left), ordered=False)
            for solution in solutions:
                folder.keep(solution)
                if solution.status != "interrupted":
                    self._tell(setting, solution)
            self._search = None

    def _until_stopped(self, problems: Sequence[Problem]) -> Iterator[Problem]:
        """A stop that came before the search began is not forgotten."""
        for problem in problems:
            if self.stopped:
                return
            yield problem

    def _read(self, setting: Setting, folder: RunFolder) -> tuple[Outcome, ...]:
        """Outcomes of what is finished, from the journal: each reader builds a tree, reads it and lets it go."""
        journal = folder.journal
        keys = [p.key for p in self.plan.task.problems if p.key in folder.finished and journal.finished(p.key)]
        with ExitStack() as stack:
            truth = self._truth(stack) if self.plan.blind else None
            readers = stack.enter_context(ThreadPoolExecutor(_READERS))

            def read(key: str) -> Outcome | None:
                tree = journal.kept(key)
                if tree is None or tree.ended is None:
                    return None
                return outcome_of(Solution.of(tree, tree.ended), samples=setting.samples is not None, truth=truth)

            return tuple(outcome for outcome in readers.map(read, keys) if outcome is not None)

    def _truth(self, stack: ExitStack) -> Truth:
        """What judges a branch now, where the search was not told."""
        default = DefaultVerifiers() if self.plan.task.truth is None else None
        own = self.plan.task.truth() if self.plan.task.truth is not None else ()
        for one in own or (default.all if default is not None else ()):
            close = getattr(one, "close", None)
            if callable(close):
                stack.callback(close)

        def truth(problem: Problem, branch: Branch) -> Verdict:
            said = judge(own or (default(problem) if default is not None else ()), problem, branch)
            return summary_verdict(said) or Verdict(status="abstained", reason="nobody judged it")

        return truth
