"""A run on a cluster whose parts are killed all the time, compared with one that nobody disturbs.

    python -m benchmarks.chaos --problems 200

A head and two nodes on this machine; `led-agent run` as a process of its own. Every few seconds a decoder is killed
(SIGKILL); once a process of verifiers is; once a node is removed, and another one joins; and once the driver itself is
killed and started again. In the end each answer has to be there once, and each branch has to hold the same tokens as in
an undisturbed run in one process.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from led_agent import Search
from led_agent.countdown import Puzzle
from led_agent.events import Decoded, Requested
from led_agent.journal import read_events
from led_agent.problems import read_problems
from led_agent.strategies import BestOfN, Fallback

_PATIENCE = 900.0  # seconds; a run that takes longer hangs


@dataclass
class Done:
    """What was done to a run."""

    seconds: float = 0.0
    decoders_killed: int = 0
    verifiers_killed: int = 0
    nodes_removed: int = 0
    nodes_joined: int = 0
    drivers_killed: int = 0


@dataclass
class Outcome:
    """The disturbed run against the undisturbed one."""

    problems: int
    lost: int
    duplicated: int
    different: int
    branches: int
    again: int  # branches that were sent more than once
    put_aside: int
    verified: int


def write_problems(path: Path, count: int) -> None:
    """The puzzles a + b·c, all different, from the range that the embedded model knows."""
    rows = [
        Puzzle((a, b, c), a + b * c)
        for a in range(1, 26)
        for b in range(2, 10)
        for c in range(2, 10)
        if a + b * c < 100
    ]
    random.Random(7).shuffle(rows)
    told = [{"id": f"q{at}", "prompt": str(puzzle)} for at, puzzle in enumerate(rows[:count])]
    path.write_text("".join(json.dumps(row) + "\n" for row in told))


class Disturbed:
    """A cluster, a driver, and who kills them."""

    def __init__(self, folder: Path, problems: Path, branches: int) -> None:
        from ray.cluster_utils import Cluster

        self.out, self.problems, self.branches = folder / "run", problems, branches
        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        self.nodes = [self.cluster.add_node(num_cpus=1) for _ in range(2)]
        self.cluster.connect(namespace="led_agent")
        self.done = Done()
        self.driver: subprocess.Popen[bytes] | None = None

    def start(self) -> subprocess.Popen[bytes]:
        command = [
            sys.executable, "-m", "led_agent", "run", str(self.problems), "--out", str(self.out), "--all",
            "--n", str(self.branches), "--cluster", self.cluster.address, "--json", "--quiet",
        ]  # fmt: skip
        log = (self.out.parent / "driver.log").open("ab")
        self.driver = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log)
        return self.driver

    def finished(self) -> int:
        results = self.out / "results.jsonl"
        return results.read_bytes().count(b"\n") if results.exists() else 0

    def run(self, total: int, every: float, kills: int | None = None) -> Done:
        """Let it run to its end, killing a decoder every so many seconds, so often at most."""
        began, driver = time.monotonic(), self.start()
        events: list[tuple[float, Callable[[], bool]]] = [(0.15, self.kill_verifiers), (0.3, self.replace_node)]
        next_kill = time.monotonic() + every
        while driver.poll() is None:
            time.sleep(0.1)
            if time.monotonic() - began > _PATIENCE:
                raise TimeoutError(f"the run hangs: {self.done}; see {self.out.parent / 'driver.log'}")
            share = self.finished() / total
            if share >= 0.6 and not self.done.drivers_killed:
                driver.kill()
                driver.wait()
                self.done.drivers_killed += 1
                driver = self.start()
            if events and share >= events[0][0] and events[0][1]():
                events.pop(0)
            spared = kills is not None and self.done.decoders_killed >= kills
            if time.monotonic() >= next_kill and not spared and self.kill_decoder():
                next_kill = time.monotonic() + every
        self.done.seconds = time.monotonic() - began
        return self.done

    def kill_decoder(self) -> bool:
        """One of them, whatever it does: it may be loading its model."""
        pids = [pid for pid, command in _processes() if command.startswith("ray::DecoderActor")]
        return bool(pids) and self._count_killed(random.choice(pids))

    def _count_killed(self, pid: int) -> bool:
        killed = _kill(pid)
        self.done.decoders_killed += killed
        return killed

    def kill_verifiers(self) -> bool:
        from led_agent.cluster.watch import look

        board = look()
        if not board.verifiers:
            return False
        self.done.verifiers_killed += _kill(board.verifiers[0]["pid"])
        return True

    def replace_node(self) -> bool:
        """A node vanishes with its decoder; another one joins."""
        self.cluster.remove_node(self.nodes.pop(), allow_graceful=False)
        self.done.nodes_removed += 1
        self.nodes.append(self.cluster.add_node(num_cpus=1))
        self.done.nodes_joined += 1
        return True

    def close(self) -> None:
        import ray

        if self.driver is not None:
            self.driver.kill()
        ray.shutdown()
        self.cluster.shutdown()


def _processes() -> Iterator[tuple[int, str]]:
    """Those of this machine whose session is that of this program: no other cluster's."""
    session = os.environ["LED_CHAOS"]
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            with contextlib.suppress(OSError):
                if f"LED_CHAOS={session}".encode() in (folder / "environ").read_bytes():
                    yield (
                        int(folder.name),
                        (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"),
                    )


def _kill(pid: int) -> bool:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def compare(problems: Path, journal: Path, branches: int) -> Outcome:
    """The journal of the disturbed run against a run in this process."""
    asked: dict[str, set[str]] = {}
    decoded: dict[tuple[str, str], list[Any]] = {}
    for key, event in read_events(journal):
        if isinstance(event, Requested):
            asked.setdefault(key, set()).add(event.request.id)
        elif isinstance(event, Decoded):
            decoded.setdefault((key, event.branch.id), []).append(event.branch)
    rows = [json.loads(line) for line in (journal.parent / "results.jsonl").read_text().splitlines()]
    times = Counter(row["id"] for row in rows)
    given, _ = read_problems(problems)
    different = 0
    with Search(strategy=Fallback(BestOfN(branches, stop_at_first=False))) as search:
        for solution in search.solve_many(given, ordered=False):
            key = solution.problem.key
            nodes = {node.id for node in solution.tree.nodes()}
            different += len(nodes ^ asked.get(key, set()))
            for name in nodes & asked.get(key, set()):
                found = decoded.get((key, name), [])
                different += not found or found[0].token_ids != solution.tree.branch(name).token_ids
    all_found = [branch for found in decoded.values() for branch in found]
    return Outcome(
        problems=len(given),
        lost=sum(problem.key not in times for problem in given),
        duplicated=sum(count - 1 for count in times.values()) + sum(len(found) - 1 for found in decoded.values()),
        different=different,
        branches=len(all_found),
        again=sum(branch.attempts > 1 for branch in all_found),
        put_aside=sum("put aside" in (branch.error or "") for branch in all_found),
        verified=sum(row["verified"] for row in rows),
    )


def chaos(folder: Path, problems: int, branches: int, every: float, kills: int | None = None) -> tuple[Done, Outcome]:
    """Disturb a run, and compare it."""
    file = folder / "problems.jsonl"
    write_problems(file, problems)
    disturbed = Disturbed(folder, file, branches)
    try:
        done = disturbed.run(problems, every, kills)
    finally:
        disturbed.close()
    return done, compare(file, disturbed.out / "journal.jsonl", branches)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=200)
    parser.add_argument("--branches", type=int, default=8)
    parser.add_argument("--folder", type=Path, help="kept; by default a temporary one")
    parser.add_argument("--every", type=float, default=5.0, help="seconds between two decoders that are killed")
    parser.add_argument("--kills", type=int, help="decoders to kill at most; by default as many as there is time for")
    parser.add_argument("--json", action="store_true", help="one object on the last line")
    given = parser.parse_args()
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["LED_CHAOS"] = str(os.getpid())  # by which all processes of this cluster are known
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        done, outcome = chaos(folder, given.problems, given.branches, given.every, given.kills)
    if given.json:
        print(json.dumps({**asdict(done), **asdict(outcome)}))
    else:
        print(done)
        print(outcome)


if __name__ == "__main__":
    main()
