"""Asking again: what the model is shown of its answer and of the verdict, and that it is never shown the right one."""

from __future__ import annotations

from typing import Any

import pytest

from led_agent.strategies._asking import ask_again
from led_agent.tree import Tree
from led_agent.types import Branch, Message, Problem, Verdict
from led_agent.verifiers import all_of, math_answer, unit_tests

AGAIN = "\n\nFind the mistake, and answer the problem again in the same form."
CHECK = "Check that answer. Correct what is wrong with it, and answer the problem again in the same form."


def judged(problem: Problem | str, text: str, *verdicts: Verdict) -> Tree:
    tree = Tree(problem)
    (request,) = tree.requests(1)
    tree.add(request)
    tree.attach(Branch(id="1", text=text))
    tree.judge("1", verdicts)
    return tree


def wish(verdict: Verdict | None, answer: str | None = None) -> str:
    tree = judged(Problem(prompt="What is 6 x 7?", answer=answer), "41", *([verdict] if verdict else []))
    return ask_again(tree, tree["1"])[-1].content


def test_the_chat_is_the_problem_the_answer_and_what_the_verifier_told() -> None:
    tree = judged("What is 6 x 7?", "<think>6 x 7 …</think>\n\nIt is 41.", Verdict(status="rejected", reason="too low"))
    assert ask_again(tree, tree["1"]) == [
        Message(role="user", content="What is 6 x 7?"),
        Message(role="assistant", content="It is 41."),
        Message(role="user", content=f"That answer was not accepted: too low{AGAIN}"),
    ]


def test_a_chat_stays_a_chat_and_an_answer_that_was_begun_is_one_answer() -> None:
    system = Message(role="system", content="Be brief.")
    question, begun = Message(role="user", content="6 x 7?"), Message(role="assistant", content="It is ")
    tree = judged(Problem(prompt=(system, question, begun)), "41", Verdict(status="rejected"))
    assert ask_again(tree, tree["1"])[:3] == [system, question, Message(role="assistant", content="It is 41")]


@pytest.mark.parametrize(
    ("verdict", "told"),
    [
        (Verdict(status="rejected"), f"That answer was not accepted.{AGAIN}"),
        (Verdict(status="rejected", reason="no"), f"That answer was not accepted: no{AGAIN}"),
        (Verdict(status="rejected", reason="no", feedback="wrong"), f"That answer was not accepted: wrong{AGAIN}"),
        (Verdict(status="rejected", reason="no", feedback=""), f"That answer was not accepted.{AGAIN}"),
        (Verdict(status="abstained", score=0.4, reason="so so"), f"That answer was scored 0.4 of 1: so so{AGAIN}"),
        (Verdict(status="abstained", reason="the problem has no reference"), CHECK),
        (Verdict(status="error", reason="the verifier raised ValueError"), CHECK),
        (Verdict(status="accepted", reason="matches"), CHECK),
        (None, CHECK),
    ],
)
def test_what_is_told_of_each_verdict(verdict: Verdict | None, told: str) -> None:
    assert wish(verdict) == told


@pytest.mark.parametrize(
    ("answer", "reason", "kept"),
    [
        ("42", "found 41, expected 42", False),
        ("42", "found 41, expected 42.", False),
        ("42", "found 142, which is wrong", True),
        ("a  proof", "expected: A proof", False),
        ("6 x 7 is 42.\n#### 42", "expected 42", False),
        (r"\frac{1}{2}", r"expected \frac{1}{2}", False),
        (None, "expected 42", True),
    ],
)
def test_a_reason_that_names_the_right_answer_is_withheld(answer: str | None, reason: str, kept: bool) -> None:
    told = wish(Verdict(status="rejected", reason=reason), answer)
    assert told == f"That answer was not accepted{f': {reason}' if kept else '.'}{AGAIN}"


def test_what_a_verifier_says_may_be_told_is_told() -> None:
    assert "found 42" in wish(Verdict(status="rejected", reason="found 41", feedback="found 42 as a unit"), "42")


def test_the_chat_is_bounded_and_keeps_the_end_of_an_answer() -> None:
    tree = judged("Why?", "x" * 50_000 + " 41", Verdict(status="rejected", reason="y" * 50_000))
    _, answer, told = ask_again(tree, tree["1"])
    assert len(answer.content) < 6_100
    assert answer.content.endswith(" 41")
    assert len(told.content) < 1_200


def test_an_answer_of_nothing_but_thoughts_is_none() -> None:
    tree = judged("Why?", "<think>so</think> ", Verdict(status="rejected"))
    assert ask_again(tree, tree["1"])[1].content == "(no answer)"


def test_the_same_answer_to_the_same_question_is_asked_about_in_other_words() -> None:
    tree = judged("What is 6 x 7?", "41", Verdict(status="rejected"))
    for name in ("1", "1.1", "1.1.1"):
        (request,) = tree.requests(1, parent=name, prompt=ask_again(tree, tree[name]), purpose="repair")
        assert request.prefix_ids == ()
        tree.add(request)
        tree.attach(Branch(id=request.id, text="41", token_ids=(1, 2)))
        tree.judge(request.id, [Verdict(status="rejected")])
        assert tree.text(request.id) == "41"
    prompts = [str(node.request.prompt[-1]) for node in tree.nodes()[1:] if node.request]
    assert ["said the same before" in prompt for prompt in prompts] == [False, True, False]


@pytest.mark.parametrize("combine", [lambda verifier: verifier, all_of], ids=["alone", "all_of"])
@pytest.mark.parametrize("gold", ["391", r"\frac{391}{1}", "17 * 23 = 391\n#### 391", r"So it is \boxed{391}."])
def test_math_answer_never_gives_the_answer_away(combine: Any, gold: str) -> None:
    problem, verifier = Problem(prompt="What is 17 * 23?", answer=gold), combine(math_answer(workers=1))
    try:
        for text in (r"It is \boxed{401}.", "I don't know", r"\boxed{", r"\boxed{" + "(" * 300 + "}"):
            verdict = verifier(problem, Branch(text=text))
            assert verdict.status != "accepted"
            tree = judged(problem, text, verdict)
            assert "391" not in "".join(message.content for message in ask_again(tree, tree["1"])), verdict
        tree = judged(problem, "401", verifier(problem, Branch(text="401")))
        assert "the final answer reads 401, and that is wrong" in ask_again(tree, tree["1"])[-1].content
    finally:
        verifier.close()


def test_a_failing_test_is_told_with_what_was_got_and_expected() -> None:
    problem = Problem(prompt="Write add(a, b).", entry_point="add", tests=({"args": [2, 3], "expect": 5},))
    text, verifier = "```python\ndef add(a, b):\n    return a - b\n```", unit_tests()
    try:
        verdict = verifier(problem, Branch(text=text))
    finally:
        verifier.close()
    assert verdict.status == "rejected", verdict
    tree = judged(problem, text, verdict)
    told = ask_again(tree, tree["1"])[-1].content
    assert "test 1 of 1" in told
    assert "got -1, expected 5" in told
