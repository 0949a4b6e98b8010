"""What became of one problem in one setting, read from its tree: plain values, from which all figures are computed.

This file knows trees and verdicts. It does not know statistics.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from led_agent.comparing import COMPLETE
from led_agent.protocols import Strategy
from led_agent.solution import Solution
from led_agent.strategies import BestOfN
from led_agent.tree import Node, Tree
from led_agent.types import Branch, Problem, Verdict
from led_agent.verifiers.equivalence import equivalence_groups, final_answers

__all__ = ["Outcome", "Sample", "Truth", "outcome_of", "samples_independently"]

Truth = Callable[[Problem, Branch], Verdict]


@dataclass(frozen=True)
class Sample:
    """One of the branches that were sampled independently.

    Attributes:
        right: Whether the truth accepted it.
        group: Which of the problem's answers it gives, by number; None where it gives none.
        scores: What verifiers that only rank say of it, by their names.
        logprob: Mean log-probability (nat) a token under the model's own posterior; None where it isn't known.
    """

    right: bool
    group: int | None = None
    scores: dict[str, float] = field(default_factory=dict)
    logprob: float | None = None


@dataclass(frozen=True)
class Outcome:
    """One problem in one setting.

    Attributes:
        problem: Its key.
        solved: Whether the truth accepted the solution.
        status: How the search ended.
        tokens, prefill: Generated tokens, and prompt tokens computed.
        seconds: Wall-clock time, while other problems shared the engine.
        branches: How many were asked for.
        to_first: Tokens of the branches up to the first right one in the order in which they were asked for, itself
            included; None where there is none.
        errors: Branches on which a verifier failed: neither right nor wrong, and counted as not right.
        probability: How sure the search was of an answer that no verifier accepted; None where it did not say.
        samples: The branches, where they are independent samples.
    """

    problem: str
    solved: bool
    status: str
    tokens: int
    prefill: int
    seconds: float
    branches: int
    to_first: int | None
    errors: int
    probability: float | None
    samples: tuple[Sample, ...] = ()


def samples_independently(strategy: Strategy) -> bool:
    """Whether a strategy's branches are independent samples of one law, as pass@k takes them to be."""
    return isinstance(strategy, BestOfN)


def outcome_of(solution: Solution, *, samples: bool, truth: Truth | None = None) -> Outcome:
    """Read a finished problem.

    Args:
        samples: Whether its branches are independent samples.
        truth: Judges branches now, where the search was not told; None where the verdicts are on the tree.
    """
    tree = solution.tree
    leaves = [leaf for leaf in tree.leaves() if leaf.branch is not None]
    verdicts = {leaf.id: _judged(tree, leaf, truth) for leaf in leaves}
    right = {name for name, verdict in verdicts.items() if verdict is not None and verdict.status == "accepted"}
    confidence = getattr(solution, "confidence", None)
    best = solution.branch.id if solution.branch is not None else None
    return Outcome(
        problem=solution.problem.key,
        solved=solution.verified if truth is None else best in right,
        status=solution.status,
        tokens=solution.usage.generated_tokens,
        prefill=solution.usage.prefill_tokens,
        seconds=solution.usage.seconds,
        branches=solution.usage.branches,
        to_first=_to_first(tree, right),
        errors=sum(verdict is not None and verdict.status == "error" for verdict in verdicts.values()),
        probability=confidence.probability if confidence is not None else None,
        samples=_samples(leaves, verdicts, right) if samples else (),
    )


def _judged(tree: Tree, leaf: Node, truth: Truth | None) -> Verdict | None:
    """The verdict on a whole answer; None where there is none."""
    if leaf.branch is None or leaf.branch.finish not in COMPLETE or leaf.status in ("pruned", "failed"):
        return None
    return leaf.verdict if truth is None else truth(tree.problem, tree.branch(leaf.id))


def _to_first(tree: Tree, right: set[str]) -> int | None:
    spent = 0
    for node in tree.nodes():
        if node.branch is not None:
            spent += len(node.branch.token_ids) + node.branch.discarded
        if node.id in right:
            return spent
    return None


def _samples(leaves: Sequence[Node], verdicts: dict[str, Verdict | None], right: set[str]) -> tuple[Sample, ...]:
    """Branches as samples, in the order in which they were asked for."""
    answers = _answers(leaves, verdicts)
    groups = {at: number for number, group in enumerate(equivalence_groups(answers).groups) for at in group}
    return tuple(
        Sample(
            right=leaf.id in right,
            group=groups.get(at),
            scores={v.verifier: v.score for v in leaf.verdicts if v.status == "abstained"},
            logprob=leaf.branch.mean_logprob if leaf.branch is not None else None,
        )
        for at, leaf in enumerate(leaves)
    )


def _answers(leaves: Sequence[Node], verdicts: dict[str, Verdict | None]) -> list[str | None]:
    """Final answers: as the verifier read them; where it reads none of the problem's, as they read from the texts. What
    was cut off has none."""
    judged = [verdicts[leaf.id] for leaf in leaves]
    found = [verdict.answer if verdict is not None else None for verdict in judged]
    if any(answer is not None for answer in found):
        return found
    ended = [at for at, leaf in enumerate(leaves) if leaf.branch is not None and leaf.branch.finish in ("eos", "stop")]
    texts = [leaf.branch.text for at in ended if (leaf := leaves[at]).branch is not None]
    for at, answer in zip(ended, final_answers(texts).answers, strict=True):
        found[at] = answer
    return found
