"""Pictures of an evaluation. matplotlib is imported only when one is drawn; no window is opened."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from led_agent.errors import MachineError, UsageError
from led_agent.evaluation.figures import Result
from led_agent.evaluation.report import Evaluation

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["FORMATS", "can_plot", "check_format", "draw"]

FORMATS = ("png", "svg", "pdf")


def can_plot() -> bool:
    return importlib.util.find_spec("matplotlib") is not None


def check_format(name: str) -> None:
    """Refuse pictures that can't be made, before anything is run for them.

    Raises:
        UsageError: the format, or matplotlib is at fault.
    """
    if name not in FORMATS:
        raise UsageError(f"pictures are {', '.join(FORMATS)}; found {name!r}")
    if not can_plot():
        raise UsageError("pictures need matplotlib, which isn't installed: pip install 'led-agent[plots]'")


def draw(found: Evaluation, folder: Path, suffix: str = "png") -> list[Path]:
    """Draw ``accuracy_tokens`` and, where branches are independent samples, ``pass_at_k`` into a folder.

    Raises:
        MachineError: a file can't be written.
    """
    made = [_drawn(folder / f"accuracy_tokens.{suffix}", lambda axes: _accuracy(axes, found.results), found)]
    sampled = [result for result in found.results if result.at]
    if sampled:
        made.append(_drawn(folder / f"pass_at_k.{suffix}", lambda axes: _at_k(axes, sampled), found))
    return made


def _drawn(path: Path, fill: Callable[[Axes], None], found: Evaluation) -> Path:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    fill(axes)
    axes.set_ylim(-0.02, 1.02)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    axes.set_title(f"{found.task}, {found.model}; bars and bands are 95 % intervals", fontsize="medium")
    try:
        figure.savefig(path, dpi=120)
    except OSError as error:
        raise MachineError(f"can't write {path}: {error.strerror}") from error
    return path


def _accuracy(axes: Axes, results: Sequence[Result]) -> None:
    """Share solved against tokens a problem. The line through independent samples is what fewer of them would have
    given, and cost."""
    for at, result in enumerate(results):
        solved, tokens, colour = result.solved, result.tokens, f"C{at % 10}"
        axes.errorbar(
            [tokens.value],
            [solved.value],
            xerr=[[tokens.value - tokens.low], [tokens.high - tokens.value]],
            yerr=[[solved.value - solved.low], [solved.high - solved.value]],
            fmt="o", color=colour, capsize=3, label=result.name,
        )  # fmt: skip
        if result.at:
            n = result.at[-1].k
            costs = [tokens.value * one.k / n for one in result.at]
            axes.plot(costs, [one.passed.value for one in result.at], color=colour, alpha=0.5, marker=".")
    axes.set_xscale("log")
    axes.set_xlabel("generated tokens a problem")
    axes.set_ylabel("share solved")


def _at_k(axes: Axes, results: Sequence[Result]) -> None:
    for at, result in enumerate(results):
        colour, ks = f"C{at % 10}", [one.k for one in result.at]
        axes.plot(ks, [one.passed.value for one in result.at], "o-", color=colour, label=f"pass@k: {result.name}")
        low, high = [one.passed.low for one in result.at], [one.passed.high for one in result.at]
        axes.fill_between(ks, low, high, color=colour, alpha=0.15, linewidth=0)
        axes.plot(ks, [one.majority.value for one in result.at], "s--", color=colour, alpha=0.7, label="cons@k")
        best = f"best@k by {result.ranked_by}"
        axes.plot(ks, [one.best.value for one in result.at], "^:", color=colour, alpha=0.7, label=best)
    axes.set_xscale("log", base=2)
    axes.set_xlabel("k, of independent branches")
    axes.set_ylabel("expected share")
