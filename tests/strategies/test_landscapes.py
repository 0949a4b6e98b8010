"""Where theory says that a strategy is worth its tokens, on problems whose odds are known.

Each claim is tested on many seeded problems, each strategy on the same ones and with the same budget of generated
tokens; a bootstrap over the problems must leave no doubt about the sign of the difference.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import pytest

from led_agent.confidence import agree, votes
from led_agent.protocols import Strategy
from led_agent.strategies import (
    DVTS,
    MCTS,
    Beam,
    BestOfN,
    EntropyBranching,
    Escalate,
    Fallback,
    ParticleFilter,
    Portfolio,
    Repair,
    SelfConsistency,
    TreeOfThoughts,
    WeightedVote,
)
from led_agent.tree import Node, Tree
from led_agent.types import Branch, DecodeRequest, Decoding, Verdict
from led_agent.verifiers.equivalence import same_readings
from tests.strategies.helpers import Judge, Play, Script

PROBLEMS = 200
PLAIN = Decoding.plain(0.6)


def interval(differences: Sequence[float], draws: int = 600) -> tuple[float, float]:
    """A 99 % bootstrap interval of the mean."""
    luck = random.Random(1)
    means = sorted(sum(luck.choices(differences, k=len(differences))) / len(differences) for _ in range(draws))
    return means[int(0.005 * draws)], means[int(0.995 * draws)]


def better(first: Sequence[float], second: Sequence[float]) -> bool:
    """Whether the first is better than the second on the same problems, without a doubt."""
    return interval([a - b for a, b in zip(first, second, strict=True)])[0] > 0


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


@dataclass(frozen=True)
class Land:
    """A script, a judge, and the tokens that there are."""

    script: Script
    judge: Judge
    tokens: int
    decoding: Decoding = PLAIN

    def solved(self, strategy: Strategy) -> list[float]:
        return [float(bool(self.play(strategy, at).accepted())) for at in range(PROBLEMS)]

    def play(self, strategy: Strategy, at: int) -> Tree:
        play = Play(strategy, self.script, self.judge, slots=4, tokens=self.tokens, seed=at, decoding=self.decoding)
        return play()


# --- steps, each right or wrong --------------------------------------------------------------------------------------

STEPS, ODDS, LENGTH = 6, 0.5, 2  # a step of two tokens, the first of which says whether it is right


def walk(request: DecodeRequest) -> Branch:
    luck = random.Random(request.seed)
    left = STEPS - len(request.prefix_ids) // LENGTH
    count = 1 if request.step else left
    ids = [token for _ in range(count) for token in (int(luck.random() < ODDS), luck.randrange(10**6))]
    return Branch(text="…", token_ids=tuple(ids), finish="step" if request.step and left > 1 else "eos")


def on_the_way(noise: float) -> Judge:
    """Right answers are accepted; a process reward says, more or less surely, whether all so far was right."""

    def judge(tree: Tree, node: Node) -> list[Verdict]:
        assert node.branch is not None
        right = all(tree.branch(node.id).token_ids[::LENGTH])
        if node.branch.finish != "step":
            return [Verdict(status="accepted" if right else "rejected")]
        seen = (0.8 if right else 0.2) + random.Random(str(tree.branch(node.id).token_ids)).gauss(0, noise)
        return [Verdict(status="abstained", score=min(0.98, max(0.02, seen)))]

    return judge


PATHS = Land(walk, on_the_way(0.1), tokens=160)


@cache
def walked(strategy: Strategy) -> list[float]:
    return PATHS.solved(strategy)


SAMPLING = BestOfN(100)


@pytest.mark.parametrize(
    "strategy",
    [
        Beam(width=2, expand=4),
        DVTS(n=8, width=4),
        MCTS(simulations=80, batch=2),
        ParticleFilter(n=8),
        TreeOfThoughts("bfs", propose_n=4, keep=2, threshold=0.5),
        TreeOfThoughts("dfs", propose_n=4, threshold=0.5),
    ],
    ids=lambda s: type(s).__name__ + getattr(s, "method", ""),
)
def test_search_on_steps_with_a_process_reward_beats_sampling(strategy: Strategy) -> None:
    expected = 1 - (1 - ODDS**STEPS) ** (PATHS.tokens / LENGTH / STEPS)
    sampled, found = walked(SAMPLING), walked(strategy)
    assert mean(sampled) == pytest.approx(expected, abs=0.1)
    assert better(found, sampled), (mean(found), mean(sampled))


# --- one uncertain token ---------------------------------------------------------------------------------------------


def hinge(request: DecodeRequest) -> Branch:
    """Twenty tokens, of which the ninth, one of ten that are equally likely, decides: only 3 is right."""
    luck, at = random.Random(request.seed), len(request.prefix_ids)
    ids, doubts = [], []
    for place in range(at, 20):
        options = [token for token in range(10) if place > at or token not in request.exclude]
        ids.append(luck.choice(options) if place == 8 else 50 + place)
        doubts.append(2.3 if place == 8 else luck.uniform(0, 0.2))
    return Branch(text="…", token_ids=tuple(ids), entropies=tuple(doubts), kept_text="…")


def hinges(tree: Tree, node: Node) -> list[Verdict]:
    return [Verdict(status="accepted" if tree.branch(node.id).token_ids[8] == 3 else "rejected")]


def test_forking_where_the_model_is_unsure_beats_sampling_where_one_early_token_decides() -> None:
    land = Land(hinge, hinges, tokens=160)
    found, sampled = land.solved(EntropyBranching(30, roots=4, forks=1)), land.solved(BestOfN(30))
    assert better(found, sampled), (mean(found), mean(sampled))


# --- feedback, heat and calm -----------------------------------------------------------------------------------------


def odds(chance: Callable[[DecodeRequest], float], tokens: int = 4) -> Script:
    """An answer that is right by a chance that depends on how it was asked for."""

    def script(request: DecodeRequest) -> Branch:
        right = random.Random(request.seed).random() < chance(request)
        return Branch(text="42" if right else "41", token_ids=(int(right),) * tokens)

    return script


def right_or_wrong(tree: Tree, node: Node) -> list[Verdict]:
    return [Verdict(status="accepted" if tree.text(node.id) == "42" else "rejected")]


def test_repair_beats_sampling_where_feedback_shifts_the_odds() -> None:
    land = Land(odds(lambda request: 0.05 if isinstance(request.prompt, str) else 0.3), right_or_wrong, tokens=32)
    found, sampled = land.solved(Repair(BestOfN(4))), land.solved(BestOfN(30))
    assert better(found, sampled), (mean(found), mean(sampled))


def test_and_does_not_where_feedback_tells_nothing() -> None:
    land = Land(odds(lambda request: 0.1), right_or_wrong, tokens=32)
    low, high = interval(
        [a - b for a, b in zip(land.solved(Repair(BestOfN(4))), land.solved(BestOfN(30)), strict=True)]
    )
    assert low < 0 < high


def test_escalation_finds_what_the_temperature_of_the_search_never_does() -> None:
    land = Land(odds(lambda request: 0.3 if request.decoding.temperature >= 1 else 0.0), right_or_wrong, tokens=64)
    assert mean(land.solved(BestOfN(30))) == 0
    assert mean(land.solved(Escalate(BestOfN(30), every=4))) > 0.5


def test_a_fallback_solves_what_exploration_breaks() -> None:
    land = Land(
        odds(lambda request: 0.0 if request.decoding.exploration else 0.6 if request.purpose == "fallback" else 0.0),
        right_or_wrong,
        tokens=64,
        decoding=Decoding.led(depths=2),
    )
    assert mean(land.solved(BestOfN(30))) == 0
    assert mean(land.solved(Fallback(BestOfN(8)))) == pytest.approx(1 - 0.4**3, abs=0.1)


# --- several strategies ----------------------------------------------------------------------------------------------


def test_a_portfolio_is_near_its_best_arm_and_above_the_mean_of_its_arms() -> None:
    arms = (SAMPLING, DVTS(n=8, width=4))
    shares = [walked(arm) for arm in arms]
    middle = [mean(pair) for pair in zip(*shares, strict=True)]
    found = PATHS.solved(Portfolio(arms, n=200))
    assert better(found, middle), (mean(found), mean(middle))
    assert mean(found) > max(map(mean, shares)) - 0.15


# --- votes -----------------------------------------------------------------------------------------------------------


def ballot(request: DecodeRequest) -> Branch:
    """42 more often than 41, and other answers here and there; four tokens each."""
    drawn = random.Random(request.seed).random()
    text = "42" if drawn < 0.55 else "41" if drawn < 0.8 else str(int(drawn * 1000))
    return Branch(text=text, token_ids=(1,) * 4)


def elected(tree: Tree) -> str:
    cast = votes(tree)
    found = agree(cast, same_readings([vote.answer for vote in cast]))
    return found.confidence.answer if found is not None and found.confidence is not None else ""


def test_a_vote_that_stops_when_it_is_sure_saves_tokens_and_loses_nothing() -> None:
    land = Land(ballot, lambda tree, node: (), tokens=10**6)
    early = [land.play(SelfConsistency(24), at) for at in range(PROBLEMS)]
    whole = [land.play(SelfConsistency(24, confidence=1), at) for at in range(PROBLEMS)]
    right = [[float(elected(tree) == "42") for tree in trees] for trees in (early, whole)]
    assert abs(mean(right[0]) - mean(right[1])) < 0.05
    spent = [[float(tree.usage().generated_tokens) for tree in trees] for trees in (early, whole)]
    assert better(spent[1], spent[0]), (mean(spent[0]), mean(spent[1]))


def test_a_weighted_vote_beats_the_majority_where_the_score_tells_something() -> None:
    def close(request: DecodeRequest) -> Branch:
        return Branch(text="42" if random.Random(request.seed).random() < 0.45 else "41", token_ids=(1,))

    def graded(tree: Tree, node: Node) -> list[Verdict]:
        assert node.request is not None
        seen = random.Random(node.request.seed + 1).gauss(0.65 if tree.text(node.id) == "42" else 0.4, 0.2)
        return [Verdict(status="abstained", score=min(0.99, max(0.01, seen)))]

    land, strategy = Land(close, graded, tokens=10**6), WeightedVote(15)
    trees = [land.play(strategy, at) for at in range(PROBLEMS)]
    weighted = [float(tree.text(strategy.choose(tree) or "root") == "42") for tree in trees]
    majority = [float(elected(tree) == "42") for tree in trees]
    assert better(weighted, majority), (mean(weighted), mean(majority))
