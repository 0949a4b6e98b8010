"""What a person sees of a study: the same sheets on a terminal and in Markdown.

Nothing is measured here, and nothing in it differs between two runs with the same seed; what does is in ``timing``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import RenderableType

from led_agent.diagnosis import Diagnosis, Reading
from led_agent.evaluation.sheets import Sheet, as_markdown, p_value, percent, rendered, told
from led_agent.evaluation.statistics import RESAMPLES
from led_agent.study.figures import ArmFigures, Comparison, Matched
from led_agent.study.report import Choice, Findings

__all__ = ["headline", "markdown", "render", "timing"]

_COMPARED = ("arm", "metric", "difference", "p", "p, Holm", "shown")
_SHOWN_KS = (1, 4, 16, 64)
_SHOWN_BUDGETS = (0, 2, 3, 5, 7)  # of a study's budgets


def headline(found: Findings) -> str:
    """What was studied, in one paragraph."""
    of = found.settings
    asked = max((arm.problems for arm in found.arms), default=0)
    return (
        f"Exploration on {found.model}: {asked} held-out problems of {of['problems']}, seed {of['seed']}. Of each arm "
        f"{of['samples']} branches a problem, of {of['max_tokens']} new tokens at most, or {of['searches']} searches, "
        f"where tokens are compared of branches of {of['search_tokens']} new tokens at most. Means over problems with "
        f"95 % intervals (bootstrap over problems, {RESAMPLES} resamples)."
    )


def render(found: Findings) -> RenderableType:
    """All tables, for a terminal."""
    return rendered(headline(found), _sheets(found), _notes(found))


def markdown(found: Findings) -> str:
    """The same in Markdown."""
    return as_markdown(headline(found), _sheets(found), _notes(found))


def timing(seconds: Mapping[str, float], branches: Mapping[str, int], tokens: Mapping[str, float]) -> str:
    """Wall-clock time by arm, in Markdown: it differs from run to run, and is of this run's drawing alone."""
    rows = [
        (arm, f"{spent:.1f}", f"{branches[arm] / spent:.0f}", f"{tokens[arm] / spent:.0f}")
        for arm, spent in seconds.items()
        if spent > 0
    ]
    sheet = Sheet("Seconds by arm, judging included", ("arm", "seconds", "branches/s", "tokens/s"), rows)
    return as_markdown("What was drawn in this run.", [sheet], ())


def _sheets(found: Findings) -> list[Sheet]:
    sheets = [*_depths(found.depths), *_slopes(found.depths), *map(_choice, found.choices)]
    sheets += [_laws(found.arms), _at_k(found.arms), _within(found.arms)]
    sheets += [_primary(found.primary), *_comparisons(found), _matched(found.matched)]
    return [sheet for sheet in sheets if sheet.rows]


def _notes(found: Findings) -> list[str]:
    notes = [
        "Siblings that are drawn together, and a search's branches, are no samples of one law: pass@k is of k of them.",
        "Of a search on steps, pass@k is of k steps, which are shorter than branches.",
        "Within a budget of tokens, branches are paid whole, one after another.",
        "Holm's correction is over the table of what is tested once, and over all other comparisons together.",
    ]
    if not found.choices:
        notes.append("Nothing was tuned: the arms that say so have their first candidate's settings.")
    if found.interrupted:
        notes.append("It was interrupted: figures are of what was drawn, comparisons of problems that both arms have.")
    notes += [
        f"{arm.arm}: a verifier failed on {arm.errors} branches; they count as not right."
        for arm in found.arms
        if arm.errors
    ]
    return notes


def _depths(depths: Sequence[Diagnosis]) -> list[Sheet]:
    """Entropy by depth, before and after side by side where both have as many blocks."""
    if not depths:
        return []
    if len({one.blocks for one in depths}) > 1:
        return [sheet for one in depths for sheet in _depths([one])]
    columns = ("after block", *(f"entropy, {one.model}" for one in depths), *(f"agrees, {one.model}" for one in depths))
    rows = [
        (
            str(depth + 1),
            *(_reading(one.depths[depth].normed, "entropy") for one in depths),
            *(_reading(one.depths[depth].normed, "agreement") for one in depths),
        )
        for depth in range(depths[0].blocks)
    ]
    return [Sheet("Posteriors by depth, through the final norm (nat; agreement with the final token)", columns, rows)]


def _reading(reading: Reading, name: str) -> str:
    estimate = getattr(reading, name)
    return f"{estimate.mean:.3f} ({estimate.low:.3f}–{estimate.high:.3f})"


def _slopes(depths: Sequence[Diagnosis]) -> list[Sheet]:
    known = [one for one in depths if one.accuracy is not None]
    if not known:
        return []
    temperatures = [at.temperature for one in known[:1] if one.accuracy is not None for at in one.accuracy.at]
    rows = []
    for one in known:
        assert one.accuracy is not None
        shares = [f"{at.share.mean:.3f} ({at.share.low:.3f}–{at.share.high:.3f})" for at in one.accuracy.at]
        slope = one.accuracy.slope
        rows.append((one.model, *shares, f"{slope.mean:+.3f} ({slope.low:+.3f} to {slope.high:+.3f})"))
    columns = ("model", *(f"T={t:g}" for t in temperatures), "slope a unit of T")
    return [Sheet("Accuracy by temperature", columns, rows)]


def _choice(choice: Choice) -> Sheet:
    rows = [
        (
            one.decoding,
            _tokens_of(one),
            *(percent(one.metric(name)) for name in _told_of(choice)),
            "chosen" if one.arm == choice.chosen else "",
        )
        for one in choice.candidates
    ]
    columns = ("decoding", "tokens a branch", *(f"{name}, %" for name in _told_of(choice)), "")
    return Sheet(f"Chosen on the development split by {choice.metric}: {choice.kind}", columns, rows)


def _told_of(choice: Choice) -> tuple[str, ...]:
    return ("pass@1", choice.metric) if choice.metric.startswith("pass@") else (choice.metric,)


def _tokens_of(one: ArmFigures) -> str:
    return f"{one.tokens.value:.1f}"


def _laws(arms: Sequence[ArmFigures]) -> Sheet:
    rows = [
        (one.arm, one.decoding, one.strategy or "", told(one.tokens, 1), f"{told(one.distinct, 1)} of {one.of}")
        for one in arms
    ]
    return Sheet("Arms", ("arm", "decoding", "strategy", "tokens a branch", "distinct answers"), rows, names=3)


def _at_k(arms: Sequence[ArmFigures]) -> Sheet:
    ks = [k for k in _SHOWN_KS if any(at.k == k for arm in arms for at in arm.at)]
    rows = []
    for arm in arms:
        by_k = {at.k: at.passed for at in arm.at}
        rows.append((arm.arm, *(percent(by_k[k]) if k in by_k else "–" for k in ks)))
    return Sheet("One of k branches is right, %", ("arm", *(f"pass@{k}" for k in ks)), rows, wide=True)


def _within(arms: Sequence[ArmFigures]) -> Sheet:
    shown = [at for at in _SHOWN_BUDGETS if arms and at < len(arms[0].within)]
    rows = [(arm.arm, *(percent(arm.within[at].solved) for at in shown)) for arm in arms]
    columns = ("arm", *(str(arms[0].within[at].tokens) for at in shown)) if arms else ("arm",)
    return Sheet("Solved within so many tokens, %", columns, rows, wide=True)


def _comparisons(found: Findings) -> list[Sheet]:
    return [
        Sheet(
            f"Less {base}, paired by problem; in points",
            _COMPARED,
            [_comparison(one) for one in found.comparisons if one.base == base],
            names=2,
        )
        for base in dict.fromkeys(one.base for one in found.comparisons)
    ]


def _primary(primary: Sequence[Comparison]) -> Sheet:
    rows = [(f"{one.arm}, less {one.base}", *_comparison(one)[1:]) for one in primary]
    return Sheet("The best of the development split, tested once; in points", _COMPARED, rows, names=2)


def _matched(matched: Sequence[Matched]) -> Sheet:
    rows = [(one.arm, told(one.share, 2)) for one in matched]
    title = f"Of the {matched[0].budget} tokens of {matched[0].base}, needed to solve as much" if matched else ""
    return Sheet(title, ("arm", "share"), rows)


def _comparison(one: Comparison) -> tuple[str, ...]:
    return (
        one.arm,
        one.metric,
        percent(one.difference, signed=True),
        p_value(one.p),
        p_value(one.p_corrected),
        one.shown if one.shown != "not shown" else "–",
    )
