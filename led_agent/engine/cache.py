"""Where keys and values live: a cache of slots for decoding, and prefixes for prompts.

Both are a trunk's ``Memory``: each layer hands them its new keys and values and gets back what its queries see.
Neither knows which branch a row belongs to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from led_agent.engine.attention import Shared, attend_slots, causal_mask, decode_mask, prefill_attention

__all__ = ["BUCKET", "PrefixCache", "Sharing", "SlotCache", "round_up"]

BUCKET = 64  # keys are read in multiples of this many positions


def round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


class PrefixCache:
    """The keys and values of one token sequence, computed once; slots are filled from it, or rows attend to it where it
    is. Behind the last position is one of zeros, in whose place the attention over a row's own positions is merged.

    Args:
        shape: (layers, kv_heads, head_dim).
        length: Positions in all.
        base: A prefix whose positions come first, copied, as many as there is room for.
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
        layers, heads, dim = shape
        self.kv = torch.empty(2, layers, heads, length + 1, dim, dtype=dtype, device=device)
        self.kv[..., length:, :] = 0.0
        self.length, self.filled = length, 0
        self._mask: Tensor | None = None
        if base is not None:
            self.filled = min(base.filled, length)
            self.kv[..., : self.filled, :] = base.kv[..., : self.filled, :]

    @property
    def nbytes(self) -> int:
        return self.kv.nbytes

    def begin(self, new: int) -> Tensor:
        """Before a forward of the next ``new`` tokens; their positions, int64 [new]."""
        self._mask = causal_mask(self.filled, self.filled + new, self.kv.device)
        return torch.arange(self.filled, self.filled + new, device=self.kv.device)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Write behind what is filled; ``filled`` itself moves on when the forward is through (``advance``)."""
        stop = self.filled + len(key)
        keys, values = self.kv[0, layer], self.kv[1, layer]
        keys[:, self.filled : stop] = key.transpose(0, 1)
        values[:, self.filled : stop] = value.transpose(0, 1)
        return prefill_attention(query, keys[:, :stop], values[:, :stop], self._mask)

    def advance(self, new: int) -> None:
        self.filled += new

    def shared(self, layer: int) -> tuple[Tensor, Tensor]:
        """Keys and values [kv_heads, length + 1, head_dim], the last one zeros."""
        return self.kv[0, layer], self.kv[1, layer]


@dataclass(frozen=True)
class Sharing:
    """Rows that attend to one prefix where it is. ``rows`` is None where they are all there are."""

    prefix: PrefixCache
    rows: Tensor | None  # int64 [m]


class SlotCache:
    """One row per growing branch, each at its own position. Rows 0 … n-1 are live; a fork is a row copy.

    A row holds its sequence from some position on, 0 or, where it shares a prefix, the prefix's end. Keys lie with
    their positions last, which is how a batched product reads them fastest.
    """

    def __init__(self, shape: tuple[int, int, int], slots: int, *, dtype: torch.dtype, device: torch.device) -> None:
        layers, heads, dim = shape
        self.keys = torch.zeros(layers, slots, heads, dim, BUCKET, dtype=dtype, device=device)
        self.values = torch.zeros(layers, slots, heads, BUCKET, dim, dtype=dtype, device=device)
        self.starts = torch.zeros(slots, dtype=torch.long, device=device)
        self._rows: Tensor = torch.empty(0, dtype=torch.long, device=device)
        self._places = self._mask = self._rows
        self._reach = BUCKET
        self._sharing: Sequence[Sharing] = ()

    @property
    def capacity(self) -> int:
        return self.keys.shape[-1]

    @property
    def nbytes(self) -> int:
        return self.keys.nbytes + self.values.nbytes

    def reserve(self, capacity: int) -> None:
        """Make room for ``capacity`` positions in every row; what is there stays."""
        if capacity <= self.capacity:
            return
        old, room = self.capacity, round_up(capacity, BUCKET)
        # Zeros, not empty: a key that is masked out must still be finite, for 0 · NaN is NaN.
        keys = self.keys.new_zeros((*self.keys.shape[:4], room))
        keys[..., :old] = self.keys
        self.keys = keys
        values = self.values.new_zeros((*self.values.shape[:3], room, self.values.shape[4]))
        values[..., :old, :] = self.values
        self.values = values

    def nbytes_for(self, capacity: int) -> int:
        """Bytes of the whole cache at that capacity."""
        return self.nbytes // self.capacity * round_up(capacity, BUCKET)

    def begin(self, positions: Tensor, longest: int, sharing: Sequence[Sharing] = ()) -> None:
        """Before a forward of rows 0 … n-1.

        Args:
            positions: int64 [n], where in its sequence each row's token stands.
            longest: The furthest place in a row that is written now.
            sharing: The rows that share prefixes.
        """
        n = len(positions)
        if len(self._rows) != n:
            self._rows = torch.arange(n, device=positions.device)
        self._places = (positions - self.starts[:n]).clamp(0, self.capacity - 1)
        self._reach = min(round_up(longest + 1, BUCKET), self.capacity)
        self._mask = decode_mask(self._places, self._reach, self.keys.dtype)
        self._sharing = sharing

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Write each row's key and value at its place, and attend to what stands up to there, and to what it shares."""
        keys, values = self.keys[layer], self.values[layer]
        keys[self._rows, :, :, self._places] = key
        values[self._rows, :, self._places] = value
        n = len(self._rows)
        shared = [Shared(*sharing.prefix.shared(layer), sharing.rows) for sharing in self._sharing]
        return attend_slots(query, keys[:n, ..., : self._reach], values[:n, :, : self._reach], self._mask, shared)

    def load(self, row: int, prefix: PrefixCache) -> None:
        """Copy a prefix into a row."""
        self.starts[row] = 0
        self.keys[:, row, ..., : prefix.filled] = prefix.kv[0, :, :, : prefix.filled].transpose(-1, -2)
        self.values[:, row, :, : prefix.filled] = prefix.kv[1, :, :, : prefix.filled]

    def empty(self, row: int) -> None:
        """Let a row begin at the first position."""
        self.starts[row] = 0

    def share(self, row: int, prefix: PrefixCache) -> None:
        """Let a row begin where a prefix ends; its steps are told of the prefix by ``begin``."""
        self.starts[row] = prefix.length

    def store(self, row: int, target: PrefixCache, stop: int) -> None:
        """Copy what a row holds, up to ``stop`` of its sequence, into a prefix that has what the row shares."""
        start = int(self.starts[row])
        if stop > start:
            target.kv[0, :, :, start:stop] = self.keys[:, row, ..., : stop - start].transpose(-1, -2)
            target.kv[1, :, :, start:stop] = self.values[:, row, :, : stop - start]
        target.filled = stop

    def positions(self, row: int, start: int, stop: int) -> Tensor:
        """A copy of a row's keys and values [2, layers, kv_heads, stop - start, head_dim] at these positions, which
        must be the row's own."""
        begin = int(self.starts[row])
        places = slice(start - begin, stop - begin)
        return torch.stack([self.keys[:, row, ..., places].transpose(-1, -2), self.values[:, row, :, places]])

    def clear(self, row: int, start: int) -> None:
        """Forget a row's sequence from there on. Needed only where it is not finite: what is masked out is
        multiplied by 0, and 0 · NaN is NaN."""
        place = max(0, start - int(self.starts[row]))
        self.keys[:, row, ..., place:] = 0.0
        self.values[:, row, :, place:] = 0.0

    def move(self, source: int, target: int, length: int) -> None:
        """Copy a row's sequence, ``length`` positions long, onto another row."""
        places = min(length - int(self.starts[source]), self.capacity)
        self.starts[target] = self.starts[source]
        self.keys[:, target, ..., :places] = self.keys[:, source, ..., :places]
        self.values[:, target, :, :places] = self.values[:, source, :, :places]
