"""pass@k, cons@k and best-of-N@k against all subsets, one by one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from led_agent.evaluation.at_k import best_at, majority_at, pass_at, powers_of_two

Sample = tuple[str | None, float | None, bool]  # answer, score, whether it is right
SAMPLES = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "c", "d", None]),
        st.sampled_from([0.1, 0.2, 0.7, None]),
        st.booleans(),
    ),
    min_size=1,
    max_size=9,
)


def over_subsets(samples: Sequence[Sample], k: int, worth: Callable[[Sequence[Sample]], float]) -> float:
    return float(np.mean([worth(subset) for subset in combinations(samples, k)]))


def by_vote(subset: Sequence[Sample]) -> float:
    """The worth of the leading answer, the mean over its members; of several that lead, the mean over them."""
    votes = Counter(answer for answer, _, _ in subset if answer is not None)
    if not votes:
        return 0.0
    lead = [answer for answer, count in votes.items() if count == max(votes.values())]
    members = {answer: [right for other, _, right in subset if other == answer] for answer in lead}
    return float(np.mean([np.mean(right) for right in members.values()]))


def by_score(subset: Sequence[Sample]) -> float:
    level = [-1.0 if score is None else score for _, score, _ in subset]
    return float(np.mean([right for at, (_, _, right) in enumerate(subset) if level[at] == max(level)]))


def grouped(samples: Sequence[Sample]) -> list[tuple[int, float]]:
    answers = {answer for answer, _, _ in samples if answer is not None}
    members = [[right for other, _, right in samples if other == answer] for answer in sorted(answers)]
    return [(len(right), float(np.mean(right))) for right in members]


@given(SAMPLES)
def test_pass_at_k_is_the_share_of_subsets_with_a_right_one(samples: list[Sample]):
    n, correct = len(samples), sum(right for _, _, right in samples)
    expected = [over_subsets(samples, k, lambda s: float(any(right for _, _, right in s))) for k in range(1, n + 1)]
    assert pass_at(range(1, n + 1), n, correct) == pytest.approx(expected)


@given(SAMPLES)
def test_majority_at_k_is_the_mean_over_subsets(samples: list[Sample]):
    n = len(samples)
    expected = [over_subsets(samples, k, by_vote) for k in range(1, n + 1)]
    assert majority_at(range(1, n + 1), n, grouped(samples)) == pytest.approx(expected)


@given(SAMPLES)
def test_best_at_k_is_the_mean_over_subsets(samples: list[Sample]):
    n = len(samples)
    scores, right = [score for _, score, _ in samples], [r for _, _, r in samples]
    expected = [over_subsets(samples, k, by_score) for k in range(1, n + 1)]
    assert best_at(range(1, n + 1), scores, right) == pytest.approx(expected)


@given(st.integers(1, 400), st.data())
def test_pass_at_k_grows_with_k_and_with_what_is_right(n: int, data: st.DataObject):
    correct = data.draw(st.integers(0, n))
    found = pass_at(range(1, n + 1), n, correct)
    assert found[0] == pytest.approx(correct / n)
    assert (np.diff(found) >= -1e-12).all()
    assert found[-1] == float(correct > 0)
    if correct < n:
        assert (pass_at(range(1, n + 1), n, correct + 1) >= found - 1e-12).all()


@settings(deadline=None)  # the largest of them take a while
@given(st.lists(st.integers(1, 30), min_size=1, max_size=12), st.integers(0, 20))
def test_where_all_is_right_only_silence_fails(sizes: list[int], silent: int):
    n = sum(sizes) + silent
    ks = powers_of_two(n)
    found = majority_at(ks, n, [(size, 1.0) for size in sizes])
    assert found == pytest.approx(pass_at(ks, n, n - silent))


def test_large_groups_are_counted_without_losing_digits():
    n = 512
    found = majority_at([1, 64, n], n, [(300, 1.0), (150, 0.0), *[(1, 0.0)] * 50])
    assert found[0] == pytest.approx(300 / n)
    assert 0.99 < found[1] < 1.0
    assert found[2] == 1.0


def test_the_ks_are_powers_of_two_and_n():
    assert [powers_of_two(n) for n in (0, 1, 2, 5, 16)] == [(), (1,), (1, 2), (1, 2, 4, 5), (1, 2, 4, 8, 16)]


def test_what_cannot_be_is_refused():
    for call in (
        lambda: pass_at([3], 2, 1),
        lambda: pass_at([1], 2, 3),
        lambda: pass_at([0], 2, 1),
        lambda: majority_at([1], 2, [(3, 1.0)]),
        lambda: best_at([1], [0.5], [True, False]),
    ):
        with pytest.raises(ValueError, match=r"allowed|can't|don't|scores"):
            call()
