"""How branches agree: the leading answer, its votes, and what they say of its being right."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from led_agent.answers import final_answer
from led_agent.confidence import Calibration, Groups, Vote, agree, candidates, read_votes, votes
from led_agent.tree import Tree
from led_agent.types import Branch, Problem, Verdict

PROBLEM = Problem(prompt="What is a half?", id="half")


def answered(*branches: tuple[str, str, float | None]) -> Tree:
    """A tree of answers from the prompt: text, the verdict's status or "", and mean log-probability."""
    tree = Tree(PROBLEM)
    for request in tree.requests(len(branches)):
        tree.add(request)
    for number, (text, status, logprob) in enumerate(branches, 1):
        known = (logprob,) if logprob is not None else ()
        tree.attach(Branch(id=str(number), text=text, token_ids=(1,), final_logprobs=known))
        tree.judge(str(number), [Verdict(status=status)] if status else [])  # type: ignore[arg-type]
    return tree


def read(tree: Tree) -> list[Vote]:
    """The votes, each text read by its spelling."""
    return read_votes(votes(tree), lambda texts: [final_answer(text) for text in texts])


def cast(*ballots: tuple[str, float | None]) -> tuple[list[Vote], Groups]:
    """Votes by answer and log-probability, and the groups of those that are spelled the same."""
    given = read(answered(*[(f"the answer is {text}", "", logprob) for text, logprob in ballots]))
    texts = [vote.answer for vote in given]
    return given, [[k for k, text in enumerate(texts) if text == which] for which in dict.fromkeys(texts)]


def test_most_votes_lead_and_the_likeliest_of_them_stands_for_the_answer() -> None:
    found = agree(*cast(("1", -0.1), ("2", -3.0), ("2", -1.0), ("3", -0.2)))
    assert found is not None
    assert found.best == "3"
    confidence = found.confidence
    assert confidence is not None
    assert (confidence.answer, confidence.votes, confidence.of, confidence.share) == ("2", 2, 4, 0.5)
    assert confidence.entropy == pytest.approx(0.5 * math.log(2) + 2 * 0.25 * math.log(4))
    assert confidence.logprob == -1.0
    assert confidence.probability == pytest.approx(0.5)  # (2 + 1/2) / (2 + 1/2): even odds


def test_of_as_many_votes_the_likelier_answer_leads_and_then_the_first() -> None:
    likelier = agree(*cast(("1", -1.0), ("2", -0.5), ("1", -2.0), ("2", -3.0)))
    assert likelier is not None
    assert likelier.best == "2"
    first = agree(*cast(("1", None), ("2", None)))
    assert first is not None
    assert first.best == "1"
    known = agree(*cast(("1", None), ("2", -9.0)))  # one that isn't known is less likely than any
    assert known is not None
    assert known.best == "2"


def test_what_was_chosen_otherwise_has_the_confidence_of_its_own_answer() -> None:
    ballots, groups = cast(("1", -1.0), ("2", -1.0), ("2", -0.5))
    found = agree(ballots, groups, chosen="1")
    assert found is not None
    assert found.confidence is not None
    assert (found.best, found.confidence.answer, found.confidence.votes) == ("1", "1", 1)
    kept = agree(ballots, groups, chosen="2")  # the one that was chosen, though "3" is likelier
    assert kept is not None
    assert kept.best == "2"
    assert agree(ballots, groups, chosen="7") is None
    assert agree([], []) is None


def test_all_of_one_mind_has_no_entropy() -> None:
    found = agree(*cast(("1", None), ("1", None), ("1", None)))
    assert found is not None
    assert found.confidence is not None
    assert (found.confidence.entropy, found.confidence.share) == (0.0, 1.0)
    assert found.confidence.probability == pytest.approx(3.5 / 4)


@given(counts=st.lists(st.integers(1, 9), min_size=1, max_size=5))
def test_confidence_is_a_probability_that_grows_with_the_share(counts: list[int]) -> None:
    found = agree(*cast(*[(str(k), -1.0) for k, count in enumerate(counts) for _ in range(count)]))
    assert found is not None
    assert found.confidence is not None
    assert found.confidence.votes == max(counts)
    assert found.confidence.of == sum(counts)
    assert 0 < found.confidence.probability < 1
    assert (found.confidence.probability > 0.5) == (2 * max(counts) > sum(counts))


def test_a_calibration_is_a_logistic_map_and_may_be_given() -> None:
    calibration = Calibration(bias=0.2, share=1.5, entropy=-0.7, logprob=0.3)
    z = 0.2 + 1.5 * math.log(3.5 / 1.5) - 0.7 * 0.5 + 0.3 * -2.0
    assert calibration(3, 4, 0.5, -2.0) == pytest.approx(1 / (1 + math.exp(-z)))
    assert calibration(3, 4, 0.5, None) == calibration(3, 4, 0.5, 0.0)
    assert 0 < Calibration(1e9, 0, 0, 0)(1, 1, 0, 0) < 1
    found = agree(*cast(("1", None)), calibration=Calibration(math.log(1 / 3), 0, 0, 0))
    assert found is not None
    assert found.confidence is not None
    assert found.confidence.probability == pytest.approx(0.25)
    assert found.confidence.calibrated
    plain = agree(*cast(("1", None)))
    assert plain is not None
    assert plain.confidence is not None
    assert not plain.confidence.calibrated


def test_votes_are_what_nobody_rejected_else_all() -> None:
    tree = answered(("it is 41", "rejected", -1.0), ("it is 42", "abstained", -1.0), ("it is 43", "error", None))
    assert [node.id for node in candidates(tree)] == ["2", "3"]
    assert [(vote.answer, vote.logprob) for vote in read(tree)] == [("42", -1.0), ("43", None)]
    tree = answered(("it is 41", "rejected", -1.0), ("no idea", "rejected", -1.0))
    assert [node.id for node in candidates(tree)] == ["1", "2"]
    assert [vote.answer for vote in read(tree)] == ["41"]


def test_a_verifiers_reading_of_an_answer_goes_before_the_texts() -> None:
    tree = Tree(PROBLEM)
    (request,) = tree.requests(1)
    tree.add(request)
    tree.attach(Branch(id="1", text="def half(x): return x / 2"))
    tree.judge("1", [Verdict(status="abstained", answer="x / 2")])
    assert [vote.answer for vote in read(tree)] == ["x / 2"]


def test_steps_and_what_was_given_up_have_no_vote() -> None:
    tree = answered(("it is 41", "", None), ("it is 42", "", None))
    (request,) = tree.requests(1)
    tree.add(request)
    tree.attach(Branch(id="3", text="so 43\n", token_ids=(1,), finish="step"))
    tree.prune("2", "no good")
    assert [vote.answer for vote in read(tree)] == ["41"]
