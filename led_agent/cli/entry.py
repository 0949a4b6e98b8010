"""The commands, in the order in which they are listed, and what an exception comes to."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import Annotated

import typer
from rich.text import Text

import led_agent
from led_agent.cli.base import INTERRUPTED, stderr
from led_agent.cli.doctor import doctor
from led_agent.cli.evaluate import evaluate
from led_agent.cli.measure import bench, diagnose
from led_agent.cli.models import models
from led_agent.cli.show import show
from led_agent.cli.solve import run, solve
from led_agent.cli.top import top
from led_agent.cli.verify import verify
from led_agent.errors import LedError, MachineError

__all__ = ["app", "main"]

app = typer.Typer(
    help="Solve problems by multi-path search in latent space: explore, verify, fall back.",
    epilog="Exit codes: 0 verified, 1 not verified, 2 usage, 3 model or machine, 130 interrupted.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
_COMMANDS: tuple[tuple[str, Callable[..., None]], ...] = (
    ("solve", solve),
    ("run", run),
    ("eval", evaluate),
    ("verify", verify),
    ("show", show),
    ("diagnose", diagnose),
    ("bench", bench),
    ("top", top),
    ("models", models),
    ("doctor", doctor),
)
for _name, _command in _COMMANDS:
    app.command(_name)(_command)


@app.callback(invoke_without_command=True)
def _top(
    version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False,
) -> None:
    if version:
        typer.echo(f"led-agent {led_agent.__version__}")
        raise typer.Exit


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    debug = "--debug" in given
    try:
        app(args=given, prog_name="led-agent")
    except LedError as error:
        if debug:
            raise
        stderr.print(Text(f"error: {error}", style="bold red"), soft_wrap=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        if debug:
            raise
        stderr.print("interrupted")
        sys.exit(INTERRUPTED)
    except OSError as error:
        if debug or isinstance(error, BrokenPipeError):
            raise
        stderr.print(Text(f"error: {MachineError(f'{error.filename or error}: {error.strerror}')}"), soft_wrap=True)
        sys.exit(3)
