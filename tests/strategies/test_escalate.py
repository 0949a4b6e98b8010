"""Escalate: the levels, and where they end."""

from __future__ import annotations

from typing import Any

import pytest

from led_agent.errors import UsageError
from led_agent.strategies import BestOfN, Escalate, Fallback
from led_agent.types import Decoding
from tests.strategies.helpers import Play, told


def temperatures(strategy: Escalate, scores: dict[str, float], **options: Any) -> list[float]:
    tree = Play(strategy, **told({}, scores), decoding=Decoding.plain(0.6), **options)()
    return [round(node.request.decoding.temperature, 6) for node in tree.nodes() if node.request]


@pytest.mark.parametrize("slots", [1, 3, 16])
def test_each_so_many_rejections_are_a_level(slots: int) -> None:
    strategy = Escalate(BestOfN(12), every=2, heat=0.3, hottest=1.4)
    assert temperatures(strategy, {}, slots=slots) == [0.6] * 2 + [0.9] * 2 + [1.2] * 2 + [1.4] * 6


def test_answers_that_nobody_rejects_raise_nothing() -> None:
    assert temperatures(Escalate(BestOfN(6), every=2), {str(k): 0.5 for k in range(1, 7)}) == [0.6] * 6
    # Two of four, and then all: 2, 3 and 5 of those before were rejected.
    assert temperatures(Escalate(BestOfN(8), every=2), {"1": 0.5, "3": 0.5, "4": 0.5}) == [0.6] * 6 + [0.8] * 2


def test_a_temperature_above_the_limit_is_left() -> None:
    assert temperatures(Escalate(BestOfN(4), every=2, hottest=0.5), {}) == [0.6] * 4


def test_noise_is_raised_too_up_to_its_limit_and_the_tree_says_why() -> None:
    tree = Play(Escalate(BestOfN(6), every=2, heat=0, noise=0.04, noisiest=0.06), **told({}, {}))()
    sigmas = [node.request.decoding.latent_noise for node in tree.nodes() if node.request]
    assert [noise.sigma if noise else 0 for noise in sigmas] == [0, 0, 0.04, 0.04, 0.06, 0.06]
    assert tree["3"].request is not None
    assert tree["3"].request.trigger == "level 1: 2 branches were rejected"


def test_around_it_a_fallback_is_conservative_all_the_same() -> None:
    tree = Play(Fallback(Escalate(BestOfN(4), every=2), repairs=0), **told({}, {}))()
    calm = [node.request.decoding for node in tree.nodes() if node.request and node.purpose == "fallback"]
    assert calm == [Decoding.greedy(), Decoding.plain(0.3), Decoding.plain(0.3)]


@pytest.mark.parametrize("options", [{"every": 0}, {"heat": -1}, {"noise": -1}, {"inner": BestOfN}])
def test_an_escalation_that_cannot_be_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="Escalate"):
        Escalate(**options)
