"""`led-agent study`: what exploration is worth on a model, and what a first verified answer costs."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from led_agent.cli.completing import MODELS, offer
from led_agent.cli.options import (
    BUDGET,
    DECODING,
    MACHINE,
    OUTPUT,
    PROBLEM,
    SEARCH,
    WORKLOAD,
    AsJson,
    AsMarkdown,
    Debug,
    Device,
    Dtype,
    Model,
    Quiet,
    Seed,
    VerifierNames,
)

__all__ = ["Subject", "study"]


class Subject(StrEnum):
    """What can be studied."""

    EXPLORATION = "exploration"
    COST = "cost"


_ONLY = {
    Subject.EXPLORATION: ("before", "quick", "dev", "samples", "searches", "lens", "processes"),
    Subject.COST: ("n", "sampling"),
}  # options of one subject alone


def study(
    ctx: typer.Context,
    subject: Annotated[Subject, typer.Argument(help="What to study.")],
    model: Model = None,
    before: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Exploration: the model as it was before reinforcement learning; its depths are set beside the "
            "other's.",
            show_default="countdown-sft for countdown",
            rich_help_panel=SEARCH,
            autocompletion=offer(MODELS),
        ),
    ] = None,
    problems: Annotated[
        Path | None,
        typer.Option(
            help="JSONL, a problem a line, each with an answer or tests; a quarter is kept for tuning.",
            show_default="held-out puzzles, for the embedded model",
            rich_help_panel=PROBLEM,
        ),
    ] = None,
    verifier: VerifierNames = None,
    n: Annotated[
        int,
        typer.Option(
            "--n",
            "-n",
            min=1,
            help="Cost: branches of best of N, and exploring ones of the default search.",
            rich_help_panel=SEARCH,
        ),
    ] = 16,
    sampling: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Cost: how best of N samples, in generate and in this engine. Plain, with settings.",
            rich_help_panel=DECODING,
        ),
    ] = "plain:temperature=0.6",
    quick: Annotated[
        bool,
        typer.Option(
            "--quick",
            help="Exploration: minutes on two cores, with fewer arms and nothing tuned.",
            rich_help_panel=WORKLOAD,
        ),
    ] = False,
    test: Annotated[
        int | None,
        typer.Option(min=2, help="Test problems.", show_default="400, quick: 48; cost: 200", rich_help_panel=WORKLOAD),
    ] = None,
    dev: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Exploration: problems to tune on; with --quick none.",
            show_default="200",
            rich_help_panel=WORKLOAD,
        ),
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(
            min=2,
            help="Exploration: branches a problem and arm.",
            show_default="64, quick: 16",
            rich_help_panel=WORKLOAD,
        ),
    ] = None,
    searches: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Exploration: searches a problem and arm.",
            show_default="8, quick: 2",
            rich_help_panel=WORKLOAD,
        ),
    ] = None,
    lens: Annotated[
        bool,
        typer.Option(
            "--lens", help="Exploration: with LED through the model's tuned lens, too.", rich_help_panel=WORKLOAD
        ),
    ] = False,
    max_tokens: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="New tokens a branch, at most.",
            show_default="31 for the embedded model's puzzles: two tries and the answer; cost: 75; else 512",
            rich_help_panel=BUDGET,
        ),
    ] = None,
    seed: Seed = 0,
    processes: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Exploration: processes that draw, each with the model; the figures don't depend on it.",
            show_default="one a core for the embedded model, else 1",
            rich_help_panel=MACHINE,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Keep rows, tables and pictures in this folder; what is there is resumed.", rich_help_panel=OUTPUT
        ),
    ] = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    slots: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Branches that grow at a time.",
            show_default="256 for the embedded model, else 16; cost: n",
            rich_help_panel=MACHINE,
        ),
    ] = None,
    as_json: AsJson = False,
    as_markdown: AsMarkdown = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Study what exploring is worth on a model, or what a first verified answer costs.

    exploration: plain sampling at several temperatures, latent exploration, latent noise, peers' decoders, stratified
    siblings and searches without replacement each draw many branches of every problem, compared at equal tokens.
    Settings are chosen on a development split; the test split is asked once, with these. Tables have intervals and
    corrected tests against plain sampling at its best temperature. The same seed gives the same tables.

    cost: tokens and seconds until an answer is verified, or nothing is left to try, in three ways in turn on each
    problem, with the same model, N and verifier: best of N over transformers' generate, best of N over this engine,
    and the default search. Tables have ratios to generate with intervals.

    Ctrl-C keeps and reports what is done.
    """
    from led_agent.cli.base import INTERRUPTED
    from led_agent.errors import UsageError

    if as_json and as_markdown:
        raise UsageError("give --json or --markdown, not both")
    _refuse_others(ctx, subject)
    both = {
        "model": model, "problems": problems, "verifiers": tuple(verifier or ()), "test": test,
        "max_tokens": max_tokens, "seed": seed, "device": device, "dtype": dtype, "slots": slots,
    }  # fmt: skip
    how = {"quiet": quiet, "as_json": as_json, "as_markdown": as_markdown}
    if subject is Subject.COST:
        from led_agent.cli.costing import study_cost

        interrupted = study_cost({**both, "n": n, "sampling": sampling}, out, **how)
    else:
        from led_agent.cli.studying import study_exploration

        drawn = {
            "quick": quick, "before": before, "dev": dev, "samples": samples, "searches": searches,
            "lens": lens or None,
        }  # fmt: skip
        interrupted = study_exploration({**both, **drawn}, out, processes, **how)
    raise typer.Exit(INTERRUPTED if interrupted else 0)


def _refuse_others(ctx: typer.Context, subject: Subject) -> None:
    """Refuse what was typed and is of another subject; settings of the command are for all of its subjects."""
    from led_agent.errors import UsageError

    for other, names in _ONLY.items():
        for name in names if other is not subject else ():
            source = ctx.get_parameter_source(name)
            if source is not None and source.name == "COMMANDLINE":
                raise UsageError(
                    f"`study {subject}` has no --{name}: that is of `study {other}`; take it out, or ask for the other"
                )
