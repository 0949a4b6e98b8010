"""`led-agent eval`: strategies and decodings side by side on the same problems."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from led_agent.cli.completing import DECODINGS, STRATEGIES, TASKS, offer
from led_agent.cli.options import (
    DECODING,
    MACHINE,
    OUTPUT,
    SEARCH,
    AsJson,
    AsMarkdown,
    BudgetSeconds,
    BudgetTokens,
    Debug,
    Device,
    Dtype,
    Limit,
    MaxTokens,
    Model,
    Quiet,
    Seed,
    VerifierNames,
)

__all__ = ["evaluate"]


def evaluate(
    task: Annotated[
        str,
        typer.Argument(
            help="A problems file (JSONL), countdown (held-out puzzles), humaneval, or reasoning-gym:NAME.",
            autocompletion=offer(TASKS),
        ),
    ],
    strategy: Annotated[
        list[str] | None,
        typer.Option(
            "--strategy",
            "-S",
            metavar="NAME",
            show_default="best-of-n",
            help="As for solve; may be repeated, or several with ; between them. The first is what others are "
            "compared with.",
            rich_help_panel=SEARCH,
            autocompletion=offer(STRATEGIES),
        ),
    ] = None,
    decoding: Annotated[
        list[str] | None,
        typer.Option(
            "--decoding",
            "-d",
            metavar="NAME",
            show_default="as solve has it",
            help="As for solve; may be repeated: every strategy is run with every decoding.",
            rich_help_panel=DECODING,
            autocompletion=offer(DECODINGS),
        ),
    ] = None,
    n: Annotated[
        int,
        typer.Option(
            "--n", "-n", min=1, help="n of strategies that have one and don't say it.", rich_help_panel=SEARCH
        ),
    ] = 16,
    limit: Limit = None,
    model: Model = None,
    verifier: VerifierNames = None,
    blind: Annotated[
        bool,
        typer.Option(
            "--blind", help="Don't tell the search what is right; judge its answers afterwards.", rich_help_panel=SEARCH
        ),
    ] = False,
    seed: Seed = 0,
    max_tokens: MaxTokens = 512,
    budget_tokens: BudgetTokens = None,
    budget_seconds: BudgetSeconds = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Keep the runs and the report in this folder; what is there is resumed.", rich_help_panel=OUTPUT
        ),
    ] = None,
    plot: Annotated[
        str | None,
        typer.Option(
            metavar="FORMAT",
            show_default="png, where matplotlib is installed",
            help="Draw accuracy_tokens and pass_at_k into the folder as png, svg or pdf.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    slots: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Branches that grow at a time.",
            show_default="64 for the embedded model, else 16",
            rich_help_panel=MACHINE,
        ),
    ] = None,
    as_json: AsJson = False,
    as_markdown: AsMarkdown = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Measure how well strategies and decodings do on the same problems: shares solved, pass@k, majority votes, cost.

    Every strategy is run with every decoding, and each of these settings is compared with the first, problem by
    problem, with intervals. Of the task countdown 100 puzzles are asked where --limit doesn't say otherwise. With
    --out a run that was cut off is resumed. Ctrl-C keeps and reports what is finished.
    """
    import tempfile
    from contextlib import nullcontext

    from pydantic import ValidationError

    from led_agent.cli.base import INTERRUPTED, name_bad_lines, refuse_unfit
    from led_agent.cli.evaluating import check_output, print_report, run_plan, settings_of, write_report
    from led_agent.errors import UsageError, explain
    from led_agent.evaluation.grid import Plan
    from led_agent.evaluation.tasks import load_task
    from led_agent.models import is_embedded
    from led_agent.types import Budget

    check_output(as_json, as_markdown, plot, out)
    try:
        budget = Budget(tokens=budget_tokens, seconds=budget_seconds)
    except ValidationError as error:
        raise UsageError(f"budget {explain(error)}") from error
    settings = settings_of(strategy or ["best-of-n"], decoding or [], n)
    asked = load_task(task, limit=limit, seed=seed)
    name_bad_lines(Path(task), asked.bad)
    refuse_unfit(model, asked.problems)
    grow = slots or (64 if is_embedded(model) else 16)
    plan = Plan(asked, settings, model, budget, seed, max_tokens, tuple(verifier or ()), blind, device, dtype, grow)
    with nullcontext(out) if out is not None else tempfile.TemporaryDirectory() as folder:
        found = run_plan(plan, Path(folder), quiet)
        if out is not None:
            write_report(found, out, plot, quiet)
    print_report(found, as_json=as_json, as_markdown=as_markdown)
    raise typer.Exit(INTERRUPTED if found.interrupted else 2 if asked.bad else 0)
