"""What a person sees of an evaluation: the same sheets on a terminal and in Markdown. Nothing is measured here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import RenderableType

from led_agent.evaluation.figures import Difference, Result
from led_agent.evaluation.report import Evaluation
from led_agent.evaluation.sheets import Sheet, as_markdown, p_value, percent, rendered, told
from led_agent.evaluation.statistics import RESAMPLES

__all__ = ["headline", "markdown", "render"]


def headline(found: Evaluation) -> str:
    """What was run, in one paragraph."""
    limits = [f"{value:g} {name}" for name, value in found.budget.model_dump(exclude_none=True).items()]
    said = [
        f"{found.task}: {found.asked} problems, model {found.model}, {found.max_tokens} new tokens a branch at most",
        *([f"a budget of {', '.join(limits)} a problem"] if limits else []),
        f"seed {found.seed}",
        *(["the search is not told the truth"] if found.blind else []),
    ]
    return (
        f"{', '.join(said)}. Means over problems with 95 % intervals: Wilson's for solved, else a bootstrap over "
        f"problems ({RESAMPLES} resamples)."
    )


def render(found: Evaluation) -> RenderableType:
    """All tables, for a terminal."""
    return rendered(headline(found), _sheets(found), found.notes)


def markdown(found: Evaluation) -> str:
    """The same in Markdown."""
    return as_markdown(headline(found), _sheets(found), found.notes)


def _sheets(found: Evaluation) -> list[Sheet]:
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


def _names(results: Sequence[Result]) -> Sheet:
    rows = [(str(number), result.strategy, result.decoding) for number, result in enumerate(results, 1)]
    return Sheet("Settings", ("#", "strategy", "decoding"), rows, names=3)


def _settings(results: Sequence[Result]) -> Sheet:
    columns = ("#", "problems", "solved, %", "tokens", "to first right", "prefill", "branches", "seconds")
    rows = [
        (
            str(number),
            str(result.problems),
            percent(result.solved),
            told(result.tokens, 0),
            told(result.to_first, 0) if result.to_first is not None else "–",
            f"{result.prefill.value:.0f}",
            f"{result.branches.value:.1f}",
            told(result.seconds, 1),
        )
        for number, result in enumerate(results, 1)
    ]
    return Sheet("Of each problem", columns, rows, wide=True)


def _at_k(results: Sequence[Result]) -> Sheet:
    rankers = sorted({result.ranked_by for result in results if result.ranked_by is not None})
    rows = [
        (str(number), str(at.k), percent(at.passed), percent(at.majority), percent(at.best))
        for number, result in enumerate(results, 1)
        for at in result.at
    ]
    told = "any right, the majority right, the best right by " + " or ".join(rankers)
    return Sheet(f"Of k independent branches: {told}", ("#", "k", "pass@k, %", "cons@k, %", "best@k, %"), rows)


def _calibration(results: Sequence[Result]) -> Sheet:
    rows = [
        (str(number), str(result.brier.problems), told(result.brier, 3), told(result.calibration, 3))
        for number, result in enumerate(results, 1)
        if result.brier is not None
    ]
    return Sheet("How far the probability of unverified answers holds", ("#", "problems", "Brier", "ECE"), rows)


def _differences(differences: Sequence[Difference], numbers: Mapping[str, str]) -> Sheet:
    columns = ("#", "metric", "difference", "won : lost", "p", "p, Holm", "shown")
    rows = [
        (
            numbers[one.setting],
            one.metric,
            told(one.difference, 0, signed=True) if one.metric == "tokens" else percent(one.difference, signed=True),
            f"{one.gained} : {one.lost}" if one.gained is not None else "",
            p_value(one.p),
            p_value(one.p_corrected),
            one.shown if one.shown != "not shown" else "–",
        )
        for one in differences
    ]
    return Sheet("Less setting 1, paired by problem; shares in points", columns, rows)
