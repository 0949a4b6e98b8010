"""The command line as a whole, and what an exception comes to."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

import led_agent
from led_agent.cli.command import Group
from led_agent.cli.completion import prepare_completion
from led_agent.cli.settings import Settings
from led_agent.errors import LedError, MachineError

__all__ = ["app", "main"]

app = typer.Typer(
    cls=Group,
    help="Solve problems by multi-path search in latent space: explore, verify, fall back.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.callback(invoke_without_command=True)
def _top(
    ctx: typer.Context,
    config: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Read settings from this file in place of the project's led-agent.toml; none reads no file. "
            "`led-agent config` shows what holds.",
        ),
    ] = None,
    version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False,
) -> None:
    if version:
        typer.echo(f"led-agent {led_agent.__version__}")
        raise typer.Exit
    if isinstance(ctx.obj, Settings):
        ctx.obj.config = config


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    settings = Settings()
    prepare_completion()
    try:
        app(args=given, prog_name="led-agent", obj=settings)
    except (LedError, OSError, KeyboardInterrupt) as error:
        if settings.debug or "--debug" in given or isinstance(error, BrokenPipeError):
            raise
        sys.exit(_tell(error))


def _tell(error: LedError | OSError | KeyboardInterrupt) -> int:
    """Say in a line what an exception comes to, and return its exit code."""
    from rich.text import Text

    from led_agent.cli.base import INTERRUPTED, stderr

    if isinstance(error, KeyboardInterrupt):
        stderr.print("interrupted")
        return INTERRUPTED
    told = error if isinstance(error, LedError) else MachineError(f"{error.filename or error}: {error.strerror}")
    stderr.print(Text(f"error: {told}", style="bold red"), soft_wrap=True)
    return told.exit_code
