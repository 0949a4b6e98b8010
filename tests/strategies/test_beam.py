"""Beam: which steps of a level are kept, and what they lead to."""

from __future__ import annotations

from typing import Any

import pytest

from led_agent.errors import UsageError
from led_agent.strategies import Beam
from led_agent.tree import ROOT
from tests.strategies.helpers import Play, drawn, outline, told

TEXTS = {"1": "a\n", "2": "b\n", "3": "c\n", "4": "d\n", "1.1": "e\n", "1.2": "f\n", "3.1": "g\n", "3.2": "h\n"}
SCORES = {"1": 0.9, "2": 0.5, "3": 0.8, "4": 0.1, "1.1": 0.7, "1.2": 0.66, "3.1": 0.3, "3.2": 0.6}


def test_the_best_two_of_each_level_are_gone_on_from() -> None:
    tree = Play(Beam(width=2, expand=2), **told(TEXTS, SCORES))()
    assert drawn(tree, decoding=False) == outline("""
        1 explore expanded: a
          1.1 explore expanded: e
            1.1.1 explore rejected: 41
            1.1.2 explore rejected: 41
          1.2 explore expanded: f
            1.2.1 explore rejected: 41
            1.2.2 explore rejected: 41
        2 explore pruned: b
        3 explore expanded: c
          3.1 explore pruned: g
          3.2 explore pruned: h
        4 explore pruned: d
    """)
    assert tree["2"].reason == "value 0.50; the 2 kept have 0.80 or more"


def test_with_a_penalty_of_siblings_the_second_of_one_parent_makes_room() -> None:
    tree = Play(Beam(width=2, expand=2, diversity=0.1), **told(TEXTS, SCORES))()
    level = {node.id: node.status for node in tree.nodes() if tree.depth(node.id) == 2}
    assert level == {"1.1": "expanded", "1.2": "pruned", "3.1": "pruned", "3.2": "expanded"}  # 0.66 - 0.1 < 0.6


def test_in_the_last_level_branches_go_on_to_their_end() -> None:
    tree = Play(Beam(width=1, expand=2, max_depth=2, step="line", max_step_tokens=9), **told(TEXTS, SCORES))()
    asked = {node.id: (node.request.step, node.request.max_step_tokens) for node in tree.nodes() if node.request}
    assert asked["1"] == (("\n",), 9)
    assert asked["1.1"] == ((), None)
    places = [node.request.sibling for node in tree.children(ROOT) if node.request]
    assert [(place.index, place.of) for place in places if place] == [(0, 2), (1, 2)]


def test_what_two_siblings_say_alike_is_one_step() -> None:
    texts = {"1": "a\n", "2": "a\n", "3": "c\n", "4": "d\n"}
    tree = Play(Beam(width=2, expand=2), **told(texts, {"1": 0.9, "2": 0.9, "3": 0.2, "4": 0.1}))()
    assert [node.id for node in tree.nodes() if node.status == "expanded"] == ["1", "3"]


def test_a_level_is_not_ranked_before_all_of_it_has_its_verdict() -> None:
    strategy = Beam(width=1, expand=2)
    play = Play(strategy, **told(TEXTS, SCORES), slots=4)
    play.propose()
    play.decode(0)
    play.judge_one(0)
    play.decode(0)
    assert (strategy.propose(play.tree, 4), strategy.prune(play.tree)) == ([], [])
    play.judge_one(0)
    assert [request.parent for request in strategy.propose(play.tree, 4)] == ["1", "1"]
    assert [name for name, _ in strategy.prune(play.tree)] == ["2"]


def test_an_answer_ends_it_unless_all_are_wanted() -> None:
    texts, scores = {"1": "42", "2": "b\n"}, {"1": 1.0, "2": 0.5}
    assert len(Play(Beam(width=1, expand=2), **told(texts, scores))()) == 3
    assert len(Play(Beam(width=1, expand=2, stop_at_first=False), **told(texts, scores))()) == 5


@pytest.mark.parametrize("options", [{"width": 0}, {"expand": 0}, {"max_depth": 0}, {"diversity": -1}, {"step": ""}])
def test_a_beam_that_cannot_be_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="Beam"):
        Beam(**options)
