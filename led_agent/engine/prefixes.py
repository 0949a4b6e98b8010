"""Prefixes: the keys and values of prompts, computed once, a chunk at a time, and kept while they are of use."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

import torch

from led_agent.engine.cache import PrefixCache
from led_agent.engine.growing import Prefix
from led_agent.engine.model import ModelParts

__all__ = ["CHUNK", "Prefixes"]

CHUNK = 512  # tokens prefilled at a time
_KEEP_BYTES = 256 * 2**20  # of prefixes that nobody waits for


class Prefixes:
    """Keys and values by token ids. Chunks begin where the sequence alone says, so what is computed does not depend on
    what was asked for before."""

    def __init__(self, parts: ModelParts) -> None:
        self._parts = parts
        self._kept: OrderedDict[tuple[int, ...], PrefixCache] = OrderedDict()  # complete or in the making
        self.nbytes = 0  # of all of them; counted along, for it is looked at in every step

    def __len__(self) -> int:
        return len(self._kept)

    def __getitem__(self, ids: tuple[int, ...]) -> PrefixCache:
        return self._kept[ids]

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
        cache = self._kept.get(wanted)
        if cache is None:
            base = None
            if prefix.generated and len(prefix.prompt) > 1:
                base, computed = self.advance(Prefix(prefix.prompt, ()))
                if base is None or computed:
                    return None, computed
            cache = self._kept[wanted] = self.new(len(wanted), base)
            self.nbytes += cache.nbytes
        self._kept.move_to_end(wanted)
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

    def forget(self, waiting: Iterable[Prefix]) -> None:
        """Drop the least recently used prefixes that nobody waits for, beyond what may be kept."""
        if self.nbytes <= _KEEP_BYTES:
            return
        needed = set()
        for prefix in waiting:
            needed |= {prefix.ids[:-1], prefix.prompt[:-1]}
        for ids in [ids for ids in self._kept if ids not in needed]:
            if self.nbytes <= _KEEP_BYTES:
                return
            self.nbytes -= self._kept.pop(ids).nbytes
