"""What a first verified answer costs, as figures: rows by problem and way, and means and ratios over problems.

Pure functions and records. This file does not know how anything was solved, nor how it is shown.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from led_agent.evaluation.statistics import Bootstrap, Estimate
from led_agent.record import Record
from led_agent.study.rows import Keyed

__all__ = ["ENGINE", "GENERATE", "LADDER", "WAYS", "Cost", "Costs", "Spent", "costs_of"]

GENERATE, ENGINE, LADDER = "best of N, generate", "best of N, this engine", "the default search"
WAYS = (GENERATE, ENGINE, LADDER)


class Spent(Keyed):
    """One problem in one way, until its first verified answer, or until nothing was left to try.

    Attributes:
        tokens: Generated ones, of all branches: those that were cut off when another was accepted, and what was rolled
            back, too. The prompt's are not among them.
        seconds: Wall-clock time from the question to the answer, prefill and judging included.
        errors: Branches on which a verifier failed; they count as not verified.
    """

    way: str
    problem: str
    verified: bool
    tokens: int
    seconds: float
    errors: int = 0

    @property
    def key(self) -> tuple[str, str]:
        return self.problem, self.way


class Cost(Record):
    """One way, over all problems.

    Attributes:
        verified: Share of problems with a verified answer.
        tokens, seconds: Means a problem.
        token_ratio, second_ratio: Of the sums over all problems, to those of ``generate``, with bootstrap intervals.
        errors: Branches on which a verifier failed.
    """

    way: str
    verified: Estimate
    tokens: Estimate
    seconds: Estimate
    token_ratio: Estimate
    second_ratio: Estimate
    errors: int


class Costs(Record):
    """What a study of cost found.

    Attributes:
        settings: What it was made with.
        interrupted: Whether it was ended before all was solved.
        problems: Those that were solved in all ways, of which the figures are.
        device, dtype, threads: Of the last run; threads are a CPU's.
        load: The machine's, over the minute before that run.
        versions: Of what computed, by package.
    """

    settings: dict[str, Any]
    model: str
    interrupted: bool
    problems: int
    device: str
    dtype: str
    threads: int
    load: float
    versions: dict[str, str]
    ways: tuple[Cost, ...]


def costs_of(spent: Iterable[Spent]) -> tuple[Cost, ...]:
    """Figures by way, of the problems that were solved in all of them; none where there is no such problem."""
    by_way: dict[str, dict[str, Spent]] = {way: {} for way in WAYS}
    for one in spent:
        by_way[one.way][one.problem] = one
    common = sorted(set.intersection(*(set(some) for some in by_way.values())))
    if not common:
        return ()
    bootstrap = Bootstrap.of(len(common))

    def column(way: str, name: str) -> NDArray[np.float64]:
        return np.array([float(getattr(by_way[way][problem], name)) for problem in common])

    def mean(way: str, name: str) -> Estimate:
        found = bootstrap.mean(column(way, name))
        assert found is not None  # nothing is left out, and there are problems
        return found

    return tuple(
        Cost(
            way=way,
            verified=mean(way, "verified"),
            tokens=mean(way, "tokens"),
            seconds=mean(way, "seconds"),
            token_ratio=bootstrap.ratio(column(way, "tokens"), column(GENERATE, "tokens")),
            second_ratio=bootstrap.ratio(column(way, "seconds"), column(GENERATE, "seconds")),
            errors=sum(by_way[way][problem].errors for problem in common),
        )
        for way in WAYS
    )
