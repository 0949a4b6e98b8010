"""The attention function that the model's layers call, registered with transformers as ``led_slots``.

Two cases, told apart by the number of queries: one query a row over that row's slot (decoding), or many queries of one
row over its own past (prefill). Grouped queries are folded into the query axis, so keys and values are never repeated.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from transformers import AttentionInterface

__all__ = ["NAME", "decode_mask", "prefill_mask", "slot_attention"]

NAME = "led_slots"


def decode_mask(positions: Tensor, reach: int, dtype: torch.dtype) -> Tensor:
    """[rows, 1, 1, reach] to be added to scores: each row sees its own positions, the one being decoded included."""
    hidden = torch.arange(reach, device=positions.device) > positions[:, None]
    mask = torch.zeros(hidden.shape, dtype=dtype, device=positions.device).masked_fill_(hidden, float("-inf"))
    return mask[:, None, None]


def prefill_mask(start: int, stop: int, device: torch.device) -> Tensor:
    """bool [1, 1, stop - start, stop]: causal, for queries that begin behind ``start`` cached positions."""
    keys = torch.arange(stop, device=device)
    return (keys <= torch.arange(start, stop, device=device)[:, None])[None, None]


def slot_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    scaling: float,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention in transformers' calling convention. Of its keyword arguments only ``scaling`` matters here: the rest
    is dropout, which is for training, and sliding windows, which the engine keeps out of reach.

    Args:
        query: [rows, heads, queries, head_dim].
        key, value: [rows, kv_heads, keys, head_dim].
        attention_mask: Broadcastable to [rows, 1, queries, keys]: bool for many queries, to be added for one.

    Returns:
        [rows, queries, heads, head_dim], and None for the weights.
    """
    rows, heads, queries, dim = query.shape
    if queries > 1:
        out = F.scaled_dot_product_attention(
            query, key, value, attn_mask=attention_mask, scale=scaling, enable_gqa=heads != key.shape[1]
        )
        return out.transpose(1, 2), None
    folded = query.view(rows, key.shape[1], -1, dim)  # [rows, kv_heads, group, head_dim]
    if query.device.type == "cpu":
        # Two batched products and a softmax: as fast as the fused kernel here, and, unlike it, to the bit the same
        # for a row whatever the number of rows and the reach. The engine's reproducibility rests on that.
        scores = torch.matmul(folded, key.transpose(-1, -2)).mul_(scaling).add_(attention_mask)
        weights = scores.softmax(-1, dtype=torch.float32)
        out = torch.matmul(weights.to(value.dtype), value)
    else:
        out = F.scaled_dot_product_attention(folded, key, value, attn_mask=attention_mask, scale=scaling)
    return out.reshape(rows, 1, heads, dim), None


AttentionInterface.register(NAME, slot_attention)
