"""The process of a program under test: load it, call it, and write down what it returned.

It holds no expected value, no test and no secret, so that all it can write are values, right or wrong ones. Whatever
it writes is checked on the other side. This file knows no limits and no walls: it is entered behind them.

A run writes lines of JSON to its result pipe. First how loading went: ``{"loaded": true, "names": […]}`` or
``{"failed": "NameError: …"}``; then one line a call, ``{"value": tree}``, ``{"raised": [type, message]}`` or
``{"unfit": why}``.
"""

from __future__ import annotations
import __future__

import atexit
import builtins
import inspect
import io
import os
import sys
import threading
import types
from collections.abc import Callable
from typing import Any

from .values import Tree, Unfit, decode, dumps, encode, loads, looks

__all__ = ["main"]

RESULT, LINK = 3, 4  # file descriptors
_MESSAGE = 500  # characters of an exception's message
_CHANGING = frozenset("ldsBq")
# Answers leave out `from typing import List` more often than anything else, and nothing depends on it.
_UNEVALUATED = __future__.annotations.compiler_flag

Job = dict[str, Any]
Send = Callable[[Tree], None]


class _Missing(Exception):  # noqa: N818
    """The program has no function or class of that name."""


def main(job: Job) -> None:
    """Run a job of kind "calls", "program" or "serve"."""
    send = _sender(RESULT)
    builtins.exit = builtins.quit = sys.exit  # type: ignore[assignment] # they come with `site`, which isn't loaded
    if job["kind"] == "program":
        _run_program(job, send)
        return
    namespace = _load(job, "solution", send if job["kind"] == "calls" else _sender(LINK))
    if namespace is None:
        return
    if job["kind"] == "calls":
        _run_calls(job, namespace, send)
    else:
        _Server(namespace).serve()


def _sender(fd: int) -> Send:
    write = os.write

    def send(tree: Tree) -> None:
        left = memoryview(dumps(tree))
        while left:
            left = left[write(fd, left) :]

    return send


def _load(job: Job, name: str, send: Send) -> dict[str, Any] | None:
    module = types.ModuleType(name)
    sys.modules[name] = module
    namespace = module.__dict__
    try:
        if job["prelude"]:
            exec(_compiled([job["prelude"]]), namespace)
        exec(_compiled(job["sources"]), namespace)
    except BaseException as error:  # noqa: BLE001 - SystemExit, KeyboardInterrupt: it did not load
        send({"failed": ": ".join(_described(error)[:2]).removesuffix(": ")})
        return None
    send({"loaded": True, **_offered(namespace)})
    return namespace


def _offered(namespace: dict[str, Any]) -> dict[str, Any]:
    """What others may call, the methods of a class Solution among it, and the exceptions with what they derive from."""
    there = [(name, value) for name, value in namespace.items() if type(name) is str and callable(value)]
    names = [name for name, _ in there]
    solution = namespace.get("Solution")
    if isinstance(solution, type):
        names += [name for name in vars(solution) if type(name) is str and not name.startswith("_")]
    raised = [(name, value) for name, value in there if isinstance(value, type) and issubclass(value, Exception)]
    return {"names": names[:1000], "exceptions": [[name, *_lineage(value)] for name, value in raised[:100]]}


def _lineage(kind: type) -> list[str]:
    return [str(base.__name__)[:100] for base in type.mro(kind)[1:20]]


def _compiled(sources: list[str]) -> types.CodeType:
    """The first reading of the answer that is Python. Compiling is done in here: a parser can be crashed, too."""
    faults = []
    for source in sources:
        try:
            return _code(source)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            faults.append(error)
    raise faults[0]


def _code(source: str) -> types.CodeType:
    code: types.CodeType = compile(source, "<answer>", "exec", _UNEVALUATED, dont_inherit=True)
    return code


def _described(error: BaseException) -> list[str]:
    try:
        message = str.__getitem__(str(error), slice(_MESSAGE))
    except BaseException:  # noqa: BLE001 - its __str__ is untrusted, too
        message = ""
    return [str(type(error).__name__)[:100], message, *_lineage(type(error))]


def _resolved(namespace: dict[str, Any], name: str) -> Any:
    """A function or class, a ``Class.method`` of a fresh instance, or a method of a class ``Solution``.

    Raises:
        _Missing: there is nothing of that name.
    """
    if name in namespace:
        return namespace[name]
    owner, _, method = name.rpartition(".")
    holder = namespace.get(owner or "Solution")
    if isinstance(holder, type) and hasattr(holder, method):
        apart = isinstance(inspect.getattr_static(holder, method), classmethod | staticmethod | type)
        return getattr(holder if apart else holder(), method)
    raise _Missing(name)


# --- calls: f(args), once for each case ----------------------------------------------------------------------------


def _run_calls(job: Job, namespace: dict[str, Any], send: Send) -> None:
    for args, kwargs in job["calls"]:
        said = _one_call(namespace, job["entry"], args, kwargs)
        send(said)
        if "missing" in said:
            return


def _one_call(namespace: dict[str, Any], entry: str, args: list[Tree], kwargs: list[list[Tree]]) -> Tree:
    try:
        function = _resolved(namespace, entry)
        given = [decode(part, looks) for part in args]
        return {"value": encode(function(*given, **{name: decode(part, looks) for name, part in kwargs}))}
    except _Missing:
        return {"missing": entry}
    except Unfit as unfit:
        return {"unfit": str(unfit)}
    except BaseException as error:  # noqa: BLE001 - whatever it raises is its answer
        return {"raised": _described(error)}


# --- program: standard input to standard output --------------------------------------------------------------------


def _run_program(job: Job, send: Send) -> None:
    sys.stdin = io.TextIOWrapper(io.FileIO(0, closefd=False), encoding="utf-8", errors="surrogateescape")
    sys.stdout = io.TextIOWrapper(
        io.BufferedWriter(io.FileIO(1, "w", closefd=False)), encoding="utf-8", errors="surrogateescape"
    )
    sys.argv = ["answer"]
    module = types.ModuleType("__main__" if job["entry"] is None else "solution")
    sys.modules[module.__name__] = module
    ended: Tree = {"ended": True}
    try:
        exec(_compiled(job["sources"]), module.__dict__)
        if job["entry"] is not None:
            _call_with_input(_resolved(module.__dict__, job["entry"]), job["stdin"])
        _finish()
    except SystemExit as error:
        if error.code not in (None, 0):
            ended = {"raised": _described(error)}
    except _Missing:
        ended = {"missing": job["entry"]}
    except BaseException as error:  # noqa: BLE001
        ended = {"raised": _described(error)}
    try:
        sys.stdout.flush()
    except BaseException as error:  # noqa: BLE001
        ended = {"raised": _described(error)}
    send(ended)


def _finish() -> None:
    """What Python does at a script's end, and programs rely on: wait for threads, and run what is registered."""
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    atexit._run_exitfuncs()


def _call_with_input(function: Callable[..., object], given: str) -> None:
    """``solve(text)`` or ``solve()``; what it returns counts as printed."""
    try:
        takes = bool(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        takes = True
    value = function(given) if takes else function()
    if value is not None:
        print(value)  # noqa: T201 - what a program prints is what is compared


# --- serve: the tests are in another process -----------------------------------------------------------------------


class _Server:
    """Answers the examiner's calls over the link, until that end is closed.

    ``["call", name, args, kwargs]``, ``["method", number, name, args, kwargs]``, ``["attribute", number, name]``.
    """

    def __init__(self, namespace: dict[str, Any]) -> None:
        self._namespace = namespace
        self._objects: list[Any] = []
        self._send = _sender(LINK)

    def serve(self) -> None:
        with open(LINK, "rb", closefd=False) as lines:
            for line in lines:
                self._send(self._answer(loads(line)))

    def _answer(self, asked: Tree) -> Tree:
        try:
            if asked[0] == "attribute":
                owner = asked[1]
                found = getattr(
                    self._objects[owner] if type(owner) is int else _resolved(self._namespace, owner), asked[2]
                )
                return {"callable": True} if callable(found) else {"value": self._encoded(found)}
            if asked[0] == "call":
                function = _resolved(self._namespace, asked[1])
            elif asked[2] == "__iter__":  # read out here: what iterates may be an object of the program's own
                return {"value": self._encoded(part for part in self._objects[asked[1]])}
            else:
                function = getattr(self._objects[asked[1]], asked[2])
            return self._called(function, *asked[-2:])
        except _Missing as error:
            return {"missing": str(error)}
        except Unfit as unfit:
            return {"unfit": str(unfit)}
        except BaseException as error:  # noqa: BLE001 - whatever it raises is its answer
            return {"raised": _described(error)}

    def _called(self, function: Any, args: Tree, kwargs: Tree) -> Tree:
        given = [self._decoded(part) for part in args]
        value = function(*given, **{name: self._decoded(part) for name, part in kwargs})
        said = {"value": self._encoded(value)}
        if value is None:  # as list.sort: what it did, it did to its arguments
            changed = [self._changed(part, now) for part, now in zip(args, given, strict=True)]
            if any(part is not None for part in changed):
                said["args"] = changed
        return said

    def _changed(self, before: Tree, now: object) -> Tree:
        if type(before) is not list or before[0] not in _CHANGING:
            return None
        try:
            after = self._encoded(now)
        except Unfit:
            return None
        return None if after == before else after

    def _decoded(self, tree: Tree) -> Any:
        return decode(tree, lambda part: self._objects[int(part[1], 16)] if part[0] == "h" else looks(part))

    def _encoded(self, value: object) -> Tree:
        return encode(value, self._kept)

    def _kept(self, value: object) -> Tree:
        """An object of one of the program's own classes stays here, under a number."""
        if type(value).__module__ != "solution":
            return looks(value)
        for number, kept in enumerate(self._objects):
            if kept is value:
                return ["h", format(number, "x"), str(type(value).__name__)[:100]]
        self._objects.append(value)
        return ["h", format(len(self._objects) - 1, "x"), str(type(value).__name__)[:100]]
