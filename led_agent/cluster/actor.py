"""A decoder in a process of its own: the engine steps in its thread, and thin methods take orders and give replies.

This file knows how orders and replies travel; Ray makes an actor of the class. No message goes out for a token: a reply
holds all branches that have ended, and how far the others are, of all rows together.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import platform
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import ray
from ray.util import get_node_ip_address

from led_agent import __version__
from led_agent.cluster.crossing import Packed, pack
from led_agent.cluster.leases import Attempt, Limit, Orders, label
from led_agent.cluster.meters import decoder_meters
from led_agent.confidence import Calibration
from led_agent.errors import LedError, MachineError, raised
from led_agent.protocols import BranchProgress, DecodeEvent
from led_agent.types import Branch, DecodeRequest

__all__ = ["DecoderActor", "Growth", "Loaded", "Message", "Recipe", "Reply", "Status"]

_log = logging.getLogger("led_agent.cluster")
_PROGRESS = 1.0  # seconds between two replies that tell of growth only
_PAUSE = 0.015  # between two replies at all: what ends meanwhile goes into the same one
_LONG_PAUSE = 0.08  # the same while there is work that waits here, so that no slot is free


@dataclass(frozen=True)
class Recipe:
    """What a decoder is made from; as for ``Search``."""

    model: str | None
    device: str
    dtype: str
    slots: int


@dataclass(frozen=True)
class Loaded:
    """A decoder that is ready. ``fingerprint`` is the same for the same weights."""

    name: str
    node: str
    host: str
    pid: int
    slots: int
    blocks: int
    follows_up: bool
    calibration: Calibration
    device: str
    dtype: str
    fingerprint: str
    versions: dict[str, str]
    seconds: float


@dataclass(frozen=True)
class Growth:
    """A branch has grown to so many tokens: its text is the first ``keep`` characters of what was told before, and
    ``more``."""

    attempt: Attempt
    tokens: int
    keep: int
    more: str


@dataclass(frozen=True)
class Status:
    """What a decoder does, for people who watch."""

    name: str
    host: str
    pid: int
    model: str
    device: str
    slots: int
    busy: int
    waiting: int
    tokens: int
    prefill_tokens: int
    explored: int
    branches: int
    rate: float
    seconds: float
    driver: dict[str, Any]


@dataclass(frozen=True)
class Reply:
    """What has happened since the last reply. ``rate`` is in tokens a second, while there was work."""

    number: int
    grown: tuple[Growth, ...]
    done: tuple[tuple[Attempt, Branch], ...]
    rate: float
    tokens: int


@dataclass(frozen=True)
class Message:
    """From the driver: orders with their number, or a question (see ``DecoderActor.poll``), or both."""

    orders: tuple[int, Orders] | None = None
    heard: int | None = None
    wait: float = 0.0
    driver: dict[str, Any] | None = None


@dataclass
class _Counts:
    explored: int = 0
    drawn: int = 0
    branches: int = 0
    messages: int = 0


@dataclass
class _Open:
    """An attempt that is being worked on, and what was told of it."""

    tokens: int = 0
    text: str = ""
    told: str = ""
    changed: bool = False


@dataclass
class _Rate:
    """Tokens a second while there is work, over the last moments."""

    tokens: int = 0
    since: float = field(default_factory=time.monotonic)
    value: float = 0.0

    def take(self, tokens: int, busy: bool) -> float:
        now = time.monotonic()
        if not busy:
            self.tokens, self.since = tokens, now
        elif now - self.since >= 1.0:
            found = (tokens - self.tokens) / (now - self.since)
            self.value = found if not self.value else 0.7 * self.value + 0.3 * found
            self.tokens, self.since = tokens, now
        return self.value


class DecoderActor:
    """Made an actor by Ray, with a few threads.

    Orders are numbered, and carried out in that order, each once. A reply stays here until the next question tells that
    it has arrived, so that a message that is lost on its way costs nothing.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._decoder: Any = None
        self._recipe: Recipe | None = None
        self._began = time.monotonic()
        self._lock = threading.Condition()
        self._next = 0  # number of the order that is to be carried out next
        self._early: dict[int, Orders] = {}
        self._open: dict[Attempt, _Open] = {}
        self._done: list[tuple[Attempt, Branch]] = []
        self._reply: Reply | None = None
        self._replied = self._told_growth = 0.0
        self._counts = _Counts()
        self._rate = _Rate()
        self._driver: dict[str, Any] = {}
        self._meters: Callable[[], None] | None = None

    # --- methods that are called from afar ---------------------------------------------------------------------

    def load(self, recipe: Recipe) -> Loaded | tuple[str, Packed]:
        """Load the model from this node's own disk. What goes wrong comes back as data, with the node's address: an
        actor whose constructor raises tells less."""
        from led_agent.local import LocalDecoder

        began = time.monotonic()
        try:
            decoder = LocalDecoder.load(recipe.model, device=recipe.device, dtype=recipe.dtype, slots=recipe.slots)
        except Exception as error:  # noqa: BLE001 - whatever it is, the driver has to hear of it
            return get_node_ip_address(), _fault(error)
        self._decoder, self._recipe = decoder, recipe
        self._meters = decoder_meters(self.status)
        loaded = Loaded(
            name=self.name,
            node=str(ray.get_runtime_context().get_node_id()),
            host=get_node_ip_address(),
            pid=os.getpid(),
            slots=decoder.slots,
            blocks=decoder.n_blocks,
            follows_up=decoder.follows_up,
            calibration=decoder.calibration,
            device=decoder.device,
            dtype=decoder.dtype,
            fingerprint=decoder.fingerprint,
            versions=versions(),
            seconds=time.monotonic() - began,
        )
        _log.info("%s: %s on %s, ready in %.1f s", self.name, recipe.model, loaded.host, loaded.seconds)
        return loaded

    def orders(self, number: int, orders: Orders) -> None:
        """Take orders. Calls may overtake each other on their way; their numbers put them right."""
        with self._lock:
            self._early.setdefault(number, orders)
            while (orders_now := self._early.pop(self._next, None)) is not None:
                self._next += 1
                self._carry_out(orders_now)
            for old in [number for number in self._early if number < self._next]:
                del self._early[old]

    def poll(self, heard: int, wait: float, driver: dict[str, Any] | None = None) -> Reply:
        """What has happened since the reply with the number ``heard``, as soon as something has, and after ``wait``
        seconds at the latest. ``driver`` is the driver's state, for who watches; None is that of before.

        A question that is told to be lost may still wait here when it is asked again: both get the same reply."""
        with self._lock:
            self._driver = driver if driver is not None else self._driver
            deadline = time.monotonic() + wait
            while (reply := self._unheard(heard)) is None and (left := self._due(deadline)) > 0:
                self._lock.wait(left)
            if reply is not None:
                return reply
            reply = self._reply = self._made(heard + 1)
            self._counts.messages += 1
        if self._meters is not None:
            self._meters()
        return reply

    def turn(self, message: bytes) -> bytes:
        """Take a pickled ``Message``: its orders first, then its question; the pickled reply to that. One plain
        argument and one plain result, as Ray takes most of a millisecond for each record."""
        told: Message = pickle.loads(message)
        if told.orders is not None:
            self.orders(*told.orders)
        if told.heard is None:
            return b""
        return pickle.dumps(self.poll(told.heard, told.wait, told.driver), pickle.HIGHEST_PROTOCOL)

    def check(self, request: DecodeRequest) -> Packed | None:
        """What the model can't do of a request."""
        try:
            self._decoder.check(request)
        except Exception as error:  # noqa: BLE001 - it is raised where it was asked
            return _fault(error)
        return None

    def status(self) -> Status | None:
        """What goes on here, None until the model is loaded; any number of onlookers may ask."""
        if self._decoder is None:
            return None
        with self._lock:
            engine, slots = self._decoder.engine, self._decoder.slots
            return Status(
                name=self.name,
                host=get_node_ip_address(),
                pid=os.getpid(),
                model=(self._recipe.model if self._recipe else None) or "countdown",
                device=self._decoder.device,
                slots=slots,
                busy=min(slots, len(self._open)),
                waiting=max(0, len(self._open) - slots),
                tokens=engine.generated_tokens,
                prefill_tokens=engine.prefill_tokens,
                explored=self._counts.explored,
                branches=self._counts.branches,
                rate=self._rate.value,
                seconds=time.monotonic() - self._began,
                driver=self._driver,
            )

    def messages(self) -> int:
        """How many replies have left, so that it can be counted that none goes out for a token."""
        return self._counts.messages

    # --- inside ------------------------------------------------------------------------------------------------

    def _carry_out(self, orders: Orders) -> None:
        for limit in orders.limits:
            self._limit(limit)
        for problem, name, attempt in orders.cancelled:
            self._decoder.cancel(problem, [_named(name, attempt)])
        for request, attempt in orders.requests:
            key = (request.problem, request.id, attempt)
            self._open[key] = _Open()
            _log.debug("%s: %s trace %s", self.name, label(key), request.trace)
            # A later attempt at a branch may meet an earlier one that is still being ended.
            named = request.model_copy(update={"id": _named(request.id, attempt)})
            self._decoder.submit(named, partial(self._hear, key))

    def _limit(self, limit: Limit) -> None:
        self._decoder.limit(limit.problem, limit.tokens, limit.prefill_tokens)

    def _hear(self, key: Attempt, event: DecodeEvent) -> None:
        """From the engine's thread."""
        with self._lock:
            state = self._open.get(key)
            if state is None:
                return
            if isinstance(event, BranchProgress):
                state.tokens, state.text, state.changed = event.tokens, event.text, True
                return
            del self._open[key]
            branch = event.branch.model_copy(update={"id": key[1]})
            self._counts.branches += 1
            self._counts.drawn += len(branch.token_ids)
            self._counts.explored += sum(branch.explored)
            self._done.append((key, branch))
            self._lock.notify_all()

    def _unheard(self, heard: int) -> Reply | None:
        """The last reply, where it was lost on its way, or made while another question waited."""
        return self._reply if self._reply is not None and self._reply.number > heard else None

    def _due(self, deadline: float) -> float:
        """Seconds until a reply is due."""
        now = time.monotonic()
        if self._done:
            fed = len(self._open) > self._decoder.slots
            return self._replied + (_LONG_PAUSE if fed else _PAUSE) - now
        if any(state.changed for state in self._open.values()):
            deadline = min(deadline, self._told_growth + _PROGRESS)
        return deadline - now

    def _made(self, number: int) -> Reply:
        now = time.monotonic()
        grown: list[Growth] = []
        if now >= self._told_growth + _PROGRESS:
            self._told_growth = now
            for key, state in self._open.items():
                if state.changed:
                    grown.append(_growth(key, state))
        done, self._done = tuple(self._done), []
        self._replied = now
        tokens = self._decoder.engine.generated_tokens if self._decoder is not None else 0
        return Reply(number, tuple(grown), done, self._rate.take(tokens, bool(self._open)), tokens)


def versions() -> dict[str, str]:
    """Of what a branch's tokens depend on."""
    import importlib.metadata

    found = {"led_agent": __version__, "python": platform.python_version()}
    for name in ("torch", "transformers", "ray"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def _growth(key: Attempt, state: _Open) -> Growth:
    """Text mostly grows at its end; where a branch was turned back, less of it is kept."""
    keep = len(state.told)
    if not state.text.startswith(state.told):
        both = zip(state.told, state.text, strict=False)
        keep = next((at for at, (old, new) in enumerate(both) if old != new), len(state.text))
    more = state.text[keep:]
    state.told, state.changed = state.text, False
    return Growth(key, state.tokens, keep, more)


def _named(name: str, attempt: int) -> str:
    return f"{name}~{attempt}"


def _fault(error: Exception) -> Packed:
    told = error if isinstance(error, LedError) else MachineError(raised("the decoder", error))
    return pack(told, "the decoder")
