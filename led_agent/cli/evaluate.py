"""`led-agent eval`: strategies and decodings side by side on the same problems."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import ValidationError
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from led_agent.cli.base import INTERRUPTED, name_bad_lines, print_json, refuse_unfit, stderr, stdout, stopping
from led_agent.cli.options import (
    AsJson,
    BudgetSeconds,
    BudgetTokens,
    Debug,
    Device,
    Dtype,
    MaxTokens,
    Model,
    Quiet,
    Seed,
    VerifierNames,
)
from led_agent.errors import MachineError, UsageError, explain
from led_agent.models import is_embedded
from led_agent.solution import Solution
from led_agent.strategies.named import parse_strategies
from led_agent.types import Budget

if TYPE_CHECKING:
    from led_agent.evaluation.grid import Done, Plan, Setting
    from led_agent.evaluation.report import Evaluation

__all__ = ["evaluate"]


def evaluate(
    task: Annotated[
        str,
        typer.Argument(help="A problems file (JSONL), countdown (held-out puzzles), humaneval, or reasoning-gym:NAME."),
    ],
    strategy: Annotated[
        list[str] | None,
        typer.Option(
            "--strategy", "-S", metavar="NAME", show_default="best-of-n",
            help="As for solve; may be repeated, or several with ; between them. The first is what others are "
            "compared with.",
        ),
    ] = None,
    decoding: Annotated[
        list[str] | None,
        typer.Option(
            "--decoding", "-d", metavar="NAME", show_default="as solve has it",
            help="As for solve; may be repeated: every strategy is run with every decoding.",
        ),
    ] = None,
    n: Annotated[int, typer.Option("--n", "-n", min=1, help="n of strategies that have one and don't say it.")] = 16,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only the first so many problems.", show_default="100 puzzles; else all")
    ] = None,
    model: Model = None,
    verifier: VerifierNames = None,
    blind: Annotated[
        bool, typer.Option("--blind", help="Don't tell the search what is right; judge its answers afterwards.")
    ] = False,
    seed: Seed = 0,
    max_tokens: MaxTokens = 512,
    budget_tokens: BudgetTokens = None,
    budget_seconds: BudgetSeconds = None,
    out: Annotated[
        Path | None, typer.Option(help="Keep the runs and the report in this folder; what is there is resumed.")
    ] = None,
    plot: Annotated[
        str | None,
        typer.Option(
            metavar="FORMAT", show_default="png, where matplotlib is installed",
            help="Draw accuracy_tokens and pass_at_k into the folder as png, svg or pdf.",
        ),
    ] = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    slots: Annotated[
        int | None,
        typer.Option(min=1, help="Branches that grow at a time.", show_default="64 for the embedded model, else 16"),
    ] = None,
    as_json: AsJson = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown tables, and nothing else.")] = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:  # fmt: skip
    """Measure how well strategies and decodings do on the same problems: shares solved, pass@k, majority votes, cost.

    Every setting is compared with the first, problem by problem. Ctrl-C keeps and reports what is finished. The exit
    code is 0 whatever is solved, and 2 where a line of the problems file is no problem.
    """
    from led_agent.evaluation.grid import Plan
    from led_agent.evaluation.tasks import load_task

    _check_output(as_json, as_markdown, plot, out)
    try:
        budget = Budget(tokens=budget_tokens, seconds=budget_seconds)
    except ValidationError as error:
        raise UsageError(f"budget {explain(error)}") from error
    settings = _settings(strategy or ["best-of-n"], decoding or [], n)
    asked = load_task(task, limit=limit, seed=seed)
    name_bad_lines(Path(task), asked.bad)
    refuse_unfit(model, asked.problems)
    grow = slots or (64 if is_embedded(model) else 16)
    plan = Plan(asked, settings, model, budget, seed, max_tokens, tuple(verifier or ()), blind, device, dtype, grow)
    with nullcontext(out) if out is not None else tempfile.TemporaryDirectory() as folder:
        found = _run(plan, Path(folder), quiet)
        if out is not None:
            _write(found, out, plot, quiet)
    _print(found, as_json=as_json, as_markdown=as_markdown)
    raise typer.Exit(INTERRUPTED if found.interrupted else 2 if asked.bad else 0)


def _check_output(as_json: bool, as_markdown: bool, plot: str | None, out: Path | None) -> None:
    from led_agent.evaluation.plots import check_format

    if as_json and as_markdown:
        raise UsageError("give --json or --markdown, not both")
    if plot is not None:
        check_format(plot)
        if out is None:
            raise UsageError("--plot draws into the folder of --out; give that, too")


def _settings(strategies: Sequence[str], decodings: Sequence[str], n: int) -> tuple[Setting, ...]:
    from led_agent.evaluation.grid import Setting

    named = [one for text in strategies for _, one in parse_strategies(text, n=n)]
    chosen: list[str | None] = [part.strip() for text in decodings for part in text.split(";") if part.strip()]
    return tuple(Setting(one, how) for one, how in itertools.product(named, chosen or [None]))


def _run(plan: Plan, folder: Path, quiet: bool) -> Evaluation:
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


def _write(found: Evaluation, out: Path, plot: str | None, quiet: bool) -> None:
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


def _print(found: Evaluation, *, as_json: bool, as_markdown: bool) -> None:
    from led_agent.evaluation.view import markdown, render

    rows: list[dict[str, Any]] = found.rows()
    if as_json:
        for row in rows:
            print_json(row)
    elif as_markdown:
        print(markdown(found), end="")
    else:
        stdout.print(render(found) if rows else "no problem is finished")
