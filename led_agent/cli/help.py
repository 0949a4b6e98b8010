"""How a command's help reads: what it does, its options under headings, examples, settings, exit codes. Plain text of
at most 80 columns, the same in a terminal and in a pipe, but that headings are bold in a terminal.

The classes also give each command what variables and files say (``led_agent.cli.settings``).
"""

from __future__ import annotations

import enum
import inspect
import re
import textwrap
import typing
from collections.abc import Iterable, Iterator, MutableMapping, Sequence
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from led_agent.cli.manual import EXIT_CODES, PAGES, Page
from led_agent.cli.options import MESSAGES, OUTPUT, PROBLEM
from led_agent.cli.settings import Given, Settings
from led_agent.errors import UsageError
from led_agent.naming import kinds

__all__ = ["Command", "Group"]

_NAMES = 24  # columns for what stands at the left
_FIRST, _LAST = ("Arguments", PROBLEM), (OUTPUT, MESSAGES)
_WITHOUT = ("config", "completion", "help")  # what works whatever settings there are
_INSTEAD = {"strategy": ("n", "tries", "all_branches")}  # an option and those that it stands in place of


# --- text ----------------------------------------------------------------------------------------------------------


def _wrapped(text: str, width: int, indent: int) -> str:
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


def _heading(formatter: Any, text: str) -> None:
    formatter.write(f"\n{typer.style(f'{text}:', bold=True)}\n")


def _rows(formatter: Any, rows: Iterable[tuple[str, str]]) -> None:
    """Names at the left, what they mean at the right; a long name has a line of its own."""
    listed = list(rows)
    column = 2 + min(_NAMES, max((len(name) for name, _ in listed if len(name) <= _NAMES), default=0)) + 2
    for name, text in listed:
        told = _wrapped(text, formatter.width, column)
        fits = len(name) + 4 <= column
        formatter.write(f"  {name}{told[len(name) + 2 :]}\n" if fits else f"  {name}\n{told}\n")


# --- what stands in it ---------------------------------------------------------------------------------------------


def _hints(command: Any) -> dict[str, Any]:
    if command.callback is None:
        return {}
    return typing.get_type_hints(inspect.unwrap(command.callback), include_extras=True)


def _metavar(parameter: Any, hint: Any) -> str:
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


def _record(parameter: Any, hint: Any) -> tuple[str, str]:
    """What stands at the left and at the right for a parameter."""
    option = parameter.param_type_name == "option"
    names = ", ".join(sorted((*parameter.opts, *parameter.secondary_opts), key=len)) if option else ""
    value = "" if option and getattr(parameter, "is_flag", False) else _metavar(parameter, hint)
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


def _panels(command: Any, ctx: Any) -> dict[str, list[tuple[str, str]]]:
    """Rows by heading: what is asked, then options as they come, output and messages last."""
    hints, found = _hints(command), dict[str, list[tuple[str, str]]]()
    for parameter in command.get_params(ctx):
        if getattr(parameter, "hidden", False):
            continue
        argument = parameter.param_type_name == "argument"
        panel = "Arguments" if argument else getattr(parameter, "rich_help_panel", None)
        if panel is None:
            panel = MESSAGES if parameter.name == "help" and command.params else "Options"
        found.setdefault(panel, []).append(_record(parameter, hints.get(parameter.name)))
    middle = [name for name in found if name not in (*_FIRST, *_LAST)]
    return {name: found[name] for name in (*_FIRST, *middle, *_LAST) if name in found}


def _settings_told(command: Any) -> str:
    """Which variables set its options; empty where none can be set."""
    panels = (*(getattr(p, "rich_help_panel", None) for p in command.params if p.param_type_name == "option"),)
    if all(panel in (PROBLEM, OUTPUT, None) for panel in panels):
        return ""
    name = str(command.name)
    return (
        f"Options but those under {PROBLEM} and {OUTPUT} may also be set by a variable, "
        f"LED_AGENT_{name.upper()}_OPTION or LED_AGENT_OPTION, and in led-agent.toml, under [{name}] or at the top. "
        f"`led-agent config {name}` shows what holds and where it comes from."
    )


def _write_page(formatter: Any, page: Page, settings: str) -> None:
    if page.examples:
        _heading(formatter, "Examples")
        for at, (line, told) in enumerate(page.examples):
            formatter.write(
                "\n" * bool(at) + f"{_wrapped(told, formatter.width, 2)}\n{_shell(line, formatter.width)}\n"
            )
    if settings or page.variables:
        _heading(formatter, "Environment")
        if settings:
            formatter.write(f"{_wrapped(settings, formatter.width, 2)}\n")
        if page.variables:
            _rows(formatter, page.variables)
    _heading(formatter, "Exit codes")
    _rows(formatter, ((str(code), text) for code, text in (page.exit_codes or EXIT_CODES)))


# --- commands ------------------------------------------------------------------------------------------------------


class _Defaults(dict[str, Any]):
    """What settings say, looked up when the parser first asks: help is there even where a file is broken."""

    def __init__(self, settings: Settings, command: str) -> None:
        super().__init__()
        self._settings, self._command, self.given = settings, command, dict[str, Given]()
        self._read = False

    def get(self, name: str, default: Any = None) -> Any:
        if name == "help":
            return default
        if not self._read:
            self._read = True
            self.given = self._settings.of(self._command)
        return self.given[name].value if name in self.given else default


class Command(TyperCommand):
    """A command with a page in the manual, whose options may come from settings."""

    def make_context(self, info_name: Any, args: Any, parent: Any = None, **extra: Any) -> Any:
        settings = parent.obj if parent is not None else None
        if not isinstance(settings, Settings) or self.name in _WITHOUT or extra.get("resilient_parsing"):
            return super().make_context(info_name, args, parent, **extra)
        if not settings.anything():
            return super().make_context(info_name, args, parent, **extra)
        settings.know(parent.command.commands)
        defaults = _Defaults(settings, str(self.name))
        try:
            ctx: Any = super().make_context(info_name, args, parent, default_map=defaults, **extra)
        except typer.BadParameter as error:
            raise _placed(error, defaults.given) from error
        _drop_replaced(self, ctx)
        return ctx

    def get_params(self, ctx: Any) -> list[Any]:
        return _for_completion(ctx, super().get_params(ctx))

    def invoke(self, ctx: Any) -> Any:
        if isinstance(ctx.obj, Settings):
            ctx.obj.debug = bool(ctx.params.get("debug"))
            if not ctx.params.get("quiet"):
                _tell(self, ctx)
        return super().invoke(ctx)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        arguments = [p for p in self.get_params(ctx) if p.param_type_name == "argument"]
        names = [(_metavar(p, None), p.required) for p in arguments]
        return ["[OPTIONS]", *(name if required else f"[{name}]" for name, required in names)]

    def format_help_text(self, ctx: Any, formatter: Any) -> None:
        text = (self.help or "").partition("\f")[0]
        formatter.write(f"\n{_wrapped(text, formatter.width, 2)}\n")

    def format_options(self, ctx: Any, formatter: Any) -> None:
        for panel, rows in _panels(self, ctx).items():
            _heading(formatter, panel)
            _rows(formatter, rows)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        _write_page(formatter, PAGES.get(str(self.name), Page()), _settings_told(self))


def _for_completion(ctx: Any, parameters: Sequence[Any]) -> list[Any]:
    """A command's parameters. For a shell that completes, values stay text: nothing is called with them, and converting
    them imports pydantic."""
    for parameter in parameters if ctx.resilient_parsing else ():
        parameter.process_value = lambda _ctx, value: value
    return list(parameters)


def _source(ctx: Any, name: str) -> str:
    source = ctx.get_parameter_source(name)
    return str(source.name) if source is not None else ""


def _placed(error: typer.BadParameter, given: MutableMapping[str, Given]) -> Exception:
    """The parser's complaint; of a value from settings, with the place where it stands."""
    name = getattr(error.param, "name", "")
    if error.ctx is None or _source(error.ctx, name) != "DEFAULT_MAP" or name not in given:
        return error
    told = given[name]
    option = error.param.opts[0] if error.param is not None else name
    return UsageError(f"{told.where}: {option} is {told.value!r}; {error.message}")


def _drop_replaced(command: Any, ctx: Any) -> None:
    """What the command line gives goes before what settings say, also where one option stands in place of others."""
    for one, others in _INSTEAD.items():
        if one not in ctx.params or not all(other in ctx.params for other in others):
            continue
        groups = ((one,), others)
        for typed, set_elsewhere in (groups, groups[::-1]):
            if any(_source(ctx, name) == "COMMANDLINE" for name in typed):
                defaults = {p.name: p.default for p in command.params}
                for name in set_elsewhere:
                    if _source(ctx, name) == "DEFAULT_MAP":
                        ctx.params[name] = defaults[name]


def _tell(command: Any, ctx: Any) -> None:
    """Say on standard error which options hold that were not typed, and what was found that sets nothing."""
    from rich.text import Text

    from led_agent.cli.base import stderr

    for warning in ctx.obj.warnings:
        stderr.print(Text(f"warning: {warning}", style="yellow"), soft_wrap=True)
    given = getattr(ctx.default_map, "given", {})
    told = [
        f"{parameter.opts[0]} from {given[parameter.name].where}"
        for parameter in command.params
        if parameter.name in given and _source(ctx, parameter.name) == "DEFAULT_MAP"
    ]
    if told:
        stderr.print(Text(f"settings: {', '.join(told)}", style="dim"), soft_wrap=True)


class Group(TyperGroup):
    """The commands under their headings. They are imported when one is asked for."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        from led_agent.cli.commands import Commands

        self._listing = False
        self._all = Commands()
        self.commands = typing.cast(Any, self._all)

    def get_params(self, ctx: Any) -> list[Any]:
        return _for_completion(ctx, super().get_params(ctx))

    def list_commands(self, ctx: Any) -> list[str]:
        return list(self._all)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in self._all:
            return None
        return self._all.outline(cmd_name) if self._listing else self._all[cmd_name]

    def shell_complete(self, ctx: Any, incomplete: str) -> Any:
        self._listing = True
        try:
            return super().shell_complete(ctx, incomplete)
        finally:
            self._listing = False

    def format_help_text(self, ctx: Any, formatter: Any) -> None:
        formatter.write(f"\n{_wrapped(self.help or '', formatter.width, 2)}\n")

    def format_options(self, ctx: Any, formatter: Any) -> None:
        _heading(formatter, "Options")
        _rows(formatter, (_record(parameter, _hints(self).get(parameter.name)) for parameter in self.get_params(ctx)))
        outlines = [self._all.outline(name) for name in self._all]
        for panel in dict.fromkeys(outline.rich_help_panel for outline in outlines):
            _heading(formatter, str(panel))
            _rows(formatter, _summaries([one for one in outlines if one.rich_help_panel == panel]))
        formatter.write("\n  led-agent COMMAND --help tells more of a command.\n")

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        _write_page(formatter, PAGES[""], "")


def _summaries(outlines: Sequence[Command]) -> Iterator[tuple[str, str]]:
    longest = 12  # as wide under every heading
    for outline in outlines:
        yield str(outline.name).ljust(longest), str(outline.short_help)
