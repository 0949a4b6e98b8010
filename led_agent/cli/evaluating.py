"""What `led-agent eval` does. Apart from its options, so that these are known without all that a search imports."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from led_agent.cli.base import print_json, print_text, stderr, stdout, stopping
from led_agent.errors import MachineError, UsageError
from led_agent.solution import Solution
from led_agent.strategies.named import parse_strategies

if TYPE_CHECKING:
    from led_agent.evaluation.grid import Done, Plan, Setting
    from led_agent.evaluation.report import Evaluation

__all__ = ["check_output", "print_report", "run_plan", "settings_of", "write_report"]


def check_output(as_json: bool, as_markdown: bool, plot: str | None, out: Path | None) -> None:
    from led_agent.evaluation.plots import check_format

    if as_json and as_markdown:
        raise UsageError("give --json or --markdown, not both")
    if plot is not None:
        check_format(plot)
        if out is None:
            raise UsageError("--plot draws into the folder of --out; give that, too")


def settings_of(strategies: Sequence[str], decodings: Sequence[str], n: int) -> tuple[Setting, ...]:
    from led_agent.evaluation.grid import Setting

    named = [one for text in strategies for _, one in parse_strategies(text, n=n)]
    chosen: list[str | None] = [part.strip() for text in decodings for part in text.split(";") if part.strip()]
    return tuple(Setting(one, how) for one, how in itertools.product(named, chosen or [None]))


def run_plan(plan: Plan, folder: Path, quiet: bool) -> Evaluation:
    from led_agent.evaluation.grid import Grid
    from led_agent.evaluation.report import evaluation_of

    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[told]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=stderr,
        disable=quiet,
    )
    done: list[Done] = []
    grid = Grid(plan, folder, tell=_teller(progress, plan))
    with stopping(grid.stop), progress:
        done.extend(grid.run())
    return evaluation_of(plan, done, interrupted=grid.stopped)


def _teller(progress: Progress, plan: Plan) -> Callable[[Setting, Solution | None], None]:
    """What counts problems, and tokens a second of those that are new."""
    total = len(plan.settings) * len(plan.task.problems)
    bar = progress.add_task("problems × settings", total=total, told="loading the model")
    tokens = verified = 0

    def tell(setting: Setting, solution: Solution | None) -> None:
        nonlocal tokens, verified
        progress.advance(bar)
        if solution is not None:
            tokens, verified = tokens + solution.usage.generated_tokens, verified + solution.verified
            elapsed = progress.tasks[0].elapsed or 1e-9
            progress.update(bar, told=f"{setting.name}: {tokens / elapsed:.0f} tokens/s")

    return tell


def write_report(found: Evaluation, out: Path, plot: str | None, quiet: bool) -> None:
    from led_agent.evaluation.plots import can_plot, draw
    from led_agent.evaluation.view import markdown

    try:
        (out / "report.md").write_text(markdown(found))
        (out / "report.json").write_text(found.text())
    except OSError as error:
        raise MachineError(f"can't write the report into {out}: {error.strerror}") from error
    if not found.results:
        return
    if plot is not None or can_plot():
        draw(found, out, plot or "png")
    elif not quiet:
        stderr.print("no pictures: matplotlib isn't installed (pip install 'led-agent[plots]')")


def print_report(found: Evaluation, *, as_json: bool, as_markdown: bool) -> None:
    from led_agent.evaluation.view import markdown, render

    rows: list[dict[str, Any]] = found.rows()
    if as_json:
        for row in rows:
            print_json(row)
    elif as_markdown:
        print_text(markdown(found), end="")
    else:
        stdout.print(render(found) if rows else "no problem is finished")
