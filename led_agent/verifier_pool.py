"""The verifier pool: threads that ask verifiers, a few at a time, within limits, and each thing once.

This file knows verifiers, branches and time. It does not know trees, budgets or why anybody asks.

- A call is one verifier on one branch (or, for a verifier that compares branches, on all of them). Calls of one
  verifier wait in its lane, where problems take turns; lanes take turns, too.
- A lane whose verifier has ``batch`` gives all that waits, up to ``batch_size``, to one call at a time, or to
  ``batches_at_once`` of them: what comes while they run goes into the next.
- A call that raised is tried once more, alone; what it raises then is an error verdict. What a verifier *returns* is
  its word, and is not asked for again.
- A call that overruns its time is an error verdict at once. A thread can't be stopped: it is left behind, and another
  takes its place, so that the pool is no smaller. All threads are daemons: none keeps the interpreter from exiting.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from led_agent.errors import MachineError, UsageError
from led_agent.judging import batch_limit, compares, failure, read, read_all, signed, verifier_name
from led_agent.protocols import Verifier
from led_agent.record import Record
from led_agent.threads import ask_at_exit, start_thread
from led_agent.types import Branch, Problem, Verdict

__all__ = ["VerifierPool", "VerifierStats"]

Verdicts = tuple[Verdict, ...]
_IDLE = 5.0  # seconds after which a thread without work ends, so that a pool nobody closes leaves nothing behind
_MOST_STUCK = 64  # threads left behind in one verifier, after which it is not called again


class VerifierStats(Record):
    """What a verifier was asked and said.

    Attributes:
        calls: Verdicts that it owed: one a branch, however many went into one batch. The sum of the next four.
        accepted, rejected, abstained, errors: What they were.
        retries: Calls that raised and were tried once more.
        seconds: Wall-clock time inside the verifier, over all threads.
    """

    calls: int = 0
    accepted: int = 0
    rejected: int = 0
    abstained: int = 0
    errors: int = 0
    retries: int = 0
    seconds: float = 0.0


@dataclass(eq=False)
class _Call:
    """A verifier's word on a branch, or on all the branches that it compares: wanted, under way or known."""

    verifier: Verifier
    problem: Problem
    branches: tuple[Branch, ...]
    together: bool = False
    again: bool = False  # it raised once
    forgotten: bool = False
    future: Future[Verdicts] = field(default_factory=Future)


@dataclass(eq=False)
class _Lane:
    """What waits for one verifier. ``most`` is the size of a batch, None where it is asked one by one."""

    verifier: Verifier
    name: str
    most: int | None
    waiting: OrderedDict[str, deque[_Call]] = field(default_factory=OrderedDict)
    again: deque[_Call] = field(default_factory=deque)
    queued: bool = False  # it stands in the line of lanes
    under_way: int = 0
    stuck: int = 0  # calls that were given up and have not come back

    def put(self, call: _Call) -> None:
        self.waiting.setdefault(call.problem.key, deque()).append(call)

    def ready(self) -> bool:
        return bool(self.waiting or self.again) and (self.most is None or self.under_way < self._at_once())

    def _at_once(self) -> int:
        """How many batches may be under way now. A verifier in a cluster says more than one, and not always as many."""
        return max(1, getattr(self.verifier, "batches_at_once", 1))

    def take(self) -> list[_Call]:
        """The next call, or the next batch of them: what raised goes first and alone, then problems take turns."""
        if self.again:
            return [self.again.popleft()]
        taken: list[_Call] = []
        while self.waiting and len(taken) < (self.most or 1):
            key, calls = next(iter(self.waiting.items()))
            taken.append(calls.popleft())
            if calls:
                self.waiting.move_to_end(key)
            else:
                del self.waiting[key]
        return taken

    def drop(self, key: str) -> list[_Call]:
        """Take out what waits for a problem."""
        kept = [call for call in self.again if call.problem.key != key]
        dropped = [call for call in self.again if call.problem.key == key]
        self.again = deque(kept)
        return [*self.waiting.pop(key, ()), *dropped]


@dataclass(eq=False)
class _Crew:
    """The threads between two calls of ``close``; those of an earlier crew finish what they do and go home."""

    work: threading.Condition
    threads: int = 0
    idle: int = 0


@dataclass(eq=False)
class _Job:
    """What one thread does at a time: one call of a verifier."""

    lane: _Lane
    calls: list[_Call]
    crew: _Crew
    began: float
    refused: bool
    given_up: bool = False

    @property
    def owed(self) -> int:
        return sum(len(call.branches) for call in self.calls)

    def run(self) -> tuple[list[Verdict], bool]:
        """The verdicts, one for each branch, and whether the verifier raised an ``Exception``."""
        name, owed = self.lane.name, self.owed
        if self.refused:
            reason = f"verifier {name} was not asked: {_MOST_STUCK} earlier calls of it have not come back; end them"
            return [Verdict(status="error", reason=reason)] * owed, False
        try:
            said, many = self._ask()
        except Exception as error:  # noqa: BLE001 - whatever a verifier raises is its error verdict
            return [failure(name, error)] * owed, True
        except BaseException as error:  # noqa: BLE001 - sys.exit() in code under test; the thread must live on
            return [failure(name, error)] * owed, False
        return (read_all(said, owed, name) if many else [read(said, name)]), False

    def _ask(self) -> tuple[object, bool]:
        """What the verifier says, and whether that is a list of answers."""
        verifier, first = self.lane.verifier, self.calls[0]
        if first.together:
            return verifier.together(first.problem, first.branches), True  # type: ignore[attr-defined]
        if self.lane.most is not None and not first.again:  # tried again, it is asked in the plainest way there is
            return verifier.batch([(call.problem, call.branches[0]) for call in self.calls]), True  # type: ignore[attr-defined]
        return verifier(first.problem, first.branches[0]), False


class VerifierPool:
    """Asks verifiers in threads of its own. Any thread may call it; it may be used again after ``close``.

    Args:
        concurrency: How many calls of verifiers are under way at a time; by default two a processor, and 32 at most.
        seconds: Wall-clock limit of one call of a verifier, a batch or a comparison included; None is no limit. What
            takes longer is a verdict of status "error".

    Raises:
        UsageError: a concurrency below 1, or a limit that is no positive number.
    """

    def __init__(self, concurrency: int | None = None, seconds: float | None = None) -> None:
        if concurrency is not None and concurrency < 1:
            raise UsageError(f"concurrency is {concurrency}; at least 1 call at a time is needed")
        if seconds is not None and not 0 < seconds < float("inf"):
            raise UsageError(f"seconds is {seconds}; the time limit is a positive number, or None for no limit")
        self.concurrency = concurrency if concurrency is not None else min(32, 2 * (os.cpu_count() or 1))
        self._chosen = concurrency is None
        self.seconds = seconds
        self._lock = threading.Lock()
        self._clock = threading.Condition(self._lock)
        self._crew = _Crew(threading.Condition(self._lock))
        self._lanes: dict[int, _Lane] = {}  # by id: a verifier need not be hashable, and its lane keeps it alive
        self._line: deque[_Lane] = deque()
        self._running: dict[_Job, None] = {}  # the oldest first, and so the first to overrun
        self._memory: dict[str, dict[tuple[object, ...], _Call]] = {}
        self._stats: dict[str, VerifierStats] = {}
        self._watching = False
        ask_at_exit(self.close)

    def raise_concurrency(self, calls: int) -> None:
        """Let as many calls be under way where that is more, up to 256, unless the user has said how many: verifiers
        that are asked on other machines wait there."""
        if self._chosen:
            self.concurrency = max(self.concurrency, min(256, calls))

    def submit(self, verifiers: Sequence[Verifier], problem: Problem, branch: Branch) -> Future[Verdicts]:
        """The verdicts of the verifiers in order, up to the first that rejects.

        A verifier that was already asked about this branch of this problem is not asked again: both hear the same.
        The future is cancelled where the problem is forgotten before the verdicts are there.

        Raises:
            UsageError: a verifier's ``batch_size`` is not usable.
            MachineError: no thread can be started.
        """
        for verifier in verifiers:  # what can't be used is refused here, and not in a thread that nobody hears
            verifier_name(verifier)
            batch_limit(verifier)
        chain = _Chain(self, tuple(verifiers), problem, branch)
        chain.go()
        return chain.future

    def compare(self, verifier: Verifier, problem: Problem, branches: Sequence[Branch]) -> Future[Verdicts]:
        """What a verifier with ``together`` says of branches that it compares, one verdict for each.

        Raises:
            UsageError: it has no ``together``.
            MachineError: no thread can be started.
        """
        if not compares(verifier):
            raise UsageError(f"verifier {verifier_name(verifier)} has no together(problem, branches); use submit")
        return self._call(_Call(verifier, problem, tuple(branches), together=True), 0).future

    def forget(self, problem: str) -> None:
        """Drop what is known of a problem, by its key, and what still waits for it."""
        with self._lock:
            for call in self._memory.pop(problem, {}).values():
                call.forgotten = True
            dropped = [call for lane in self._lanes.values() for call in lane.drop(problem)]
            self._lanes = {
                name: lane
                for name, lane in self._lanes.items()
                if lane.waiting or lane.again or lane.under_way or lane.stuck
            }
        for call in dropped:
            call.future.cancel()

    @property
    def stats(self) -> dict[str, VerifierStats]:
        """What each verifier was asked and said since the pool was made, by its name."""
        with self._lock:
            return dict(self._stats)

    def close(self) -> None:
        """Forget everything and let the threads go; waits for none of them. Idempotent."""
        with self._lock:
            for calls in self._memory.values():
                for call in calls.values():
                    call.forgotten = True
            dropped = [call for lane in self._lanes.values() for key in [*lane.waiting] for call in lane.drop(key)]
            dropped += [call for lane in self._lanes.values() for call in lane.again]
            for lane in self._lanes.values():
                lane.again.clear()
            self._lanes, self._memory = {}, {}
            self._line.clear()
            crew, self._crew = self._crew, _Crew(threading.Condition(self._lock))
            crew.work.notify_all()
        for call in dropped:
            call.future.cancel()

    # --- asking ------------------------------------------------------------------------------------------------

    def _call(self, wanted: _Call, nth: int, after: _Call | None = None) -> _Call:
        """A call that is under way; the same where it was made before. ``nth`` tells a verifier that was given twice
        from one that is asked twice. Behind a call that was forgotten it is not made: that problem would be known
        again, and nobody would forget it."""
        key = (id(wanted.verifier), nth, wanted.together, *((b.id, _digest(b.text)) for b in wanted.branches))
        with self._lock:
            if after is not None and after.forgotten:
                wanted.future.cancel()
                return wanted
            known = self._memory.setdefault(wanted.problem.key, {})
            call = known.setdefault(key, wanted)
            if call is wanted:
                lane = self._lane(call.verifier)
                lane.put(call)
                self._offer(lane)
                if not self._crew.threads:
                    raise MachineError("no thread can be started for verifiers; end other processes")
            return call

    def _lane(self, verifier: Verifier) -> _Lane:
        lane = self._lanes.get(id(verifier))
        if lane is None:
            most = None if compares(verifier) else batch_limit(verifier)
            lane = self._lanes[id(verifier)] = _Lane(verifier, verifier_name(verifier), most)
        return lane

    def _offer(self, lane: _Lane) -> None:
        """Put a lane with work in the line, and see that somebody comes for it. With the lock held."""
        if lane.ready() and not lane.queued:
            lane.queued = True
            self._line.append(lane)
        if not self._line:
            return
        crew = self._crew
        if crew.idle:
            crew.work.notify()
        elif crew.threads < self.concurrency:
            crew.threads += 1  # before it starts: Ctrl-C may come while it does
            if not _started(self._serve, crew):
                crew.threads -= 1

    # --- in the threads ----------------------------------------------------------------------------------------

    def _serve(self, crew: _Crew) -> None:
        while self._serve_one(crew):
            pass  # nothing is held while the thread waits: a job leads to all that waits for its verdicts

    def _serve_one(self, crew: _Crew) -> bool:
        """Do the next thing; False where the thread is to end."""
        job = self._next(crew)
        if job is None:
            return False
        verdicts, raised = job.run()
        return self._done(job, verdicts, raised)  # it took too long, and another thread has taken this one's place

    def _next(self, crew: _Crew) -> _Job | None:
        """The next thing to do; None where the thread is to end."""
        with self._lock:
            while crew is self._crew:
                job = self._take(crew)
                if job is not None:
                    return job
                crew.idle += 1
                called = crew.work.wait(_IDLE)
                crew.idle -= 1
                if not called and not self._line:
                    break
            crew.threads -= 1
            return None

    def _take(self, crew: _Crew) -> _Job | None:
        while self._line:
            lane = self._line.popleft()
            lane.queued = False
            calls = lane.take()
            if not calls:  # what waited was forgotten
                continue
            job = _Job(lane, calls, crew, time.monotonic(), refused=lane.stuck >= _MOST_STUCK)
            lane.under_way += 1
            self._running[job] = None
            self._watch()
            self._offer(lane)  # the next takes what is left
            return job
        return None

    def _done(self, job: _Job, verdicts: list[Verdict], raised: bool) -> bool:
        """Publish a job's verdicts, or line its calls up again; False where it had been given up."""
        spent = time.monotonic() - job.began
        with self._lock:
            if job.given_up:
                job.lane.stuck -= 1
                return False
            del self._running[job]
            job.lane.under_way -= 1
            ready = self._settle(job, [signed(v, job.lane.name, spent / job.owed) for v in verdicts], raised, spent)
            self._offer(job.lane)
        _publish(ready)
        return True

    def _settle(self, job: _Job, verdicts: list[Verdict], raised: bool, spent: float) -> list[tuple[_Call, Verdicts]]:
        """Count what came of a job: the calls that it answers, with their verdicts. What raised waits once more."""
        tally = dict(self._stats.get(job.lane.name, VerifierStats()))
        tally["seconds"] += spent
        left, answered = iter(verdicts), []
        for call in job.calls:
            said = tuple(next(left) for _ in call.branches)
            if raised and not call.again and not call.forgotten:
                call.again = True
                job.lane.again.append(call)
                tally["retries"] += 1
                continue
            if call.together:
                said = tuple(v.model_copy(update={"verifier": job.lane.name}) for v in said)
            for verdict in said:
                tally["calls"] += 1
                tally["errors" if verdict.status == "error" else verdict.status] += 1
            answered.append((call, said))
        self._stats[job.lane.name] = VerifierStats(**tally)
        return answered

    # --- the time limit ----------------------------------------------------------------------------------------

    def _watch(self) -> None:
        """See that somebody looks at the clock. With the lock held."""
        if self.seconds is None:
            return
        if not self._watching:
            self._watching = _started(self._keep_time, awaited=False)
        elif len(self._running) == 1:
            self._clock.notify()

    def _keep_time(self) -> None:
        while (late := self._next_late()) is not None:
            _publish(late)

    def _next_late(self) -> list[tuple[_Call, Verdicts]] | None:
        """Wait for the next job to overrun and give it up; None after a while without any job."""
        limit = self.seconds or 0.0
        with self._lock:
            while True:
                job = next(iter(self._running), None)
                if job is None:
                    if not self._clock.wait(_IDLE) and not self._running:
                        self._watching = False
                        return None
                elif (left := job.began + limit - time.monotonic()) > 0:
                    self._clock.wait(left)
                else:
                    return self._give_up(job)

    def _give_up(self, job: _Job) -> list[tuple[_Call, Verdicts]]:
        """Answer for a verifier that takes too long, and let another thread take the place of its own."""
        del self._running[job]
        job.given_up = True
        job.crew.threads -= 1
        job.lane.under_way -= 1
        job.lane.stuck += 1
        name, limit = job.lane.name, self.seconds or 0.0
        reason = f"verifier {name} did not answer within {limit:g} s; give it more time, or branches that take less"
        verdict = Verdict(status="error", reason=reason, verifier=name, seconds=limit)
        ready = self._settle(job, [verdict] * job.owed, False, limit)
        self._offer(job.lane)
        return ready


@dataclass(eq=False)
class _Chain:
    """A branch on its way through its verifiers, up to the first that rejects."""

    pool: VerifierPool
    verifiers: tuple[Verifier, ...]
    problem: Problem
    branch: Branch
    verdicts: list[Verdict] = field(default_factory=list)
    future: Future[Verdicts] = field(default_factory=Future)
    asked: _Call | None = None  # the last, while there may be a next: it leads back here

    def go(self) -> None:
        at = len(self.verdicts)
        if at == len(self.verifiers) or (self.verdicts and self.verdicts[-1].status == "rejected"):
            self.asked = None
            if self.future.set_running_or_notify_cancel():
                self.future.set_result(tuple(self.verdicts))
            return
        verifier = self.verifiers[at]
        nth = sum(earlier is verifier for earlier in self.verifiers[:at])
        self.asked = self.pool._call(_Call(verifier, self.problem, (self.branch,)), nth, after=self.asked)
        self.asked.future.add_done_callback(self._heard)

    def _heard(self, future: Future[Verdicts]) -> None:
        if future.cancelled():
            self.asked = None
            self.future.cancel()
        else:
            self.verdicts.extend(future.result())
            self.go()


def _publish(answered: list[tuple[_Call, Verdicts]]) -> None:
    for call, verdicts in answered:
        if call.future.set_running_or_notify_cancel():
            call.future.set_result(verdicts)


def _started(target: Callable[..., None], *arguments: object, awaited: bool = True) -> bool:
    """Start a thread, awaited at exit or not; False where the system has none to give, and those that there are must
    do."""
    try:
        if awaited:
            start_thread("led-verify", target, *arguments)
        else:
            threading.Thread(target=target, args=arguments, name="led-verify-clock", daemon=True).start()
    except RuntimeError as error:
        # Ctrl-C while ``start`` waits for the thread makes ``threading`` release a lock twice, and say that instead.
        if isinstance(error.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        return False
    return True


def _digest(text: str) -> bytes:
    """Of a branch's text: a branch without an id is known by it, and one that came out otherwise is another."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
