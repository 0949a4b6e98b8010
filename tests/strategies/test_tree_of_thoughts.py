"""Tree of thoughts, broad and deep."""

from __future__ import annotations

from typing import Any

import pytest

from led_agent.errors import UsageError
from led_agent.strategies import TreeOfThoughts
from tests.strategies.helpers import Play, drawn, outline, told

TEXTS = {"1": "a\n", "2": "b\n", "1.1": "c\n", "1.2": "d\n", "2.1": "e\n", "2.2": "f\n"}
SCORES = {"1": 0.9, "2": 0.5, "1.1": 0.2, "1.2": 0.1, "2.1": 0.3, "2.2": 0.8}


def test_breadth_first_keeps_the_best_of_a_level_that_are_good_enough() -> None:
    tree = Play(TreeOfThoughts(propose_n=2, keep=2, threshold=0.3), **told(TEXTS, SCORES))()
    assert drawn(tree, decoding=False) == outline("""
        1 explore expanded: a
          1.1 explore pruned: c
          1.2 explore pruned: d
        2 explore expanded: b
          2.1 explore expanded: e
            2.1.1 explore rejected: 41
            2.1.2 explore rejected: 41
          2.2 explore expanded: f
            2.2.1 explore rejected: 41
            2.2.2 explore rejected: 41
    """)
    tree = Play(TreeOfThoughts(propose_n=2, keep=1, threshold=0.3), **told(TEXTS, SCORES))()
    assert [node.id for node in tree.nodes() if node.status == "expanded"] == ["1"]
    assert tree["1.1"].reason == "no step of this level is worth going on from"


def test_depth_first_goes_down_the_best_and_comes_back_where_nothing_is_worth_it() -> None:
    tree = Play(TreeOfThoughts("dfs", propose_n=2, threshold=0.3), **told(TEXTS, SCORES))()
    # Down to 1, whose steps are too bad; back to 2, and there to the better step first.
    assert [node.id for node in tree.nodes()] == [
        "1",
        "2",
        "1.1",
        "1.2",
        "2.1",
        "2.2",
        "2.2.1",
        "2.2.2",
        "2.1.1",
        "2.1.2",
    ]
    assert drawn(tree, decoding=False) == outline("""
        1 explore expanded: a
          1.1 explore open: c
          1.2 explore open: d
        2 explore expanded: b
          2.1 explore expanded: e
            2.1.1 explore rejected: 41
            2.1.2 explore rejected: 41
          2.2 explore expanded: f
            2.2.1 explore rejected: 41
            2.2.2 explore rejected: 41
    """)


def test_depth_first_ends_with_an_answer_or_when_its_branches_are_spent() -> None:
    tree = Play(TreeOfThoughts("dfs", propose_n=2), **told(TEXTS, {**SCORES, "1.1.1": 1.0}))()
    assert [node.id for node in tree.nodes()] == ["1", "2", "1.1", "1.2", "1.1.1", "1.1.2"]
    assert len(Play(TreeOfThoughts("dfs", propose_n=2, n=5), **told(TEXTS, SCORES))()) == 1 + 5


def test_depth_first_waits_for_a_group_before_it_chooses() -> None:
    strategy = TreeOfThoughts("dfs", propose_n=2)
    play = Play(strategy, **told(TEXTS, SCORES))
    play.propose()
    play.decode(0)
    play.judge_one(0)
    assert strategy.propose(play.tree, 8) == []
    play.decode(0)
    assert strategy.propose(play.tree, 8) == []
    play.judge_one(0)
    assert [request.parent for request in strategy.propose(play.tree, 8)] == ["1", "1"]
    play.propose()
    play.decode(0)
    assert strategy.propose(play.tree, 8) == []  # and does not turn to step 2 in the meantime


@pytest.mark.parametrize("method", ["bfs", "dfs"])
def test_no_path_is_longer_than_it_may_be_and_the_last_branch_goes_to_its_end(method: Any) -> None:
    tree = Play(TreeOfThoughts(method, propose_n=2, max_depth=2), **told({}, {}), max_tokens=99)()
    assert {node.status for node in tree.nodes()} == {"rejected"}
    tree = Play(TreeOfThoughts(method, propose_n=2, max_depth=2), **told(TEXTS, SCORES))()
    assert {tree.depth(node.id) for node in tree.nodes()} == {1, 2}
    assert {node.request.step for node in tree.nodes() if node.request and tree.depth(node.id) == 2} == {()}


@pytest.mark.parametrize("options", [{"method": "best"}, {"propose_n": 0}, {"keep": 0}, {"threshold": 1.1}, {"n": 0}])
def test_a_tree_of_thoughts_that_cannot_be_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="TreeOfThoughts"):
        TreeOfThoughts(**options)
