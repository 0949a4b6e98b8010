"""``consensus()``: which answer most branches give.

Self-consistency: Wang et al., "Self-Consistency Improves Chain of Thought Reasoning in Language Models", 2022; weighted
by the length-normalised probability as there, or by a verifier's score as in Li et al., "Making Large Language Models
Better Reasoners with Step-Aware Verifier", 2022.

This file turns branches into votes and votes into verdicts. It does not know when two answers are the same: that is
``equivalence``.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from led_agent.errors import UsageError
from led_agent.judging import ask_many, compares, replica_limit, verifier_name
from led_agent.protocols import Verifier
from led_agent.types import Branch, Problem, Verdict
from led_agent.verifiers.equivalence import WORKER, equivalence_groups, final_answers
from led_agent.verifiers.workers import WorkerPool

__all__ = ["Consensus", "consensus"]


@dataclass(frozen=True)
class Consensus:
    """A verifier that compares a problem's branches: the score of each is its answer's share of the weight.

    By default it abstains, as a majority proves nothing; the scores rank the branches, those of the leading answer
    first. With ``accept``, branches of the leading answer are accepted where its share and its members suffice, and
    those of other answers rejected; where they don't, or where two answers lead, all abstain.

    Branches without an answer get a score of 0 and are never rejected, but count among those that might have agreed.
    What failed is no vote against anybody: a branch that could not be compared is not rejected, and where the
    verifier that weighs fails on any branch, nothing is accepted or rejected. The reasons say so.

    Attributes:
        weight: What a branch's vote weighs: "count", 1; "logprob", the geometric mean of its tokens' probabilities
            (where no branch has log-probabilities, 1); or a verifier's score.
        accept: The share, above 0 and up to 1, from which the leading answer is accepted; None never accepts.
        minimum: How many branches must give an answer for it to be accepted.
        seconds: Wall-clock limit of reading one answer and of comparing two.
        workers: How many worker processes at most; None is one a processor, and 4 at most.
    """

    weight: str | Verifier = "count"
    accept: float | None = None
    minimum: int = 2
    seconds: float = 5.0
    workers: int | None = None

    def __post_init__(self) -> None:
        if self.weight not in ("count", "logprob") and (isinstance(self.weight, str) or not callable(self.weight)):
            raise UsageError(f"consensus: weight is {self.weight!r}; allowed are 'count', 'logprob' and a verifier")
        if not isinstance(self.weight, str) and compares(self.weight):
            told = verifier_name(self.weight)
            raise UsageError(f"consensus: {told} compares branches itself and can't weigh one; give another verifier")
        if self.accept is not None and not 0 < self.accept <= 1:
            raise UsageError(f"consensus: accept is {self.accept}; a share above 0 and up to 1 is allowed, or None")
        if self.minimum < 1:
            raise UsageError(f"consensus: minimum is {self.minimum}; at least 1 branch is needed")
        if not 0 < self.seconds < math.inf:
            raise UsageError(f"consensus: seconds is {self.seconds}; a positive number is allowed, e.g. 5.0")
        _ = self._pool  # now, so that a bad number of workers is refused here; no process starts before it is needed

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.weight, self.accept, self.minimum, self.seconds, self.workers)

    @property
    def name(self) -> str:
        """ "consensus", with what weighs in brackets."""
        if self.weight == "count":
            return "consensus"
        return f"consensus({self.weight if isinstance(self.weight, str) else verifier_name(self.weight)})"

    @property
    def replicas(self) -> int | None:
        """As many copies in a cluster as the verifier that weighs allows."""
        return None if isinstance(self.weight, str) else replica_limit(self.weight)

    @cached_property
    def _pool(self) -> WorkerPool:
        return WorkerPool(WORKER, self.workers)

    def __call__(self, problem: Problem, branch: Branch, /) -> Verdict:
        """The verdict on a branch alone, a group of one: where branches are to be compared, use ``together``."""
        return self.together(problem, [branch])[0]

    def together(self, problem: Problem, branches: Sequence[Branch]) -> list[Verdict]:
        """One verdict for each branch, from comparing all of them; may be called from many threads at once."""
        begun = time.perf_counter()
        found = final_answers([branch.text for branch in branches], seconds=self.seconds, pool=self._pool)
        same = equivalence_groups(found.answers, seconds=self.seconds, pool=self._pool)
        weights, complaints = self._weights(problem, branches)
        count = _Count(found.answers, same.groups, weights, {**found.faults, **same.faults}, complaints)
        share = (time.perf_counter() - begun) / max(1, len(branches))
        return [self._verdict(count, at, share) for at in range(len(branches))]

    def close(self) -> None:
        """End the worker processes, and close the verifier that weighs. Idempotent."""
        self._pool.close()
        close = getattr(self.weight, "close", None)
        if callable(close):
            close()

    def _weights(self, problem: Problem, branches: Sequence[Branch]) -> tuple[list[float], list[str]]:
        """What each branch's vote weighs, and what kept a verifier from weighing some."""
        if self.weight == "count":
            return [1.0] * len(branches), []
        if self.weight == "logprob":
            logprobs = [branch.mean_logprob for branch in branches]
            if all(logprob is None for logprob in logprobs):
                return [1.0] * len(branches), []
            return [math.exp(min(0.0, logprob)) if logprob is not None else 0.0 for logprob in logprobs], []
        assert not isinstance(self.weight, str)
        said = ask_many(self.weight, [(problem, branch) for branch in branches])
        failed = [verdict.reason for verdict in said if verdict.status == "error"]
        return [0.0 if verdict.status == "error" else verdict.score for verdict in said], failed

    def _verdict(self, count: _Count, at: int, seconds: float) -> Verdict:
        group = count.home(at)
        fault = f"; {count.faults[at]}" if at in count.faults else ""
        if group is None:
            return self._said("abstained", 0.0, f"no answer found in the text{fault}", None, seconds)
        score = count.share(group)
        agreed = f"{len(group)} of {len(count.answers)} branches say{'s' * (len(group) == 1)}"
        reason = f"{agreed} {_short(str(count.answers[group[0]]))} (weight {score:.2f}){fault}"
        if count.complaints:
            reason += f"; {len(count.complaints)} of them not weighed: {count.complaints[0]}"
        return self._said(self._status(count, group, at), score, reason, count.answers[at], seconds)

    def _status(self, count: _Count, group: tuple[int, ...], at: int) -> str:
        leader = count.leader()
        if self.accept is None or leader is None or count.complaints:
            return "abstained"
        if count.share(leader) < self.accept or len(leader) < self.minimum:
            return "abstained"
        if group == leader:
            return "accepted"
        return "abstained" if at in count.faults else "rejected"

    def _said(self, status: str, score: float, reason: str, answer: str | None, seconds: float) -> Verdict:
        given = {"status": status, "score": score, "reason": reason, "answer": answer, "seconds": seconds}
        return Verdict.model_validate({**given, "verifier": self.name})


@dataclass(frozen=True)
class _Count:
    """The votes: which branches agree, what each weighs, and what could not be found out."""

    answers: tuple[str | None, ...]
    groups: tuple[tuple[int, ...], ...]
    weights: list[float]
    faults: dict[int, str]
    complaints: list[str]

    def home(self, at: int) -> tuple[int, ...] | None:
        return self._homes.get(at)

    @cached_property
    def _homes(self) -> dict[int, tuple[int, ...]]:
        return {at: group for group in self.groups for at in group}

    @cached_property
    def _total(self) -> float:
        return math.fsum(self.weights)

    def share(self, group: tuple[int, ...]) -> float:
        """The group's part of all weight, in [0, 1]; 0 where nothing weighs anything."""
        mine = math.fsum(self.weights[at] for at in group)
        return min(1.0, mine / self._total) if self._total > 0 else 0.0

    def leader(self) -> tuple[int, ...] | None:
        """The group of most weight; None where there is none, or two of them."""
        return self._leader

    @cached_property
    def _leader(self) -> tuple[int, ...] | None:
        ranked = sorted(self.groups, key=self.share, reverse=True)
        if not ranked or (len(ranked) > 1 and self.share(ranked[0]) == self.share(ranked[1])):
            return None
        return ranked[0]


def consensus(
    weight: str | Verifier = "count",
    accept: float | None = None,
    minimum: int = 2,
    *,
    seconds: float = 5.0,
    workers: int | None = None,
) -> Consensus:
    """A verifier that scores each branch by its answer's share of all branches (self-consistency, Wang et al., 2022).

    Args:
        weight: "count", "logprob" (length-normalised: the geometric mean of the tokens' probabilities), or a verifier
            whose score is the weight.
        accept: The share, above 0 and up to 1, from which the leading answer is accepted and the others are rejected;
            None only ranks.
        minimum: How many branches must give an answer for it to be accepted.
        seconds: Wall-clock limit of reading one answer and of comparing two.
        workers: How many worker processes at most; None is one a processor, and 4 at most.

    Raises:
        UsageError: a value that is not allowed.
    """
    return Consensus(weight, accept, minimum, seconds, workers)


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 80 else f"{text[:80]}… ({len(text)} characters)"
