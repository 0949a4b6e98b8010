"""Sandboxes to run programs in: cells that come and go, and what a run in one gave.

This file knows when a zygote is used, replaced and given up, and how the lines that a run wrote are read; whoever
wrote them. It does not know problems, answers or verdicts.

Two ways of running, both of which leave the judging outside the program's own process:

- values (``calls``, ``program``): the program's process holds no expected value. It returns what it computed, and the
  caller compares.
- tests (``tests``): asserts run in a process of their own, from a zygote of their own, so that not even freed memory of
  the program's process ever held a test. The two talk over a link; the verdict comes on the tests' own pipe, with a
  number of 128 random bits.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import secrets
import socket
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from led_agent.errors import UsageError
from led_agent.verifiers.sandbox.inside.values import Tree, Unfit, check, encode, loads
from led_agent.verifiers.sandbox.process import Broken, Limits, Outcome, Zygote
from led_agent.verifiers.sandbox.tiers import Tier

__all__ = ["Call", "Called", "Examined", "Printed", "Program", "Sandbox"]

_WORN_AFTER = 1000  # runs: so that what leaks in a zygote, leaks for a minute only
_T = TypeVar("_T")
Stub = Literal["none", "equal"]


@dataclass(frozen=True)
class Program:
    """What is under test.

    Attributes:
        sources: Readings of one answer, the likeliest first; the first that compiles is it.
        prelude: Trusted source that runs before it: the imports and helpers of its problem.
    """

    sources: tuple[str, ...]
    prelude: str = ""


@dataclass(frozen=True)
class Call:
    """One call: its arguments as trees."""

    args: tuple[Tree, ...] = ()
    kwargs: tuple[tuple[str, Tree], ...] = ()

    @classmethod
    def of(cls, args: Sequence[object], kwargs: dict[str, object]) -> Call:
        """A call with these arguments.

        Raises:
            Unfit: one is not plain.
        """
        return cls(tuple(map(encode, args)), tuple((name, encode(value)) for name, value in kwargs.items()))


@dataclass(frozen=True)
class Called:
    """What calls came to.

    Attributes:
        replies: One for each call that ended: ``("value", tree)``, ``("raised", [type, message])``, ``("unfit", why)``.
        failed: Why the program could not be loaded, or None.
        missing: The name that it doesn't define, or None.
        malformed: Whether it wrote what is no reply.
        outcome: How its process ended.
    """

    replies: tuple[tuple[str, Tree], ...]
    failed: str | None
    missing: str | None
    malformed: bool
    outcome: Outcome


@dataclass(frozen=True)
class Printed:
    """What a program wrote to standard output. ``fault`` is the exception that ended it, as ``[type, message]``."""

    text: str
    fault: list[str] | None
    missing: str | None
    outcome: Outcome


@dataclass(frozen=True)
class Examined:
    """What tests said.

    Attributes:
        said: The tests' own account; None where their process did not end with one. Keys: ``total`` and ``passed``
            tests, ``first`` failure, ``asserts`` in the source, ``calls`` of the program, and where they could not go
            on ``failed`` (to load), ``missing`` (a name), ``gone`` or ``unsupported``.
        program: How the program's process ended; None with a stub.
        tests: How the tests' process ended.
    """

    said: dict[str, Any] | None
    program: Outcome | None
    tests: Outcome


class _Cell:
    """A zygote for programs and, once it is needed, one for tests."""

    def __init__(self, tier: Tier) -> None:
        self.tier = tier
        self._zygotes: dict[Literal["program", "tests"], Zygote] = {}
        self._stopped = False

    def zygote(self, role: Literal["program", "tests"]) -> Zygote:
        found = self._zygotes.get(role)
        if found is not None and not found.worn and found.runs < _WORN_AFTER:
            return found
        if found is not None:
            found.kill()
        made = self._zygotes[role] = Zygote(self.tier, role)
        if self._stopped:  # while it started, so that it was not there yet to be ended
            raise Broken("the sandbox was closed while it started")
        return made

    def kill(self) -> None:
        for zygote in self._zygotes.values():
            zygote.kill()
        self._zygotes.clear()

    def stop(self) -> None:
        """From any thread: end what runs; the thread that uses the cell sees it break, and kills it."""
        self._stopped = True
        for zygote in list(self._zygotes.values()):
            zygote.stop()

    @property
    def pids(self) -> list[int]:
        return [zygote.pid for zygote in self._zygotes.values()]


class Sandbox:
    """Runs programs behind the walls of a tier; many threads may call at once.

    Zygotes start with the first run and end with ``close()``, with this object and with this process. A run whose
    zygote breaks is tried once more in a fresh one.

    Raises:
        UsageError: a size below 1.
    """

    def __init__(self, tier: Tier, size: int | None = None) -> None:
        if size is not None and size < 1:
            raise UsageError(f"workers is {size}; a sandbox needs at least 1, and None is one a processor")
        self.tier, self.size = tier, size if size is not None else max(1, os.cpu_count() or 1)
        self._begin()
        _all.add(self)

    def calls(self, program: Program, entry: str, calls: Sequence[Call], limits: Limits) -> Called:
        """Load the program once and call ``entry``, once for each of ``calls``.

        Raises:
            Broken: two zygotes broke, one after the other.
        """
        listed = [[list(call.args), [list(pair) for pair in call.kwargs]] for call in calls]
        job = {"kind": "calls", **_job(program), "entry": entry, "calls": listed}
        return _called(self._in_cell(lambda cell: _run(cell, job, limits)), len(calls))

    def program(self, program: Program, stdin: str, limits: Limits, entry: str | None = None) -> Printed:
        """Run the program as a script, or load it and call ``entry`` with the input.

        Raises:
            Broken: as ``calls``.
        """
        job = {"kind": "program", **_job(program), "stdin": stdin, "entry": entry}
        return _printed(self._in_cell(lambda cell: _run(cell, job, limits)))

    def tests(self, program: Program | Stub, tests: str, limits: Limits, **asked: Any) -> Examined:
        """Run test source against the program, or against a stub that good tests fail on.

        Args:
            program: What is tested, or "none" or "equal": functions that return None, or what equals everything.
            tests: Python source: asserts, ``check(candidate)``, unittest or pytest functions. It is trusted.
            limits: For each of the two processes.
            asked: ``entry`` (str or None), ``prelude`` (str), ``partial`` (bool: go on after a failing assert).

        Raises:
            Broken: as ``calls``.
        """
        return self._in_cell(lambda cell: _examined(cell, program, {"tests": tests, **asked}, limits))

    def pids(self) -> tuple[int, ...]:
        """The process ids of the zygotes (or of bubblewrap) that there are now."""
        with self._lock:
            return tuple(sorted(pid for cell in self._cells for pid in cell.pids))

    def close(self) -> None:
        """End all zygotes; runs under way break. A later run starts new ones. Idempotent."""
        with self._lock:
            self._epoch += 1
            idle = list(self._idle)
            self._idle.clear()
            self._cells.difference_update(idle)
            busy = list(self._cells)
        for cell in idle:
            cell.kill()
        for cell in busy:
            cell.stop()

    def _begin(self) -> None:
        self._epoch = 0
        self._lock = threading.Lock()
        self._gate = threading.BoundedSemaphore(self.size)
        self._idle: list[_Cell] = []
        self._cells: set[_Cell] = set()
        self._end = weakref.finalize(self, _kill_all, self._cells)

    def _after_fork(self) -> None:
        self._end.detach()
        self._begin()

    def _in_cell(self, work: Callable[[_Cell], _T]) -> _T:
        with self._gate:
            epoch = self._epoch
            try:
                with self._lease(epoch) as cell:
                    return work(cell)
            except Broken:
                if epoch != self._epoch:
                    raise
                with self._lease(epoch) as cell:
                    return work(cell)

    @contextlib.contextmanager
    def _lease(self, epoch: int) -> Iterator[_Cell]:
        with self._lock:
            cell = self._idle.pop() if self._idle else _Cell(self.tier)
            self._cells.add(cell)
        good = False
        try:
            yield cell
            good = True
        finally:
            with self._lock:
                good &= epoch == self._epoch
                if good:
                    self._idle.append(cell)
                else:
                    self._cells.discard(cell)
            if not good:
                cell.kill()


# --- one run -------------------------------------------------------------------------------------------------------


def _job(program: Program) -> dict[str, Any]:
    return {"sources": list(program.sources), "prelude": program.prelude}


def _run(cell: _Cell, job: dict[str, Any], limits: Limits) -> Outcome:
    zygote = cell.zygote("program")
    zygote.submit(job, limits)
    return _standing(zygote.outcome(limits))


def _examined(cell: _Cell, program: Program | Stub, asked: dict[str, Any], limits: Limits) -> Examined:
    nonce = secrets.token_hex(16)
    stub = program if isinstance(program, str) else None
    job = {"kind": "examine", **asked, "nonce": nonce, "stub": stub}
    examiner = cell.zygote("tests")
    # The program's limit comes first, so that it is blamed for what it does.
    longer = Limits(**{**vars(limits), "seconds": limits.seconds + 1})
    if isinstance(program, str):
        examiner.submit(job, longer)
        ended = None
        judged = _standing(examiner.outcome(longer))
    else:
        under_test = cell.zygote("program")
        ours, theirs = socket.socketpair()
        with ours, theirs:
            under_test.submit({"kind": "serve", **_job(program)}, limits, ours)
            examiner.submit(job, longer, theirs)
        judged = _standing(examiner.outcome(longer))
        under_test.cancel()
        ended = _standing(under_test.outcome(limits))
        if judged.why == "timeout" and ended.entered > judged.entered + longer.seconds - limits.seconds:
            raise Broken("the program's process started so late that its tests ended before its time was up")
    return Examined(_account(judged.result, nonce), ended, judged)


def _account(result: bytes, nonce: str) -> dict[str, Any] | None:
    """The tests' own account: the only line there is, with the number that only they were told."""
    said = _lines(result)
    good = len(said) == 1 and isinstance(said[0], dict) and said[0].get("nonce") == nonce
    return said[0] if good else None


def _standing(outcome: Outcome) -> Outcome:
    """The outcome of a run whose walls stood: the first byte, written before any program runs, says so.

    Raises:
        Broken: they did not, or its process never got so far.
    """
    first, rest = outcome.result[:1], outcome.result[1:]
    if first == b"+":
        return dataclasses.replace(outcome, result=rest)
    told = rest[:300].decode(errors="replace") if first == b"-" else f"it {outcome.why} before"
    raise Broken(f"the sandbox could not be entered: {told}")


def _lines(result: bytes) -> list[Any]:
    """What stands on the lines of a result; ``Ellipsis`` for a line that is no JSON."""
    parsed: list[Any] = []
    for line in result.split(b"\n")[:-1]:
        try:
            parsed.append(loads(line))
        except Unfit:
            parsed.append(...)
    return parsed


def _called(outcome: Outcome, wanted: int) -> Called:
    lines = _lines(outcome.result)
    replies: list[tuple[str, Tree]] = []
    failed = missing = None
    malformed = len(lines) > wanted + 1 or outcome.why == "output"
    for at, line in enumerate(lines[: wanted + 1]):
        reply = _reply(line, first=at == 0)
        if reply is None:
            malformed = True
            break
        kind, content = reply
        if kind == "failed":
            failed = content
        elif kind == "missing":
            missing = content
        elif kind != "loaded":
            replies.append((kind, content))
    return Called(tuple(replies), failed, missing, malformed, outcome)


def _reply(line: Any, *, first: bool) -> tuple[str, Tree] | None:
    """One reply, checked; None where it is none."""
    if not isinstance(line, dict) or not line:
        return None
    kind = next(iter(line))
    content = line[kind]
    if first:
        if kind == "failed" and isinstance(content, str):
            return kind, content[:600]
        return ("loaded", True) if kind == "loaded" else None
    if kind == "value" and len(line) == 1:
        try:
            return kind, check(content)
        except (Unfit, RecursionError):
            return None
    if kind == "raised":
        return (kind, content) if _is_fault(content) else None
    return (kind, content[:600]) if kind in ("unfit", "missing") and isinstance(content, str) else None


def _is_fault(content: Any) -> bool:
    return isinstance(content, list) and len(content) >= 2 and all(isinstance(part, str) for part in content)


def _printed(outcome: Outcome) -> Printed:
    lines = _lines(outcome.result)
    last = lines[-1] if lines and isinstance(lines[-1], dict) else {}
    fault, missing = last.get("raised"), last.get("missing")
    text = outcome.output.decode("utf-8", "replace")
    return Printed(text, fault if _is_fault(fault) else None, missing if isinstance(missing, str) else None, outcome)


def _kill_all(cells: set[_Cell]) -> None:
    for cell in list(cells):
        cell.kill()


_all: weakref.WeakSet[Sandbox] = weakref.WeakSet()


def _after_fork() -> None:
    for sandbox in list(_all):
        sandbox._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
