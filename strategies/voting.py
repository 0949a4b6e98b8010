"""Strategies that sample and vote: self-consistency that stops early, and weighted votes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from led_agent.answers import final_answer
from led_agent.confidence import Vote, read_votes, votes
from led_agent.errors import UsageError
from led_agent.strategies._steps import at_least
from led_agent.strategies._values import reward
from led_agent.strategies.best_of_n import BestOfN
from led_agent.tree import Tree
from led_agent.types import DecodeRequest

__all__ = ["SelfConsistency", "WeightedVote", "majority_probability"]


def majority_probability(first: int, second: int) -> float:
    """The probability that the first of two answers is the likelier one, by ``first`` and ``second`` votes: that a
    Beta(first + 1, second + 1) lies above 1/2, which is a binomial sum."""
    draws = first + second + 1
    favourable = sum(math.comb(draws, k) for k in range(second + 1, draws + 1))
    return float(favourable / 2**draws)


def _tally(cast: Sequence[Vote]) -> list[list[Vote]]:
    """Votes by what their answers read as, the most first."""
    from led_agent.verifiers.equivalence import same_readings

    cast = read_votes(cast, lambda texts: [final_answer(text) for text in texts])
    groups = [[cast[at] for at in group] for group in same_readings([vote.answer for vote in cast])]
    return sorted(groups, key=lambda group: (-len(group), group[0].node.order))


@dataclass(frozen=True)
class SelfConsistency:
    """Up to ``n`` stratified siblings; the answer that most of them give. Once it is sure enough which that is, the
    siblings that are still being decoded are cancelled.

    Self-consistency: Wang et al., 2022; stopping by the Beta posterior of the leading answer against the second:
    Aggarwal et al., "Let's Sample Step by Step: Adaptive-Consistency", 2023. Answers that read the same are counted
    together while it runs, those that are equal as mathematics at the end. An accepted branch ends it at once.

    Attributes:
        n: Branches, at most.
        confidence: The posterior probability at which it stops; 1 goes through all.
        minimum: Votes without which it does not stop.

    Raises:
        UsageError: a number is out of its limits.
    """

    n: int = 16
    confidence: float = 0.95
    minimum: int = 3

    def __post_init__(self) -> None:
        at_least(self, 1, "n", "minimum")
        if not 0.5 < self.confidence <= 1:
            raise UsageError(f"SelfConsistency: confidence is {self.confidence}; above 0.5 and up to 1 is allowed")

    def propose(self, tree: Tree, slots: int) -> Sequence[DecodeRequest]:
        return BestOfN(self.n).propose(tree, slots)

    def finished(self, tree: Tree) -> bool:
        if tree.accepted():
            return True
        if self.confidence == 1:
            return False
        # A verdict that is still to come may reject a vote, and what is rejected votes only when all is through.
        cast = [vote for vote in votes(tree) if vote.node.settled and vote.node.status != "rejected"]
        counts = [len(group) for group in _tally(cast)]
        if sum(counts) < self.minimum:
            return False
        first, second = (*counts, 0)[:2]
        return majority_probability(first, second) >= self.confidence


@dataclass(frozen=True)
class WeightedVote:
    """``n`` stratified siblings; the answer whose branches weigh most together.

    By verifiers' scores: Li et al., "Making Large Language Models Better Reasoners with Step-Aware Verifier", 2022; by
    the length-normalised probability: Wang et al., 2022. Answers are counted together where they read the same. An
    accepted branch ends it at once.

    Attributes:
        n: Branches.
        weight: "score", the verdict's (where no branch has any, the probability), or "probability".

    Raises:
        UsageError: n is below 1, or no such weight.
    """

    n: int = 16
    weight: Literal["score", "probability"] = "score"

    def __post_init__(self) -> None:
        at_least(self, 1, "n")
        if self.weight not in ("score", "probability"):
            raise UsageError(f"WeightedVote: weight is {self.weight!r}; allowed are 'score' and 'probability'")

    def propose(self, tree: Tree, slots: int) -> Sequence[DecodeRequest]:
        return BestOfN(self.n).propose(tree, slots)

    def finished(self, tree: Tree) -> bool:
        return bool(tree.accepted())

    def choose(self, tree: Tree) -> str | None:
        """The likeliest branch of the answer that weighs most."""
        groups = _tally(votes(tree))
        judged = self.weight == "score" and any(reward(vote.node) for group in groups for vote in group)

        def weight(vote: Vote) -> float:
            if judged:
                return reward(vote.node) or 0.0
            return math.exp(min(0.0, vote.logprob)) if vote.logprob is not None else 0.0

        best = max(groups, key=lambda group: sum(map(weight, group)), default=None)
        return max(best, key=lambda vote: (weight(vote), -vote.node.order)).node.id if best else None
