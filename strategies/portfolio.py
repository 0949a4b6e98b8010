"""Several strategies on one tree and one budget, the better ones more often."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from led_agent.errors import UsageError
from led_agent.protocols import Strategy
from led_agent.strategies._inner import check_inner, chosen_by, finished_by, pruned_by
from led_agent.strategies._steps import at_least
from led_agent.strategies._values import reward
from led_agent.strategies.best_of_n import BestOfN
from led_agent.strategies.entropy_branching import EntropyBranching
from led_agent.tree import Tree, derive_seed
from led_agent.types import DecodeRequest

__all__ = ["Portfolio"]


@dataclass(frozen=True)
class _Record:
    """What an arm has come to: the sum of its rewards, how many branches were rewarded, and what they cost."""

    total: float
    count: int
    tokens: int

    def draw(self, rng: random.Random, price: float) -> float:
        """A sample of its reward for so many tokens as a branch costs on the average of all arms."""
        sample = rng.betavariate(1 + self.total, 1 + self.count - self.total)
        own = self.tokens / self.count if self.count else price
        return sample * price / max(own, 1.0)


@dataclass(frozen=True)
class Portfolio:
    """Each branch goes to the strategy that a Thompson sample favours: by the rewards that its branches have had so
    far, for the tokens that they cost. Each strategy sees its own branches only.

    Algorithm portfolios: Huberman, Lukose and Hogg, 1997; with a bandit: Gagliolo and Schmidhuber, 2006; the sampler:
    Thompson, 1933. A branch's reward is its verdict's score; branches without a verdict say nothing. What is favoured
    follows from the results that are there when a slot comes free: the same order of results gives the same tree.

    Attributes:
        strategies: The arms; at least one.
        n: Branches over all of them, at most.

    Raises:
        UsageError: there is none, one is no strategy, or n is below 1.
    """

    strategies: tuple[Strategy, ...] = (BestOfN(32), EntropyBranching(32, roots=4))
    n: int = 64

    def __post_init__(self) -> None:
        at_least(self, 1, "n")
        if not isinstance(self.strategies, tuple) or not self.strategies:
            raise UsageError(f"Portfolio takes a tuple of at least one strategy; found {self.strategies!r}")
        for strategy in self.strategies:
            check_inner(self, strategy)

    def propose(self, tree: Tree, slots: int) -> Sequence[DecodeRequest]:
        room = min(slots, self.n - (len(tree) - 1))
        records = [self._record(part) for part in self._parts(tree)]
        count = sum(record.count for record in records)
        price = sum(record.tokens for record in records) / count if count else 1.0
        shares = [0] * len(self.strategies)
        rng = random.Random(derive_seed(tree.started.seed, tree.problem, f"portfolio {len(tree)} {count}"))
        for _ in range(max(0, room)):
            samples = [record.draw(rng, price) for record in records]
            shares[samples.index(max(samples))] += 1
        return tree.numbered(self._asked(tree, shares, room))

    def prune(self, tree: Tree) -> Sequence[tuple[str, str]]:
        arms = zip(self.strategies, self._parts(tree), strict=True)
        return [given_up for strategy, part in arms for given_up in pruned_by(strategy, part)]

    def finished(self, tree: Tree) -> bool:
        """When any of the strategies is content with an accepted branch of its own."""
        arms = zip(self.strategies, self._parts(tree), strict=True)
        return any(part.accepted() and finished_by(strategy, part) for strategy, part in arms)

    def choose(self, tree: Tree) -> str | None:
        """What the strategy with the best record chooses."""
        arms = [
            (self._record(part), strategy, part)
            for strategy, part in zip(self.strategies, self._parts(tree), strict=True)
        ]
        arms.sort(key=lambda arm: -(1 + arm[0].total) / (2 + arm[0].count))
        return next((chosen for _, strategy, part in arms if (chosen := chosen_by(strategy, part)) is not None), None)

    def _parts(self, tree: Tree) -> list[Tree]:
        return [tree.part(f"{type(s).__name__}-{at}") for at, s in enumerate(self.strategies, 1)]

    def _asked(self, tree: Tree, shares: list[int], room: int) -> list[DecodeRequest]:
        """What the arms want of their shares; what one does not want is left to the others, in order."""
        parts = self._parts(tree)
        requests: list[DecodeRequest] = []
        for strategy, part, share in zip(self.strategies, parts, shares, strict=True):
            requests += list(strategy.propose(part, share))[:share] if share else []
        if requests or room < 1:
            return requests
        for strategy, part in zip(self.strategies, parts, strict=True):
            requests += list(strategy.propose(part, room - len(requests)))[: room - len(requests)]
        return requests

    def _record(self, part: Tree) -> _Record:
        rewards, tokens = [], 0
        for node in part.nodes():
            judged = reward(node)
            if node.branch is not None and judged is not None:
                rewards.append(judged)
                tokens += len(node.branch.token_ids) + node.branch.discarded
        return _Record(sum(rewards), len(rewards), tokens)
