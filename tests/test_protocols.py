"""Plug-ins: what counts as one, under which name it speaks, and what its answer means."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest

from led_agent import strategies
from led_agent.errors import PluginError
from led_agent.judging import judge, verifier_name
from led_agent.protocols import Strategy
from led_agent.types import Branch, Problem, Verdict

PROBLEM = Problem(prompt="What is 6 x 7?", answer="42")
BRANCH = Branch(text="42")


def says_42(problem: Problem, branch: Branch) -> bool:
    return branch.text == "42"


class Nameless:
    def __call__(self, problem: Problem, branch: Branch) -> bool:
        return True


@dataclass(frozen=True)
class Named:
    name: str = "house rules"

    def __call__(self, problem: Problem, branch: Branch) -> bool:
        return True


def returning(value: object) -> Any:
    def verifier(problem: Problem, branch: Branch) -> object:
        return value

    return verifier


def raising(error: BaseException) -> Any:
    def verifier(problem: Problem, branch: Branch) -> bool:
        raise error

    return verifier


# --- names -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verifier", "name"),
    [
        (says_42, "says_42"),
        (Named(), "house rules"),
        (Named(name=""), "Named"),
        (Nameless(), "Nameless"),
        (partial(says_42), "partial"),
    ],
)
def test_a_verifiers_name(verifier: Any, name: str) -> None:
    assert verifier_name(verifier) == name
    assert judge([verifier], PROBLEM, BRANCH)[0].verifier == name


def test_a_name_that_is_no_text_is_passed_over() -> None:
    verifier = Nameless()
    verifier.name = 7  # type: ignore[attr-defined]
    assert verifier_name(verifier) == "Nameless"


def test_a_verdict_that_names_its_verifier_keeps_that_name() -> None:
    (said,) = judge([returning(Verdict(status="accepted", verifier="inner"))], PROBLEM, BRANCH)
    assert said.verifier == "inner"


def test_what_has_propose_is_a_strategy_and_nothing_else_is() -> None:
    for name in strategies.__all__:
        assert isinstance(getattr(strategies, name)(), Strategy)
    assert not isinstance(says_42, Strategy)


# --- what an answer means --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "status", "score"),
    [
        (True, "accepted", 1.0),
        (False, "rejected", 0.0),
        (1.0, "accepted", 1.0),
        (1, "accepted", 1.0),
        (0.0, "rejected", 0.0),
        (0, "rejected", 0.0),
        (0.5, "abstained", 0.5),
        (1e-9, "abstained", 1e-9),
        (1 - 1e-9, "abstained", 1 - 1e-9),
        (Verdict(status="accepted", score=0.25), "accepted", 0.25),
        (Verdict(status="error", reason="no tool"), "error", 0.0),
    ],
)
def test_bools_scores_and_verdicts(value: object, status: str, score: float) -> None:
    (said,) = judge([returning(value)], PROBLEM, BRANCH)
    assert (said.status, said.score) == (status, score)


@pytest.mark.parametrize(
    "value", [None, "yes", 1.5, -0.1, 2, float("nan"), float("inf"), [True], {"status": "accepted"}]
)
def test_nonsense_is_an_error_that_names_verifier_and_value_and_what_is_allowed(value: object) -> None:
    (said,) = judge([returning(value)], PROBLEM, BRANCH)
    assert (said.status, said.score, said.verifier) == ("error", 0.0, "verifier")
    assert type(value).__name__ in said.reason
    assert "allowed are a Verdict, a bool, or a score in [0, 1]" in said.reason


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ValueError("bad\nluck"), "verifier verifier raised ValueError: bad"),
        (KeyError("answer"), "verifier verifier raised KeyError: 'answer'"),
        (RecursionError(), "verifier verifier raised RecursionError"),
        (PluginError("the tool is missing"), "the tool is missing"),
        (SystemExit(3), "verifier verifier raised SystemExit: 3"),
    ],
)
def test_what_a_verifier_raises_is_its_error_verdict_in_one_line(error: BaseException, told: str) -> None:
    (said,) = judge([raising(error)], PROBLEM, BRANCH)
    assert (said.status, said.reason, said.score) == ("error", told, 0.0)


def test_an_object_that_cannot_even_be_shown_is_an_error() -> None:
    class Sulky:
        def __str__(self) -> str:
            raise RuntimeError("no")

    assert judge([returning(Sulky())], PROBLEM, BRANCH)[0].status == "error"


def test_ctrl_c_in_a_verifier_is_not_swallowed() -> None:
    with pytest.raises(KeyboardInterrupt):
        judge([raising(KeyboardInterrupt())], PROBLEM, BRANCH)


def test_verifiers_speak_in_order_up_to_the_first_that_rejects() -> None:
    asked: list[str] = []

    def one(name: str, value: object) -> Any:
        def verifier(problem: Problem, branch: Branch) -> object:
            asked.append(name)
            return value

        return verifier

    said = judge([one("a", True), one("b", None), one("c", 0.5), one("d", False), one("e", True)], PROBLEM, BRANCH)
    assert [v.status for v in said] == ["accepted", "error", "abstained", "rejected"]
    assert asked == ["a", "b", "c", "d"]


def test_no_verifiers_say_nothing() -> None:
    assert judge([], PROBLEM, BRANCH) == ()


def test_a_verifier_sees_the_problem_and_the_branch_that_it_judges() -> None:
    seen: list[tuple[Problem, Branch]] = []

    def verifier(problem: Problem, branch: Branch) -> bool:
        seen.append((problem, branch))
        return True

    judge([verifier], PROBLEM, BRANCH)
    assert seen == [(PROBLEM, BRANCH)]


def test_the_time_is_the_verifiers_own_word_or_measured() -> None:
    (own,) = judge([returning(Verdict(status="accepted", seconds=12.5))], PROBLEM, BRANCH)
    assert own.seconds == 12.5
    (measured,) = judge([returning(True)], PROBLEM, BRANCH)
    assert measured.seconds > 0
