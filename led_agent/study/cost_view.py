"""What a person sees of a study of cost: the same sheets on a terminal and in Markdown. Nothing is measured here."""

from __future__ import annotations

from rich.console import RenderableType

from led_agent.evaluation.sheets import Sheet, as_markdown, percent, rendered, told
from led_agent.evaluation.statistics import RESAMPLES
from led_agent.study.cost_figures import GENERATE, Costs

__all__ = ["headline", "markdown", "render"]

_IDLE = 0.5  # load before the run, up to which others are not thought to have disturbed it


def headline(found: Costs) -> str:
    """What was measured, in one paragraph."""
    of = found.settings
    threads = f"{found.threads} thread{'s' * (found.threads != 1)}"
    where = f"{found.device}, {threads}" if found.device == "cpu" else found.device
    versions = ", ".join(f"{name} {one}" for name, one in found.versions.items())
    return (
        f"Cost of a first verified answer with {found.model}: {found.problems} problems of {of['problems']}, N = "
        f"{of['n']}, {of['max_tokens']} new tokens a branch at most, best of N by {of['sampling']}, {found.dtype}, on "
        f"{where}, seed {of['seed']}; {versions}. In turn, problem by problem; prefill and judging are timed, loading "
        f"is not. Means over problems with 95 % intervals (bootstrap over problems, {RESAMPLES} resamples)."
    )


def render(found: Costs) -> RenderableType:
    """All tables, for a terminal."""
    return rendered(headline(found), _sheets(found), _notes(found))


def markdown(found: Costs) -> str:
    """The same in Markdown."""
    return as_markdown(headline(found), _sheets(found), _notes(found))


def _sheets(found: Costs) -> list[Sheet]:
    costs = [(one.way, percent(one.verified), told(one.tokens, 1), told(one.seconds, 3)) for one in found.ways]
    ratios = [
        (one.way, told(one.token_ratio, 3), told(one.second_ratio, 3)) for one in found.ways if one.way != GENERATE
    ]
    return [
        Sheet("To the first verified answer", ("way", "verified, %", "tokens", "seconds"), costs, wide=True),
        Sheet(f"Of what {GENERATE}, costs", ("way", "tokens", "seconds"), ratios),
    ]


def _notes(found: Costs) -> list[str]:
    notes = [
        "Tokens are those generated, of all branches: N whole ones by generate; a search stops at the first accepted.",
        "Ratios are of the sums over problems, paired by problem.",
    ]
    if found.interrupted:
        notes.append("It was interrupted: figures are of the problems that were solved in all ways.")
    if found.device == "cpu" and found.load > _IDLE:
        notes.append(
            f"Seconds are not to be relied on: other programs computed just before, the load was {found.load:g}."
        )
    notes += [
        f"{one.way}: a verifier failed on {one.errors} branches; they count as not verified."
        for one in found.ways
        if one.errors
    ]
    return notes
