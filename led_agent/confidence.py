"""How the branches of a search agree, and what that says of the leading answer.

For searches in which no verifier accepted anything: self-consistency (Wang et al., 2022) over answers that are equal
as mathematics, with a confidence that was calibrated on problems of known outcome. This file knows trees and answers.
It does not know how branches came about.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from led_agent.answers import final_answer
from led_agent.comparing import complete
from led_agent.tree import Node, Tree
from led_agent.types import Confidence

__all__ = [
    "EMBEDDED",
    "SHARE",
    "Agreement",
    "Calibration",
    "Vote",
    "agree",
    "answer_of",
    "candidates",
    "read_votes",
    "votes",
]

Groups = Sequence[Sequence[int]]


@dataclass(frozen=True)
class Calibration:
    """Logistic map from how branches agree to the probability that the leading answer is right (Platt, 1999).

    Attributes:
        bias, share, entropy, logprob: Its weights: of 1, of the leading answer's share in log-odds with half a vote
            added on either side, of the entropy of the answers (nat), and of the mean log-probability a token (nat;
            taken as 0 where it isn't known).
    """

    bias: float
    share: float
    entropy: float
    logprob: float

    def __call__(self, votes: int, of: int, entropy: float, logprob: float | None) -> float:
        odds = math.log((votes + 0.5) / (of - votes + 0.5))
        z = self.bias + self.share * odds + self.entropy * entropy + self.logprob * (logprob or 0.0)
        return 1.0 / (1.0 + math.exp(-max(-30.0, min(30.0, z))))


# Without a fit: the leading answer's share, with half a vote added on either side.
SHARE = Calibration(bias=0.0, share=1.0, entropy=0.0, logprob=0.0)

# Fitted to both embedded models on development puzzles by `python -m benchmarks.confidence --fit`. How likely
# a model finds its own tokens decides most of it, and differs from model to model: these weights are for these models.
EMBEDDED = Calibration(bias=8.671, share=-1.121, entropy=-3.135, logprob=30.622)


@dataclass(frozen=True)
class Vote:
    """A complete branch, and its answer where a verifier has read it or it is known otherwise."""

    node: Node
    text: str
    answer: str | None
    logprob: float | None


@dataclass(frozen=True)
class Agreement:
    """The leading answer: the node that stands for it, and how far it can be trusted."""

    best: str
    confidence: Confidence | None


def candidates(tree: Tree) -> list[Node]:
    """The complete branches among which an answer is to be found: those that no verifier rejected, else all."""
    leaves = complete(tree)
    return [leaf for leaf in leaves if leaf.status != "rejected"] or leaves


def answer_of(tree: Tree, node: Node) -> str | None:
    """What a branch answers: as a verifier read it, else as the whole text ends; None where there is nothing."""
    verdict = node.verdict
    answer = verdict.answer if verdict is not None and verdict.answer is not None else final_answer(tree.text(node.id))
    return answer if answer is not None and answer.strip() else None


def votes(tree: Tree) -> list[Vote]:
    """The candidates, each with the answer that a verifier read in it, if one did."""
    found = []
    for node in candidates(tree):
        branch, verdict = tree.branch(node.id), node.verdict
        answer = verdict.answer if verdict is not None else None
        found.append(Vote(node, branch.text, answer, branch.mean_logprob))
    return found


def read_votes(cast: Sequence[Vote], read: Callable[[Sequence[str]], Sequence[str | None]]) -> list[Vote]:
    """The votes with their answers: ``read`` finds those of the texts that nobody has read. What gives none is no
    vote."""
    unread = [vote.text for vote in cast if vote.answer is None]
    answers = iter(read(unread) if unread else ())
    known = [vote if vote.answer is not None else replace(vote, answer=next(answers)) for vote in cast]
    return [vote for vote in known if vote.answer is not None and vote.answer.strip()]


def agree(
    cast: Sequence[Vote],
    groups: Groups,
    *,
    chosen: str | None = None,
    calibration: Calibration = SHARE,
) -> Agreement | None:
    """The answer that most branches give, of equals the one that the model finds likelier; None without votes.

    Args:
        groups: Which of the votes are for the same answer, by their places.
        chosen: A node that was chosen otherwise: the confidence is that of its answer.
        calibration: What gives the probability; with ``SHARE`` it is not calibrated.
    """
    if not groups:
        return None

    def likely(at: int) -> float:
        logprob = cast[at].logprob
        return logprob if logprob is not None else -math.inf

    ranked = max(groups, key=lambda group: (len(group), max(map(likely, group)), -min(group)))
    mine = next((group for group in groups if any(cast[at].node.id == chosen for at in group)), None)
    leader = mine if chosen is not None else ranked
    if leader is None:
        return None
    best = max(leader, key=lambda at: (likely(at), -at))
    of = sum(map(len, groups))
    entropy = -sum(len(group) / of * math.log(len(group) / of) for group in groups)
    confidence = Confidence(
        answer=str(cast[best].answer),
        votes=len(leader),
        of=of,
        share=len(leader) / of,
        entropy=max(0.0, entropy),
        logprob=cast[best].logprob,
        probability=calibration(len(leader), of, entropy, cast[best].logprob),
        calibrated=calibration is not SHARE,
    )
    return Agreement(chosen if chosen is not None else cast[best].node.id, confidence)
