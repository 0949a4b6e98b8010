"""What is read from a tree, and the figures and comparisons that come of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from led_agent.evaluation.figures import LOGPROB, compare, measure
from led_agent.evaluation.outcomes import Outcome, Sample, outcome_of, samples_independently
from led_agent.judging import judge
from led_agent.search import solve
from led_agent.strategies import BestOfN, EntropyBranching, Fallback
from led_agent.testing import ScriptedDecoder
from led_agent.types import Branch, Budget, DecodeRequest, Problem, Verdict
from led_agent.verifiers import math_answer

SIX = Problem(prompt="What is 6 x 7?", id="six", answer="42")
TEXTS = ["the answer is 41", "it is the answer is 42", "the answer is 84/2", "I give up", "the answer is 41"]


def scripted(texts: list[str]) -> ScriptedDecoder:
    return ScriptedDecoder(lambda request: texts[int(request.id) - 1])


def outcome(key: str, solved: bool, tokens: int = 100, right: str = "") -> Outcome:
    """An outcome whose samples are right where there is a 1."""
    samples = tuple(Sample(right=mark == "1", group=int(mark)) for mark in right)
    return Outcome(key, solved, "exhausted", tokens, 5, 0.1, max(1, len(right)), None, 0, None, samples)


def test_a_finished_problem_is_read_from_its_tree():
    solution = solve(SIX, strategy=BestOfN(5, stop_at_first=False), decoder=scripted(TEXTS))
    found = outcome_of(solution, samples=True)
    assert found.solved
    assert [sample.right for sample in found.samples] == [False, True, True, False, False]
    assert [sample.group for sample in found.samples] == [0, 1, 1, None, 0]  # 84/2 is 42
    assert found.tokens == sum(len(text.split()) for text in TEXTS)
    assert found.to_first == len(TEXTS[0].split()) + len(TEXTS[1].split())
    assert (found.branches, found.errors, found.probability) == (5, 0, None)
    assert outcome_of(solution, samples=False).samples == ()


def test_a_blind_search_is_judged_afterwards():
    solution = solve(SIX, strategy=BestOfN(5), decoder=scripted(TEXTS), verifiers=[])
    verifier = math_answer()

    def truth(problem: Problem, branch: Branch) -> Verdict:
        return judge([verifier], problem, branch)[0]

    found = outcome_of(solution, samples=True, truth=truth)
    verifier.close()
    assert not solution.verified
    assert [sample.right for sample in found.samples] == [False, True, True, False, False]
    assert found.to_first == len(TEXTS[0].split()) + len(TEXTS[1].split())
    assert solution.branch is not None
    assert found.solved == ("41" not in solution.branch.text and "give" not in solution.branch.text)


def test_what_a_verifier_failed_on_is_an_error_and_no_rejection():
    def broken(problem: Problem, branch: Branch) -> bool:
        raise RuntimeError("no")

    found = outcome_of(
        solve(SIX, strategy=BestOfN(2), decoder=scripted(TEXTS), verifiers=[broken]),
        samples=True,
    )
    assert (found.solved, found.errors, found.to_first) == (False, 2, None)


def test_scores_of_a_verifier_that_only_ranks_are_kept():
    def halfway(problem: Problem, branch: Branch) -> float:
        return 0.75 if "42" in branch.text else 0.25

    verifiers = [halfway, math_answer()]
    solution = solve(SIX, strategy=BestOfN(5, stop_at_first=False), decoder=scripted(TEXTS), verifiers=verifiers)
    found = outcome_of(solution, samples=True)
    assert [sample.scores.get("halfway") for sample in found.samples] == [0.25, 0.75, 0.25, 0.25, 0.25]
    result = measure("s", "d", [found], 5)
    assert result.ranked_by == "halfway"
    assert result.at[-1].best.value == 1.0
    assert measure("s", "d", [replace(found, samples=(Sample(True, 0),))], 5).ranked_by == LOGPROB


def test_only_best_of_n_samples_independently():
    assert samples_independently(BestOfN())
    assert not samples_independently(Fallback())
    assert not samples_independently(EntropyBranching())


def test_branches_that_a_budget_took_count_as_not_right():
    def long(request: DecodeRequest) -> str:
        return "so the answer is 42"

    solution = solve(
        SIX, strategy=BestOfN(8, stop_at_first=False), decoder=ScriptedDecoder(long, slots=1), budget=Budget(branches=2)
    )
    result = measure("s", "d", [outcome_of(solution, samples=True)], 8)
    assert [at.k for at in result.at] == [1, 2, 4, 8]
    assert [at.passed.value for at in result.at] == pytest.approx([2 / 8, 1 - 15 / 28, 1 - 15 / 70, 1.0])


def test_the_figures_of_a_setting():
    outcomes = [outcome("a", True, 100, "1100"), outcome("b", True, 200, "1000"), outcome("c", False, 300, "0000")]
    result = measure("BestOfN(n=4)", "default", outcomes, 4)
    assert result.name == "BestOfN(n=4), default"
    assert (result.problems, result.solved.value, result.tokens.value) == (3, pytest.approx(2 / 3), 200)
    assert 0 < result.solved.low < 2 / 3 < result.solved.high < 1
    assert [at.k for at in result.at] == [1, 2, 4]
    assert [at.passed.value for at in result.at] == pytest.approx([1 / 4, (5 / 6 + 1 / 2) / 3, 2 / 3])
    assert (result.statuses, result.to_first, result.brier) == ({"exhausted": 3}, None, None)
    with pytest.raises(ValueError, match="nothing to measure"):
        measure("s", "d", [], None)


def test_calibration_is_measured_where_the_search_said_how_sure_it_was():
    outcomes = [replace(outcome(str(at), at < 8), probability=0.8) for at in range(10)]
    result = measure("s", "d", [*outcomes, outcome("z", True)], None)
    assert result.brier is not None
    assert result.calibration is not None
    assert (result.brier.value, result.brier.problems) == (pytest.approx(0.16), 10)
    assert result.calibration.value == pytest.approx(0.0)


def test_comparisons_are_paired_by_problem_and_corrected_together():
    base = [outcome(str(at), at % 2 == 0) for at in range(60)]
    better = [outcome(str(at), True, 50) for at in range(59, -1, -1)]  # in another order
    same = [replace(one) for one in base]
    found = compare([("base", base, None), ("better", better, None), ("same", same, None)])
    assert [(one.setting, one.metric) for one in found] == [
        ("better", "solved"), ("better", "tokens"), ("same", "solved"), ("same", "tokens"),
    ]  # fmt: skip
    solved, tokens, still, _ = found
    assert (solved.gained, solved.lost, solved.shown) == (30, 0, "higher")
    assert solved.p == pytest.approx(2 / 2**30)
    assert solved.p_corrected == pytest.approx(4 * solved.p)
    assert solved.difference.value == pytest.approx(0.5)
    assert (tokens.difference.value, tokens.shown, tokens.gained) == (-50.0, "lower", None)
    assert (still.difference.value, still.p, still.shown) == (0.0, 1.0, "not shown")


def test_an_interval_that_excludes_zero_is_not_enough_where_much_is_compared():
    base = [outcome(str(at), at >= 4) for at in range(40)]
    four_more = [outcome(str(at), True) for at in range(40)]
    (solved, _) = compare([("base", base, None), ("four more", four_more, None)])
    assert (solved.gained, solved.lost) == (4, 0)
    assert solved.p == pytest.approx(0.125)
    assert solved.shown == "not shown"


def test_only_problems_that_both_finished_are_compared():
    base = [outcome(str(at), False) for at in range(5)]
    found = compare([("base", base, None), ("part", [outcome("3", True)], None), ("none", [outcome("x", True)], None)])
    assert {one.setting for one in found} == {"part"}
    assert found[0].difference.problems == 1


def test_samples_are_compared_at_k_where_both_have_them():
    base = [outcome(str(at), True, right="1000") for at in range(30)]
    more = [outcome(str(at), True, right="1110") for at in range(30)]
    found = {one.metric: one for one in compare([("base", base, 4), ("more", more, 4)])}
    assert list(found) == ["solved", "tokens", "pass@1", "pass@2", "cons@4", "best@4"]
    assert found["pass@1"].difference.value == pytest.approx(0.5)
    assert found["pass@1"].shown == "higher"
    assert found["cons@4"].difference.value == pytest.approx(1.0)
