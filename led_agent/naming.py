"""How strategies and verifiers are named on a command line: ``NAME:key=value,key=value``, and the user's own by
``package.module:name`` or ``path/to/file.py:name``.

This file knows how settings are spelled and how a name is imported. It knows no strategy and no verifier.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import re
import sys
import types
import typing
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from led_agent.errors import UsageError

__all__ = ["convert", "hints_of", "kinds", "load_own", "meant", "own_modules", "settings", "unescaped"]

_SETTING = re.compile(r"([A-Za-z_]\w*)=(.*)", re.DOTALL)
_FROM_FILE = "led_agent_user_"  # how the modules that are made of users' files are called
_ESCAPES = {"\\n": "\n", "\\t": "\t", "\\\\": "\\"}


# --- settings ------------------------------------------------------------------------------------------------------


def settings(
    owner: str, rest: str, allowed: Collection[str], *, first: str | None = None, unlisted: Collection[str] = ()
) -> dict[str, str]:
    """Settings as text, from ``key=value,key=value``. What follows a comma and is no ``name=`` belongs to the value
    before.

    Args:
        owner: Whose settings they are, for messages.
        allowed: Their names.
        first: The one that may come first without its name.
        unlisted: Those among them that messages don't name.

    Raises:
        UsageError: something is no setting, none that is allowed, or given twice.
    """
    told = ", ".join(key for key in allowed if key not in unlisted) or "none"
    given: dict[str, str] = {}
    last: str | None = None
    for at, item in enumerate(rest.split(",") if rest else []):
        named = _SETTING.fullmatch(item.strip() if at else item)
        if at == 0 and first is not None and (named is None or named[1] not in allowed):
            given[first], last = item.strip(), None
        elif named is not None:
            last = named[1]
            if last not in allowed:
                raise UsageError(f"{owner} has no setting {last!r}{meant(last, allowed, most=1)}; it has {told}")
            if last in given:
                raise UsageError(f"{owner}: {last} is given twice")
            given[last] = named[2]
        elif last is not None:
            given[last] += f",{item}"
        else:
            raise UsageError(
                f"{owner}: {item!r} is no setting; settings are NAME=VALUE with commas between them, of {told}"
            )
    return given


def convert(owner: str, setting: str, text: str, hint: Any, default: Any) -> Any:
    """A setting's text as what its type hint takes, the narrowest that fits; without a hint, as its default's type.

    Raises:
        UsageError: the text is nothing that is allowed there.
    """
    found = kinds(hint if hint is not None else type(default))
    stripped, allowed = text.strip(), []
    for kind, told, made in _CONVERTERS:
        if kind in found:
            allowed.append(told)
            try:
                return made(stripped)
            except ValueError:
                continue
    choices = [choice for choice in found if isinstance(choice, str)]
    if stripped in choices:
        return stripped
    if found & {str, Path}:
        return unescaped(text)
    raise UsageError(f"{owner}: {setting} is {text!r}; allowed is {' or '.join([*choices, *allowed])}")


def unescaped(text: str) -> str:
    r"""The text with ``\n``, ``\t`` and ``\\`` as what they stand for."""
    return re.sub(r"\\[nt\\]", lambda found: _ESCAPES[found[0]], text)


def hints_of(owner: Callable[..., Any]) -> dict[str, Any]:
    """Type hints of a function's parameters or a class's fields; none where one is imported for type checkers alone."""
    try:
        return typing.get_type_hints(owner)
    except NameError:
        return {}


def kinds(hint: Any) -> set[Any]:
    """Types, and texts of a Literal, that a hint allows."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return set().union(*map(kinds, typing.get_args(hint)))
    if origin is typing.Literal:
        return set(typing.get_args(hint))
    return {types.NoneType if hint is None else hint}


def meant(name: str, there: Collection[str], *, most: int = 2) -> str:
    """The end of a message about an unknown name: which known ones are like it; empty where none is."""
    close = difflib.get_close_matches(name, there, n=most)
    return f"; did you mean {' or '.join(close)}?" if close else ""


def _boolean(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError(text)
    return text.lower() == "true"


def _none(text: str) -> None:
    if text.lower() != "none":
        raise ValueError(text)


_CONVERTERS: tuple[tuple[type, str, Callable[[str], Any]], ...] = (
    (types.NoneType, "none", _none),
    (bool, "true or false", _boolean),
    (int, "a whole number", int),
    (float, "a number", float),
)


# --- the user's own ------------------------------------------------------------------------------------------------


def load_own(text: str, kind: str, unknown: Callable[[str], str]) -> Any:
    """What the user calls ``package.module:name`` or ``path/to/file.py:name``, imported once.

    Args:
        text: As it was given.
        kind: "verifier" or "strategy", for messages.
        unknown: The message for a name that means nothing.

    Raises:
        UsageError: the text has neither form, there is no such thing, or importing it raised.
    """
    own, colon, attribute = text.rpartition(":")
    if colon and attribute.isidentifier() and (own.endswith(".py") or "/" in own):
        return _attribute(_from_file(Path(own).expanduser(), kind), attribute, own)
    if colon and attribute.isidentifier() and all(part.isidentifier() for part in own.split(".")):
        return _attribute(_from_module(own, kind, unknown), attribute, own)
    raise UsageError(unknown(text))


def own_modules() -> list[types.ModuleType]:
    """The modules that ``load_own`` made of files. No other process can import them by their names."""
    names = [name for name in list(sys.modules) if name.startswith(_FROM_FILE)]  # other threads import meanwhile
    return [module for name in names if (module := sys.modules.get(name)) is not None]


def _from_module(name: str, kind: str, unknown: Callable[[str], str]) -> types.ModuleType:
    # As `python -m` has it, and an installed command hasn't; last, so that nothing there replaces what is installed.
    if str(Path.cwd()) not in sys.path and "" not in sys.path:
        sys.path.append(str(Path.cwd()))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise UsageError(unknown(name) + f"; no module {error.name!r} is found") from error
        raise UsageError(f"{kind} {name}: importing it raised ModuleNotFoundError: {error}") from error
    except Exception as error:
        raise UsageError(f"{kind} {name}: importing it raised {type(error).__name__}: {error}") from error


def _from_file(path: Path, kind: str) -> types.ModuleType:
    if not path.is_file():
        raise UsageError(f"{kind} {path}: there is no such file")
    digest = hashlib.blake2b(str(path.resolve()).encode(), digest_size=4).hexdigest()
    name = f"{_FROM_FILE}{path.stem}_{digest}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{kind} {path}: a Python file is needed, whose name ends in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickles look it up there
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise UsageError(f"{kind} {path}: importing it raised {type(error).__name__}: {error}") from error
    return module


def _attribute(module: types.ModuleType, name: str, where: str) -> Any:
    try:
        return getattr(module, name)
    except AttributeError as error:
        there: Sequence[str] = [n for n, value in vars(module).items() if callable(value) and not n.startswith("_")]
        close = difflib.get_close_matches(name, there, n=3) or there[:10]
        raise UsageError(
            f"{where} has no {name!r}; it has {', '.join(close) or 'nothing that can be called'}"
        ) from error
