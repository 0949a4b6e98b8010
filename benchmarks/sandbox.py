"""The sandbox: runs per second, verdicts on attack programs and on references, and a long mixed run.

python -m benchmarks.sandbox [--attacks FOLDER] [--humaneval FILE] [--mbpp FILE] [--runs 2000] [--tier A,B] [--json]

Each figure is the median of five rounds, the tiers taking turns, with the range behind it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from led_agent.problems import read_problems
from led_agent.types import Branch, Problem
from led_agent.verifiers.sandbox import Sandbox, Tier, report
from led_agent.verifiers.sandbox.process import Zygote
from led_agent.verifiers.unit_tests import UnitTests, unit_tests

ROUNDS = 5
GOOD = "def add(a, b):\n    return a + b"
TESTS: dict[str, Any] = {
    "P3": [{"args": [1, 2], "expect": 3}, {"args": [0, 0], "expect": 0}, {"args": [3, 4], "expect": 7}],
    "P4": "assert add(1, 2) == 3\nassert add(0, 0) == 0\nassert add(3, 4) == 7",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("attacks", "humaneval", "mbpp"):
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("--runs", type=int, default=2000, help="of the long mixed run, which needs --attacks")
    parser.add_argument("--tier", default="A,B")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    wanted: list[Tier] = options.tier.split(",")
    rows: list[dict[str, Any]] = []
    verifiers: dict[Tier, UnitTests] = {}
    for tier in wanted:
        began = time.perf_counter()
        found = next(one for one in report(fresh=True) if one.tier == tier)
        rows.append({"tier": tier, "what": "probes, s", "value": round(time.perf_counter() - began, 2)})
        if found.available:
            verifiers[tier] = unit_tests(timeout=2.0, tier=tier, workers=2)
        else:
            rows.append({"tier": tier, "what": "not available", "value": found.reason})
    rows += speeds(verifiers)
    for tier, verifier in verifiers.items():
        if options.attacks:
            rows += attacks(tier, verifier, options.attacks) + soak(tier, verifier, options.attacks, options.runs)
        for file in (options.humaneval, options.mbpp):
            rows += references(tier, verifier, file) if file else []
        verifier.close()
    for row in rows:
        print(json.dumps(row) if options.json else f"{row['tier']:4} {row['what']:44} {row['value']}")


def speeds(verifiers: dict[Tier, UnitTests]) -> list[dict[str, Any]]:
    found: dict[tuple[Tier, str], list[float]] = {}
    for _ in range(ROUNDS):
        for tier, verifier in verifiers.items():
            began = time.perf_counter()
            Zygote(tier).kill()
            found.setdefault((tier, "start and end of a zygote, ms"), []).append(1000 * (time.perf_counter() - began))
            for way in TESTS:
                for threads in (2, 4):
                    rate = per_second(verifier, TESTS[way], threads)
                    found.setdefault((tier, f"{way} runs/s, {threads} threads"), []).append(rate)
    return [
        {"tier": tier, "what": what, "value": f"{statistics.median(all_):.0f} ({min(all_):.0f} … {max(all_):.0f})"}
        for (tier, what), all_ in found.items()
    ]


def per_second(verifier: UnitTests, tests: Any, threads: int, runs: int = 300) -> float:
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda _: status(verifier, GOOD, tests), range(8)))  # start the zygotes
        began = time.perf_counter()
        said = list(pool.map(lambda _: status(verifier, GOOD, tests), range(runs)))
        seconds = time.perf_counter() - began
    assert set(said) == {"accepted"}
    return runs / seconds


def status(verifier: UnitTests, source: str, tests: Any) -> str:
    problem = Problem(prompt="Add.", tests=tests, entry_point="add")
    return verifier(problem, Branch(text=f"```python\n{source}\n```")).status


def expected(source: str) -> str:
    return "accepted" if "expect: pass" in source.partition("\n")[0] else "rejected"


def attacks(tier: Tier, verifier: UnitTests, folder: Path) -> list[dict[str, Any]]:
    """Each program's verdict beside what its first line expects."""
    rows, right, total = [], 0, 0
    for file in sorted(folder.glob("*.py")):
        for way, tests in TESTS.items():
            source = file.read_text()
            said = status(verifier, source, tests)
            total, right = total + 1, right + (said == expected(source))
            if said != expected(source):
                rows.append({"tier": tier, "what": f"{file.name} by {way}", "value": f"{said}, not {expected(source)}"})
    return [*rows, {"tier": tier, "what": "attack programs judged as expected", "value": f"{right} of {total}"}]


def references(tier: Tier, verifier: UnitTests, file: Path) -> list[dict[str, Any]]:
    """Reference solutions, and functions that return nothing or always the same."""
    problems, _ = read_problems(file)
    rows = []
    for name in ("reference", "return None", "return 12345"):
        answers = [solution(problem) if name == "reference" else f"{_stub(problem)}    {name}" for problem in problems]
        # Without its reference solution, which would be run beside each of them.
        bare = [problem.model_copy(update={"metadata": {}}) for problem in problems]
        branches = [Branch(text=f"```python\n{answer}\n```") for answer in answers]
        with ThreadPoolExecutor(2) as pool:
            said = [verdict.status for verdict in pool.map(verifier, bare, branches)]
        wanted = "accepted" if name == "reference" else "rejected"
        value = f"{said.count(wanted)} of {len(said)} {wanted}"
        rows.append({"tier": tier, "what": f"{file.stem}: {name}", "value": value})
    return rows


def solution(problem: Problem) -> str:
    text = str(problem.metadata["solution"])
    whole = problem.entry_point is None or f"def {problem.entry_point}" in text
    return text if whole else problem.text + text


def _stub(problem: Problem) -> str:
    name = problem.entry_point
    if name is None:
        name = str(problem.metadata["solution"]).rpartition("def ")[2].partition("(")[0]
    return f"def {name}(*args, **kwargs):\n"


def soak(tier: Tier, verifier: UnitTests, folder: Path, runs: int) -> list[dict[str, Any]]:
    """One in twenty is hostile; what is wrong, and what is left behind."""
    rng = random.Random(1)
    bad = [text for file in sorted(folder.glob("*.py")) if expected(text := file.read_text()) == "rejected"]
    sources = [rng.choice(bad) if rng.random() < 0.05 else GOOD for _ in range(runs)]
    ways = [rng.choice(list(TESTS.values())) for _ in range(runs)]
    sandbox: Sandbox = verifier._runner.sandbox
    before = _descriptors()
    with ThreadPoolExecutor(4) as pool:
        said = list(pool.map(lambda source, tests: status(verifier, source, tests), sources, ways))
    mistakes = sum(
        one != ("accepted" if source == GOOD else "rejected") for one, source in zip(said, sources, strict=True)
    )
    rows: list[tuple[str, object]] = [(f"wrong verdicts in {runs} mixed runs", mistakes)]
    rows.append(("zygotes after them", len(sandbox.pids())))
    sandbox.close()
    rows += [("descriptors more than before", _descriptors() - before), ("zombies after close", len(_zombies()))]
    return [{"tier": tier, "what": what, "value": value} for what, value in rows]


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def _zombies() -> Sequence[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if state == "Z" and int(parent) == os.getpid():
            found.append(int(stat.parent.name))
    return found


if __name__ == "__main__":
    main()
