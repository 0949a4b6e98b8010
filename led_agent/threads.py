"""Threads that come to their end before the interpreter does.

CPython up to 3.13 ends a daemon thread there and then, once it comes back to the interpreter while that is being taken
down. Where compiled code that doesn't expect it stands on the thread's stack (pydantic's, tokenizers' and torch's do),
the whole process is aborted: "FATAL: exception not rethrown", signal 6, in place of its exit code. So what may be at
work when a program ends, as after Ctrl-C, is asked to stop, and awaited for a little while. These are daemon threads
all the same: a verifier that never comes back must not keep a process alive.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
import time
import weakref
from collections.abc import Callable

__all__ = ["ask_at_exit", "start_thread"]

_GRACE = 2.0  # seconds for all of them together

_asked: set[weakref.WeakMethod[Callable[[], object]]] = set()


class _Awaited(threading.Thread):
    """One that is awaited at exit; in a forked child, where it doesn't run, ``threading`` has forgotten it."""


def start_thread(name: str, target: Callable[..., object], *arguments: object) -> threading.Thread:
    """Start a daemon thread that is awaited for a few seconds at the interpreter's exit.

    Raises:
        RuntimeError: the system has no thread to give.
    """
    thread = _Awaited(target=target, args=arguments, name=name, daemon=True)
    thread.start()
    return thread


def ask_at_exit(method: Callable[[], object]) -> None:
    """Call this bound method at the interpreter's exit, before threads are awaited, if its object is still there. It
    asks threads to end and must not wait for them."""
    _asked.add(weakref.WeakMethod(method, _asked.discard))


def _end_all() -> None:
    deadline = time.monotonic() + _GRACE
    with contextlib.suppress(KeyboardInterrupt):  # one more Ctrl-C: at once, then
        for reference in list(_asked):
            method = reference()
            if method is not None:
                method()
        for thread in threading.enumerate():
            if isinstance(thread, _Awaited):
                thread.join(max(0.0, deadline - time.monotonic()))
    _asked.clear()  # before the interpreter takes down what weak references call at their end


atexit.register(_end_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_asked.clear)  # they are the parent's
