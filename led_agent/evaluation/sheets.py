"""Tables of estimates with their intervals, the same on a terminal and in Markdown.

This file knows figures as text. It does not know what they are of.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from led_agent.evaluation.statistics import Estimate

__all__ = ["Sheet", "as_markdown", "p_value", "percent", "rendered", "told"]


@dataclass(frozen=True)
class Sheet:
    """A table.

    Attributes:
        wide: On a terminal, intervals go below their figures.
        names: How many of the first columns are names, which are set to the left.
    """

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    wide: bool = False
    names: int = 1


def rendered(headline: str, sheets: Sequence[Sheet], notes: Sequence[str]) -> RenderableType:
    """For a terminal."""
    parts: list[RenderableType] = [Text(headline)]
    for sheet in sheets:
        table = Table(title=sheet.title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, show_edge=False)
        table.pad_edge, table.collapse_padding = False, True  # intervals fit in 80 columns
        for at, column in enumerate(sheet.columns):
            table.add_column(column, justify="left" if at < sheet.names else "right")
        for row in sheet.rows:
            table.add_row(*(Text(cell.replace(" (", "\n(") if sheet.wide else cell) for cell in row))
        parts += [Text(), table]
    if notes:
        parts += [Text(), *(Text(f"- {note}", style="dim") for note in notes)]
    return Group(*parts)


def as_markdown(headline: str, sheets: Sequence[Sheet], notes: Sequence[str]) -> str:
    """The same in Markdown."""
    lines = [headline]
    for sheet in sheets:
        rule = [":--", *["--:"] * (len(sheet.columns) - 1)]
        cells = [sheet.columns, rule, *sheet.rows]
        lines += ["", f"**{sheet.title}**", ""]
        lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in cells]
    if notes:
        lines += ["", *(f"- {note}" for note in notes)]
    return "\n".join(lines) + "\n"


def percent(estimate: Estimate, *, signed: bool = False) -> str:
    """A share, in per cent."""
    scaled = Estimate(
        value=100 * estimate.value, low=100 * estimate.low, high=100 * estimate.high, problems=estimate.problems
    )
    return told(scaled, 1, signed=signed)


def told(estimate: Estimate | None, digits: int, *, signed: bool = False) -> str:
    """A figure with its interval."""
    if estimate is None:
        return "–"
    form = f"{'+' if signed else ''}.{digits}f"
    between = " to " if signed else "–"
    return f"{estimate.value:{form}} ({estimate.low:{form}}{between}{estimate.high:{form}})"


def p_value(value: float) -> str:
    return "<0.001" if value < 0.001 else f"{value:.3f}"
