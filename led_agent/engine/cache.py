"""Where keys and values live: a cache of slots for decoding, and standalone prefixes for prompts.

Both are transformers ``Cache`` objects: each attention layer calls ``update`` with its new keys and values and gets
back what it may attend to. Neither knows which branch a row belongs to.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache

__all__ = ["BUCKET", "PrefixCache", "SlotCache", "round_up"]

BUCKET = 64  # keys are read in multiples of this many positions


def round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


class _PlainCache(Cache):
    """One tensor kv [2, layers, rows, kv_heads, capacity, head_dim] instead of transformers' per-layer objects."""

    kv: Tensor

    def __init__(self) -> None:
        super().__init__(layers=[])

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0  # positions are always given explicitly

    @property
    def capacity(self) -> int:
        return int(self.kv.shape[4])


class PrefixCache(_PlainCache):
    """The keys and values of one token sequence, computed once and copied into slots.

    Args:
        shape: (layers, kv_heads, head_dim).
        length: Positions in all.
        base: A prefix whose positions come first, copied.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        length: int,
        *,
        dtype: torch.dtype,
        device: torch.device,
        base: PrefixCache | None = None,
    ) -> None:
        super().__init__()
        layers, heads, dim = shape
        self.kv = torch.empty(2, layers, 1, heads, length, dim, dtype=dtype, device=device)
        self.filled = 0
        if base is not None:
            self.filled = base.filled
            self.kv[..., : base.filled, :] = base.kv[..., : base.filled, :]

    @property
    def nbytes(self) -> int:
        return self.kv.nbytes

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Write [1, kv_heads, new, head_dim] behind what is filled; return all up to there. ``filled`` itself moves
        on when the forward is through (``advance``)."""
        stop = self.filled + key_states.shape[2]
        self.kv[0, layer_idx, :, :, self.filled : stop] = key_states
        self.kv[1, layer_idx, :, :, self.filled : stop] = value_states
        return self.kv[0, layer_idx, :, :, :stop], self.kv[1, layer_idx, :, :, :stop]

    def advance(self, new: int) -> None:
        self.filled += new


class SlotCache(_PlainCache):
    """One row per growing branch, each at its own position. Rows 0 … n-1 are live; a fork is a row copy."""

    def __init__(self, shape: tuple[int, int, int], slots: int, *, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()
        layers, heads, dim = shape
        self.kv = torch.zeros(2, layers, slots, heads, BUCKET, dim, dtype=dtype, device=device)
        self._rows: Tensor = torch.empty(0, dtype=torch.long, device=device)
        self._positions = self._rows
        self._reach = BUCKET

    def reserve(self, capacity: int) -> None:
        """Make room for ``capacity`` positions in every row; what is there stays."""
        if capacity <= self.capacity:
            return
        old = self.kv
        shape = (*old.shape[:4], round_up(capacity, BUCKET), old.shape[5])
        # Zeros, not empty: a key that is masked out must still be finite, for 0 · NaN is NaN.
        self.kv = torch.zeros(shape, dtype=old.dtype, device=old.device)
        self.kv[..., : old.shape[4], :] = old

    def nbytes_for(self, capacity: int) -> int:
        """Bytes of the whole cache at that capacity."""
        return self.kv.nbytes // self.capacity * round_up(capacity, BUCKET)

    def begin(self, positions: Tensor, reach: int) -> None:
        """Before a forward of rows 0 … n-1: where each writes (int64 [n]), and how far all of them read."""
        self._rows = torch.arange(len(positions), device=positions.device)
        self._positions, self._reach = positions, reach

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Write [n, kv_heads, 1, head_dim] at each row's position; return views [n, kv_heads, reach, head_dim]."""
        keys, values = self.kv[0, layer_idx], self.kv[1, layer_idx]
        keys[self._rows, :, self._positions] = key_states[:, :, 0]
        values[self._rows, :, self._positions] = value_states[:, :, 0]
        n = len(self._rows)
        return keys[:n, :, : self._reach], values[:n, :, : self._reach]

    def load(self, row: int, prefix: PrefixCache) -> None:
        """Copy a prefix into a row."""
        self.kv[:, :, row, :, : prefix.filled] = prefix.kv[:, :, 0, :, : prefix.filled]

    def clear(self, row: int, start: int) -> None:
        """Forget a row's positions from there on. Needed only where they are not finite: what is masked out is
        multiplied by 0, and 0 · NaN is NaN."""
        self.kv[:, :, row, :, start:] = 0.0

    def move(self, source: int, target: int, length: int) -> None:
        """Copy a row's first ``length`` positions onto another row."""
        self.kv[:, :, target, :, :length] = self.kv[:, :, source, :, :length]
