"""MCTS: visits, values and virtual losses that can be followed by hand."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest

from led_agent.errors import UsageError
from led_agent.strategies import MCTS
from led_agent.tree import Node, Tree
from led_agent.types import Branch, DecodeRequest, Verdict
from tests.strategies.helpers import Play, rejects_ends, told


def puct(mean: float, prior: float, above: int, visits: int, c: float = 1.0) -> float:
    return mean + c * prior * math.sqrt(above) / (1 + visits)


WORTH = {"1": 0.8, "2": 0.4, "1.1": 0.1, "2.1": 0.9, "2.2": 0.2, "2.1.1": 0.3}
LIKELY = {"1": 0.2, "2": 0.6}


def script(request: DecodeRequest) -> Branch:
    chance = math.log(LIKELY.get(request.id, 0.5))
    return Branch(text=f"{request.id}\n", token_ids=(1,), final_logprobs=(chance,), finish="step")


def judge(tree: Tree, node: Node) -> list[Verdict]:
    return [Verdict(status="abstained", score=WORTH[node.id])]


def test_a_round_of_two_by_hand() -> None:
    """Rounds of two, at most two children a node, c = 1; the priors of 1 and 2 are 0.2 / 0.8 and 0.6 / 0.8."""
    # Round 1: the root has 0 visits, then 1: one child may be there, then two.
    # Round 2: the root has 2 visits and all of its children: 1 is taken. With the virtual loss it has two visits and a
    # mean of 0.8 / 2, and 2 is taken.
    assert puct(0.8, 0.25, 2, 1) > puct(0.4, 0.75, 2, 1)
    assert puct(0.8 / 2, 0.25, 3, 2) < puct(0.4, 0.75, 3, 1)
    # Round 3: 1 has seen 0.8 and 0.1, 2 has seen 0.4 and 0.9: 2 is taken, which with two visits may have two children.
    # With the virtual loss it is taken again, has its two children, and the one that is known gets a child.
    assert puct(1.3 / 2, 0.75, 4, 2) > puct(0.9 / 2, 0.25, 4, 2)
    assert puct(1.3 / 3, 0.75, 5, 3) > puct(0.9 / 2, 0.25, 5, 2)
    tree = Play(MCTS(simulations=6, width=2, c=1.0, batch=2), script=script, judge=judge, slots=2)()
    assert [node.id for node in tree.nodes()] == ["1", "2", "1.1", "2.1", "2.2", "2.1.1"]


def reference(simulations: int, width: int, c: float, worth: dict[str, float], prior: dict[str, float]) -> list[str]:
    """Plain MCTS one simulation at a time, as it is in the books: visits and totals are updated as it goes."""
    visits: dict[str, int] = {"": 0}
    total: dict[str, float] = {"": 0.0}
    children: dict[str, list[str]] = {"": []}
    made = []
    for _ in range(simulations):
        path = [""]
        while True:
            node = path[-1]
            if len(children[node]) < min(width, math.ceil(math.sqrt(visits[node] + 1))):
                break
            mass = sum(prior[child] for child in children[node])
            scores = {
                child: puct(total[child] / visits[child], prior[child] / mass, visits[node], visits[child], c)
                for child in children[node]
            }
            path.append(max(children[node], key=scores.__getitem__))
        child = f"{path[-1]}.{len(children[path[-1]]) + 1}".lstrip(".")
        children[path[-1]].append(child)
        children[child], visits[child], total[child] = [], 0, 0.0
        made.append(child)
        for name in [*path, child]:
            visits[name] += 1
            total[name] += worth[child]
    return made


@pytest.mark.parametrize("seed", range(6))
def test_one_at_a_time_it_is_the_plain_algorithm(seed: int) -> None:
    worth, prior = {}, {}

    def drawn(request: DecodeRequest) -> Branch:
        luck = random.Random(f"{seed} {request.id}")
        worth[request.id], chance = round(luck.uniform(0.05, 0.95), 3), [luck.uniform(-2, 0) for _ in range(2)]
        return Branch(text="x\n", token_ids=(1, len(request.id)), final_logprobs=tuple(chance), finish="step")

    def judged(tree: Tree, node: Node) -> list[Verdict]:
        whole = tree.branch(node.id).final_logprobs
        prior[node.id] = math.exp(sum(whole) / len(whole))
        return [Verdict(status="abstained", score=worth[node.id])]

    tree = Play(MCTS(simulations=40, width=3, c=1.5, batch=1), script=drawn, judge=judged, slots=1)()
    assert [node.id for node in tree.nodes()] == reference(40, 3, 1.5, worth, prior)


def test_a_step_that_nobody_grades_is_worth_what_a_rollout_from_it_comes_to() -> None:
    texts = {"1": "a\n", "2": "b\n", "1.1": "41", "2.1": "43"}
    # Both steps are unknown; of their rollouts the second is better, so that 2 gets the next step.
    scores = {"1.1": 0.2, "2.1": 0.6}
    tree = Play(MCTS(simulations=3, width=2, batch=2), **told(texts, scores), slots=2)()
    assert {node.id: node.purpose for node in tree.nodes()} == {
        "1": "explore", "2": "explore", "1.1": "rollout", "2.1": "rollout", "2.2": "explore",
    }  # fmt: skip
    assert tree["1.1"].request is not None
    assert (tree["1.1"].request.step, tree["1.1"].request.trigger) == ((), "what step 1 comes to")


def test_a_round_waits_for_the_values_of_the_one_before() -> None:
    strategy = MCTS(batch=2)
    play = Play(strategy, **told({"1": "a\n", "2": "b\n"}, {"1": 0.5, "2": 0.5}), slots=8)
    play.propose()
    assert [node.id for node in play.tree.nodes()] == ["1", "2"]
    play.decode(0)
    play.judge_one(0)
    assert strategy.propose(play.tree, 8) == []
    play.decode(0)
    assert strategy.propose(play.tree, 8) == []
    play.judge_one(0)
    assert len(strategy.propose(play.tree, 8)) == 2


def test_the_last_step_of_a_path_goes_on_to_its_end() -> None:
    tree = Play(MCTS(simulations=12, width=2, max_depth=2), **told({"1": "a\n", "2": "b\n"}, {"1": 0.5, "2": 0.5}))()
    assert {(tree.depth(node.id), node.request.step) for node in tree.nodes() if node.request} == {
        (1, ("\n\n",)), (2, ()),
    }  # fmt: skip
    assert len(tree) == 1 + 2 + 4  # all there can be


def test_where_nothing_can_be_gone_on_from_other_steps_are_drawn_up_to_the_width() -> None:
    tree = Play(MCTS(simulations=9, width=3), **told({}, {}))()
    assert [node.id for node in tree.nodes()] == ["1", "2", "3"]
    tree = Play(MCTS(simulations=5, width=3), judge=rejects_ends)()
    assert sum(node.purpose == "explore" for node in tree.nodes()) == 5


@pytest.mark.parametrize("options", [{"simulations": 0}, {"width": 0}, {"c": -1}, {"batch": 0}, {"max_depth": 0}])
def test_an_mcts_that_cannot_be_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="MCTS"):
        MCTS(**options)
