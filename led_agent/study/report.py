"""What a study found, as a record."""

from __future__ import annotations

from typing import Any

from led_agent.diagnosis import Diagnosis
from led_agent.record import Record
from led_agent.study.figures import ArmFigures, Comparison, Matched

__all__ = ["Choice", "Findings"]


class Choice(Record):
    """What was chosen on the development split.

    Attributes:
        kind: Of what.
        metrics: By which, in turn.
        chosen: The candidate.
        arm: What it is called on the test split.
        candidates: All of them, on the development split.
    """

    kind: str
    metrics: tuple[str, ...]
    chosen: str
    arm: str
    candidates: tuple[ArmFigures, ...]

    @property
    def metric(self) -> str:
        """The first."""
        return self.metrics[0]

    @property
    def best(self) -> ArmFigures:
        """The chosen one's figures on the development split."""
        return next(one for one in self.candidates if one.arm == self.chosen)


class Findings(Record):
    """All figures of a study; the same for the same seed.

    Attributes:
        settings: What it was made with.
        interrupted: Whether it was ended before all was drawn.
        depths: The model's posteriors by depth, after those of the one before where there is one.
        choices: What was tuned.
        base: The arm whose pass@k all others are compared with: plain sampling at the temperature chosen for it.
        search_base: The arm that searches are compared with at equal tokens: plain sampling, too, at the temperature
            and of the length that solve most.
        primary: The one setting, and the one search, that did best on the development split, against their bases: the
            question that the test split is asked, with a correction of its own.
        comparisons: Everything else, corrected over all of it.
    """

    settings: dict[str, Any]
    model: str
    interrupted: bool
    depths: tuple[Diagnosis, ...]
    choices: tuple[Choice, ...]
    base: str
    search_base: str
    arms: tuple[ArmFigures, ...]
    primary: tuple[Comparison, ...]
    comparisons: tuple[Comparison, ...]
    matched: tuple[Matched, ...]
