"""A problem's tests as they are given, read and checked: calls with values, inputs with outputs, or Python source.

This file knows no sandbox and runs nothing. Tests are trusted; what is wrong with them is said before anything is
decoded.
"""

from __future__ import annotations

import ast
import builtins
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from led_agent.errors import UsageError
from led_agent.types import Problem
from led_agent.verifiers.sandbox.inside.values import Tree, Unfit, check, encode, shown
from led_agent.verifiers.sandbox.pool import Call

__all__ = ["CallCase", "Cases", "StdinCase", "TestSource", "read_tests"]

_CALL_KEYS = {"args", "kwargs", "expect", "raises", "tolerance"}
_STDIN_KEYS = {"stdin", "stdout", "tolerance"}


@dataclass(frozen=True)
class CallCase:
    """One call, and what it must return or raise."""

    call: Call
    expect: Tree
    raises: str | None
    tolerance: float | None
    shown: str


@dataclass(frozen=True)
class StdinCase:
    """One input, and the output it must give."""

    stdin: str
    stdout: str
    tolerance: float | None


@dataclass(frozen=True)
class Cases:
    """Cases of one kind."""

    cases: tuple[CallCase, ...] | tuple[StdinCase, ...]


@dataclass(frozen=True)
class TestSource:
    """Tests in Python, and the names they call that somebody else must define."""

    source: str
    names: tuple[str, ...]


def read_tests(problem: Problem) -> Cases | TestSource | None:
    """The problem's tests; None where it has none.

    Raises:
        UsageError: they can't be run; the message names the case or the line, and what is allowed.
    """
    tests = problem.tests
    if tests is None or (not isinstance(tests, str) and not tests) or (isinstance(tests, str) and not tests.strip()):
        return None
    if isinstance(tests, str):
        return _source(tests, problem.entry_point)
    kinds = {"stdin" in case or "stdout" in case for case in tests}
    if len(kinds) > 1:
        raise UsageError("tests mix calls and inputs; all cases are {args, expect} or all are {stdin, stdout}")
    if kinds == {True}:
        return Cases(tuple(_stdin_case(at, case) for at, case in enumerate(tests, 1)))
    if problem.entry_point is None:
        raise UsageError("tests are calls, and no entry_point says of which function; give Problem(entry_point='add')")
    return Cases(tuple(_call_case(at, case, problem.entry_point) for at, case in enumerate(tests, 1)))


def _source(source: str, entry: str | None) -> TestSource:
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = f", line {error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
        raise UsageError(f"tests are no Python{line}: {getattr(error, 'msg', None) or error}") from error
    if entry is None and any(isinstance(node, ast.FunctionDef) and node.name == "check" for node in tree.body):
        ran = any(isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) for node in tree.body)
        if not ran:
            raise UsageError("tests define check(candidate), and no entry_point says which function that is")
    return TestSource(source, tuple(sorted(({entry} if entry else set()) | _asked_for(tree))))


def _asked_for(tree: ast.Module) -> set[str]:
    """Names that the tests use and don't bind, or import from the solution."""
    used: set[str] = set()
    bound, imported = set(dir(builtins)), set[str]()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            (used if isinstance(node.ctx, ast.Load) else bound).add(node.id)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            bound.add(node.name)
        elif isinstance(node, ast.arg):
            bound.add(node.arg)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names = [
                alias.name if isinstance(node, ast.ImportFrom) else alias.asname or alias.name for alias in node.names
            ]
            ours = isinstance(node, ast.ImportFrom) and node.module in ("solution", "candidate", "answer", "main")
            (imported if ours else bound).update(name.partition(".")[0] for name in names)
            bound.update(alias.asname for alias in node.names if alias.asname)
    return ((used - bound) | imported) - {"*", "__name__", "__file__"}


def _call_case(at: int, case: Mapping[str, Any], entry: str) -> CallCase:
    _only(at, case, _CALL_KEYS)
    args, kwargs = case.get("args", ()), case.get("kwargs", {})
    if not isinstance(args, Sequence) or isinstance(args, str | bytes) or not isinstance(kwargs, Mapping):
        raise UsageError(f"test {at}: args is a list and kwargs an object; found {args!r:.80} and {kwargs!r:.80}")
    if ("expect" in case) == ("raises" in case):
        raise UsageError(
            f"test {at}: give either expect, the value that must come back, or raises, an exception's name"
        )
    raises = case.get("raises")
    if raises is not None and not isinstance(raises, str):
        raise UsageError(f"test {at}: raises is {raises!r:.80}; the name of an exception is allowed, e.g. 'ValueError'")
    try:
        call, expect = (
            Call.of(args, {str(name): value for name, value in kwargs.items()}),
            check(encode(case.get("expect"))),
        )
    except Unfit as unfit:
        raise UsageError(f"test {at}: {unfit} is no plain value") from None
    args, named = [check(part) for part in call.args], [(name, check(part)) for name, part in call.kwargs]
    for what, tree in [
        ("expect", expect),
        *(("args", part) for part in args),
        *(("kwargs", part) for _, part in named),
    ]:
        if _unplain(tree):
            raise UsageError(f"test {at}: {what} holds {shown(tree, 80)}; plain values are allowed")
    told = [shown(part, 200) for part in args] + [f"{name}={shown(part, 200)}" for name, part in named]
    line = ", ".join(told)
    known = getattr(builtins, raises or "", None)  # IOError is OSError
    raises = known.__name__ if isinstance(known, type) else raises
    return CallCase(call, expect, raises, _tolerance(at, case), f"{entry}({line[:800]}{'…' if line[800:] else ''})")


def _unplain(tree: Tree) -> bool:
    """Whether there is an object in it, or an iterator: that is used up when the case is read."""
    return isinstance(tree, list) and (tree[:1] in (["o"], ["g"]) or any(_unplain(part) for part in tree))


def _stdin_case(at: int, case: Mapping[str, Any]) -> StdinCase:
    _only(at, case, _STDIN_KEYS)
    stdin, stdout = case.get("stdin", ""), case.get("stdout")
    if not isinstance(stdin, str) or not isinstance(stdout, str):
        raise UsageError(f"test {at}: stdin and stdout are strings; found {stdin!r:.80} and {stdout!r:.80}")
    return StdinCase(stdin, stdout, _tolerance(at, case))


def _only(at: int, case: Mapping[str, Any], allowed: set[str]) -> None:
    unknown = sorted(set(case) - allowed)
    if unknown:
        raise UsageError(
            f"test {at}: {', '.join(map(repr, unknown))} is no part of a case; allowed are {sorted(allowed)}"
        )


def _tolerance(at: int, case: Mapping[str, Any]) -> float | None:
    given = case.get("tolerance")
    if given is None:
        return None
    if isinstance(given, bool) or not isinstance(given, int | float) or not 0 <= given < math.inf:
        raise UsageError(f"test {at}: tolerance is {given!r:.80}; a number of at least 0 is allowed, e.g. 1e-6")
    return float(given)
