"""Filters through transformers' own logits processors, for what the fast samplers don't cover.

They run batched and in transformers' order, once for each distinct setting of a batch.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

__all__ = ["Filters", "penalise", "warped"]

Filters = tuple[float, int | None, float, float, float]  # temperature, top_k, top_p, min_p, typical_p


def warped(logits: Tensor, filters: Filters) -> Tensor:
    """Logits over temperature, float32 [rows, vocab], -inf where the filters leave a token out."""
    # The processors take the ids so far, which none of these looks at.
    ids: Any = torch.empty(len(logits), 0, dtype=torch.long, device=logits.device)
    given: Any = logits
    out: Tensor = _chain(filters)(ids, given)
    return out


@lru_cache(maxsize=128)
def _chain(filters: Filters) -> LogitsProcessorList:
    temperature, top_k, top_p, min_p, typical_p = filters
    chain = LogitsProcessorList([TemperatureLogitsWarper(temperature)])
    if top_k is not None:
        chain.append(TopKLogitsWarper(top_k))
    if top_p < 1.0:
        chain.append(TopPLogitsWarper(top_p))
    if min_p > 0.0:
        chain.append(MinPLogitsWarper(min_p))
    if typical_p < 1.0:
        chain.append(TypicalLogitsWarper(typical_p))
    return chain


def penalise(logits: Tensor, seen: Tensor, penalty: Tensor) -> Tensor:
    """Repetition penalty (Keskar et al., CTRL, 2019) by row: transformers' processor has one strength for a batch.

    Args:
        logits: float32 [rows, vocab].
        seen: bool [rows, vocab], tokens that the row already has.
        penalty: float32 [rows].
    """
    strength = penalty[:, None]
    return torch.where(seen, torch.where(logits < 0, logits * strength, logits / strength), logits)
