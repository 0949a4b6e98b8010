"""Plain sampling, and the random numbers that all samplers draw from. Pure functions of tensors.

Random numbers are counter-based: a hash of (seed, position, draw), so that a branch's draws depend on its own seed
only, whatever else is in the batch and on whatever machine. The hash is integer arithmetic in torch, the same on
every device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812  (the name everybody knows it by)
from torch import Tensor

__all__ = ["DRAW_GATE", "DRAW_TOKEN", "PlainSettings", "inverse_cdf", "plain_law", "sample_plain", "uniform"]

DRAW_GATE, DRAW_TOKEN = 0, 1
_DRAWS = 16  # draws set aside for each position
_BLOCK = 256  # tokens per block of the two-level inverse CDF
_NUCLEUS = 1024  # how many tokens a top-p search looks at before it sorts the whole vocabulary


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value


_GOLDEN = _signed(0x9E3779B97F4A7C15)
_MIX1 = _signed(0xBF58476D1CE4E5B9)
_MIX2 = _signed(0x94D049BB133111EB)


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift of int64, which torch shifts arithmetically."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    """The finaliser of SplitMix64 (Steele, Lea and Flood, 2014)."""
    x = (x ^ _shift(x, 30)) * _MIX1
    x = (x ^ _shift(x, 27)) * _MIX2
    return x ^ _shift(x, 31)


def uniform(seed: Tensor, position: Tensor, draw: int) -> Tensor:
    """Uniform numbers in [0, 1) with 53 random bits.

    Args:
        seed: int64 [rows].
        position: int64 [rows], the position in the sequence of the token to be drawn.
        draw: Which of a position's draws, below 16.

    Returns:
        float64 [rows].
    """
    counter = position * _DRAWS + draw
    return _shift(_mix(_mix(seed) + counter * _GOLDEN), 11).double() * 2.0**-53


@dataclass(frozen=True)
class PlainSettings:
    """The plain sampler's settings by row, and on the host what decides the path.

    Attributes:
        temperature: float32 [rows]; 0 is greedy.
        top_k: int64 [rows]; the vocabulary's size where there is no limit.
        top_p, min_p: float32 [rows]; 1 and 0 where there is no limit.
        greedy, loose, filtered: int64, the rows of each kind: temperature 0; neither top_k nor top_p, which need no
            sorting; the others.
        sifted: Whether a row has a min_p.
        widest: How many of the most probable tokens to look at for the filtered rows before sorting them all.
    """

    temperature: Tensor
    top_k: Tensor
    top_p: Tensor
    min_p: Tensor
    greedy: Tensor
    loose: Tensor
    filtered: Tensor
    sifted: bool
    widest: int

    @classmethod
    def of(
        cls,
        rows: Sequence[tuple[float, int | None, float, float]],
        vocab: int,
        device: torch.device | str = "cpu",
    ) -> PlainSettings:
        """From (temperature, top_k, top_p, min_p) of each row."""
        kinds = ["greedy" if t == 0 else "filtered" if k is not None or p < 1 else "loose" for t, k, p, _ in rows]
        limits = [row[1] or _NUCLEUS for row, kind in zip(rows, kinds, strict=True) if kind == "filtered"]

        def of_kind(wanted: str) -> Tensor:
            return torch.tensor([i for i, kind in enumerate(kinds) if kind == wanted], dtype=torch.long, device=device)

        return cls(
            temperature=torch.tensor([t for t, _, _, _ in rows], device=device),
            top_k=torch.tensor([k if k is not None else vocab for _, k, _, _ in rows], device=device),
            top_p=torch.tensor([p for _, _, p, _ in rows], device=device),
            min_p=torch.tensor([m for _, _, _, m in rows], device=device),
            greedy=of_kind("greedy"),
            loose=of_kind("loose"),
            filtered=of_kind("filtered"),
            sifted=any(m > 0 for _, _, _, m in rows),
            widest=min(vocab, max(limits, default=0)),
        )


def inverse_cdf(weights: Tensor, u: Tensor) -> Tensor:
    """The index at which the running sum of weights, in the order given, first passes u of their total.

    Two levels, so that only blocks and one block are summed in float64: a float64 running sum over a vocabulary
    costs as much as a sort.

    Args:
        weights: float [rows, n], not negative, not all zero; they need not sum to 1.
        u: float64 [rows] in [0, 1).

    Returns:
        int64 [rows]; never an index of weight 0.
    """
    rows, n = weights.shape
    if n % _BLOCK:
        weights = F.pad(weights, (0, _BLOCK - n % _BLOCK))
    blocks = weights.view(rows, -1, _BLOCK)  # [rows, blocks, BLOCK]
    running = blocks.sum(-1).double().cumsum(-1)  # [rows, blocks]
    total = running[:, -1:]
    target = torch.minimum(
        u[:, None] * total, torch.nextafter(total, torch.zeros_like(total))
    )  # [rows, 1], below total
    block = torch.searchsorted(running, target, right=True)  # [rows, 1]
    before = torch.where(block > 0, running.gather(1, (block - 1).clamp(min=0)), 0.0)
    inner = blocks.gather(1, block[..., None].expand(rows, 1, _BLOCK)).squeeze(1)  # [rows, BLOCK]
    sums = inner.double().cumsum(-1)
    # The block's float32 sum may exceed its float64 sum by a rounding error: stay on its last token of weight > 0.
    rest = torch.minimum(target - before, torch.nextafter(sums[:, -1:], torch.zeros_like(sums[:, -1:])))
    within = torch.searchsorted(sums, rest, right=True)
    return (block * _BLOCK + within).squeeze(1)


def sample_plain(logits: Tensor, settings: PlainSettings, u: Tensor) -> tuple[Tensor, Tensor]:
    """Draw one token per row by temperature, top-k, top-p and min-p, in transformers' order.

    A row's outcome does not depend on the others' settings: rows without top-k and top-p go through the vocabulary in
    its own order, the others from the most probable token down.

    Args:
        logits: float32 [rows, vocab].
        u: float64 [rows] in [0, 1).

    Returns:
        int64 [rows] tokens and float32 [rows] their log-probabilities (nat) under the filtered law.
    """
    rows = len(logits)
    token = torch.empty(rows, dtype=torch.long, device=logits.device)
    logprob = torch.zeros(rows, device=logits.device)
    for group, draw in ((settings.loose, _sample_loose), (settings.filtered, _sample_filtered)):
        if len(group) == rows:
            token, logprob = draw(logits, settings, group, u)
        elif len(group):
            token[group], logprob[group] = draw(logits[group], settings, group, u[group])
    if len(settings.greedy):
        token[settings.greedy], logprob[settings.greedy] = logits[settings.greedy].argmax(-1), 0.0
    return token, logprob


def _scaled(logits: Tensor, settings: PlainSettings, rows: Tensor) -> Tensor:
    """Logits over temperature, the largest 0."""
    scaled = logits - logits.amax(-1, keepdim=True)
    return scaled.div_(settings.temperature[rows, None])


def _sample_loose(logits: Tensor, settings: PlainSettings, rows: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """Without sorting: min-p is a threshold below the largest weight, which is 1."""
    weights = _scaled(logits, settings, rows).exp_()
    if settings.sifted:
        weights *= weights >= settings.min_p[rows, None]
    token = inverse_cdf(weights, u)
    return token, (weights.gather(1, token[:, None]).squeeze(1) / weights.sum(-1)).log()


def _sample_filtered(logits: Tensor, settings: PlainSettings, rows: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """From the most probable down. The whole vocabulary is sorted only where its head does not hold a row's nucleus.

    All sums run in float64 from the top, so that what lies beyond a row's own filters, and so how far the batch looks,
    can't change it.
    """
    top_k, top_p, min_p = settings.top_k[rows], settings.top_p[rows], settings.min_p[rows]
    scaled = _scaled(logits, settings, rows)
    vocab, width = scaled.shape[1], settings.widest
    total = scaled.exp().sum(-1)  # [rows], over the whole vocabulary
    head = scaled.topk(width, -1)
    if width < vocab:
        mass = head.values.exp().sum(-1) / total
        if not bool(((top_k <= width) | (mass > top_p + 1e-6)).all()):
            head = scaled.topk(vocab, -1)
    weights = _filtered_weights(head.values, total.double(), top_k, top_p, min_p)
    sums = weights.cumsum(-1)
    all_ = sums[:, -1:]
    target = torch.minimum(u[:, None] * all_, torch.nextafter(all_, torch.zeros_like(all_)))
    index = torch.searchsorted(sums, target, right=True)
    chosen = weights.gather(1, index) / all_
    return head.indices.gather(1, index).squeeze(1), chosen.log().squeeze(1).float()


def _filtered_weights(values: Tensor, total: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor) -> Tensor:
    """Weights float64 [rows, m] of sorted logits [rows, m], 0 where top-k, top-p or min-p leave a token out.

    Args:
        total: float64 [rows], the sum of exp over the whole row, of which ``values`` may be only the head.
    """
    rank = torch.arange(values.shape[1], device=values.device)
    weights = values.double().exp() * (rank < top_k[:, None])
    sums = weights.cumsum(-1)
    normaliser = torch.where(top_k <= values.shape[1], sums[:, -1], total)[:, None]
    above = (sums - weights) / normaliser  # mass of the more probable tokens
    keep = (above < top_p[:, None]) & (weights >= min_p[:, None] * weights[:, :1])
    keep[:, 0] = True
    return weights * keep


def plain_law(logits: Tensor, settings: PlainSettings) -> Tensor:
    """The law that ``sample_plain`` draws from, as probabilities float64 [rows, vocab]: the slow, plain statement."""
    vocab = logits.shape[1]
    greedy = settings.temperature == 0
    scaled = logits.double() / torch.where(greedy, 1.0, settings.temperature)[:, None]
    order = scaled.sort(dim=-1, descending=True, stable=True)
    values = order.values - order.values[:, :1]
    weights = _filtered_weights(values, values.exp().sum(-1), settings.top_k, settings.top_p, settings.min_p)
    law = torch.zeros_like(scaled).scatter(1, order.indices, weights / weights.sum(-1, keepdim=True))
    return torch.where(greedy[:, None], F.one_hot(logits.argmax(-1), vocab).to(law), law)
