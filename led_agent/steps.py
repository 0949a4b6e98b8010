"""Verifiers that have something to say of an answer that is not finished: process rewards.

Their ``step(problem, branch)`` is asked where a branch ends at a step. What they say may reject the step or rank it;
an unfinished answer is never verified by it.
"""

from __future__ import annotations

from collections.abc import Sequence

from led_agent.judging import read, verifier_name
from led_agent.protocols import Verifier
from led_agent.types import Branch, Problem, Verdict

__all__ = ["StepJudge", "step_judges"]


class StepJudge:
    """A verifier's ``step`` as a verifier: what it accepts it only ranks."""

    def __init__(self, verifier: Verifier) -> None:
        self.name = verifier_name(verifier)
        self._step = verifier.step  # type: ignore[attr-defined]

    def __call__(self, problem: Problem, branch: Branch, /) -> Verdict:
        said = read(self._step(problem, branch), self.name)
        return said.model_copy(update={"status": "abstained"}) if said.status == "accepted" else said


def step_judges(verifiers: Sequence[Verifier]) -> tuple[Verifier, ...]:
    """Those of the verifiers that judge steps, as such."""
    return tuple(StepJudge(v) for v in verifiers if callable(getattr(v, "step", None)))
