"""Worker processes that may be killed: a pool of children, each running a module that calls ``serve(handle)``.

This file knows processes, pipes and limits, as the parent sees them; ``serving`` is the other end of the pipe. It does
not know what the workers compute. Both ends exchange one JSON object a line, the worker's first line saying that it is
ready; several requests may be under way, and are answered in order::

    parent → worker   {"number": 7, "seconds": 5.0, "payload": {…}}
    worker → parent   {"number": 7, "reply": {…}, "last": false}

A process, and neither a thread nor a signal handler, because only a process can be stopped in the middle of a C
call, from any thread. And not ``multiprocessing``, whose fresh processes import the user's script a second time.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import os
import select
import signal
import subprocess
import sys
import sysconfig
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

import led_agent
from led_agent.errors import LedError, MachineError, UsageError
from led_agent.threads import ask_at_exit
from led_agent.verifiers.serving import serve

__all__ = ["Outcome", "WorkerDied", "WorkerPool", "WorkerTimeout", "serve"]

_CHUNK = 1 << 16
_TOGETHER = 8  # requests of a batch that one worker is sent at a time: enough to save threads, few enough to spread
_TOGETHER_BYTES = 1 << 18  # a longer message is sent in parts, so that none waits for a megabyte of its neighbours


class WorkerTimeout(LedError):  # noqa: N818 - it says who, as WorkerDied does
    """A call took longer than its wall limit; its worker was killed."""


class WorkerDied(MachineError):  # noqa: N818
    """No worker answered: it ended, wrote garbage or never got ready, twice in a row."""


@dataclass(frozen=True)
class Outcome:
    """What became of one call of a batch.

    Attributes:
        reply: The worker's reply; None where there is none.
        error: Why there is none: ``WorkerTimeout`` or ``WorkerDied``.
        seconds: From when its worker could begin with it to the reply, or to its failure.
    """

    reply: dict[str, Any] | None
    error: WorkerTimeout | WorkerDied | None
    seconds: float


class _Request(NamedTuple):
    number: int  # comes back with the reply, so that no reply is taken for another one's
    line: bytes


class _Broken(Exception):  # noqa: N818
    """This worker is of no more use; the message says why. Never leaves this file."""


class _Worker:
    """One child process. A single thread uses it at a time; only ``kill`` may come from another one."""

    def __init__(self, module: str, max_reply: int) -> None:
        self._max_reply = max_reply
        self._ready = False
        self._received = bytearray()
        self._lock = threading.Lock()
        # -P: a sympy.py in the user's current folder must not replace the real one. -W: a user's PYTHONWARNINGS=error
        # is not meant for what the worker imports.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-W", "ignore", "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            env=_environment(),
            start_new_session=True,  # Ctrl-C in the terminal is for the parent alone, and killpg reaches all of it
        )
        self._stdin, self._stdout = _given(self._process.stdin), _given(self._process.stdout)
        os.set_blocking(self._stdin.fileno(), False)
        os.set_blocking(self._stdout.fileno(), False)

    @property
    def pid(self) -> int:
        return self._process.pid

    def await_ready(self, seconds: float) -> None:
        """Return once the worker has said that it is ready."""
        if self._ready:
            return
        try:
            self._read(time.monotonic() + seconds)
        except TimeoutError:
            raise _Broken(f"it was not ready within {seconds:g} s") from None
        self._ready = True

    def ask(self, requests: Sequence[_Request], seconds: float) -> Iterator[tuple[dict[str, Any], bool]]:
        """The replies to requests sent together, as they come, and whether the worker takes another request.

        Raises:
            TimeoutError: no reply within the limit, which runs anew from each reply.
            _Broken: the worker ended or wrote something else.
        """
        self._write(b"".join(request.line for request in requests), seconds)
        for request in requests:
            answer = self._read(time.monotonic() + seconds)
            reply = answer.get("reply")
            if not isinstance(reply, dict) or answer.get("number") != request.number:
                raise _Broken(f"it wrote {str(answer)[:80]!r} instead of a reply to number {request.number}")
            yield reply, not answer.get("last", False)

    def kill(self) -> None:
        """End the process, and whatever it started, and reap it. Idempotent."""
        with self._lock:
            # An unreaped child's id can't have gone to another process; a reaped one's can.
            if self._process.poll() is not None:
                return
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=30)

    def discard(self) -> None:
        """Kill, and close the pipes; for the thread that uses it, as a closed pipe's number is soon another file's."""
        self.kill()
        self._stdin.close()
        self._stdout.close()

    def forget(self) -> None:
        """In a forked child: close the copies of the pipes. The process itself belongs to the parent."""
        self._process.returncode = 0  # as far as this process is concerned; now nothing here kills or awaits it
        self._stdin.close()
        self._stdout.close()

    def _write(self, message: bytes, seconds: float) -> None:
        """Send it all; what comes meanwhile is kept, as a worker that can't get rid of its replies takes no more."""
        left = memoryview(message)
        deadline = time.monotonic() + seconds
        poll = select.poll()
        poll.register(self._stdin.fileno(), select.POLLOUT)
        poll.register(self._stdout.fileno(), select.POLLIN)
        while left:
            ready = dict(_polled(poll, deadline))
            if ready.get(self._stdout.fileno(), 0) and self._receive():
                deadline = time.monotonic() + seconds
            if not ready.get(self._stdin.fileno(), 0):
                continue
            try:
                left = left[os.write(self._stdin.fileno(), left) :]
            except BlockingIOError:
                continue
            except OSError as error:
                raise _Broken(f"it takes no request ({error.strerror})") from error

    def _read(self, deadline: float) -> dict[str, Any]:
        """The next line."""
        poll = select.poll()
        poll.register(self._stdout.fileno(), select.POLLIN)
        whole = b"\n" in self._received
        while not whole:
            _polled(poll, deadline)
            whole = self._receive()
        line, _, self._received = self._received.partition(b"\n")
        try:
            answer = json.loads(line)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise _Broken(f"it wrote {bytes(line[:80])!r} instead of a reply")
        return answer

    def _receive(self) -> bool:
        """Take what there is on the pipe; whether a line was ended by it."""
        try:
            chunk = os.read(self._stdout.fileno(), _CHUNK)
        except BlockingIOError:
            return False
        if not chunk:
            raise _Broken("it ended without a reply")
        self._received += chunk
        if len(self._received) > self._max_reply and b"\n" not in self._received[: self._max_reply]:
            raise _Broken(f"its reply is longer than {self._max_reply} bytes")
        return b"\n" in chunk


class WorkerPool:
    """Up to ``size`` workers, started when they are first needed; many threads may call at once.

    Workers end with ``close()``, with the pool, at the interpreter's exit, and when this process is killed.

    Attributes:
        size: How many calls are computed at a time.
    """

    def __init__(
        self, module: str, size: int | None = None, *, start_seconds: float = 60.0, max_reply: int = 1 << 20
    ) -> None:
        """A pool of ``python -m module`` processes.

        Args:
            module: What each worker runs; it calls ``serve``.
            size: How many workers at most; by default one a processor, but no more than 4.
            start_seconds: How long a worker may take to get ready, imports included.
            max_reply: The longest reply, in bytes.

        Raises:
            UsageError: a size below 1.
        """
        if size is not None and size < 1:
            raise UsageError(f"workers is {size}; a pool needs at least 1, and None is one a processor, 4 at most")
        self.size = size if size is not None else min(max(os.cpu_count() or 1, 1), 4)
        self._module = module
        self._start_seconds = start_seconds
        self._max_reply = max_reply
        self._idle: list[_Worker]
        self._workers: set[_Worker]
        self._threads: ThreadPoolExecutor | None
        self._begin()
        _pools.add(self)
        ask_at_exit(self.close)

    def call(self, payload: dict[str, Any], seconds: float) -> dict[str, Any]:
        """The worker's reply to ``payload``, computed within ``seconds`` of wall-clock time.

        The limit covers the computation: neither the wait for a free worker nor a worker's start counts.

        Raises:
            WorkerTimeout: the limit was reached. Its worker is gone, and the call isn't tried again.
            WorkerDied: two workers failed one after the other, or the pool was closed meanwhile.
            UsageError: a limit that is no positive number, or a payload that is no JSON.
        """
        (outcome,) = self._some([_request(payload, seconds)], seconds, self._epoch)
        if outcome.reply is None:
            assert outcome.error is not None  # as an outcome has one or the other
            raise outcome.error
        return outcome.reply

    def submit(self, payload: dict[str, Any], seconds: float) -> Future[Outcome]:
        """The outcome of a call, from a thread of the pool's own.

        What is cancelled before a worker begins with it costs nothing; what is cancelled later is computed to its end,
        or its limit, and thrown away.

        Raises:
            UsageError: a limit that is no positive number, or a payload that is no JSON.
        """
        request = _request(payload, seconds)
        epoch, threads = self._own_threads()
        return threads.submit(lambda: self._some([request], seconds, epoch)[0])

    def batch(self, payloads: Sequence[dict[str, Any]], seconds: float) -> list[Outcome]:
        """The outcomes of many calls, in order, spread over the workers; several go to a worker in one message.

        Each has the whole limit to itself, and one that reaches it, or whose worker dies, costs the others nothing
        but the start of a new worker, to which they are sent again.

        Raises:
            UsageError: a limit that is no positive number, or a payload that is no JSON.
        """
        requests = [_request(payload, seconds) for payload in payloads]
        parts = _parts(requests, min(_TOGETHER, -(-len(requests) // self.size)))
        if len(parts) < 2:
            return [outcome for part in parts for outcome in self._some(part, seconds, self._epoch)]
        epoch, threads = self._own_threads()
        under_way = [threads.submit(self._some, part, seconds, epoch) for part in parts]
        try:
            return [outcome for one in under_way for outcome in one.result()]
        finally:  # Ctrl-C, for one: what no worker has begun with is dropped
            for one in under_way:
                one.cancel()

    def pids(self) -> tuple[int, ...]:
        """The process ids of the workers that there are now, idle and busy."""
        with self._lock:
            return tuple(sorted(worker.pid for worker in self._workers))

    def close(self) -> None:
        """End all workers. Calls under way fail with ``WorkerDied``; a later call starts new workers. Idempotent."""
        with self._lock:
            self._epoch += 1
            idle, self._idle = self._idle, []
            busy = self._workers.difference(idle)
            self._workers.difference_update(idle)
            threads, self._threads = self._threads, None
        if threads is not None:
            threads.shutdown(wait=False)  # what waits there still gets its say, which is that the pool was closed
        for worker in idle:
            worker.discard()
        for worker in busy:
            worker.kill()  # the thread that waits for it sees the end of its pipe, and discards it

    def _begin(self) -> None:
        self._epoch = 0
        self._lock = threading.Lock()
        self._gate = threading.BoundedSemaphore(self.size)
        self._idle = []
        self._workers = set()
        self._threads = None
        self._end = weakref.finalize(self, _discard_all, self._workers)

    def _after_fork(self) -> None:
        self._end.detach()
        for worker in self._workers:
            worker.forget()
        self._begin()

    def _some(self, requests: Sequence[_Request], seconds: float, epoch: int) -> list[Outcome]:
        """What becomes of requests that go to one worker together; after a failure, the rest goes to another one."""
        outcomes: list[Outcome] = []
        faults: list[str] = []  # of the request that stands next
        with self._gate:
            while len(outcomes) < len(requests):
                begun = len(outcomes)
                fault, started = self._ask(requests, outcomes, seconds, epoch, fresh=bool(faults))
                faults = [] if len(outcomes) > begun else faults
                if fault is not None:
                    faults.append(fault)
                if len(faults) == 2:
                    died = self._died(faults, epoch)
                    # Where no worker starts, none will for the others.
                    outcomes += [Outcome(None, died, 0.0)] * (1 if started else len(requests) - len(outcomes))
                    faults = []
        return outcomes

    def _ask(
        self, requests: Sequence[_Request], outcomes: list[Outcome], seconds: float, epoch: int, *, fresh: bool
    ) -> tuple[str | None, bool]:
        """Have one worker answer the requests that have no outcome yet, as far as it comes.

        Returns what is wrong with the worker, where it failed, and whether it ever got ready.
        """
        started = False
        try:
            worker = self._take(epoch, fresh=fresh)
        except WorkerDied as error:
            outcomes += [Outcome(None, error, 0.0)] * (len(requests) - len(outcomes))
            return None, started
        began = time.perf_counter()
        try:
            worker.await_ready(self._start_seconds)
            started, began = True, time.perf_counter()
            usable = True
            for reply, usable in worker.ask(requests[len(outcomes) :], seconds):
                now = time.perf_counter()
                outcomes.append(Outcome(reply, None, now - began))
                began = now
                if not usable:
                    break
        except _Broken as fault:
            self._drop(worker)
            return str(fault), started
        except TimeoutError:
            self._drop(worker)
            late = WorkerTimeout(f"no reply within {seconds:g} s; the worker was killed")
            outcomes.append(Outcome(None, late, time.perf_counter() - began))
        except BaseException:
            # Ctrl-C, for one: a worker in the middle of a request would answer the next one with its reply.
            self._drop(worker)
            raise
        else:
            self._give(worker, epoch, usable)
        return None, started

    def _died(self, faults: Sequence[str], epoch: int) -> WorkerDied:
        try:
            self._refuse_if_closed(epoch)
        except WorkerDied as closed:
            return closed
        return WorkerDied(
            f"two workers failed ({'; then '.join(faults)}); see what `{sys.executable} -m {self._module}` says"
        )

    def _own_threads(self) -> tuple[int, ThreadPoolExecutor]:
        """The epoch, and as many threads as there may be workers; those end with ``close()``, or with the pool."""
        with self._lock:
            if self._threads is None:
                self._threads = ThreadPoolExecutor(self.size, thread_name_prefix="led-agent-workers")
            return self._epoch, self._threads

    def _take(self, epoch: int, *, fresh: bool) -> _Worker:
        with self._lock:
            self._refuse_if_closed(epoch)
            if self._idle and not fresh:
                return self._idle.pop()
            try:
                worker = _Worker(self._module, self._max_reply)
            except OSError as error:
                raise WorkerDied(f"no worker could be started with {sys.executable!r}: {error}") from error
            self._workers.add(worker)
            return worker

    def _give(self, worker: _Worker, epoch: int, usable: bool) -> None:
        with self._lock:
            if usable and epoch == self._epoch:
                self._idle.append(worker)
                return
        self._drop(worker)

    def _drop(self, worker: _Worker) -> None:
        worker.discard()
        with self._lock:
            self._workers.discard(worker)

    def _refuse_if_closed(self, epoch: int) -> None:
        if epoch != self._epoch:
            raise WorkerDied("the pool was closed while this call waited; call again, and new workers start")


_numbers = itertools.count()


def _request(payload: dict[str, Any], seconds: float) -> _Request:
    if not 0 < seconds < math.inf:
        raise UsageError(f"seconds is {seconds}; the time limit is a positive number, e.g. 5.0")
    number = next(_numbers)
    try:
        line = json.dumps({"number": number, "seconds": seconds, "payload": payload})
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(f"the payload of a worker must be plain JSON: {error}") from error
    return _Request(number, line.encode() + b"\n")


def _given(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None  # as Popen was told PIPE
    return pipe


def _polled(poll: select.poll, deadline: float) -> list[tuple[int, int]]:
    """What is ready, once something is. What lies there already counts, however late this thread comes to look."""
    ready = poll.poll(max(0.0, deadline - time.monotonic()) * 1000)
    if not ready:
        raise TimeoutError
    return ready


def _parts(requests: Sequence[_Request], most: int) -> list[list[_Request]]:
    """Messages of at most ``most`` requests each, and of a limited length unless a single one is longer."""
    parts: list[list[_Request]] = []
    length = 0
    for request in requests:
        if not parts or len(parts[-1]) == most or length + len(request.line) > _TOGETHER_BYTES:
            parts.append([])
            length = 0
        parts[-1].append(request)
        length += len(request.line)
    return parts


def _environment() -> dict[str, str]:
    """This process's environment, with this copy of led_agent importable, installed or not."""
    root = str(Path(led_agent.__file__).absolute().parent.parent)
    if root in (sysconfig.get_path("purelib"), sysconfig.get_path("platlib")):
        return dict(os.environ)  # it is found anyway, and PYTHONPATH would put site-packages before the stdlib
    given = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": os.pathsep.join([root, given] if given else [root])}


def _discard_all(workers: set[_Worker]) -> None:
    for worker in list(workers):
        worker.discard()


_pools: weakref.WeakSet[WorkerPool] = weakref.WeakSet()


def _after_fork() -> None:
    for pool in list(_pools):
        pool._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
