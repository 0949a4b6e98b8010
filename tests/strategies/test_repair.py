"""Repair: what is put to the model again, and when."""

from __future__ import annotations

from typing import Any

import pytest

from led_agent.errors import UsageError
from led_agent.strategies import BestOfN, Repair
from led_agent.tree import Node, Tree
from led_agent.types import Branch, Problem, Verdict
from tests.strategies.helpers import Play, drawn, outline, run, told

TOLD = "add(1, 2): got -1, expected 3"


def by_its_tests(problem: Problem, branch: Branch) -> Verdict:
    """As the tests of a program would say it: the first that fails."""
    if "a + b" in branch.text:
        return Verdict(status="accepted")
    return Verdict(status="rejected", score=0.6 if "a - b" in branch.text else 0.2, reason=TOLD)


def test_the_best_answer_is_put_to_the_model_again_with_the_reason() -> None:
    texts = {"1": "def add(a, b): return a", "2": "def add(a, b): return a - b", "2.1": "def add(a, b): return a + b"}
    solution = run(Repair(BestOfN(2)), lambda request: texts[request.id], verifiers=[by_its_tests])
    assert drawn(solution.tree, decoding=False) == outline("""
        1 explore rejected: def add(a, b): return a
        2 explore rejected: def add(a, b): return a - b
          2.1 repair accepted: def add(a, b): return a + b
    """)
    assert (solution.text, solution.verified) == (texts["2.1"], True)
    request = solution.tree["2.1"].request
    assert request is not None
    assert not isinstance(request.prompt, str)
    assert request.prefix_ids == ()
    question, answer, feedback = request.prompt
    assert (question.role, question.content) == ("user", "What is 6 x 7?")
    assert (answer.role, answer.content) == ("assistant", texts["2"])
    assert feedback.role == "user"
    assert "got -1" in feedback.content
    assert "expected 3" in feedback.content
    assert request.trigger == f"2 was rejected: {TOLD}"


def test_what_comes_is_repaired_in_turn_within_the_same_chat() -> None:
    solution = run(Repair(BestOfN(1), rounds=3), ["return a - b"], verifiers=[by_its_tests])
    assert [node.id for node in solution.tree.nodes()] == ["1", "1.1", "1.1.1", "1.1.1.1"]
    request = solution.tree["1.1.1"].request
    assert request is not None
    assert len(request.prompt) == 3  # the last answer and what was told of it, not the whole quarrel
    assert solution.status == "exhausted"


def test_a_round_may_have_several_and_a_worse_repair_does_not_lead_on() -> None:
    texts = {"1": "return a - b", "1.1": "return b", "1.2": "return b"}
    tree = run(Repair(BestOfN(1), rounds=2, width=2), lambda r: texts.get(r.id, "?"), verifiers=[by_its_tests]).tree
    assert [(node.id, node.purpose) for node in tree.nodes()] == [
        ("1", "explore"), ("1.1", "repair"), ("1.2", "repair"), ("1.2.1", "repair"), ("1.2.2", "repair"),
    ]  # fmt: skip


def test_an_answer_that_nobody_rejected_is_not_repaired() -> None:
    tree = Play(Repair(BestOfN(2)), **told({}, {"2": 0.5}))()
    assert [node.status for node in tree.nodes()] == ["rejected", "open"]


def test_a_model_that_cannot_be_asked_again_is_not() -> None:
    tree = Play(Repair(BestOfN(2)), **told({}, {}), follow_up=False)()
    assert [node.purpose for node in tree.nodes()] == ["explore", "explore"]


def test_it_waits_for_every_verdict() -> None:
    strategy = Repair(BestOfN(2))
    play = Play(strategy, **told({}, {}))
    play.propose()
    play.decode(0)
    play.judge_one(0)
    assert strategy.propose(play.tree, 8) == []
    play.decode(0)
    assert strategy.propose(play.tree, 8) == []
    play.judge_one(0)
    assert [request.parent for request in strategy.propose(play.tree, 8)] == ["2"]


def test_what_a_verifier_would_rather_have_told_is_told() -> None:
    def judge(tree: Tree, node: Node) -> list[Verdict]:
        return [Verdict(status="rejected", reason="it is 42, not 41", feedback="it is not 41")]

    tree = Play(Repair(BestOfN(1), rounds=1), script=told({}, {})["script"], judge=judge)()
    request = tree["1.1"].request
    assert request is not None
    assert not isinstance(request.prompt, str)
    assert "it is not 41" in request.prompt[-1].content
    assert "42" not in request.prompt[-1].content


@pytest.mark.parametrize("options", [{"rounds": 0}, {"width": 0}, {"inner": BestOfN}, {"inner": "beam"}])
def test_a_repair_that_cannot_be_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="Repair"):
        Repair(**options)
