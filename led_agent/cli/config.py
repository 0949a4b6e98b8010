"""`led-agent config`: what holds for each option, and where it comes from."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from led_agent.cli.base import print_json, print_text, stderr, stdout
from led_agent.cli.options import OUTPUT, AsJson, Debug
from led_agent.cli.settings import Settings
from led_agent.errors import UsageError
from led_agent.naming import meant

__all__ = ["config"]

_SECRET = re.compile(r"(^|-)(key|password|secret|token)$")


@dataclass(frozen=True)
class Row:
    """An option of a command, what holds for it, and where that stands."""

    command: str
    option: str
    value: Any
    source: str

    def as_json(self) -> dict[str, Any]:
        return {"command": self.command, "option": self.option, "value": self.value, "from": self.source}


def config(
    ctx: typer.Context,
    command: Annotated[str | None, typer.Argument(help="Only this command's options.")] = None,
    path: Annotated[
        bool,
        typer.Option("--path", help="Print the files that are looked at, the first one first.", rich_help_panel=OUTPUT),
    ] = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Show what holds for every option of every command, and where it comes from.

    The first of these that gives an option counts: the command line; the variable LED_AGENT_COMMAND_OPTION; the
    variable LED_AGENT_OPTION; led-agent.toml in the working folder or one above it, up to a repository's root or the
    home folder, or the file that --config or LED_AGENT_CONFIG names; the user's led-agent.toml; what is built in. In a
    file, [command] goes before the top.

    What one call is about and what becomes of it (the headings Problem and Output) is given on the command line alone,
    and not shown here.
    """
    above = ctx.parent
    settings = ctx.obj
    assert above is not None
    assert isinstance(settings, Settings)
    if path:
        _print_paths(settings, as_json)
        return
    commands: Any = above.command.commands  # type: ignore[attr-defined]
    if command is not None and command not in commands:
        raise UsageError(f"no command is called {command!r}{meant(command, commands)}; there are {', '.join(commands)}")
    settings.know(commands)
    rows = list(_rows(settings, commands, [command] if command is not None else list(commands)))
    for warning in settings.warnings:
        stderr.print(warning, style="yellow", markup=False, soft_wrap=True)
    if as_json:
        for row in rows:
            print_json(row.as_json())
    else:
        _print_table(rows)


def _rows(settings: Settings, commands: Any, names: list[str]) -> Iterator[Row]:
    for name in names:
        given = settings.of(name)
        parameters = {parameter.name: parameter for parameter in commands[name].params}
        for key, option in settings.catalog[name].items():
            if not option.settable:
                continue
            found = given.get(option.parameter)
            shown = getattr(parameters[option.parameter], "show_default", None)
            default = shown if isinstance(shown, str) else parameters[option.parameter].default
            value = found.value if found is not None else default
            hidden = "(set)" if found is not None and _SECRET.search(key) else value
            yield Row(name, key, hidden, found.where if found is not None else "built in")


def _print_paths(settings: Settings, as_json: bool) -> None:
    for looked in settings.looked():
        if as_json:
            print_json({"path": str(looked.path), "kind": looked.kind, "exists": looked.there})
        else:
            print_text(f"{'read' if looked.there else 'none'}  {looked.kind:8} {looked.path}")
    if not settings.looked() and not as_json:
        print_text("no file is looked at: --config or LED_AGENT_CONFIG is none")


def _print_table(rows: list[Row]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(show_edge=False, pad_edge=False)
    for column in ("command", "option", "value", "from"):
        table.add_column(column, overflow="fold")
    last = ""
    for row in rows:
        told = "" if row.value is None else ", ".join(row.value) if isinstance(row.value, list) else str(row.value)
        told = told.lower() if isinstance(row.value, bool) else told
        style = "" if row.source == "built in" else "bold"
        table.add_row(
            row.command if row.command != last else "", row.option, Text(told, style), Text(row.source, style)
        )
        last = row.command
    stdout.print(table)
