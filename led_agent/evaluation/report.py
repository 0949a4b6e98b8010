"""A whole evaluation as a record: what was asked, the figures, and what must be said about them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from led_agent.evaluation.figures import Difference, Result, compare, measure
from led_agent.evaluation.grid import Done, Plan
from led_agent.models import default_model
from led_agent.types import Budget, Record

__all__ = ["Evaluation", "evaluation_of"]

_CLOCK = "Seconds are a problem's wall-clock time while others shared the engine; settings ran one after another."
_PREFILL = "Prompts that an earlier setting left in the engine's cache are not computed again, and count for the first."
_SINGLE = "An interval over fewer than 30 problems is a rough one."
_FEW = 30


class Evaluation(Record):
    """What was evaluated, and what came of it.

    Attributes:
        asked: Problems of the task.
        blind: Whether the search was told nothing of the truth.
        interrupted: Whether it was ended before all was done.
        results: A setting each, of those that finished any problem.
        differences: Of each setting from the first.
        notes: What must be said about the figures.
    """

    task: str
    model: str
    asked: int
    seed: int
    max_tokens: int
    budget: Budget
    verifiers: tuple[str, ...]
    blind: bool
    interrupted: bool
    results: tuple[Result, ...]
    differences: tuple[Difference, ...]
    notes: tuple[str, ...]

    def rows(self) -> list[dict[str, Any]]:
        """The lines of ``--json``: one for each setting, then one for each comparison."""
        settings = [{"kind": "setting", **result.model_dump(mode="json")} for result in self.results]
        return settings + [{"kind": "comparison", **one.model_dump(mode="json")} for one in self.differences]

    def text(self) -> str:
        """All of it as one JSON document, of which ``report.json`` consists."""
        return json.dumps(self.model_dump(mode="json"), indent=2) + "\n"


def evaluation_of(plan: Plan, done: Sequence[Done], *, interrupted: bool) -> Evaluation:
    """The figures of what is done. Their random numbers don't depend on the plan's seed."""
    some = [one for one in done if one.outcomes]
    results = [
        measure(one.setting.strategy_name, one.setting.decoding_name, one.outcomes, one.setting.samples) for one in some
    ]
    against_first = bool(done) and bool(done[0].outcomes)
    settings = [(one.setting.name, one.outcomes, one.setting.samples) for one in some] if against_first else []
    return Evaluation(
        task=plan.task.name,
        model=plan.model or default_model(),
        asked=len(plan.task.problems),
        seed=plan.seed,
        max_tokens=plan.max_tokens,
        budget=plan.budget,
        verifiers=plan.verifiers,
        blind=plan.blind,
        interrupted=interrupted,
        results=tuple(results),
        differences=compare(settings),
        notes=tuple(_notes(plan, results, interrupted)),
    )


def _notes(plan: Plan, results: Sequence[Result], interrupted: bool) -> list[str]:
    notes = [_CLOCK, _PREFILL] if len(results) > 1 else [_CLOCK]
    if interrupted:
        notes.append(
            "It was interrupted: figures are of the problems that are finished, comparisons of those that both are."
        )
    if any(result.problems < _FEW for result in results):
        notes.append(_SINGLE)
    for result in results:
        if result.errors:
            notes.append(f"{result.name}: a verifier failed on {result.errors} branches; they count as not right.")
        if result.statuses.get("failed"):
            failed = result.statuses["failed"]
            notes.append(f"{result.name}: {failed} problems could not be tried; they count as not solved.")
        cut = result.statuses.get("budget", 0)
        if cut and result.at:
            notes.append(
                f"{result.name}: on {cut} problems the budget was spent first; missing branches count as not right."
            )
    if not plan.blind and any(result.brier is not None for result in results):
        notes.append(
            "The search was told the truth, so that its own probability is about answers that were found wrong; "
            "--blind measures calibration."
        )
    return notes
