"""How a command's help reads: what it does, its options under headings, examples, settings, exit codes. Plain text of
at most 80 columns, the same in a terminal and in a pipe, but that headings are bold in a terminal.

This file knows a command's parameters and its page in the manual, and writes text. The parser is not its business.
"""

from __future__ import annotations

import enum
import inspect
import re
import textwrap
import typing
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import typer

from led_agent.cli.manual import EXIT_CODES, Page
from led_agent.cli.options import MESSAGES, OUTPUT, PROBLEM
from led_agent.naming import kinds

__all__ = [
    "heading",
    "hints_of",
    "metavar_of",
    "panels",
    "record",
    "rows",
    "settings_told",
    "wrapped",
    "write_page",
]

_NAMES = 24  # columns for what stands at the left
_FIRST, _LAST = ("Arguments", PROBLEM), (OUTPUT, MESSAGES)


# --- text ----------------------------------------------------------------------------------------------------------


def wrapped(text: str, width: int, indent: int) -> str:
    """Paragraphs at a width. Words stay whole, also those with hyphens."""
    space = " " * indent
    parts = [" ".join(part.split()) for part in inspect.cleandoc(text).split("\n\n")]
    return "\n\n".join(
        textwrap.fill(
            part, width, initial_indent=space, subsequent_indent=space, break_long_words=False, break_on_hyphens=False
        )
        for part in parts
    )


def _shell(line: str, width: int) -> str:
    """A command line for a shell, continued by backslashes where it is long. What is quoted stays together."""
    lines, now = [], "    $"
    for word in re.findall(r"""(?:"[^"]*"|'[^']*'|\S)+""", line):
        if len(now) + len(word) + 3 > width:
            lines.append(f"{now} \\")
            now = "       "
        now += f" {word}"
    return "\n".join([*lines, now])


def heading(formatter: Any, text: str) -> None:
    """A heading; bold, which the parser takes out where there is no terminal."""
    formatter.write(f"\n{typer.style(f'{text}:', bold=True)}\n")


def rows(formatter: Any, told: Iterable[tuple[str, str]]) -> None:
    """Names at the left, what they mean at the right; a long name has a line of its own."""
    listed = list(told)
    column = 2 + min(_NAMES, max((len(name) for name, _ in listed if len(name) <= _NAMES), default=0)) + 2
    for name, text in listed:
        right = wrapped(text, formatter.width, column)
        fits = len(name) + 4 <= column
        formatter.write(f"  {name}{right[len(name) + 2 :]}\n" if fits else f"  {name}\n{right}\n")


# --- what stands in it ---------------------------------------------------------------------------------------------


def hints_of(command: Any) -> dict[str, Any]:
    """Type hints of a command's parameters, with what stands beside them."""
    if command.callback is None:
        return {}
    return typing.get_type_hints(inspect.unwrap(command.callback), include_extras=True)


def metavar_of(parameter: Any, hint: Any) -> str:
    """What stands for a parameter's value."""
    if parameter.metavar:
        return str(parameter.metavar).strip("[]")
    if parameter.param_type_name == "argument":
        return str(parameter.name).upper()
    found = kinds(typing.get_args(hint)[0] if typing.get_args(hint) else hint)
    for kind, told in ((int, "N"), (float, "X"), (Path, "PATH")):
        if kind in found:
            return told
    choices = [[str(one.value) for one in k] for k in found if isinstance(k, type) and issubclass(k, enum.Enum)]
    return "|".join(choices[0]) if choices and len("|".join(choices[0])) <= _NAMES else "TEXT"


def _bounds(hint: Any) -> Iterator[str]:
    for info in getattr(hint, "__metadata__", ()):
        if getattr(info, "min", None) is not None:
            yield f"at least {info.min}"
        if getattr(info, "max", None) is not None:
            yield f"at most {info.max}"


def _choices(hint: Any) -> Iterator[str]:
    base = typing.get_args(hint)[0] if hasattr(hint, "__metadata__") else hint
    for kind in kinds(base) if base is not None else ():
        if isinstance(kind, type) and issubclass(kind, enum.Enum):
            yield "one of " + ", ".join(str(one.value) for one in kind)


def record(parameter: Any, hint: Any) -> tuple[str, str]:
    """What stands at the left and at the right for a parameter."""
    option = parameter.param_type_name == "option"
    names = ", ".join(sorted((*parameter.opts, *parameter.secondary_opts), key=len)) if option else ""
    value = "" if option and getattr(parameter, "is_flag", False) else metavar_of(parameter, hint)
    extra = list(_choices(hint))
    if parameter.required and option:
        extra.append("required")
    shown = getattr(parameter, "show_default", False)
    default = shown if isinstance(shown, str) else parameter.default
    flag = getattr(parameter, "is_flag", False)
    if default not in (None, (), []) and not flag and not callable(default):
        extra.append(f"default: {default.value if isinstance(default, enum.Enum) else default}")
    extra += _bounds(hint)
    text = parameter.help or ""
    return f"{names} {value}".strip(), f"{text} [{'; '.join(extra)}]" if extra else text


def panels(command: Any, ctx: Any) -> dict[str, list[tuple[str, str]]]:
    """Rows by heading: what is asked, then options as they come, output and messages last."""
    hints, found = hints_of(command), dict[str, list[tuple[str, str]]]()
    for parameter in command.get_params(ctx):
        if getattr(parameter, "hidden", False):
            continue
        argument = parameter.param_type_name == "argument"
        panel = "Arguments" if argument else getattr(parameter, "rich_help_panel", None)
        if panel is None:
            panel = MESSAGES if parameter.name == "help" and command.params else "Options"
        found.setdefault(panel, []).append(record(parameter, hints.get(parameter.name)))
    middle = [name for name in found if name not in (*_FIRST, *_LAST)]
    return {name: found[name] for name in (*_FIRST, *middle, *_LAST) if name in found}


def settings_told(command: Any) -> str:
    """Which variables set its options; empty where none can be set."""
    panels = (*(getattr(p, "rich_help_panel", None) for p in command.params if p.param_type_name == "option"),)
    if all(panel in (PROBLEM, OUTPUT, None) for panel in panels):
        return ""
    name = str(command.name)
    return (
        f"Options but those under {PROBLEM} and {OUTPUT} may also be set by a variable, "
        f"LED_AGENT_{name.upper().replace('-', '_')}_OPTION or LED_AGENT_OPTION, and in led-agent.toml, under "
        f"[{name}] or at the top. `led-agent config {name}` shows what holds and where it comes from."
    )


def write_page(formatter: Any, page: Page, settings: str) -> None:
    """Examples, environment and exit codes."""
    if page.examples:
        heading(formatter, "Examples")
        for at, (line, told) in enumerate(page.examples):
            formatter.write("\n" * bool(at) + f"{wrapped(told, formatter.width, 2)}\n{_shell(line, formatter.width)}\n")
    if settings or page.variables:
        heading(formatter, "Environment")
        if settings:
            formatter.write(f"{wrapped(settings, formatter.width, 2)}\n")
        if page.variables:
            rows(formatter, page.variables)
    heading(formatter, "Exit codes")
    rows(formatter, ((str(code), text) for code, text in (page.exit_codes or EXIT_CODES)))
