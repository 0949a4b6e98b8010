"""Pictures of a study, PNG and SVG. matplotlib is imported only when one is drawn; no window is opened."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from led_agent.diagnosis import Diagnosis
from led_agent.errors import MachineError
from led_agent.evaluation.statistics import Estimate
from led_agent.study.figures import ArmFigures
from led_agent.study.report import Findings

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw"]

_MOST = 16
_MARKS = ("o", "s", "^", "D", "v", "P", "X", "*")


def draw(found: Findings, folder: Path) -> list[Path]:
    """Draw entropy by depth, accuracy by temperature, pass@k, pass@16 against pass@1 and shares solved by tokens, as
    PNG and as SVG.

    Raises:
        MachineError: a file can't be written.
    """
    made: list[Path] = []
    if found.depths:
        made += _drawn(folder / "entropy", lambda axes: _entropy(axes, found.depths))
    if any(one.accuracy is not None for one in found.depths):
        made += _drawn(folder / "temperature", lambda axes: _temperature(axes, found.depths))
    if found.arms:
        made += _drawn(folder / "pass_at_k", lambda axes: _at_k(axes, _one_of_each(found)))
        made += _drawn(folder / "front", lambda axes: _front(axes, found.arms))
        made += _drawn(folder / "tokens", lambda axes: _within(axes, _racing(found)))
    return made


def _one_of_each(found: Findings) -> list[ArmFigures]:
    """Plain sampling by itself, and of every other family the arm with the highest pass@16, of those that have one: so
    many lines can be told apart."""
    of_law = [arm for arm in found.arms if _compared(arm) and arm.max_tokens is None]
    shown = [arm for arm in of_law if arm.arm.startswith("plain, ")]
    others = [arm for arm in of_law if arm.family != "plain" and arm.arm not in _searches(found)]
    families = ([arm for arm in others if arm.family == name] for name in dict.fromkeys(arm.family for arm in others))
    return shown + [max(family, key=lambda arm: _compared(arm)[1].value) for family in families]


def _racing(found: Findings) -> list[ArmFigures]:
    searches = _searches(found)
    return [arm for arm in found.arms if arm.arm == found.search_base or arm.arm in searches]


def _searches(found: Findings) -> set[str]:
    """What is compared at equal tokens."""
    return {one.arm for one in found.matched}


def _compared(arm: ArmFigures) -> tuple[Estimate, ...]:
    """Its pass@1 and its pass@16, or at the most branches below that; nothing where there is no pass@k."""
    at = {one.k: one.passed for one in arm.at if one.k <= _MOST}
    return (at[min(at)], at[max(at)]) if len(at) > 1 else ()


def _drawn(path: Path, fill: Callable[[Axes], None]) -> list[Path]:
    import matplotlib
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 7), layout="constrained")
    axes = figure.subplots()
    fill(axes)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", fontsize="x-small", ncols=4)
    made = [path.with_suffix(".png"), path.with_suffix(".svg")]
    try:
        with matplotlib.rc_context({"svg.hashsalt": path.name}):  # the same figures give the same bytes
            figure.savefig(made[0], dpi=120, metadata={"Software": None})
            figure.savefig(made[1], metadata={"Date": None})
    except OSError as error:
        raise MachineError(f"can't write {path}: {error.strerror}") from error
    return made


def _entropy(axes: Axes, depths: Sequence[Diagnosis]) -> None:
    for at, one in enumerate(depths):
        places = [depth.depth for depth in one.depths]
        readings = [depth.normed.entropy for depth in one.depths]
        axes.plot(places, [r.mean for r in readings], "o-", color=f"C{at}", label=one.model)
        axes.fill_between(places, [r.low for r in readings], [r.high for r in readings], color=f"C{at}", alpha=0.2)
    axes.set(xlabel="blocks", ylabel="nat, through the final norm, T=1", title="Entropy of the posterior by depth")
    axes.set_ylim(bottom=0)


def _temperature(axes: Axes, depths: Sequence[Diagnosis]) -> None:
    for at, one in enumerate(depths):
        if one.accuracy is None:
            continue
        temperatures = [point.temperature for point in one.accuracy.at]
        shares = [point.share for point in one.accuracy.at]
        slope = one.accuracy.slope
        label = f"{one.model}: slope {slope.mean:+.2f} ({slope.low:+.2f} to {slope.high:+.2f})"
        axes.plot(temperatures, [s.mean for s in shares], "o-", color=f"C{at}", label=label)
        axes.fill_between(temperatures, [s.low for s in shares], [s.high for s in shares], color=f"C{at}", alpha=0.2)
    axes.set(xlabel="temperature", ylabel="share of branches right", title="Accuracy by temperature; 95 % intervals")


def _at_k(axes: Axes, arms: Sequence[ArmFigures]) -> None:
    for at, arm in enumerate(arms):
        _line(axes, at, arm.arm, [(one.k, one.passed) for one in arm.at])
    axes.set_xscale("log", base=2)
    axes.set(xlabel="k", ylabel="one of k branches is right", title="pass@k; bars are 95 % intervals")


def _front(axes: Axes, arms: Sequence[ArmFigures]) -> None:
    for at, arm in enumerate(one for one in arms if _compared(one) and one.max_tokens is None):
        first, most = _compared(arm)
        axes.errorbar(
            [first.value], [most.value], yerr=[[most.value - most.low], [most.high - most.value]],
            xerr=[[first.value - first.low], [first.high - first.value]], color=f"C{at % 10}",
            marker=_MARKS[at // 10 % len(_MARKS)], linestyle="none", elinewidth=0.3, label=arm.arm,
        )  # fmt: skip
    axes.set(xlabel="pass@1", ylabel=f"pass@{_MOST}", title="What exploring costs, and brings; bars are 95 % intervals")


def _within(axes: Axes, arms: Sequence[ArmFigures]) -> None:
    for at, arm in enumerate(arms):
        _line(axes, at, arm.arm, [(one.tokens, one.solved) for one in arm.within])
    axes.set_xscale("log")
    axes.set(
        xlabel="generated tokens a problem", ylabel="share solved", title="At equal tokens; bars are 95 % intervals"
    )


def _line(axes: Axes, at: int, label: str, points: Sequence[tuple[int, Estimate]]) -> None:
    values = [estimate.value for _, estimate in points]
    below = [estimate.value - estimate.low for _, estimate in points]
    above = [estimate.high - estimate.value for _, estimate in points]
    axes.errorbar(
        [x for x, _ in points], values, yerr=[below, above], color=f"C{at % 10}", marker=_MARKS[at // 10 % len(_MARKS)],
        linestyle=("-", "--", ":")[at // 10 % 3], markersize=4, linewidth=1, elinewidth=0.5, label=label,
    )  # fmt: skip
