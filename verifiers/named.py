"""Verifiers by name, as the command line takes them: "math_answer", "unit_tests:timeout=2", "my_module:my_function".

This file knows names and how settings are spelled. What a verifier's settings are, its own function's signature says.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import inspect
import re
import sys
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

from led_agent.errors import UsageError
from led_agent.protocols import Verifier

__all__ = ["VERIFIER_NAMES", "parse_verifier"]

VERIFIER_NAMES = ("math_answer", "countdown", "unit_tests", "matches", "consensus", "reward_model", "judge")
_OWN = "your own are package.module:function or path/to/file.py:function"
_SETTING = re.compile(r"([A-Za-z_]\w*)=(.*)", re.DOTALL)
_ESCAPES = {"\\n": "\n", "\\t": "\t", "\\\\": "\\"}


def parse_verifier(text: str) -> Verifier:
    """The verifier of a name and its settings.

    - ``math_answer``, ``countdown``, ``unit_tests``, ``consensus``; settings follow a colon, with commas between
      them: ``unit_tests:timeout=2,partial=true``. Values are true, false, none, numbers or text, in which ``\\n`` and
      ``\\t`` are escapes; what follows a comma and is no ``name=`` belongs to the value before.
    - ``reward_model:PATH,scope=process``, ``judge:MODEL,url=http://…``: the model comes first.
    - ``matches:REGEX``: the rest is the pattern, whatever is in it.
    - ``package.module:function`` and ``path/to/file.py:function``: a callable ``(problem, branch)`` of the user's own.

    Raises:
        UsageError: no such verifier or setting, or a value that a setting doesn't take; the message says which there
            are.
    """
    name, colon, rest = text.strip().partition(":")
    if name in VERIFIER_NAMES:
        return _built_in(name, rest)
    own, _, attribute = text.strip().rpartition(":")
    if colon and attribute.isidentifier() and (own.endswith(".py") or "/" in own):
        return _checked(_attribute(_from_file(Path(own).expanduser()), attribute, own), text)
    if colon and attribute.isidentifier() and all(part.isidentifier() for part in own.split(".")):
        return _checked(_attribute(_from_module(own), attribute, own), text)
    raise UsageError(_unknown(name, text))


def _unknown(name: str, text: str) -> str:
    close = difflib.get_close_matches(name, VERIFIER_NAMES, n=2)
    meant = f"; did you mean {' or '.join(close)}?" if close else ""
    return f"no verifier is called {text!r}{meant}; there are {', '.join(VERIFIER_NAMES)}; {_OWN}"


# --- those of led_agent --------------------------------------------------------------------------------------------


def _built_in(name: str, rest: str) -> Verifier:
    factory = _factory(name)
    if name == "matches":
        if not rest:
            raise UsageError("matches needs a pattern: matches:REGEX, e.g. 'matches:^yes'")
        return factory(rest)
    parameters = inspect.signature(factory).parameters
    given = _settings(name, rest, parameters)
    hints = _hints(factory)
    values = {key: _value(name, key, value, hints.get(key), parameters[key].default) for key, value in given.items()}
    missing = [key for key, p in parameters.items() if p.default is p.empty and key not in values]
    if missing:
        raise UsageError(f"{name} needs its {missing[0]}: {name}:{missing[0].upper()}")
    return factory(**values)


def _factory(name: str) -> Callable[..., Verifier]:
    """The function that makes a verifier, looked up when it is needed: some of them are costly to import."""
    home = importlib.import_module("led_agent.verifiers")
    found = getattr(home, name, None)
    if inspect.ismodule(found):
        found = getattr(found, name, None)
    if not callable(found):
        there = [n for n in VERIFIER_NAMES if callable(getattr(home, n, None))]
        raise UsageError(f"this version of led_agent has no verifier {name}; it has {', '.join(there)}")
    made: Callable[..., Verifier] = found
    return made


def _settings(name: str, rest: str, parameters: typing.Mapping[str, inspect.Parameter]) -> dict[str, str]:
    """Settings as text: of "PATH,scope=process" the first parameter's, where it must be given, and the named ones."""
    given: dict[str, str] = {}
    first = next((key for key, p in parameters.items() if p.default is p.empty), None)
    last: str | None = None
    for at, item in enumerate(rest.split(",") if rest else []):
        named = _SETTING.fullmatch(item.strip() if at else item)
        if at == 0 and first is not None and (named is None or named[1] not in parameters):
            given[first], last = item.strip(), None
        elif named is not None:
            last = named[1]
            _check_setting(name, last, parameters, given)
            given[last] = named[2]
        elif last is not None:
            given[last] += f",{item}"
        else:
            raise UsageError(
                f"{name}: {item!r} is no setting; settings are NAME=VALUE with commas between them, of "
                f"{_listed(parameters)}"
            )
    return given


def _check_setting(
    name: str, setting: str, parameters: typing.Mapping[str, inspect.Parameter], given: dict[str, str]
) -> None:
    if setting not in parameters:
        close = difflib.get_close_matches(setting, parameters, n=1)
        meant = f"; did you mean {close[0]}?" if close else ""
        raise UsageError(f"{name} has no setting {setting!r}{meant}; it has {_listed(parameters)}")
    if _secret(setting):
        raise UsageError(
            f"{name}: {setting} isn't taken here, where it would be read by others and kept with the run; set the "
            "environment variable LED_AGENT_JUDGE_API_KEY"
        )
    if setting in given:
        raise UsageError(f"{name}: {setting} is given twice")


def _secret(setting: str) -> bool:
    return setting.endswith("key")


def _listed(parameters: typing.Mapping[str, inspect.Parameter]) -> str:
    return ", ".join(key for key in parameters if not _secret(key)) or "none"


def _hints(factory: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(factory)
    except NameError:  # a type that is imported for type checkers alone
        return {}


def _value(name: str, setting: str, text: str, hint: Any, default: Any) -> Any:
    """The text as what the signature takes there, the narrowest that fits."""
    kinds = _kinds(hint if hint is not None else type(default))
    stripped, allowed = text.strip(), []
    for kind, told, convert in _CONVERTERS:
        if kind in kinds:
            allowed.append(told)
            try:
                return convert(stripped)
            except ValueError:
                continue
    choices = [choice for choice in kinds if isinstance(choice, str)]
    if stripped in choices:
        return stripped
    if kinds & {str, Path}:
        return re.sub(r"\\[nt\\]", lambda found: _ESCAPES[found[0]], text)
    raise UsageError(f"{name}: {setting} is {text!r}; allowed is {' or '.join([*choices, *allowed])}")


def _kinds(hint: Any) -> set[Any]:
    """Types, and texts of a Literal, that a hint allows."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return set().union(*map(_kinds, typing.get_args(hint)))
    if origin is typing.Literal:
        return set(typing.get_args(hint))
    return {types.NoneType if hint is None else hint}


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


def _from_module(name: str) -> types.ModuleType:
    # As `python -m` has it, and an installed command hasn't; last, so that nothing there replaces what is installed.
    if str(Path.cwd()) not in sys.path and "" not in sys.path:
        sys.path.append(str(Path.cwd()))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise UsageError(_unknown(name, name) + f"; no module {error.name!r} is found") from error
        raise UsageError(f"verifier {name}: importing it raised ModuleNotFoundError: {error}") from error
    except Exception as error:
        raise UsageError(f"verifier {name}: importing it raised {type(error).__name__}: {error}") from error


def _from_file(path: Path) -> types.ModuleType:
    if not path.is_file():
        raise UsageError(f"verifier {path}: there is no such file")
    digest = hashlib.blake2b(str(path.resolve()).encode(), digest_size=4).hexdigest()
    name = f"led_agent_user_{path.stem}_{digest}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"verifier {path}: a Python file is needed, whose name ends in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickles look it up there
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise UsageError(f"verifier {path}: importing it raised {type(error).__name__}: {error}") from error
    return module


def _attribute(module: types.ModuleType, name: str, where: str) -> Any:
    try:
        return getattr(module, name)
    except AttributeError as error:
        there = [n for n, value in vars(module).items() if callable(value) and not n.startswith("_")]
        close = difflib.get_close_matches(name, there, n=3) or there[:10]
        raise UsageError(
            f"{where} has no {name!r}; it has {', '.join(close) or 'nothing that can be called'}"
        ) from error


def _checked(found: Any, text: str) -> Verifier:
    """What takes a problem and a branch."""
    told = f"verifier {text}: a verifier is a callable (problem, branch)"
    if isinstance(found, type):
        raise UsageError(f"{told}; found the class {found.__name__}; name a function, or an object of it")
    if not callable(found):
        raise UsageError(f"{told}; found {type(found).__name__}")
    try:
        inspect.signature(found).bind(None, None)
    except TypeError as error:
        raise UsageError(f"{told}; found {inspect.signature(found)}: {error}") from error
    except ValueError:  # a builtin without a signature
        pass
    verifier: Verifier = found
    return verifier
