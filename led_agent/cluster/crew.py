"""The decoder actors of one search: started, watched, replaced when they die, more or fewer of them while it runs.

This file knows Ray actors and their seats. Who works on what is the dispatcher's business, in whose thread all of this
runs: calls of Ray come back as callbacks, which only post what is to be done there.

An actor is never restarted by Ray, which would bring an empty process back under the same handle: the seat gets a new
one, after a pause that grows while nothing gets done. A seat whose actors die again and again without anything being
done is given up.
"""

from __future__ import annotations

import logging
import pickle
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, cast

import ray
from ray.exceptions import ActorUnavailableError
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from led_agent import __version__
from led_agent.cluster.actor import DecoderActor, Growth, Loaded, Message, Recipe, Reply
from led_agent.cluster.connect import NAMESPACE
from led_agent.cluster.crossing import Packed, unpack
from led_agent.cluster.dispatcher import Dispatcher
from led_agent.cluster.leases import Attempt, Orders, Worker
from led_agent.cluster.plan import Share
from led_agent.errors import LedError, MachineError, raised
from led_agent.types import DecodeRequest

__all__ = ["Crew", "placement"]

_log = logging.getLogger("led_agent.cluster")
_WAIT = 1.0  # seconds that an actor may keep a question for news
_SILENT = 5.0  # seconds without an answer, after which others get what an actor holds
_DEAD = 30.0  # seconds without an answer, after which it is replaced
_GRACE = 5.0  # seconds that the others have to load, once the first one has
_FUTILE = 10  # deaths of a seat in a row, with nothing done in between, after which it is given up
_PATIENT = 3  # of such deaths, after which there is a pause: to start takes seconds anyway
_MOST_PAUSE = 10.0  # seconds before a seat gets a new actor
_TELL = 0.5  # seconds between two times that an actor is told of the driver's state
_HOLD = 0.004  # seconds that a question for news is held back, for orders to go with it
_THREADS = 8  # methods of an actor that may run at a time: one may wait for news, the others are short
_LOST = "the node it ran on is gone"


@dataclass(eq=False)
class Seat:
    """One decoder of the crew, whichever actor fills it at the moment."""

    number: int
    state: Literal["starting", "live", "leaving", "pausing", "given up", "closed"] = "starting"
    actor: Any = None
    group: Any = None  # of a decoder that takes several devices
    turn: int = 0  # how many actors it has had
    worker: Worker | None = None
    loaded: Loaded | None = None
    node: str = ""
    heard: int = 0  # number of the last reply
    asked_at: float = 0.0
    ask_at: float | None = None  # when to ask for news next; None while that is under way
    asking: bool = False  # a question for news is under way: a second one would wait beside it
    sent: tuple[int, Orders] | None = None  # orders that went with the question under way
    unreachable: bool = False
    again_at: float = 0.0
    orders: int = 0  # number of the next one
    told_at: float = 0.0  # when it was last told of the driver's state
    futile: int = 0
    done_before: int = 0
    texts: dict[Attempt, str] = field(default_factory=dict)
    checks: dict[Future[None], DecodeRequest] = field(default_factory=dict)  # which it was asked, and has not answered
    idle_since: float | None = None
    why: str = ""

    @property
    def there(self) -> bool:
        return self.state in ("starting", "live", "pausing")


class Crew:
    """See the module. All methods but the constructor run in the dispatcher's thread.

    Args:
        dispatcher: Who shares out the work.
        recipe: What each decoder is made from.
        share: What each takes of a node.
        run: Part of the actors' names.
        driver: The driver's state, for who watches.
    """

    def __init__(
        self, dispatcher: Dispatcher, recipe: Recipe, share: Share, run: str, driver: Callable[[], dict[str, Any]]
    ) -> None:
        self.dispatcher, self.recipe, self.share, self.run = dispatcher, recipe, share, run
        self.seats: list[Seat] = []
        self.ready: Future[Loaded] = Future()  # the first decoder is there, and the others are, or have had their time
        self._driver, self._given_dtype = driver, recipe.dtype
        self._state: dict[str, Any] = {}
        self._state_at = 0.0
        self._to_ask: list[Seat] = []  # the one first whose time comes first
        self._made = 0
        self._first: Loaded | None = None
        self._first_at = 0.0
        self._asking: list[tuple[DecodeRequest, Future[None]]] = []  # checks that nobody could be asked for yet
        self._over: str | None = None  # why there are no decoders any more, once there are none
        self._late_orders: list[tuple[Seat, int, int, Orders]] = []  # and the number of the seat's actor
        self._actor_class: Any = ray.remote(DecoderActor)

    # --- how many ----------------------------------------------------------------------------------------------

    def resize(self, count: int) -> None:
        """Have so many decoders from now on: more are started; those with the least to do leave when that is done.
        Nothing happens once the crew is closed: the last look at the cluster may come after that."""
        if self._over is not None:
            return
        there = [seat for seat in self.seats if seat.there]
        for _ in range(count - len(there)):
            seat = Seat(self._made)
            self._made += 1
            self.seats.append(seat)
            self._fill(seat)
        surplus = len(there) - count
        if surplus > 0:  # those that are not there yet go first, then those with the least to do
            for seat in sorted(there, key=lambda seat: (seat.state == "live", self._load(seat)))[:surplus]:
                self._leave(seat)

    def _load(self, seat: Seat) -> int:
        return len(seat.worker.held) if seat.worker is not None else 0

    @property
    def count(self) -> int:
        """Decoders that are there, or on their way."""
        return sum(seat.there for seat in self.seats)

    @property
    def given_up(self) -> int:
        """Seats that no decoder holds out in."""
        return sum(seat.state == "given up" for seat in self.seats)

    def idle(self, seconds: float) -> int:
        """How many have had nothing to do for so long."""
        now = time.monotonic()
        return sum(
            seat.idle_since is not None and now - seat.idle_since >= seconds for seat in self.seats if seat.there
        )

    # --- starting ----------------------------------------------------------------------------------------------

    def _fill(self, seat: Seat) -> None:
        """Give a seat a new actor."""
        seat.turn += 1
        seat.state, seat.worker, seat.loaded, seat.node = "starting", None, None, ""
        seat.heard = seat.orders = 0
        seat.unreachable, seat.idle_since, seat.ask_at, seat.sent = False, None, None, None
        seat.asking = False
        seat.texts = {}
        seat.done_before = self.dispatcher.leases.counts.done
        name = f"led-decoder-{self.run}-{seat.number}-{seat.turn}"
        seat.group, options = placement(self.share)
        seat.actor = self._actor_class.options(name=name, namespace=NAMESPACE, **options).remote(name)
        self._when(seat, seat.actor.load.remote(self.recipe), self._loaded)

    def _when(
        self,
        seat: Seat,
        reference: Any,
        then: Callable[[Seat, Any, BaseException | None], None],
        *,
        only_errors: bool = False,
    ) -> None:
        """Let ``then`` be called with what comes of a call, unless the seat has another actor by then."""
        turn = seat.turn

        def post(future: Future[Any]) -> None:
            error = future.exception()
            if only_errors and error is None:
                return
            value = future.result() if error is None else None
            self.dispatcher.post(lambda: then(seat, value, error) if seat.turn == turn else None)

        reference.future().add_done_callback(post)

    def _loaded(self, seat: Seat, loaded: Loaded | tuple[str, Packed] | None, error: BaseException | None) -> None:
        if seat.state != "starting":
            return
        if error is not None and "creation task" in str(error):  # its class can't even be imported there
            told = f"a decoder can't be made there: {cause_of(error)}; install led_agent on all nodes"
            self._refused(seat, MachineError(told))
        elif error is not None:
            self._died(seat, error)
        elif isinstance(loaded, tuple):
            fault = unpack(loaded[1])
            self._refused(seat, type(fault)(f"on node {loaded[0]}: {fault}"))
        elif loaded is not None:
            self._welcome(seat, loaded)

    def _welcome(self, seat: Seat, loaded: Loaded) -> None:
        """A decoder has loaded its model: let it take part, if it is like the others."""
        first = self._first
        if first is not None and loaded.dtype != first.dtype and self._given_dtype == "auto":
            self._kill(seat)  # it measured another one to be faster there; now it is told which
            self._fill(seat)
            return
        if (fault := self._unlike(loaded)) is not None:
            self._refused(seat, fault)
            return
        seat.state, seat.loaded = "live", loaded
        seat.node = loaded.node
        seat.worker = Worker(loaded.name, loaded.slots)
        if self._first is None:
            self._first, self._first_at = loaded, time.monotonic()
            self.recipe = replace(self.recipe, dtype=loaded.dtype)
        self.dispatcher.join(seat.worker, partial(self._order, seat))
        self._poll(seat)
        self._settle()
        self._ask_again()

    def _unlike(self, loaded: Loaded) -> LedError | None:
        """Why this decoder can't take part: a branch must not depend on who grows it."""
        where = f"node {loaded.host}"
        theirs = loaded.versions["led_agent"]
        if theirs != __version__:
            return MachineError(
                f"{where} has led_agent {theirs}, this process {__version__}; install the same version on all nodes"
            )
        first = self._first
        if first is not None and loaded.fingerprint != first.fingerprint:
            return MachineError(
                f"the model {self.recipe.model or 'countdown'!r} on {where} has other weights than on node "
                f"{first.host}; give each node the same files"
            )
        return None

    def _refused(self, seat: Seat, fault: LedError) -> None:
        """A decoder that can't be used: before the search has begun that stops it, later it costs the seat."""
        self._kill(seat)
        seat.state, seat.why = "given up", str(fault)
        if not self.ready.done():
            self.ready.set_exception(fault)
            return
        _log.warning("decoder %d is given up: %s", seat.number, fault)
        self._nobody_left()

    def _settle(self) -> None:
        """Say that the crew is ready once all have loaded, or the late ones have had their time."""
        if self.ready.done() or self._first is None:
            return
        if all(seat.state != "starting" for seat in self.seats) or time.monotonic() - self._first_at > _GRACE:
            self.ready.set_result(self._first)

    # --- talking -----------------------------------------------------------------------------------------------

    def _order(self, seat: Seat, orders: Orders) -> None:
        number, seat.orders = seat.orders, seat.orders + 1
        if seat.ask_at is None:
            self._hand_over(seat, number, orders)
        else:
            self._poll(seat, (number, orders))

    def _hand_over(self, seat: Seat, number: int, orders: Orders) -> None:
        def handed(seat: Seat, _value: object, error: BaseException | None) -> None:
            if error is None or seat.state not in ("live", "leaving"):
                return
            if isinstance(error, ActorUnavailableError):
                seat.unreachable = True
                self._late_orders.append((seat, seat.turn, number, orders))
            else:  # it is dead, or has raised and waits for ever for what was lost: memory may be short there
                self._died(seat, error)

        self._when(seat, self._say(seat, Message(orders=(number, orders))), handed, only_errors=True)

    def _poll(self, seat: Seat, orders: tuple[int, Orders] | None = None) -> None:
        """Ask for news, which come as soon as there are some."""
        seat.asked_at, seat.ask_at, seat.sent, seat.asking = time.monotonic(), None, orders, True
        news = None
        if seat.asked_at - seat.told_at > _TELL:
            news, seat.told_at = self._news(seat.asked_at), seat.asked_at
        self._when(seat, self._say(seat, Message(orders, seat.heard, _WAIT, news)), self._replied)

    def _news(self, now: float) -> dict[str, Any]:
        """The driver's state, the same for all decoders of a moment: it takes a look at every open request."""
        if now - self._state_at > _TELL:
            self._state, self._state_at = self._driver(), now
        return self._state

    def _say(self, seat: Seat, message: Message) -> Any:
        return seat.actor.turn.remote(pickle.dumps(message, pickle.HIGHEST_PROTOCOL))

    def ask(self) -> float | None:
        """Ask those for news whose time has come; seconds until the next one's."""
        now, later = time.monotonic(), []
        for seat in self._to_ask:
            if seat.ask_at is None or seat.state not in ("live", "leaving"):
                continue  # asked with its orders, or gone
            if now >= seat.ask_at:
                self._poll(seat)
            else:
                later.append(seat)
        self._to_ask = later
        return max(0.0, later[0].ask_at - now) if later and later[0].ask_at is not None else None

    def _replied(self, seat: Seat, told: bytes | None, error: BaseException | None) -> None:
        worker, seat.asking = seat.worker, False
        if worker is None or seat.state not in ("live", "leaving"):
            return
        if isinstance(error, ActorUnavailableError):  # it may be there again in a moment
            seat.unreachable = True
            if seat.sent is not None:  # whether they arrived isn't known; their number makes it safe to say them again
                self._late_orders.append((seat, seat.turn, *seat.sent))
            self._lost_from_sight(seat, worker)
            return
        if error is not None:
            self._died(seat, error)
            return
        assert told is not None
        reply: Reply = pickle.loads(told)
        self.dispatcher.leases.seen_again(worker)
        if reply.number > seat.heard:
            seat.heard = reply.number
            self._take(seat, worker, reply)
        if seat.state == "leaving" and not worker.held:
            self._close(seat)
            return
        seat.ask_at = time.monotonic() + _HOLD
        self._to_ask.append(seat)

    def _take(self, seat: Seat, worker: Worker, reply: Reply) -> None:
        leases = self.dispatcher.leases
        worker.rate = reply.rate
        for growth in reply.grown:
            leases.grown(worker, growth.attempt, growth.tokens, self._text(seat, growth))
        for attempt, branch in reply.done:
            seat.texts.pop(attempt, None)
            leases.done(worker, attempt, branch)
        if reply.done:
            seat.futile = 0
        if worker.held:
            seat.idle_since = None
        elif seat.idle_since is None:
            seat.idle_since = time.monotonic()

    def _text(self, seat: Seat, growth: Growth) -> str:
        text = seat.texts.get(growth.attempt, "")[: growth.keep] + growth.more
        seat.texts[growth.attempt] = text
        return text

    def check(self, request: DecodeRequest, future: Future[None]) -> None:
        """Ask a decoder whether it can do this; of those that are heard of, the one with the least to do."""
        if future.done():
            return
        if (why := self._over or self.dispatcher.broken) is not None:
            future.set_exception(MachineError(why))
            return
        heard_of = [
            s for s in self.seats if s.state == "live" and not s.unreachable and s.worker and s.worker.state == "live"
        ]
        if not heard_of:
            self._asking.append((request, future))
            return
        seat = min(heard_of, key=self._load)
        seat.checks[future] = request
        asked, turn = seat.actor.check.remote(request).future(), seat.turn
        asked.add_done_callback(lambda found: self.dispatcher.post(partial(self._checked, seat, turn, future, found)))

    def _checked(self, seat: Seat, turn: int, future: Future[None], found: Future[Packed | None]) -> None:
        request = seat.checks.pop(future, None)
        if future.done():
            return
        if found.exception() is None:
            fault = found.result()
            future.set_result(None) if fault is None else future.set_exception(unpack(fault))
            return
        if seat.turn == turn and seat.state == "live":
            seat.unreachable = True
        if request is not None:  # else others were asked when it was lost from sight
            self.check(request, future)

    def _ask_again(self) -> None:
        asking, self._asking = self._asking, []
        for request, future in asking:
            self.check(request, future)

    def _lost_from_sight(self, seat: Seat, worker: Worker) -> None:
        """Others get what it holds, and are asked what it was asked. Whoever answers first is heard."""
        self.dispatcher.leases.lost_from_sight(worker)
        checks, seat.checks = seat.checks, {}
        for future, request in checks.items():
            self.check(request, future)

    def _refuse_checks(self, why: str) -> None:
        """Let nobody wait for an answer any more, nor whoever asks later."""
        self._over = why
        asked = [future for _, future in self._asking] + [future for seat in self.seats for future in seat.checks]
        for future in asked:
            if not future.done():
                future.set_exception(MachineError(why))
        self._asking = []

    # --- watching ----------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Look at the clock: who has not been heard of, whose pause is over."""
        now = time.monotonic()
        for seat in self.seats:
            if seat.state == "pausing" and now >= seat.again_at:
                self._fill(seat)
            elif seat.state in ("live", "leaving") and seat.worker is not None:
                self._look_at(seat, seat.worker, now)
        late, self._late_orders = self._late_orders, []
        for seat, turn, number, orders in late:
            if seat.turn == turn and seat.state in ("live", "leaving"):
                self._hand_over(seat, number, orders)
        self._settle()
        self._ask_again()  # one that could not be reached may be there again

    def _look_at(self, seat: Seat, worker: Worker, now: float) -> None:
        silent = now - seat.asked_at - _WAIT
        if silent > _DEAD:
            self._died(seat, MachineError(f"it did not answer for {silent:.0f} s"))
        elif silent > _SILENT:
            self._lost_from_sight(seat, worker)
        elif seat.unreachable and worker.state == "lost from sight" and not seat.asking:
            asked = seat.asked_at
            self._poll(seat)  # it was told to be unreachable for now: ask again, and count from the first time
            seat.asked_at = asked
        if seat.unreachable and worker.state == "live":
            seat.unreachable = False

    def _died(self, seat: Seat, error: BaseException) -> None:
        """A seat's actor is dead, or as good as dead."""
        leaving, lost = seat.state == "leaving", self._node_is_gone(seat)
        why = _LOST if lost else cause_of(error)
        self._kill(seat)
        if seat.worker is not None:
            self.dispatcher.gone(seat.worker, why, died=not lost)
        if leaving:
            seat.state = "closed"
            return
        nothing_done = self.dispatcher.leases.counts.done == seat.done_before
        seat.futile = seat.futile + 1 if nothing_done and not lost else 0
        _log.warning("decoder %d died: %s", seat.number, why)
        if seat.futile >= _FUTILE:
            seat.state, seat.why = "given up", f"{seat.futile} deaths in a row, the last one: {why}"
            self._nobody_left()
            return
        seat.state = "pausing"
        pause = min(_MOST_PAUSE, 0.25 * 2**seat.futile) if seat.futile >= _PATIENT else 0.0
        seat.again_at = time.monotonic() + pause

    def _node_is_gone(self, seat: Seat) -> bool:
        return bool(seat.node) and all(node["NodeID"] != seat.node or not node["Alive"] for node in ray.nodes())

    def _nobody_left(self) -> None:
        if any(seat.there for seat in self.seats):
            return
        why = "no decoder is left: " + "; ".join(dict.fromkeys(seat.why for seat in self.seats if seat.why))
        if not self.ready.done():
            self.ready.set_exception(MachineError(why))
        self.dispatcher.give_up(why)
        self._refuse_checks(why)

    # --- leaving -----------------------------------------------------------------------------------------------

    def _leave(self, seat: Seat) -> None:
        if seat.state == "live" and seat.worker is not None:
            seat.state = "leaving"
            self.dispatcher.leases.leave(seat.worker)
            if not seat.worker.held:
                self._close(seat)
        else:
            self._close(seat)

    def _close(self, seat: Seat) -> None:
        seat.state = "closed"
        self._kill(seat)
        if seat.worker is not None:
            self.dispatcher.gone(seat.worker, "it was told to leave", died=False)

    def _kill(self, seat: Seat) -> None:
        if seat.actor is not None:
            ray.kill(seat.actor)
            seat.actor = None
        if seat.group is not None:
            remove_placement_group(seat.group)
            seat.group = None
        seat.turn += 1  # what still comes from it is not for this seat any more

    def close(self) -> None:
        """End all of them."""
        self._refuse_checks("the search was closed")
        for seat in self.seats:
            if seat.state != "closed":
                self._close(seat)


def placement(share: Share) -> tuple[Any, dict[str, Any]]:
    """How Ray is to place a decoder: spread over the nodes. One that takes several devices has them on one node, in a
    placement group of which the actor itself takes the first part; else there is no group.

    Restarts and retries are left to the crew: Ray would send a request that kills its actor again and again.
    """
    options: dict[str, Any] = {"max_restarts": 0, "max_task_retries": 0, "max_concurrency": _THREADS}
    cpus, gpus = share.cpus / share.devices, share.gpus / share.devices
    group, strategy = None, cast(Any, "SPREAD")
    if share.devices > 1:
        part = {name: value for name, value in (("CPU", cpus), ("GPU", gpus)) if value}
        group = placement_group([part] * share.devices, strategy="STRICT_PACK")
        strategy = PlacementGroupSchedulingStrategy(group, 0, placement_group_capture_child_tasks=True)
    return group, {**options, "num_cpus": cpus, "num_gpus": gpus, "scheduling_strategy": strategy}


def cause_of(error: BaseException) -> str:
    """Why an actor died, on one line: the last of what Ray tells that is not about where and when."""
    if isinstance(error, LedError):
        return str(error)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [
        line
        for line in lines
        if not line.startswith(("class_name:", "actor_id:", "pid:", "name:", "namespace:", "ip:"))
    ]
    shown = " ".join(told[1:] or told).partition(" Some common causes")[0][:400]
    return f"{type(error).__name__}: {shown}" if shown else raised("Ray", error)
