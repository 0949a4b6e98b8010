"""The loop that runs inside a worker process: requests in, replies out, within limits on memory and processor time.

The other end of the pipe, and what travels on it, is in ``workers``.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import select
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["serve"]


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
        _send(pipe, {"number": request["number"], "reply": reply, "last": _address_space() > memory // 2})


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
