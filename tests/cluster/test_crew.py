"""The crew's seats, with actors that are functions: what is asked of them, when, and who answers in the end."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray.exceptions import ActorUnavailableError

from led_agent.cluster import crew as crew_module
from led_agent.cluster.actor import Message, Recipe, Reply
from led_agent.cluster.crew import Crew, Seat
from led_agent.cluster.leases import Leases, Worker
from led_agent.cluster.plan import Share
from led_agent.errors import MachineError
from led_agent.tree import Tree
from led_agent.types import Decoding


class Desk:
    """In place of the dispatcher: what is posted is done at once, in the test's own thread."""

    def __init__(self) -> None:
        self.leases = Leases()
        self.broken: str | None = None

    def post(self, act: Callable[[], None]) -> None:
        act()

    def gone(self, worker: Worker, why: str, *, died: bool = True) -> None:
        self.leases.gone(worker, why, died=died)


class Actor:
    """In place of a process: each question stays open until the test answers it."""

    def __init__(self) -> None:
        self.turns: list[tuple[Message, Future[bytes]]] = []
        self.checks: list[Future[None]] = []
        self.turn, self.check = SimpleNamespace(remote=self._turn), SimpleNamespace(remote=self._check)

    def _turn(self, message: bytes) -> Any:
        self.turns.append((pickle.loads(message), Future()))
        return SimpleNamespace(future=lambda asked=self.turns[-1][1]: asked)

    def _check(self, request: object) -> Any:
        self.checks.append(Future())
        return SimpleNamespace(future=lambda asked=self.checks[-1]: asked)


@pytest.fixture
def crew(monkeypatch: pytest.MonkeyPatch) -> Crew:
    monkeypatch.setattr(ray, "kill", lambda actor: None)
    monkeypatch.setattr(ray, "nodes", list)
    desk: Any = Desk()
    return Crew(desk, Recipe("countdown", "cpu", "float32", 4), Share(cpus=1.0), "test", dict)


def seated(crew: Crew) -> tuple[Seat, Actor]:
    """One decoder more, which is being asked for news."""
    actor, number = Actor(), len(crew.seats)
    seat = Seat(number, state="live", actor=actor, worker=Worker(f"w{number}", 4))
    assert seat.worker is not None
    crew.dispatcher.leases.join(seat.worker)
    crew.seats.append(seat)
    crew._poll(seat)
    return seat, actor


def test_an_actor_that_can_not_be_reached_is_asked_for_news_once_at_a_time(crew: Crew) -> None:
    _, actor = seated(crew)
    actor.turns[0][1].set_exception(ActorUnavailableError("no way to it", None))
    for _ in range(3):
        crew.tick()
    assert len(actor.turns) == 2  # the second one is under way
    actor.turns[1][1].set_exception(ActorUnavailableError("no way to it", None))
    crew.tick()
    assert len(actor.turns) == 3
    actor.turns[2][1].set_result(pickle.dumps(Reply(1, (), (), 0.0, 0)))
    crew.tick()
    assert len(actor.turns) == 3  # it is heard of: from now on it is asked when its time has come


# --- whether a model can do something ------------------------------------------------------------------------------

(GOOD,) = Tree("Use 4, 7 and 12 to make 40.", decoding=Decoding.plain()).requests(1)


def test_a_decoder_that_is_lost_from_sight_is_not_asked(crew: Crew) -> None:
    lost, hung = seated(crew)
    _, well = seated(crew)
    assert lost.worker is not None
    crew.dispatcher.leases.lost_from_sight(lost.worker)
    answer: Future[None] = Future()
    crew.check(GOOD, answer)
    assert (len(hung.checks), len(well.checks)) == (0, 1)
    well.checks[0].set_result(None)
    assert answer.result(0) is None


@pytest.mark.parametrize("late", [False, True])
def test_what_a_hung_decoder_was_asked_others_are_asked_once_it_is_lost_from_sight(crew: Crew, late: bool) -> None:
    seat, hung = seated(crew)
    _, well = seated(crew)
    answer: Future[None] = Future()
    crew.check(GOOD, answer)
    assert (len(hung.checks), len(well.checks)) == (1, 0)
    seat.asked_at -= crew_module._SILENT + crew_module._WAIT + 1
    crew.tick()
    crew.tick()
    assert (len(hung.checks), len(well.checks)) == (1, 1)
    for asked in (hung.checks[0], well.checks[0]) if late else (well.checks[0], hung.checks[0]):
        asked.set_result(None)  # the second answer changes nothing
    assert answer.result(0) is None


def test_what_a_decoder_that_died_was_asked_is_asked_of_others(crew: Crew) -> None:
    _, dead = seated(crew)
    _, well = seated(crew)
    answer: Future[None] = Future()
    crew.check(GOOD, answer)
    dead.checks[0].set_exception(RuntimeError("it died"))
    assert not answer.done()
    well.checks[0].set_result(None)
    assert answer.result(0) is None


def test_a_crew_that_is_closed_leaves_no_check_unanswered(crew: Crew) -> None:
    _, actor = seated(crew)
    answers: list[Future[None]] = [Future(), Future()]
    crew.check(GOOD, answers[0])
    crew.close()
    crew.check(GOOD, answers[1])
    actor.checks[0].set_exception(RuntimeError("it was ended"))
    for answer in answers:
        with pytest.raises(MachineError, match="the search was closed"):
            answer.result(0)


def test_a_crew_that_is_closed_starts_no_decoder(crew: Crew) -> None:
    seat, _ = seated(crew)
    crew._actor_class = None  # nothing is made of it
    crew.close()
    crew.resize(2)
    assert (crew.seats, crew.count) == ([seat], 0)
