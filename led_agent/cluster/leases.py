"""Who works on what, and who is to work on what next: credits, leases, prefix affinity, stealing, and quarantine.

This file knows requests, and workers as names with slots. It knows neither Ray nor threads nor time: it is told what
happens, and says what to send. One thread uses it.

- A request is *leased* to one worker at a time. A worker holds no more than its *credits*: its slots and a quarter
  more, so that a slot that comes free is filled before anybody has been asked.
- Requests of one problem share a prompt, whose keys and values the worker that had them first still holds: it is asked
  first, as long as it has a free slot. Another one takes them where it would idle otherwise, and when nothing waits, it
  takes over what waits inside a busy worker.
- A request that is sent again is another *attempt* at the same branch. Whichever attempt ends first is the result; what
  comes later changes nothing. Nor does what comes of an earlier request of the same name: a later search over the same
  workers may use its names again.
- When a worker dies, what it held is sent again. Which of it killed the worker can't be known, so a request that has
  seen two deaths is next tried *alone*. Three deaths put it aside, two of which it has to have seen alone: one may be
  chance. Where workers die without it as well, its own deaths say less, and as many more are needed, up to ten.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict, deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Literal

from led_agent.protocols import BranchDone, BranchProgress, DecodeEvent, Sink
from led_agent.types import Branch, DecodeRequest

__all__ = ["CREDITS", "DEATHS", "Attempt", "Key", "Leases", "Limit", "Orders", "Told", "Worker", "label"]

CREDITS = 1.25  # requests that a worker may hold, a slot
DEATHS = 3  # workers that may die over one request
_MOST_DEATHS = 10  # the same, while others die, too
_ALONE_AFTER = 2  # deaths, after which a request is tried alone
_ALONE = 2  # of the deaths that it is blamed for it has to have been alone in
_HOMES = 65_536  # problems of which it is known who has their prompts

Key = tuple[str, str]  # problem, request
Attempt = tuple[str, str, int]  # problem, request, and a number that no other attempt has, of whatever request


@dataclass(frozen=True)
class Limit:
    """What may be spent on a problem from now on; None is no limit. Both None lifts it."""

    problem: str
    tokens: int | None
    prefill_tokens: int | None


@dataclass
class Orders:
    """What a worker is to be told, in one message: limits first, then ends, then new requests with their attempts."""

    limits: list[Limit] = field(default_factory=list)
    cancelled: list[Attempt] = field(default_factory=list)
    requests: list[tuple[DecodeRequest, int]] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.limits or self.cancelled or self.requests)


@dataclass(eq=False)
class Lease:
    """A request that is not answered yet."""

    request: DecodeRequest
    sink: Sink
    holder: Worker | None = None
    attempts: list[int] = field(default_factory=list)  # numbers of those that were sent, the last one last
    deaths: int = 0
    alone_deaths: int = 0
    first_death: int = 0  # which of all deaths was the first that it saw
    tokens: int = 0
    waiting: bool = True
    cancelled: bool = False

    @property
    def key(self) -> Key:
        return self.request.problem, self.request.id

    @property
    def attempt(self) -> int:
        """The number of the last attempt, 0 before the first."""
        return self.attempts[-1] if self.attempts else 0

    @property
    def alone(self) -> bool:
        """Whether it has to be tried alone."""
        return self.deaths >= _ALONE_AFTER


@dataclass(eq=False)
class Worker:
    """A decoder somewhere, as far as work is shared out.

    Attributes:
        name: Unique, also among those that are gone.
        slots: Branches that grow in it at a time.
        state: "live"; "lost from sight" (not heard of: what it held has been given to others, but its results still
            count); "leaving" (gets nothing new, ends what it has).
        rate: Tokens a second, measured while it was busy; 0 before.
        held: What it is working on, the oldest first.
        kept_for: It is being emptied for a request that is to be tried alone.
    """

    name: str
    slots: int
    state: Literal["live", "lost from sight", "leaving"] = "live"
    rate: float = 0.0
    held: dict[Key, Lease] = field(default_factory=dict)
    attempts: dict[Key, int] = field(default_factory=dict)  # which attempt at each of them is its own
    orders: Orders = field(default_factory=Orders)
    kept_for: Lease | None = None
    limited: dict[str, int] = field(default_factory=dict)  # problem -> the limit's number that it was told

    @property
    def credits(self) -> int:
        return max(self.slots + 1, int(self.slots * CREDITS + 0.5))

    @property
    def free_slots(self) -> int:
        return self.slots - len(self.held) if self._takes else 0

    @property
    def has_credit(self) -> bool:
        return self._takes and len(self.held) < self.credits

    @property
    def _takes(self) -> bool:
        return self.state == "live" and self.kept_for is None

    @property
    def inside(self) -> list[Lease]:
        """What waits inside it: it begins the oldest first."""
        return [lease for lease in list(self.held.values())[self.slots :] if not lease.tokens and not lease.cancelled]

    def hold(self, lease: Lease) -> None:
        self.held[lease.key], self.attempts[lease.key] = lease, lease.attempt

    def drop(self, key: Key) -> None:
        self.held.pop(key, None)
        self.attempts.pop(key, None)

    def call_off(self, key: Key) -> None:
        """Let it end its attempt at a branch, whose result is not waited for any more."""
        if key in self.attempts:
            self.orders.cancelled.append((*key, self.attempts[key]))


@dataclass
class _Spending:
    """A problem's limit, and what has been spent since it was set."""

    limit: Limit
    number: int
    tokens: int = 0
    prefill: int = 0

    def left(self, growing: int) -> Limit:
        tokens, prefill = self.limit.tokens, self.limit.prefill_tokens
        return Limit(
            self.limit.problem,
            max(1, tokens - self.tokens - growing) if tokens is not None else None,
            max(1, prefill - self.prefill) if prefill is not None else None,
        )

    def spent(self, growing: int) -> bool:
        tokens, prefill = self.limit.tokens, self.limit.prefill_tokens
        return (tokens is not None and self.tokens + growing >= tokens) or (
            prefill is not None and self.prefill >= prefill
        )


Told = tuple[Sink, DecodeEvent]


@dataclass
class Counts:
    """What has happened so far."""

    submitted: int = 0
    sent: int = 0  # attempts
    done: int = 0
    stolen: int = 0
    deaths: int = 0  # workers
    lost_from_sight: int = 0  # times that a worker was not heard of for a while
    sent_again: int = 0  # requests, after a death or a silence
    put_aside: int = 0
    late: int = 0  # results of attempts after the first


class Leases:
    """The table. Methods that end something append to ``told`` what the search is to hear."""

    def __init__(self) -> None:
        self.workers: dict[str, Worker] = {}
        self.open: dict[Key, Lease] = {}
        self.told: list[Told] = []
        self.counts = Counts()
        self._of: dict[str, dict[Key, Lease]] = {}  # what is open, by problem
        self._waiting: OrderedDict[str, deque[Lease]] = OrderedDict()  # by problem
        self._alone: deque[Lease] = deque()
        self._homes: OrderedDict[str, dict[str, None]] = OrderedDict()  # problem -> names of workers
        self._limits: dict[str, _Spending] = {}
        self._limit_number = 0
        self._attempt_number = 0
        self._most_open = 0

    # --- from the search ---------------------------------------------------------------------------------------

    def submit(self, request: DecodeRequest, sink: Sink) -> None:
        """A new request. One whose name is open already is the same one, and is heard of by the new sink; but one that
        was cancelled ends now, as nothing more than its name is left of it."""
        lease = self.open.get((request.problem, request.id))
        if lease is not None and not lease.cancelled:
            lease.sink = sink
            return
        if lease is not None:
            self._end(lease, _unfinished(lease, "cancelled"))
        lease = Lease(request, sink)
        self.open[lease.key] = lease
        self._of.setdefault(request.problem, {})[lease.key] = lease
        self.counts.submitted += 1
        self._most_open = max(self._most_open, len(self.open))
        self._enqueue(lease, first=False)

    def cancel(self, problem: str, ids: Sequence[str]) -> None:
        """End these: at once where they wait here, else as soon as their worker has ended them."""
        for name in ids:
            lease = self.open.get((problem, name))
            if lease is None or lease.cancelled:
                continue
            lease.cancelled = True
            if lease.holder is None:
                self._end(lease, _unfinished(lease, "cancelled"))
            else:
                lease.holder.call_off(lease.key)

    def limit(self, limit: Limit) -> None:
        """What a problem may cost from now on."""
        self._limits.pop(limit.problem, None)
        lifted = limit.tokens is None and limit.prefill_tokens is None
        for worker in self.workers.values():
            if worker.limited.pop(limit.problem, None) is not None and lifted:
                worker.orders.limits.append(limit)
        if lifted:
            self._homes.pop(limit.problem, None)
            return
        self._limit_number += 1
        self._limits[limit.problem] = _Spending(limit, self._limit_number, tokens=-self._growing(limit.problem))
        for lease in self._of.get(limit.problem, {}).values():
            if lease.holder is not None:
                self._tell_limit(lease.holder, limit.problem)

    # --- from the workers --------------------------------------------------------------------------------------

    def join(self, worker: Worker) -> None:
        """A worker is ready."""
        self.workers[worker.name] = worker

    def grown(self, worker: Worker, attempt: Attempt, tokens: int, text: str) -> None:
        """A branch has so many tokens now, and so much text."""
        lease = self.open.get(attempt[:2])
        if lease is None or lease.holder is not worker or lease.attempt != attempt[2]:
            return
        lease.tokens = tokens
        self.told.append((lease.sink, BranchProgress(lease.request.id, tokens, text)))
        self._keep_limit(lease.request.problem)

    def done(self, worker: Worker, attempt: Attempt, branch: Branch) -> None:
        """An attempt has ended. What was only called off there, to go on elsewhere, ends nothing."""
        key = attempt[:2]
        lease = self.open.get(key)
        current = lease is not None and lease.holder is worker and lease.attempt == attempt[2]
        if worker.attempts.get(key) == attempt[2]:
            worker.drop(key)
        if not current and branch.finish in ("cancelled", "error"):
            return
        if lease is None or attempt[2] not in lease.attempts:
            self.counts.late += 1
            return
        if not current and lease.holder is not None:
            lease.holder.call_off(key)
        tried = lease.attempts.index(attempt[2]) + 1
        self._end(lease, branch.model_copy(update={"decoder": worker.name, "attempts": tried}))

    def lost_from_sight(self, worker: Worker) -> None:
        """Not heard of for a while: others get what it holds, and it gets nothing, until it is heard of again."""
        if worker.state == "live":
            worker.state = "lost from sight"
            self.counts.lost_from_sight += 1
            self._take_back(worker)

    def seen_again(self, worker: Worker) -> None:
        """It answers after all. What nobody else has begun meanwhile is still its own."""
        if worker.state != "lost from sight":
            return
        worker.state = "live"
        for key, lease in list(worker.held.items()):
            if lease.waiting and lease.attempt == worker.attempts[key]:
                lease.waiting, lease.holder = False, worker
            else:
                worker.call_off(key)
                worker.drop(key)

    def leave(self, worker: Worker) -> None:
        """It is to go: what waits inside it goes to others, and what grows may end."""
        worker.state = "leaving"
        for lease in worker.inside:
            self._call_off(worker, lease)
            self._enqueue(lease, first=True)
        self._release(worker)

    def gone(self, worker: Worker, why: str, *, died: bool = True) -> None:
        """It is no more. ``died``: by itself, so that one of the requests that it held may be why, also one that only
        waited there; else with its machine, or because it was told to."""
        if self.workers.pop(worker.name, None) is None:
            return
        held = [lease for lease in list(worker.held.values()) if self.open.get(lease.key) is lease]
        if died:
            self.counts.deaths += 1
            for lease in held:
                lease.deaths += 1
                if lease.waiting and lease.deaths == _ALONE_AFTER:  # since the worker was lost from sight
                    self._alone.append(lease)
                lease.alone_deaths += len(held) == 1
                lease.first_death = lease.first_death or self.counts.deaths
                if len(held) == 1 and self._is_to_blame(lease) and lease.holder in (worker, None):
                    self._put_aside(lease, why)
        self._take_back(worker)
        self._release(worker)
        worker.held, worker.attempts = {}, {}

    def fail(self, why: str) -> None:
        """End everything that is open, with this error on each branch that was not cancelled before."""
        for lease in list(self.open.values()):
            self._end(lease, _unfinished(lease, *(("cancelled",) if lease.cancelled else ("error", why))))

    # --- sharing out -------------------------------------------------------------------------------------------

    def assign(self) -> None:
        """Give what waits to whoever is to have it next; what there is to send lies in the workers' ``orders``."""
        self._assign_alone()
        room = _Room(self.workers.values())
        while self._waiting:
            problem, queue = next(iter(self._waiting.items()))
            while queue and (not queue[0].waiting or queue[0].alone):
                queue.popleft()  # ended, held again, or to be tried alone, meanwhile
            if queue:
                homes = [self.workers[name] for name in self._homes.get(problem, ()) if name in self.workers]
                worker = room.best(homes)
                if worker is None:
                    return
                self._send(worker, queue.popleft())
            if not queue:
                del self._waiting[problem]
        self._steal(room)

    @property
    def some_wait(self) -> bool:
        return bool(self._waiting or self._alone)

    @property
    def waiting(self) -> int:
        """Requests that nobody has yet; may be asked from any thread."""
        return sum(lease.waiting for lease in list(self.open.values()))

    def most_open(self) -> int:
        """How many requests were open at a time since this was last asked: at a single moment some have just ended, and
        the search is about to send the next."""
        most, self._most_open = self._most_open, len(self.open)
        return most

    @property
    def slots(self) -> int:
        """Of the workers that take requests."""
        return sum(worker.slots for worker in self.workers.values() if worker.state != "leaving")

    def _send(self, worker: Worker, lease: Lease) -> None:
        problem = lease.request.problem
        lease.waiting, lease.holder, lease.tokens = False, worker, 0
        self._attempt_number += 1
        lease.attempts.append(self._attempt_number)
        worker.hold(lease)
        self.counts.sent += 1
        self._tell_limit(worker, problem)
        worker.orders.requests.append((lease.request, lease.attempt))
        self._homes.setdefault(problem, {})[worker.name] = None
        self._homes.move_to_end(problem)
        while len(self._homes) > _HOMES:
            self._homes.popitem(last=False)

    def _assign_alone(self) -> None:
        """Empty a worker for each request that is to be tried alone: of a quarter of the workers at most, while others
        have work for them."""
        if not self._alone and not any(worker.kept_for for worker in self.workers.values()):
            return
        while self._alone and not self._alone[0].waiting:
            self._alone.popleft()
        live = [worker for worker in self.workers.values() if worker.state == "live"]
        kept = [worker for worker in live if worker.kept_for is not None]
        most = max(1, len(live) // 4) if self._waiting else len(live)
        for _ in range(min(len(self._alone), most - len(kept))):
            free = [worker for worker in live if worker.kept_for is None]
            if not free:
                break
            worker = min(free, key=lambda worker: len(worker.held))
            worker.kept_for = self._alone.popleft()
            kept.append(worker)
        for worker in kept:
            lease = worker.kept_for
            if lease is not None and lease.waiting and not worker.held:
                self._send(worker, lease)
            elif lease is not None and not lease.waiting and lease.holder is not worker:
                self._release(worker)

    def _steal(self, room: _Room) -> None:
        """Where nothing waits here: let whoever idles take over what waits inside others."""
        if room.idle() is None:
            return
        for busy in [worker for worker in self.workers.values() if len(worker.held) > worker.slots]:
            for lease in busy.inside if busy.state == "live" else ():
                idle = room.idle()
                if idle is None:
                    return
                self._call_off(busy, lease)
                self._send(idle, lease)
                self.counts.stolen += 1

    # --- ends --------------------------------------------------------------------------------------------------

    def _end(self, lease: Lease, branch: Branch) -> None:
        problem = lease.request.problem
        del self.open[lease.key]
        del self._of[problem][lease.key]
        if not self._of[problem]:
            del self._of[problem]
        lease.waiting = False
        if lease.holder is not None:
            lease.holder.drop(lease.key)
            if lease.holder.kept_for is lease:
                self._release(lease.holder)
        lease.holder = None
        self.counts.done += 1
        spending = self._limits.get(problem)
        if spending is not None:
            spending.tokens += len(branch.token_ids) + branch.discarded
            spending.prefill += branch.prefill_tokens
        self.told.append((lease.sink, BranchDone(branch)))
        if spending is not None:
            self._keep_limit(problem)

    def _is_to_blame(self, lease: Lease) -> bool:
        without_it = self.counts.deaths - lease.first_death + 1 - lease.deaths
        return lease.alone_deaths >= _ALONE and lease.deaths >= min(_MOST_DEATHS, DEATHS + without_it)

    def _put_aside(self, lease: Lease, why: str) -> None:
        self.counts.put_aside += 1
        told = f"put aside: {lease.deaths} decoders died over it, {lease.alone_deaths} with nothing else to do ({why})"
        self._end(lease, _unfinished(lease, "error", told))

    def _take_back(self, worker: Worker) -> None:
        """Let what a worker held be sent to others, the oldest of it first."""
        for lease in reversed(list(worker.held.values())):
            if self.open.get(lease.key) is not lease or lease.holder is not worker:
                continue
            lease.holder, lease.tokens = None, 0
            if lease.cancelled:
                self._end(lease, _unfinished(lease, "cancelled"))
                continue
            self.counts.sent_again += 1
            self._enqueue(lease, first=True)

    def _call_off(self, worker: Worker, lease: Lease) -> None:
        worker.call_off(lease.key)
        worker.drop(lease.key)
        lease.holder = None

    def _release(self, worker: Worker) -> None:
        """It is not kept for anything any more; what it was kept for, and nobody has, waits for another."""
        lease, worker.kept_for = worker.kept_for, None
        if lease is not None and lease.waiting and lease not in self._alone:
            self._alone.appendleft(lease)

    def _enqueue(self, lease: Lease, *, first: bool) -> None:
        lease.waiting, problem = True, lease.request.problem
        if lease.alone:
            self._alone.append(lease)
            return
        queue = self._waiting.setdefault(problem, deque())
        if first:
            queue.appendleft(lease)
            self._waiting.move_to_end(problem, last=False)
        else:
            queue.append(lease)

    # --- limits ------------------------------------------------------------------------------------------------

    def _growing(self, problem: str) -> int:
        return sum(lease.tokens for lease in self._of.get(problem, {}).values())

    def _tell_limit(self, worker: Worker, problem: str) -> None:
        """Tell a worker what is left of a problem's limit, once: it sees each of its own steps, and this table only
        reports."""
        spending = self._limits.get(problem)
        if spending is not None and worker.limited.get(problem) != spending.number:
            worker.limited[problem] = spending.number
            worker.orders.limits.append(spending.left(self._growing(problem)))

    def _keep_limit(self, problem: str) -> None:
        spending = self._limits.get(problem)
        if spending is not None and spending.spent(self._growing(problem)):
            self.cancel(problem, [name for _, name in self._of.get(problem, {})])


class _Room:
    """The workers that can take something, the one first that would be done first with it. Made anew for each sharing
    out: while it goes on, workers only get fuller."""

    def __init__(self, workers: Collection[Worker]) -> None:
        known = [worker.rate for worker in workers if worker.rate > 0]
        self._usual = sum(known) / len(known) if known else 1.0
        entries = [(self._load(worker), at, worker) for at, worker in enumerate(workers) if worker.has_credit]
        self._slots = [entry for entry in entries if entry[2].free_slots > 0]
        self._credits = entries
        heapq.heapify(self._slots)
        heapq.heapify(self._credits)

    def best(self, homes: Sequence[Worker]) -> Worker | None:
        """At home while there is a free slot, else where one is free, else where one will be."""
        at_home = [worker for worker in homes if worker.free_slots > 0]
        if at_home:
            return min(at_home, key=self._load)
        return self.idle() or self._first([w for w in homes if w.has_credit]) or self._top(self._credits, credit=True)

    def idle(self) -> Worker | None:
        """The best that has a free slot."""
        return self._top(self._slots, credit=False)

    def _first(self, workers: Sequence[Worker]) -> Worker | None:
        return min(workers, key=self._load, default=None)

    def _top(self, heap: list[tuple[float, int, Worker]], *, credit: bool) -> Worker | None:
        while heap:
            load, at, worker = heap[0]
            if not (worker.has_credit if credit else worker.free_slots > 0):
                heapq.heappop(heap)
            elif (now := self._load(worker)) > load:
                heapq.heapreplace(heap, (now, at, worker))
            else:
                return worker
        return None

    def _load(self, worker: Worker) -> float:
        return (len(worker.held) + 1) / (worker.slots * ((worker.rate or self._usual) / self._usual))


def label(attempt: Attempt) -> str:
    """How an attempt is called in logs."""
    problem, name, number = attempt
    return f"{problem}#{name}~{number}"


def _unfinished(lease: Lease, finish: Literal["cancelled", "error"], why: str | None = None) -> Branch:
    return Branch(id=lease.request.id, text="", finish=finish, error=why, attempts=len(lease.attempts))
