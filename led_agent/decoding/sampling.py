"""Plain sampling, and the random numbers that all samplers draw from. Pure functions of tensors.

Random numbers are counter-based: a hash of (seed, position, draw), so that a branch's draws depend on its own seed
only, whatever else is in the batch and on whatever machine. The hash is integer arithmetic in torch, the same on
every device.
"""

from __future__ import annotations

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
        widest: The largest top_k of the rows that have one, None where none has.
        nucleus: Whether a row has a top_p.
    """

    temperature: Tensor
    top_k: Tensor
    top_p: Tensor
    min_p: Tensor
    widest: int | None
    nucleus: bool

    @property
    def filtered(self) -> bool:
        return self.widest is not None or self.nucleus


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

    Args:
        logits: float32 [rows, vocab].
        u: float64 [rows] in [0, 1).

    Returns:
        int64 [rows] tokens and float32 [rows] their log-probabilities (nat) under the filtered law.
    """
    top, best = logits.max(-1)  # [rows]
    greedy = settings.temperature == 0
    scaled = (logits - top[:, None]) / torch.where(greedy, 1.0, settings.temperature)[:, None]  # [rows, vocab]
    floor = settings.min_p.log()  # -inf where there is none
    if settings.filtered:
        values, ids = _candidates(scaled, settings)  # [rows, m] both, most probable first
        index = inverse_cdf(values.exp(), u)[:, None]
        token = ids.gather(1, index).squeeze(1)
        logprob = values.gather(1, index).squeeze(1) - values.logsumexp(-1)
    else:
        kept = scaled.masked_fill(scaled < floor[:, None], float("-inf"))
        weights = kept.exp()
        token = inverse_cdf(weights, u)
        logprob = kept.gather(1, token[:, None]).squeeze(1) - weights.sum(-1).log()
    return torch.where(greedy, best, token), torch.where(greedy, 0.0, logprob)


def plain_law(logits: Tensor, settings: PlainSettings) -> Tensor:
    """The law that ``sample_plain`` draws from, as probabilities float [rows, vocab]: the slow, plain statement."""
    vocab = logits.shape[1]
    greedy = settings.temperature == 0
    scaled = logits / torch.where(greedy, 1.0, settings.temperature)[:, None]
    order = scaled.sort(dim=-1, descending=True, stable=True)
    values, ids = _filter(order.values - order.values[:, :1], order.indices, settings)
    law = torch.zeros_like(scaled).scatter(1, ids, values.softmax(-1))
    return torch.where(greedy[:, None], F.one_hot(logits.argmax(-1), vocab).to(law), law)


def _candidates(scaled: Tensor, settings: PlainSettings) -> tuple[Tensor, Tensor]:
    """Filtered logits and ids, most probable first. The whole vocabulary is sorted only where the head of it does
    not hold a row's nucleus (or a row has no limit at all)."""
    vocab = scaled.shape[1]
    width = min(vocab, max(settings.widest or 0, _NUCLEUS if settings.nucleus else 0))
    head = scaled.topk(width, -1)
    mass = head.values.logsumexp(-1) - scaled.logsumexp(-1)  # [rows], log of the share that the head holds
    enough = (settings.top_k <= width) | (mass.exp() > settings.top_p + 1e-6)
    if width < vocab and not bool(enough.all()):
        head = scaled.topk(vocab, -1)
        return _filter(head.values, head.indices, settings)
    return _filter(head.values, head.indices, settings, total=scaled.logsumexp(-1))


def _filter(values: Tensor, ids: Tensor, settings: PlainSettings, total: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Apply top-k, top-p and min-p to sorted logits [rows, m]; what is filtered out becomes -inf.

    ``total`` is the whole row's log-normaliser [rows] where ``values`` is only its head.
    """
    rank = torch.arange(values.shape[1], device=values.device)
    cut = values.masked_fill(rank >= settings.top_k[:, None], float("-inf"))
    whole = values.logsumexp(-1) if total is None else total
    normaliser = torch.where(settings.top_k <= values.shape[1], cut.logsumexp(-1), whole)
    p = (cut - normaliser[:, None]).exp()
    above = p.cumsum(-1) - p  # mass of the more probable ones
    keep = (above < settings.top_p[:, None]) & (cut >= settings.min_p.log()[:, None] + cut[:, :1])
    keep[:, 0] = True
    return cut.masked_fill(~keep, float("-inf")), ids
