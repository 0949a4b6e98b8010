"""Intervals and tests over problems: the paired bootstrap, McNemar's exact test, Holm's correction, calibration.

This file knows arrays with one row a problem. It does not know what their columns mean.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from led_agent.types import Record

__all__ = ["BINS", "RESAMPLES", "Bootstrap", "Estimate", "brier", "calibration_error", "holm", "mcnemar"]

Floats = NDArray[np.float64]

RESAMPLES = 10_000
BINS = 10
_AT_ONCE = 2_000_000  # drawn problems held in memory


class Estimate(Record):
    """A figure and its 95 % interval, and of how many problems it is."""

    value: float
    low: float
    high: float
    problems: int

    @property
    def apart_from_zero(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Bootstrap:
    """Resamples of a set of problems: how often each is drawn, the same for all figures of these problems.

    Efron and Tibshirani, "An Introduction to the Bootstrap", 1993; percentile intervals. Figures of one set of problems
    share the draws, so that their differences are paired.

    Attributes:
        drawn: Float [resamples, problems], each row adding up to the number of problems.
    """

    drawn: Floats

    @classmethod
    def of(cls, problems: int, *, seed: int = 0, resamples: int = RESAMPLES) -> Bootstrap:
        """Resamples for so many problems; the same for the same numbers."""
        rng = np.random.default_rng([seed, problems])
        drawn = np.zeros((resamples, problems))
        rows = max(1, _AT_ONCE // max(1, problems))
        for first in range(0, resamples if problems else 0, rows):
            some = min(rows, resamples - first)
            picks = rng.integers(0, problems, (some, problems)) + np.arange(some)[:, None] * problems
            drawn[first : first + some] = np.bincount(picks.ravel(), minlength=some * problems).reshape(some, problems)
        return cls(drawn)

    @property
    def problems(self) -> int:
        return int(self.drawn.shape[1])

    def mean(self, values: Sequence[float] | Floats, counted: Sequence[bool] | None = None) -> Estimate | None:
        """The mean over problems, or over those that are ``counted``; None where there is none.

        A resample without any that counts is left out.
        """
        data = np.asarray(values, dtype=np.float64)
        mask = np.ones(len(data)) if counted is None else np.asarray(counted, dtype=np.float64)
        if not mask.sum():
            return None
        of = self.drawn @ mask
        sums = self.drawn @ np.where(mask > 0, data, 0.0)
        value = float(data[mask > 0].mean())
        return _interval(value, sums[of > 0] / of[of > 0], int(mask.sum()))

    def difference(self, values: Sequence[float] | Floats, base: Sequence[float] | Floats) -> tuple[Estimate, float]:
        """The mean of ``values`` less that of ``base``, paired by problem, and the two-sided p of no difference.

        That p is twice the smaller share of resamples on one side of 0 (counting the figure itself as one of them).
        """
        apart = np.asarray(values, dtype=np.float64) - np.asarray(base, dtype=np.float64)
        means = self.drawn @ apart / len(apart)
        below, above = int((means <= 0).sum()), int((means >= 0).sum())
        p = min(1.0, 2.0 * (1 + min(below, above)) / (1 + len(means)))
        return _interval(float(apart.mean()), means, len(apart)), p

    def ratio(self, values: Sequence[float] | Floats, base: Sequence[float] | Floats) -> Estimate:
        """The sum of ``values`` over that of ``base``, which is above 0 for every problem; paired by problem."""
        over, under = np.asarray(values, dtype=np.float64), np.asarray(base, dtype=np.float64)
        return _interval(float(over.sum() / under.sum()), (self.drawn @ over) / (self.drawn @ under), len(over))

    def brier(self, probabilities: Sequence[float], solved: Sequence[bool]) -> Estimate | None:
        """Brier's score with its interval."""
        return self.mean((np.asarray(probabilities, dtype=np.float64) - np.asarray(solved, dtype=np.float64)) ** 2)

    def calibration_error(self, probabilities: Sequence[float], solved: Sequence[bool]) -> Estimate | None:
        """The expected calibration error with its interval. It is biased upwards in small samples, and so is each
        resample's."""
        if not len(probabilities):
            return None
        inside = _inside(probabilities)  # [problems, bins]
        gaps = inside * (np.asarray(probabilities) - np.asarray(solved, dtype=np.float64))[:, None]
        errors = np.abs(self.drawn @ gaps).sum(1) / len(probabilities)
        return _interval(calibration_error(probabilities, solved), errors, len(probabilities))


def _interval(value: float, resampled: Floats, problems: int) -> Estimate:
    low, high = np.percentile(resampled, [2.5, 97.5])
    return Estimate(value=value, low=float(low), high=float(high), problems=problems)


def brier(probabilities: Sequence[float], solved: Sequence[bool]) -> float:
    """Mean squared distance of a probability from what came true (Brier, 1950); 0 is best."""
    return float(np.mean([(p - s) ** 2 for p, s in zip(probabilities, solved, strict=True)]))


def calibration_error(probabilities: Sequence[float], solved: Sequence[bool]) -> float:
    """Expected calibration error over 10 bins of equal width: how far, on average, the share that came true lies from
    the mean probability of its bin (Naeini et al., 2015; Guo et al., 2017)."""
    gaps = np.asarray(probabilities, dtype=np.float64) - np.asarray(solved, dtype=np.float64)
    off: Floats = np.abs(_inside(probabilities).T @ gaps)
    return float(off.sum() / len(gaps))


def _inside(probabilities: Sequence[float]) -> Floats:
    """Which bin each probability lies in: float [problems, bins], of 0 and 1."""
    places = np.minimum((np.asarray(probabilities, dtype=np.float64) * BINS).astype(int), BINS - 1)
    inside: Floats = np.eye(BINS)[places]
    return inside


def mcnemar(gained: int, lost: int) -> float:
    """Exact two-sided p of McNemar's test: problems that only the one setting solved against those that only the other
    did, as tosses of a fair coin (McNemar, 1947). 1 where there is none of either."""
    tosses = gained + lost
    tail = sum(math.comb(tosses, i) for i in range(min(gained, lost) + 1))
    return min(1.0, 2 * tail / (1 << tosses))


def holm(ps: Sequence[float]) -> list[float]:
    """The p of several tests, corrected so that the chance of any false alarm stays what it says (Holm, 1979)."""
    order = sorted(range(len(ps)), key=lambda at: ps[at])
    corrected, highest = [0.0] * len(ps), 0.0
    for rank, at in enumerate(order):
        highest = max(highest, min(1.0, (len(ps) - rank) * ps[at]))
        corrected[at] = highest
    return corrected
