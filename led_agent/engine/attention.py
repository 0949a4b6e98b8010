"""Attention, in the two shapes that the engine needs: many queries of one sequence over its own past (prefill), and
one query a row over that row's slot, and over a prefix that it shares with others (decoding).

Grouped queries are folded together, so keys and values are never repeated. Queries come scaled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

__all__ = ["Shared", "attend_slots", "causal_mask", "decode_mask", "prefill_attention"]


def decode_mask(places: Tensor, reach: int, dtype: torch.dtype) -> Tensor:
    """[rows, 1, 1, reach] to be added to scores: each row sees its own places, the one being decoded included."""
    hidden = torch.arange(reach, device=places.device) > places[:, None]
    mask = torch.zeros(hidden.shape, dtype=dtype, device=places.device).masked_fill_(hidden, float("-inf"))
    return mask[:, None, None]


def causal_mask(start: int, stop: int, device: torch.device) -> Tensor | None:
    """bool [stop - start, stop]: causal, for queries that begin behind ``start`` positions. None where there are none,
    and a kernel's own causal mask does."""
    if start == 0:
        return None
    keys = torch.arange(stop, device=device)
    return keys <= torch.arange(start, stop, device=device)[:, None]


def prefill_attention(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """Args:
        query: [n, heads, head_dim].
        keys, values: [kv_heads, m, head_dim], those of the queries' own positions the last n.
        mask: bool [n, m]; None is causal, n being m.

    Returns:
        [n, heads * head_dim].
    """
    out = F.scaled_dot_product_attention(
        query.transpose(0, 1)[None],
        keys[None],
        values[None],
        attn_mask=mask,
        is_causal=mask is None,
        scale=1.0,
        enable_gqa=query.shape[1] != len(keys),
    )
    return out[0].transpose(0, 1).reshape(len(query), -1)


@dataclass(frozen=True)
class Shared:
    """A prefix that rows share: keys and values [kv_heads, length + 1, head_dim] with a last one of zeros, and whose it
    is, int64 [m], or None where it is every row's."""

    keys: Tensor
    values: Tensor
    rows: Tensor | None


def attend_slots(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor, shared: Sequence[Shared]) -> Tensor:
    """One query a row.

    On a CPU two batched products and a softmax: faster than the fused kernel here, and, unlike it, to the bit the same
    for a row whatever the number of rows and the reach. The engine's reproducibility rests on that.

    Args:
        query: [rows, heads, head_dim].
        keys: [rows, kv_heads, head_dim, reach].
        values: [rows, kv_heads, reach, head_dim].
        mask: [rows, 1, 1, reach], added to the scores.

    Returns:
        [rows, heads * head_dim].
    """
    rows, heads, dim = query.shape
    folded = query.view(rows, keys.shape[1], -1, dim)  # [rows, kv_heads, group, head_dim]
    scores = torch.matmul(folded, keys).add_(mask)  # [rows, kv_heads, group, reach]
    weights = scores.softmax(-1, dtype=torch.float32)
    out = torch.matmul(weights.to(values.dtype), values)
    if shared:
        total = scores.amax(-1, keepdim=True).float() - weights.amax(-1, keepdim=True).log_()
        for prefix in shared:
            out = _merged(prefix, folded, out, total)
    return out.reshape(rows, heads * dim)


def _merged(prefix: Shared, folded: Tensor, own: Tensor, total: Tensor) -> Tensor:
    """Attention over [prefix] + [own], of which ``own`` [rows, kv_heads, group, head_dim] is done, with the log-sum-exp
    ``total`` [rows, kv_heads, group, 1] of its scores.

    The prefix is read once for all its rows. Own positions take part in its softmax as one more key, whose score is
    their log-sum-exp: exact, and fewer passes than two normalisers and a merge behind them.
    """
    rows = prefix.rows
    query, mine, score = (folded, own, total) if rows is None else (folded[rows], own[rows], total[rows])
    m, heads, group, dim = query.shape
    scores = torch.bmm(query.transpose(0, 1).reshape(heads, m * group, dim), prefix.keys.transpose(1, 2)).float()
    scores[..., -1:] = score.transpose(0, 1).reshape(heads, m * group, 1)
    weights = scores.softmax(-1)  # [kv_heads, m * group, length + 1]
    over = torch.bmm(weights.to(own.dtype), prefix.values).view(heads, m, group, dim).transpose(0, 1)
    share = weights[..., -1:].view(heads, m, group, 1).transpose(0, 1).to(own.dtype)
    merged = torch.addcmul(over, share, mine)
    return merged if rows is None else own.index_copy(0, rows, merged)
