"""``unit_tests()``: whether the program in an answer passes the problem's tests, run behind walls.

This file joins three rooms: what the tests are (``cases``), where the program stands (``code``) and the sandbox; and
turns what came back into a verdict. What a program returned is compared here, as data; nothing of it is run here.
"""

from __future__ import annotations

import math
import os
import re
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from led_agent.errors import UsageError
from led_agent.types import Branch, Problem, Verdict, VerdictStatus
from led_agent.verifiers.cases import CallCase, Cases, StdinCase, TestSource, read_tests
from led_agent.verifiers.code import prelude_of, programs_in
from led_agent.verifiers.sandbox import (
    Broken,
    Called,
    Examined,
    Limits,
    Outcome,
    Program,
    Sandbox,
    check_tier,
    open_sandbox,
)
from led_agent.verifiers.sandbox.inside.values import same, shown

__all__ = ["UnitTests", "unit_tests"]

_LONGEST_REASON = 2000
_NO_TESTS = "the problem has no tests to run; give Problem(tests=…)"
# Control characters, line ends, marks that turn the direction of writing, and halves of surrogate pairs.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_WRITES = re.compile(r"(?:Permission denied|Read-only file system|No usable temporary).*?(?:'(?:/tmp/|[^/'])|/tmp)")


# Many threads may make a verifier's first call; one sandbox is enough.
_opening = threading.Lock()


def _after_fork() -> None:
    global _opening
    _opening = threading.Lock()  # a thread that there isn't any more may have held it


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@dataclass(frozen=True)
class _Judged:
    status: VerdictStatus
    reason: str
    passed: int = 0
    total: int = 0
    late: bool = False  # whether a run reached its time limit: on a busy machine it might not have


@dataclass(frozen=True)
class UnitTests:
    """A verifier: accepts a branch whose program passes all of ``problem.tests``.

    The tests are cases, ``{"args": [1, 2], "expect": 3}`` (also ``kwargs``, ``raises``, ``tolerance``) or
    ``{"stdin": "…", "stdout": "…"}``, or Python source: asserts, HumanEval's ``check(candidate)``, unittest, or pytest
    functions. The program is the last fenced block after ``</think>`` that defines what the tests call, else the last
    one, else the text. It runs in a sandbox: see ``docs/verifiers.md`` for what that promises.

    It rejects with the first failing test, what came back and what was expected. It abstains where the problem has no
    tests, and where tests and program can't be kept apart ("unsupported"). It is an error where the sandbox fails, and
    where the tests fail on the problem's own ``metadata["solution"]``.

    Zygotes start with the first call and end with ``close()`` or the interpreter. A pickled copy starts its own.

    Attributes:
        timeout: Wall-clock seconds of one run: all calls and asserts together, or one input.
        memory_mb: Address space of the program, in MiB.
        partial: Score a rejected branch by the share of tests passed; and run on after a failing assert.
        unsafe_no_sandbox: Where no tier of the sandbox holds, run the program all the same; every verdict says so.
        tier: "auto" takes the safest that holds here; "A", "B" or "C" that one or none.
        check_tests: Count the tests only if they fail on functions that return None and on values equal to everything:
            for tests that a model wrote. Python source only.
        workers: Programs that run at a time; None is one a processor.
    """

    timeout: float = 4.0
    memory_mb: int = 512
    partial: bool = False
    unsafe_no_sandbox: bool = False
    tier: str = "auto"
    check_tests: bool = False
    workers: int | None = None
    name: ClassVar[str] = "unit_tests"

    def __post_init__(self) -> None:
        if not 0 < self.timeout < math.inf:
            raise UsageError(
                f"unit_tests: timeout is {self.timeout}; a positive number of seconds is allowed, e.g. 4.0"
            )
        if self.memory_mb < 64:
            raise UsageError(f"unit_tests: memory_mb is {self.memory_mb}; Python itself needs 64, and 512 is usual")
        if self.workers is not None and self.workers < 1:
            raise UsageError(f"unit_tests: workers is {self.workers}; at least 1, or None for one a processor")
        check_tier(self.tier)

    def __reduce__(self) -> tuple[Any, ...]:
        fields = (self.timeout, self.memory_mb, self.partial, self.unsafe_no_sandbox, self.tier, self.check_tests)
        return type(self), (*fields, self.workers)

    @property
    def _runner(self) -> _Runner:
        with _opening:
            return self._opened

    @cached_property
    def _opened(self) -> _Runner:
        sandbox = open_sandbox(self.tier, size=self.workers, unsafe=self.unsafe_no_sandbox)  # type: ignore[arg-type]
        return _Runner(self, sandbox)

    def check(self, problem: Problem) -> str | None:
        """Why there is nothing to run on this problem, or None.

        Raises:
            UsageError: its tests can't be run; the message says which, and why.
            SandboxUnavailable: no tier holds on this machine.
        """
        if read_tests(problem) is None:
            return _NO_TESTS
        _ = self._runner
        return None

    def __call__(self, problem: Problem, branch: Branch, /) -> Verdict:
        """The verdict on one branch; may be called from many threads at once.

        Raises:
            SandboxUnavailable: no tier holds on this machine.
        """
        begun = time.perf_counter()
        try:
            tests = read_tests(problem)
            judged = self._runner.judged(problem, tests, branch) if tests else _Judged("abstained", _NO_TESTS)
        except UsageError as error:
            judged = _Judged("error", str(error))
        except Broken as error:
            judged = _Judged("error", f"the sandbox failed twice: {error}")
        unsafe = "(no sandbox) " if self.unsafe_no_sandbox and self._runner.sandbox.tier == "none" else ""
        score = judged.passed / judged.total if self.partial and judged.status == "rejected" and judged.total else None
        return Verdict.model_validate(
            {
                "status": judged.status,
                "reason": _cut(unsafe + judged.reason),
                "score": score,
                "verifier": self.name,
                "seconds": time.perf_counter() - begun,
            }
        )

    def close(self) -> None:
        """End the sandbox's processes. Idempotent; a later call starts new ones."""
        if "_opened" in self.__dict__:
            self._opened.sandbox.close()


def unit_tests(
    timeout: float = 4.0,
    memory_mb: int = 512,
    partial: bool = False,
    unsafe_no_sandbox: bool = False,
    *,
    tier: str = "auto",
    check_tests: bool = False,
    workers: int | None = None,
) -> UnitTests:
    """A verifier that runs an answer's program against the problem's tests, in a sandbox.

    Args:
        timeout: Wall-clock seconds of one run.
        memory_mb: Address space of the program, in MiB.
        partial: Score a rejected branch by the share of tests that it passed.
        unsafe_no_sandbox: Run without walls where none can be had; every verdict then says so.
        tier: "auto", "A" (namespaces), "B" (Landlock and seccomp) or "C" (macOS).
        check_tests: For tests that a model wrote: they must fail on stubs before they count.
        workers: Programs that run at a time; None is one a processor.

    Raises:
        UsageError: a limit that makes no sense, or a tier that there isn't.
    """
    return UnitTests(timeout, memory_mb, partial, unsafe_no_sandbox, tier, check_tests, workers)


class _Runner:
    """The sandbox of one verifier, and what is known of its problems' tests."""

    def __init__(self, verifier: UnitTests, sandbox: Sandbox) -> None:
        self.verifier, self.sandbox = verifier, sandbox
        self.limits = Limits(seconds=verifier.timeout, memory_mb=verifier.memory_mb)
        self._faults: OrderedDict[tuple[str, str], str | None] = OrderedDict()
        self._lock = threading.Lock()

    def judged(self, problem: Problem, tests: Cases | TestSource, branch: Branch) -> _Judged:
        fault = self._fault(problem, tests)
        return self._run(problem, tests, branch.text) if fault is None else _Judged("error", fault)

    def _run(self, problem: Problem, tests: Cases | TestSource, text: str) -> _Judged:
        names = tests.names if isinstance(tests, TestSource) else [problem.entry_point] if problem.entry_point else []
        sources = programs_in(text, names, problem.text)
        if not sources:
            return _Judged("rejected", f"no code in {text.strip()[-60:]!r}; a fenced block is looked for")
        program = Program(sources, prelude_of(problem.text, problem.entry_point))
        if isinstance(tests, TestSource):
            return self._examined(problem, tests, program)
        if isinstance(tests.cases[0], CallCase):
            return self._called(problem, tests.cases, program)
        return self._printed(problem, tests.cases, program)

    # --- values: compared here ---------------------------------------------------------------------------------

    def _called(self, problem: Problem, cases: tuple[CallCase, ...], program: Program) -> _Judged:
        assert problem.entry_point is not None  # read_tests saw to it
        called = self.sandbox.calls(program, problem.entry_point, [case.call for case in cases], self.limits)
        if called.failed is not None:
            return self._unloaded(called.failed)
        if called.missing is not None:
            return _no_such(called.missing)
        verdicts = [self._compared(case, called, at) for at, case in enumerate(cases)]
        told = [(case.shown, why) for case, why in zip(cases, verdicts, strict=True)]
        if called.malformed or called.outcome.why != "ended":  # all answers, and more than them
            ended = _ended(called.outcome, self.limits) if called.outcome.why != "ended" else None
            label, why = told[-1]
            told[-1] = (label, why or f"{ended or 'it wrote what is no result'} besides")
        return self._counted(told, late=called.outcome.why == "timeout")

    def _compared(self, case: CallCase, called: Called, at: int) -> str | None:
        """Why a case fails, or None."""
        wanted = f"expected {case.raises if case.raises else shown(case.expect)}"
        if at >= len(called.replies):
            ended = _ended(called.outcome, self.limits)
            return f"{ended if ended else 'it wrote what is no result'}, {wanted}"
        kind, got = called.replies[at]
        if kind == "raised":
            name, message, *lineage = got
            if case.raises in (name, *lineage):
                return None
            return f"raised {name[:100]}{': ' if message else ''}{message[:300]}, {wanted}"
        if kind == "unfit":
            return f"returned {got}, {wanted}"
        if case.raises is None and same(case.expect, got, case.tolerance):
            return None
        other = case.raises is None and same(case.expect, got, 0.0) and case.tolerance is None
        return f"got {shown(got)}{' (of another type)' if other else ''}, {wanted}"

    def _printed(self, problem: Problem, cases: tuple[StdinCase, ...], program: Program) -> _Judged:
        told: list[tuple[str, str | None]] = []
        late = False
        for case in cases:
            printed = self.sandbox.program(program, case.stdin, self.limits, problem.entry_point)
            outcome = printed.outcome
            late |= outcome.why == "timeout"
            if printed.missing is not None:
                return _no_such(printed.missing)
            why = _ended(outcome, self.limits) if outcome.why != "ended" else None
            if why is None and printed.fault is not None:
                why = f"raised {printed.fault[0]}: {printed.fault[1][:300]}"
            if why is None and not _same_output(case, printed.text):
                why = f"got {_short(printed.text)}"
            label = f"input {_short(case.stdin)}"
            told.append((label, None if why is None else f"{why}, expected {_short(case.stdout)}"))
            if why is not None and not self.verifier.partial:
                told += [("", "not run")] * (len(cases) - len(told))
                break
        return self._counted(told, late=late)

    def _counted(self, told: list[tuple[str, str | None]], *, late: bool) -> _Judged:
        total = len(told)
        failing = [(at, label, why) for at, (label, why) in enumerate(told, 1) if why is not None]
        if not failing:
            return _Judged("accepted", f"{total} of {total} tests passed", total, total)
        at, label, why = failing[0]
        if self._wants_files(why):
            return self._unsupported_files(why)
        return _Judged("rejected", f"test {at} of {total}: {label}: {why}", total - len(failing), total, late)

    # --- tests: in a process of their own ----------------------------------------------------------------------

    def _examined(self, problem: Problem, tests: TestSource, program: Program) -> _Judged:
        examined = self.sandbox.tests(program, tests.source, self.limits, **self._asked(problem))
        said = examined.said
        late = any(ended is not None and ended.why == "timeout" for ended in (examined.program, examined.tests))
        if said is None:
            ended = _ended(examined.tests, self.limits) or "no verdict"
            return _Judged("rejected", f"the tests did not end: {ended}", late=late)
        if "unsupported" in said:
            return _Judged("abstained", f"unsupported: {said['unsupported']}")
        if "failed" in said:
            return self._unloaded(said["failed"])
        if "missing" in said:
            return _no_such(said["missing"])
        passed, total = int(said["passed"]), max(int(said["total"]), 1)
        if "gone" in said:
            told = f"{self._gone(said, examined)} ({passed} of {total} tests passed)"
            return _Judged("rejected", told, passed, total, late)
        if said["first"] is not None:
            if self._wants_files(said["first"]):
                return self._unsupported_files(said["first"])
            return _Judged("rejected", f"{said['first']} ({passed} of {total} tests passed)", passed, total)
        if said["unreached"] and said["calls"]:
            return _Judged("rejected", f"none of the {said['unreached']} asserts was reached", 0, total)
        if not said["calls"]:
            return _Judged("error", "the tests test nothing: they never call the program")
        return _Judged("accepted", f"{passed} of {total} tests passed" if passed else "the tests ran to their end")

    def _gone(self, said: dict[str, Any], examined: Examined) -> str:
        assert examined.program is not None  # a stub never goes
        # That its process ended is known; why it did the link knows better, as it ends when the tests do.
        forced = examined.program.why not in ("ended", "cancelled")
        ended = _ended(examined.program, self.limits) if forced else None
        return f"the program {ended or said['gone']} during test {int(said['passed']) + 1}"

    def _asked(self, problem: Problem) -> dict[str, Any]:
        prelude = prelude_of(problem.text, problem.entry_point)
        return {"entry": problem.entry_point, "prelude": prelude, "partial": self.verifier.partial}

    # --- what is wrong with the tests --------------------------------------------------------------------------

    def _fault(self, problem: Problem, tests: Cases | TestSource) -> str | None:
        """Why the tests don't count, found out once a problem; None where they do. That the problem's own solution was
        too late is found out anew: it may have been the machine."""
        if not self.verifier.check_tests and not isinstance(problem.metadata.get("solution"), str):
            return None
        key = (problem.digest, repr((problem.tests, problem.entry_point, problem.metadata.get("solution"))))
        with self._lock:
            if key in self._faults:
                return self._faults[key]
        fault, late = self._reference_fault(problem, tests)
        if late:
            return fault
        if fault is None and self.verifier.check_tests and isinstance(tests, TestSource):
            fault = self._stub_fault(problem, tests)
        with self._lock:
            self._faults[key] = fault
            while len(self._faults) > 1000:
                self._faults.popitem(last=False)
        return fault

    def _reference_fault(self, problem: Problem, tests: Cases | TestSource) -> tuple[str | None, bool]:
        """Why the tests fail on the problem's own solution, or None; and whether that came of a time limit."""
        reference = problem.metadata.get("solution")
        if not isinstance(reference, str) or not reference.strip():
            return None, False
        judged = self._run(problem, tests, reference)
        if judged.status != "rejected":
            return None, False
        return f"the tests fail on the problem's own solution, so they prove nothing: {judged.reason}", judged.late

    def _stub_fault(self, problem: Problem, tests: TestSource) -> str | None:
        stubs: tuple[tuple[Any, str], ...] = (
            ("none", "returns None"),
            ("equal", "returns what is equal to everything"),
        )
        for stub, told in stubs:
            said = self.sandbox.tests(stub, tests.source, self.limits, **self._asked(problem)).said
            if said is not None and said["first"] is None and "unsupported" not in said and not said["unreached"]:
                return f"the tests accept a function that {told}, so they prove nothing"
        return None

    # --- words -------------------------------------------------------------------------------------------------

    def _unloaded(self, why: str) -> _Judged:
        return (
            self._unsupported_files(why) if self._wants_files(why) else _Judged("rejected", f"it does not load: {why}")
        )

    def _wants_files(self, why: str) -> bool:
        """Whether a program failed for want of a folder that this tier doesn't have."""
        return self.sandbox.tier in ("B", "C") and bool(_WRITES.search(why))

    def _unsupported_files(self, why: str) -> _Judged:
        told = f"unsupported: the program writes files, and tier {self.sandbox.tier} has no folder for them: {why}"
        return _Judged("abstained", told)


def _no_such(name: str) -> _Judged:
    return _Judged("rejected", f"the program defines no function {name}")


def _ended(outcome: Outcome, limits: Limits) -> str | None:
    """How a run ended before its time, in words; None where it ended by itself."""
    return {
        "timeout": f"was not done within {limits.seconds:g} s",
        "output": f"wrote more than {limits.output_bytes} bytes",
        "threads": f"started more than {limits.threads} threads",
        "files": f"made more than {limits.files} files",
        "crashed": f"crashed (signal {outcome.signal})",
        "cancelled": "was ended",
        "ended": "ended without a result",
    }.get(outcome.why)


def _same_output(case: StdinCase, got: str) -> bool:
    wanted, given = _plain_lines(case.stdout), _plain_lines(got)
    if wanted == given or case.tolerance is None:
        return wanted == given
    wants, gives = case.stdout.split(), got.split()
    return len(wants) == len(gives) and all(_close(a, b, case.tolerance) for a, b in zip(wants, gives, strict=True))


def _plain_lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().splitlines()]


def _close(wanted: str, given: str, tolerance: float) -> bool:
    if wanted == given:
        return True
    try:
        return math.isclose(float(wanted), float(given), rel_tol=tolerance, abs_tol=tolerance)
    except (ValueError, OverflowError):
        return False


def _short(text: str) -> str:
    return repr(text) if len(text) <= 300 else f"{text[:300]!r}… ({len(text)} characters)"


def _cut(reason: str) -> str:
    """One line that a terminal and a results file can take: what a program said is in it."""
    told = _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), reason[:_LONGEST_REASON])
    return told if len(told) < _LONGEST_REASON else f"{told[: _LONGEST_REASON - 1]}…"
