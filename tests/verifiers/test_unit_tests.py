"""What users meet: right and wrong answers to every kind of tests, run in the safest sandbox there is here."""

# ruff: noqa: ISC004 - rows of programs, which would be two lines longer each in parentheses

from __future__ import annotations

import os
import pickle
import select
import signal
import subprocess
import sys
import sysconfig
import textwrap
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import date, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest

from led_agent.errors import UsageError
from led_agent.types import Branch, Problem, Verdict
from led_agent.verifiers import UnitTests, sandbox, unit_tests
from led_agent.verifiers.sandbox import SandboxUnavailable

ADD = "def add(a, b): return a + b"
GUARD = 60.0  # seconds that nothing here takes


@pytest.fixture(scope="module")
def verifier() -> Iterator[UnitTests]:
    verifier = unit_tests(workers=1, timeout=GUARD)  # time is not what these are about, and cores may be short
    yield verifier
    verifier.close()


@pytest.fixture(scope="module")
def partly() -> Iterator[UnitTests]:
    verifier = unit_tests(workers=1, partial=True)
    yield verifier
    verifier.close()


def fenced(code: str) -> Branch:
    return Branch(text=f"Here it is:\n```python\n{textwrap.dedent(code)}\n```\n")


def judge(verifier: UnitTests, code: str, tests: Any, entry: str | None = None, **more: Any) -> Verdict:
    tests = textwrap.dedent(tests) if isinstance(tests, str) else tests
    return verifier(Problem(prompt=more.pop("prompt", "?"), tests=tests, entry_point=entry, **more), fenced(code))


def call(expect: object, *args: object, **more: object) -> dict[str, Any]:
    return {"args": list(args), "expect": expect, **more}


# --- calls and values ------------------------------------------------------------------------------------------------

VALUES = [
    None, True, 7, -(2**200), 1.5, 2 + 3j, "é\n", b"\x00\xff", bytearray(b"x"), [1, [2]], (1,), {1, 2}, frozenset({3}),
    {"a": [1], 2: None}, Counter("aab"), OrderedDict(a=1, b=2), defaultdict(int, {"a": 1}), deque([1, 2]), range(3),
    Decimal("1.50"), Fraction(1, 3), date(2024, 2, 29), timedelta(days=1, seconds=3), float("nan"), float("-inf"),
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_a_value_of_each_plain_type_goes_in_and_comes_back(verifier, value):
    assert judge(verifier, "def same(x): return x", [call(value, value)], "same").status == "accepted"
    assert judge(verifier, "def same(x): return [x]", [call(value, value)], "same").status == "rejected"


CALLS = [
    (ADD, "add", call(3, 1, 2), "accepted", "1 of 1"),
    ("def add(a, b): return a - b", "add", call(3, 1, 2), "rejected", "add(1, 2): got -1, expected 3"),
    ("def add(a, b): return float(a + b)", "add", call(3, 1, 2), "rejected", "got 3.0 (of another type), expected 3"),
    (ADD, "add", call(3, 1, kwargs={"b": 2}), "accepted", ""),
    (ADD, "add", call(0.3, 0.1, 0.2), "rejected", "got 0.30000000000000004, expected 0.3"),
    (ADD, "add", call(0.3, 0.1, 0.2, tolerance=1e-9), "accepted", ""),
    ("def f(x): raise IOError('no')", "f", {"args": [1], "raises": "IOError"}, "accepted", ""),
    ("class E(ValueError): pass\ndef f(x): raise E", "f", {"args": [1], "raises": "ValueError"}, "accepted", ""),
    ("def f(x): return x", "f", {"args": [1], "raises": "ValueError"}, "rejected", "got 1, expected ValueError"),
    ("def f(x): return 1 / 0", "f", call(1, 1), "rejected", "raised ZeroDivisionError: division by zero, expected 1"),
    ("def f(x): x.sort()", "f", call(None, [2, 1]), "accepted", ""),
    ("def f(n): return (i for i in range(n))", "f", call([0, 1], 2), "rejected", "expected [0, 1]"),
    ("class Solution:\n    def f(self, x): return x", "f", call(1, 1), "accepted", ""),
    ("class Solution:\n    def f(self, x): return x", "Solution.f", call(1, 1), "accepted", ""),
    ("class Solution:\n    @staticmethod\n    def f(x): return x", "Solution.f", call(1, 1), "accepted", ""),
    ("class S:\n    def __init__(self, n): pass\n    @classmethod\n    def f(cls, x): return x", "S.f", call(1, 1),
     "accepted", ""),
    ("def sum(x): return x", "sum", call(1, 1), "accepted", ""),
    ("def g(x): return x", "f", call(1, 1), "rejected", "defines no function f"),
    ("import nothing_of_that_name", "f", call(1, 1), "rejected", "does not load: ModuleNotFoundError"),
    ("def f(x):\n  return (", "f", call(1, 1), "rejected", "does not load: SyntaxError"),
    ("raise SystemExit(0)", "f", call(1, 1), "rejected", "does not load: SystemExit"),
    ("def f(x): return bytearray(1 << 40)", "f", call(1, 1), "rejected", "MemoryError"),
    ("def f(x): return 'x' * (1 << 21)", "f", call(1, 1), "rejected", "wrote more than 1048576 bytes, expected 1"),
    ("def f(n): return 'x' * n", "f", call("x" * 1_000_000, 1_000_000), "accepted", ""),
    ("def f(x): return sorted(x)", "f", call(list(range(100_000)), list(range(100_000))[::-1]), "accepted", ""),
    ("class E(int):\n    __eq__ = lambda *_: True\ndef f(x): return E(1)", "f", call(1, 1), "rejected", "expected 1"),
    ("def f(x: List[int]) -> int: return x[0]", "f", call(1, [1]), "accepted", ""),
    ("def f(x): exit()", "f", call(1, 1), "rejected", "raised SystemExit, expected 1"),
    ("def f(x): raise ValueError('\\ud800')", "f", call(1, 1), "rejected", "raised ValueError"),
]  # fmt: skip


@pytest.mark.parametrize(("code", "entry", "case", "status", "told"), CALLS, ids=range(len(CALLS)))
def test_calls(verifier, code, entry, case, status, told):
    verdict = judge(verifier, code, [case], entry)
    assert (verdict.status, told in verdict.reason) == (status, True), verdict.reason


def test_the_reason_is_short_and_tells_both_sides_of_large_values(verifier):
    case = call(list(range(5000)), *["x" * 500] * 30)
    verdict = judge(verifier, "def f(*_): return 'y' * 5000", [case], "f")
    assert len(verdict.reason) <= 2000
    assert "got 'yyy" in verdict.reason
    assert "expected [0, 1, 2" in verdict.reason


def test_a_timeout_is_a_rejection_that_names_the_limit():
    verifier = unit_tests(timeout=0.3, workers=1)
    for tests, entry in (([call(1)], "f"), ("assert f() == 1", None), ([{"stdin": "", "stdout": ""}], "f")):
        verdict = judge(verifier, "def f():\n    while True: pass", tests, entry)
        assert (verdict.status, "not done within 0.3 s" in verdict.reason) == ("rejected", True), verdict.reason
    verifier.close()


def test_no_code_and_no_tests(verifier):
    problem = Problem(prompt="?", tests="assert add(1, 2) == 3")
    assert "no code" in verifier(problem, Branch(text="I can't say.")).reason
    nothing = Problem(prompt="?")
    assert verifier(nothing, fenced(ADD)).status == "abstained"
    assert "no tests" in verifier.check(nothing)
    assert verifier.check(problem) is None
    broken = Problem(prompt="?", tests="assert (")
    with pytest.raises(UsageError, match="no Python, line 1"):
        verifier.check(broken)
    assert verifier(broken, fenced(ADD)).status == "error"


# --- input and output ------------------------------------------------------------------------------------------------

PRINTED = [
    ("a, b = map(int, input().split())\nprint(a + b)", "accepted", ""),
    ("import sys\ndef main():\n    print(sum(map(int, sys.stdin.read().split())))\n"
     "if __name__ == '__main__':\n    main()", "accepted", ""),
    ("print(3, end='  \\n\\n')", "accepted", ""),
    ("import sys\nprint(3)\nsys.exit(0)\nprint(4)", "accepted", ""),
    ("print(3)\nquit()", "accepted", ""),
    ("import sys\nprint(3)\nsys.exit(2)", "rejected", "raised SystemExit: 2"),
    ("import sys\nsys.exit(0)", "rejected", "got '', expected '3'"),
    ("print(4)", "rejected", "input '1 2\\n': got '4\\n', expected '3'"),
    ("print(3)\n1 / 0", "rejected", "raised ZeroDivisionError"),
    ("print('x' * (1 << 21))", "rejected", "wrote more than 1048576 bytes"),
    ("import threading, time\nthreading.Thread(target=lambda: (time.sleep(0.05), print(3))).start()", "accepted", ""),
    ("import atexit\natexit.register(print, 3)", "accepted", ""),
    ("print(sum(map(int, open(0).read().split())))", "accepted", ""),
]  # fmt: skip


@pytest.mark.parametrize(("code", "status", "told"), PRINTED, ids=range(len(PRINTED)))
def test_programs_that_read_and_print(verifier, code, status, told):
    verdict = judge(verifier, code, [{"stdin": "1 2\n", "stdout": "3"}])
    assert (verdict.status, told in verdict.reason) == (status, True), verdict.reason


@pytest.mark.parametrize("code", ["def solve(text): return len(text)", "def solve(): print(len(input()))"])
def test_an_entry_point_that_takes_the_input_or_reads_it(verifier, code):
    assert judge(verifier, code, [{"stdin": "abc", "stdout": "3"}], "solve").status == "accepted"
    assert "no function other" in judge(verifier, code, [{"stdin": "abc", "stdout": "3"}], "other").reason


def test_printed_numbers_may_have_a_tolerance(verifier):
    case = {"stdin": "", "stdout": "0.333 x"}
    assert judge(verifier, "print(1 / 3, 'x')", [case]).status == "rejected"
    assert judge(verifier, "print(1 / 3, 'x')", [case | {"tolerance": 0.01}]).status == "accepted"
    assert judge(verifier, "print(1 / 3, 'y')", [case | {"tolerance": 0.01}]).status == "rejected"


# --- shares, checked tests, references -------------------------------------------------------------------------------


def test_partial_scores_are_exact_shares(partly):
    add, wrong = "def add(a, b): return a + b if a < 3 else 1 // 0", [call(n + 1, n, 1) for n in range(4)]
    assert judge(partly, add, wrong, "add").score == 0.75
    asserts = "\n".join(f"assert add({n}, 1) == {n + 1}" for n in range(4))
    assert judge(partly, add, asserts).score == 0.75
    assert judge(partly, add, f"{asserts}\nx = add(3, 1)\nassert add(0, 0) == 0").score == 0.6
    inputs = [{"stdin": str(n), "stdout": str(n % 3)} for n in range(4)]
    assert judge(partly, "print(input())", inputs).score == 0.75
    assert judge(partly, ADD, asserts).score == 1.0
    functions = "def test_a():\n    add(3, 1)\n    assert add(1, 1) == 2\ndef test_b():\n    assert add(1, 1) == 2"
    assert judge(partly, add, functions).score == 0.5
    cases = "import unittest\nclass T(unittest.TestCase):\n" + "\n".join(
        f"    def test_{n}(self): assert add({n}, 1) == {n + 1}" for n in range(4)
    )
    assert judge(partly, add, cases).score == 0.75


def test_tests_that_accept_stubs_are_an_error():
    verifier = unit_tests(workers=1, check_tests=True)
    assert "accept a function that returns None" in judge(verifier, ADD, "add(1, 2)\nassert True").reason
    weak = "assert add(1, 2) is not None"
    assert "equal to everything" in judge(verifier, ADD, weak).reason
    assert judge(verifier, ADD, "assert add(1, 2) == 3").status == "accepted"
    assert judge(verifier, "def f(g): return g(1)", "assert f(lambda x: x) == 1").status == "abstained"
    verifier.close()


def test_tests_that_fail_on_the_reference_are_an_error(verifier):
    told = judge(verifier, ADD, "assert add(1, 2) == 4", metadata={"solution": ADD})
    assert (told.status, "own solution" in told.reason, "add(1, 2) == 4" in told.reason) == ("error", True, True)
    assert judge(verifier, ADD, "assert add(1, 2) == 3", metadata={"solution": ADD}).status == "accepted"
    assert judge(verifier, ADD, "assert 1 == 1").status == "error"


def late(found: Any) -> Any:
    """The same run, had it reached its time limit before anything came of it."""
    if isinstance(found, sandbox.Examined):
        return replace(found, said=None, tests=replace(found.tests, why="timeout"))
    ended = replace(found.outcome, why="timeout")
    nothing = {"replies": ()} if isinstance(found, sandbox.Called) else {"text": ""}
    return replace(found, outcome=ended, **nothing)


@pytest.mark.parametrize(
    ("way", "tests", "reference"),
    [
        ("calls", [call(3, 1, 2)], ADD),
        ("program", [{"stdin": "1", "stdout": "1"}], "print(input())"),
        ("tests", "assert add(1, 2) == 3", ADD),
    ],
)
def test_a_reference_that_was_late_once_is_asked_again(verifier, monkeypatch, way, tests, reference):
    box = verifier._runner.sandbox
    running, runs = getattr(box, way), []

    def run(*args: Any, **options: Any) -> Any:
        runs.append(running(*args, **options))
        return late(runs[0]) if len(runs) == 1 else runs[-1]

    monkeypatch.setattr(box, way, run)
    asked = {"metadata": {"solution": reference}, "prompt": f"late in {way}"}
    entry = "add" if way == "calls" else None
    first, *after = (judge(verifier, reference, tests, entry, **asked) for _ in range(3))
    assert (first.status, "was not done within" in first.reason) == ("error", True)
    assert [told.status for told in after] == ["accepted", "accepted"]
    assert len(runs) == 1 + 2 + 1  # the reference twice, and what is right twice


# --- the verifier as an object ---------------------------------------------------------------------------------------


def test_a_pickled_copy_judges(verifier):
    copy = pickle.loads(pickle.dumps(verifier))
    assert copy == verifier
    assert judge(copy, ADD, "assert add(1, 2) == 3").status == "accepted"
    copy.close()
    assert judge(copy, ADD, "assert add(1, 2) == 3").status == "accepted"
    copy.close()


def test_threads_get_their_own_verdicts_and_share_one_sandbox(monkeypatch):
    opened = []
    opening = sandbox.open_sandbox
    module = sys.modules["led_agent.verifiers.unit_tests"]
    monkeypatch.setattr(module, "open_sandbox", lambda *a, **k: opened.append(1) or opening(*a, **k))
    verifier = unit_tests(workers=2)
    with ThreadPoolExecutor(8) as threads:
        verdicts = list(
            threads.map(lambda n: judge(verifier, f"def f(): return {n % 3}", "assert f() == 0").status, range(48))
        )
    assert verdicts == ["rejected" if n % 3 else "accepted" for n in range(48)]
    assert len(opened) == 1
    verifier.close()


def test_close_ends_a_run_under_way():
    verifier = unit_tests(timeout=GUARD, workers=1)
    assert judge(verifier, ADD, "assert add(1, 2) == 3").status == "accepted"
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(judge, verifier, "def f():\n    while True: pass", [call(1)], "f")
        while not running.done():
            verifier.close()
        assert running.result(GUARD).status == "error"
    verifier.close()


@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_a_fork_of_the_parent_leaves_its_sandbox_alone(verifier):
    assert judge(verifier, ADD, "assert add(1, 2) == 3").status == "accepted"
    pid = os.fork()
    if pid == 0:
        try:
            code = judge(verifier, ADD, "assert add(1, 2) == 3").status == "accepted"
            verifier.close()
            os._exit(0 if code else 1)
        finally:
            os._exit(2)
    assert os.waitpid(pid, 0)[1] == 0
    assert judge(verifier, ADD, "assert add(1, 2) == 3").status == "accepted"


def test_without_any_tier_nothing_runs_but_for_those_who_say_so(monkeypatch):
    monkeypatch.setattr(sandbox, "_report", lambda tier, fresh=False: sandbox.Report(tier, False, f"no {tier} here"))
    with pytest.raises(SandboxUnavailable, match="A: no A here; B: no B here; C: no C here"):
        judge(unit_tests(), ADD, "assert add(1, 2) == 3")
    verifier = unit_tests(unsafe_no_sandbox=True, workers=1)
    for code, status in ((ADD, "accepted"), ("def add(a, b): return 0", "rejected")):
        verdict = judge(verifier, code, "assert add(1, 2) == 3")
        assert (verdict.status, verdict.reason[:12]) == (status, "(no sandbox)")
    verifier.close()


def test_zygotes_end_with_a_parent_that_is_killed():
    script = f"""
        from led_agent.types import Branch, Problem
        from led_agent.verifiers import unit_tests
        verifier = unit_tests(workers=1)
        verdict = verifier(Problem(prompt="?", tests="assert add(1, 2) == 3"), Branch(text={ADD!r}))
        print(verdict.status, *verifier._runner.sandbox.pids(), flush=True)
        input()
    """
    words = [sys.executable, "-c", textwrap.dedent(script)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        status, *pids = parent.stdout.readline().split()
        handles = [os.pidfd_open(int(pid)) for pid in pids]
        parent.send_signal(signal.SIGKILL)
    assert (status, len(pids)) == ("accepted", 2)
    for handle in handles:
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        assert poll.poll(GUARD * 1000), "a zygote is still there"
        os.close(handle)


def test_installed_packages_cannot_be_read(verifier):
    """A benchmark that is installed beside Python has its answers in it."""
    code = f"""
import os
def f():
    found = []
    for folder in ({sysconfig.get_path("purelib", vars={"base": sys.base_prefix})!r}, "/usr/lib/python3/dist-packages"):
        for root, _, names in os.walk(folder):
            for name in names:
                try:
                    found.append(open(os.path.join(root, name), "rb").read(1))
                except OSError:
                    pass
    return len(found)
"""
    cases = [{"args": [], "expect": 0}]
    problem = Problem(prompt="f", entry_point="f", tests=cases)
    verdict = verifier(problem, Branch(text=f"```python\n{code}```"))
    assert verdict.status == "accepted", verdict.reason
