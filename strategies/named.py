"""Strategies by name, as the command line takes them: "best-of-n:n=16", "fallback(beam:width=2):tries=1".

This file knows names and brackets. What a strategy's settings are, its own fields say; which strategies there are,
``led_agent.strategies.__all__``.
"""

from __future__ import annotations

import dataclasses
import importlib
import re
import typing
from typing import Any

from led_agent.errors import UsageError
from led_agent.naming import convert, hints_of, kinds, load_own, meant, settings, unescaped
from led_agent.protocols import Strategy, Verifier
from led_agent.types import Decoding

__all__ = ["parse_strategies", "parse_strategy", "strategy_name", "strategy_names"]

_OWN = "your own are package.module:name or path/to/file.py:name"
_WORD_BEGINS = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


@dataclasses.dataclass(frozen=True)
class _How:
    """How names are read: ``n`` where none is given, and whether the user's own code may be named."""

    n: int | None
    own: bool


def parse_strategy(text: str, *, n: int | None = None, own: bool = True) -> Strategy:
    r"""The strategy of a name and its settings.

    - ``best-of-n``, ``BestOfN``, ``best_of_n``: the class's name, whatever its case, with or without hyphens and
      underscores.
    - ``beam:width=2,step=\n\n``: settings follow a colon, with commas between them. Values are true, false, none,
      numbers or text, in which ``\n`` and ``\t`` are escapes; what follows a comma and is no ``name=`` belongs to the
      value before. ``+`` stands between several texts. A decoding is named as with ``--decoding``.
    - ``fallback(best-of-n:n=16):tries=2``: the strategy that it is made around, in brackets;
      ``portfolio(best-of-n|beam)`` where it takes several.
    - ``package.module:name`` and ``path/to/file.py:name``: the user's own, an object or what makes one without being
      given anything.

    Args:
        n: What the setting ``n`` is where a strategy has it and the text does not give it.
        own: Whether the text comes from who may run code here: without it, only strategies of led_agent can be named,
            and no verifiers in their settings.

    Raises:
        UsageError: no such strategy or setting, or a value that a setting doesn't take; the message says which there
            are.
    """
    return _parsed(text, _How(n, own))


def _parsed(text: str, how: _How) -> Strategy:
    stripped = text.strip()
    name, inner, rest = _parts(stripped)
    cls = _known().get(_plain(name))
    if cls is None:
        if inner is not None or not how.own:
            raise UsageError(_unknown(name, own=how.own))
        return _own(stripped)
    return _built(cls, name, inner, rest, how)


def parse_strategies(text: str, *, n: int | None = None) -> list[tuple[str, Strategy]]:
    """Several strategies with ``;`` between them, each with its text.

    Raises:
        UsageError: as ``parse_strategy``.
    """
    return [(part.strip(), parse_strategy(part, n=n)) for part in _split(text, ";") if part.strip()]


def strategy_name(strategy: object) -> str:
    """A short name for tables: the class, and what of its settings is not as it comes: ``BestOfN(n=16)``."""
    name = type(strategy).__name__
    if not dataclasses.is_dataclass(strategy):
        return name
    told = []
    for field in dataclasses.fields(strategy):
        value = getattr(strategy, field.name)
        if value != _default(field):
            told.append(_told(value) if _is_strategy(value) or _several(value) else f"{field.name}={_told(value)}")
    return f"{name}({', '.join(told)})" if told else name


def _told(value: Any) -> str:
    if isinstance(value, Decoding):
        return value.label
    if isinstance(value, tuple):
        return " | ".join(map(_told, value)) if _several(value) else f"({', '.join(map(_told, value))})"
    return strategy_name(value) if _is_strategy(value) else repr(value)


def _several(value: object) -> bool:
    return isinstance(value, tuple) and bool(value) and all(map(_is_strategy, value))


def _is_strategy(value: object) -> bool:
    return callable(getattr(value, "propose", None))


# --- which there are -----------------------------------------------------------------------------------------------


def _known() -> dict[str, type[Any]]:
    """Classes of strategies by their plain names; looked up when needed, as they import this folder, too."""
    home = importlib.import_module("led_agent.strategies")
    found = (getattr(home, name) for name in home.__all__)
    return {_plain(one.__name__): one for one in found if isinstance(one, type) and dataclasses.is_dataclass(one)}


def _plain(name: str) -> str:
    return name.strip().lower().replace("-", "").replace("_", "")


def _spelled(cls: type) -> str:
    """A class's name as it is usually typed: best-of-n."""
    return _WORD_BEGINS.sub("-", cls.__name__).lower()


def strategy_names() -> list[str]:
    """The strategies of led_agent, as they are usually typed."""
    return [_spelled(cls) for cls in _known().values()]


def _unknown(text: str, *, own: bool = True) -> str:
    there = strategy_names()
    close = meant(text.partition(":")[0].strip().lower(), there)
    return f"no strategy is called {text!r}{close}; there are {', '.join(there)}{f'; {_OWN}' if own else ''}"


# --- reading -------------------------------------------------------------------------------------------------------


def _parts(text: str) -> tuple[str, str | None, str]:
    """Name, what stands in brackets, and the settings."""
    opening = text.find("(")
    if opening < 0 or ":" in text[:opening]:
        name, _, rest = text.partition(":")
        return name, None, rest
    depth = 0
    for at in range(opening, len(text)):
        depth += (text[at] == "(") - (text[at] == ")")
        if depth == 0:
            rest = text[at + 1 :].strip()
            if rest and not rest.startswith(":"):
                raise UsageError(f"strategy {text!r}: after the bracket comes a colon and settings; found {rest!r}")
            return text[:opening], text[opening + 1 : at], rest[1:]
    raise UsageError(f"strategy {text!r}: a bracket is left open")


def _split(text: str, mark: str) -> list[str]:
    """The parts between the marks that stand outside of brackets."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter == "(") - (letter == ")")
        if letter == mark and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def _built(cls: type[Any], name: str, inner: str | None, rest: str, how: _How) -> Strategy:
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    hints = hints_of(cls)
    given = settings(name, rest, fields)
    values = {key: _value(name, key, text, hints.get(key), fields[key], how) for key, text in given.items()}
    if inner is not None:
        values |= _inside(name, inner, fields, hints, values, how)
    elif how.n is not None:
        values |= _around(fields, values, how.n)
    if how.n is not None and "n" in fields and "n" not in values:
        values["n"] = how.n
    missing = [key for key, field in fields.items() if key not in values and _default(field) is dataclasses.MISSING]
    if missing:
        raise UsageError(f"{name} needs its {missing[0]}: {name}:{missing[0]}=…")
    strategy: Strategy = cls(**values)
    return strategy


def _around(fields: dict[str, dataclasses.Field[Any]], values: dict[str, Any], n: int) -> dict[str, Any]:
    """The strategies that one is made around as it comes, with this n where they have one."""
    defaults: dict[str, Any] = {key: _default(field) for key, field in fields.items() if key not in values}
    return {
        key: dataclasses.replace(default, n=n)
        for key, default in defaults.items()
        if _is_strategy(default) and hasattr(default, "n") and hasattr(type(default), "__dataclass_fields__")
    }


def _value(name: str, key: str, text: str, hint: Any, field: dataclasses.Field[Any], how: _How) -> Any:
    """A setting's text as what the field takes."""
    item = _item(hint)
    if item is not None:
        return tuple(_single(name, key, part, item, None, how) for part in text.split("+"))
    return _single(name, key, text, hint, _default(field), how)


def _single(name: str, key: str, text: str, hint: Any, default: Any, how: _How) -> Any:
    found = kinds(hint) if hint is not None else set()
    if type(None) in found and text.strip().lower() == "none":
        return None
    if Decoding in found:
        return Decoding.parse(text.strip())
    if Strategy in found:
        return _parsed(text, how)
    if Verifier in found and str not in found:
        if not how.own:
            raise UsageError(f"{name}: {key} is a verifier, which can't be named here")
        return importlib.import_module("led_agent.verifiers.named").parse_verifier(text)
    if any(_item(kind) is str for kind in found):  # one string, or several
        parts = tuple(map(unescaped, text.split("+")))
        return parts[0] if len(parts) == 1 and str in found else parts
    return convert(name, key, text, hint, default)


def _item(hint: Any) -> Any:
    """What a tuple or sequence of any length holds; None where the hint is something else."""
    arguments = typing.get_args(hint)
    origin = typing.get_origin(hint)
    if origin is tuple and len(arguments) == 2 and arguments[1] is Ellipsis:
        return arguments[0]
    abstract = isinstance(origin, type) and origin.__module__ == "collections.abc" and origin.__name__ == "Sequence"
    return arguments[0] if abstract else None


def _inside(
    name: str,
    inner: str,
    fields: dict[str, dataclasses.Field[Any]],
    hints: dict[str, Any],
    values: dict[str, Any],
    how: _How,
) -> dict[str, Any]:
    """What stands in brackets, as the fields that take strategies: one that takes several gets all of them."""
    parts = tuple(_parsed(part, how) for part in _split(inner, "|"))
    for key in fields:
        if _item(hints.get(key)) is Strategy and key not in values:
            return {key: parts}
    places = [key for key in fields if hints.get(key) is not None and Strategy in kinds(hints[key])]
    free = [key for key in places if key not in values]
    if len(parts) > len(free):
        told = f"it takes {len(places)}" if places else "it is made around no other strategy"
        raise UsageError(f"{name}: {len(parts)} strategies stand in brackets; {told}")
    return dict(zip(free, parts, strict=False))


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _own(text: str) -> Strategy:
    """The user's own: an object with ``propose``, or a callable that makes one."""
    found = load_own(text, "strategy", _unknown)
    told = f"strategy {text}: a strategy has propose(tree, slots)"
    if (isinstance(found, type) or not _is_strategy(found)) and callable(found):
        try:
            found = found()
        except Exception as error:
            raise UsageError(f"strategy {text}: making it raised {type(error).__name__}: {error}") from error
    if isinstance(found, type) or not _is_strategy(found):
        raise UsageError(f"{told}; found {type(found).__name__}")
    strategy: Strategy = found
    return strategy
