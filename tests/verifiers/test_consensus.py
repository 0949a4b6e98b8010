"""Branches vote with their answers: by mathematics and not by spelling, and what failed is no vote against anybody."""

from __future__ import annotations

import math
import pickle
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from led_agent.errors import UsageError
from led_agent.search import solve
from led_agent.strategies import BestOfN
from led_agent.testing import ScriptedDecoder
from led_agent.types import Branch, Problem, Verdict
from led_agent.verifiers import Consensus, all_of, consensus, equivalence, equivalence_groups, matches
from led_agent.verifiers.equivalence import final_answers
from led_agent.verifiers.workers import WorkerDied, WorkerPool, WorkerTimeout

PROBLEM = Problem(prompt="q", id="q")


@pytest.fixture(scope="module")
def workers() -> Iterator[WorkerPool]:
    pool = WorkerPool(equivalence.WORKER, 1)
    yield pool
    pool.close()


@pytest.fixture
def no_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever asks a worker fails the test."""

    def call(self: WorkerPool, payload: dict[str, Any], seconds: float) -> dict[str, Any]:
        raise AssertionError(f"asked {payload}")

    monkeypatch.setattr(WorkerPool, "call", call)


def says(*answers: object) -> list[Branch]:
    return [Branch(text="I don't know" if a is None else rf"\boxed{{{a}}}", id=str(k)) for k, a in enumerate(answers)]


def likely(answer: object, *logprobs: float) -> Branch:
    return Branch(text=rf"\boxed{{{answer}}}", token_ids=(1,) * len(logprobs), final_logprobs=logprobs)


def told(verifier: Consensus, branches: Sequence[Branch]) -> list[tuple[str, float]]:
    return [(v.status, round(v.score, 3)) for v in verifier.together(PROBLEM, branches)]


# --- which answers are the same ------------------------------------------------------------------------------------


def test_equal_answers_are_one_group_however_they_are_written(workers: WorkerPool) -> None:
    answers = ["1/2", "x+1", "0.5", None, r"\frac{1}{2}", "1+x", "2", "", r"(3, \frac{\pi}{2})", "2.00", r"(3,\pi/2)"]
    assert equivalence_groups(answers, seconds=60.0, pool=workers).groups == ((0, 2, 4), (1, 5), (6, 9), (8, 10))


@given(st.lists(st.one_of(st.none(), st.integers(-20, 20)), max_size=20), st.data())
@settings(max_examples=50, deadline=None)
def test_whole_numbers_cost_nothing_and_each_answer_is_in_one_group(values: list[int | None], data: Any) -> None:
    spell = st.sampled_from(["{}", "{}.0", "${}$", " {} ", "{}."])
    answers = [None if v is None else data.draw(spell).format(v) for v in values]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(equivalence, "_call", lambda pool, payload, seconds: unequal(payload))
        groups = equivalence_groups(answers).groups
    assert {frozenset(group) for group in groups} == {
        frozenset(k for k, v in enumerate(values) if v == value) for value in values if value is not None
    }


def unequal(payload: dict[str, Any]) -> dict[str, Any]:
    return {"status": "unequal", "reason": "", "answer": None}


@pytest.mark.usefixtures("no_workers")
def test_plain_integers_and_equal_spellings_ask_no_worker() -> None:
    answers = ["18", "19", "1,234", "1234", "x+1", "18", "x+1"]
    assert equivalence_groups(answers[:4]).groups == ((0,), (1,), (2, 3))
    assert equivalence_groups(["x+1", " x+1 ", "$x+1$"]).groups == ((0, 1, 2),)
    assert final_answers([r"\boxed{7}", "The answer is 42.", "#### 42", "42", ""]).answers == (
        "7",
        "42",
        "42",
        "42",
        None,
    )


def test_each_different_answer_is_compared_once_with_each_group(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []

    def call(pool: Any, payload: dict[str, Any], seconds: float) -> dict[str, Any]:
        asked.append(tuple(payload["equal"]))
        return unequal(payload)

    monkeypatch.setattr(equivalence, "_call", call)
    assert len(equivalence_groups(["a", "b", "c", "a", "b", "c"] * 5).groups) == 3
    assert asked == [("a", "b"), ("a", "c"), ("b", "c")]


@pytest.mark.parametrize("error", [WorkerTimeout("late"), WorkerDied("dead")])
def test_what_could_not_be_compared_is_not_equal_and_is_named(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def call(self: WorkerPool, payload: dict[str, Any], seconds: float) -> dict[str, Any]:
        raise error

    monkeypatch.setattr(WorkerPool, "call", call)
    found = equivalence_groups(["a", "b", "a", "b"])
    assert found.groups == ((0, 2), (1, 3))
    assert set(found.faults) == {1, 3}
    assert "'b' was not compared with 'a'" in found.faults[3]
    read = final_answers(["It comes to 42 in all"])
    assert (read.answers, set(read.faults)) == (("42",), {0})


def test_answers_are_found_as_math_answer_finds_them(workers: WorkerPool) -> None:
    texts = [
        r"So it is $\frac{1}{2}$.",
        "<think>7</think>The total is $18.",
        r"cut off \boxed{1",
        "That makes 4 in all.",
    ]
    found = final_answers(texts, seconds=60.0, pool=workers)
    assert found.answers == (r"\frac{1}{2}", "18", None, "4")
    assert found.faults == {}


# --- the votes -----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_workers")
def test_a_branch_scores_its_answers_share_and_consensus_is_no_proof() -> None:
    branches = says(*[42] * 7, *[41] * 5, *range(4))
    verdicts = consensus().together(PROBLEM, branches)
    assert {v.status for v in verdicts} == {"abstained"}
    assert verdicts[0].reason == "7 of 16 branches say 42 (weight 0.44)"
    assert verdicts[-1].reason == "1 of 16 branches says 3 (weight 0.06)"
    assert (verdicts[0].score, verdicts[0].answer, verdicts[0].verifier) == (7 / 16, "42", "consensus")


@pytest.mark.usefixtures("no_workers")
@pytest.mark.parametrize(
    ("answers", "accept", "minimum", "status"),
    [
        ([1, 1, 2], 0.5, 2, ["accepted", "accepted", "rejected"]),
        ([1, 1, 2, 2], 0.5, 2, ["abstained"] * 4),  # two lead
        ([1, 1, 2, 3], 0.5, 2, ["accepted", "accepted", "rejected", "rejected"]),
        ([1, 1, 2, 3], 0.51, 2, ["abstained"] * 4),
        ([1, 1, 2], 0.5, 3, ["abstained"] * 3),
        ([1], 0.5, 2, ["abstained"]),
        ([1], 0.5, 1, ["accepted"]),
        ([], 0.5, 2, []),
    ],
)
def test_with_accept_the_leading_answer_is_accepted_and_others_are_rejected(
    answers: list[int], accept: float, minimum: int, status: list[str]
) -> None:
    assert [s for s, _ in told(consensus(accept=accept, minimum=minimum), says(*answers))] == status


def test_a_branch_without_an_answer_abstains_but_counts() -> None:
    branches = [*says(1, 1), Branch(text=r"\boxed{}"), Branch(text="")]
    assert told(consensus(accept=0.6), branches) == [("abstained", 0.5)] * 2 + [("abstained", 0.0)] * 2
    assert told(consensus(accept=0.5), branches) == [("accepted", 0.5)] * 2 + [("abstained", 0.0)] * 2


@pytest.mark.usefixtures("no_workers")
def test_weighed_by_length_normalised_probability() -> None:
    half, tenth = math.log(0.5), math.log(0.1)
    branches = [likely(1, half, half, half), likely(2, tenth), likely(2, tenth, tenth)]
    assert [s for _, s in told(consensus("logprob"), branches)] == [round(0.5 / 0.7, 3)] + [round(0.2 / 0.7, 3)] * 2
    assert [s for _, s in told(consensus("logprob"), says(1, 1, 2))] == [0.667, 0.667, 0.333]  # none are known
    assert [s for _, s in told(consensus("logprob"), [*says(1), likely(2, half)])] == [0.0, 1.0]


@pytest.mark.usefixtures("no_workers")
def test_weighed_by_a_verifier() -> None:
    def trust(problem: Problem, branch: Branch) -> float:
        return {"0": 0.8, "1": 0.1, "2": 0.1}[branch.id]

    verifier = consensus(trust, accept=0.5, minimum=1)
    assert verifier.name == "consensus(trust)"
    assert told(verifier, says(1, 2, 2)) == [("accepted", 0.8), ("rejected", 0.2), ("rejected", 0.2)]
    assert told(consensus(lambda p, b: False, accept=0.5, minimum=1), says(1, 1)) == [("abstained", 0.0)] * 2


@pytest.mark.usefixtures("no_workers")
def test_where_the_weighing_fails_nothing_is_accepted_or_rejected() -> None:
    def trust(problem: Problem, branch: Branch) -> float:
        if branch.id == "3":
            raise OSError("no model")
        return 1.0

    verdicts = consensus(trust, accept=0.5).together(PROBLEM, says(1, 1, 1, 2))
    assert [v.status for v in verdicts] == ["abstained"] * 4
    assert "1 of them not weighed: verifier trust raised OSError: no model" in verdicts[0].reason


def test_a_branch_that_could_not_be_compared_is_not_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    def call(self: WorkerPool, payload: dict[str, Any], seconds: float) -> dict[str, Any]:
        raise WorkerTimeout("late")

    monkeypatch.setattr(WorkerPool, "call", call)
    verdicts = consensus(accept=0.5).together(PROBLEM, says("x", "x", "y"))
    assert [v.status for v in verdicts] == ["accepted", "accepted", "abstained"]
    assert "'y' was not compared with 'x': not done within 5 s" in verdicts[2].reason


@pytest.mark.usefixtures("no_workers")
@given(st.lists(st.integers(0, 4), min_size=1, max_size=12), st.sampled_from([0.2, 0.5, 1.0]), st.integers(1, 3))
@settings(deadline=None)
def test_shares_add_up_and_at_most_one_answer_is_accepted(answers: list[int], accept: float, minimum: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(equivalence, "_call", lambda pool, payload, seconds: unequal(payload))
        verdicts = consensus(accept=accept, minimum=minimum).together(PROBLEM, says(*answers))
    shares = {answer: verdict.score for answer, verdict in zip(answers, verdicts, strict=True)}
    assert sum(shares.values()) == pytest.approx(1.0)
    accepted = {answer for answer, verdict in zip(answers, verdicts, strict=True) if verdict.status == "accepted"}
    assert len(accepted) <= 1
    for answer in accepted:
        assert shares[answer] == max(shares.values()) >= accept
        assert answers.count(answer) >= minimum
    assert ("rejected" in {v.status for v in verdicts}) <= bool(accepted)


# --- as a verifier among others ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_workers")
def test_alone_a_branch_is_a_group_of_one() -> None:
    said = consensus(accept=0.5)(PROBLEM, says(42)[0])
    assert (said.status, said.reason) == ("abstained", "1 of 1 branches says 42 (weight 1.00)")


@pytest.mark.usefixtures("no_workers")
def test_the_search_picks_the_leading_answers_best_branch() -> None:
    branches = [likely(7, -0.1), likely(42, -2.0), likely(42, -1.0), likely(8, -0.2)]
    decoder = ScriptedDecoder(lambda request: branches[int(request.id) - 1])
    solution = solve(PROBLEM, decoder=decoder, strategy=BestOfN(4), verifiers=[consensus()])
    assert solution.branch is not None
    assert (solution.branch.id, solution.answer, solution.verified) == ("3", "42", False)
    accepting = solve(PROBLEM, decoder=decoder, strategy=BestOfN(4), verifiers=[consensus(accept=0.5)])
    assert (accepting.status, accepting.verified, accepting.answer) == ("verified", True, "42")


@pytest.mark.usefixtures("no_workers")
def test_behind_a_filter_only_what_passes_it_votes() -> None:
    verifier = all_of(matches("4"), consensus(accept=0.6, minimum=1))
    said: list[Verdict] = verifier.together(PROBLEM, says(7, 7, 7, 42, 42))
    assert [v.status for v in said] == ["rejected"] * 3 + ["accepted"] * 2


def test_it_travels_and_closes_what_weighs() -> None:
    weigher = matches("4")
    for verifier in (consensus(), consensus("logprob", 0.5, 3, seconds=1.0, workers=1), consensus(weigher)):
        assert pickle.loads(pickle.dumps(verifier)) == verifier
    closed: list[bool] = []

    class Tool:
        def __call__(self, problem: Problem, branch: Branch) -> bool:
            return True

        def close(self) -> None:
            closed.append(True)

    consensus(Tool()).close()
    assert closed == [True]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"weight": "votes"}, "'count', 'logprob' and a verifier"),
        ({"weight": 3}, "weight is 3"),
        ({"weight": Consensus()}, "compares branches itself"),
        ({"accept": 0.0}, "accept is 0.0"),
        ({"accept": 1.1}, "accept is 1.1"),
        ({"minimum": 0}, "minimum is 0"),
        ({"seconds": 0}, "seconds is 0"),
        ({"workers": 0}, "workers is 0"),
    ],
)
def test_a_bad_option_is_refused_at_once(options: dict[str, Any], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        consensus(**options)
