"""Depth-conditioned exploration: the law, and the parts of it that the engine's fast path shares.

Tan et al., "Restoring Exploration after Post-Training: Latent Exploration Decoding for Large Reasoning Models",
ICML 2026, arXiv 2602.01698. Posteriors read off the last d layers are added up from the final one downwards, over
the final layer's k most probable tokens; the sum whose renormalised distribution has the highest entropy is
explored, with probability 1 - p(most probable token).

Pure functions of tensors: no model, no cache, no random state.
"""

from __future__ import annotations

import torch
from torch import Tensor

from led_agent.errors import UsageError
from led_agent.types import DepthExploration

__all__ = ["FLOOR", "exploration_law", "explored_law", "hold"]

FLOOR = 1e-6  # of each posterior's probabilities on the candidates


def explored_law(p: Tensor, allowed: Tensor) -> tuple[Tensor, Tensor]:
    """Add posteriors up from the final layer downwards and take the sum of highest entropy.

    Args:
        p: float [rows, d, k], probabilities over the whole vocabulary, of the k candidates; slot 0 the final layer.
        allowed: bool [rows, k], candidates that are not banned: a ban (a logit of -inf) holds in every slot.

    Returns:
        float [rows, k], the distribution q that is explored, and int64 [rows], how many slots below the final one
        it reaches (0 where the final layer alone has the highest entropy; the smallest of equals).
    """
    sums = (p.clamp(min=FLOOR) * allowed[:, None]).cumsum(1)  # [rows, d, k]
    q = sums / sums.sum(-1, keepdim=True)
    entropy = torch.special.entr(q).sum(-1)  # [rows, d]
    depth = entropy.argmax(1)
    return q.gather(1, depth[:, None, None].expand(-1, 1, q.shape[2])).squeeze(1), depth


def hold(q: Tensor, plain: Tensor, held: Tensor) -> Tensor:
    """Give the held candidate its unexplored probability, and share the rest out among the others as q does.

    Args:
        q, plain: float [rows, k], the explored and the unexplored distribution over the candidates.
        held: bool [rows, k], at most one per row.

    Returns:
        float [rows, k]; rows without a held candidate are q itself.
    """
    others = q.masked_fill(held, 0.0)
    left = others.sum(-1, keepdim=True)
    others = torch.where(left > 0, others, plain.masked_fill(held, 0.0))
    share = (plain * ~held).sum(-1, keepdim=True)  # what the others have without exploration
    total = others.sum(-1, keepdim=True)
    moved = torch.where(held, plain, others * (share / total.clamp(min=torch.finfo(q.dtype).tiny)))
    return torch.where(held.any(-1, keepdim=True), moved, q)


def exploration_law(
    layer_logits: Tensor,
    exploration: DepthExploration,
    temperature: float,
    *,
    held: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The exact law of the next token inside the exploration span: the naive reference, computed in float64.

    P(v) = p0(c1) · p̂0(v) + (1 - p0(c1)) · q(v) for the candidates v, where p0 is the final layer's posterior, c1 its
    most probable token, p̂0 its renormalisation on the candidates and q the explored distribution; P = q with
    ``exploit=False``. Temperature 0 is greedy: all mass on c1.

    Args:
        layer_logits: float [batch, d, vocab], slot 0 the final layer, then the shallower ones, nearest first.
        held: int64 [batch], a token per row that exploration must not touch (``</think>``), or -1: its probability
            is p̂0's, and exploration shares out only the rest.

    Returns:
        int64 [batch, k] candidate ids, most probable first (the smallest id of equals), and their probabilities
        [batch, k], float64 for float64 logits, else float32.

    Raises:
        UsageError: a shape, k or temperature out of its limits, or logits that aren't finite.
    """
    _check(layer_logits, exploration, temperature)
    logits = layer_logits.double()
    k = exploration.top_k
    order = logits[:, 0].sort(dim=-1, descending=True, stable=True)
    ids = order.indices[:, :k]  # [batch, k]
    out = layer_logits.dtype if layer_logits.dtype == torch.float64 else torch.float32
    if temperature == 0:
        law = torch.zeros(ids.shape, dtype=out, device=ids.device)
        law[:, 0] = 1.0
        return ids, law
    posterior = (logits / temperature).softmax(-1)  # [batch, d, vocab]
    p = posterior.gather(2, ids[:, None].expand(-1, logits.shape[1], -1))  # [batch, d, k]
    plain = p[:, 0] / p[:, 0].sum(-1, keepdim=True)
    q, _ = explored_law(p, order.values[:, :k].isneginf().logical_not())
    if held is not None:
        q = hold(q, plain, ids == held[:, None])
    stay = p[:, 0, :1] if exploration.exploit else torch.zeros_like(p[:, 0, :1])
    if exploration.depths == 1:
        stay = torch.ones_like(stay)
    return ids, (stay * plain + (1 - stay) * q).to(out)


def _check(layer_logits: Tensor, exploration: DepthExploration, temperature: float) -> None:
    if layer_logits.ndim != 3 or not layer_logits.is_floating_point():
        raise UsageError(
            f"layer_logits is a float tensor [batch, d, vocab]; found {layer_logits.dtype} {tuple(layer_logits.shape)}"
        )
    _, depths, vocab = layer_logits.shape
    if depths != exploration.depths:
        raise UsageError(
            f"layer_logits has {depths} slots, but exploration.depths is {exploration.depths}; make them equal"
        )
    if exploration.top_k > vocab:
        raise UsageError(
            f"exploration.top_k is {exploration.top_k}, but the vocabulary has {vocab} tokens; use at most that"
        )
    if not temperature >= 0:
        raise UsageError(f"temperature is {temperature}; it must be 0 (greedy) or above")
    if bool(layer_logits.isnan().any()) or not bool(layer_logits.amax(-1).isfinite().all()):
        raise UsageError(
            "layer_logits has rows that aren't finite; a law needs finite logits (or -inf for banned tokens)"
        )
