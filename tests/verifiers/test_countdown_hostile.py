"""Expressions that look like an answer in part, numbers of any length, and puzzles that are none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from led_agent.countdown import ExpressionError, work_out
from led_agent.errors import UsageError
from led_agent.types import Branch, Problem, Verdict
from led_agent.verifiers import countdown, matches

PUZZLE = Problem(prompt="Use 3, 7 and 5 to make 50.")


def verdict(text: str, **metadata: object) -> Verdict:
    problem = Problem(prompt="?", metadata=metadata) if metadata else PUZZLE
    return countdown()(problem, Branch.model_construct(text=text))


@pytest.mark.parametrize(
    ("text", "numbers", "target"),
    [
        ("sqrt(16)+4", [16, 4], 20),
        ("abs(3-7)*5", [3, 7, 5], -20),
        ("3e5+7", [5, 7], 12),
        ("0b11+7", [11, 7], 18),
        ("3_5+7", [5, 7], 12),
        ("3 % 7 + 5", [7, 5], 12),
        ("3 + 5! = 123", [3, 5], 8),
        ("3!+7*5", [7, 5], 35),
        ("5*(3+7)²", [3, 7, 5], 50),
        ("²3+7", [3, 7], 10),
        ("3+7**5", [3, 7], 10),
        ("10^10^10 + 1", [10, 1], 11),
        ("3 7 + 5", [7, 5], 12),
        ("(3+7)5 + 1", [3, 7], 10),
        ("037 + 5", [37, 5], 42),
        ("３+７", [3, 7], 10),
        ("3//7+5", [7, 5], 12),
        ("__import__('os').system('true')+3*5", [3], 3),
        ("5/(3-3)+7", [5, 3, 3, 7], 7),
        ("(" * 190 + "3+7" + ")" * 189, [3, 7], 10),
        ("1+" * 5_000 + "1", [1, 1], 2),
        ("9" * 100_000 + "+1", [1], 1),
    ],
)
def test_what_remains_of_another_expression_is_no_answer(text, numbers, target):
    assert verdict(text, numbers=numbers, target=target).status == "rejected"


@pytest.mark.parametrize("text", ["_(3 + 7) * 5_", "(3+7)*5! Done.", "(3 + 7) * 5!", "Step1: (3+7)*5"])
def test_words_and_marks_beside_an_answer_take_nothing_from_it(text):
    assert verdict(text).status == "accepted"


@pytest.mark.parametrize(
    "metadata",
    [
        {"numbers": [10**5_000, 1], "target": 3},
        {"numbers": [3, 7, 5], "target": -(10**5_000)},
        {"numbers": ["x" * 100_000], "target": 5},
        {"numbers": [], "target": 5},
        {"nums": [3, 7], "target": "10"},
    ],
    ids=["long number", "long target", "long text", "none", "text"],
)
def test_check_refuses_a_malformed_puzzle_and_the_verdict_is_an_error(metadata):
    with pytest.raises(UsageError, match="whole number") as caught:
        countdown().check(Problem(prompt="?", metadata=metadata))
    judged = verdict("3+7", **metadata)
    assert judged.status == "error"
    assert judged.reason in str(caught.value)
    assert len(judged.reason) < 700


def test_check_says_beforehand_what_the_abstention_says():
    chat = Problem(prompt="Good morning to all of them")
    assert countdown().check(chat) == countdown()(chat, Branch(text="3+7")).reason
    assert countdown().check(PUZZLE) is None
    assert matches("x").check(chat) is None


def test_a_reason_has_a_limited_length_whatever_the_puzzle():
    judged = verdict("3+7", numbers=[1] * 100_000, target=5)
    assert judged.status == "rejected"
    assert judged.reason.endswith("(100000 numbers)")
    assert len(judged.reason) < 400


@given(st.text(alphabet="0123456789+-*/()[]. ^!%×÷−xe_", max_size=60))
def test_what_is_worked_out_is_exact_and_all_else_is_refused(text):
    try:
        worked = work_out(text)
    except ExpressionError:
        return
    doubled = work_out(f"({text})+({text})")
    assert doubled.value == 2 * worked.value
    assert doubled.numbers == worked.numbers * 2
