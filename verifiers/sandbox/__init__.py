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
    return next((tier for tier in _wanted(asked) if _report(tier).available), None)


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
    tier = chosen(asked)
    if tier is None and not unsafe:
        why = "; ".join(f"{tier}: {_report(tier).reason}" for tier in _wanted(asked))
        raise SandboxUnavailable(
            f"no sandbox holds on this machine, so no untrusted code is run ({why}). See `led-agent doctor`; on Linux "
            "install bubblewrap or a kernel with Landlock. unsafe_no_sandbox=True runs it all the same, at your risk"
        )
    return Sandbox(tier or "none", size)


def _wanted(asked: Asked) -> tuple[Tier, ...]:
    return TIERS if asked == "auto" else (asked,)


def _report(tier: Tier, *, fresh: bool = False) -> Report:
    with _lock:
        if fresh or tier not in _found:
            _found[tier] = probe(tier, cached=not fresh)
        return _found[tier]
