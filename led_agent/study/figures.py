"""From rows to figures: pass@k, what a budget of tokens solves, distinct answers, and each arm against the base.

Pure functions and records. This file does not know how anything was drawn, nor how it is shown.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from led_agent.evaluation.at_k import pass_at, powers_of_two
from led_agent.evaluation.statistics import Bootstrap, Estimate, holm
from led_agent.record import Record
from led_agent.study.arms import Arm
from led_agent.study.rows import Row

__all__ = [
    "ArmFigures",
    "AtK",
    "AtTokens",
    "Comparison",
    "Figure",
    "Matched",
    "columns",
    "compare",
    "corrected",
    "match",
    "measure",
]

Floats = NDArray[np.float64]

_ALPHA = 0.05


class AtK(Record):
    """The chance that one of k branches is right, mean over problems."""

    k: int
    passed: Estimate


class AtTokens(Record):
    """The share of problems that are solved within so many generated tokens."""

    tokens: int
    solved: Estimate


class ArmFigures(Record):
    """An arm on the problems of a split.

    Attributes:
        tokens: Of a branch.
        max_tokens: Of a branch, where it isn't the study's number.
        distinct: Different answers among the first branches, ``of`` them at most.
        at: For every k that the arm says something of.
        within: By budget.
        errors: Branches on which a verifier failed.
    """

    arm: str
    family: str
    decoding: str
    strategy: str | None
    max_tokens: int | None
    problems: int
    tokens: Estimate
    distinct: Estimate
    of: int
    at: tuple[AtK, ...]
    within: tuple[AtTokens, ...]
    errors: int

    def metric(self, name: str) -> Estimate:
        """The figure of a metric's name, "pass@k" or "within N"."""
        if name.startswith("pass@"):
            return next(one.passed for one in self.at if name == f"pass@{one.k}")
        return next(one.solved for one in self.within if name == f"within {one.tokens}")


class Comparison(Record):
    """An arm less a base, paired by problem.

    Attributes:
        metric: "pass@k" or "within N", solved within so many tokens.
        p: The bootstrap's, two-sided; ``p_corrected`` is Holm's correction over all comparisons of the study.
        shown: Whether the interval excludes 0 and the corrected p is below 0.05: "higher", "lower" or "not shown".
    """

    arm: str
    base: str
    metric: str
    difference: Estimate
    p: float
    p_corrected: float
    shown: str


class Matched(Record):
    """What an arm needs to solve as much as a base does within a budget.

    Attributes:
        budget: The base's, in tokens a problem.
        share: Of the budget, the least within which the arm solves as many problems; 1 where it never does.
    """

    arm: str
    base: str
    budget: int
    share: Estimate


@dataclass(frozen=True)
class Figure:
    """One arm's figures, problem by problem.

    Attributes:
        by_metric: Float [problems] by metric, in the order of the problems' keys.
        curve: Float [problems, tokens]: solved within 1, 2, … tokens, up to the largest budget.
    """

    arm: Arm
    problems: tuple[str, ...]
    by_metric: Mapping[str, Floats]
    curve: Floats


def columns(arms: Sequence[Arm], rows: Sequence[Row], samples: int, budgets: Sequence[int]) -> Figure:
    """What arms of one name, which differ in their groups' size, come to, problem by problem.

    Args:
        samples: Branches a problem that were asked for, by which it is known of how many an arm says something.
        budgets: Tokens a problem, rising.
    """
    of_arm: dict[tuple[int, str], list[Row]] = {}
    for row in rows:
        if row.arm == arms[0].name:
            of_arm.setdefault((row.group, row.problem), []).append(row)
    ordered = sorted(arms, key=lambda one: one.group)
    # An interrupted study may have some of a problem's groups only.
    whole = {problem for _, problem in of_arm if all((arm.group, problem) in of_arm for arm in arms)}
    problems = tuple(sorted(whole))
    found: dict[str, Floats] = {}
    curve: Floats = np.zeros((len(problems), budgets[-1]))
    for arm in ordered:
        mine = [of_arm[arm.group, problem] for problem in problems]
        found |= _by_metric(arm, mine, samples)
        curve = np.array([_curve(arm, some, budgets[-1]) for some in mine]).reshape(len(problems), budgets[-1])
    found |= {f"within {b}": curve[:, b - 1] for b in budgets}
    return Figure(arms[0], problems, found, curve)


def _by_metric(arm: Arm, rows: Sequence[Sequence[Row]], samples: int) -> dict[str, Floats]:
    """Means over a problem's rows."""
    ks = _ks(arm, samples)
    of = ks[-1] if arm.draw != "independent" else min(16, samples)
    passed = np.array([np.mean([_passed(arm, row, ks) for row in some], axis=0) for some in rows])
    found = {f"pass@{k}": passed.reshape(len(rows), len(ks))[:, at] for at, k in enumerate(ks)}
    found["tokens"] = _means(rows, lambda row: float(np.mean(row.tokens)) if row.tokens else 0.0)
    found["errors"] = np.array([float(sum(row.errors for row in some)) for some in rows])
    found[f"distinct@{of}"] = _means(rows, lambda row: float(len({a for a in row.answers[:of] if a is not None})))
    return found


def _means(rows: Sequence[Sequence[Row]], of: Callable[[Row], float]) -> Floats:
    return np.array([np.mean([of(row) for row in some]) for some in rows], dtype=np.float64)


def _ks(arm: Arm, samples: int) -> tuple[int, ...]:
    """Of how many branches an arm says something: siblings that were drawn together are no sample of fewer."""
    return (1, arm.group) if arm.draw == "together" else powers_of_two(samples)


def _passed(arm: Arm, row: Row, ks: Sequence[int]) -> list[float]:
    right = np.array(row.right, dtype=bool)
    if arm.draw == "independent":
        return list(pass_at(ks, len(right), int(right.sum())))
    if arm.draw == "together":
        groups = right[: len(right) // arm.group * arm.group].reshape(-1, arm.group)
        return [float(right.mean()), float(groups.any(1).mean())]
    return [float(right[:k].any()) for k in ks]  # it ended at the first right one, or was through


def _curve(arm: Arm, rows: Sequence[Row], largest: int) -> Floats:
    """The share solved within 1, 2, … tokens, mean over a problem's rows."""
    budgets = np.arange(1, largest + 1)
    solved: Floats = np.mean([(_needed(arm, row)[:, None] <= budgets).mean(0) for row in rows], axis=0)
    return solved


def _needed(arm: Arm, row: Row) -> Floats:
    """Tokens up to the first right branch, where branches are paid whole, one after another, and infinity where there
    is none: of a search one figure, of groups one each, of samples one for each place to begin at."""
    right, tokens = np.array(row.right, dtype=bool), np.array(row.tokens, dtype=np.float64)
    if arm.draw == "search":
        right, tokens = right[None], tokens[None]
    elif arm.draw == "together":
        whole = len(right) // arm.group * arm.group
        right, tokens = right[:whole].reshape(-1, arm.group), tokens[:whole].reshape(-1, arm.group)
    else:
        turns = (np.arange(len(right))[:, None] + np.arange(len(right))) % len(right)
        right, tokens = right[turns], tokens[turns]
    needed: Floats = np.where(right, tokens.cumsum(1), np.inf).min(1, initial=np.inf)
    return needed


def measure(figure: Figure) -> ArmFigures:
    """Means over problems, with bootstrap intervals that are paired between arms on the same problems."""
    bootstrap, arm = Bootstrap.of(len(figure.problems)), figure.arm

    def mean(metric: str) -> Estimate:
        found = bootstrap.mean(figure.by_metric[metric])
        assert found is not None  # nothing is left out, and there are problems
        return found

    ks = sorted(int(name.partition("@")[2]) for name in figure.by_metric if name.startswith("pass@"))
    budgets = [int(name.removeprefix("within ")) for name in figure.by_metric if name.startswith("within ")]
    distinct = max((n for n in figure.by_metric if n.startswith("distinct@")), key=lambda n: int(n.partition("@")[2]))
    return ArmFigures(
        arm=arm.name,
        family=arm.family,
        decoding=arm.decoding,
        strategy=arm.strategy,
        max_tokens=arm.max_tokens,
        problems=len(figure.problems),
        tokens=mean("tokens"),
        distinct=mean(distinct),
        of=int(distinct.partition("@")[2]),
        at=tuple(AtK(k=k, passed=mean(f"pass@{k}")) for k in ks),
        within=tuple(AtTokens(tokens=b, solved=mean(f"within {b}")) for b in budgets),
        errors=int(figure.by_metric["errors"].sum()),
    )


def compare(base: Figure, others: Sequence[Figure], metrics: Sequence[str]) -> tuple[Comparison, ...]:
    """Each arm less the base, on problems that both have; ``corrected`` is still to be called on all of a study."""
    found = []
    for other in others:
        common = sorted(set(base.problems) & set(other.problems))
        mine, theirs = _places(other, common), _places(base, common)
        bootstrap = Bootstrap.of(len(common))
        for metric in metrics:
            if metric in other.by_metric and metric in base.by_metric and common:
                values = other.by_metric[metric][mine], base.by_metric[metric][theirs]
                difference, p = bootstrap.difference(*values)
                found.append(
                    Comparison(
                        arm=other.arm.name, base=base.arm.name, metric=metric, difference=difference, p=p,
                        p_corrected=p, shown="not shown",
                    )
                )  # fmt: skip
    return tuple(found)


def corrected(comparisons: Sequence[Comparison]) -> tuple[Comparison, ...]:
    """The same with Holm's correction over all of them."""
    ps = holm([one.p for one in comparisons])
    return tuple(
        one.model_copy(update={"p_corrected": p, "shown": _shown(one.difference, p)})
        for one, p in zip(comparisons, ps, strict=True)
    )


def match(base: Figure, others: Sequence[Figure], budget: int) -> tuple[Matched, ...]:
    """What each arm needs to solve as much as the base does within a budget, on problems that both have."""
    found = []
    for other in others:
        common = sorted(set(base.problems) & set(other.problems))
        if not common:
            continue
        drawn = np.vstack([np.ones(len(common)), Bootstrap.of(len(common)).drawn])  # the sample itself comes first
        goal = drawn @ base.curve[_places(base, common), budget - 1]
        reached = drawn @ other.curve[_places(other, common), :budget] >= goal[:, None] - 1e-9
        shares = np.where(reached.any(1), reached.argmax(1) + 1, budget) / budget
        low, high = np.percentile(shares[1:], [2.5, 97.5])
        share = Estimate(value=float(shares[0]), low=float(low), high=float(high), problems=len(common))
        found.append(Matched(arm=other.arm.name, base=base.arm.name, budget=budget, share=share))
    return tuple(found)


def _places(figure: Figure, problems: Sequence[str]) -> list[int]:
    at = {problem: place for place, problem in enumerate(figure.problems)}
    return [at[problem] for problem in problems]


def _shown(difference: Estimate, p: float) -> str:
    if not (difference.apart_from_zero and p < _ALPHA):
        return "not shown"
    return "higher" if difference.value > 0 else "lower"
