"""Portfolio: who gets the branches, and that nobody sees another's."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from led_agent.errors import UsageError
from led_agent.strategies import Beam, BestOfN, Portfolio, WeightedVote
from led_agent.tree import Node, Tree
from led_agent.types import Branch, DecodeRequest, Verdict
from tests.strategies.helpers import Play

GOOD, BAD = BestOfN(60), WeightedVote(60)
ARMS = ("BestOfN-1", "WeightedVote-2")


def script(request: DecodeRequest) -> Branch:
    return Branch(text="41", token_ids=(1,) * 4)


def graded(first: float, second: float) -> Any:
    def judge(tree: Tree, node: Node) -> list[Verdict]:
        assert node.request is not None
        return [Verdict(status="abstained", score=first if node.request.part == ARMS[0] else second)]

    return judge


def parts(tree: Tree) -> Counter[str]:
    return Counter(node.request.part for node in tree.nodes() if node.request)


def test_the_better_arm_gets_more() -> None:
    wins = sum(
        parts(Play(Portfolio((GOOD, BAD), n=40), script=script, judge=graded(0.8, 0.1), slots=4, seed=s)())[ARMS[0]]
        for s in range(10)
    )
    assert wins > 0.75 * 400
    wins = sum(
        parts(Play(Portfolio((GOOD, BAD), n=40), script=script, judge=graded(0.1, 0.8), slots=4, seed=s)())[ARMS[0]]
        for s in range(10)
    )
    assert wins < 0.25 * 400


def test_of_two_that_are_as_good_the_cheaper_gets_more() -> None:
    def costly(request: DecodeRequest) -> Branch:
        return Branch(text="41", token_ids=(1,) * (5 if request.part == ARMS[0] else 20))

    wins = sum(
        parts(Play(Portfolio((GOOD, BAD), n=40), script=costly, judge=graded(0.5, 0.5), slots=4, seed=s)())[ARMS[0]]
        for s in range(10)
    )
    assert wins > 0.75 * 400


def test_each_arm_sees_its_own_branches_only() -> None:
    portfolio = Portfolio((BestOfN(3), Beam(width=1, expand=2, max_depth=2), BestOfN(2)))
    tree = Play(portfolio)()
    arms = ("BestOfN-1", "Beam-2", "BestOfN-3")
    views = [tree.part(name) for name in arms]
    assert [len(view) - 1 for view in views][::2] == [3, 2]
    assert sum(len(view) - 1 for view in views) == len(tree) - 1
    for view, strategy in zip(views, portfolio.strategies, strict=True):
        assert strategy.propose(view, 9) == []  # through with what it sees
    assert len({node.request.sibling.group for node in tree.nodes() if node.request and node.request.sibling}) > 2


def test_what_one_arm_does_not_want_is_left_to_the_others() -> None:
    tree = Play(Portfolio((BestOfN(1), BestOfN(7))), judge=graded(0.9, 0.1))()
    assert parts(tree) == {"BestOfN-1": 1, "BestOfN-2": 7}
    assert len(Play(Portfolio((BestOfN(5), BestOfN(7)), n=6))()) == 1 + 6


def test_an_accepted_answer_of_one_arm_ends_it_all() -> None:
    def judge(tree: Tree, node: Node) -> list[Verdict]:
        assert node.request is not None
        return [Verdict(status="accepted" if node.request.part == ARMS[1] else "rejected")]

    tree = Play(Portfolio((GOOD, BAD)), script=script, judge=judge, slots=1)()
    assert [node.request.part for node in tree.accepted() if node.request] == [ARMS[1]]
    assert tree.nodes()[-1].status == "accepted"


def test_the_arm_with_the_best_record_chooses() -> None:
    portfolio = Portfolio((BestOfN(3), WeightedVote(3)))
    tree = Play(
        portfolio, script=lambda r: Branch(text="41" if r.seed % 2 else "43", token_ids=(1,)), judge=graded(0.2, 0.6)
    )()
    assert portfolio.choose(tree) == WeightedVote(3).choose(tree.part(ARMS[1]))


@pytest.mark.parametrize("strategies", [(), [BestOfN()], (BestOfN,), ("beam",), BestOfN()])
def test_a_portfolio_that_cannot_be_is_refused(strategies: Any) -> None:
    with pytest.raises(UsageError, match="Portfolio takes"):
        Portfolio(strategies)
