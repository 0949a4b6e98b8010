"""A study's figures against slow, plain statements of them."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from led_agent.study.arms import Arm
from led_agent.study.figures import columns, compare, corrected, match, measure
from led_agent.study.rows import Row

BUDGETS = (20, 40, 60, 120, 240)
PLAIN = Arm(name="plain", family="plain", decoding="plain:temperature=1")
PAIRS = Arm(name="pairs", family="siblings", decoding="plain:temperature=1", draw="together", group=2)
SEARCH = Arm(
    name="search", family="search", decoding="plain:temperature=1", draw="search", strategy="without-replacement:n=4"
)
LISTS = st.lists(st.tuples(st.booleans(), st.integers(1, 60)), min_size=4, max_size=4)


def row(arm: Arm, problem: str, branches: list[tuple[bool, int]], repeat: int = 0) -> Row:
    return Row(
        arm=arm.name,
        group=arm.group,
        repeat=repeat,
        split="test",
        problem=problem,
        right=tuple(right for right, _ in branches),
        answers=tuple(at % 3 if at % 2 else None for at in range(len(branches))),
        tokens=tuple(tokens for _, tokens in branches),
    )


def solved_in_order(branches: list[tuple[bool, int]], budget: int) -> bool:
    spent = 0
    for right, tokens in branches:
        spent += tokens
        if spent > budget:
            return False
        if right:
            return True
    return False


@given(LISTS)
def test_samples_are_exchangeable(branches: list[tuple[bool, int]]):
    found = columns([PLAIN], [row(PLAIN, "a", branches)], 4, BUDGETS).by_metric
    for k in (1, 2, 4):
        subsets = list(itertools.combinations(branches, k))
        expected = np.mean([any(right for right, _ in some) for some in subsets])
        assert found[f"pass@{k}"][0] == pytest.approx(expected)
    turns = [branches[at:] + branches[:at] for at in range(4)]
    for budget in BUDGETS:
        expected = np.mean([solved_in_order(turn, budget) for turn in turns])
        assert found[f"within {budget}"][0] == pytest.approx(expected)


@given(LISTS)
def test_siblings_count_by_their_groups_and_branches_of_a_search_in_their_order(branches: list[tuple[bool, int]]):
    pairs = columns([PAIRS], [row(PAIRS, "a", branches)], 4, BUDGETS).by_metric
    groups = [branches[:2], branches[2:]]
    assert pairs["pass@2"][0] == np.mean([any(right for right, _ in group) for group in groups])
    assert "pass@4" not in pairs
    assert pairs["within 60"][0] == np.mean([solved_in_order(group, 60) for group in groups])
    search = columns([SEARCH], [row(SEARCH, "a", branches)], 4, BUDGETS).by_metric
    for k in (1, 2, 4):
        assert search[f"pass@{k}"][0] == any(right for right, _ in branches[:k])
    assert search["within 60"][0] == solved_in_order(branches, 60)


def test_arms_of_one_name_and_several_groups_are_one():
    four = PAIRS.model_copy(update={"group": 4})
    rows = [row(PAIRS, "a", [(True, 9), (False, 9), (False, 9), (False, 9)]), row(four, "a", [(False, 9)] * 4)]
    found = measure(columns([PAIRS, four], rows, 4, BUDGETS))
    assert [(one.k, one.passed.value) for one in found.at] == [(1, 0.0), (2, 0.5), (4, 0.0)]


def test_comparisons_are_paired_and_corrected():
    rng = random.Random(0)
    draws = {f"p{at}": [(rng.random() < 0.5, 20) for _ in range(4)] for at in range(60)}
    better = {problem: [(True, 20)] * 4 for problem in draws}
    same, up = PLAIN.model_copy(update={"name": "same"}), PLAIN.model_copy(update={"name": "up"})
    rows = [
        *(row(PLAIN, problem, some) for problem, some in draws.items()),
        *(row(same, problem, list(reversed(some))) for problem, some in draws.items()),
        *(row(up, problem, some) for problem, some in better.items()),
    ]
    base, *others = (columns([arm], rows, 4, BUDGETS) for arm in (PLAIN, same, up))
    found = {(one.arm, one.metric): one for one in corrected(compare(base, others, ("pass@1", "pass@4", "pass@64")))}
    assert set(found) == {(arm, metric) for arm in ("same", "up") for metric in ("pass@1", "pass@4")}
    assert found["same", "pass@1"].difference.value == 0
    assert found["same", "pass@1"].shown == "not shown"
    assert found["up", "pass@1"].shown == "higher"
    assert all(one.p <= one.p_corrected <= 1 for one in found.values())
    assert found["up", "pass@1"].p_corrected > found["up", "pass@1"].p


def test_a_problem_s_searches_are_averaged():
    rows = [row(SEARCH, "a", [(True, 10)]), row(SEARCH, "a", [(False, 30), (True, 20)], repeat=1)]
    found = columns([SEARCH], rows, 4, BUDGETS).by_metric
    assert [found[f"pass@{k}"][0] for k in (1, 2, 4)] == [0.5, 1.0, 1.0]
    assert [found[f"within {b}"][0] for b in BUDGETS] == [0.5, 0.5, 1.0, 1.0, 1.0]
    assert found["tokens"][0] == (10 + 25) / 2


def test_a_problem_that_lacks_a_group_is_left_out():
    four = PAIRS.model_copy(update={"group": 4})
    rows = [row(PAIRS, "a", [(True, 9)] * 4), row(PAIRS, "b", [(True, 9)] * 4), row(four, "b", [(False, 9)] * 4)]
    assert columns([PAIRS, four], rows, 4, BUDGETS).problems == ("b",)


@given(st.lists(st.tuples(LISTS, LISTS), min_size=1, max_size=6))
def test_the_tokens_that_match_are_the_fewest_that_solve_as_much(pairs: list[tuple[list[tuple[bool, int]], ...]]):
    mine = [row(PLAIN, f"p{at}", some) for at, (some, _) in enumerate(pairs)]
    theirs = [row(SEARCH, f"p{at}", some) for at, (_, some) in enumerate(pairs)]
    base, other = columns([PLAIN], mine, 4, BUDGETS), columns([SEARCH], theirs, 4, BUDGETS)
    (found,) = match(base, [other], 120)
    goal = base.by_metric["within 120"].mean()
    enough = [b for b in range(1, 121) if np.mean([solved_in_order(some, b) for _, some in pairs]) >= goal - 1e-9]
    assert found.share.value == min(enough, default=120) / 120
    assert found.share.low <= found.share.high <= 1


def test_an_arm_matches_itself_within_its_own_budget():
    rows = [row(PLAIN, f"p{at}", [(True, 50), (False, 70), (False, 40), (True, 60)]) for at in range(5)]
    base = columns([PLAIN], rows, 4, BUDGETS)
    (found,) = match(base, [base], 120)
    assert found.share.value == 100 / 120
    assert (found.share.low, found.share.high) == (100 / 120, 100 / 120)
