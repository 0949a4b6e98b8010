"""`led-agent verify`: verdicts on answers that exist already."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from led_agent.cli.options import MACHINE, OUTPUT, PROBLEM, AsJson, Debug, Quiet, VerifierNames

__all__ = ["verify"]


def verify(
    problems: Annotated[
        Path, typer.Option(help="JSONL, a problem a line: id, prompt, and answer or tests.", rich_help_panel=PROBLEM)
    ],
    answers: Annotated[
        Path,
        typer.Option(
            help="JSONL, {id, text} a line; several of one id may be; a run's results.jsonl is one.",
            rich_help_panel=PROBLEM,
        ),
    ],
    verifier: VerifierNames = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Append the verdicts to this file, JSONL; those that are there aren't repeated.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    concurrency: Annotated[
        int | None,
        typer.Option(min=1, help="Threads that ask verifiers.", show_default="2 a core", rich_help_panel=MACHINE),
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Judge existing answers in bulk, without a model that writes any.

    Each answer is judged by the verifiers named, else by what its problem calls for. A line that is no answer, or
    answers no problem of the file, is named and passed over. With --out a run that was cut off is resumed. Ctrl-C keeps
    what is judged.
    """
    from led_agent.cli.verifying import verify_file

    raise typer.Exit(
        verify_file(problems, answers, verifier or (), out, concurrency=concurrency, as_json=as_json, quiet=quiet)
    )
