"""What crosses from one process to another: errors as data, and the user's own code as bytes.

This file knows which classes of errors there are and which modules another node can't import. It does not know what is
computed on either side.
"""

from __future__ import annotations

import contextlib
import importlib
import threading
from collections.abc import Iterator
from typing import Any

from ray import cloudpickle

from led_agent.errors import LedError, PluginError, raised
from led_agent.naming import own_modules

__all__ = ["Packed", "pack", "pickled", "unpack", "unpickled"]

Packed = tuple[str, str]  # where the error's class stands, as module:name, and the message

_cloudpickle: Any = cloudpickle  # which has no types
_pickling = threading.Lock()  # which modules go by value is known to the whole process


def pack(error: BaseException, who: str) -> Packed:
    """An error as data.

    Args:
        error: A ``LedError`` keeps the nearest class that led_agent defines, and its message; anything else, which the
            other side may not be able to import or to unpickle, becomes a ``PluginError``.
        who: The plug-in that raised it, for the message: "verifier mine".
    """
    if not isinstance(error, LedError):
        return _place(PluginError), raised(who, error)
    kept = next(kind for kind in type(error).__mro__ if _is_ours(kind))
    try:
        return _place(kept), str(error)
    except Exception:  # noqa: BLE001 - a user's subclass whose message can't be shown
        return _place(kept), raised(who, error)


def unpack(packed: Packed) -> LedError:
    """The error that was packed, to be raised here. A class that isn't known here becomes a ``LedError``."""
    place, message = packed
    module, _, name = place.partition(":")
    try:
        kind = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError):
        kind = LedError
    found: LedError = kind(message)
    return found


def pickled(what: object) -> bytes:
    """As bytes, with what other nodes can't import inside: lambdas, the user's script, and files named on the command
    line.

    Raises:
        Exception: whatever pickling it raises.
    """
    with _pickling, _by_value():
        found: bytes = _cloudpickle.dumps(what)
        return found


def unpickled(held: bytes) -> Any:
    """What ``pickled`` made bytes of.

    Raises:
        Exception: whatever unpickling it raises; ImportError where it needs what this node doesn't have.
    """
    return _cloudpickle.loads(held)


@contextlib.contextmanager
def _by_value() -> Iterator[None]:
    registered = []
    try:
        for module in own_modules():
            if module.__name__ not in _cloudpickle.list_registry_pickle_by_value():
                _cloudpickle.register_pickle_by_value(module)
                registered.append(module)
        yield
    finally:
        for module in registered:
            _cloudpickle.unregister_pickle_by_value(module)


def _is_ours(kind: type) -> bool:
    return issubclass(kind, LedError) and kind.__module__.partition(".")[0] == "led_agent"


def _place(kind: type) -> str:
    return f"{kind.__module__}:{kind.__name__}"
