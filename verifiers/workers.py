"""Worker processes that may be killed: a pool of children, and the loop that runs inside each of them.

This file knows processes, pipes and limits. It does not know what the workers compute: a worker is any module that
calls ``serve(handle)``. Both ends exchange one JSON object a line, the worker's first line saying that it is ready::

    parent → worker   {"seconds": 5.0, "payload": {…}}
    worker → parent   {"reply": {…}, "last": false}

A process, and neither a thread nor a signal handler, because only a process can be stopped in the middle of a C
call, from any thread. And not ``multiprocessing``, whose fresh processes import the user's script a second time.
"""

from __future__ import annotations

import contextlib
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
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import led_agent
from led_agent.errors import LedError, MachineError, UsageError

__all__ = ["WorkerDied", "WorkerPool", "WorkerTimeout", "serve"]

_CHUNK = 1 << 16


class WorkerTimeout(LedError):  # noqa: N818 - it says who, as WorkerDied does
    """A call took longer than its wall limit; its worker was killed."""


class WorkerDied(MachineError):  # noqa: N818
    """No worker answered: it ended, wrote garbage or never got ready, twice in a row."""


class _Broken(Exception):  # noqa: N818
    """This worker is of no more use; the message says why. Never leaves this file."""


class _Worker:
    """One child process. A single thread uses it at a time; only ``kill`` may come from another one."""

    def __init__(self, module: str, max_reply: int) -> None:
        self._max_reply = max_reply
        self._ready = False
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

    def ask(self, line: bytes, seconds: float) -> tuple[dict[str, Any], bool]:
        """The reply to a request, and whether the worker takes another one.

        Raises:
            TimeoutError: no reply within the limit.
            _Broken: the worker ended or wrote something else.
        """
        deadline = time.monotonic() + seconds
        self._write(line, deadline)
        answer = self._read(deadline)
        reply = answer.get("reply")
        if not isinstance(reply, dict):
            raise _Broken(f"it wrote {str(answer)[:80]!r} instead of a reply")
        return reply, not answer.get("last", False)

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

    def _write(self, line: bytes, deadline: float) -> None:
        left = memoryview(line)
        while left:
            _await(self._stdin.fileno(), select.POLLOUT, deadline)
            try:
                left = left[os.write(self._stdin.fileno(), left) :]
            except BlockingIOError:
                continue
            except OSError as error:
                raise _Broken(f"it takes no request ({error.strerror})") from error

    def _read(self, deadline: float) -> dict[str, Any]:
        buffer = bytearray()
        while not buffer.endswith(b"\n"):
            _await(self._stdout.fileno(), select.POLLIN, deadline)
            try:
                chunk = os.read(self._stdout.fileno(), _CHUNK)
            except BlockingIOError:
                continue
            if not chunk:
                raise _Broken("it ended without a reply")
            buffer += chunk
            if len(buffer) > self._max_reply:
                raise _Broken(f"its reply is longer than {self._max_reply} bytes")
        try:
            answer = json.loads(buffer)
        except ValueError:
            raise _Broken(f"it wrote {bytes(buffer[:80])!r} instead of a reply") from None
        if not isinstance(answer, dict):
            raise _Broken(f"it wrote {bytes(buffer[:80])!r} instead of a reply")
        return answer


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
        self._idle: list[_Worker] = []
        self._workers: set[_Worker] = set()
        self._begin()
        _pools.add(self)

    def call(self, payload: dict[str, Any], seconds: float) -> dict[str, Any]:
        """The worker's reply to ``payload``, computed within ``seconds`` of wall-clock time.

        The limit covers the computation: neither the wait for a free worker nor a worker's start counts.

        Raises:
            WorkerTimeout: the limit was reached. Its worker is gone, and the call isn't tried again.
            WorkerDied: two workers failed one after the other, or the pool was closed meanwhile.
            UsageError: a limit that is no positive number, or a payload that is no JSON.
        """
        line = _request(payload, seconds)
        epoch = self._epoch
        faults: list[str] = []
        with self._gate:
            while len(faults) < 2:
                worker = self._take(epoch, fresh=bool(faults))
                try:
                    worker.await_ready(self._start_seconds)
                    reply, usable = worker.ask(line, seconds)
                except _Broken as fault:
                    self._drop(worker)
                    faults.append(str(fault))
                except TimeoutError:
                    self._drop(worker)
                    raise WorkerTimeout(f"no reply within {seconds:g} s; the worker was killed") from None
                except BaseException:
                    # Ctrl-C, for one: a worker in the middle of a request would answer the next one with its reply.
                    self._drop(worker)
                    raise
                else:
                    self._give(worker, epoch, usable)
                    return reply
        self._refuse_if_closed(epoch)
        raise WorkerDied(
            f"two workers failed ({'; then '.join(faults)}); see what `{sys.executable} -m {self._module}` says"
        )

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
        self._end = weakref.finalize(self, _discard_all, self._workers)

    def _after_fork(self) -> None:
        self._end.detach()
        for worker in self._workers:
            worker.forget()
        self._begin()

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


def serve(handle: Callable[[dict[str, Any]], dict[str, Any]], *, memory: int = 2 << 30) -> None:
    """The worker's side: say that it is ready, then answer requests until the parent is gone.

    Call it once everything slow is imported. What ``handle`` raises ends the worker.

    Args:
        handle: From payload to reply, both plain JSON.
        memory: Bytes of address space that the process may have; it is replaced once it holds half of that.
    """
    # Only this function writes to the pipe: a library that prints must not end up in a reply.
    pipe = os.dup(1)
    os.dup2(2, 1)
    _limit("RLIMIT_CORE", 0)
    _limit("RLIMIT_AS", memory)
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    _send(pipe, {"ready": True})
    for line in sys.stdin.buffer:
        request = json.loads(line)
        # That thread stands still during a long C call; then the limit on processor time is what ends an orphan.
        _limit("RLIMIT_CPU", math.ceil(time.process_time() + request["seconds"]) + 1)
        reply = handle(request["payload"])
        _send(pipe, {"reply": reply, "last": _address_space() > memory // 2})


def _end_with_parent(parent: int) -> None:
    """End the process when the parent closes its end of the pipe, or dies and leaves a copy of it in a fork.

    Not PR_SET_PDEATHSIG, which fires when the *thread* that started the worker ends.
    """
    hang_up = select.poll()
    hang_up.register(0, 0)
    while os.getppid() == parent and not hang_up.poll(5000):
        pass
    os._exit(0)


def _limit(name: str, value: int) -> None:
    import resource  # POSIX only, and only the child needs it

    number = getattr(resource, name)
    _, hard = resource.getrlimit(number)
    soft = value if hard == resource.RLIM_INFINITY else min(value, hard)
    with contextlib.suppress(ValueError, OSError):  # macOS has no limit on the address space
        resource.setrlimit(number, (soft, hard))


def _address_space() -> int:
    """Bytes mapped now; 0 where the system doesn't say. (The peak won't do: exec hands the parent's on.)"""
    try:
        return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def _send(pipe: int, message: dict[str, Any]) -> None:
    left = memoryview(json.dumps(message).encode() + b"\n")
    while left:
        left = left[os.write(pipe, left) :]


def _request(payload: dict[str, Any], seconds: float) -> bytes:
    if not 0 < seconds < math.inf:
        raise UsageError(f"seconds is {seconds}; the time limit is a positive number, e.g. 5.0")
    try:
        return json.dumps({"seconds": seconds, "payload": payload}).encode() + b"\n"
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(f"the payload of a worker must be plain JSON: {error}") from error


def _given(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None  # as Popen was told PIPE
    return pipe


def _await(fd: int, event: int, deadline: float) -> None:
    """Wait until ``fd`` is ready. What lies there already counts, however late this thread comes to look."""
    poll = select.poll()
    poll.register(fd, event)
    if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
        raise TimeoutError


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
