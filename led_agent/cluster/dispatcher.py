"""The thread in which it is decided who works on what. Everything that happens comes to it as a call to make, one after
another, so that the table of leases needs no lock.

This file knows the table, and workers as something that takes orders. It does not know Ray, nor how workers come about.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from led_agent.cluster.leases import Leases, Limit, Orders, Worker
from led_agent.protocols import Sink
from led_agent.types import DecodeRequest

__all__ = ["Dispatcher"]

_log = logging.getLogger("led_agent.cluster")
_GATHER = 0.002  # seconds
_TICK = 0.5  # seconds between two looks at the clock


class Dispatcher:
    """Shares requests out among workers.

    ``submit``, ``cancel``, ``limit`` and ``slots`` are as in the ``Decoder`` protocol, and may be called from any
    thread. All else belongs into the dispatcher's own: ``post`` brings it there.

    Attributes:
        tick: Called about twice a second, in the thread of the dispatcher.
        last: Called at the end of each turn, there, too; says in how many seconds it wants to be called again.
        broken: Why nothing can be decoded any more, once it can't.
    """

    def __init__(self) -> None:
        self.leases = Leases()
        self.broken: str | None = None
        self.tick: Callable[[], None] | None = None
        self.last: Callable[[], float | None] | None = None
        self._rest = _TICK  # seconds to wait for something to happen
        self._send: dict[str, Callable[[Orders], None]] = {}
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._ticked = 0.0
        self._slots = 1
        self._closing = False
        self._ended = False
        self._after_the_end = threading.RLock()
        self._thread = threading.Thread(target=self._work, name="led-dispatcher", daemon=True)
        self._thread.start()

    # --- from any thread ---------------------------------------------------------------------------------------

    @property
    def slots(self) -> int:
        """Branches that grow at a time over all workers; those of the last moment at which there were any."""
        return self._slots

    def post(self, act: Callable[[], None]) -> None:
        """Let this be called in the dispatcher's thread; after that has ended, here."""
        self._inbox.put(act)
        if self._ended:
            self._leave_nothing()

    def submit(self, request: DecodeRequest, sink: Sink) -> None:
        self.post(lambda: self.leases.submit(request, sink))

    def cancel(self, problem: str, ids: Sequence[str]) -> None:
        self.post(lambda: self.leases.cancel(problem, ids))

    def limit(self, problem: str, tokens: int | None, prefill_tokens: int | None) -> None:
        self.post(lambda: self.leases.limit(Limit(problem, tokens, prefill_tokens)))

    def close(self) -> None:
        """End the thread; what is still open is reported as cancelled."""

        def last() -> None:
            self._cancel_all()
            self._closing = True

        self.post(last)
        if threading.current_thread() is not self._thread:
            self._thread.join()

    # --- in its thread -----------------------------------------------------------------------------------------

    def join(self, worker: Worker, send: Callable[[Orders], None]) -> None:
        """A worker is ready, and takes its orders so. In the dispatcher's thread."""
        self.leases.join(worker)
        self._send[worker.name] = send

    def gone(self, worker: Worker, why: str, *, died: bool = True) -> None:
        """A worker is no more. In the dispatcher's thread."""
        self.leases.gone(worker, why, died=died)
        self._send.pop(worker.name, None)

    def give_up(self, why: str) -> None:
        """There is nobody to decode any more, and won't be: end what is open, and what will still be asked for."""
        self.broken = why

    def _work(self) -> None:
        while not self._closing:
            try:
                self._turn()
            except Exception as error:  # noqa: BLE001 - a fault of this program's own: nobody may wait for ever for it
                _log.exception("the dispatcher failed")
                self.leases.fail(f"the dispatcher failed: {type(error).__name__}: {error}")
                self._tell()
        self._ended = True
        self._leave_nothing()

    def _cancel_all(self) -> None:
        for problem, name in list(self.leases.open):
            self.leases.cancel(problem, [name])
        self.leases.fail("the search was closed")

    def _leave_nothing(self) -> None:
        """What comes as the thread ends, or later, is done and told, too: who asked would wait for ever."""
        with self._after_the_end, contextlib.suppress(queue.Empty):
            while True:
                self._inbox.get_nowait()()
                self._cancel_all()
                self._tell()

    def _turn(self) -> None:
        with contextlib.suppress(queue.Empty):
            self._inbox.get(timeout=self._rest)()
            while True:
                self._inbox.get_nowait()()
        self._gather()
        now = time.monotonic()
        if self.tick is not None and now - self._ticked >= _TICK:
            self._ticked = now
            self.tick()
        if self.broken is not None:
            self.leases.fail(self.broken)
        self.leases.assign()
        for worker in list(self.leases.workers.values()):
            if worker.orders and worker.name in self._send:
                orders, worker.orders = worker.orders, Orders()
                self._send[worker.name](orders)
        self._slots = self.leases.slots or self._slots
        self._tell()
        again = self.last() if self.last is not None else None
        self._rest = _TICK if again is None else min(_TICK, again)

    def _gather(self) -> None:
        """Wait a moment for more to send in the same message: requests mostly come several at a time."""
        until = time.monotonic() + _GATHER
        while self.leases.some_wait and (left := until - time.monotonic()) > 0:
            with contextlib.suppress(queue.Empty):
                self._inbox.get(timeout=left)()

    def _tell(self) -> None:
        told: list[Any] = self.leases.told
        self.leases.told = []
        for sink, event in told:
            try:
                sink(event)
            except Exception:  # noqa: BLE001 - a listener's own fault costs no other one what it is told
                _log.exception("what listens to a branch failed")
