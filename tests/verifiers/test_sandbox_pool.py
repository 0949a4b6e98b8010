"""Zygotes that come and go and the clocks of their runs, whatever else happens meanwhile."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from led_agent.verifiers.sandbox import Broken, Limits, Outcome, Program, Sandbox, pool
from led_agent.verifiers.sandbox.inside import zygote
from led_agent.verifiers.sandbox.process import Zygote


def test_closing_ends_a_run_whose_zygote_is_just_starting(monkeypatch: pytest.MonkeyPatch) -> None:
    sandbox = Sandbox("none", size=1)

    def start(*asked: Any) -> Zygote:
        made = Zygote(*asked)
        sandbox.close()  # from another thread, in truth
        return made

    monkeypatch.setattr(pool, "Zygote", start)
    with pytest.raises(Broken, match="was closed"):
        sandbox.calls(Program(("def f(): return 1",)), "f", [pool.Call()], Limits(seconds=60.0))
    assert sandbox.pids() == ()


# --- a run's clock -------------------------------------------------------------------------------------------------


class Watched:
    """A run of 4 seconds that was forked at 0 by a clock that goes as it is told."""

    def __init__(self) -> None:
        self.now = 0.0
        self.read, self.write = os.pipe()
        self.control, self.other = socket.socketpair()
        self.result = zygote._Buffer()

    def begin(self) -> None:
        limits = {"seconds": 4.0, "output_bytes": 100, "threads": 10_000, "files": 100}
        walls: Any = SimpleNamespace(scratch=None)
        self.run = zygote._Run(limits, None, walls, self.control, os.getppid(), self.result, zygote._Buffer())

    def enter(self, at: float) -> None:
        """Let the first byte be seen, which is written behind the walls and before the program."""
        self.now = at
        os.write(self.write, b"+")
        self.run._take(self.read, {self.read: self.result}, select.poll())

    def over(self, at: float) -> bool:
        self.now = at
        return self.run._over(os.getpid())

    def close(self) -> None:
        os.close(self.read)
        os.close(self.write)
        self.control.close()
        self.other.close()


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[Watched]:
    made = Watched()
    monkeypatch.setattr(zygote, "time", SimpleNamespace(monotonic=lambda: made.now))
    made.begin()
    yield made
    made.close()


@pytest.mark.parametrize(
    ("seen", "end"),
    [(0.01, 4.01), (3.0, 7.0), (9.5, 13.5), (12.0, 14.0)],
    ids=["at once", "later", "later than its limit", "by a zygote that was held up"],
)
def test_the_limit_counts_from_when_the_walls_stand(watched: Watched, seen: float, end: float) -> None:
    """The last has time that it may have had unseen taken off: it stood by 10, or would have been ended then."""
    watched.enter(seen)
    assert not watched.over(end - 0.005)
    assert watched.over(end)
    assert watched.run._why == "timeout"


def test_walls_that_are_never_seen_to_stand_end_a_run(watched: Watched) -> None:
    assert not watched.over(9.9)
    assert watched.over(10.0)
    assert watched.run._why == "timeout"


@pytest.mark.parametrize(("late", "broken"), [(0.5, False), (1.5, True)])
def test_tests_that_ended_before_a_late_program_had_its_time_say_nothing(late: float, broken: bool) -> None:
    """A program has its limit, and its tests a second more; both clocks begin with the walls."""
    outcomes = {
        "program": Outcome("cancelled", 9, b"+", b"", 6.0, 1, entered=100.0 + late),
        "tests": Outcome("timeout", 9, b"+", b"", 5.0, 1, entered=100.0),
    }

    def start(role: str) -> Any:
        return SimpleNamespace(
            submit=lambda *_: None, cancel=lambda: None, outcome=lambda _limits, role=role: outcomes[role]
        )

    cell: Any = SimpleNamespace(zygote=start)

    def examined() -> pool.Examined:
        return pool._examined(cell, Program(("",)), {"tests": ""}, Limits(seconds=4.0))

    if broken:
        with pytest.raises(Broken, match="started so late"):
            examined()
    else:
        assert examined().tests.why == "timeout"
