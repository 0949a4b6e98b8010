"""The dispatcher's thread, with workers that are functions: whatever happens in it, nobody waits for ever."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future

import pytest

from led_agent.cluster.dispatcher import Dispatcher
from led_agent.cluster.leases import Limit, Orders, Worker
from led_agent.protocols import BranchDone, DecodeEvent
from led_agent.tree import Tree
from led_agent.types import Branch, DecodeRequest, Decoding

REQUESTS = [r.model_copy(update={"problem": "p"}) for r in Tree("What?", decoding=Decoding.plain()).requests(6)]
SOON = 30  # seconds; nothing here takes so long unless it is broken


@pytest.fixture
def dispatcher() -> Iterator[Dispatcher]:
    made = Dispatcher()
    yield made
    made.close()


def ask(dispatcher: Dispatcher, request: DecodeRequest) -> Future[Branch]:
    """Submit it; what comes of it."""
    result: Future[Branch] = Future()

    def hear(event: DecodeEvent) -> None:
        if isinstance(event, BranchDone):
            result.set_result(event.branch)  # raises where it is told twice

    dispatcher.submit(request, hear)
    return result


def inside(dispatcher: Dispatcher, act: Callable[[], None]) -> None:
    """Make a call in the dispatcher's thread, and wait until it is made."""
    result: Future[None] = Future()

    def there() -> None:
        try:
            result.set_result(act())
        except Exception as error:  # noqa: BLE001 - told to who asked
            result.set_exception(error)

    dispatcher.post(there)
    result.result(SOON)


class Machine:
    """A worker that ends each request as soon as it is told to, or keeps it."""

    def __init__(self, dispatcher: Dispatcher, *, slots: int = 2, works: bool = True) -> None:
        self.worker, self.works, self._dispatcher = Worker(f"w{id(self)}", slots), works, dispatcher
        self.taken: list[Orders] = []
        self.threads: set[int] = set()
        self.got = threading.Event()
        inside(dispatcher, lambda: dispatcher.join(self.worker, self.take))

    def take(self, orders: Orders) -> None:
        self.taken.append(orders)
        self.threads.add(threading.get_ident())
        self.got.set()
        for request, attempt in orders.requests if self.works else ():
            key, branch = (request.problem, request.id, attempt), Branch(id=request.id, text="x", finish="eos")
            self._dispatcher.post(lambda key=key, branch=branch: self._dispatcher.leases.done(self.worker, key, branch))


def test_what_is_submitted_is_worked_off_and_all_in_one_thread(dispatcher: Dispatcher) -> None:
    machine = Machine(dispatcher)
    results = [ask(dispatcher, request).result(SOON) for request in REQUESTS]
    assert [(r.id, r.finish, r.decoder) for r in results] == [(q.id, "eos", machine.worker.name) for q in REQUESTS]
    assert len(machine.threads) == 1
    assert machine.threads != {threading.get_ident()}


def test_orders_of_a_turn_go_out_in_one_message_and_limits_with_them(dispatcher: Dispatcher) -> None:
    machine = Machine(dispatcher, slots=8, works=False)

    def all_at_once() -> None:
        dispatcher.limit("p", 50, None)
        for request in REQUESTS:
            dispatcher.submit(request, lambda event: None)

    inside(dispatcher, all_at_once)
    assert machine.got.wait(SOON)
    assert [len(orders.requests) for orders in machine.taken] == [len(REQUESTS)]
    assert machine.taken[0].limits == [Limit("p", 50, None)]


def test_slots_are_those_of_the_last_moment_at_which_there_were_any(dispatcher: Dispatcher) -> None:
    assert dispatcher.slots == 1
    machine = Machine(dispatcher, slots=7)
    ask(dispatcher, REQUESTS[0]).result(SOON)
    assert dispatcher.slots == 7
    inside(dispatcher, lambda: dispatcher.gone(machine.worker, "gone", died=False))
    inside(dispatcher, lambda: None)
    assert dispatcher.slots == 7


def test_cancelled_while_waiting_is_told_at_once(dispatcher: Dispatcher) -> None:
    results = [ask(dispatcher, request) for request in REQUESTS[:2]]
    dispatcher.cancel("p", [REQUESTS[0].id])
    assert results[0].result(SOON).finish == "cancelled"
    assert not results[1].done()


def test_a_call_that_raises_ends_what_is_open_and_the_thread_goes_on(
    dispatcher: Dispatcher, caplog: pytest.LogCaptureFixture
) -> None:
    Machine(dispatcher, slots=1, works=False)
    results = [ask(dispatcher, request) for request in REQUESTS]

    def wrong() -> None:
        raise KeyError("no such seat")

    dispatcher.post(wrong)
    for result in results:
        branch = result.result(SOON)
        assert branch.finish == "error"
        assert "the dispatcher failed: KeyError: 'no such seat'" in str(branch.error)
    assert "the dispatcher failed" in caplog.text
    Machine(dispatcher)
    assert ask(dispatcher, REQUESTS[0].model_copy(update={"problem": "next"})).result(SOON).finish == "eos"


def test_a_worker_that_takes_no_orders_leaves_nobody_waiting(dispatcher: Dispatcher) -> None:
    machine = Machine(dispatcher)

    def refuses(orders: Orders) -> None:
        raise RuntimeError("no way to it")

    inside(dispatcher, lambda: dispatcher.join(machine.worker, refuses))
    branch = ask(dispatcher, REQUESTS[0]).result(SOON)
    assert (branch.finish, branch.error) == ("error", "the dispatcher failed: RuntimeError: no way to it")


def test_a_look_at_the_clock_that_raises_leaves_nobody_waiting(dispatcher: Dispatcher) -> None:
    raised = threading.Event()

    def tick() -> None:
        if not raised.is_set():
            raised.set()
            raise OSError("no clock")

    def look_from_now_on() -> None:
        dispatcher.tick = tick

    result = ask(dispatcher, REQUESTS[0])
    inside(dispatcher, look_from_now_on)  # not before the request is there
    assert result.result(SOON).finish == "error"
    Machine(dispatcher)
    assert ask(dispatcher, REQUESTS[1]).result(SOON).finish == "eos"


def test_a_listener_that_raises_costs_no_other_listener_its_result(dispatcher: Dispatcher) -> None:
    def deaf(event: DecodeEvent) -> None:
        raise ValueError("not heard")

    def submit_both() -> None:
        dispatcher.leases.submit(REQUESTS[0], deaf)
        results.append(ask(dispatcher, REQUESTS[1]))

    results: list[Future[Branch]] = []
    inside(dispatcher, submit_both)
    inside(dispatcher, lambda: dispatcher.leases.fail("all of it"))  # both are told in one turn, the deaf one first
    assert results[0].result(SOON).error == "all of it"
    Machine(dispatcher)
    assert ask(dispatcher, REQUESTS[2]).result(SOON).finish == "eos"


def test_a_listener_may_ask_for_more(dispatcher: Dispatcher) -> None:
    Machine(dispatcher)
    more: Future[Future[Branch]] = Future()
    dispatcher.submit(REQUESTS[0], lambda event: more.set_result(ask(dispatcher, REQUESTS[1])))
    assert more.result(SOON).result(SOON).id == REQUESTS[1].id


def test_broken_ends_what_is_open_and_what_comes_later_with_the_reason(dispatcher: Dispatcher) -> None:
    Machine(dispatcher, works=False)
    before = ask(dispatcher, REQUESTS[0])
    dispatcher.post(lambda: dispatcher.give_up("no decoder is left: all of them died"))
    assert before.result(SOON).error == "no decoder is left: all of them died"
    for request in REQUESTS[1:]:
        branch = ask(dispatcher, request).result(SOON)
        assert (branch.finish, branch.error) == ("error", "no decoder is left: all of them died")


def test_closing_reports_everything_that_is_open_as_cancelled() -> None:
    dispatcher = Dispatcher()
    machine = Machine(dispatcher, slots=1, works=False)
    results: list[Future[Branch]] = []
    inside(dispatcher, lambda: results.extend([ask(dispatcher, request) for request in REQUESTS]))  # in one turn
    assert machine.got.wait(SOON)
    dispatcher.close()
    assert {result.result(0).finish for result in results} == {"cancelled"}  # told before close() returned
    assert sum(len(orders.cancelled) for orders in machine.taken) == 2  # one grows, one waits inside: called off
    dispatcher.close()  # again: nothing happens


def test_closing_from_inside_does_not_wait_for_itself() -> None:
    dispatcher = Dispatcher()
    result = ask(dispatcher, REQUESTS[0])
    inside(dispatcher, dispatcher.close)
    assert result.result(SOON).finish == "cancelled"


def test_what_is_asked_for_after_the_end_is_told_to_be_cancelled() -> None:
    dispatcher = Dispatcher()
    dispatcher.close()
    assert ask(dispatcher, REQUESTS[0]).result(SOON).finish == "cancelled"
    inside(dispatcher, lambda: None)


def test_what_is_asked_for_as_the_thread_ends_is_told_to_be_cancelled() -> None:
    dispatcher = Dispatcher()
    results: list[Future[Branch]] = []

    def at_the_end() -> None:
        if dispatcher._closing and not results:
            results.append(ask(dispatcher, REQUESTS[0]))

    dispatcher.last = at_the_end  # at the end of a turn: the inbox isn't looked at again
    dispatcher.close()
    assert results[0].result(SOON).finish == "cancelled"
