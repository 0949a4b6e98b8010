"""The error model: what can go wrong, who is to blame, and which exit code says so.

====================  ===============================  =========
class                 blames                           exit code
====================  ===============================  =========
``UsageError``        the caller's input               2
``ModelError``        a model: missing, unsupported    3
``MachineError``      the machine: disk, memory, tool  3
``PluginError``       a user's strategy or verifier    none: data on the tree
====================  ===============================  =========

What goes wrong inside one branch (non-finite logits, a verifier that raises, a dead worker) is never raised to
the caller: it is recorded on that branch's node, and the search goes on. Every exception carries one message and
nothing else, so each survives pickling on its way between processes. Messages say what was found, what is
allowed and what to do.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError

__all__ = ["LedError", "MachineError", "ModelError", "PluginError", "UsageError", "boundary", "explain", "raised"]


class LedError(Exception):
    """Base of every error that led_agent raises on purpose."""

    exit_code = 3


class UsageError(LedError, ValueError):
    """The input is at fault: a value, a file, a name."""

    exit_code = 2


class ModelError(LedError):
    """A model is missing, unsupported, or can't do what was asked of it."""


class MachineError(LedError):
    """The machine is at fault: a folder that can't be written, memory that isn't there."""


class PluginError(LedError):
    """A strategy or verifier raised or returned nonsense; the message names it."""


@contextmanager
def boundary(plugin: str) -> Iterator[None]:
    """Attribute whatever user code raises inside the block to ``plugin``.

    Only ``Exception`` is caught: Ctrl-C and interpreter exit pass through.

    Raises:
        PluginError: naming the plug-in, the exception's type and its first line.
    """
    try:
        yield
    except PluginError:
        raise
    except Exception as error:
        raise PluginError(raised(plugin, error)) from error


def raised(plugin: str, error: BaseException) -> str:
    """One line that says what ``plugin`` raised: the exception's type and its first line."""
    try:
        lines = str(error).strip().splitlines()
    except Exception:  # noqa: BLE001 - an exception that can't be shown is still one that was raised
        lines = []
    told = f": {lines[0]}" if lines else ""
    return f"{plugin} raised {type(error).__name__}{told}"


def explain(error: ValidationError) -> str:
    """A pydantic error as one line: each field, what is wrong with it, and what was found."""
    parts = []
    for fault in error.errors(include_url=False):
        where = ".".join(str(step) for step in fault["loc"]) or error.title
        message = fault["msg"].removeprefix("Value error, ")
        found = "" if fault["type"] in ("missing", "value_error") else f" (found {str(fault['input'])[:80]!r})"
        parts.append(f"{where}: {message}{found}")
    return "; ".join(parts)
