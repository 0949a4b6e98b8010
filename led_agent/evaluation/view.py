"""What a person sees of an evaluation: the same sheets on a terminal and in Markdown. Nothing is measured here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from led_agent.evaluation.figures import Difference, Result
from led_agent.evaluation.report import Evaluation
from led_agent.evaluation.statistics import RESAMPLES, Estimate

__all__ = ["headline", "markdown", "render"]


_NAMED = "Settings"


@dataclass(frozen=True)
class _Sheet:
    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    wide: bool = False  # on a terminal, intervals then go below their figures


def headline(found: Evaluation) -> str:
    """What was run, in one paragraph."""
    limits = [f"{value:g} {name}" for name, value in found.budget.model_dump(exclude_none=True).items()]
    told = [
        f"{found.task}: {found.asked} problems, model {found.model}, {found.max_tokens} new tokens a branch at most",
        *([f"a budget of {', '.join(limits)} a problem"] if limits else []),
        f"seed {found.seed}",
        *(["the search is not told the truth"] if found.blind else []),
    ]
    return (
        f"{', '.join(told)}. Means over problems with 95 % intervals: Wilson's for solved, else a bootstrap over "
        f"problems ({RESAMPLES} resamples)."
    )


def render(found: Evaluation) -> RenderableType:
    """All tables, for a terminal."""
    parts: list[RenderableType] = [Text(headline(found))]
    for sheet in _sheets(found):
        table = Table(title=sheet.title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, show_edge=False)
        table.pad_edge, table.collapse_padding = False, True  # intervals fit in 80 columns
        for at, column in enumerate(sheet.columns):
            table.add_column(column, justify="left" if sheet.title == _NAMED or at == 0 else "right")
        for row in sheet.rows:
            table.add_row(*(Text(cell.replace(" (", "\n(") if sheet.wide else cell) for cell in row))
        parts += [Text(), table]
    if found.notes:
        parts += [Text(), *(Text(f"- {note}", style="dim") for note in found.notes)]
    return Group(*parts)


def markdown(found: Evaluation) -> str:
    """The same in Markdown."""
    lines = [headline(found)]
    for sheet in _sheets(found):
        rule = [":--", *["--:"] * (len(sheet.columns) - 1)]
        cells = [sheet.columns, rule, *sheet.rows]
        lines += ["", f"**{sheet.title}**", ""]
        lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in cells]
    if found.notes:
        lines += ["", *(f"- {note}" for note in found.notes)]
    return "\n".join(lines) + "\n"


def _sheets(found: Evaluation) -> list[_Sheet]:
    """Settings are numbered, as their names are longer than a column has room for."""
    sheets = [_names(found.results), _settings(found.results)]
    if any(result.at for result in found.results):
        sheets.append(_at_k(found.results))
    if any(result.brier is not None for result in found.results):
        sheets.append(_calibration(found.results))
    if found.differences:
        numbers = {result.name: str(number) for number, result in enumerate(found.results, 1)}
        sheets.append(_differences(found.differences, numbers))
    return [sheet for sheet in sheets if sheet.rows]


def _names(results: Sequence[Result]) -> _Sheet:
    rows = [(str(number), result.strategy, result.decoding) for number, result in enumerate(results, 1)]
    return _Sheet(_NAMED, ("#", "strategy", "decoding"), rows)


def _settings(results: Sequence[Result]) -> _Sheet:
    columns = ("#", "problems", "solved, %", "tokens", "to first right", "prefill", "branches", "seconds")
    rows = [
        (
            str(number),
            str(result.problems),
            _percent(result.solved),
            _told(result.tokens, 0),
            _told(result.to_first, 0) if result.to_first is not None else "–",
            f"{result.prefill.value:.0f}",
            f"{result.branches.value:.1f}",
            _told(result.seconds, 1),
        )
        for number, result in enumerate(results, 1)
    ]
    return _Sheet("Of each problem", columns, rows, wide=True)


def _at_k(results: Sequence[Result]) -> _Sheet:
    rankers = sorted({result.ranked_by for result in results if result.ranked_by is not None})
    rows = [
        (str(number), str(at.k), _percent(at.passed), _percent(at.majority), _percent(at.best))
        for number, result in enumerate(results, 1)
        for at in result.at
    ]
    told = "any right, the majority right, the best right by " + " or ".join(rankers)
    return _Sheet(f"Of k independent branches: {told}", ("#", "k", "pass@k, %", "cons@k, %", "best@k, %"), rows)


def _calibration(results: Sequence[Result]) -> _Sheet:
    rows = [
        (str(number), str(result.brier.problems), _told(result.brier, 3), _told(result.calibration, 3))
        for number, result in enumerate(results, 1)
        if result.brier is not None
    ]
    return _Sheet("How far the probability of unverified answers holds", ("#", "problems", "Brier", "ECE"), rows)


def _differences(differences: Sequence[Difference], numbers: Mapping[str, str]) -> _Sheet:
    columns = ("#", "metric", "difference", "won : lost", "p", "p, Holm", "shown")
    rows = [
        (
            numbers[one.setting],
            one.metric,
            _told(one.difference, 0, signed=True) if one.metric == "tokens" else _percent(one.difference, signed=True),
            f"{one.gained} : {one.lost}" if one.gained is not None else "",
            _p(one.p),
            _p(one.p_corrected),
            one.shown if one.shown != "not shown" else "–",
        )
        for one in differences
    ]
    return _Sheet("Less setting 1, paired by problem; shares in points", columns, rows)


def _percent(estimate: Estimate, *, signed: bool = False) -> str:
    scaled = Estimate(
        value=100 * estimate.value, low=100 * estimate.low, high=100 * estimate.high, problems=estimate.problems
    )
    return _told(scaled, 1, signed=signed)


def _told(estimate: Estimate | None, digits: int, *, signed: bool = False) -> str:
    if estimate is None:
        return "–"
    form = f"{'+' if signed else ''}.{digits}f"
    between = " to " if signed else "–"
    return f"{estimate.value:{form}} ({estimate.low:{form}}{between}{estimate.high:{form}})"


def _p(value: float) -> str:
    return "<0.001" if value < 0.001 else f"{value:.3f}"
