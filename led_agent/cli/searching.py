"""What a search is made with, from the command line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pydantic import ValidationError

from led_agent.cluster.plan import Cluster, as_cluster
from led_agent.errors import UsageError, explain
from led_agent.journal import Journal
from led_agent.models import default_model
from led_agent.protocols import Strategy, Verifier
from led_agent.search import Search
from led_agent.strategies import BestOfN, Fallback
from led_agent.strategies.named import parse_strategy
from led_agent.types import Budget, Decoding, Problem
from led_agent.verifiers import countdown, is_puzzle, matches, math_answer, unit_tests
from led_agent.verifiers.named import parse_verifier

__all__ = ["SearchSettings"]


@dataclass(frozen=True)
class SearchSettings:
    """What a search is made with, from the command line."""

    model: str | None
    n: int | None
    decoding: str | None
    seed: int
    max_tokens: int
    tries: int | None
    all_branches: bool
    stop: tuple[str, ...]
    pattern: str | None
    budget_tokens: int | None
    budget_seconds: float | None
    device: str
    dtype: str
    slots: int
    verifier: tuple[str, ...] = ()
    strategy_text: str | None = None
    cluster: str | None = None
    cluster_wait: float | None = None

    def __post_init__(self) -> None:
        _ = self.named, self.strategy  # now, so that a bad name is refused before anything is made
        _ = self.where

    @cached_property
    def named(self) -> list[Verifier]:
        """The verifiers that were asked for by name."""
        return [parse_verifier(name) for name in self.verifier]

    @cached_property
    def where(self) -> Cluster | None:
        """The cluster to decode on."""
        if self.cluster is None:
            if self.cluster_wait is not None:
                raise UsageError("--cluster-wait is for a search on a cluster; give --cluster, too")
            return None
        return as_cluster(self.cluster, wait=self.cluster_wait)

    @property
    def parsed_decoding(self) -> Decoding | None:
        return Decoding.parse(self.decoding) if self.decoding is not None else None

    @cached_property
    def strategy(self) -> Strategy:
        """The strategy named, else exploring and falling back as ``n``, ``tries`` and ``all_branches`` say."""
        if self.strategy_text is None:
            n, tries = 8 if self.n is None else self.n, 3 if self.tries is None else self.tries
            return Fallback(BestOfN(n, stop_at_first=not self.all_branches), tries=tries)
        told = {"--n": self.n is not None, "--tries": self.tries is not None, "--all": self.all_branches}
        both = [option for option, given in told.items() if given]
        if both:
            raise UsageError(
                f"give --strategy or {' and '.join(both)}, not both; settings of a strategy follow its name, as in "
                "'fallback(best-of-n:n=16):tries=2'"
            )
        return parse_strategy(self.strategy_text)

    def verifiers(self, problems: Sequence[Problem]) -> list[Verifier] | None:
        """Those named, with a pattern beside it; else what each problem calls for; with a pattern alone, that beside
        what any of them calls for."""
        if self.pattern is None:
            return self.named or None
        chosen: list[Verifier] = [matches(self.pattern), *self.named]
        if self.named:
            return chosen
        if any(is_puzzle(problem) for problem in problems):
            chosen.append(countdown())
        if any(problem.tests for problem in problems):
            chosen.append(unit_tests())
        if any(problem.answer is not None for problem in problems):
            chosen.append(math_answer())
        return chosen

    def search(self, problems: Sequence[Problem], journal: Journal | None, observer: Any) -> Search:
        try:
            budget = Budget(tokens=self.budget_tokens, seconds=self.budget_seconds)
        except ValidationError as error:
            raise UsageError(f"budget {explain(error)}") from error
        return Search(
            self.model,
            strategy=self.strategy,
            verifiers=self.verifiers(problems),
            decoding=self.parsed_decoding,
            budget=budget,
            seed=self.seed,
            max_tokens=self.max_tokens,
            stop=self.stop,
            device=self.device,
            dtype=self.dtype,
            slots=self.slots,
            cluster=self.where,
            journal=journal,
            observer=observer,
        )

    def record(self) -> dict[str, Any]:
        """What must be the same for a run to be resumed; where it is computed may differ."""
        return {
            "model": self.model or default_model(),
            "strategy": repr(self.strategy),
            "decoding": self.parsed_decoding.model_dump(mode="json") if self.parsed_decoding else "by the model",
            "seed": self.seed,
            "max_tokens": self.max_tokens,
            "stop": list(self.stop),
            "matches": self.pattern,
            "verifiers": list(self.verifier) or None,
            "budget": {"tokens": self.budget_tokens, "seconds": self.budget_seconds},
        }
