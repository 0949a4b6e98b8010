"""What tests import as ``pytest``, where no package can be: ``raises``, ``approx`` and ``mark.parametrize``.

This is not pytest: fixtures, plug-ins and markers are refused by name.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Iterator
from typing import Any

from .proxies import Unsupported

__all__ = ["approx", "arguments_of", "fail", "mark", "raises"]


class _Raises:
    """``with raises(ValueError, match="…") as caught:``."""

    def __init__(self, expected: Any, match: str | None = None) -> None:
        self._expected, self._match = expected, match
        self.value: BaseException | None = None

    def __enter__(self) -> _Raises:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        if error is None:
            raise AssertionError(f"did not raise {self._expected}")
        if not isinstance(error, self._expected):
            return False
        if self._match is not None and not re.search(self._match, str(error)):
            raise AssertionError(f"{str(error)[:300]!r} does not match {self._match!r}")
        self.value = error
        return True


def raises(
    expected: Any, function: Callable[..., Any] | None = None, *args: Any, match: str | None = None, **kw: Any
) -> Any:
    """As pytest's: a context manager, or a call of ``function``."""
    if function is None:
        return _Raises(expected, match)
    with _Raises(expected, match) as caught:
        function(*args, **kw)
    return caught


class approx:  # noqa: N801 - pytest's name
    """As pytest's, for numbers and for lists, tuples and dicts of them."""

    def __init__(self, expected: Any, rel: float = 1e-6, abs: float = 1e-12) -> None:  # noqa: A002 - pytest's name
        self._expected, self._rel, self._abs = expected, rel, abs

    def __eq__(self, other: object) -> bool:
        return self._close(self._expected, other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"approx({self._expected!r})"

    def _close(self, wanted: Any, given: Any) -> bool:
        if isinstance(wanted, dict):
            same_keys = isinstance(given, dict) and wanted.keys() == given.keys()
            return same_keys and all(self._close(wanted[key], given[key]) for key in wanted)
        if isinstance(wanted, list | tuple):
            same_size = isinstance(given, list | tuple) and len(wanted) == len(given)
            return same_size and all(self._close(a, b) for a, b in zip(wanted, given, strict=True))
        if isinstance(wanted, int | float) and isinstance(given, int | float):
            return wanted == given or math.isclose(wanted, given, rel_tol=self._rel, abs_tol=self._abs)
        return bool(wanted == given)


def main(*_: object, **__: object) -> int:
    """Nothing: tests are collected without being told."""
    return 0


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    raise Unsupported(f"the tests use pytest.{name}, which there is none of in here")


def fail(reason: str = "") -> None:
    """As pytest's."""
    raise AssertionError(reason)


class _Mark:
    def __getattr__(self, name: str) -> Any:
        raise Unsupported(f"the tests use pytest.mark.{name}, which there is none of in here")

    def parametrize(self, names: str | list[str], values: list[Any], **_: Any) -> Callable[[Any], Any]:
        listed = [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)

        def mark(function: Any) -> Any:
            rows = [dict(zip(listed, row if len(listed) > 1 else [row], strict=True)) for row in values]
            before = getattr(function, "_led_rows", [{}])
            function._led_rows = [{**one, **other} for one in before for other in rows]
            return function

        return mark


mark = _Mark()


def arguments_of(function: Any, given: int = 0) -> Iterator[dict[str, Any]]:
    """The keyword arguments of each run of a test function, but for the first ``given``.

    Raises:
        Unsupported: it asks for fixtures, which there are none of.
    """
    rows = getattr(function, "_led_rows", [{}])
    asked = set(list(inspect.signature(function).parameters)[given:]) - set(rows[0] if rows else {})
    if asked:
        raise Unsupported(
            f"{function.__name__} asks for the fixtures {', '.join(sorted(asked))}; there are none in here"
        )
    yield from rows
