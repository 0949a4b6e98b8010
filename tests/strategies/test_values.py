"""What a branch is worth: its verdict, else the model's own confidence."""

from __future__ import annotations

import math
from typing import Any

import pytest

from led_agent.strategies._values import reward, value
from led_agent.tree import Tree
from led_agent.types import Branch, Verdict


def one(*verdicts: Verdict, **branch: Any) -> Tree:
    tree = Tree("Why?")
    tree.add(tree.requests(1)[0])
    tree.attach(Branch(**{"id": "1", "text": "so", "token_ids": (1, 2), "final_logprobs": (-0.5, -1.5), **branch}))
    if tree["1"].status == "open":
        tree.judge("1", verdicts)
    return tree


@pytest.mark.parametrize(
    ("verdict", "worth"),
    [
        (Verdict(status="accepted", score=0.7), 1.0),
        (Verdict(status="rejected", score=0.3), 0.3),
        (Verdict(status="rejected"), 0.0),
        (Verdict(status="abstained", score=0.3), 0.3),
        (Verdict(status="abstained"), None),
        (Verdict(status="error"), None),
    ],
)
def test_the_verdict_is_the_reward_and_without_one_the_confidence_is_the_value(
    verdict: Verdict, worth: float | None
) -> None:
    tree = one(verdict)
    assert reward(tree["1"]) == worth
    assert value(tree, tree["1"]) == pytest.approx(math.exp(-1.0) if worth is None else worth)


def test_without_a_verdict_there_is_no_reward() -> None:
    tree = one()
    assert reward(tree["1"]) is None
    assert value(tree, tree["1"]) == pytest.approx(math.exp(-1.0))
    assert value(one(final_logprobs=()), one(final_logprobs=())["1"]) == 0.0


@pytest.mark.parametrize("finish", ["error", "cancelled"])
def test_what_failed_or_was_given_up_is_worth_nothing(finish: str) -> None:
    tree = one(finish=finish)
    assert value(tree, tree["1"]) == 0.0


def test_what_is_still_being_decoded_is_worth_nothing_yet() -> None:
    tree = Tree("Why?")
    tree.add(tree.requests(1)[0])
    assert value(tree, tree["1"]) == 0.0
