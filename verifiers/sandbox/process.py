"""One zygote from outside: start it, ask it to run something, end it.

This file knows processes and sockets. What a run means is its caller's to say; that nothing a run wrote is trusted
shows in ``Outcome``: bytes, and the zygote's own account of how it ended.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import struct
import subprocess
import tempfile
import threading
import time
import weakref
from dataclasses import dataclass
from typing import Any, Literal

from led_agent.errors import MachineError
from led_agent.verifiers.sandbox.tiers import Role, Tier, command

__all__ = ["Broken", "Limits", "Outcome", "Zygote"]

Why = Literal["ended", "crashed", "timeout", "output", "threads", "files", "cancelled"]
_START = 60.0  # seconds for Python to start and import, on a machine that is busy
_GRACE = 20.0  # seconds after a run's limit until the zygote itself counts as stuck; half of them are for its start
_CHUNK = 1 << 18


class Broken(MachineError):  # noqa: N818 - it says what, as WorkerDied does
    """A zygote didn't start, ended or got stuck; it is of no more use."""


@dataclass(frozen=True)
class Limits:
    """What one process may use.

    Attributes:
        seconds: Wall-clock time from when the walls stand; as much of processor time, rounded up, and one more.
        memory_mb: Address space, in MiB.
        file_mb: Size of one file, in MiB; the scratch folder holds 16 MiB in all.
        open_files: Open files.
        output_bytes: Bytes of standard output, and of results.
        threads: Threads that run at a time; looked at every 20 ms.
        files: Files and folders in the scratch folder at a time; looked at every 20 ms.
    """

    seconds: float = 4.0
    memory_mb: int = 512
    file_mb: int = 16
    open_files: int = 64
    output_bytes: int = 1 << 20
    threads: int = 64
    files: int = 2000


@dataclass(frozen=True)
class Outcome:
    """How a run ended, and what it wrote.

    Attributes:
        why: "ended", "crashed" (by ``signal``), or what it was ended for.
        signal: The signal that ended it, or 0.
        result: What it wrote to its result pipe: anything.
        output: What it wrote to standard output: anything.
        seconds: Wall-clock time.
        peak_kb: Its largest resident memory, in KiB.
        entered: When its walls stood and its clock began, in ``time.monotonic()``'s seconds; 0 where they never did.
    """

    why: Why
    signal: int
    result: bytes
    output: bytes
    seconds: float
    peak_kb: int
    entered: float = 0.0


class Zygote:
    """A sandboxed process that runs programs, one at a time. One thread uses it at a time.

    Raises:
        Broken: it did not start; the message holds what it said.
    """

    def __init__(self, tier: Tier, role: Role = "program") -> None:
        self.tier, self.role, self.runs = tier, role, 0
        self.worn = False  # whether it is to be replaced after the run
        self._process: subprocess.Popen[bytes] | None = None
        self._pidfd: int | None = None
        self._lock = threading.Lock()
        self._control, theirs = socket.socketpair()
        _all.add(self)
        with theirs, tempfile.TemporaryFile() as said:
            try:
                self._start(theirs, said.fileno())
                self._await_ready()
            except (Broken, OSError) as error:
                self.kill()
                said.seek(0)
                told = " ".join(said.read(2000).decode(errors="replace").split())
                raise Broken(f"no sandbox of tier {tier}: {error}{': ' + told if told else ''}") from None
            except BaseException:
                self.kill()
                raise

    def _await_ready(self) -> None:
        frame, _ = self._read(time.monotonic() + _START)
        if frame != {"ready": True}:
            raise Broken(f"it said {str(frame)[:80]!r} instead of being ready")

    def _start(self, theirs: socket.socket, said: int) -> None:
        made = command(self.tier, self.role)
        told, tell = os.pipe()
        try:
            fds = {"{control}": str(theirs.fileno()), "{info}": str(tell)}
            words = [_filled(word, fds) for word in made.words]
            self._process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=said,
                env={"PYTHONHASHSEED": "0"},  # nothing of ours; and the same order of sets in every run
                cwd="/",
                pass_fds=(theirs.fileno(), tell) if made.wrapped else (theirs.fileno(),),
                start_new_session=True,
            )
            os.close(tell)
            tell = -1
            theirs.close()
            # To kill bubblewrap would leave its child alive; and a number may be another's by then, a pidfd not.
            child = _told_number(told) if made.wrapped else self._process.pid
            if hasattr(os, "pidfd_open"):
                self._pidfd = os.pidfd_open(child)
        finally:
            os.close(told)
            if tell >= 0:
                os.close(tell)

    @property
    def pid(self) -> int:
        """Of the zygote, or of the bubblewrap around it; 0 once it is ended."""
        return self._process.pid if self._process is not None else 0

    def submit(self, job: dict[str, Any], limits: Limits, link: socket.socket | None = None) -> None:
        """Begin a run.

        Raises:
            Broken: the zygote is gone.
        """
        # The zygote reads the limits only. What is run is read by the process that runs it, so that nothing of it is
        # left in memory that later programs inherit.
        body = json.dumps(job).encode()
        asked = json.dumps({"kind": job["kind"], **vars(limits), "body": len(body)}).encode()
        self.runs += 1
        try:
            head = struct.pack(">I", len(asked))
            if link is None:
                self._control.sendall(head + asked + body)
            else:
                socket.send_fds(self._control, [head], [link.fileno()])
                self._control.sendall(asked + body)
        except OSError as error:
            raise Broken(f"the sandbox takes no request: {error.strerror}") from None

    def outcome(self, limits: Limits) -> Outcome:
        """The end of the run that was begun.

        Raises:
            Broken: the zygote ended, or is stuck.
        """
        frame, payload = self._read(time.monotonic() + limits.seconds + _GRACE)
        cut = frame["sizes"][0]
        self.worn |= not frame["clean"]
        told = {name: frame[name] for name in ("why", "signal", "seconds", "peak_kb", "entered")}
        return Outcome(result=payload[:cut], output=payload[cut:], **told)

    def cancel(self) -> None:
        """End the run that is on, if one is; its outcome is still to be taken."""
        body = b'{"kind": "cancel"}'
        with contextlib.suppress(OSError):
            self._control.sendall(struct.pack(">I", len(body)) + body)

    def stop(self) -> None:
        """From any thread: end the zygote and all that is in it. What it was started with is still to be given back."""
        with self._lock, contextlib.suppress(OSError):
            self._control.shutdown(socket.SHUT_RDWR)
            if self._pidfd is not None:
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def kill(self) -> None:
        """End the zygote and all that is in it, reap it and close what leads to it. Idempotent."""
        with self._lock:
            process, self._process = self._process, None
            pidfd, self._pidfd = self._pidfd, None
            self._control.close()  # by itself this ends the zygote, and a run with it
            if pidfd is not None:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                os.close(pidfd)
        if process is not None:
            if pidfd is None:
                process.kill()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(timeout=10)

    def forget(self) -> None:
        """In a forked copy of this process: close what is the parent's."""
        self._control.close()
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None
        if self._process is not None:
            self._process.returncode = 0
            self._process = None

    def _read(self, deadline: float) -> tuple[dict[str, Any], bytes]:
        size = struct.unpack(">I", self._exactly(4, deadline))[0]
        try:
            frame = json.loads(self._exactly(size, deadline))
        except ValueError:
            raise Broken("the sandbox wrote no reply but something else") from None
        return frame, self._exactly(sum(frame.get("sizes", ())), deadline)

    def _exactly(self, size: int, deadline: float) -> bytes:
        buffer = bytearray()
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        while len(buffer) < size:
            if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                raise Broken("the sandbox is stuck: no reply in time")
            try:
                chunk = self._control.recv(min(_CHUNK, size - len(buffer)))
            except OSError as error:
                raise Broken(f"the sandbox is gone: {error.strerror}") from None
            if not chunk:
                raise Broken("the sandbox ended without a reply")
            buffer += chunk
        return bytes(buffer)


def _filled(word: str, fds: dict[str, str]) -> str:
    for name, number in fds.items():
        word = word.replace(name, number)
    return word


def _told_number(told: int) -> int:
    """The zygote's process number, from what bubblewrap writes before it starts it."""
    deadline, text = time.monotonic() + _START, b""
    poll = select.poll()
    poll.register(told, select.POLLIN)
    while not text.rstrip().endswith(b"}"):
        if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            raise Broken("bubblewrap did not say which process it started")
        chunk = os.read(told, 4096)
        if not chunk:
            raise Broken("bubblewrap started nothing")
        text += chunk
    return int(json.loads(text)["child-pid"])


_all: weakref.WeakSet[Zygote] = weakref.WeakSet()


def _after_fork() -> None:
    for zygote in list(_all):
        zygote.forget()
    _all.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
