"""How much memory is free, and how much of it the slots may take."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch

from led_agent.errors import UsageError

__all__ = ["MemoryPlan", "free_bytes"]

_SHARE = 0.4  # of what is free; as much again while a cache that grows is copied, and the rest is for all else


def free_bytes(device: torch.device) -> int:
    """Bytes that could be had now on a device; on a CPU under Linux, page cache that can be dropped counted in."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        with Path("/proc/meminfo").open() as lines:
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):  # not Linux: what is free now, page cache not counted
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class MemoryPlan:
    """How long a branch may become, fixed before the first one comes: all slots filled to that length fit, so that no
    branch that was let in has ever to be put out again for another's sake.

    Attributes:
        rows: Slots, padding included.
        capacity: Positions that a slot may hold.
        position_bytes: Keys and values of one position of one slot.
    """

    rows: int
    capacity: int
    position_bytes: int

    @property
    def nbytes(self) -> int:
        """Of all slots at their capacity."""
        return self.rows * self.capacity * self.position_bytes

    @classmethod
    def of(cls, rows: int, position_bytes: int, context: int, capacity: int | None, device: torch.device) -> MemoryPlan:
        """The model's whole context where it fits into free memory, else what does.

        Args:
            capacity: What the user wants instead.

        Raises:
            UsageError: it doesn't fit, or nothing does.
        """
        room = int(_SHARE * free_bytes(device))
        fits = room // (rows * position_bytes)
        if capacity is not None and not 1 <= capacity <= context:
            raise UsageError(f"capacity is {capacity}; allowed are 1 to the model's context of {context} positions")
        wanted = capacity if capacity is not None else 1
        if fits < wanted:
            raise UsageError(
                f"{rows} slots of {wanted} positions need {rows * wanted * position_bytes / 2**30:.2f} GiB of keys and "
                f"values, and {room / 2**30:.2f} GiB may be used (40 % of what is free); use fewer slots"
                + (f", or a capacity of {fits} at most" if fits else "")
            )
        return cls(rows, capacity if capacity is not None else min(context, fits), position_bytes)
