"""Prefixes: keys and values that are computed once and kept while they are of use: those of prompts, a chunk at a time,
and those that branches leave behind, for the branches that continue them or fork inside them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from led_agent.engine.cache import PrefixCache, SlotCache
from led_agent.engine.growing import Prefix
from led_agent.engine.model import ModelParts

__all__ = ["CHUNK", "Prefixes"]

CHUNK = 512  # tokens prefilled at a time
_KEEP_BYTES = 256 * 2**20  # of prefixes that nobody waits for
_KEEP_LEFT_BYTES = 256 * 2**20  # of what branches left behind

_Key = tuple[tuple[int, ...], tuple[int, ...]]  # prompt and generated tokens


@dataclass(frozen=True)
class _Left:
    """Keys and values that a branch left behind, of all its tokens but the last, without those of the prompt."""

    generated: tuple[int, ...]
    start: int  # the position of the first
    kv: Tensor  # [2, layers, kv_heads, positions, head_dim]


class Prefixes:
    """Keys and values by token ids. Chunks begin where the sequence alone says, so what is computed does not depend on
    what was asked for before."""

    def __init__(self, parts: ModelParts) -> None:
        self._parts = parts
        self._kept: OrderedDict[_Key, PrefixCache] = OrderedDict()  # complete or in the making
        self.nbytes = 0  # of all of them; counted along, for it is looked at in every step
        self._left: OrderedDict[_Key, _Left] = OrderedDict()
        self._by_prompt: dict[tuple[int, ...], list[_Left]] = {}
        self._left_bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def __getitem__(self, prefix: Prefix) -> PrefixCache:
        return self._kept[_key(prefix)]

    def complete(self, prefix: Prefix) -> tuple[PrefixCache, int]:
        """Keys and values of all but the prefix's last token, and how many tokens had to be computed for them."""
        computed = 0
        while True:
            cache, new = self.advance(prefix)
            computed += new
            if cache is not None:
                return cache, computed

    def advance(self, prefix: Prefix) -> tuple[PrefixCache | None, int]:
        """Compute one chunk more of a prefix; its keys and values, None while they are incomplete, and how many tokens
        were computed now."""
        if prefix.copied is not None:
            return prefix.copied, 0
        wanted = prefix.ids[:-1]
        key = _key(prefix)
        cache = self._kept.get(key)
        if cache is None:
            base = None
            if prefix.generated and len(prefix.prompt) > 1:
                base, computed = self.advance(Prefix(prefix.prompt, ()))
                if base is None or computed:
                    return None, computed
            cache = self._kept[key] = self.new(len(wanted), base)
            self._take_up(cache, prefix)
            self.nbytes += cache.nbytes
        self._kept.move_to_end(key)
        if cache.filled == len(wanted):
            return cache, 0
        start = cache.filled
        stop = min(start + CHUNK, len(wanted))
        ids = torch.tensor(wanted[start:stop], device=self._parts.device)
        self._parts.forward(ids, cache.begin(stop - start), cache)
        cache.advance(stop - start)
        return (cache if stop == len(wanted) else None), stop - start

    def new(self, length: int, base: PrefixCache | None = None) -> PrefixCache:
        """Room for a prefix that is not kept here."""
        parts = self._parts
        return PrefixCache(parts.kv_shape, length, dtype=parts.dtype, device=parts.device, base=base)

    def leave(self, prefix: Prefix, cache: SlotCache, row: int, shared: PrefixCache | None) -> None:
        """Keep what a branch that has ended has computed, for those that go on from it.

        Args:
            prefix: All its tokens; those before the last have their keys and values in the row.
            shared: The prefix behind which the row begins, where it shares one.
        """
        key = _key(prefix)
        # The prompt's last token belongs to it: it was the first step's, not the prefill's.
        start, stop = len(prefix.prompt) - 1, len(prefix.ids) - 1
        if stop <= start or key in self._left:
            return
        own = max(start, shared.length if shared is not None else 0)
        pieces = [cache.positions(row, own, stop)]
        if shared is not None and own > start:
            pieces.insert(0, shared.kv[..., start:own, :])
        left = _Left(prefix.generated, start, torch.cat(pieces, 3))
        self._left[key] = left
        self._by_prompt.setdefault(prefix.prompt, []).append(left)
        self._left_bytes += left.kv.nbytes
        # The newest stays however long it is: somebody may be about to go on from it.
        while self._left_bytes > _KEEP_LEFT_BYTES and len(self._left) > 1:
            (prompt, _), oldest = self._left.popitem(last=False)
            self._by_prompt[prompt].remove(oldest)
            if not self._by_prompt[prompt]:
                del self._by_prompt[prompt]
            self._left_bytes -= oldest.kv.nbytes

    def known(self, prefix: Prefix) -> int:
        """How long a beginning of the generated tokens a branch could go on from without anything being computed."""
        if prefix.copied is not None or _key(prefix) in self._kept:
            return len(prefix.generated)
        return self._longest(prefix)[1]

    def _longest(self, prefix: Prefix) -> tuple[_Left | None, int]:
        """What was left behind of the longest beginning of the generated tokens, and how long that is. One token more
        than those that are the same: keys and values are wanted of all but the last."""
        best, length = None, 0
        for left in self._by_prompt.get(prefix.prompt, ()):
            same = min(_common(left.generated, prefix.generated) + 1, len(left.generated), len(prefix.generated))
            if same > length:
                best, length = left, same
        return best, length

    def _take_up(self, cache: PrefixCache, prefix: Prefix) -> None:
        """Fill a new prefix with the longest piece of it that a branch left behind."""
        best, length = self._longest(prefix)
        if best is None or cache.filled < best.start:
            return
        stop = min(best.start + length, cache.length)
        cache.kv[..., best.start : stop, :] = best.kv[..., : stop - best.start, :]
        cache.filled = max(cache.filled, stop)
        self._left.move_to_end((prefix.prompt, best.generated))

    def forget(self, waiting: Iterable[Prefix]) -> None:
        """Drop the least recently used prefixes that nobody waits for, beyond what may be kept."""
        if self.nbytes <= _KEEP_BYTES:
            return
        needed = set()
        for prefix in waiting:
            needed |= {_key(prefix), (prefix.prompt, ())}
        for key in [key for key in self._kept if key not in needed]:
            if self.nbytes <= _KEEP_BYTES:
                return
            self.nbytes -= self._kept.pop(key).nbytes


def _key(prefix: Prefix) -> _Key:
    return prefix.prompt, prefix.generated


def _common(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    """How many tokens two sequences begin with alike."""
    length = min(len(one), len(other))
    if one[:length] == other[:length]:
        return length
    return next(at for at in range(length) if one[at] != other[at])
