"""Where an option's value comes from when the command line doesn't give it: variables, then files.

In this order, the first that has it: the command line; ``LED_AGENT_COMMAND_OPTION``; ``LED_AGENT_OPTION``;
``led-agent.toml`` of the project, or the file that ``--config`` or ``LED_AGENT_CONFIG`` names; the user's
``led-agent.toml``; what is built in. In a file the command's own table goes before the top.

This file knows variables and TOML. Options are read off the commands themselves: none is listed here. What is found is
handed to the parser as its ``default_map``, so that values are converted and checked as those of a command line are.
The library (``solve``, ``Search``) reads none of this.
"""

from __future__ import annotations

import inspect
import json
import os
import tomllib
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from led_agent.cli.options import OUTPUT, PROBLEM
from led_agent.errors import MachineError, UsageError
from led_agent.naming import kinds, meant

__all__ = ["FILE", "OTHER_VARIABLES", "PREFIX", "Given", "Looked", "Option", "Settings", "options_of"]

PREFIX = "LED_AGENT_"
FILE = "led-agent.toml"
NO_FILE = "none"
OTHER_VARIABLES = {
    "LED_AGENT_CACHE": "the folder for converted models and lenses",
    "LED_AGENT_CHROMIUM": "the browser that tests look at the pages with",
    "LED_AGENT_CONFIG": "the settings file, as --config",
    "LED_AGENT_JUDGE_API_KEY": "the key for a judge behind an HTTP interface",
    "LED_AGENT_REQUIRE_BROWSER": "1 makes tests fail where there is no browser, instead of passing them over",
    "LED_AGENT_VENV": "where scripts/test installs",
}
_ONE_CALL = (PROBLEM, OUTPUT)
_GENERAL = {"help", "version", "config"}
_MOST_LINES = 500  # of a file of more, messages name the key alone: finding lines takes their square
_VARIABLES = 2  # places before those in files
_YES, _NO = ("1", "true", "yes", "on"), ("0", "false", "no", "off")


@dataclass(frozen=True)
class Option:
    """What settings have to know of an option: its name in files, the parser's name for it, and what it takes."""

    key: str
    parameter: str
    takes: frozenset[Any]
    several: bool
    flag: bool
    settable: bool

    def allowed(self) -> str:
        if self.flag:
            return "true or false"
        one = "a whole number" if self.takes == {int} else "a number" if self.takes == {float} else "text"
        return f"{one}, or a list of {one.removeprefix('a ')}" if self.several else one


@dataclass(frozen=True)
class Given:
    """A value, where it stands (a variable, or a file's line), and how early that is in the order of places."""

    value: Any
    where: str
    rank: int


def options_of(command: Any) -> dict[str, Option]:
    """A command's options by their long names, read off the command that the parser has."""
    hints = typing.get_type_hints(inspect.unwrap(command.callback)) if command.callback is not None else {}
    found = {}
    for parameter in command.params:
        long = [name for name in parameter.opts if name.startswith("--")]
        if parameter.param_type_name != "option" or not long or parameter.hidden:
            continue
        key = long[0].removeprefix("--")
        takes = kinds(hints.get(parameter.name, str)) - {type(None)}
        several = any(typing.get_origin(kind) is list for kind in takes)
        items = {item for kind in takes for item in (typing.get_args(kind) or (kind,))}
        settable = key not in _GENERAL and getattr(parameter, "rich_help_panel", None) not in _ONE_CALL
        found[key] = Option(key, parameter.name, frozenset(items), several, takes == {bool}, settable)
    return found


# --- files ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Looked:
    """A place where a file may be: what kind of place it is, and whether there is one."""

    kind: str
    path: Path
    there: bool


@dataclass
class File:
    """A settings file, read and checked against the commands' options."""

    path: Path
    text: str
    top: dict[str, Any] = field(default_factory=dict)
    tables: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path, catalog: Mapping[str, Mapping[str, Option]]) -> File:
        """Raises UsageError for what is no TOML or no setting, with the line; MachineError where it can't be read."""
        try:
            text = path.read_bytes().decode()
            data = tomllib.loads(text)
        except OSError as error:
            raise MachineError(f"can't read the settings in {_near(path)}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise UsageError(f"{_near(path)} is no text in UTF-8 ({error.reason} at byte {error.start})") from error
        except (tomllib.TOMLDecodeError, RecursionError) as error:
            raise UsageError(f"{_near(path)} is no valid TOML: {error}") from error
        file = cls(path, text)
        for name, value in data.items():
            if isinstance(value, dict):
                file._take_table(name, value, catalog)
            else:
                key, option = file._top_option(name, value, catalog)
                if key in file.top:
                    raise UsageError(f"{file.at(name)}: {key} is there twice, once as {key.replace('-', '_')}")
                file.top[key] = file._checked(name, value, option)
        return file

    def _take_table(self, name: str, table: dict[str, Any], catalog: Mapping[str, Mapping[str, Option]]) -> None:
        options = catalog.get(name)
        if options is None:
            commands = [command for command, there in catalog.items() if any(o.settable for o in there.values())]
            raise UsageError(
                f"{self.at(name)}: no command is called {name!r}{meant(name, commands, most=1)}; tables are called as "
                f"commands: {', '.join(commands)}"
            )
        taken = self.tables.setdefault(name, {})
        for written, value in table.items():
            key = written.replace("_", "-")
            option = options.get(key)
            if option is None or not option.settable:
                raise UsageError(f"{self.at(written, name)}: {_unknown(written, option, options, f'[{name}]')}")
            if key in taken:
                raise UsageError(f"{self.at(written, name)}: {key} is there twice, once as {key.replace('-', '_')}")
            taken[key] = self._checked(written, value, option, name)

    def _top_option(self, written: str, value: Any, catalog: Mapping[str, Mapping[str, Option]]) -> tuple[str, Option]:
        key = written.replace("_", "-")
        found = [options[key] for options in catalog.values() if key in options]
        settable = [option for option in found if option.settable]
        if not settable:
            every = {k: o for options in catalog.values() for k, o in options.items()}
            raise UsageError(f"{self.at(written)}: {_unknown(written, every.get(key), every, 'the top')}")
        if isinstance(value, list) and not all(option.several for option in settable):
            takers = [command for command, options in catalog.items() if key in options and options[key].several]
            where = f"; put the list into {' or '.join(f'[{name}]' for name in takers)}" if takers else ""
            raise UsageError(f"{self.at(written)}: {key} is a list, and not every command takes several{where}")
        return key, next((option for option in settable if not option.several), settable[0])

    def _checked(self, written: str, value: Any, option: Option, table: str | None = None) -> Any:
        """The value as the parser takes it."""
        items = value if option.several and isinstance(value, list) else [value]
        if not all(_fits(item, option) for item in items):
            raise UsageError(
                f"{self.at(written, table)}: {option.key} is {_told(value)}; allowed is {option.allowed()}"
            )
        texts = bool(option.takes - {int, float, bool})
        plain = [str(item) if texts else item for item in items]
        return plain if option.several else plain[0]

    def at(self, written: str, table: str | None = None) -> str:
        """A key's place, as messages name it."""
        line = self._line(written, table)
        return f"{self.name} line {line}" if line else self.name

    @property
    def name(self) -> str:
        return _near(self.path)

    def where(self, key: str, table: str | None) -> str:
        """The same for a key that was taken, however it was written."""
        return next((self.at(w, table) for w in (key, key.replace("-", "_")) if self._line(w, table)), self.name)

    def _line(self, written: str, table: str | None) -> int | None:
        return self._lines.get((table, written))

    @cached_property
    def _lines(self) -> dict[tuple[str | None, str], int]:
        """The lines where keys begin: each the first after the longest part of the file that is valid without it."""
        found: dict[tuple[str | None, str], int] = {}
        lines, before = self.text.split("\n"), 0
        for at in range(1, len(lines) + 1) if len(lines) <= _MOST_LINES else ():
            try:
                data = tomllib.loads("\n".join(lines[:at]))
            except tomllib.TOMLDecodeError:
                continue  # in the middle of a value of several lines
            for name, value in data.items():
                found.setdefault((None, name), before + 1)
                for inner in value if isinstance(value, dict) else ():
                    found.setdefault((name, inner), before + 1)
            before = at
        return found


def _near(path: Path) -> str:
    """A path, as short as it can be said from here."""
    here = _here()
    return str(path.relative_to(here) if here is not None and path.is_relative_to(here) else path)


def _here() -> Path | None:
    """The working folder; None where it has been removed."""
    try:
        return Path.cwd()
    except OSError:
        return None


def _is_there(path: Path) -> bool:
    """Whether there is something; what can't be looked at is as good as not there."""
    try:
        return path.exists()
    except OSError:
        return False


def _fits(item: Any, option: Option) -> bool:
    if option.flag or isinstance(item, bool):
        return option.flag and isinstance(item, bool)
    if option.takes == {int}:
        return isinstance(item, int)
    if option.takes == {float}:
        return isinstance(item, int | float)
    return isinstance(item, str | int)  # a number is as good as its text, as for cluster = 2


def _told(value: Any) -> str:
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:59]}…"


def _unknown(written: str, option: Option | None, options: Mapping[str, Option], place: str) -> str:
    if option is not None:
        return f"{option.key} belongs to one call; give --{option.key} on the command line and take it out here"
    there = [key for key, known in options.items() if known.settable]
    close = meant(written.replace("_", "-"), there, most=1)
    return f"{place} has no setting {written!r}{close}; it has {', '.join(sorted(there)) or 'none'}"


def project_files(start: Path, home: Path) -> list[Path]:
    """Where a project's file may be: the working folder and its parents, up to a repository's root or the home folder.
    Outside of both it is the working folder alone: what others leave in a shared folder above is not read."""
    found = []
    for folder in (start, *start.parents):
        found.append(folder / FILE)
        if folder == home or _is_there(folder / ".git"):
            return found
    return found[:1]


# --- all of it -----------------------------------------------------------------------------------------------------


class Settings:
    """What variables and files say, read when it is first asked for.

    Args:
        config: The file that ``--config`` names; "none" reads none at all.
        environment: Variables by their names; by default those of this process.
    """

    def __init__(self, config: str | None = None, environment: Mapping[str, str] | None = None) -> None:
        self.config = config
        self.debug = False
        self._environment = os.environ if environment is None else environment
        self._catalog: dict[str, dict[str, Option]] = {}
        self.warnings: list[str] = []

    def know(self, commands: Mapping[str, Any]) -> None:
        """Take the options from the commands; done at the first need, as it imports them."""
        if not self._catalog:
            self._catalog = {name: options_of(command) for name, command in commands.items()}

    @property
    def catalog(self) -> Mapping[str, Mapping[str, Option]]:
        return self._catalog

    def anything(self) -> bool:
        """Whether there is a variable or a file at all; cheap."""
        return any(name.startswith(PREFIX) for name in self._environment) or any(
            at.there or at.kind == "named" for at in self.looked()
        )

    def looked(self) -> list[Looked]:
        """The files that are looked for, the first one first. Of a project's the nearest that is there counts."""
        import platformdirs

        named = self.config or self._environment.get("LED_AGENT_CONFIG") or None
        if named == NO_FILE:
            return []
        user = Path(platformdirs.user_config_path("led_agent")) / FILE
        if named is not None:
            path = Path(named).expanduser()
            first = [Looked("named", path, _is_there(path))]
        else:
            here = _here()
            places = project_files(here, Path("~").expanduser()) if here is not None else []
            nearest = next((path for path in places if _is_there(path)), None)
            first = [Looked("project", path, path == nearest) for path in places if nearest is None or path == nearest]
        return [at for at in first if at.path != user] + [Looked("user", user, _is_there(user))]

    @cached_property
    def files(self) -> list[File]:
        """Those that are there, the first one first.

        Raises:
            UsageError: one holds something that is no setting, or the file that was named isn't there.
        """
        found = []
        for at in self.looked():
            if at.kind == "named" and not at.there:
                raise UsageError(
                    f"there is no settings file {at.path}; --config and LED_AGENT_CONFIG name one that exists, or "
                    f"{NO_FILE!r} for no file at all"
                )
            if at.there:
                found.append(File.read(at.path, self._catalog))
        return found

    @cached_property
    def variables(self) -> dict[str, str]:
        """Those of the family that set an option. Others are kept as warnings."""
        known = {}
        for name, value in sorted(self._environment.items()):
            if not name.startswith(PREFIX) or name in OTHER_VARIABLES:
                continue
            options = self._meant_by(name)
            if any(option.settable for option in options):
                known[name] = value
            elif options:
                self.warnings.append(f"{name} is not read: --{options[0].key} belongs to one call")
            else:
                there = [*self._names(), *OTHER_VARIABLES]
                self.warnings.append(f"the variable {name} sets nothing{meant(name, there, most=1)}")
        return known

    def _names(self) -> Iterator[str]:
        for command, options in self._catalog.items():
            for key, option in options.items():
                if option.settable:
                    yield _variable(key)
                    yield _variable(f"{command}-{key}")

    def _meant_by(self, name: str) -> list[Option]:
        return [
            option
            for command, options in self._catalog.items()
            for key, option in options.items()
            if name in (_variable(key), _variable(f"{command}-{key}"))
        ]

    def of(self, command: str) -> dict[str, Given]:
        """What is set for a command, by the parser's names of its options.

        Raises:
            UsageError: a file or a variable holds what is not allowed.
        """
        files, variables = self.files, self.variables
        found = {}
        for option in self._catalog.get(command, {}).values():
            given = _from_variables(variables, command, option) or _from_files(files, command, option)
            if option.settable and given is not None:
                found[option.parameter] = given
        return found


def _variable(key: str) -> str:
    return PREFIX + key.replace("-", "_").upper()


def _from_variables(variables: Mapping[str, str], command: str, option: Option) -> Given | None:
    for rank, name in enumerate((_variable(f"{command}-{option.key}"), _variable(option.key))):
        if variables.get(name):  # empty is as good as not there, as everywhere
            return Given(_from_text(name, variables[name], option), name, rank)
    return None


def _from_text(name: str, text: str, option: Option) -> Any:
    """A variable's text as the parser takes it. Numbers it converts itself."""
    if option.flag:
        if text.lower() in (*_YES, *_NO):
            return text.lower() in _YES
        raise UsageError(f"{name} is {text!r}; allowed is {', '.join((*_YES, *_NO))}")
    if not option.several:
        return text
    if not text.lstrip().startswith("["):
        return [text]
    try:
        items = json.loads(text)
    except ValueError as error:
        raise UsageError(
            f"{name} begins with a bracket, as a list in JSON does, but is none: {error}; write several values as "
            '["one", "two"], and one that begins with a bracket as a list of one'
        ) from error
    if not all(isinstance(item, str) for item in items):
        raise UsageError(f"{name} is {text!r}; allowed is text, or a list of texts in JSON")
    return items


def _from_files(files: list[File], command: str, option: Option) -> Given | None:
    key = option.key
    places = [
        place for file in files for place in ((file, command, file.tables.get(command, {})), (file, None, file.top))
    ]
    for rank, (file, table, values) in enumerate(places, _VARIABLES):
        if key in values:
            value = values[key]
            single = option.several and not isinstance(value, list)  # at the top, for commands that take one, too
            return Given([value] if single else value, file.where(key, table), rank)
    return None
