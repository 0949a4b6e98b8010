from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from led_agent.decoding.guard import Finding, Watch
from led_agent.types import QualityGuard

QUICK = settings(max_examples=150, deadline=None)

OFF: dict[str, Any] = {"min_logprob": None, "max_entropy": None, "repeats": None, "max_tokens": None}


def watch(**changes: Any) -> Watch:
    """With everything off but what is given."""
    return Watch(QualityGuard(**{**OFF, **changes}))


def calm(n: int) -> tuple[list[int], list[float], list[float]]:
    """So many tokens, none twice, all likely and sure."""
    return list(range(n)), [-0.1] * n, [0.1] * n


# --- causes --------------------------------------------------------------------------------------------------------


def test_a_calm_branch_is_left_alone():
    guard = Watch(QualityGuard())
    tokens, logprobs, entropies = calm(200)
    for at in range(1, 201):
        assert guard.look(tokens[:at], logprobs[:at], entropies[:at]) is None
    assert (guard.turned, guard.wary, guard.boundaries) == (0, "no", [0])


def test_improbable_tokens_are_found_where_their_mean_over_the_window_falls_below():
    guard = watch(window=4, min_logprob=-1.0)
    tokens, _, entropies = calm(9)
    logprobs = [0.0, 0.0, 0.0, 0.0, 0.0, -1.5, -1.5, -1.5, 0.0]
    found = [guard.look(tokens[:at], logprobs[:at], entropies[:at]) for at in range(1, 9)]
    assert found[:7] == [None] * 7
    assert found[7] == Finding("logprob", -1.125, -1.0, 4)


def test_an_unsure_branch_is_found_where_its_mean_over_the_window_rises_above():
    guard = watch(window=3, max_entropy=2.0)
    tokens, logprobs, _ = calm(6)
    entropies = [0.0, 3.0, 2.0, 1.0, 2.5, 3.0]
    found = [guard.look(tokens[:at], logprobs[:at], entropies[:at]) for at in range(1, 7)]
    assert found[:5] == [None] * 5
    assert found[5] == Finding("entropy", 6.5 / 3, 2.0, 3)


def test_a_mean_at_its_threshold_is_sound():
    guard = watch(window=2, min_logprob=-1.0, max_entropy=2.0)
    assert guard.look([1, 2], [-1.0, -1.0], [2.0, 2.0]) is None
    assert guard.look([1, 2], [-1.0, -1.5], [2.0, 2.0]) == Finding("logprob", -1.25, -1.0, 0)


def test_a_mean_that_is_no_number_is_not_sound():
    assert watch(window=1, min_logprob=-1.0).look([1], [float("nan")], [0.0]) is not None
    assert watch(window=1, max_entropy=1.0).look([1], [0.0], [float("nan")]) is not None
    assert watch(window=1, min_logprob=-1.0).look([1], [float("-inf")], [0.0]) is not None


def test_nothing_is_said_before_the_window_is_full():
    guard = watch(window=5, min_logprob=-0.01, max_entropy=0.01)
    for at in range(5):
        assert guard.look(list(range(at)), [-99.0] * at, [99.0] * at) is None
    assert guard.look(list(range(5)), [-99.0] * 5, [99.0] * 5) is not None


@pytest.mark.parametrize(("window", "least"), [(32, 8), (8, 8), (3, 3)])
def test_a_branch_that_ends_is_judged_by_a_shorter_window(window: int, least: int):
    guard = watch(window=window, min_logprob=-1.0)
    for at in range(1, least):
        assert guard.look(list(range(at)), [-9.0] * at, [0.0] * at, ending=True) is None
    tokens = list(range(least))
    assert (guard.look(tokens, [-9.0] * least, [0.0] * least) is None) == (least < window)
    logprobs = [-5.0] + [-2.0] * (least - 1)
    finding = guard.look(tokens, logprobs, [0.0] * least, ending=True)
    assert finding == Finding("logprob", sum(logprobs) / least, -1.0, 0)


def test_a_branch_that_ends_has_its_whole_window_where_there_is_one_and_no_conservative_step_in_it():
    guard = watch(window=10, max_entropy=1.0)
    tokens, logprobs, _ = calm(30)
    entropies = [9.0] * 19 + [0.5] * 11
    assert guard.look(tokens, logprobs, entropies, ending=True) is None
    guard.turn_back(Finding("entropy", 9.0, 1.0, 3))
    guard.boundary(15)
    assert guard.look(tokens[:22], logprobs[:22], [9.0] * 22, ending=True) is None  # 7 tokens since
    assert guard.look(tokens[:23], logprobs[:23], [9.0] * 23, ending=True) == Finding("entropy", 9.0, 1.0, 15)


def test_numbers_that_are_known_for_a_part_only_are_judged_where_they_are_known():
    guard = watch(window=2, min_logprob=-1.0)
    tokens = list(range(10))
    assert guard.look(tokens, [], []) is None
    assert guard.look(tokens, [-5.0], [0.0]) is None
    assert guard.look(tokens, [-5.0, -5.0], [0.0, 0.0]) == Finding("logprob", -5.0, -1.0, 0)


def test_a_loop_is_found_at_its_last_repeat_and_began_with_its_second():
    guard = watch(ngram=2, repeats=3)
    tokens = [9, 1, 2, 5, 1, 2, 6, 1, 2, 7]
    found = [guard.look(tokens[:at], [], []) for at in range(1, 11)]
    assert found == [None] * 8 + [Finding("repetition", 3, 3, 4), None]


def test_a_loop_may_overlap_itself():
    guard = watch(ngram=3, repeats=4)
    found = [guard.look([7] * at, [], []) for at in range(1, 7)]
    assert found == [None] * 5 + [Finding("repetition", 4, 4, 1)]


def test_almost_the_same_is_no_loop():
    guard = watch(ngram=3, repeats=2)
    tokens = [1, 2, 3, 1, 2, 4, 1, 3, 2, 1]
    assert guard.look(tokens, [], []) is None


def test_a_branch_that_is_too_long_is_found_at_the_first_token_too_many():
    guard = watch(max_tokens=5)
    tokens, logprobs, entropies = calm(6)
    assert guard.look(tokens[:5], logprobs[:5], entropies[:5]) is None
    assert guard.look(tokens, logprobs, entropies) == Finding("length", 6, 5, 6)


def test_thresholds_that_are_off_find_nothing():
    guard = watch(window=1, ngram=1)
    for at in range(1, 50):
        assert guard.look([3] * at, [-1e9] * at, [1e9] * at) is None


# --- boundaries and turning back -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("began", "back"), [(0, 0), (3, 0), (4, 4), (9, 4), (10, 10), (99, 10)])
def test_a_branch_goes_back_to_the_last_boundary_before_the_trouble(began: int, back: int):
    guard = watch()
    guard.boundary(4)
    guard.boundary(10)
    assert guard.turn_back(Finding("entropy", 9.0, 4.0, began)) == (back, False)
    assert guard.boundaries == [at for at in (0, 4, 10) if at <= back]


def test_a_loop_goes_back_to_before_its_second_coming():
    guard = watch(ngram=2, repeats=3)
    tokens = [1, 2, 0, 5, 1, 2, 0, 1, 2]
    finding = None
    for at in range(1, len(tokens) + 1):
        finding = guard.look(tokens[:at], [], [])
        if at in (3, 7):
            guard.boundary(at)
    assert finding is not None
    assert guard.turn_back(finding) == (3, False)


@pytest.mark.parametrize("cause", ["logprob", "entropy", "repetition", "nonfinite"])
def test_conservative_to_the_end_of_the_step_and_the_second_time_for_good(cause: Any):
    guard = watch(window=1, min_logprob=-1.0)
    guard.boundary(5)
    assert guard.turn_back(Finding(cause, 0.0, 0.0, 8)) == (5, False)
    assert guard.wary == "step"
    assert guard.look(list(range(6)), [-9.0] * 6, [0.0] * 6) is None  # it is conservative already
    assert not guard.boundary(5)  # the one it went back to ends nothing
    assert guard.wary == "step"
    assert guard.boundary(9)
    assert guard.wary == "no"
    assert not guard.boundary(12)
    assert guard.turn_back(Finding(cause, 0.0, 0.0, 12)) == (12, True)
    assert (guard.wary, guard.turned) == ("rest", 2)
    assert not guard.boundary(15)
    assert guard.wary == "rest"
    assert guard.look(list(range(16)), [-9.0] * 16, [0.0] * 16) is None


def test_too_long_is_for_good_at_once():
    guard = watch(max_tokens=3)
    guard.boundary(2)
    finding = guard.look([1, 2, 3, 4], [], [])
    assert finding is not None
    assert guard.turn_back(finding) == (2, True)
    assert guard.wary == "rest"


def test_a_boundary_counts_once_and_only_ahead():
    guard = watch()
    for at in (3, 3, 2, 0, 7):
        assert not guard.boundary(at)
    assert guard.boundaries == [0, 3, 7]


def test_a_step_without_end_gets_a_boundary():
    guard = watch(longest_step=4)
    assert [guard.step_is_long(at) for at in (0, 3, 4, 5)] == [False, False, True, True]
    guard.boundary(4)
    assert [guard.step_is_long(at) for at in (4, 7, 8)] == [False, False, True]
    guard.turn_back(Finding("entropy", 9.0, 4.0, 0))
    assert guard.step_is_long(4)


def test_means_do_not_look_back_across_a_conservative_step():
    guard = watch(window=4, min_logprob=-1.0)
    guard.boundary(2)
    assert guard.turn_back(Finding("logprob", -5.0, -1.0, 3)) == (2, False)
    guard.boundary(6)  # tokens 2 … 5 were conservative, and are what they are
    logprobs = [-9.0] * 6
    for at in range(7, 10):
        logprobs.append(-9.0)
        assert guard.look(list(range(at)), logprobs, [0.0] * at) is None
    logprobs.append(-9.0)
    assert guard.look(list(range(10)), logprobs, [0.0] * 10) == Finding("logprob", -9.0, -1.0, 6)


# --- against a watch that counts everything anew -------------------------------------------------------------------


class NaiveWatch:
    """The same decisions, each from the whole branch; it remembers no counts."""

    def __init__(self, guard: QualityGuard) -> None:
        self.guard, self.steps, self.since, self.turned, self.wary = guard, [0], 0, 0, "no"
        self.judged = 0  # tokens that were judged, or went by while it was conservative

    def find(
        self, tokens: list[int], logprobs: list[float], entropies: list[float], ending: bool = False
    ) -> Finding | None:
        guard, before, self.judged = self.guard, self.judged, len(tokens)
        if self.wary != "no":
            return None
        if guard.repeats is not None:
            comings: dict[tuple[int, ...], list[int]] = {}
            for start in range(len(tokens) - guard.ngram + 1):
                comings.setdefault(tuple(tokens[start : start + guard.ngram]), []).append(start)
            # Only what has come again since the last time: the rest has been judged already.
            loops = [x for x in comings.values() if len(x) >= guard.repeats and x[-1] + guard.ngram > before]
            if loops:
                worst = max(len(x) for x in loops)
                began = {x[1] for x in loops if len(x) == worst}
                return Finding("repetition", worst, guard.repeats, min(began))
        start = max(self.since, len(tokens) - guard.window)
        seen = len(tokens) - start
        if seen == guard.window or (ending and seen >= 8):
            likely, unsure = sum(logprobs[start:]) / seen, sum(entropies[start:]) / seen
            if guard.min_logprob is not None and likely < guard.min_logprob:
                return Finding("logprob", likely, guard.min_logprob, start)
            if guard.max_entropy is not None and unsure > guard.max_entropy:
                return Finding("entropy", unsure, guard.max_entropy, start)
        if guard.max_tokens is not None and len(tokens) > guard.max_tokens:
            return Finding("length", len(tokens), guard.max_tokens, len(tokens))
        return None

    def back(self, finding: Finding) -> tuple[int, bool]:
        self.steps = [at for at in self.steps if at <= finding.began]
        self.turned += 1
        self.wary = "rest" if finding.cause == "length" or self.turned == 2 else "step"
        self.since = self.judged = self.steps[-1]
        return self.steps[-1], self.wary == "rest"

    def step(self, at: int) -> bool:
        ended = self.wary == "step"
        self.steps.append(at)
        if ended:
            self.wary, self.since = "no", at
        return ended


guards = st.builds(
    QualityGuard,
    window=st.integers(1, 12),
    min_logprob=st.none() | st.sampled_from([-2.0, -1.2]),
    max_entropy=st.none() | st.sampled_from([1.2, 2.0]),
    ngram=st.integers(1, 3),
    repeats=st.none() | st.integers(2, 5),
    max_tokens=st.none() | st.integers(3, 25),
    longest_step=st.integers(2, 9),
)
grown = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.sampled_from([0.0, -0.5, -1.0, -2.0, -3.0]),
        st.sampled_from([0.0, 0.5, 1.0, 2.0, 3.0]),
        st.integers(0, 5).map(lambda x: x == 0),
    ),
    min_size=10,
    max_size=60,
)


@QUICK
@given(guards, grown)
def test_a_branch_is_turned_back_as_counting_everything_anew_would(
    guard: QualityGuard, steps: list[tuple[int, float, float, bool]]
):
    found, naive = Watch(guard), NaiveWatch(guard)
    tokens: list[int] = []
    logprobs: list[float] = []
    entropies: list[float] = []
    for turn, (token, logprob, entropy, ends) in enumerate(steps):
        last = turn % 11 == 10  # the branch would end here, and goes on if it is turned back
        tokens.append(token)
        logprobs.append(logprob)
        entropies.append(entropy)
        finding = found.look(tokens, logprobs, entropies, ending=last)
        assert finding == naive.find(tokens, logprobs, entropies, last)
        if finding is not None:
            back, lasting = found.turn_back(finding)
            assert (back, lasting) == naive.back(finding)
            assert back <= finding.began <= len(tokens)
            del tokens[back:], logprobs[back:], entropies[back:]
        elif ends or found.step_is_long(len(tokens)):
            assert found.boundary(len(tokens)) == naive.step(len(tokens))
        assert (found.boundaries, found.turned, found.wary) == (naive.steps, naive.turned, naive.wary)
        assert len(tokens) - found.boundaries[-1] < guard.longest_step or found.boundaries[-1] == len(tokens)
    assert found.turned <= 2


@QUICK
@given(st.lists(st.integers(0, 2), min_size=1, max_size=40), st.integers(1, 3), st.integers(2, 4), st.integers(1, 9))
def test_tokens_that_come_several_at_a_time_are_counted_alike(tokens: list[int], ngram: int, repeats: int, stride: int):
    guard = watch(ngram=ngram, repeats=repeats)
    naive = NaiveWatch(guard.guard)
    for at in [*range(stride, len(tokens), stride), len(tokens)]:
        finding, expected = guard.look(tokens[:at], [], []), naive.find(tokens[:at], [0.0] * at, [0.0] * at)
        assert (finding is None) == (expected is None)
        if finding is not None and expected is not None:
            assert (finding.cause, finding.measured) == (expected.cause, expected.measured)
