"""The search behind the server: one thread, one loop, and all runs on one decoder.

Requests come from the server's event loop and are begun by the search's thread, in order, as the decoder has room. A
tree is written by that thread alone, and read there while its run is on; once it has ended it doesn't change any more.
This file knows runs, not HTTP.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, TypeVar

from led_agent.errors import UsageError
from led_agent.events import Ended, RunStatus
from led_agent.journal import Journal
from led_agent.loop import Loop, Means, Terms
from led_agent.pages.data import Pieces, detail, index
from led_agent.protocols import Decoder
from led_agent.serving.asking import Order
from led_agent.serving.feed import Feed
from led_agent.serving.limits import BusyError, Limits, RefusedError, UnavailableError
from led_agent.solution import Solution
from led_agent.threads import ask_at_exit, start_thread
from led_agent.tree import Tree
from led_agent.verifier_pool import VerifierPool

__all__ = ["Served", "Service", "new_name"]

_log = logging.getLogger("led_agent.serving")
_STOPPED = "stopped; this is the best so far"
_LOOK = 0.2  # seconds
Read = TypeVar("Read")


@dataclass(eq=False)
class Served:
    """A request's run. ``owner`` is whose key asked for it; ``finished`` belongs to the server's event loop."""

    id: str
    owner: str
    order: Order
    tree: Tree
    finished: asyncio.Future[Solution]
    created: float = field(default_factory=time.time)
    asked: float = field(default_factory=time.monotonic)
    begun: bool = False
    stopped: bool = False
    solution: Solution | None = None
    feeds: set[Feed] = field(default_factory=set)

    @property
    def status(self) -> Literal["queued", "running", "done"]:
        if self.solution is not None:
            return "done"
        return "running" if self.begun else "queued"


@dataclass
class Counts:
    """What has been since the server began."""

    runs: int = 0
    verified: int = 0
    stopped: int = 0
    refused: int = 0
    generated_tokens: int = 0
    seconds: float = 0.0  # of runs that have ended, from when they were begun


class Service:
    """Takes orders and gives solutions. Made and used in the server's event loop; ``close`` may take a while.

    Args:
        decoder: Not closed here.
        pool: Closed here.
        model: What the trees name as theirs.
        pieces: The tokenizer's, for the details of branches; None where there is none.
        journal: Keeps every event of every run; not closed here.
    """

    def __init__(
        self,
        decoder: Decoder,
        *,
        model: str,
        limits: Limits,
        pool: VerifierPool,
        pieces: Pieces | None = None,
        journal: Journal | None = None,
    ) -> None:
        self.decoder, self.model, self.limits, self.pieces = decoder, model, limits, pieces
        self.counts = Counts()
        self.broken: str | None = None
        self._journal, self._pool = journal, pool
        self._aio = asyncio.get_running_loop()
        self._loop = Loop(Means(decoder, pool, threading.Event()))
        self._waiting: OrderedDict[str, Served] = OrderedDict()
        self._live: dict[str, Served] = {}
        self._kept: OrderedDict[str, Served] = OrderedDict()
        self._lock = threading.Lock()  # over the three above
        self._draining = self._closing = self._left = False
        self._thread = start_thread("led-serving", self._work)
        ask_at_exit(self._ask_to_end)

    # --- for the server's event loop ---------------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        """Runs that are not begun yet."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        return len(self._live)

    @property
    def kept(self) -> int:
        return len(self._kept)

    @property
    def busy_slots(self) -> int:
        """Branches that are being decoded, or wait for a slot in the decoder."""
        return int(getattr(self.decoder, "in_flight", 0))

    @property
    def draining(self) -> bool:
        return self._draining

    def plant(self, order: Order) -> Tree:
        """An order's tree, with nothing on it.

        Raises:
            RefusedError: the model can't do what is asked.
        """
        tree = Tree(
            order.problem,
            decoding=order.decoding,
            seed=order.seed,
            max_tokens=order.max_tokens,
            stop=order.stop,
            follow_up=bool(getattr(self.decoder, "follows_up", True)),
            model=self.model,
        )
        try:
            self.decoder.check(tree.requests(1)[0])
        except UsageError as error:
            raise RefusedError(str(error)) from error
        return tree

    def submit(self, order: Order, tree: Tree, owner: str = "") -> Served:
        """Queue a run.

        Raises:
            BusyError: too many wait already.
            UnavailableError: the service is ending, or broken.
        """
        run = Served(order.problem.key, owner, order, tree, self._aio.create_future())
        with self._lock:
            if self.broken is not None:
                raise UnavailableError(f"the search has failed and can't go on: {self.broken}")
            if self._draining:
                raise UnavailableError("the server is ending and takes nothing new")
            if len(self._waiting) >= self.limits.waiting:
                self.counts.refused += 1
                told = f"{len(self._waiting)} requests wait already, and no more may; try again later"
                raise BusyError(told, self._retry_after())
            self._waiting[run.id] = run
        self._loop.post(lambda: None)  # it wakes, and sees what waits
        return run

    def find(self, name: str, owner: str) -> Served:
        """A run of this owner's.

        Raises:
            RefusedError: there is none, or it was forgotten.
        """
        with self._lock:
            run = self._waiting.get(name) or self._live.get(name) or self._kept.get(name)
        if run is None or run.owner != owner:
            told = f"no run is called {name[:80]!r}; the last {self.limits.kept} that have ended are kept"
            raise RefusedError(told, status=404, code="run_not_found")
        return run

    def runs(self, owner: str) -> list[Served]:
        """All runs of this owner's, the newest first."""
        with self._lock:
            known = [*self._kept.values(), *self._live.values(), *self._waiting.values()]
        return sorted((run for run in known if run.owner == owner), key=lambda run: -run.created)

    def stop(self, run: Served) -> None:
        """End a run soon, with what it has; nothing happens to one that has ended."""
        self._loop.post(partial(self._stop, run))

    async def index(self, run: Served) -> dict[str, Any]:
        """What a page shows of a run."""
        return await self.read(run, lambda: self._index(run))

    async def detail(self, run: Served, node: str) -> dict[str, Any]:
        """All there is of one branch.

        Raises:
            RefusedError: there is no such branch.
        """
        try:
            return await self.read(run, lambda: detail(run.tree, node, self.pieces))
        except UsageError as error:
            raise RefusedError(str(error), status=404, param="id", code="node_not_found") from error

    async def follow(self, run: Served, feed: Feed) -> dict[str, Any]:
        """Let a feed hear of a run from now on; its index as it is now. ``unfollow`` when it is left."""

        def begin() -> dict[str, Any]:
            if run.solution is None:
                run.feeds.add(feed)
            else:
                feed.end()
            return self._index(run)

        return await self.read(run, begin)

    def unfollow(self, run: Served, feed: Feed) -> None:
        self._loop.post(lambda: run.feeds.discard(feed))

    async def read(self, run: Served, get: Callable[[], Read]) -> Read:
        """Read from a tree: in the thread that writes it, or aside where nobody does any more."""
        if run.solution is not None or self._left:
            return await asyncio.to_thread(get)
        answer: asyncio.Future[Read] = self._aio.create_future()

        def answer_it() -> None:
            try:
                found = get()
            except Exception as error:  # noqa: BLE001 - it is the asker's
                self._tell(partial(_settle, answer, None, error))
            else:
                self._tell(partial(_settle, answer, found, None))

        self._loop.post(answer_it)
        if self._left:  # it may have come too late to be carried out
            answer.cancel()
            return await asyncio.to_thread(get)
        return await answer

    async def close(self) -> None:
        """Take nothing new, let runs end, and stop those that take too long. Idempotent."""
        with self._lock:
            self._draining = True
            open_runs = [run.finished for run in (*self._waiting.values(), *self._live.values())]
        if open_runs:
            await asyncio.wait(open_runs, timeout=self.limits.shutdown_seconds)
        self._ask_to_end()
        await asyncio.to_thread(self._thread.join)
        self._pool.close()

    def _ask_to_end(self) -> None:
        self._loop.post(self._stop_all)

    # --- the search's thread -----------------------------------------------------------------------------------

    def _work(self) -> None:
        try:
            self._search()
        except Exception as error:  # noqa: BLE001 - nobody may wait for a thread that is gone
            _log.exception("the search has failed")
            self._break(f"{type(error).__name__}: {error}")
        finally:
            self._left = True  # before the last look: who posts after it sees this
            self._loop.last_orders()

    def _search(self) -> None:
        while True:
            self._loop.propose()
            self._begin()
            for solution in self._loop.take_done():
                self._end(solution)
            if self._closing and not self._live and not self._waiting:
                return
            # What waits has no place: it comes with a run's end, or with a cluster's next decoder.
            self._loop.receive(_LOOK if self._waiting else None)

    def _begin(self) -> None:
        """Begin what waits, the oldest first, as long as there is room."""
        while self._loop.has_place():
            with self._lock:
                if not self._waiting:
                    return
                _, run = self._waiting.popitem(last=False)
                self._live[run.id] = run
            run.begun = True
            self._loop.begin(run.order.problem, self._terms(run))

    def _terms(self, run: Served) -> Terms:
        return Terms(
            strategy=run.order.strategy,
            verifiers=lambda _problem: run.order.verifiers,
            budget=run.order.budget,
            journal=self._journal,
            observer=partial(self._observe, run),
            plant=lambda _problem: run.tree,
            check=lambda _problem: None,  # it was, when it was asked for
        )

    def _observe(self, run: Served, tree: Tree, event: Any) -> None:
        for feed in tuple(run.feeds):
            feed.hear(tree, event)

    def _end(self, solution: Solution) -> None:
        run = self._live[solution.problem.key]
        self.counts.runs += 1
        self.counts.verified += solution.verified
        self.counts.generated_tokens += solution.usage.generated_tokens
        self.counts.seconds += solution.usage.seconds
        self._settle_run(run, solution)

    def _settle_run(self, run: Served, solution: Solution) -> None:
        run.solution = solution
        with self._lock:
            self._waiting.pop(run.id, None)
            self._live.pop(run.id, None)
            self._kept[run.id] = run
            while len(self._kept) > self.limits.kept:
                self._kept.popitem(last=False)
        for feed in run.feeds:
            feed.end()
        run.feeds.clear()
        self._tell(partial(_settle, run.finished, solution, None))

    def _stop(self, run: Served) -> None:
        if run.solution is not None or run.stopped:
            return
        run.stopped = True
        self.counts.stopped += 1
        if run.begun:
            self._loop.stop(run.id, _STOPPED)
        else:
            self._settle_run(run, _nothing(run, "interrupted", "stopped before it was begun"))

    def _stop_all(self) -> None:
        self._closing = True
        with self._lock:
            everything = [*self._waiting.values(), *self._live.values()]
        for run in everything:
            self._stop(run)

    def _break(self, reason: str) -> None:
        """The search can't go on: nobody may wait for it."""
        with self._lock:
            self.broken = reason
            everything = [*self._waiting.values(), *self._live.values()]
        self._loop.abandon()
        for run in everything:
            self._settle_run(run, _nothing(run, "failed", f"the search has failed: {reason}"))

    def _retry_after(self) -> int:
        """Seconds until the queue has moved, going by how long runs have taken so far."""
        mean = self.counts.seconds / self.counts.runs if self.counts.runs else 1.0
        return int(min(60.0, max(1.0, mean * len(self._waiting) / max(1, len(self._live)))))

    def _index(self, run: Served) -> dict[str, Any]:
        return {**index([run.tree], title=run.id, live=run.solution is None), "status": run.status}

    def _tell(self, what: Callable[[], None]) -> None:
        try:
            self._aio.call_soon_threadsafe(what)
        except RuntimeError:  # the event loop is closed: nobody waits any more
            return


def _nothing(run: Served, status: RunStatus, reason: str) -> Solution:
    """What a run comes to that was not begun, or can't be ended as others are."""
    ended = Ended(status=status, reason=reason, usage=run.tree.usage())
    if run.tree.ended is None:
        run.tree.end(ended)
    return Solution.of(run.tree, run.tree.ended or ended)


def _settle(future: asyncio.Future[Any], value: Any, error: Exception | None) -> None:
    if future.done():  # whoever waited has left
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(value)


def new_name() -> str:
    """A run's."""
    return f"run-{secrets.token_hex(10)}"
