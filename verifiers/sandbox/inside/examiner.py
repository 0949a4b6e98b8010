"""The process that runs trusted tests against a program in another process.

The tests call a proxy; it sends the arguments over the link, as values, and rebuilds plain values from the reply, so
that nothing of the program ever runs in here. The verdict leaves by a pipe that the program's process never had,
beside a number that it never saw. This file knows how tests are written (asserts, HumanEval's ``check(candidate)``,
unittest, pytest functions) and no limits: whoever started it ends it.

Each ``assert`` is rewritten so that a failing comparison tells both of its sides, and, where partial results are
wanted, does not end the tests.
"""

from __future__ import annotations

import ast
import builtins
import os
import sys
import types
import unittest
from typing import Any

from . import pytest_shim
from .asserts import Report
from .candidate import RESULT
from .proxies import Gone, Link, Missing, Proxy, SolutionModule, Stop, Stub, Unsupported
from .values import dumps

__all__ = ["main"]

Job = dict[str, Any]
_ENDS: dict[type[Stop], str] = {Unsupported: "unsupported", Missing: "missing", Gone: "gone"}


def main(job: Job) -> None:
    """Run a job of kind "examine" and write one line to the result pipe."""
    report = Report(partial=job["partial"])
    outcome: dict[str, Any] = {}
    try:
        link = Link() if job["stub"] is None else Stub(job["stub"])
        outcome = _examine(job, report, link)
    except BaseException as error:  # noqa: BLE001 - a failing test, or one that is itself at fault
        if not isinstance(error, Stop):
            report.note(error)
    if Stop.first is not None:
        outcome = {_ENDS[type(Stop.first)]: str(Stop.first)}
    outcome.update(report.row())
    os.write(RESULT, dumps({"nonce": job["nonce"], **outcome}))


def _examine(job: Job, report: Report, link: Link) -> dict[str, Any]:
    tree = ast.parse(job["tests"])
    report.calls = lambda: link.calls
    hello = link.hello()
    if "failed" in hello:
        return {"failed": str(hello["failed"])[:600]}
    # As a script: what stands below `if __name__ == "__main__":` is part of the tests.
    namespace: dict[str, Any] = {"__name__": "__main__", "__builtins__": builtins}
    if job["prelude"]:
        exec(compile(job["prelude"], "<prompt>", "exec"), namespace)
    entry = job["entry"]
    needed = _needed(tree, {*namespace, *([entry] if entry else [])}, hello if job["stub"] is None else None)
    for name in needed | ({entry} if entry else set()):
        namespace[name] = (name != entry and link.exceptions.get(name)) or Proxy(link, name)
    namespace["__led__"] = report
    for module in ("solution", "candidate", "answer", "main"):
        sys.modules[module] = SolutionModule(module, link)
    sys.modules["pytest"] = pytest_shim
    unittest.main = lambda *args, **kwargs: None  # type: ignore[assignment] # they are run below
    own_check = not _calls_check(tree)
    try:
        exec(compile(report.rewritten(tree), "<tests>", "exec"), namespace)
    except SystemExit as error:
        if error.code not in (None, 0):
            raise
    _run_collected(namespace, entry if own_check else None, report, own_check=own_check)
    link.nothing_unasked()
    return {}


def _calls_check(tree: ast.Module) -> bool:
    """Whether the tests call their ``check`` themselves."""
    calls = (node for part in tree.body if not isinstance(part, ast.FunctionDef) for node in ast.walk(part))
    return any(isinstance(node, ast.Call) and getattr(node.func, "id", None) == "check" for node in calls)


def _needed(tree: ast.Module, there: set[str], hello: dict[str, Any] | None) -> set[str]:
    """Names that the tests use and nobody on this side defines: the program's.

    Raises:
        Missing: the program doesn't define them either.
    """
    used: set[str] = set()
    bound, everything = there | set(dir(builtins)) | {"__file__", "__doc__"}, False
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            (used if isinstance(node.ctx, ast.Load) else bound).add(node.id)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            bound.add(node.name)
        elif isinstance(node, ast.arg):
            bound.add(node.arg)
        elif isinstance(node, ast.ExceptHandler) and node.name:
            bound.add(node.name)
        elif isinstance(node, ast.alias):
            everything |= node.name == "*"
            bound.add((node.asname or node.name).partition(".")[0])
    wanted: set[str] = used - bound
    if not wanted and not there - {"__name__", "__builtins__"}:
        wanted = _shadowed(tree)
    if hello is None:
        return wanted
    offered = hello.get("names")
    names = {name for name in offered if type(name) is str} if type(offered) is list else set()
    if wanted - names and not everything:
        raise Missing(", ".join(sorted(wanted - names)))
    return wanted & names


def _shadowed(tree: ast.Module) -> set[str]:
    """The one builtin that tests call which call nothing else: the program has a function of that name.

    Only then: tests that say ``sorted(f(x))`` mean Python's ``sorted``, whatever the program calls so.

    Raises:
        Unsupported: they call several, and any of them could be meant.
    """
    called = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    called &= set(dir(builtins))
    imports = any(isinstance(node, ast.Import | ast.ImportFrom | ast.FunctionDef) for node in ast.walk(tree))
    if len(called) > 1 and not imports:
        raise Unsupported(
            f"the tests call only builtins ({', '.join(sorted(called))}); say with entry_point which is meant"
        )
    return set() if imports else called


def _run_collected(namespace: dict[str, Any], entry: str | None, report: Report, *, own_check: bool) -> None:
    """Run what the tests define and don't call themselves: ``check``, unittest's cases, pytest's functions."""
    function = namespace.get("check")
    if isinstance(function, types.FunctionType) and own_check:
        if entry is None:
            raise Unsupported("the tests define check(candidate), and no entry_point says which function that is")
        function(namespace[entry])
    for value in list(namespace.values()):
        if _is_case(value):
            _run_unittest(value, report)
        elif isinstance(value, type) and value.__name__.startswith("Test") and value.__module__ == "__main__":
            _run_test_class(value, report)
    for name, value in list(namespace.items()):
        if name.startswith("test") and isinstance(value, types.FunctionType):
            for arguments in pytest_shim.arguments_of(value):
                report.guarded(lambda value=value, arguments=arguments: value(**arguments))  # type: ignore[misc]


def _run_test_class(kind: Any, report: Report) -> None:
    """A class of pytest's: an instance for each method."""
    for name, method in vars(kind).items():
        if not name.startswith("test") or not isinstance(method, types.FunctionType):
            continue
        for arguments in pytest_shim.arguments_of(method, given=1):

            def run(name: str = name, arguments: dict[str, Any] = arguments) -> None:
                instance = kind()
                getattr(instance, "setup_method", lambda *_: None)()
                getattr(instance, name)(**arguments)

            report.guarded(run)


def _is_case(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, unittest.TestCase) and value.__module__ == "__main__"


class _Counting(unittest.TestResult):
    """Tells the report what came of each method; one of its subtests that fails, fails it."""

    def __init__(self, report: Report) -> None:
        super().__init__()
        self._report = report
        self._name: str | None = None
        self._skipped = False

    def startTest(self, test: unittest.TestCase) -> None:  # noqa: N802 - unittest's name
        super().startTest(test)
        self._name, self._skipped = test.id().partition(".")[2] or test.id(), False

    def stopTest(self, test: unittest.TestCase) -> None:  # noqa: N802 - unittest's name
        super().stopTest(test)
        if not self._skipped:
            self._report.counted(self._name, None)
        self._name = None

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:  # noqa: N802 - unittest's name
        self._skipped = True

    def addFailure(self, test: Any, err: Any) -> None:  # noqa: N802 - unittest's name
        self._failed(test, err[1])

    def addError(self, test: Any, err: Any) -> None:  # noqa: N802 - unittest's name
        self._failed(test, err[1])

    def addSubTest(self, test: Any, subtest: Any, err: Any) -> None:  # noqa: N802 - unittest's name
        if err is not None:
            self._failed(test, err[1])

    def addUnexpectedSuccess(self, test: Any) -> None:  # noqa: N802 - unittest's name
        self._failed(test, AssertionError("unexpected success"))

    def _failed(self, test: Any, error: BaseException) -> None:
        if isinstance(error, Stop):
            self.stop()  # the link knows
        told = str(error).strip().partition("\n")[0]
        self._report.counted(self._name or str(test), f"{type(error).__name__}: {told}")


def _run_unittest(case: Any, report: Report) -> None:
    with report.within_test():
        unittest.TestLoader().loadTestsFromTestCase(case).run(_Counting(report))
