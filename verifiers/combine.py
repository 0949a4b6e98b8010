"""Verifiers made of verifiers: ``all_of``, ``any_of``, ``weighted``, ``negate``.

This file knows what verdicts add up to. It does not know how any of them comes about: a member may be any verifier,
one of these included. What a member raises is its error verdict, after a second try, and an error is never a rejection.

Each is asked as its members are: with ``batch`` where one of them takes batches, and with ``together`` where one of
them compares branches.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from led_agent.errors import UsageError
from led_agent.judging import ask_many, ask_together, batch_limit, compares, fewest_replicas, unable, verifier_name
from led_agent.protocols import Verifier
from led_agent.types import Branch, Problem, Verdict

__all__ = ["AllOf", "AnyOf", "Negated", "Weighted", "all_of", "any_of", "negate", "weighted"]

Pairs = Sequence[tuple[Problem, Branch]]


class _Combination(ABC):
    """What all of them share: members are asked in order, each about the branches that are not settled yet."""

    @property
    @abstractmethod
    def members(self) -> tuple[Verifier, ...]: ...

    @property
    @abstractmethod
    def name(self) -> str: ...

    @abstractmethod
    def _settled(self, said: Sequence[Verdict]) -> bool:
        """Whether those behind need not be asked."""

    @abstractmethod
    def _sum(self, said: Sequence[Verdict]) -> Verdict:
        """What the members' verdicts on one branch add up to."""

    def __call__(self, problem: Problem, branch: Branch, /) -> Verdict:
        """The verdict on one branch; may be called from many threads at once."""
        return self._ask([(problem, branch)], ask_many)[0]

    @property
    def batch(self) -> Callable[[Pairs], list[Verdict]]:
        """Verdicts on many branches at a time. There only where a member has it."""
        if not any(batch_limit(member) for member in self.members):
            raise AttributeError(f"no verifier in {self.name} takes batches")
        return lambda pairs: self._ask(pairs, ask_many)

    @property
    def batch_size(self) -> int:
        """As many as the member that takes most: the others get them in parts."""
        return max(batch_limit(member) or 1 for member in self.members)

    @property
    def together(self) -> Callable[[Problem, Sequence[Branch]], list[Verdict]]:
        """Verdicts on branches that are compared. There only where a member has it."""
        if not any(compares(member) for member in self.members):
            raise AttributeError(f"no verifier in {self.name} compares branches")

        def asked(member: Verifier, pairs: Pairs) -> list[Verdict]:
            compare = compares(member) and bool(pairs)
            return ask_together(member, pairs[0][0], [b for _, b in pairs]) if compare else ask_many(member, pairs)

        return lambda problem, branches: self._ask([(problem, branch) for branch in branches], asked)

    @property
    def replicas(self) -> int | None:
        """As many copies in a cluster as the member that allows fewest."""
        return fewest_replicas(self.members)

    def check(self, problem: Problem) -> str | None:
        """Why none of the members has anything to say on a problem; None where one has."""
        reasons = [unable(member, problem) for member in self.members]
        if not all(reasons):
            return None
        return "; ".join(f"{verifier_name(v)}: {reason}" for v, reason in zip(self.members, reasons, strict=True))

    def close(self) -> None:
        """Close the members that can be closed."""
        for member in self.members:
            close = getattr(member, "close", None)
            if callable(close):
                close()

    def _ask(self, pairs: Pairs, asked: Callable[[Verifier, Pairs], list[Verdict]]) -> list[Verdict]:
        said: list[list[Verdict]] = [[] for _ in pairs]
        for member in self.members:
            left = [at for at, verdicts in enumerate(said) if not self._settled(verdicts)]
            if left:
                for at, verdict in zip(left, asked(member, [pairs[at] for at in left]), strict=True):
                    said[at].append(verdict)
        return [self._signed(verdicts) for verdicts in said]

    def _signed(self, said: Sequence[Verdict]) -> Verdict:
        return self._sum(said).model_copy(update={"verifier": self.name, "seconds": sum(v.seconds for v in said)})


@dataclass(frozen=True)
class AllOf(_Combination):
    """Accepts what one of them accepts and none of them rejects or fails on. Asked in order, up to a rejection.

    | among their verdicts is             | status    | score                         |
    | ----------------------------------- | --------- | ----------------------------- |
    | a rejection, whatever else          | rejected  | of that rejection             |
    | an error, and no rejection          | error     | 0                             |
    | an acceptance, and neither of these | accepted  | the lowest of the acceptances |
    | nothing but abstentions             | abstained | the lowest of them            |
    """

    members: tuple[Verifier, ...] = ()

    def __post_init__(self) -> None:
        _check_members("all_of", self.members)

    @property
    def name(self) -> str:
        return f"all_of({', '.join(map(verifier_name, self.members))})"

    def _settled(self, said: Sequence[Verdict]) -> bool:
        return any(verdict.status == "rejected" for verdict in said)

    def _sum(self, said: Sequence[Verdict]) -> Verdict:
        for status in ("rejected", "error", "accepted", "abstained"):
            if found := [verdict for verdict in said if verdict.status == status]:
                break
        return _verdict(status, min(verdict.score for verdict in found), found)


@dataclass(frozen=True)
class AnyOf(_Combination):
    """Accepts what one of them accepts. Asked in order, up to an acceptance.

    | among their verdicts is                | status    | score                          |
    | -------------------------------------- | --------- | ------------------------------ |
    | an acceptance, whatever else           | accepted  | of that acceptance             |
    | an error, and no acceptance            | error     | 0                              |
    | nothing but rejections                 | rejected  | the highest of them            |
    | otherwise: an abstention, and no error | abstained | the highest of the abstentions |
    """

    members: tuple[Verifier, ...] = ()

    def __post_init__(self) -> None:
        _check_members("any_of", self.members)

    @property
    def name(self) -> str:
        return f"any_of({', '.join(map(verifier_name, self.members))})"

    def _settled(self, said: Sequence[Verdict]) -> bool:
        return any(verdict.status == "accepted" for verdict in said)

    def _sum(self, said: Sequence[Verdict]) -> Verdict:
        for status in ("accepted", "error", "abstained", "rejected"):
            if found := [verdict for verdict in said if verdict.status == status]:
                break
        return _verdict(status, max(verdict.score for verdict in found), found)


@dataclass(frozen=True)
class Weighted(_Combination):
    """Accepts where the weighted mean of the scores reaches ``accept``, and rejects where it does not.

    Who accepts or rejects has judged, and so has who abstains with a score above 0 (a verifier that returns 0.7 does):
    their scores count. Who abstains with a score of 0 can't judge, and is left out of the mean.

    | among their verdicts is                    | status                                                | score |
    | ------------------------------------------ | ----------------------------------------------------- | ----- |
    | an error, whatever else                    | error                                                 | 0     |
    | at least one that has judged, and no error | by ``accept``; abstained where that is None           | mean  |
    | nobody who has judged                      | abstained                                             | 0     |
    """

    weights: tuple[tuple[Verifier, float], ...] = ()
    accept: float | None = 0.5

    def __post_init__(self) -> None:
        _check_members("weighted", self.members)
        for verifier, weight in self.weights:
            if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < math.inf:
                found = f"{verifier_name(verifier)} has {weight!r}"
                raise UsageError(f"weighted: a weight is a number above 0, but {found}")
        if self.accept is not None and not 0 < self.accept <= 1:
            raise UsageError(f"weighted: accept is {self.accept}; above 0 and up to 1 is allowed, or None to rank only")

    @property
    def members(self) -> tuple[Verifier, ...]:
        return tuple(verifier for verifier, _ in self.weights)

    @property
    def name(self) -> str:
        return f"weighted({', '.join(f'{verifier_name(v)}: {weight:g}' for v, weight in self.weights)})"

    def _settled(self, said: Sequence[Verdict]) -> bool:
        return False

    def _sum(self, said: Sequence[Verdict]) -> Verdict:
        failed = [verdict for verdict in said if verdict.status == "error"]
        if failed:
            return _verdict("error", 0.0, failed)
        judged = [
            (verdict, weight)
            for verdict, (_, weight) in zip(said, self.weights, strict=True)
            if verdict.status != "abstained" or verdict.score > 0
        ]
        if not judged:
            return _verdict("abstained", 0.0, said)
        total = math.fsum(weight for _, weight in judged)
        mean = min(1.0, math.fsum(verdict.score * (weight / total) for verdict, weight in judged))
        status = "abstained" if self.accept is None else "accepted" if mean >= self.accept else "rejected"
        told = f"{mean:.3g}" + ("" if self.accept is None else f" against {self.accept:g}")
        return _verdict(status, mean, [verdict for verdict, _ in judged], f"weighted mean {told}: ")


@dataclass(frozen=True)
class Negated(_Combination):
    """Accepts what a verifier rejects, and the other way round.

    | it says   | becomes   | score         |
    | --------- | --------- | ------------- |
    | accepted  | rejected  | 1 - its score |
    | rejected  | accepted  | 1 - its score |
    | abstained | abstained | 1 - its score |
    | error     | error     | 0             |
    """

    verifier: Verifier

    def __post_init__(self) -> None:
        _check_members("negate", self.members)

    @property
    def members(self) -> tuple[Verifier, ...]:
        return (self.verifier,)

    @property
    def name(self) -> str:
        return f"negate({verifier_name(self.verifier)})"

    def _settled(self, said: Sequence[Verdict]) -> bool:
        return False

    def _sum(self, said: Sequence[Verdict]) -> Verdict:
        (verdict,) = said
        if verdict.status == "error":
            return _verdict("error", 0.0, said)
        status = {"accepted": "rejected", "rejected": "accepted"}.get(verdict.status, "abstained")
        return _verdict(status, 1.0 - verdict.score, said, "not: ")


def all_of(*verifiers: Verifier) -> AllOf:
    """A verifier that accepts what one of these accepts and none of them rejects: see ``AllOf``.

    Raises:
        UsageError: none given, or one that is no verifier.
    """
    return AllOf(verifiers)


def any_of(*verifiers: Verifier) -> AnyOf:
    """A verifier that accepts what one of these accepts: see ``AnyOf``.

    Raises:
        UsageError: none given, or one that is no verifier.
    """
    return AnyOf(verifiers)


def weighted(
    weights: Mapping[Verifier, float] | Sequence[tuple[Verifier, float]], accept: float | None = 0.5
) -> Weighted:
    """A verifier that accepts from a weighted mean of scores on: see ``Weighted``.

    Args:
        weights: Verifiers with their weights, above 0; pairs where a verifier can't be the key of a dict.
        accept: The mean, above 0 and up to 1, from which a branch is accepted; below it is rejected. None only ranks.

    Raises:
        UsageError: none given, one that is no verifier, or a number that is not allowed.
    """
    pairs = weights.items() if isinstance(weights, Mapping) else weights
    try:
        return Weighted(tuple((verifier, weight) for verifier, weight in pairs), accept)
    except (TypeError, ValueError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(
            f"weighted: verifiers with weights are allowed, {{verifier: 0.5}}; found {weights!r}"
        ) from error


def negate(verifier: Verifier) -> Negated:
    """A verifier that accepts what this one rejects: see ``Negated``.

    Raises:
        UsageError: it is no verifier.
    """
    return Negated(verifier)


def _check_members(name: str, members: tuple[Verifier, ...]) -> None:
    if not members:
        raise UsageError(f"{name} needs at least one verifier")
    for member in members:
        if not callable(member) or isinstance(member, type):
            raise UsageError(f"{name}: a verifier is a callable (problem, branch); found {member!r}")
        batch_limit(member)


def _verdict(status: str, score: float, told: Sequence[Verdict], before: str = "") -> Verdict:
    """A verdict that says who said what, and the first answer that one of them names."""
    reasons = [f"{v.verifier}: {v.reason}" if v.reason else f"{v.verifier} {v.status}" for v in told]
    answer = next((v.answer for v in told if v.answer is not None), None)
    fields: dict[str, Any] = {"status": status, "reason": before + "; ".join(reasons), "answer": answer}
    if any(v.feedback is not None for v in told):  # one of the reasons names the right answer
        said = [reason if v.feedback is None else v.feedback for v, reason in zip(told, reasons, strict=True)]
        fields["feedback"] = before + "; ".join(filter(None, said))
    return Verdict(**fields, score=0.0 if status == "error" else score)
