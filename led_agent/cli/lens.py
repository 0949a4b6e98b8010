"""`led-agent tune-lens`: make a model's tuned lens."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from led_agent.cli.base import INTERRUPTED, name_bad_lines, print_json, stderr, stdout
from led_agent.cli.completing import MODELS, offer
from led_agent.cli.options import (
    OUTPUT,
    PROBLEM,
    WORKLOAD,
    AsJson,
    Debug,
    Device,
    Dtype,
    Limit,
    MaxTokens,
    Quiet,
    Seed,
    Slots,
)

if TYPE_CHECKING:
    from rich.console import RenderableType

    from led_agent.lens import Interval, LensReport

__all__ = ["tune_lens"]


def tune_lens(
    model: Annotated[
        str, typer.Argument(help="Alias, folder or hub id. See `led-agent models`.", autocompletion=offer(MODELS))
    ],
    problems: Annotated[
        Path | None,
        typer.Option(
            help="JSONL, a problem a line, at least four; a quarter is held out to measure by.",
            show_default="puzzles for the embedded model, word problems for others",
            rich_help_panel=PROBLEM,
        ),
    ] = None,
    limit: Limit = None,
    samples: Annotated[int, typer.Option(min=1, help="Branches a problem.", rich_help_panel=WORKLOAD)] = 4,
    max_tokens: MaxTokens = 128,
    steps: Annotated[int, typer.Option(min=1, help="Steps of the optimiser.", rich_help_panel=WORKLOAD)] = 500,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Write the lens into this file.",
            show_default="where norm=tuned looks for it: beside a model in a folder of your own, else in the cache",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    seed: Seed = 0,
    device: Device = "auto",
    dtype: Dtype = "auto",
    slots: Slots = 16,
    as_json: AsJson = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Make a model's tuned lens, by which --decoding led.paper:norm=tuned reads the layers below the last one.

    The model answers some problems, and for each depth an affine map is trained on the states along the way, so that
    what is read off there comes near to what the last layer says. Some problems are held out; on these the divergence
    of each depth from the last one is measured before and after.
    """
    from led_agent.diagnosis_view import stages
    from led_agent.lens import default_problems
    from led_agent.lens import tune_lens as make_lens
    from led_agent.problems import read_problems

    asked, bad = read_problems(problems) if problems is not None else (default_problems(model, seed), [])
    if problems is not None:
        name_bad_lines(problems, bad)
    try:
        with stages(stderr, quiet=quiet) as progress:
            found = make_lens(
                model, asked[:limit], samples=samples, max_tokens=max_tokens, steps=steps, seed=seed, device=device,
                dtype=dtype, slots=slots, out=out, progress=progress,
            )  # fmt: skip
    except KeyboardInterrupt:  # typer would exit without a word
        stderr.print("interrupted; no lens was written")
        raise typer.Exit(INTERRUPTED) from None
    if as_json:
        print_json(found.model_dump(mode="json"))
    else:
        stdout.print(_rendered(found))
    raise typer.Exit(2 if bad else 0)


def _rendered(found: LensReport) -> RenderableType:
    from rich.box import SIMPLE_HEAD
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    header = Text(
        f"{found.model}: trained on {found.positions} positions of {found.trained_on} problems × {found.samples} "
        f"at T=1, measured at {found.measured} positions of {found.held_out} others. Means over these problems, with "
        "95% bootstrap intervals."
    )
    title = "KL(last layer ‖ depth), nat, before (logit lens) and after (tuned lens)"
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, show_edge=False)
    table.pad_edge, table.collapse_padding = False, True  # intervals fit in 80 columns
    for column in ("blocks", "before", "after", "lowered by"):
        table.add_column(column, justify="right")
    for depth in found.depths:
        table.add_row(str(depth.depth), *(_told(one) for one in (depth.before, depth.after, depth.lowered)))
    notes = [Text(f"note: {note}") for note in found.notes]
    return Group(header, Text(), table, *notes, Text(f"\nwritten to {found.path}", overflow="fold"))


def _told(one: Interval) -> str:
    return f"{one.mean:.3f} ({one.low:.3f}–{one.high:.3f})"
