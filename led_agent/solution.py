"""What a search gives back."""

from __future__ import annotations

from typing import Any

from pydantic import ConfigDict

from led_agent.answers import final_answer
from led_agent.events import Ended, RunStatus
from led_agent.tree import Tree
from led_agent.types import Branch, Confidence, Problem, Record, Usage, Verdict

__all__ = ["Solution"]


class Solution(Record):
    """The best answer found, why it is the best, and the whole tree.

    Attributes:
        text: The whole output of the best branch; empty where nothing was decoded.
        answer: Its final answer: as the verifier extracted it, else as it reads from the text.
        verified: Whether the verifiers accepted it.
        verdict: The verdict that decided; None where none was given.
        status: How the search ended: "verified"; "exhausted" (the strategy had nothing left); "budget";
            "interrupted"; "failed" (the strategy raised, or nothing could be decoded).
        reason: That in words.
        usage: What it cost.
        tree: All branches.
        branch: The best branch itself.
        confidence: How the branches agree on the answer, where no verifier accepted it and there is one; else None.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    problem: Problem
    text: str
    answer: str | None
    verified: bool
    verdict: Verdict | None
    status: RunStatus
    reason: str
    usage: Usage
    branch: Branch | None
    confidence: Confidence | None
    tree: Tree

    @classmethod
    def of(cls, tree: Tree, ended: Ended) -> Solution:
        """The solution that a tree amounts to at its end."""
        best = tree[ended.best] if ended.best is not None else tree.best()
        branch = tree.branch(best.id) if best else None
        verdict = best.verdict if best else None
        text = branch.text if branch else ""
        return cls(
            problem=tree.problem,
            text=text,
            answer=_answer(text, verdict, ended),
            verified=best is not None and best.status == "accepted",
            verdict=verdict,
            status=ended.status,
            reason=ended.reason,
            usage=ended.usage,
            branch=branch,
            confidence=ended.confidence,
            tree=tree,
        )

    def row(self) -> dict[str, Any]:
        """The solution as one line of ``--json`` and of results.jsonl."""
        return {
            "id": self.problem.key,
            "text": self.text,
            "answer": self.answer,
            "verified": self.verified,
            "status": self.status,
            "reason": self.reason,
            "usage": self.usage.model_dump(),
        }

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        from led_agent.notebook import solution_html

        return solution_html(self)


def _answer(text: str, verdict: Verdict | None, ended: Ended) -> str | None:
    """As the verifier extracted it, else as it was read when votes were counted, else as it reads from the text."""
    if verdict is not None and verdict.answer is not None:
        return verdict.answer
    return ended.confidence.answer if ended.confidence is not None else final_answer(text)
