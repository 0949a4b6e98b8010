"""Asserts that tell both of their sides, and the count of those that held.

Each ``assert`` of the tests is rewritten to a call of a ``Report``. This file knows Python's syntax, and nothing of
the program that the tests call.
"""

from __future__ import annotations

import ast
import contextlib
import operator
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["Report"]

_SHOWN = 300  # characters of a value in a message
_SOURCE = 300

_SIGNS: dict[type, str] = {
    ast.Eq: "==", ast.NotEq: "!=", ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.In: "in",
    ast.NotIn: "not in", ast.Is: "is", ast.IsNot: "is not",
}  # fmt: skip
_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "==": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
    "in": lambda left, right: left in right, "not in": lambda left, right: left not in right,
    "is": operator.is_, "is not": operator.is_not,
}  # fmt: skip


class Report:
    """Counts tests (an assert is one, or a unittest method) and keeps the first that failed."""

    def __init__(self, *, partial: bool) -> None:
        self.calls: Callable[[], int] = lambda: 0  # of the program, so far
        self._partial = partial
        self._asserts: dict[int, ast.Assert] = {}
        self._parts: set[int] = set()  # asserts in a class of unittest's, whose methods count
        self._caught: set[int] = set()  # asserts in a `try`: whether they end a test is the tests' to say
        self._told: tuple[object, str] = (None, "")  # the test that `_noted` is of, and why it failed
        self._reached = False
        self._within = False  # another test, which is counted as a whole
        self._passed: set[object] = set()
        self._failed: dict[object, str] = {}
        self._noted: BaseException | None = None  # the exception on its way, where it is counted already

    def rewritten(self, tree: ast.Module) -> ast.Module:
        """The tests with their asserts rewritten, to run where ``__led__`` is this report."""
        new: ast.Module = ast.fix_missing_locations(_Rewriting(self._asserts, self._caught, self._parts).visit(tree))
        return new

    def row(self) -> dict[str, Any]:
        """The count, as plain JSON."""
        asserts = {number for number, node in self._asserts.items() if not _never(node)} - self._parts
        passed = len(self._passed - set(self._failed))
        exceptions = {key for key in self._failed if isinstance(key, tuple)}
        total = len(asserts | self._passed | (set(self._failed) - exceptions))
        total += bool(exceptions) and total == passed  # else it shows in what wasn't reached
        first = next(iter(self._failed.values()), None)
        unreached = len(asserts) if not self._reached and not self._passed else 0
        return {"unreached": unreached, "total": total, "passed": passed, "first": first, "calls": self.calls()}

    def counted(self, name: object, failure: str | None) -> None:
        """A test of another kind, and why it failed or None."""
        if failure is None:
            self._passed.add(name)
        else:
            self._failed.setdefault(name, f"{name}: {failure}"[: 4 * _SHOWN])

    def note(self, error: BaseException) -> None:
        """An exception that ended the tests, or one of them."""
        if error is self._noted:
            self._failed.setdefault(*self._told)
        else:
            told = f"{type(error).__name__}: {str(error)[:_SHOWN]}"
            self._failed.setdefault(("exception", len(self._failed)), told)

    @contextlib.contextmanager
    def within_test(self) -> Iterator[None]:
        """While a test runs that is counted as a whole: its asserts are parts of it."""
        self._within = True
        try:
            yield
        finally:
            self._within = False

    def guarded(self, test: Callable[[], Any]) -> None:
        """Run a test function; in partial results, its exception is its own."""
        try:
            test()
        except Exception as error:
            if not self._partial:
                raise
            self.note(error)

    # Called by the rewritten tests.

    def compared(self, number: int, left: Any, right: Any, sign: str) -> None:
        wanted = "expected" if sign == "==" else f"expected {sign}"
        good = bool(_COMPARE[sign](left, right))
        self._settle(number, good, lambda: f"got {_looks(left)}, {wanted} {_looks(right)}")

    def judged(self, number: int, value: Any) -> None:
        self._settle(number, bool(value), lambda: f"got {_looks(value)}")

    def raised(self, number: int, error: Exception) -> None:
        """The expression of an assert raised, or it was not so."""
        if error is not self._noted:
            self._fails(number, error, f"raised {type(error).__name__}: {str(error)[:_SHOWN]}")
        if not self._partial or self._within or number in self._caught:
            raise error
        self.note(error)

    def _settle(self, number: int, good: bool, told: Callable[[], str]) -> None:
        self._reached = True
        if not good:
            error = AssertionError()
            self._fails(number, error, told())
            error.args = (self._told[1],)
            raise error
        if not self._within:
            self._passed.add(number)

    def _fails(self, number: int, error: BaseException, told: str) -> None:
        """Remember why; it counts once the exception has ended a test, as the tests may catch it."""
        self._reached = True
        self._noted, self._told = error, (number, f"{self._source(number)}: {told}")

    def _source(self, number: int) -> str:
        test = self._asserts[number]
        source = ast.unparse(test.test)
        said = f" ({test.msg.value!s})" if isinstance(test.msg, ast.Constant) else ""
        return f"assert {source[:_SOURCE]}{'…' if len(source) > _SOURCE else ''}{said[:_SOURCE]}"


def _looks(value: object) -> str:
    try:
        text = repr(value)
    except Exception as error:  # noqa: BLE001 - an int of too many digits, for one
        text = f"<{type(value).__name__} whose repr raised {type(error).__name__}>"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


class _Rewriting(ast.NodeTransformer):
    """``assert a == b`` becomes a call that is told both sides."""

    def __init__(self, asserts: dict[int, ast.Assert], caught: set[int], parts: set[int]) -> None:
        self._asserts, self._caught, self._parts = asserts, caught, parts
        self._depth = 0  # of what may catch
        self._in_case = False

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        before, self._in_case = self._in_case, any("TestCase" in ast.unparse(base) for base in node.bases)
        self.generic_visit(node)
        self._in_case = before
        return node

    def visit_Try(self, node: ast.Try) -> ast.AST:
        self._depth += bool(node.handlers)
        node.body = [self.visit(part) for part in node.body]
        self._depth -= bool(node.handlers)
        for parts in (node.handlers, node.orelse, node.finalbody):
            parts[:] = [self.visit(part) for part in parts]
        return node

    def visit_With(self, node: ast.With) -> ast.AST:
        self._depth += 1
        self.generic_visit(node)
        self._depth -= 1
        return node

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        number = len(self._asserts)
        if self._in_case:
            self._parts.add(number)
        if self._depth:
            self._caught.add(number)
        self._asserts[number] = node
        test = node.test
        if isinstance(test, ast.Compare) and len(test.ops) == 1:
            sign = _SIGNS[type(test.ops[0])]
            call = _calling("compared", ast.Constant(number), test.left, test.comparators[0], ast.Constant(sign))
        else:
            call = _calling("judged", ast.Constant(number), test)
        handler = ast.ExceptHandler(
            type=ast.Name("Exception", ast.Load()),
            name="_led_error",
            body=[ast.Expr(_calling("raised", ast.Constant(number), ast.Name("_led_error", ast.Load())))],
        )
        return ast.copy_location(ast.Try(body=[ast.Expr(call)], handlers=[handler], orelse=[], finalbody=[]), node)


def _never(node: ast.Assert) -> bool:
    """``assert False``: a way to say that this place must not be reached, and no test to pass."""
    return isinstance(node.test, ast.Constant) and not node.test.value


def _calling(name: str, *args: ast.expr) -> ast.Call:
    return ast.Call(ast.Attribute(ast.Name("__led__", ast.Load()), name, ast.Load()), list(args), [])
