"""DVTS: subtrees that don't look at each other."""

from __future__ import annotations

from typing import Any

import pytest

from led_agent.errors import UsageError
from led_agent.strategies import DVTS
from tests.strategies.helpers import Play, drawn, outline, told

TEXTS = {"1": "a\n", "2": "b\n", "3": "c\n", "4": "d\n", "2.1": "e\n", "2.2": "f\n"}
SCORES = {"1": 0.8, "2": 0.9, "3": 0.2, "4": 0.1, "2.1": 0.3, "2.2": 0.4}


def test_each_subtree_goes_on_from_its_own_best_step() -> None:
    tree = Play(DVTS(n=4, width=2), **told(TEXTS, SCORES))()
    assert drawn(tree, decoding=False) == outline("""
        1 explore pruned: a
        2 explore expanded: b
          2.1 explore pruned: e
          2.2 explore expanded: f
            2.2.1 explore rejected: 41
            2.2.2 explore rejected: 41
        3 explore expanded: c
          3.1 explore rejected: 41
          3.2 explore rejected: 41
        4 explore pruned: d
    """)
    assert tree["1"].reason == "step 2 of its subtree is worth 0.90"


def test_a_subtree_goes_on_without_waiting_for_another() -> None:
    strategy = DVTS(n=4, width=2)
    play = Play(strategy, **told(TEXTS, SCORES), slots=4)
    play.propose()
    for _ in range(2):
        play.decode(0)
        play.judge_one(0)
    assert [(request.id, request.parent) for request in strategy.propose(play.tree, 8)] == [("2.1", "2"), ("2.2", "2")]


@pytest.mark.parametrize("depth", [1, 2])
def test_in_the_last_level_branches_go_on_to_their_end(depth: int) -> None:
    tree = Play(DVTS(n=4, width=2, max_depth=depth), **told(TEXTS, SCORES))()
    deepest = [node.request for node in tree.nodes() if tree.depth(node.id) == depth]
    assert deepest
    assert all(request is not None and not request.step and not request.max_step_tokens for request in deepest)


@pytest.mark.parametrize("options", [{"n": 0}, {"width": 0}, {"max_depth": 0}, {"n": 6, "width": 4}])
def test_a_dvts_that_cannot_be_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="DVTS"):
        DVTS(**options)
