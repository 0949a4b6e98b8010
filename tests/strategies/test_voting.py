"""Votes: when they are sure enough, and which answer weighs most."""

from __future__ import annotations

import math
from typing import Any

import pytest

from led_agent.errors import UsageError
from led_agent.events import Event
from led_agent.protocols import BranchProgress
from led_agent.strategies import SelfConsistency, WeightedVote
from led_agent.strategies.voting import majority_probability
from led_agent.testing import ScriptedDecoder
from led_agent.tree import Tree
from led_agent.types import Branch, Problem, Verdict
from tests.strategies.helpers import LED, PROBLEM, run


def answered(*branches: tuple[str, float | None, float], verdict: Any = "abstained") -> Tree:
    """A tree of answers from the prompt: text, score and mean log-probability."""
    tree = Tree(PROBLEM, decoding=LED)
    for request in tree.requests(len(branches)):
        tree.add(request)
    for name, (text, score, logprob) in enumerate(branches, 1):
        tree.attach(Branch(id=str(name), text=text, token_ids=(1,), final_logprobs=(logprob,)))
        tree.judge(str(name), [Verdict(status=verdict, score=score)] if score is not None else [])
    return tree


@pytest.mark.parametrize(("first", "second"), [(0, 0), (1, 0), (3, 0), (4, 1), (5, 5), (9, 4), (2, 6)])
def test_the_probability_of_a_majority_is_the_mass_of_its_beta_above_one_half(first: int, second: int) -> None:
    cells = 20_000
    points = [(k + 0.5) / cells for k in range(cells)]
    density = [x**first * (1 - x) ** second for x in points]
    upper = sum(d for x, d in zip(points, density, strict=True) if x > 0.5)
    assert majority_probability(first, second) == pytest.approx(upper / sum(density), abs=1e-6)


def test_it_stops_when_it_is_sure_enough_and_no_sooner() -> None:
    strategy = SelfConsistency(16)
    assert majority_probability(3, 0) < 0.95 < majority_probability(4, 0)
    assert not strategy.finished(answered(*[("41", None, -1.0)] * 3))
    assert strategy.finished(answered(*[("41", None, -1.0)] * 4))
    assert not strategy.finished(answered(*[("41", None, -1.0)] * 4, ("43", None, -1.0)))
    assert not SelfConsistency(16, confidence=1).finished(answered(*[("41", None, -1.0)] * 9))
    assert not SelfConsistency(16, minimum=5).finished(answered(*[("41", None, -1.0)] * 4))
    assert strategy.finished(answered(*[("41", None, -1.0)] * 4, ("no idea", None, -1.0)))  # which is no vote


def test_a_rejected_answer_does_not_make_it_sure() -> None:
    assert not SelfConsistency(16).finished(answered(*[("41", 0.0, -1.0)] * 9, verdict="rejected"))
    solution = run(SelfConsistency(12), lambda request: "42" if request.id == "11" else "41")
    assert (solution.status, solution.text) == ("verified", "42")


def test_a_vote_counts_when_its_verdict_is_there() -> None:
    tree = answered(*[("41", None, -1.0)] * 3)
    (request,) = tree.requests(1)
    tree.add(request)
    tree.attach(Branch(id="4", text="41"))
    assert not SelfConsistency(16).finished(tree)
    tree.judge("4", [])
    assert SelfConsistency(16).finished(tree)


def test_stopping_early_cancels_the_siblings_that_are_still_growing() -> None:
    decoder = ScriptedDecoder(["the answer is 41"], slots=8, hold=True)

    def observer(tree: Tree, event: Event | BranchProgress) -> None:
        if decoder.hold and len(decoder.requests) == 8:
            decoder.hold = False
            decoder.release(5)

    solution = run(SelfConsistency(8), None, decoder=decoder, verifiers=[], observer=observer)
    finishes = [node.branch.finish for node in solution.tree.nodes() if node.branch]
    assert sorted(finishes) == ["cancelled"] * (8 - finishes.count("eos")) + ["eos"] * finishes.count("eos")
    assert 4 <= finishes.count("eos") <= 5
    assert (solution.status, solution.answer, solution.verified) == ("exhausted", "41", False)
    assert solution.confidence is not None
    assert solution.confidence.votes == solution.confidence.of == finishes.count("eos")


def test_what_most_say_is_the_answer() -> None:
    texts = ["41", "43", "43", "44", "43", "41"]
    solution = run(SelfConsistency(6, confidence=1), texts, verifiers=[])
    assert (solution.answer, solution.status) == ("43", "exhausted")


def test_the_answer_that_weighs_most_is_chosen_and_of_it_the_likeliest_branch() -> None:
    tree = answered(("41", 0.3, -0.1), ("43", 0.9, -3.0), ("41", 0.4, -2.0), ("43", 0.1, -0.2))
    assert WeightedVote().choose(tree) == "2"  # 0.9 + 0.1 against 0.7
    tree = answered(("41", 0.3, -0.1), ("41", 0.4, -2.0), ("43", 0.6, -0.1))
    assert WeightedVote().choose(tree) == "2"  # 0.3 + 0.4 against 0.6: neither the best alone nor by chance
    weights = [math.exp(-0.1), math.exp(-2.0), math.exp(-0.1)]
    assert weights[0] + weights[1] > weights[2]
    assert WeightedVote(weight="probability").choose(tree) == "1"


def test_without_scores_the_probability_weighs() -> None:
    tree = answered(("41", None, -3.0), ("43", None, -0.1), ("41", None, -3.0))
    assert WeightedVote().choose(tree) == "2"  # 0.9 against twice 0.05
    assert WeightedVote().choose(Tree(PROBLEM)) is None
    assert WeightedVote().choose(answered(("no idea", None, -1.0))) is None


def test_the_solution_is_what_was_chosen() -> None:
    scores = {"1": 0.2, "2": 0.2, "3": 0.9}

    def verifier(problem: Problem, branch: Branch) -> float:
        return scores[branch.id]

    solution = run(WeightedVote(3), ["41", "41", "43"], verifiers=[verifier])
    assert (solution.answer, solution.verified) == ("43", False)
    assert solution.confidence is not None
    assert (solution.confidence.votes, solution.confidence.of) == (1, 3)


@pytest.mark.parametrize("options", [{"n": 0}, {"minimum": 0}, {"confidence": 0.5}, {"confidence": 1.1}])
def test_a_vote_that_cannot_be_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="SelfConsistency"):
        SelfConsistency(**options)


@pytest.mark.parametrize("options", [{"n": 0}, {"weight": "length"}])
def test_a_weighted_vote_that_cannot_be_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="WeightedVote"):
        WeightedVote(**options)
