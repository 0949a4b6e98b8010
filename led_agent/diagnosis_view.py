"""What a person sees of a diagnosis: tables, and a picture. Nothing is measured or decided here.

matplotlib is imported only when a picture is asked for.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from led_agent.diagnosis import AtTemperature, Diagnosis, Estimate, Norm
from led_agent.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["check_plot", "plot_diagnosis", "render_diagnosis", "stages"]

_SUFFIXES = (".png", ".svg", ".pdf")
_COLOURS: dict[Norm, str] = {"final": "tab:blue", "none": "tab:orange"}
_LABELS: dict[Norm, str] = {"final": "final norm", "none": "no norm"}


def render_diagnosis(found: Diagnosis) -> RenderableType:
    """All tables, then the recommendation."""
    parts: list[RenderableType] = [_header(found), Text(), _depths(found), Text(), _temperatures(found)]
    if found.movements:
        parts += [Text(), _movements(found)]
    parts += [Text(), _recommendation(found)]
    return Group(*parts)


def _header(found: Diagnosis) -> Text:
    where = "inside its thinking" if found.span == "think" else "all that it generated"
    branches = "branch" if found.samples == 1 else "branches"
    told = (
        f"{found.model}: {found.blocks} blocks; {found.problems} problems × {found.samples} {branches} at T=1, "
        f"{found.cut:.0%} of them cut at {found.max_tokens} tokens; {found.positions} of {found.generated} positions, "
        f"{where}. Means over problems, with 95% bootstrap intervals."
    )
    return Text(told)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, show_edge=False)
    table.pad_edge, table.collapse_padding = False, True  # four columns with intervals fit in 80
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _depths(found: Diagnosis) -> Table:
    table = _table(
        "Entropy by depth (nat, T=1), and agreement with the final layer",
        "blocks", "entropy, normed", "agreement", "entropy, raw", "agreement",
    )  # fmt: skip
    for depth in found.depths:
        normed, raw = depth.normed, depth.raw
        cells = (normed.entropy, normed.agreement, raw.entropy, raw.agreement)
        style = "bold" if depth is found.depths[-1] else None
        table.add_row(str(depth.depth), *(_told(cell, 2) for cell in cells), style=style)
    return table


def _temperatures(found: Diagnosis) -> Table:
    accuracy = found.accuracy
    if accuracy is None:
        table = _table("Exploration rate, 1 - p(most probable token)", "T", "rate")
        for rate in found.rates:
            table.add_row(f"{rate.temperature:g}", _told(rate.share, 3))
        return table
    table = _table(
        f"Exploration rate, 1 - p(most probable token), and accuracy on {accuracy.problems} problems",
        "T", "rate", "accuracy",
    )  # fmt: skip
    for rate, at in zip(found.rates, accuracy.at, strict=True):
        table.add_row(f"{rate.temperature:g}", _told(rate.share, 3), _told(at.share, 3))
    slope = accuracy.slope
    table.add_row("slope", "", f"{slope.mean:+.3f} ({slope.low:+.3f} to {slope.high:+.3f})", style="italic")
    return table


def _movements(found: Diagnosis) -> Table:
    """One row a temperature and number of posteriors; the norms side by side."""
    table = _table(
        f"How far LED over d posteriors moves the sampler: total variation, {found.law_positions} positions",
        "T", "d", "final norm", "no norm",
    )  # fmt: skip
    by_place: dict[tuple[float, int], dict[Norm, Estimate]] = {}
    for m in found.movements:
        by_place.setdefault((m.temperature, m.depths), {})[m.norm] = m.distance
    for (temperature, depths), row in by_place.items():
        table.add_row(f"{temperature:g}", str(depths), _told(row["final"], 3), _told(row["none"], 3))
    return table


def _recommendation(found: Diagnosis) -> Table:
    said = found.recommendation
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", justify="right")
    grid.add_column()
    verdict = Text("use LED", style="bold green") if said.use_led else Text("do without LED", style="bold yellow")
    grid.add_row("suggested", verdict)
    grid.add_row("decoding", Text(f"--decoding {said.decoding}", style="bold"))
    grid.add_row("why", Text(said.reason))
    for note in found.notes:
        grid.add_row("note", Text(note))
    grid.add_row("mind", Text(found.caveat))
    return grid


def _told(estimate: Estimate, digits: int) -> str:
    return f"{estimate.mean:.{digits}f} ({estimate.low:.{digits}f}–{estimate.high:.{digits}f})"


@contextmanager
def stages(console: Console, *, quiet: bool = False) -> Iterator[Callable[[str, int, int], None]]:
    """Progress through stages, a bar for each; call what this gives with (stage, how much is done, of how much)."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=quiet) as progress:
        bars: dict[str, TaskID] = {}

        def tell(stage: str, done: int, of: int) -> None:
            if stage not in bars:
                for bar in list(bars.values())[-1:]:  # the one before is through; an unknown total is known now
                    progress.update(bar, total=progress.tasks[bar].total or 1, completed=progress.tasks[bar].total or 1)
                bars[stage] = progress.add_task(stage, total=of or None)
            progress.update(bars[stage], completed=done)

        yield tell


# --- the picture ---------------------------------------------------------------------------------------------------


def check_plot(path: Path) -> None:
    """Refuse a picture that can't be made, before anything is measured for it.

    Raises:
        UsageError: the suffix, the folder, or matplotlib is at fault.
    """
    if path.suffix.lower() not in _SUFFIXES:
        raise UsageError(f"a picture's file ends in {', '.join(_SUFFIXES)}; found {path.name!r}")
    if not path.parent.is_dir():
        raise UsageError(f"there is no folder {path.parent} to put the picture in; make it first")
    if importlib.util.find_spec("matplotlib") is None:
        raise UsageError("pictures need matplotlib, which isn't installed: pip install 'led-agent[plots]'")


def plot_diagnosis(found: Diagnosis, path: Path) -> None:
    """Draw three panels into a file: entropy by depth, agreement by depth, and what temperature does. The bands are the
    intervals. No window is opened: a figure without pyplot draws into files only."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 4.5), layout="constrained")
    entropy, agreement, temperature = figure.subplots(1, 3)
    depths = [depth.depth for depth in found.depths]
    for norm in _COLOURS:
        readings = [depth.reading(norm) for depth in found.depths]
        _band(entropy, depths, [reading.entropy for reading in readings], _LABELS[norm], _COLOURS[norm])
        _band(agreement, depths, [reading.agreement for reading in readings], _LABELS[norm], _COLOURS[norm])
    last = found.depths[-1].normed.entropy.mean
    entropy.axhline(last, color="grey", linestyle=":", label=f"final layer, {last:.2f} nat")
    agreement.axhline(0.5, color="grey", linestyle=":")
    _label(entropy, "entropy of the posterior", "blocks", "nat, T=1")
    _label(agreement, "agreement with the final most probable token", "blocks", "share of positions")
    _by_temperature(temperature, found.rates, "exploration rate", "tab:green")
    if found.accuracy is not None:
        _by_temperature(temperature, found.accuracy.at, "accuracy", "tab:red")
    _label(temperature, "by temperature", "temperature", "share")
    agreement.set_ylim(0, 1.03)
    temperature.set_ylim(0, 1.03)
    entropy.set_ylim(bottom=0)
    figure.suptitle(f"{found.model}: {found.problems} problems, {found.positions} positions; bands are 95 % intervals")
    figure.savefig(path, dpi=120)


def _by_temperature(axes: Axes, shares: Sequence[AtTemperature], label: str, colour: str) -> None:
    _band(axes, [at.temperature for at in shares], [at.share for at in shares], label, colour)


def _band(axes: Axes, x: Sequence[float], estimates: Sequence[Estimate], label: str, colour: str) -> None:
    axes.plot(x, [e.mean for e in estimates], marker="o", markersize=3, color=colour, label=label)
    axes.fill_between(x, [e.low for e in estimates], [e.high for e in estimates], color=colour, alpha=0.2, linewidth=0)


def _label(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set_title(title)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.3)
    axes.legend()
