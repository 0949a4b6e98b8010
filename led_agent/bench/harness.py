"""Interleaved comparison: in every round each arm is timed once, so that what the machine does besides hits all alike.

Pure Python: an arm is a callable, and what it computes is not known here. Figures of one round belong together; they
are compared within the round first, and summed up over the rounds afterwards.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from led_agent.errors import PluginError, UsageError, boundary
from led_agent.record import Record

__all__ = ["WARM_UP", "Arm", "ArmResult", "Comparison", "Progress", "Ratio", "Spread", "compare"]

WARM_UP = -1  # the number of the round that is not counted

Progress = Callable[[str, int, int], None]  # what is being done, how many timings are, and of how many


@dataclass(frozen=True)
class Arm:
    """One of the things compared.

    Attributes:
        name: As it is reported.
        run: Takes a round's number and does the work; how many tokens came of it, and in how many seconds.
        prepare: Loads what it needs and warms it up; by default ``run`` is called once with ``WARM_UP``.
    """

    name: str
    run: Callable[[int], tuple[int, float]]
    prepare: Callable[[], object] | None = None

    def warm_up(self) -> None:
        """Do once what is not counted."""
        if self.prepare is not None:
            self.prepare()
        else:
            self.run(WARM_UP)


class Spread(Record):
    """Figures of several rounds, summed up. Quartiles are interpolated between the figures there are."""

    median: float
    low: float
    high: float
    lower_quartile: float
    upper_quartile: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread | None:
        """None of no figures."""
        if not values:
            return None
        quartiles = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
        return cls(
            median=statistics.median(values),
            low=min(values),
            high=max(values),
            lower_quartile=quartiles[0],
            upper_quartile=quartiles[2],
        )


class ArmResult(Record):
    """What one arm did.

    Attributes:
        rates: Tokens a second, a figure a round.
        spread: Of the rates; None where there is none.
        error: Why it did not go on; its rates are those of the rounds before.
    """

    name: str
    rates: tuple[float, ...]
    spread: Spread | None
    error: str | None = None


class Ratio(Record):
    """One arm's rate over another's, round by round; only of rounds in which both were timed."""

    arm: str
    base: str
    rounds: tuple[float, ...]
    spread: Spread | None


class Comparison(Record):
    """What came of all arms.

    Attributes:
        asked: Rounds that were to be run.
        rounds: Rounds that were, from beginning to end.
        interrupted: Whether it was stopped by Ctrl-C; the round that was under way is dropped.
    """

    asked: int
    rounds: int
    interrupted: bool
    arms: tuple[ArmResult, ...]
    ratios: tuple[Ratio, ...]

    def ratio(self, arm: str, base: str) -> Ratio | None:
        """The ratio of these two, where it was asked for."""
        return next((ratio for ratio in self.ratios if (ratio.arm, ratio.base) == (arm, base)), None)


def compare(
    arms: Sequence[Arm],
    *,
    rounds: int,
    ratios: Sequence[tuple[str, str]] = (),
    progress: Progress | None = None,
) -> Comparison:
    """Time all arms in every round, each round beginning with another.

    An arm that raises is out, with its error in the result, and the others go on. Ctrl-C ends the comparison, and the
    complete rounds are kept.

    Args:
        rounds: How often each arm is timed, at most.
        ratios: Pairs (arm, base) of names to report ratios of.
        progress: Told which arm is next, and how many timings are done.

    Raises:
        UsageError: no arm, a name that is used twice or not known, or fewer than one round.
    """
    _check(arms, rounds, ratios)
    session = _Session(list(arms), rounds, progress or (lambda _doing, _done, _of: None))
    complete, interrupted = 0, False
    try:
        session.warm_up()
        while complete < rounds and session.running:
            session.round(complete)
            complete += 1
    except KeyboardInterrupt:
        interrupted = True
    return session.result(complete, ratios, interrupted=interrupted)


def _check(arms: Sequence[Arm], rounds: int, ratios: Sequence[tuple[str, str]]) -> None:
    names = [arm.name for arm in arms]
    if not names:
        raise UsageError("there is nothing to compare; give at least one arm")
    if len(set(names)) < len(names):
        raise UsageError(f"each arm needs a name of its own; found {', '.join(names)}")
    if rounds < 1:
        raise UsageError(f"rounds is {rounds}; at least 1 is needed")
    unknown = [name for pair in ratios for name in pair if name not in names]
    if unknown:
        raise UsageError(f"there is no arm {unknown[0]!r} to take a ratio of; there are {', '.join(names)}")


class _Session:
    """The arms, and what they have done so far."""

    def __init__(self, arms: list[Arm], rounds: int, tell: Progress) -> None:
        self.arms, self.rounds, self.tell = arms, rounds, tell
        self.rates: dict[str, list[float]] = {arm.name: [] for arm in arms}
        self.errors: dict[str, str] = {}
        self._done = 0

    @property
    def running(self) -> list[Arm]:
        return [arm for arm in self.arms if arm.name not in self.errors]

    def warm_up(self) -> None:
        for at, arm in enumerate(self.arms):
            self.tell("loading and warming up", at, len(self.arms))
            self._guarded(arm, arm.warm_up)
        self.tell("loading and warming up", len(self.arms), len(self.arms))

    def round(self, number: int) -> None:
        """Time every arm that still runs, beginning with another one than in the round before."""
        first = number % len(self.arms)
        for arm in [*self.arms[first:], *self.arms[:first]]:
            if arm.name not in self.errors:
                self._guarded(arm, lambda arm=arm: self._time(arm, number))  # type: ignore[misc]
            self._done += 1
            self.tell("timing", self._done, self.rounds * len(self.arms))

    def _time(self, arm: Arm, number: int) -> None:
        tokens, seconds = arm.run(number)
        if seconds <= 0:
            raise ValueError(f"{tokens} tokens in {seconds} seconds can't be")
        self.rates[arm.name].append(tokens / seconds)

    def _guarded(self, arm: Arm, action: Callable[[], None]) -> None:
        try:
            with boundary(arm.name):
                action()
        except PluginError as error:
            self.errors[arm.name] = str(error)

    def result(self, complete: int, pairs: Sequence[tuple[str, str]], *, interrupted: bool) -> Comparison:
        kept = {name: rates[:complete] for name, rates in self.rates.items()}
        ratios = []
        for arm, base in pairs:
            # An arm that failed has the rates of the first rounds only, so that what is paired is of one round.
            each = [a / b for a, b in zip(kept[arm], kept[base], strict=False)]
            ratios.append(Ratio(arm=arm, base=base, rounds=tuple(each), spread=Spread.of(each)))
        arms = [
            ArmResult(name=name, rates=tuple(rates), spread=Spread.of(rates), error=self.errors.get(name))
            for name, rates in kept.items()
        ]
        return Comparison(
            asked=self.rounds, rounds=complete, interrupted=interrupted, arms=tuple(arms), ratios=tuple(ratios)
        )
