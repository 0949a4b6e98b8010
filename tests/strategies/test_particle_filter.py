"""Particle filter: who is copied, how often, and that it is right on average."""

from __future__ import annotations

import random
from collections import Counter
from itertools import accumulate
from typing import Any

import pytest

from led_agent.errors import UsageError
from led_agent.strategies import Fallback, ParticleFilter
from led_agent.tree import Node, Tree, derive_seed
from led_agent.types import Branch, DecodeRequest, Verdict
from tests.strategies.helpers import PROBLEM, Play, drawn, outline, told

STEPS = {str(k): f"{k}\n" for k in range(1, 6)}
WEIGHTS = [0.1, 0.7, 0.2, 0.4, 0.6]


def copies(seed: int, **options: Any) -> list[int]:
    """How many children each of five first steps has."""
    scores = {str(k): weight for k, weight in enumerate(WEIGHTS, 1)}
    strategy = ParticleFilter(n=5, ess=1, sharpness=1, max_depth=2, **options)
    tree = Play(strategy, **told(STEPS, scores), seed=seed)()
    return [len(tree.children(str(k))) for k in range(1, 6)]


def systematic(start: float, weights: list[float], n: int) -> list[int]:
    """Copies by systematic resampling: n equally spaced points on the line of cumulated weights."""
    total = sum(weights)
    edges = list(accumulate(weight / total for weight in weights))
    points = [(start + k) / n for k in range(n)]
    hit = Counter(next((i for i, edge in enumerate(edges) if point < edge), len(edges) - 1) for point in points)
    return [hit[i] for i in range(len(weights))]


@pytest.mark.parametrize("seed", range(8))
def test_steps_are_copied_as_systematic_resampling_does(seed: int) -> None:
    start = random.Random(derive_seed(seed, PROBLEM, "particles of generation 0")).random()
    assert copies(seed) == systematic(start, WEIGHTS, 5)


def test_on_average_a_step_has_as_many_copies_as_its_weight_says() -> None:
    seeds = 300
    total = [sum(found) for found in zip(*(copies(seed) for seed in range(seeds)), strict=True)]
    for count, weight in zip(total, WEIGHTS, strict=True):
        # A systematic count differs from its mean by less than 1; its deviation is 1/2 at most.
        assert abs(count / seeds - 5 * weight / sum(WEIGHTS)) < 4 * 0.5 / seeds**0.5


def test_while_the_weights_are_even_all_go_on() -> None:
    scores = {str(k): 0.5 + k / 100 for k in range(1, 6)}
    tree = Play(ParticleFilter(n=5, sharpness=1, max_depth=2), **told(STEPS, scores))()
    assert [len(tree.children(str(k))) for k in range(1, 6)] == [1] * 5


def test_a_chain_that_has_come_to_an_answer_keeps_its_place_and_its_weight() -> None:
    texts = {"1": "a\n", "2": "maybe", "1.1": "c\n"}
    tree = Play(ParticleFilter(n=2, ess=0), **told(texts, {"1": 0.5, "2": 0.5, "1.1": 0.5}))()
    assert drawn(tree, decoding=False) == outline("""
        1 explore expanded: a
          1.1 explore expanded: c
            1.1.1 explore rejected: 41
        2 explore open: maybe
    """)


def test_where_nothing_tells_them_apart_all_that_are_alive_go_on() -> None:
    """No verdict, and no log-probabilities either."""
    tree = Play(ParticleFilter(n=3, max_depth=2), **told({"1": "a\n", "2": "b\n", "3": "c\n"}, {}))()
    assert [len(tree.children(str(k))) for k in range(1, 4)] == [1, 1, 1]
    tree = Play(ParticleFilter(n=3, ess=1, max_depth=2), **told({"1": "a\n", "2": "b\n"}, {}))()  # "3" is rejected
    assert sum(len(tree.children(str(k))) for k in range(1, 3)) == 3


def test_what_was_drawn_stays_so_when_a_step_is_given_up_afterwards() -> None:
    """As a fallback does, which then has the particles drawn once more."""

    def script(request: DecodeRequest) -> Branch:
        return Branch(text="a\n" if request.step else "41", token_ids=(1,), finish="step" if request.step else "eos")

    def judge(tree: Tree, node: Node) -> list[Verdict]:
        if node.branch is not None and node.branch.finish == "step":
            return [Verdict(status="abstained", score={"1": 0.9, "2": 0.8}.get(node.id, 0.3))]
        return [Verdict(status="rejected")]

    inner = ParticleFilter(n=4, max_depth=2)
    alone = Play(inner, script=script, judge=judge)()
    tree = Play(Fallback(inner, dead_end=1, repairs=0), script=script, judge=judge)()
    explored = [node.id for node in tree.nodes() if node.purpose == "explore"]
    assert explored == [node.id for node in alone.nodes()]
    assert "pruned" in {node.status for node in tree.nodes()}


@pytest.mark.parametrize("options", [{"n": 0}, {"ess": -1}, {"sharpness": -1}, {"max_depth": 0}])
def test_a_particle_filter_that_cannot_be_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="ParticleFilter"):
        ParticleFilter(**options)
