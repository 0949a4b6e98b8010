"""Plain sampling, and the random numbers that all samplers draw from. Pure functions of tensors.

Random numbers are counter-based: a hash of (seed, position, draw), so that a branch's draws depend on its own seed
only, whatever else is in the batch and on whatever machine. The hash is integer arithmetic in torch, the same on
every device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F  # noqa: N812  (the name everybody knows it by)
from torch import Tensor

__all__ = [
    "BELOW_ONE",
    "DRAW_GATE",
    "DRAW_RESEED",
    "DRAW_SHIFT",
    "DRAW_TOKEN",
    "Drawn",
    "PlainSettings",
    "filtered_weights",
    "inverse_cdf",
    "lay",
    "lay_everywhere",
    "lay_ordered",
    "normals",
    "nothing_drawn",
    "plain_law",
    "put",
    "row_sum",
    "sample_plain",
    "uniform",
]

DRAW_GATE, DRAW_TOKEN, DRAW_NOISE, DRAW_SHIFT, DRAW_RESEED = 0, 1, 2, 3, 15
_DRAWS = 16  # draws set aside for each position
_BLOCK = 256  # tokens per block of the two-level inverse CDF
_HEAD = 128  # tokens that are laid by probability before the rest is laid by id
BELOW_ONE = 1.0 - 2.0**-53
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
    return _shift(_hash(seed, position, draw), 11).double() * 2.0**-53


def _hash(seed: Tensor, position: Tensor, draw: int) -> Tensor:
    return _mix(_mix(seed) + (position * _DRAWS + draw) * _GOLDEN)


def normals(seed: Tensor, position: Tensor, n: int) -> Tensor:
    """Standard normal numbers by Box and Muller's transform, two from each 64-bit hash.

    Args:
        seed, position: int64 [rows].

    Returns:
        float32 [rows, n].
    """
    pairs = torch.arange(1, (n + 1) // 2 + 1, device=seed.device)
    bits = _mix(_hash(seed, position, DRAW_NOISE)[:, None] + pairs * _GOLDEN)  # [rows, pairs]
    radius = (_shift(bits, 40).float() + 0.5).mul_(2.0**-24).log_().mul_(-2).sqrt_()  # from 24 bits, never 0
    angle = (bits & 0xFFFFFF).float().mul_(2 * torch.pi * 2.0**-24)
    return torch.cat([radius * angle.cos(), radius * angle.sin()], -1)[:, :n]


@dataclass(frozen=True)
class Drawn:
    """One token a row, and where in the token's interval of cumulative probability the number lay that drew it.

    Attributes:
        token: int64 [rows].
        logprob: float32 [rows], nat, under the law drawn from.
        code: float64 [rows] in [0, 1), uniform again given the token.
        width: float64 [rows], the interval's width, which is the token's probability.
    """

    token: Tensor
    logprob: Tensor
    code: Tensor
    width: Tensor


@dataclass(frozen=True)
class PlainSettings:
    """The plain sampler's settings by row, and on the host what decides the path.

    Attributes:
        temperature: float32 [rows]; 0 is greedy.
        top_k: int64 [rows]; the vocabulary's size where there is no limit.
        top_p, min_p: float32 [rows]; 1 and 0 where there is no limit.
        greedy, loose, laid: int64, the rows of each kind: temperature 0; neither top_k nor top_p, which need no
            sorting; the same, their tokens laid by probability.
        filtered: The others, always laid by probability: how many of the most probable tokens to look at before
            sorting them all, and the rows that this holds for. A row's own settings say how many: where tokens are
            equally probable, their order depends on it.
        sifted: Whether a row has a min_p.
    """

    temperature: Tensor
    top_k: Tensor
    top_p: Tensor
    min_p: Tensor
    greedy: Tensor
    loose: Tensor
    laid: Tensor
    filtered: tuple[tuple[int, Tensor], ...]
    sifted: bool

    @classmethod
    def of(
        cls,
        rows: Sequence[tuple[float, int | None, float, float]],
        vocab: int,
        device: torch.device | str = "cpu",
        *,
        stratified: Sequence[bool] = (),
    ) -> PlainSettings:
        """From (temperature, top_k, top_p, min_p) of each row, and whether it is a stratified sibling."""
        unsorted = ["laid" if laid else "loose" for laid in stratified or [False] * len(rows)]
        kinds = [
            "greedy" if t == 0 else "filtered" if k is not None or p < 1 else kind
            for (t, k, p, _), kind in zip(rows, unsorted, strict=True)
        ]
        widths: dict[int, list[int]] = {}
        for i, (kind, (_, k, _, _)) in enumerate(zip(kinds, rows, strict=True)):
            if kind == "filtered":
                widths.setdefault(min(vocab, k or _NUCLEUS), []).append(i)

        def of_kind(wanted: str) -> Tensor:
            return torch.tensor([i for i, kind in enumerate(kinds) if kind == wanted], dtype=torch.long, device=device)

        return cls(
            temperature=torch.tensor([t for t, _, _, _ in rows], device=device),
            top_k=torch.tensor([k if k is not None else vocab for _, k, _, _ in rows], device=device),
            top_p=torch.tensor([p for _, _, p, _ in rows], device=device),
            min_p=torch.tensor([m for _, _, _, m in rows], device=device),
            greedy=of_kind("greedy"),
            loose=of_kind("loose"),
            laid=of_kind("laid"),
            filtered=tuple((width, torch.tensor(at, device=device)) for width, at in widths.items()),
            sifted=any(m > 0 for _, _, _, m in rows),
        )


def row_sum(x: Tensor, *, exact: bool = False) -> Tensor:
    """Sums of float [rows, n] as float64 [rows], in blocks: a single long sum is split among threads where there are
    fewer rows than threads, and then rounds differently with how many rows there are.

    Args:
        exact: Sum in float64 inside the blocks too, which takes longer.
    """
    rows, n = x.shape
    whole = n - n % _BLOCK
    blocks = x[:, :whole].as_strided((rows, whole // _BLOCK, _BLOCK), (x.stride(0), _BLOCK, 1))
    sums = blocks.sum(-1, dtype=torch.float64 if exact else None).sum(-1, dtype=torch.float64)
    return sums + x[:, whole:].sum(-1, dtype=torch.float64)


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


def lay(weights: Tensor, u: Tensor) -> Drawn:
    """Lay tokens on [0, 1) by cumulative probability, most probable first, and take the one that holds u.

    The most probable tokens are laid by probability; what is left behind these, by id: only a row whose u lies there
    looks at all of them. Intervals are float64 sums of the weights given.

    Args:
        weights: float [rows, n], not negative, not all zero; they need not sum to 1.
        u: float64 [rows] in [0, 1).
    """
    n = weights.shape[1]
    head = weights.topk(min(_HEAD, n), -1)
    sums = head.values.double().cumsum(-1)  # [rows, head]
    total = sums[:, -1] if n <= _HEAD else row_sum(weights, exact=True).maximum(sums[:, -1])
    target = (u * total).minimum(torch.nextafter(total, torch.zeros_like(total)))
    token, low, width = _interval(head.values.double(), sums, target)
    token = head.indices.gather(1, token[:, None]).squeeze(1)
    beyond = (target >= sums[:, -1]).nonzero().squeeze(1)
    if len(beyond):
        rest = weights[beyond].scatter(1, head.indices[beyond], 0.0).double()  # [few, n]
        behind = rest.cumsum(-1)
        some = behind[:, -1] > 0  # else only rounding led here, and the head's last token stands
        which, edge = beyond[some], sums[beyond[some], -1]
        token[which], low[which], width[which] = _interval(rest[some], behind[some], target[which] - edge)
        low[which] += edge
    code = ((target - low) / width).clamp(0.0, BELOW_ONE)
    return Drawn(token, (width / total).log().float(), code, width / total)


def lay_ordered(weights: Tensor, u: Tensor) -> Drawn:
    """``lay`` for float64 weights [rows, k] that are in the order wanted already; tokens are indices into it."""
    sums = weights.cumsum(-1)
    total = sums[:, -1]
    target = (u * total).minimum(torch.nextafter(total, torch.zeros_like(total)))
    index, low, width = _interval(weights, sums, target)
    code = ((target - low) / width).clamp(0.0, BELOW_ONE)
    return Drawn(index, (width / total).log().float(), code, width / total)


def lay_everywhere(weights: Tensor, u: Tensor) -> Drawn:
    """``lay`` without a look at the outcome: what lies behind the most probable tokens is searched for every row, in
    blocks, so that a device need not wait for its host."""
    rows, n = weights.shape
    head = weights.topk(min(_HEAD, n), -1)
    sums = head.values.double().cumsum(-1)  # [rows, head]
    total = sums[:, -1] if n <= _HEAD else row_sum(weights, exact=True).maximum(sums[:, -1])
    target = (u * total).minimum(torch.nextafter(total, torch.zeros_like(total)))
    token, low, width = _interval(head.values.double(), sums, target)
    token = head.indices.gather(1, token[:, None]).squeeze(1)
    if n > _HEAD:
        rest = F.pad(weights.scatter(1, head.indices, 0.0), (0, -n % _BLOCK)).view(rows, -1, _BLOCK)
        blocks = rest.sum(-1, dtype=torch.float64)
        running = blocks.cumsum(-1)
        edge = sums[:, -1]
        block, before, _ = _interval(blocks, running, target - edge)
        inner = rest.gather(1, block[:, None, None].expand(rows, 1, _BLOCK)).squeeze(1).double()
        within, start, size = _interval(inner, inner.cumsum(-1), target - edge - before)
        behind = (target >= edge) & (
            running[:, -1] > 0
        )  # else only rounding led here, and the head's last token stands
        token = torch.where(behind, block * _BLOCK + within, token)
        low, width = torch.where(behind, edge + before + start, low), torch.where(behind, size, width)
    code = ((target - low) / width).clamp(0.0, BELOW_ONE)
    return Drawn(token, (width / total).log().float(), code, width / total)


def _interval(weights: Tensor, sums: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Index, lower edge and width [rows] of the interval that holds each target; the last one of width above 0 for a
    target beyond them all. Weights and their running sums: float64 [rows, n]."""
    end = torch.nextafter(sums[:, -1:], torch.zeros_like(sums[:, -1:]))
    index = torch.searchsorted(sums, target[:, None].minimum(end), right=True)
    index = index.clamp(max=weights.shape[1] - 1)  # where there are no weights at all, whatever it is worth
    width = weights.gather(1, index)
    low = sums.gather(1, index) - width
    return index.squeeze(1), low.squeeze(1), width.squeeze(1)


def sample_plain(logits: Tensor, settings: PlainSettings, u: Tensor) -> Drawn:
    """Draw one token per row by temperature, top-k, top-p and min-p, in transformers' order.

    A row's outcome does not depend on the others' settings.

    Args:
        logits: float32 [rows, vocab].
        u: float64 [rows] in [0, 1).
    """
    rows = len(logits)
    kinds: list[tuple[Tensor, Callable[[Tensor, PlainSettings, Tensor, Tensor], Drawn]]] = [
        (settings.loose, _sample_loose),
        (settings.laid, _sample_laid),
        (settings.greedy, _most_probable),
        *((group, partial(_sample_filtered, width=width)) for width, group in settings.filtered),
    ]
    drawn: Drawn | None = None
    for group, draw in kinds:
        if len(group) == rows:
            return draw(logits, settings, group, u)
        if len(group):
            drawn = put(drawn or nothing_drawn(u), group, draw(logits[group], settings, group, u[group]))
    return drawn or nothing_drawn(u)


def nothing_drawn(u: Tensor) -> Drawn:
    """As many rows as ``u`` has, to be overwritten."""
    return Drawn(
        torch.zeros_like(u, dtype=torch.long), torch.zeros_like(u, dtype=torch.float32), u.clone(), torch.ones_like(u)
    )


def put(drawn: Drawn, rows: Tensor, part: Drawn) -> Drawn:
    """Write the draws of some rows over what stands there, in place."""
    drawn.token[rows], drawn.logprob[rows] = part.token, part.logprob
    drawn.code[rows], drawn.width[rows] = part.code, part.width
    return drawn


def _most_probable(logits: Tensor, _settings: PlainSettings, _rows: Tensor, u: Tensor) -> Drawn:
    """Greedy: nothing is drawn, and the code stays as it is."""
    return Drawn(logits.argmax(-1), torch.zeros(len(logits), device=logits.device), u.clone(), torch.ones_like(u))


def _scaled(logits: Tensor, settings: PlainSettings, rows: Tensor) -> Tensor:
    """Logits over temperature, the largest 0."""
    scaled = logits - logits.amax(-1, keepdim=True)
    return scaled.div_(settings.temperature[rows, None])


def _weights(logits: Tensor, settings: PlainSettings, rows: Tensor) -> Tensor:
    """Without sorting: min-p is a threshold below the largest weight, which is 1."""
    weights = _scaled(logits, settings, rows).exp_()
    if settings.sifted:
        weights *= weights >= settings.min_p[rows, None]
    return weights


def _sample_loose(logits: Tensor, settings: PlainSettings, rows: Tensor, u: Tensor) -> Drawn:
    """The quickest way: through the vocabulary in its own order. What the code would be is not computed."""
    weights = _weights(logits, settings, rows)
    token = inverse_cdf(weights, u)
    width = weights.gather(1, token[:, None]).squeeze(1) / row_sum(weights)
    return Drawn(token, width.log().float(), u.clone(), width)


def _sample_laid(logits: Tensor, settings: PlainSettings, rows: Tensor, u: Tensor) -> Drawn:
    return lay(_weights(logits, settings, rows), u)


def _sample_filtered(logits: Tensor, settings: PlainSettings, rows: Tensor, u: Tensor, *, width: int) -> Drawn:
    """From the most probable down. The whole vocabulary is sorted only for rows whose nucleus its head does not hold.

    All sums run in float64 from the top, so that what lies beyond a row's own filters can't change it.
    """
    top_k, top_p, min_p = settings.top_k[rows], settings.top_p[rows], settings.min_p[rows]
    scaled = _scaled(logits, settings, rows)
    total = row_sum(scaled.exp())  # [rows], over the whole vocabulary
    head = scaled.topk(width, -1)
    weights = filtered_weights(head.values, total, top_k, top_p, min_p)
    drawn = lay_ordered(weights, u)
    drawn = replace(drawn, token=head.indices.gather(1, drawn.token[:, None]).squeeze(1))
    mass = head.values.exp().sum(-1) / total
    short = ((top_k > width) & (mass <= top_p + 1e-6)).nonzero().squeeze(1)
    if len(short) and width < scaled.shape[1]:
        part = _sample_filtered(logits[short], settings, rows[short], u[short], width=scaled.shape[1])
        drawn = put(drawn, short, part)
    return drawn


def filtered_weights(values: Tensor, total: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor) -> Tensor:
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
    weights = filtered_weights(values, values.exp().sum(-1), settings.top_k, settings.top_p, settings.min_p)
    law = torch.zeros_like(scaled).scatter(1, order.indices, weights / weights.sum(-1, keepdim=True))
    return torch.where(greedy[:, None], F.one_hot(logits.argmax(-1), vocab).to(law), law)
