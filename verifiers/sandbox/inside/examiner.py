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
from typing import Any

from . import pytest_shim
from .asserts import Report
from .candidate import RESULT
from .proxies import Gone, Link, Missing, Proxy, SolutionModule, Stop, Stub, Unsupported
from .values import dumps

__all__ = ["main"]

Job = dict[str, Any]


def main(job: Job) -> None:
    """Run a job of kind "examine" and write one line to the result pipe."""
    report = Report(partial=job["partial"])
    outcome: dict[str, Any] = {}
    try:
        outcome = _examine(job, report)
    except BaseException as error:  # noqa: BLE001 - a failing test, or one that is itself at fault
        if not isinstance(error, Stop):
            report.note(error)
    if Stop.first is not None:
        kinds = {Unsupported: "unsupported", Missing: "missing", Gone: "gone"}
        outcome = {kinds[type(Stop.first)]: str(Stop.first)}
    outcome.update(report.row())
    os.write(RESULT, dumps({"nonce": job["nonce"], **outcome}))


def _examine(job: Job, report: Report) -> dict[str, Any]:
    tree = ast.parse(job["tests"])
    link = Link() if job["stub"] is None else Stub(job["stub"])
    report.calls = lambda: link.calls
    hello = link.hello()
    if "failed" in hello:
        return {"failed": str(hello["failed"])[:600]}
    namespace: dict[str, Any] = {"__name__": "tests", "__builtins__": builtins}
    if job["prelude"]:
        exec(compile(job["prelude"], "<prompt>", "exec"), namespace)
    entry = job["entry"]
    needed = _needed(tree, {*namespace, *([entry] if entry else [])}, hello if job["stub"] is None else None)
    for name in needed | ({entry} if entry else set()):
        namespace[name] = Proxy(link, name)
    namespace["__led__"] = report
    for module in ("solution", "candidate", "answer", "main"):
        sys.modules[module] = SolutionModule(module, link)
    sys.modules["pytest"] = pytest_shim
    exec(compile(report.rewritten(tree), "<tests>", "exec"), namespace)
    _run_collected(namespace, entry, link, report)
    link.nothing_unasked()
    return {}


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


def _run_collected(namespace: dict[str, Any], entry: str | None, link: Link, report: Report) -> None:
    """Run what the tests define and don't call themselves: ``check``, unittest's cases, pytest's functions."""
    function = namespace.get("check")
    if isinstance(function, types.FunctionType) and not link.calls:
        if entry is None:
            raise Unsupported("the tests define check(candidate), and no entry_point says which function that is")
        function(namespace[entry])
    cases = [value for value in namespace.values() if _is_case(value)]
    for case in cases:
        _run_unittest(case, report)
    for name, value in list(namespace.items()):
        if name.startswith("test") and isinstance(value, types.FunctionType):
            for arguments in pytest_shim.arguments_of(value):
                report.guarded(lambda value=value, arguments=arguments: value(**arguments))  # type: ignore[misc]


def _is_case(value: object) -> bool:
    unittest = sys.modules.get("unittest")
    return unittest is not None and isinstance(value, type) and issubclass(value, unittest.TestCase)


def _run_unittest(case: Any, report: Report) -> None:
    unittest = sys.modules["unittest"]
    for name in unittest.TestLoader().getTestCaseNames(case):
        result = unittest.TestResult()
        case(name).run(result)
        failed = [text for _, text in (*result.failures, *result.errors)]
        if result.skipped:
            continue
        report.counted(f"{case.__name__}.{name}", failed[0].strip().splitlines()[-1] if failed else None)
