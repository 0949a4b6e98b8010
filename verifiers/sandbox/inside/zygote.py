"""The process that forks a process for each run, watches it, and tells what came of it.

Started once, its modules imported, it costs a fork a run and not a start of Python. It reads nothing of what a run
writes: bytes go to the trusted parent as they are, and are judged there. It holds no expected value and no secret; the
tests have a zygote of their own. And it remembers nothing: each program inherits a copy of this process's memory, freed
parts included, so neither the sources of a run nor what it returned may pass through it and be left there. The run's
own process reads the sources; results lie in a buffer that is wiped.

Both directions of the control socket carry frames: four bytes of length, then JSON. Behind a request stands its body,
which the run's process reads (it writes its first byte when it has), behind a reply the bytes of the result pipe and of
standard output. A request may carry one file descriptor, the link to another process. This file ends itself when the
parent is gone, also in the middle of a run.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import math
import os
import resource
import select
import shutil
import signal
import socket
import struct
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

from . import candidate
from .landlock import Ruleset
from .seccomp import Filter

__all__ = ["main"]

Job = dict[str, Any]
_TICK = 0.02  # seconds between two looks at a run's threads and the parent
_ENTER = 10.0  # seconds for a fork to stand behind its walls, before which nothing of the program can run
_CHUNK = 1 << 16
_LONGEST_FRAME = 64 << 20
_PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 4, 38
_CAPABILITY_VERSION_3 = 0x20080522


def main() -> None:
    """Serve the control socket until its other end is closed."""
    settings = json.loads(sys.argv[1])
    os.environ.clear()
    _import_for_all(tests=settings["role"] == "tests")
    walls = _Walls(settings)
    control = socket.socket(fileno=settings["control"])
    gc.collect()
    gc.freeze()  # so that a child's first collection doesn't copy all of this
    _send(control, {"ready": True})
    parent = os.getppid()
    result, output = _Buffer(), _Buffer()
    while True:
        asked, link = _receive(control)
        if asked is None:
            return
        if asked["kind"] != "cancel":
            reply = _Run(asked, link, walls, control, parent, result, output).outcome()
            _send(control, {**reply, "sizes": [result.size, output.size]}, result.used, output.used)
            result.wipe()
            output.wipe()


def _import_for_all(*, tests: bool) -> None:
    """What programs commonly import, once instead of in each run."""
    import bisect  # noqa: F401
    import cmath  # noqa: F401
    import collections  # noqa: F401
    import copy  # noqa: F401
    import dataclasses  # noqa: F401
    import datetime  # noqa: F401
    import functools  # noqa: F401
    import hashlib  # noqa: F401
    import heapq  # noqa: F401
    import inspect  # noqa: F401
    import itertools  # noqa: F401
    import random  # noqa: F401
    import re  # noqa: F401
    import statistics  # noqa: F401
    import string  # noqa: F401
    import tempfile  # noqa: F401
    import threading  # noqa: F401
    import typing  # noqa: F401

    if tests:
        import unittest  # noqa: F401

        from . import examiner  # noqa: F401


# --- the wire ------------------------------------------------------------------------------------------------------


def _receive(control: socket.socket) -> tuple[Job | None, int | None]:
    """The next request without its body, and the descriptor that came with it; None where the other end is closed."""
    head, descriptors = b"", []
    while len(head) < 4:
        part, found, _, _ = socket.recv_fds(control, 4 - len(head), 1)
        descriptors += found
        if not part:
            return None, None
        head += part
    body = _exactly(control, struct.unpack(">I", head)[0])
    return (None, None) if body is None else (json.loads(body), descriptors[0] if descriptors else None)


def _exactly(control: socket.socket, size: int) -> bytes | None:
    body = bytearray()
    while len(body) < size:
        part = control.recv(min(_CHUNK, size - len(body)))
        if not part:
            return None
        body += part
    return bytes(body)


def _send(control: socket.socket, header: Job, *payload: memoryview) -> None:
    body = json.dumps(header).encode()
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the next _receive sees the parent gone
        control.sendall(struct.pack(">I", len(body)) + body)
        for part in payload:
            if part:
                control.sendall(part)


class _Buffer:
    """What a run wrote: one piece of memory, used again for each run and wiped between them."""

    def __init__(self) -> None:
        self.size = 0
        self._bytes = bytearray((1 << 20) + _CHUNK)

    @property
    def used(self) -> memoryview:
        return memoryview(self._bytes)[: self.size]

    def read(self, fd: int) -> int:
        """Append what is there to be read; 0 at the end of the pipe."""
        if len(self._bytes) - self.size < _CHUNK:
            larger = bytearray(2 * len(self._bytes))
            larger[: self.size] = self.used
            self._bytes[:] = bytes(len(self._bytes))
            self._bytes = larger
        count = os.readv(fd, [memoryview(self._bytes)[self.size : self.size + _CHUNK]])
        self.size += count
        return count

    def cut(self, size: int) -> None:
        if self.size > size:
            self._bytes[size : self.size] = bytes(self.size - size)
            self.size = size

    def wipe(self) -> None:
        self.cut(0)


# --- the walls -----------------------------------------------------------------------------------------------------


class _Walls:
    """What a child puts between itself and the machine, just before it runs the program."""

    def __init__(self, settings: Job) -> None:
        self.scratch: str | None = settings["scratch"]
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._ruleset = (
            Ruleset(settings["readable"], settings["listable"], self.scratch) if settings["landlock"] else None
        )
        self._filter = Filter() if settings["seccomp"] else None

    def enter(self, job: Job) -> None:
        os.umask(0o077)
        if self.scratch is not None:
            os.chdir(self.scratch)
        else:
            _keep_temporary_files_in_memory()
        self._limit(job)
        if self._ruleset is None and self._filter is None:
            return
        self._libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
        self._libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        # Root without its capabilities, which would let it by permissions.
        header = struct.pack("Ii", _CAPABILITY_VERSION_3, 0)
        self._libc.capset(header, bytes(24))
        if self._ruleset is not None:
            self._ruleset.enter()
        if self._filter is not None:
            self._filter.enter()

    def _limit(self, job: Job) -> None:
        megabyte = 1 << 20
        seconds = math.ceil(job["seconds"]) + 1
        limits = {
            "RLIMIT_CORE": 0,
            "RLIMIT_CPU": seconds,
            "RLIMIT_AS": job["memory_mb"] * megabyte,
            "RLIMIT_FSIZE": job["file_mb"] * megabyte,
            "RLIMIT_NOFILE": job["open_files"],
            "RLIMIT_MEMLOCK": 0,
            "RLIMIT_MSGQUEUE": 0,
        }
        for name, value in limits.items():
            number = getattr(resource, name, None)
            if number is not None:
                with contextlib.suppress(ValueError, OSError):  # macOS limits no address space
                    resource.setrlimit(number, (value, value))


def _keep_temporary_files_in_memory() -> None:
    """Where no folder may be written, an unnamed temporary file needs none. Named ones fail when they are opened."""
    import tempfile

    def in_memory(mode: str = "w+b", *args: Any, **kwargs: Any) -> Any:
        return tempfile.SpooledTemporaryFile(0, mode, *args, **kwargs)  # 0: it is never written out

    tempfile.TemporaryFile = in_memory
    tempfile.tempdir = "/tmp"  # the search for a folder that takes files would fail


# --- a run ---------------------------------------------------------------------------------------------------------


class _Run:
    """One forked process, from its start to its end."""

    def __init__(
        self,
        asked: Job,
        link: int | None,
        walls: _Walls,
        control: socket.socket,
        parent: int,
        result: _Buffer,
        output: _Buffer,
    ) -> None:
        self._asked, self._link, self._walls, self._control, self._parent = asked, link, walls, control, parent
        self._result, self._output = result, output
        self._why: str | None = None
        self._entered = 0.0  # when its walls were seen to stand
        self._begun = time.monotonic()
        self._deadline = self._begun + _ENTER

    def outcome(self) -> Job:
        """How it ended. What it wrote to its result pipe and to standard output is in the buffers."""
        result, result_end = os.pipe()
        output, output_end = os.pipe() if self._asked["kind"] == "program" else (-1, -1)
        pid = os.fork()
        if pid == 0:
            self._become(result_end, output_end)
        for fd in (result_end, output_end, self._link):
            if fd is not None and fd >= 0:
                os.close(fd)
        pipes = {result: self._result} | ({output: self._output} if output >= 0 else {})
        try:
            status, usage = self._watch(pid, pipes)
        finally:
            for fd in pipes:
                os.close(fd)
        signalled = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        return {
            "why": self._why or ("crashed" if signalled else "ended"),
            "signal": signalled,
            "seconds": time.monotonic() - self._begun,
            "entered": self._entered,
            "peak_kb": usage.ru_maxrss,
            "clean": self._cleaned(),
        }

    # In the child.

    def _become(self, result: int, output: int) -> NoReturn:
        """Be the program. Whatever happens, this process ends here, without its exit handlers.

        The first byte of the result is ours: a plus, or a minus and what was wrong with the walls.
        """
        try:
            with contextlib.suppress(OSError):
                os.setsid()
            body = _exactly(self._control, self._asked["body"])
            if body is None:
                os._exit(0)  # the parent is gone
            job = json.loads(body)
            del body
            self._arrange(result, output, job.get("stdin"))
            try:
                self._walls.enter(self._asked)
            except BaseException as error:  # noqa: BLE001 - then no program runs
                os.write(candidate.RESULT, f"-{type(error).__name__}: {error}".encode())
                os._exit(0)
            os.closerange(candidate.LINK + (self._link is not None), 4096)
            os.write(candidate.RESULT, b"+")
            self._work(job)
        finally:
            os._exit(0)

    def _work(self, job: Job) -> None:
        if job["kind"] == "examine":
            from . import examiner

            examiner.main(job)
        else:
            candidate.main(job)

    def _arrange(self, result: int, output: int, stdin: str | None) -> None:
        """Descriptors 0 to 4, and no others."""
        null = os.open("/dev/null", os.O_RDWR) if Path("/dev/null").exists() else os.dup(1)
        given = null if stdin is None else _file_of(stdin.encode("utf-8", "surrogateescape"))
        high = [os.dup(fd) for fd in (given, output if output >= 0 else null, null, result)]
        link = os.dup(self._link) if self._link is not None else None
        for place, fd in enumerate(_above(high, 16)):
            os.dup2(fd, place)
        if link is not None:
            os.dup2(_above([link], 16)[0], candidate.LINK)

    # In the zygote.

    def _watch(self, pid: int, pipes: dict[int, _Buffer]) -> tuple[int, Any]:
        """Read its pipes until it has ended, or until it is ended for a reason."""
        poll = select.poll()
        for fd in pipes:
            poll.register(fd, select.POLLIN)
        watched = _pidfd(pid)
        if watched is not None:
            poll.register(watched, select.POLLIN)
        try:
            while True:
                wait = min(_TICK, max(0.0, self._deadline - time.monotonic()))
                for fd, _ in poll.poll(wait * 1000 if watched is not None else 2):
                    self._take(fd, pipes, poll)
                if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None or self._over(pid):
                    _end_all(pid)
                    _, status, usage = os.wait4(pid, 0)
                    self._drain(pipes)
                    return status, usage
        finally:
            if watched is not None:
                os.close(watched)
            _reap_strays()

    def _take(self, fd: int, pipes: dict[int, _Buffer], poll: select.poll) -> None:
        if fd in pipes:
            unread = pipes[fd] is self._result and not self._result.size
            if not pipes[fd].read(fd):
                poll.unregister(fd)
            elif unread:
                self._start_clock()
                # Its process has read the request's body, and what comes now is for us.
                poll.register(self._control.fileno(), select.POLLIN)
        elif fd == self._control.fileno():
            job, _ = _receive(self._control)
            self._why = self._why or "cancelled"
            if job is None:
                poll.unregister(fd)

    def _start_clock(self) -> None:
        """The first byte has come: from now on the program can run, and no longer than its limit. Where this process
        was itself held up, the program may have run unseen: what is past the time for its start counts as its own."""
        self._entered = time.monotonic()
        self._deadline = min(self._entered, self._begun + _ENTER) + self._asked["seconds"]

    def _over(self, pid: int) -> bool:
        """Whether the run is to be ended now; ``_why`` says why."""
        if self._why is None and max(self._result.size, self._output.size) > self._asked["output_bytes"]:
            self._why = "output"
        if self._why is None and time.monotonic() >= self._deadline:
            self._why = "timeout"
        if self._why is None and _threads(pid) > self._asked["threads"]:
            self._why = "threads"
        # Files without content cost the kernel memory that no quota of bytes counts.
        if self._why is None and self._files() > self._asked["files"]:
            self._why = "files"
        if self._why is None and os.getppid() != self._parent:
            self._why = "cancelled"
        return self._why is not None

    def _drain(self, pipes: dict[int, _Buffer]) -> None:
        """What it had written before it ended; never the end of a pipe that somebody may hold open."""
        most = self._asked["output_bytes"]
        for fd, buffer in pipes.items():
            os.set_blocking(fd, False)
            with contextlib.suppress(BlockingIOError):
                while buffer.size <= most and buffer.read(fd):
                    pass
            if buffer.size > most:
                self._why = self._why or "output"
            buffer.cut(most)

    def _files(self) -> int:
        """Files and folders in the scratch folder, at any depth, itself included: it is a file system of its own."""
        if self._walls.scratch is None:
            return 0
        found = os.statvfs(self._walls.scratch)
        return found.f_files - found.f_ffree

    def _cleaned(self) -> bool:
        """Empty the scratch folder; False where that can't be done soon, and this zygote is to be replaced."""
        if self._walls.scratch is None:
            return True
        if self._files() > 200:  # many, or folders without end; an open file whose name is gone counts until here
            return False
        left = os.listdir(self._walls.scratch)  # noqa: PTH208 - names, and no objects, 300 times a second
        for name in left:
            path = os.path.join(self._walls.scratch, name)  # noqa: PTH118
            try:
                if os.path.isdir(path) and not os.path.islink(path):  # noqa: PTH112, PTH114
                    shutil.rmtree(path)
                else:
                    os.unlink(path)  # noqa: PTH108
            except (OSError, RecursionError):  # a folder without permissions, or too deep
                return False
        return True


def _above(descriptors: list[int], floor: int) -> list[int]:
    """Copies of them with numbers of ``floor`` and more, out of the way of where they go."""
    import fcntl

    return [fcntl.fcntl(fd, fcntl.F_DUPFD, floor) for fd in descriptors]


def _file_of(content: bytes) -> int:
    """A file without a name that holds ``content`` and, on Linux, never anything else."""
    import fcntl
    import tempfile

    if not hasattr(os, "memfd_create"):
        with tempfile.TemporaryFile() as file:
            file.write(content)
            file.flush()
            file.seek(0)
            return os.dup(file.fileno())
    fd = os.memfd_create("stdin", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    left = memoryview(content)
    while left:
        left = left[os.write(fd, left) :]
    os.lseek(fd, 0, os.SEEK_SET)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL)
    return fd


def _pidfd(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return None  # not Linux, or an old one: it is looked at every 2 ms


def _end_all(pid: int) -> None:
    """End a run that is not reaped yet, so that its number can't be another's, and whatever it left behind.

    Where the walls stand it has left nothing: that is for the day they don't.
    """
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    if os.getpid() == 1:  # in a process namespace of our own
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(-1, signal.SIGKILL)


def _reap_strays() -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _threads(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123
            return int(file.read().rpartition(b")")[2].split()[17])
    except (OSError, IndexError, ValueError):
        return 0
