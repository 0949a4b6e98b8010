"""Two peers' laws: contrasting layers (DoLa), and exploratory sampling (ESamp). Pure functions of tensors."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from led_agent.decoding.sampling import normals

__all__ = ["contrasted", "distil", "foresee", "js_divergence", "random_projection"]


def js_divergence(p: Tensor, q: Tensor) -> Tensor:
    """Jensen-Shannon divergence (nat) of two log-posteriors over the last axis."""
    middle = torch.logaddexp(p, q) - math.log(2)
    return 0.5 * (_kl(p, middle) + _kl(q, middle))


def _kl(p: Tensor, q: Tensor) -> Tensor:
    terms = p.exp() * (p - q)
    return torch.where(p.isneginf(), 0.0, terms).sum(-1)


def contrasted(final: Tensor, early: Tensor, plausibility: float) -> tuple[Tensor, Tensor]:
    """DoLa's scores: log p_final - log p_early of the plausible tokens, -inf of the others (arXiv 2309.03883).

    Args:
        final: float [rows, vocab], the final layer's logits.
        early: float [rows, layers, vocab], those of the candidate layers.

    Returns:
        float [rows, vocab], to be sampled as logits, and int64 [rows], which of the layers each row was contrasted
        with: the one of the largest Jensen-Shannon divergence, the first of equals.
    """
    p = final.log_softmax(-1)  # [rows, vocab]
    divergences = torch.stack([js_divergence(p, layer.log_softmax(-1)) for layer in early.unbind(1)], 1)
    chosen = divergences.argmax(1)
    other = early.gather(1, chosen[:, None, None].expand(-1, 1, early.shape[2])).squeeze(1).log_softmax(-1)
    plausible = p >= p.amax(-1, keepdim=True) + math.log(plausibility)
    return torch.where(plausible, p - other, float("-inf")), chosen


@lru_cache(maxsize=8)
def random_projection(rank: int, width: int, device: torch.device) -> Tensor:
    """The distiller's first layer, float32 [rank, width]: the same on every machine, never trained."""
    seeds = torch.full((rank,), 0x2604_24927, device=device)
    return normals(seeds, torch.arange(rank, device=device), width) / math.sqrt(width)


def foresee(projection: Tensor, weights: Tensor, shallow: Tensor) -> tuple[Tensor, Tensor]:
    """What each row's distiller makes of the first block's state.

    Args:
        projection: [rank, width].
        weights: [rows, width, rank], each row's last layer.
        shallow: [rows, width].

    Returns:
        The foreseen last state [rows, width], and the features [rows, rank].
    """
    unit = shallow * shallow.square().mean(-1, keepdim=True).add(1e-12).rsqrt()
    # A row at a time in one elementwise product and sum: a matrix product's rounding depends on how many rows it has.
    features = (unit[:, None] * projection).sum(-1).tanh()
    return (weights * features[:, None]).sum(-1), features


def distil(weights: Tensor, features: Tensor, error: Tensor, rate: float) -> Tensor:
    """The last layer after one step of normalised least mean squares: [rows, width, rank].

    Args:
        features: [rows, rank].
        error: [rows, width], the true last state less the foreseen one.
    """
    step = rate * error / features.square().sum(-1, keepdim=True).clamp(min=1e-12)
    return weights + step[:, :, None] * features[:, None]
