"""Verifiers on the nodes of a cluster: stand-ins here, processes there, and what happens when one of them dies.

This file knows places, processes and calls. It does not know what verifiers compute (``verifier_actor`` asks them) or
when they are asked: a stand-in is a verifier like any other, and ``VerifierPool`` calls it from its threads.

- Each place has one process, an actor that holds all verifiers but those whose ``replicas`` are used up. A call goes to
  the process with the fewest calls under way, and waits as long as the process answers pings: a slow verifier is no
  error.
- A process that died is replaced, and its calls are made again elsewhere, which is safe: verifiers change nothing, and
  the first answer counts. A call whose process died three times is an error. Its last try is made in a process without
  other calls, so that no call is blamed for what another one does.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import ray
from ray.exceptions import (
    ActorAlreadyExistsError,
    GetTimeoutError,
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    RayError,
    RayTaskError,
    WorkerCrashedError,
)
from ray.util import metrics
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

import led_agent
from led_agent.cluster.connect import NAMESPACE
from led_agent.cluster.crossing import pickled, unpack
from led_agent.cluster.verifier_actor import Asked, How, Info, Said, VerifierActor
from led_agent.errors import LedError, MachineError, PluginError, UsageError, raised
from led_agent.judging import batch_limit, replica_limit, verifier_name
from led_agent.protocols import Verifier
from led_agent.types import Branch, Problem, Verdict
from led_agent.verifier_pool import VerifierStats

__all__ = ["ActorState", "Place", "RemoteStats", "RemoteVerifiers", "VerifierActor", "check_version"]

_DEATHS = 3  # of a call's process, after which the call is given up
_STARTS = 8  # of a process that fail in a row, after which its place is given up
_START = 120.0  # seconds that a process may take to start: a node may have much to import
_FIRST_PAUSES = (0.5, 2.0)  # seconds before a place whose first process died at its start is tried again
_CLOSE = 2.0  # seconds that verifiers may take to close
_LONGEST_BACKOFF = 5.0  # seconds between the death of a process and the start of the next
_DIED = (RayActorError, OutOfMemoryError, WorkerCrashedError, NodeDiedError, ObjectLostError)


@dataclass(frozen=True)
class Place:
    """Where a process verifies, and what it takes of the node there.

    Attributes:
        node_id: Ray's id of the node; while that node is gone, the process runs on another. None is any node.
        num_cpus: Processors that Ray reserves. None by default: verifiers take what decoders leave.
        num_gpus: GPUs that Ray reserves, for verifiers that hold a model.
    """

    node_id: str | None = None
    num_cpus: float = 0
    num_gpus: float = 0


class RemoteStats(VerifierStats):
    """What a verifier was asked and said in all processes, those that died included, as it was heard here.

    Attributes:
        calls, accepted, rejected, abstained: Verdicts, as in ``VerifierStats``.
        errors: Verdicts of status "error", and calls that raised, each time.
        retries: Calls that were made again as their process had died.
        seconds: Wall-clock time inside the verifier, without the way there and back.
    """


class ActorState(NamedTuple):
    """A process: its name in the cluster, the id of its node, its pid there, and whether it takes calls."""

    name: str
    node: str
    pid: int
    alive: bool


class _Died(Exception):  # noqa: N818
    """The process is gone; the message says how that showed. Never leaves this file."""


@dataclass(eq=False)
class _Slot:
    """A place, the verifiers that are to be there, by number, and the process that holds them at the moment."""

    place: Place
    due: set[int]
    actor: _Actor | None = None
    failures: int = 0  # deaths since a call was answered


@dataclass(eq=False)
class _Actor:
    """A process that started, and the calls that it has."""

    slot: _Slot
    name: str
    handle: Any
    info: Info
    loaded: set[int]
    seen: float  # when it last answered
    calls: int = 0
    reserved: bool = False  # for a call that is to be alone
    alive: bool = True
    removed: bool = False  # its place was: what dies with it is not to blame
    pinging: threading.Lock = field(default_factory=threading.Lock)


class RemoteVerifiers:
    """Verifiers in processes on the nodes of a cluster, and their stand-ins here. Any thread may call it.

    Ray must be connected. The processes end with ``close()``, or with the program that made them.

    Args:
        verifiers: The verifiers; each must be picklable. Their settings go with them, what they have opened doesn't.
        places: One process is started at each.
        name: Of this search in the cluster: processes are called "led-verifier-NAME-0" and so on.
        threads: Calls that a process works on at a time.
        unanswered_s: Seconds after which a ping without an answer counts as the death of a process.

    Attributes:
        proxies: The stand-ins, in the order of the verifiers, each with the name and the optional methods of its own.

    Raises:
        UsageError: no place, or a verifier that can't be sent to another process.
        MachineError: a process can't be started, or its node has another version of led_agent.
        PluginError: a verifier can't be unpickled on a node.
    """

    def __init__(
        self,
        verifiers: Sequence[Verifier],
        places: Sequence[Place],
        *,
        name: str = "verifiers",
        threads: int = 16,
        unanswered_s: float = 10.0,
    ) -> None:
        if not places:
            raise UsageError("verifiers in a cluster need at least one place; give places=[Place()]")
        self._verifiers = tuple(verifiers)
        self._names = [verifier_name(verifier) for verifier in verifiers]
        self._limits = [replica_limit(verifier) for verifier in verifiers]
        self._name, self._threads, self._unanswered = name, threads, unanswered_s
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._slots: list[_Slot] = []
        self._starting: dict[str, Any] = {}  # handles of processes that don't take calls yet, by name
        self._making = threading.Lock()  # held while one is made, so that none is after the end
        self._closed = threading.Event()
        self._trouble = "all places were removed"  # why there may be no process, once there is none
        self._stats: dict[str, dict[str, float]] = {}
        self._deaths = metrics.Counter(
            "led_agent_verifier_deaths",
            description="Processes of verifiers that died, by the search's name and node.",
            tag_keys=("name", "node"),
        )
        _check_picklable(self._verifiers)
        self.proxies: tuple[Verifier, ...] = tuple(_StandIn(self, at, v) for at, v in enumerate(verifiers))
        # GPUs first: what can't be everywhere goes where the GPUs are.
        self._begin(sorted(places, key=lambda place: not place.num_gpus))

    # --- what others ask ---------------------------------------------------------------------------------------

    def add(self, place: Place) -> None:
        """Start a process at one more place, and wait for it.

        Raises:
            MachineError, PluginError: as when it was made; the places that there were go on.
        """
        self._begin([place])

    def remove(self, node_id: str) -> None:
        """Give up the places on a node: its calls are made elsewhere, and what only it held is loaded elsewhere.
        Processes of other places that run there are replaced."""
        with self._changed:
            gone = [slot for slot in self._slots if slot.place.node_id == node_id]
            self._slots = [slot for slot in self._slots if slot not in gone]
            there = [slot.actor for slot in self._slots if slot.actor and slot.actor.info["node"] == node_id]
            ended = [slot.actor for slot in gone if slot.actor is not None]
            for actor in ended + there:
                actor.removed = True
            for actor in ended:
                actor.alive = False
            moved = self._rehouse()
            self._changed.notify_all()
        for actor in ended:
            _kill(actor.handle)
        for actor in there:
            self._bury(actor, f"the node {node_id} was removed")
        for actor in moved:
            self._load_missing(actor)

    @property
    def stats(self) -> dict[str, RemoteStats]:
        """What each verifier was asked and said, by its name."""
        with self._changed:
            return {name: RemoteStats.model_validate(tally) for name, tally in self._stats.items()}

    @property
    def actors(self) -> tuple[ActorState, ...]:
        """The processes; those that died are gone from it once they are replaced."""
        with self._changed:
            found = [slot.actor for slot in self._slots if slot.actor is not None]
            return tuple(ActorState(a.name, a.info["node"], a.info["pid"], a.alive) for a in found)

    @property
    def infos(self) -> tuple[Info, ...]:
        """What each process that takes calls says of itself and its node: version, address, tier of the sandbox."""
        with self._changed:
            return tuple(s.actor.info for s in self._slots if s.actor is not None and s.actor.alive)

    def copies(self, at: int) -> int:
        """How many processes hold a verifier at the moment."""
        with self._changed:
            return sum(s.actor is not None and s.actor.alive and at in s.actor.loaded for s in self._slots)

    def close(self) -> None:
        """Close the verifiers and end the processes, after 2 s at most. Idempotent; calls under way are errors."""
        with self._making, self._changed:
            self._closed.set()
            actors = [slot.actor for slot in self._slots if slot.actor is not None]
            starting, self._starting = self._starting, {}
            self._slots = []
            for actor in actors:
                actor.alive = False
            self._changed.notify_all()
        for handle in starting.values():
            _kill(handle)
        if not actors or not ray.is_initialized():
            return
        with contextlib.suppress(RayError):  # what is dead can't be closed, and needn't be
            closing = [actor.handle.close.remote() for actor in actors]
            ray.wait(closing, num_returns=len(closing), timeout=_CLOSE)
        for actor in actors:
            _kill(actor.handle)

    # --- asking ------------------------------------------------------------------------------------------------

    def ask(self, at: int, how: How, asked: Asked) -> Said:
        """A verifier's reply, from whichever process gives it first. Blocks until it is there.

        Raises:
            LedError: what the verifier raised: its own class where that is one of led_agent's, else ``PluginError``.
            PluginError: its process died three times.
            MachineError: no process is left, or all were closed.
        """
        name = self._names[at]
        try:
            parcel = pickled(asked)
        except Exception as error:
            told = raised("pickling it", error)
            raise PluginError(
                f"verifier {name} can't be asked on another node, where the problem must go: {told}"
            ) from error
        deaths = 0
        while True:
            alone = deaths == _DEATHS - 1
            actor = self._taken(at, alone=alone)
            try:
                said = self._reply(actor, at, how, parcel)
            except _Died as died:
                self._bury(actor, str(died))
                deaths += not actor.removed
                self._count(name, retries=1)
                if deaths == _DEATHS:
                    told = "this problem" if how == "check" else "this branch" if how != "batch" else "these branches"
                    raise PluginError(
                        f"verifier {name}: its process died {_DEATHS} times on {told}, the last time while it did "
                        f"nothing else ({died})"
                    ) from None
            else:
                actor.slot.failures = 0
                return self._heard(name, said, len(asked[1]))
            finally:
                self._release(actor, alone=alone)

    def _taken(self, at: int, *, alone: bool) -> _Actor:
        """The least loaded process that holds a verifier, with one call more; ``alone`` waits until it has no other."""
        with self._changed:
            while True:
                self._refuse_hopeless(at)
                living = [s.actor for s in self._slots if s.actor is not None and s.actor.alive]
                fit = [actor for actor in living if at in actor.loaded and not actor.reserved]
                if not fit:
                    self._changed.wait()
                    continue
                actor = min(fit, key=lambda found: found.calls)
                if alone and not self._emptied(actor):
                    continue
                actor.calls += 1
                return actor

    def _emptied(self, actor: _Actor) -> bool:
        """Reserve a process and wait until it has no calls; False where it died. With the lock held."""
        actor.reserved = True
        try:
            while actor.calls and actor.alive:
                self._changed.wait()
        except BaseException:  # Ctrl-C
            actor.reserved = False
            raise
        return actor.alive

    def _refuse_hopeless(self, at: int) -> None:
        """With the lock held.

        Raises:
            MachineError: no process will ever take this call.
        """
        if self._closed.is_set():
            raise MachineError(f"verifier {self._names[at]}: the cluster's verifiers were closed")
        if not any(at in slot.due for slot in self._slots):
            told = f"verifier {self._names[at]}: no process is left to run it ({self._trouble})"
            raise MachineError(f"{told}; give the cluster a node that can")

    def _reply(self, actor: _Actor, at: int, how: How, parcel: bytes) -> Said:
        """Wait for a reply, as long as the process is well.

        Raises:
            _Died: it isn't.
        """
        look = min(2.0, self._unanswered)
        try:
            coming = actor.handle.call.remote(at, how, parcel)
            while True:
                try:
                    said: Said = ray.get(coming, timeout=look)
                except GetTimeoutError:
                    self._ping(actor, look)
                else:
                    actor.seen = time.monotonic()
                    return said
        except _DIED as error:
            raise _Died(_cause(error)) from None
        except RayTaskError as error:  # not the verifier's doing: that is told in the reply
            raise PluginError(raised(f"verifier {self._names[at]}", error.cause or error)) from None
        except RayError as error:
            raise MachineError(f"verifier {self._names[at]}: the cluster failed: {_cause(error)}") from None

    def _ping(self, actor: _Actor, look: float) -> None:
        """See whether the process is well, unless somebody is seeing to it or just did."""
        if time.monotonic() - actor.seen < look or not actor.pinging.acquire(blocking=False):
            return
        try:
            ray.get(actor.handle.ping.remote(), timeout=self._unanswered)
            actor.seen = time.monotonic()
        except GetTimeoutError:
            raise _Died(f"it did not answer within {self._unanswered:g} s whether it is well") from None
        finally:
            actor.pinging.release()

    def _release(self, actor: _Actor, *, alone: bool) -> None:
        with self._changed:
            actor.calls -= 1
            if alone:
                actor.reserved = False
            self._changed.notify_all()

    def _heard(self, name: str, said: Said, owed: int) -> Said:
        """The reply, counted.

        Raises:
            LedError: what the verifier raised.
        """
        found: dict[str, float] = {"seconds": said.seconds}
        statuses = [verdict.status for verdict in said.verdicts] if said.fault is None else ["error"] * owed
        for status in statuses:
            kind = "errors" if status == "error" else status
            found[kind] = found.get(kind, 0) + 1
        self._count(name, calls=len(statuses), **found)
        if said.fault is not None:
            raise unpack(said.fault)
        return said

    def _count(self, name: str, **more: float) -> None:
        with self._changed:
            tally = self._stats.setdefault(name, {})
            for kind, count in more.items():
                tally[kind] = tally.get(kind, 0) + count

    # --- processes ---------------------------------------------------------------------------------------------

    def _begin(self, places: Sequence[Place]) -> None:
        """Start a process at each of these places, all at a time.

        Raises:
            MachineError, PluginError: one of them can't be started; then none of them is.
        """
        with self._changed:
            self._refuse_closed()
            fresh = []
            for place in places:
                slot = _Slot(place, set())
                self._slots.append(slot)
                slot.due = self._wanted()
                fresh.append(slot)
        started: list[Any] = []
        try:
            for slot in fresh:
                started.append((slot, *self._spawn(slot)))  # noqa: PERF401 - those that did start must be known
            for slot, *process in started:
                self._settle(self._ready_at_last(slot, *process))
        except (LedError, _Died) as error:
            with self._changed:
                self._slots = [slot for slot in self._slots if slot not in fresh]
                ended = [slot.actor for slot in fresh if slot.actor is not None]
                for actor in ended:
                    actor.alive = False
                self._changed.notify_all()
            for _, name, *_ in started:
                self._abandon(name)
            for actor in ended:  # also one that was started where the first one died
                _kill(actor.handle)
            if isinstance(error, _Died):
                raise MachineError(f"no process for verifiers can be started: {error}") from None
            raise

    def _refuse_closed(self) -> None:
        if self._closed.is_set():
            raise MachineError("the cluster's verifiers were closed; make new ones")

    def _abandon(self, name: str) -> None:
        """End a process that doesn't take calls yet. After the end of all there is none left, and maybe no Ray."""
        with self._changed:
            handle = self._starting.pop(name, None)
        if handle is not None:
            _kill(handle)

    def _ready_at_last(self, slot: _Slot, name: str, handle: Any, due: set[int], coming: Any) -> _Actor:
        """The first process of a place; another one where it dies as it starts. Its node may have been about to go.

        Raises:
            LedError, _Died: as ``_ready``, the last of a few times.
        """
        try:
            return self._ready(slot, name, handle, due, coming)
        except _Died:
            self._abandon(name)
        for pause in _FIRST_PAUSES:
            self._closed.wait(pause)
            with contextlib.suppress(_Died):
                return self._started(slot)
        return self._started(slot)

    def _wanted(self) -> set[int]:
        """Those verifiers of which there may be one copy more. With the lock held."""
        return {
            at
            for at, limit in enumerate(self._limits)
            if limit is None or sum(at in slot.due for slot in self._slots) < limit
        }

    def _rehouse(self) -> list[_Actor]:
        """Give verifiers that were on removed places alone to others: which are to load more. With the lock held."""
        moved: list[_Actor] = []
        for at in self._wanted():
            without = [slot for slot in self._slots if at not in slot.due]
            if self._limits[at] is None or not without:
                continue
            slot = min(without, key=lambda found: not found.place.num_gpus)
            slot.due.add(at)
            if slot.actor is not None and slot.actor.alive:
                moved.append(slot.actor)
        return moved

    def _spawn(self, slot: _Slot) -> tuple[str, Any, set[int], Any]:
        """Begin to start a process: its name, its handle, what it is to load and its word on that.

        Raises:
            MachineError: all were closed meanwhile.
            _Died: Ray can't make it.
        """
        place = slot.place
        due = set(slot.due)
        parcel = self._parcel(due)
        options: dict[str, Any] = {
            "num_cpus": place.num_cpus,
            "num_gpus": place.num_gpus,
            "max_concurrency": self._threads,
            "namespace": NAMESPACE,
            "scheduling_strategy": "SPREAD"
            if place.node_id is None
            else NodeAffinitySchedulingStrategy(place.node_id, soft=True),
        }
        remote: Any = ray.remote  # whose types know no concurrency groups
        made = remote(concurrency_groups={"watch": 2}, max_restarts=0, max_task_retries=0)(VerifierActor)
        try:
            while True:
                name = f"led-verifier-{self._name}-{next(self._numbers)}"
                # Another search's may be called the same.
                with contextlib.suppress(ActorAlreadyExistsError), self._making:
                    self._refuse_closed()
                    handle = self._starting[name] = made.options(name=name, **options).remote()
                    return name, handle, due, handle.load.remote(parcel)
        except RayError as error:
            raise _Died(_cause(error)) from None

    def _parcel(self, due: Iterable[int]) -> bytes:
        """Verifiers as bytes: all in one, so that what they share they share there."""
        return pickled({at: self._verifiers[at] for at in due})

    def _ready(self, slot: _Slot, name: str, handle: Any, due: set[int], coming: Any) -> _Actor:
        """The process, once it has its verifiers.

        Raises:
            _Died: it didn't start.
            MachineError: its node has another version of led_agent.
            PluginError: a verifier can't be unpickled there.
        """
        info = self._loaded(coming)
        return _Actor(slot, name, handle, info, due, seen=time.monotonic())

    def _loaded(self, coming: Any) -> Info:
        self._refuse_closed()
        try:
            info: Info = ray.get(coming, timeout=_START)
        except GetTimeoutError:
            raise _Died(f"it was not ready within {_START:g} s; see whether its node has the resources") from None
        except RayError as error:
            raise _Died(_cause(error)) from None
        check_version(info, led_agent.__version__)
        if info["fault"] is not None:
            told = f"verifiers can't be used on the node {info['node_ip']}: {unpack(info['fault'])}"
            raise PluginError(f"{told}; install there what they import, or name them by path/to/file.py:name")
        return info

    def _settle(self, actor: _Actor) -> None:
        """Let a process that has started take calls."""
        with self._changed:
            wanted = actor.slot in self._slots
            if wanted:
                del self._starting[actor.name]
                actor.slot.actor = actor
                self._changed.notify_all()
        if wanted:
            self._load_missing(actor)
        else:  # closed, or removed, meanwhile
            self._abandon(actor.name)

    def _load_missing(self, actor: _Actor) -> None:
        """Load what a place was given since its process was started."""
        missing = actor.slot.due - actor.loaded
        if not missing:
            return
        try:
            self._loaded(actor.handle.load.remote(self._parcel(missing)))
        except (LedError, _Died) as error:  # the next process loads all of it, or says why it can't
            self._bury(actor, str(error))
            return
        with self._changed:
            actor.loaded |= missing
            self._changed.notify_all()

    def _bury(self, actor: _Actor, cause: str) -> None:
        """Replace a process that died; once, however many calls notice."""
        with self._changed:
            if not actor.alive:
                return
            actor.alive = False
            actor.slot.failures += 1
            self._changed.notify_all()
        self._deaths.inc(1, tags={"name": self._name, "node": actor.info["node"]})
        _kill(actor.handle)  # it may only be out of reach, and must not live on beside the next
        target, told = self._replace, (actor.slot, cause)
        threading.Thread(target=target, args=told, name="led-verifier-start", daemon=True).start()

    def _replace(self, slot: _Slot, cause: str) -> None:
        """Start a process where one died; at once the first time, then after a while that grows. Where none will
        start, its place is given up."""
        for attempt in range(_STARTS):
            failed = max(0, slot.failures - 1) + attempt
            pause = min(_LONGEST_BACKOFF, 0.25 * 2 ** min(failed, 8)) if failed else 0.0
            if self._closed.wait(pause) or slot not in self._slots:
                return
            try:
                self._settle(self._started(slot))
            except (LedError, _Died) as error:
                cause = str(error)
            else:
                return
        with self._changed:
            self._slots = [other for other in self._slots if other is not slot]
            self._trouble = cause
            moved = self._rehouse()
            self._changed.notify_all()
        for actor in moved:
            self._load_missing(actor)

    def _started(self, slot: _Slot) -> _Actor:
        """A process for a place, with its verifiers.

        Raises:
            LedError, _Died: as ``_ready``; nothing is left behind.
        """
        name, handle, due, coming = self._spawn(slot)
        try:
            return self._ready(slot, name, handle, due, coming)
        except BaseException:
            self._abandon(name)
            raise


class _StandIn:
    """A verifier that is asked in another process. It has the optional methods of that verifier, and no others, as
    a search goes by which there are."""

    def __init__(self, home: RemoteVerifiers, at: int, verifier: Verifier) -> None:
        self.name = verifier_name(verifier)
        self._home, self._at = home, at
        most = batch_limit(verifier)
        if most is not None:
            self.batch_size = most
        for method, stands_in in (
            ("check", self._check),
            ("batch", self._batch),
            ("together", self._together),
            ("step", self._step),
        ):
            if callable(getattr(verifier, method, None)):
                setattr(self, method, stands_in)

    def __repr__(self) -> str:
        return f"<{self.name} in a cluster>"

    @property
    def batches_at_once(self) -> int:
        """Batches that may be under way: one in each process. In each there is one at a time, as without a cluster."""
        return self._home.copies(self._at)

    def __call__(self, problem: Problem, branch: Branch, /) -> Verdict:
        return self._home.ask(self._at, "one", ((problem,), (branch,))).verdicts[0]

    def _check(self, problem: Problem) -> str | None:
        return self._home.ask(self._at, "check", ((problem,), ())).refusal

    def _batch(self, asked: Sequence[tuple[Problem, Branch]]) -> list[Verdict]:
        problems, branches = tuple(problem for problem, _ in asked), tuple(branch for _, branch in asked)
        return list(self._home.ask(self._at, "batch", (problems, branches)).verdicts)

    def _together(self, problem: Problem, branches: Sequence[Branch]) -> list[Verdict]:
        return list(self._home.ask(self._at, "together", ((problem,), tuple(branches))).verdicts)

    def _step(self, problem: Problem, branch: Branch) -> Verdict:
        return self._home.ask(self._at, "step", ((problem,), (branch,))).verdicts[0]


def check_version(info: Mapping[str, Any], expected: str) -> None:
    """Refuse a node that has another led_agent.

    Args:
        info: What a process there says of itself, an ``Info``.
        expected: The version here.

    Raises:
        MachineError: naming the node and both versions.
    """
    if info["version"] != expected:
        raise MachineError(
            f"the node {info['node_ip']} has led_agent {info['version']}, and {expected} is here; install the same "
            "version on all nodes"
        )


def _check_picklable(verifiers: Sequence[Verifier]) -> None:
    """Refuse what can't be sent.

    Raises:
        UsageError: naming the first verifier that can't be pickled.
    """
    for verifier in verifiers:
        try:
            pickled(verifier)
        except Exception as error:
            raise UsageError(
                f"verifier {verifier_name(verifier)} can't be sent to other processes "
                f"({raised('pickling it', error)}); let it make locks, files, connections and models at its first "
                "call, or give it a __reduce__ without them"
            ) from error


def _kill(handle: Any) -> None:
    if not ray.is_initialized():
        return  # all of its processes have ended with it, and this would start another one
    with contextlib.suppress(RayError):  # it is dead already
        ray.kill(handle, no_restart=True)


def _cause(error: BaseException) -> str:
    """What Ray says of a death, in a line: its messages go on for pages."""
    lines = str(error).strip().splitlines() or [""]
    dead = next((line for line in lines if line.startswith("The actor is dead because")), None)
    told = dead or (lines[-1] if "creation task" in lines[0] else lines[0])
    return f"{type(error).__name__}: {told.partition(' Some common causes')[0].strip()[:300]}"
