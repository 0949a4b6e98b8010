"""What the parser makes of a command: help as ``led_agent.cli.help`` writes it, options that settings give, and a group
that imports its commands when they are asked for."""

from __future__ import annotations

import typing
from collections.abc import Iterator, Sequence
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from led_agent.cli.help import (
    heading,
    hints_of,
    metavar_of,
    panels,
    record,
    rows,
    settings_told,
    wrapped,
    write_page,
)
from led_agent.cli.manual import PAGES, Page
from led_agent.cli.settings import Given, Settings
from led_agent.errors import UsageError

__all__ = ["Command", "Group"]

_WITHOUT = ("config", "completion", "help")  # what works whatever settings there are
_INSTEAD = {"strategy": ("n", "tries", "all_branches")}  # an option and those that it stands in place of


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
        _drop_replaced(self, ctx, defaults.given)
        return ctx

    def get_params(self, ctx: Any) -> list[Any]:
        return _for_completion(ctx, super().get_params(ctx))

    def invoke(self, ctx: Any) -> Any:
        if isinstance(ctx.obj, Settings):
            ctx.obj.debug = bool(ctx.params.get("debug"))
            if not ctx.params.get("quiet"):
                _tell(self, ctx)
        from led_agent.cli.base import results_only

        with results_only():
            return super().invoke(ctx)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        arguments = [p for p in self.get_params(ctx) if p.param_type_name == "argument"]
        names = [(metavar_of(p, None), p.required) for p in arguments]
        return ["[OPTIONS]", *(name if required else f"[{name}]" for name, required in names)]

    def format_help_text(self, ctx: Any, formatter: Any) -> None:
        text = (self.help or "").partition("\f")[0]
        formatter.write(f"\n{wrapped(text, formatter.width, 2)}\n")

    def format_options(self, ctx: Any, formatter: Any) -> None:
        for panel, listed in panels(self, ctx).items():
            heading(formatter, panel)
            rows(formatter, listed)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        write_page(formatter, PAGES.get(str(self.name), Page()), settings_told(self))


def _for_completion(ctx: Any, parameters: Sequence[Any]) -> list[Any]:
    """A command's parameters. For a shell that completes, values stay text: nothing is called with them, and converting
    them imports pydantic."""
    for parameter in parameters if ctx.resilient_parsing else ():
        parameter.process_value = lambda _ctx, value: value
    return list(parameters)


def _source(ctx: Any, name: str) -> str:
    source = ctx.get_parameter_source(name)
    return str(source.name) if source is not None else ""


def _placed(error: typer.BadParameter, given: dict[str, Given]) -> Exception:
    """The parser's complaint; of a value from settings, with the place where it stands."""
    name = getattr(error.param, "name", "")
    if error.ctx is None or _source(error.ctx, name) != "DEFAULT_MAP" or name not in given:
        return error
    told = given[name]
    option = error.param.opts[0] if error.param is not None else name
    return UsageError(f"{told.where}: {option} is {told.value!r}; {error.message}")


def _drop_replaced(command: Any, ctx: Any, given: dict[str, Given]) -> None:
    """Where one option stands in place of others, those count that come from the first place, as with one option."""
    for one, others in _INSTEAD.items():
        if one not in ctx.params or not all(other in ctx.params for other in others):
            continue
        ranks = {name: _rank(ctx, name, given) for name in (one, *others)}
        first = {name: rank for name, rank in ranks.items() if rank is not None}
        both = one in first and len(first) > 1
        for name in first if both else ():
            opposite = others if name == one else (one,)
            if first[name] > min(first[other] for other in opposite if other in first):
                ctx.params[name] = next(p.default for p in command.params if p.name == name)
                del given[name]


def _rank(ctx: Any, name: str, given: dict[str, Given]) -> int | None:
    """How early in the order of places an option's value was found; None where it is built in."""
    source = _source(ctx, name)
    return -1 if source == "COMMANDLINE" else given[name].rank if source == "DEFAULT_MAP" else None


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
        formatter.write(f"\n{wrapped(self.help or '', formatter.width, 2)}\n")

    def format_options(self, ctx: Any, formatter: Any) -> None:
        heading(formatter, "Options")
        rows(formatter, (record(parameter, hints_of(self).get(parameter.name)) for parameter in self.get_params(ctx)))
        outlines = [self._all.outline(name) for name in self._all]
        for panel in dict.fromkeys(outline.rich_help_panel for outline in outlines):
            heading(formatter, str(panel))
            rows(formatter, _summaries([one for one in outlines if one.rich_help_panel == panel]))
        formatter.write("\n  led-agent COMMAND --help tells more of a command.\n")

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        write_page(formatter, PAGES[""], "")


def _summaries(outlines: Sequence[Command]) -> Iterator[tuple[str, str]]:
    longest = 12  # as wide under every heading
    for outline in outlines:
        yield str(outline.name).ljust(longest), str(outline.short_help)
