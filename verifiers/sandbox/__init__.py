"""A sandbox for programs that nobody has read: which tiers this machine can hold, and the safest of them.

``open_sandbox`` is the way in; ``report`` and ``chosen`` say what it would do, and why.
"""

from __future__ import annotations

import threading
from typing import Literal

from led_agent.errors import MachineError, UsageError
from led_agent.verifiers.sandbox.pool import Call, Called, Examined, Printed, Program, Sandbox
from led_agent.verifiers.sandbox.probes import Probe, Report, probe
from led_agent.verifiers.sandbox.process import Broken, Limits, Outcome
from led_agent.verifiers.sandbox.tiers import TIERS, Tier

__all__ = [
    "Broken",
    "Call",
    "Called",
    "Examined",
    "Limits",
    "Outcome",
    "Printed",
    "Probe",
    "Program",
    "Report",
    "Sandbox",
    "SandboxUnavailable",
    "Tier",
    "check_tier",
    "chosen",
    "open_sandbox",
    "report",
]

Asked = Literal["auto", "A", "B", "C"]


class SandboxUnavailable(MachineError):  # noqa: N818 - as in the documents
    """No tier holds on this machine, so that no untrusted code is run."""


_lock = threading.Lock()
_found: dict[Tier, Report] = {}


def report(*, fresh: bool = False) -> list[Report]:
    """Every tier, tried; what held before in this boot is not tried again, unless ``fresh``."""
    return [_report(tier, fresh=fresh) for tier in TIERS]


def chosen(asked: Asked = "auto") -> Tier | None:
    """The tier that ``open_sandbox`` would take, or None where none holds."""
    found = _tried(asked)[-1]
    return found.tier if found.available else None


def check_tier(asked: str) -> None:
    """Refuse a tier that there isn't.

    Raises:
        UsageError: it is none of "auto", "A", "B" and "C".
    """
    if asked not in ("auto", *TIERS):
        raise UsageError(f"tier is {asked!r}; allowed are 'auto' (the safest that holds here), 'A', 'B' and 'C'")


def open_sandbox(asked: Asked = "auto", *, size: int | None = None, unsafe: bool = False) -> Sandbox:
    """A sandbox of the safest tier that holds here.

    Args:
        asked: A tier, or "auto".
        size: Programs that run at a time; None is one a processor.
        unsafe: Run without walls where no tier holds.

    Raises:
        SandboxUnavailable: none holds; the message says why not, tier by tier, and what to do.
        UsageError: a tier that there isn't, or a size below 1.
    """
    check_tier(asked)
    tried = _tried(asked)
    holds = tried[-1].available
    if not holds and not unsafe:
        why = "; ".join(f"{one.tier}: {one.reason}" for one in tried)
        raise SandboxUnavailable(
            f"no sandbox holds on this machine, so no untrusted code is run ({why}). See `led-agent doctor`; on Linux "
            "install bubblewrap or a kernel with Landlock. unsafe_no_sandbox=True runs it all the same, at your risk"
        )
    return Sandbox(tried[-1].tier if holds else "none", size)


def _tried(asked: Asked) -> list[Report]:
    """Of the tiers that are wanted, those up to the first that holds."""
    tried: list[Report] = []
    for tier in TIERS if asked == "auto" else (asked,):
        tried.append(_report(tier))
        if tried[-1].available:
            break
    return tried


def _report(tier: Tier, *, fresh: bool = False) -> Report:
    with _lock:
        if not fresh and tier in _found:
            return _found[tier]
        found = _found[tier] = probe(tier, cached=not fresh)
        if found.unsure:
            del _found[tier]  # a machine that is busy now is not busy for as long as this process lives
        return found
