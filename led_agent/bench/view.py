"""What a person sees of a benchmark: tables, on a terminal and in Markdown. Nothing is measured here."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from led_agent.bench.harness import Ratio, Spread
from led_agent.bench.measure import BenchResult

__all__ = ["headline", "markdown", "render", "told"]

_IDLE = 0.5  # load before the run, up to which others are not thought to have disturbed it
_BUSY = "figures are not to be relied on: other programs computed just before, the machine's load was"


def headline(found: BenchResult) -> str:
    """What was run, in one paragraph."""
    work, done = found.workload, found.comparison
    where = f"{found.device}, {found.threads} threads" if found.device == "cpu" else found.device
    rounds = f"{done.rounds} of {done.asked} rounds" if done.rounds < done.asked else f"{done.rounds} rounds"
    versions = ", ".join(f"{name} {version}" for name, version in found.versions.items())
    return (
        f"{found.model}: {work.branches} branches of one prompt of {work.prompt} tokens, {work.new} new tokens each, "
        f"T={work.temperature:g}, {work.dtype}, on {where}; {rounds}, interleaved; the whole call is timed, prefill "
        f"included. Medians, with the lowest and the highest. {versions}."
    )


def render(found: BenchResult) -> RenderableType:
    """Rates, ratios, and what is missing."""
    rates = _table("Tokens a second", "", "median", "lowest", "highest", "quartiles")
    for arm in found.comparison.arms:
        rates.add_row(arm.name, *_cells(arm.spread, 1))
    ratios = _table("Ratios, round by round", "", "median", "lowest", "highest", "quartiles")
    for ratio in found.comparison.ratios:
        ratios.add_row(_name(ratio), *_cells(ratio.spread, 2))
    notes = [Text(f"{name}: {why}", style="yellow") for name, why in _missing(found)]
    return Group(Text(headline(found)), Text(), rates, Text(), ratios, *([Text(), *notes] if notes else []))


def markdown(found: BenchResult) -> str:
    """The same in Markdown."""
    lines = [headline(found), "", "| | tokens a second | engine ÷ it |", "| --- | --- | --- |"]
    over = {ratio.base: ratio for ratio in found.comparison.ratios[1:]}
    for arm in found.comparison.arms:
        ratio = over.get(arm.name)
        lines.append(f"| {arm.name} | {told(arm.spread, 1)} | {told(ratio.spread, 2) if ratio else ''} |")
    led = found.comparison.ratios[0]
    lines += ["", f"{_name(led)}: {told(led.spread, 2)}"]
    missing = [f"- {name}: {why}" for name, why in _missing(found)]
    return "\n".join([*lines, *(["", *missing] if missing else [])])


def told(spread: Spread | None, digits: int) -> str:
    """A median with what it was at the least and at the most."""
    if spread is None:
        return "–"
    return f"{spread.median:.{digits}f} ({spread.low:.{digits}f} … {spread.high:.{digits}f})"


def _name(ratio: Ratio) -> str:
    return f"{ratio.arm} ÷ {ratio.base}"


def _missing(found: BenchResult) -> list[tuple[str, str]]:
    """What is not in the tables, or not wholly, and what speaks against the rest."""
    failed = [(arm.name, arm.error) for arm in found.comparison.arms if arm.error is not None]
    cut = [("interrupted", "only complete rounds are counted")] if found.comparison.interrupted else []
    busy = [("busy", f"{_BUSY} {found.load:.1f}; repeat it when it is idle")] if found.load > _IDLE else []
    return [*((absent.name, f"absent: {absent.reason}") for absent in found.absent), *failed, *cut, *busy]


def _cells(spread: Spread | None, digits: int) -> tuple[str, ...]:
    if spread is None:
        return ("–",) * 4
    single = (f"{value:.{digits}f}" for value in (spread.median, spread.low, spread.high))
    return (*single, f"{spread.lower_quartile:.{digits}f}–{spread.upper_quartile:.{digits}f}")


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, show_edge=False)
    for column in columns:
        table.add_column(column, justify="right" if column else "left")
    return table
