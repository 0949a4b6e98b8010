"""From outcomes to figures: each setting's own, and each compared with the first one. Pure functions and records.

This file does not know how anything was run, nor how it is shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from led_agent.bulk import wilson
from led_agent.evaluation.at_k import best_at, majority_at, pass_at, powers_of_two
from led_agent.evaluation.outcomes import Outcome, Sample
from led_agent.evaluation.statistics import Bootstrap, Estimate, holm, mcnemar
from led_agent.types import Record

__all__ = ["LOGPROB", "AtK", "Difference", "Result", "compare", "measure"]

Floats = NDArray[np.float64]
Shown = Literal["higher", "lower", "not shown"]

LOGPROB = "log-probability"
_ALPHA = 0.05


class AtK(Record):
    """Expectations over k of the branches: any right; the majority right; the one of the best score right."""

    k: int
    passed: Estimate
    majority: Estimate
    best: Estimate


class Result(Record):
    """A setting on the problems that are finished, means over problems.

    Attributes:
        strategy, decoding: The setting.
        problems: How many are finished.
        solved: Share of problems whose solution the truth accepted; its interval is Wilson's, which holds at 0 and 1,
            where no resample differs.
        tokens, prefill, seconds, branches: A problem's, as in ``Outcome``.
        to_first: ``Outcome.to_first``, over the problems that have one.
        at: For k branches of n, where they are independent samples.
        ranked_by: What "the best score" is: a verifier's name, or mean log-probability.
        statuses: How the searches ended.
        errors: Branches on which a verifier failed.
        brier, calibration: Of the search's own probability that an answer that no verifier accepted is right.
    """

    strategy: str
    decoding: str
    problems: int
    solved: Estimate
    tokens: Estimate
    prefill: Estimate
    seconds: Estimate
    branches: Estimate
    to_first: Estimate | None
    at: tuple[AtK, ...]
    ranked_by: str | None
    statuses: dict[str, int]
    errors: int
    brier: Estimate | None
    calibration: Estimate | None

    @property
    def name(self) -> str:
        return f"{self.strategy}, {self.decoding}"


class Difference(Record):
    """A setting less the first one, on the problems that both finished.

    Attributes:
        metric: "solved", "tokens", "pass@k", "cons@k" or "best@k".
        setting, base: The two, by name.
        difference: The mean paired difference; tokens are a problem's.
        p: McNemar's exact test for "solved", else the bootstrap's, two-sided.
        p_corrected: Holm's correction over all that are compared in this evaluation.
        gained, lost: Problems that only the setting solved, and only the first; None for other metrics.
        shown: "higher" or "lower" where the interval excludes 0 and the corrected p is below 0.05.
    """

    metric: str
    setting: str
    base: str
    difference: Estimate
    p: float
    p_corrected: float
    gained: int | None
    lost: int | None
    shown: Shown


@dataclass(frozen=True)
class _Columns:
    """A setting's figures by metric, each float [problems], in the order of ``keys``."""

    keys: tuple[str, ...]
    by_metric: dict[str, Floats]
    ranked_by: str | None


def measure(strategy: str, decoding: str, outcomes: Sequence[Outcome], n: int | None, *, seed: int = 0) -> Result:
    """A setting's own figures.

    Args:
        n: Branches of each problem where they are independent samples; what is missing of them counts as not right.
        seed: Of the bootstrap.

    Raises:
        ValueError: there are no outcomes.
    """
    if not outcomes:
        raise ValueError("no problem is finished, so there is nothing to measure")
    columns, bootstrap = _columns(outcomes, n), Bootstrap.of(len(outcomes), seed=seed)

    def mean(metric: str) -> Estimate:
        return _known(bootstrap.mean(columns.by_metric[metric]))

    firsts = [o.to_first for o in outcomes]
    sure = [o for o in outcomes if o.probability is not None]
    among = Bootstrap.of(len(sure), seed=seed)
    probabilities, came_true = [o.probability or 0.0 for o in sure], [o.solved for o in sure]
    return Result(
        strategy=strategy,
        decoding=decoding,
        problems=len(outcomes),
        solved=_solved(outcomes),
        tokens=mean("tokens"),
        prefill=mean("prefill"),
        seconds=mean("seconds"),
        branches=mean("branches"),
        to_first=bootstrap.mean([f or 0 for f in firsts], [f is not None for f in firsts]),
        at=tuple(
            AtK(k=k, passed=mean(f"pass@{k}"), majority=mean(f"cons@{k}"), best=mean(f"best@{k}"))
            for k in powers_of_two(n or 0)
        ),
        ranked_by=columns.ranked_by,
        statuses={status: sum(o.status == status for o in outcomes) for status in sorted({o.status for o in outcomes})},
        errors=sum(o.errors for o in outcomes),
        brier=among.brier(probabilities, came_true) if sure else None,
        calibration=among.calibration_error(probabilities, came_true) if sure else None,
    )


def compare(settings: Sequence[tuple[str, Sequence[Outcome], int | None]], *, seed: int = 0) -> tuple[Difference, ...]:
    """Every setting against the first, on the problems that both finished.

    Args:
        settings: Name, outcomes, and n where the branches are independent samples.
    """
    found: list[Difference] = []
    for name, outcomes, n in settings[1:]:
        base_name, base_outcomes, base_n = settings[0]
        common = {o.problem for o in outcomes} & {o.problem for o in base_outcomes}
        if common:
            mine = _columns(sorted((o for o in outcomes if o.problem in common), key=_key), n)
            base = _columns(sorted((o for o in base_outcomes if o.problem in common), key=_key), base_n)
            found += _differences(name, mine, base_name, base, seed)
    corrected = holm([one.p for one in found])
    return tuple(_corrected(one, p) for one, p in zip(found, corrected, strict=True))


def _key(outcome: Outcome) -> str:
    return outcome.problem


def _differences(name: str, mine: _Columns, base_name: str, base: _Columns, seed: int) -> list[Difference]:
    bootstrap = Bootstrap.of(len(mine.keys), seed=seed)
    found = []
    for metric in _compared(mine, base):
        difference, p = bootstrap.difference(mine.by_metric[metric], base.by_metric[metric])
        gained = lost = None
        if metric == "solved":
            apart = mine.by_metric[metric] - base.by_metric[metric]
            gained, lost = int((apart > 0).sum()), int((apart < 0).sum())
            p = mcnemar(gained, lost)
        found.append(_difference(metric, (name, base_name), difference, p, gained, lost))
    return found


def _difference(
    metric: str, names: tuple[str, str], difference: Estimate, p: float, gained: int | None, lost: int | None
) -> Difference:
    """Before the correction, which takes all of them."""
    setting, base = names
    return Difference(
        metric=metric,
        setting=setting,
        base=base,
        difference=difference,
        p=p,
        p_corrected=p,
        gained=gained,
        lost=lost,
        shown="not shown",
    )


def _compared(mine: _Columns, base: _Columns) -> list[str]:
    """Solved and tokens; pass@k for each k below n, where it is "solved", and the selections at the largest k."""
    both = [metric for metric in mine.by_metric if metric in base.by_metric and "@" in metric]
    ks = sorted({int(metric.partition("@")[2]) for metric in both})
    return ["solved", "tokens", *(f"pass@{k}" for k in ks[:-1]), *(f"{one}@{k}" for k in ks[-1:] for one in _CHOSEN)]


_CHOSEN = ("cons", "best")


def _corrected(one: Difference, p: float) -> Difference:
    shown: Shown = "not shown"
    if one.difference.apart_from_zero and p < _ALPHA:
        shown = "higher" if one.difference.value > 0 else "lower"
    return one.model_copy(update={"p_corrected": p, "shown": shown})


def _solved(outcomes: Sequence[Outcome]) -> Estimate:
    count, total = sum(o.solved for o in outcomes), len(outcomes)
    low, high = wilson(count, total)
    return Estimate(value=count / total, low=low, high=high, problems=total)


def _known(estimate: Estimate | None) -> Estimate:
    assert estimate is not None  # nothing is left out of these means, and there are problems
    return estimate


# --- columns -------------------------------------------------------------------------------------------------------


def _columns(outcomes: Sequence[Outcome], n: int | None) -> _Columns:
    by_metric = {
        name: np.array([float(getattr(o, name)) for o in outcomes])
        for name in ("solved", "tokens", "prefill", "seconds", "branches")
    }
    ranked_by = None
    if n is not None:
        ks, ranked_by = powers_of_two(n), _ranker(outcomes)
        rows = np.array([_at_k(o.samples, ks, n, ranked_by) for o in outcomes])  # [problems, 3, ks]
        for at, metric in enumerate(("pass", *_CHOSEN)):
            by_metric |= {f"{metric}@{k}": rows[:, at, column] for column, k in enumerate(ks)}
    return _Columns(tuple(o.problem for o in outcomes), by_metric, ranked_by)


def _ranker(outcomes: Sequence[Outcome]) -> str:
    """The verifier whose scores every answered branch has; else the mean log-probability. One that was not asked where
    another had rejected can't rank without knowing the truth."""
    answered = [s for o in outcomes for s in o.samples if s.group is not None]
    names = list(answered[0].scores) if answered else []
    return next((name for name in names if all(name in s.scores for s in answered)), LOGPROB)


def _at_k(samples: Sequence[Sample], ks: Sequence[int], n: int, ranked_by: str) -> Floats:
    """pass@k, cons@k and best@k of one problem: float [3, ks]. Branches that are missing are not right."""
    padded = [*samples[:n], *[Sample(right=False)] * (n - len(samples))]
    groups: dict[int, list[bool]] = {}
    for sample in padded:
        if sample.group is not None:
            groups.setdefault(sample.group, []).append(sample.right)
    scores = [s.logprob if ranked_by == LOGPROB else s.scores.get(ranked_by) for s in padded]
    right = [s.right for s in padded]
    voted = [(len(members), sum(members) / len(members)) for members in groups.values()]
    return np.array([pass_at(ks, n, sum(right)), majority_at(ks, n, voted), best_at(ks, scores, right)])
