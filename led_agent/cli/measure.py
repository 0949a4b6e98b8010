"""`led-agent diagnose` and `led-agent bench`: what a model is like, and how fast."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from led_agent.cli.base import INTERRUPTED, name_bad_lines, print_json, stderr, stdout
from led_agent.cli.completing import MODELS, offer
from led_agent.cli.options import (
    OUTPUT,
    PROBLEM,
    WORKLOAD,
    AsJson,
    AsMarkdown,
    Debug,
    Device,
    Dtype,
    Limit,
    MaxTokens,
    Quiet,
    Seed,
    Slots,
)
from led_agent.errors import UsageError

__all__ = ["bench", "diagnose"]


def diagnose(
    model: Annotated[
        str, typer.Argument(help="Alias, folder or hub id. See `led-agent models`.", autocompletion=offer(MODELS))
    ],
    problems: Annotated[
        Path | None,
        typer.Option(
            help="JSONL, a problem a line; where there are answers, accuracy is measured, too.",
            show_default="puzzles for the embedded model, word problems for others",
            rich_help_panel=PROBLEM,
        ),
    ] = None,
    limit: Limit = None,
    samples: Annotated[
        int, typer.Option(min=1, help="Branches a problem and temperature.", rich_help_panel=WORKLOAD)
    ] = 4,
    max_tokens: MaxTokens = 128,
    plot: Annotated[
        Path | None, typer.Option(help="Draw a picture into this file: .png, .svg or .pdf.", rich_help_panel=OUTPUT)
    ] = None,
    seed: Seed = 0,
    device: Device = "auto",
    dtype: Dtype = "auto",
    slots: Slots = 16,
    as_json: AsJson = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Measure a model's entropy by depth, and say whether LED can be expected to help it, and with which settings.

    The model answers some problems; at every position the posteriors of all its layers are read off, which shows
    whether the last one has collapsed, how often LED would explore, and how far it would move the sampler. Where the
    problems have answers, accuracy is measured at several temperatures, too.
    """
    from led_agent.diagnose import default_problems
    from led_agent.diagnose import diagnose as run_diagnosis
    from led_agent.diagnosis_view import check_plot, plot_diagnosis, render_diagnosis, stages
    from led_agent.problems import read_problems

    if plot is not None:
        check_plot(plot)
    asked, bad = read_problems(problems) if problems is not None else (default_problems(model), [])
    if problems is not None:
        name_bad_lines(problems, bad)
    try:
        with stages(stderr, quiet=quiet) as progress:
            found = run_diagnosis(
                model, asked[:limit], samples=samples, max_tokens=max_tokens, seed=seed, device=device, dtype=dtype,
                slots=slots, progress=progress,
            )  # fmt: skip
    except KeyboardInterrupt:  # typer would exit without a word
        stderr.print("interrupted; what was measured so far is dropped")
        raise typer.Exit(INTERRUPTED) from None
    if as_json:
        print_json(found.model_dump(mode="json"))
    else:
        stdout.print(render_diagnosis(found))
    if plot is not None:
        plot_diagnosis(found, plot)
    raise typer.Exit(2 if bad else 0)


def bench(
    model: Annotated[
        str | None,
        typer.Argument(help="Alias, folder or hub id.", show_default="countdown", autocompletion=offer(MODELS)),
    ] = None,
    branches: Annotated[
        int, typer.Option(help="Branches that grow from one prompt at a time.", rich_help_panel=WORKLOAD)
    ] = 16,
    prompt: Annotated[
        int, typer.Option(help="Tokens of the prompt; other ones in each round.", rich_help_panel=WORKLOAD)
    ] = 1024,
    new: Annotated[int, typer.Option(help="New tokens a branch; none ends early.", rich_help_panel=WORKLOAD)] = 256,
    rounds: Annotated[
        int, typer.Option(help="Rounds, in which each is timed once, in turn.", rich_help_panel=WORKLOAD)
    ] = 5,
    temperature: Annotated[
        float, typer.Option(help="The temperature that all sample by.", rich_help_panel=WORKLOAD)
    ] = 0.8,
    peers: Annotated[
        str | None,
        typer.Option(
            help="What to compare with: generate, static, continuous, llama.cpp, with commas between them, or none.",
            show_default="all that are installed",
            rich_help_panel=WORKLOAD,
        ),
    ] = None,
    gguf: Annotated[
        Path | None,
        typer.Option(help="The model as a GGUF file of the same dtype, for llama.cpp.", rich_help_panel=WORKLOAD),
    ] = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    as_json: AsJson = False,
    as_markdown: AsMarkdown = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Time a model in this engine, plainly and with LED, against other ways of running it, in one interleaved run.

    Peers are transformers' generate with its dynamic and its static cache, its continuous batching (which takes minutes
    a round on a CPU where prompts are long), and llama.cpp. One that isn't here is named, with what to install. Ctrl-C
    keeps and prints the rounds that are complete.
    """
    from led_agent.bench.command import parse_peers, print_result, run_bench, workload_of

    if as_json and as_markdown:
        raise UsageError("give --json or --markdown, not both")
    work, chosen = workload_of(branches, prompt, new, temperature, dtype), parse_peers(peers)
    try:
        found = run_bench(
            model, work, rounds=rounds, peers=chosen, device=device, gguf=gguf, console=stderr, quiet=quiet
        )
    except KeyboardInterrupt:  # typer would exit without a word
        stderr.print("interrupted before anything was measured")
        raise typer.Exit(INTERRUPTED) from None
    print_result(found, as_json=as_json, as_markdown=as_markdown, console=stdout)
    raise typer.Exit(INTERRUPTED if found.comparison.interrupted else 0)
