"""`led-agent completion` and `led-agent help`: how a person finds out what to type."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from led_agent.cli.completing import SHELLS, offer
from led_agent.cli.options import OUTPUT, Debug
from led_agent.errors import UsageError
from led_agent.naming import meant

__all__ = ["VARIABLE", "completion", "prepare_completion", "show_help"]

PROGRAM = "led-agent"
VARIABLE = "_LED_AGENT_COMPLETE"


def prepare_completion() -> None:
    """Get ready to answer a shell, where it is one that asks."""
    if os.environ.get(VARIABLE):
        from typer.completion import completion_init  # type: ignore[attr-defined]  # re-exported, not declared

        completion_init()


def completion(
    shell: Annotated[
        str | None,
        typer.Argument(
            help="bash, zsh, fish, powershell or pwsh; by default the one that this is called from.",
            autocompletion=offer(SHELLS),
        ),
    ] = None,
    install: Annotated[
        bool, typer.Option("--install", help="Install it for you, and say where.", rich_help_panel=OUTPUT)
    ] = False,
    debug: Debug = False,
) -> None:
    """Print the script that completes led-agent in a shell, or install it.

    With it, the Tab key completes commands, options, models, strategies, decodings, verifiers, tasks of eval, and
    files. Without --install nothing is changed: in bash, source <(led-agent completion bash) tries it.
    """
    from typer.completion import get_completion_script  # type: ignore[attr-defined]
    from typer.completion import install as install_script  # type: ignore[attr-defined]

    from led_agent.cli.base import print_text

    chosen = _detected() if shell is None else shell
    if chosen not in SHELLS:
        raise UsageError(
            f"there is no completion for the shell {chosen!r}{meant(chosen, SHELLS)}; name one of {_told()}"
        )
    if not install:
        print_text(get_completion_script(prog_name=PROGRAM, complete_var=VARIABLE, shell=chosen))
        return
    _, path = install_script(shell=chosen, prog_name=PROGRAM, complete_var=VARIABLE)
    print_text(f"installed for {chosen} in {path}; it works in shells that are started from now on")


def _told() -> str:
    return ", ".join(SHELLS)


def _detected() -> str:
    import shellingham

    try:
        name: str = shellingham.detect_shell()[0]
    except shellingham.ShellDetectionFailure:
        raise UsageError(f"can't tell which shell this is called from; name one of {_told()}") from None
    return name


def _commands(incomplete: str) -> list[tuple[str, str]]:
    from led_agent.cli.commands import LISTED

    return [(name, listed.summary) for name, listed in LISTED.items() if name.startswith(incomplete)]


def show_help(
    ctx: typer.Context,
    command: Annotated[
        str | None, typer.Argument(help="Which one; without it, all are listed.", autocompletion=_commands)
    ] = None,
    debug: Debug = False,
) -> None:
    """Show what a command does, as its --help does.

    Without a command it lists all of them, as led-agent --help does.
    """
    from led_agent.cli.base import stdout

    above = ctx.parent
    assert above is not None
    if command is None:
        typer.echo(above.get_help(), file=stdout.file)
        return
    group = above.command
    found = group.get_command(above, command)  # type: ignore[attr-defined]
    if found is None:
        names = group.list_commands(above)  # type: ignore[attr-defined]
        raise UsageError(f"no command is called {command!r}{meant(command, names)}; there are {', '.join(names)}")
    with type(ctx)(found, info_name=command, parent=above) as inner:
        typer.echo(found.get_help(inner), file=stdout.file)
