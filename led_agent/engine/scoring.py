"""The unperturbed posterior of a branch that grows with noise: its tokens forwarded once more, a piece at a time.

A decode step with noise gives the posterior of the noisy state. What the model itself makes of the tokens takes a
forward without noise, over keys and values without it; many tokens at once, so it costs far less than decoding them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from led_agent.engine.cache import PrefixCache
from led_agent.engine.model import ModelParts

__all__ = ["CleanScorer"]

_PIECE = 64  # tokens forwarded at a time


class CleanScorer:
    """Scores one branch's tokens; keeps clean keys and values between calls.

    Args:
        prefix: All tokens before the branch's own.
        base: Keys and values of all of them but the last; None where there is only one.
        room: New tokens that may come.
    """

    def __init__(self, parts: ModelParts, prefix: Sequence[int], base: PrefixCache | None, room: int) -> None:
        self._parts, self._prefix = parts, tuple(prefix)
        self._cache = PrefixCache(
            parts.kv_shape, len(prefix) - 1 + room, dtype=parts.dtype, device=parts.device, base=base
        )

    @property
    def scored(self) -> int:
        """How many of the branch's tokens have been scored."""
        return self._cache.filled - (len(self._prefix) - 1)

    def score(self, token_ids: Sequence[int]) -> tuple[list[float], list[float]]:
        """Log-probability (nat) of each token that was not scored yet, and the entropy (nat) of its posterior."""
        logprobs: list[float] = []
        entropies: list[float] = []
        whole = (*self._prefix, *token_ids)
        while self.scored < len(token_ids):
            start = self._cache.filled
            stop = min(start + _PIECE, len(whole) - 1)
            device = self._parts.device
            ids = torch.tensor(whole[start:stop], device=device)
            states, _ = self._parts.forward(ids, self._cache.begin(stop - start), self._cache)
            posterior = self._parts.head(states).float().log_softmax(-1)  # [piece, vocab]
            self._cache.advance(stop - start)
            following = torch.tensor(whole[start + 1 : stop + 1], device=device)
            logprobs += posterior.gather(1, following[:, None]).squeeze(1).tolist()
            entropies += torch.special.entr(posterior.exp()).sum(-1).tolist()
        return logprobs, entropies

    def roll_back(self, tokens: int) -> None:
        """Forget what was scored behind that many tokens."""
        self._cache.filled = min(self._cache.filled, len(self._prefix) - 1 + tokens)
