"""Intervals and tests over problems, against closed forms, enumeration and synthetic data."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from led_agent.evaluation.statistics import Bootstrap, brier, calibration_error, holm, mcnemar

SHARES = st.lists(st.floats(0, 1), min_size=1, max_size=8)


def test_every_resample_draws_as_many_problems_as_there_are():
    drawn = Bootstrap.of(7, resamples=500).drawn
    assert (drawn.sum(1) == 7).all()
    assert drawn.mean() == pytest.approx(1.0)
    assert (Bootstrap.of(7, resamples=500).drawn == drawn).all()
    assert not (Bootstrap.of(7, seed=1, resamples=500).drawn == drawn).all()


def test_the_interval_is_that_of_all_resamples_of_a_small_set():
    values = [0.0, 0.0, 1.0, 5.0]
    means = [np.mean(some) for some in product(values, repeat=4)]
    found = Bootstrap.of(4).mean(values)
    assert found is not None
    assert found.value == np.mean(values)
    assert (found.low, found.high) == pytest.approx(np.percentile(means, [2.5, 97.5]), abs=0.26)


def test_the_interval_covers_the_truth_as_often_as_it_says():
    rng, covered = np.random.default_rng(5), 0
    for _ in range(300):
        found = Bootstrap.of(60, resamples=1000).mean(rng.random(60) < 0.7)
        assert found is not None
        covered += found.low <= 0.7 <= found.high
    assert 0.90 <= covered / 300 <= 0.98


def test_a_mean_over_some_of_the_problems():
    bootstrap = Bootstrap.of(4)
    found = bootstrap.mean([1.0, 2.0, math.nan, math.nan], [True, True, False, False])
    assert found is not None
    assert (found.value, found.low, found.high, found.problems) == (1.5, 1.0, 2.0, 2)
    assert bootstrap.mean([1.0] * 4, [False] * 4) is None


def test_a_difference_is_paired():
    rng = np.random.default_rng(1)
    base = rng.random(200)
    found, p = Bootstrap.of(200).difference(base + 0.05, base)
    assert (found.low, found.high) == pytest.approx((0.05, 0.05))
    assert found.apart_from_zero
    assert p == pytest.approx(2 / 10_001)
    same, p = Bootstrap.of(200).difference(base, base)
    assert (same.low, same.high, p, same.apart_from_zero) == (0.0, 0.0, 1.0, False)


@given(st.integers(0, 40), st.integers(0, 40))
def test_mcnemar_is_the_binomial_by_its_definition(gained: int, lost: int):
    n = gained + lost
    chances = [math.comb(n, i) / 2**n for i in range(n + 1)]
    expected = sum(c for c in chances if c <= chances[gained] * (1 + 1e-9))
    assert mcnemar(gained, lost) == mcnemar(lost, gained)
    assert mcnemar(gained, lost) == pytest.approx(min(1.0, expected))


def test_mcnemar_by_hand():
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(5, 0) == pytest.approx(2 / 32)
    assert mcnemar(1, 9) == pytest.approx(22 / 1024)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    assert holm([0.9, 0.8]) == [1.0, 1.0]


@given(SHARES)
def test_holm_keeps_the_order_and_never_lowers_a_p(ps: list[float]):
    found = holm(ps)
    assert all(p <= q <= 1.0 for p, q in zip(ps, found, strict=True))
    order = sorted(range(len(ps)), key=lambda at: ps[at])
    assert [found[at] for at in order] == sorted(found)
    assert found[order[0]] == pytest.approx(min(1.0, len(ps) * ps[order[0]]))


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=30))
def test_calibration_by_its_definition(pairs: list[tuple[float, bool]]):
    probabilities, solved = [p for p, _ in pairs], [s for _, s in pairs]
    bins: dict[int, list[tuple[float, bool]]] = {}
    for p, s in pairs:
        bins.setdefault(min(9, int(p * 10)), []).append((p, s))
    gaps = [
        len(some) * abs(np.mean([p for p, _ in some]) - np.mean([float(s) for _, s in some])) for some in bins.values()
    ]
    assert calibration_error(probabilities, solved) == pytest.approx(sum(gaps) / len(pairs))
    assert brier(probabilities, solved) == pytest.approx(np.mean([(p - s) ** 2 for p, s in pairs]))
    bootstrap = Bootstrap.of(len(pairs), resamples=200)
    found, score = bootstrap.calibration_error(probabilities, solved), bootstrap.brier(probabilities, solved)
    assert found is not None
    assert score is not None
    assert found.value == calibration_error(probabilities, solved)
    assert 0 <= found.low <= found.high <= 1
    assert score.value == pytest.approx(brier(probabilities, solved))


def test_a_calibrated_forecast_is_told_from_an_overconfident_one():
    rng = np.random.default_rng(0)
    chances = rng.random(4000)
    solved = list(rng.random(4000) < chances)
    assert calibration_error(list(chances), solved) < 0.03
    assert calibration_error([0.99] * 4000, solved) > 0.4
