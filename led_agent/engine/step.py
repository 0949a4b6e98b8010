"""One decode step on the device: forward all rows, choose a token for each, move their state on.

This file knows tensors: rows, their settings and the model's parts. It does not know requests, text or events.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from led_agent.decoding.exploration import explored_law, hold
from led_agent.decoding.sampling import DRAW_GATE, DRAW_TOKEN, PlainSettings, inverse_cdf, sample_plain, uniform
from led_agent.engine.attention import decode_mask
from led_agent.engine.cache import BUCKET, SlotCache, round_up
from led_agent.engine.model import ModelParts, Thinking
from led_agent.types import Decoding, DepthExploration

__all__ = ["Chosen", "Group", "Plan", "RowState", "choose", "decode_step", "row_multiple"]

# Logits of shallower states held at a time.
_TILE_BYTES = 24 * 2**20


def row_multiple(device: torch.device) -> int:
    """Rows are computed in multiples of this many.

    On CPU, matrix products of 1 to 3 rows, and of odd remainders, take other kernels than those of 4, 8, 12, … rows,
    and round differently; in multiples of 4 a row's result is to the bit the same whatever the number of rows.
    """
    return 4 if device.type == "cpu" else 1


class RowState:
    """What each row carries from step to step: tensors with one entry a slot.

    Attributes:
        token: int64, the token that goes into the next forward.
        position: int64, where it stands in the sequence.
        seed: int64.
        thinking: bool, whether the row is inside its thinking.
        recent: int64 [slots, w], the last tokens, -1 where there are none; w the longer thinking tag's length.
    """

    def __init__(self, slots: int, thinking: Thinking, device: torch.device) -> None:
        zeros = torch.zeros(slots, dtype=torch.long, device=device)
        self.token, self.position, self.seed = zeros.clone(), zeros.clone(), zeros.clone()
        self.thinking = zeros.bool()
        self.tags = thinking
        width = max(len(thinking.open), len(thinking.close), 1)
        self.recent = torch.full((slots, width), -1, dtype=torch.long, device=device)

    def place(self, row: int, token: int, position: int, seed: int, *, thinking: bool, recent: Sequence[int]) -> None:
        """Begin a branch in a row."""
        self.token[row], self.position[row], self.seed[row], self.thinking[row] = token, position, seed, thinking
        width = self.recent.shape[1]
        tail = list(recent[-width:])
        self.recent[row] = torch.tensor([-1] * (width - len(tail)) + tail, device=self.recent.device)

    def move(self, source: int, target: int) -> None:
        """Copy one row's state onto another."""
        for tensor in (self.token, self.position, self.seed, self.thinking, self.recent):
            tensor[target] = tensor[source]

    def advance(self, token: Tensor) -> None:
        """Take in the tokens just chosen, int64 [rows]."""
        rows = len(token)
        self.token[:rows] = token
        self.position[:rows] += 1
        if not self.tags:
            return
        self.recent[:rows] = torch.cat([self.recent[:rows, 1:], token[:, None]], 1)
        opened, closed = self._ends_with(self.tags.open, rows), self._ends_with(self.tags.close, rows)
        self.thinking[:rows] = (self.thinking[:rows] | opened) & ~closed

    def closing(self, rows: Tensor) -> Tensor:
        """int64 [rows]: the token that would come next in ``</think>``; its first token where none of it stands yet."""
        close = self.tags.close
        recent = self.recent[rows]
        found = torch.full((len(rows),), close[0], device=recent.device)
        for length in range(1, len(close)):
            begun = torch.tensor(close[:length], device=recent.device)
            found = torch.where((recent[:, -length:] == begun).all(1), close[length], found)
        return found

    def _ends_with(self, tag: tuple[int, ...], rows: int) -> Tensor:
        wanted = torch.tensor(tag, device=self.recent.device)
        return (self.recent[:rows, -len(tag) :] == wanted).all(1)


@dataclass(frozen=True)
class Group:
    """Rows that explore in the same way. ``everywhere`` is off where they do so inside their thinking only."""

    rows: Tensor  # int64 [m]
    temperature: Tensor  # float32 [m]
    exploration: DepthExploration
    blocks: tuple[int, ...]  # after how many blocks each shallower slot is read
    everywhere: bool


@dataclass(frozen=True)
class Plan:
    """How the rows of a batch choose their tokens. Made anew when the batch changes, not at every step."""

    rows: int
    plain: PlainSettings
    needs_plain: bool
    groups: tuple[Group, ...]

    @property
    def taps(self) -> frozenset[int]:
        return frozenset(block for group in self.groups for block in group.blocks)

    @classmethod
    def of(cls, decodings: Sequence[Decoding], spans: Sequence[str], parts: ModelParts) -> Plan:
        """Args: one decoding and resolved span ("think", "all", "none") for each row."""
        device, vocab = parts.device, parts.vocab
        settings = [(d.temperature, d.top_k, d.top_p, d.min_p) for d in decodings]
        plain = PlainSettings.of(settings, vocab, device)
        members: dict[tuple[DepthExploration, str], list[int]] = {}
        for row, (decoding, span) in enumerate(zip(decodings, spans, strict=True)):
            if decoding.exploration is not None and not decoding.is_greedy and span != "none":
                members.setdefault((decoding.exploration, span), []).append(row)
        groups = tuple(
            Group(
                rows=torch.tensor(rows, device=device),
                temperature=plain.temperature[torch.tensor(rows, device=device)],
                exploration=exploration,
                blocks=exploration.blocks(parts.n_blocks),
                everywhere=span == "all",
            )
            for (exploration, span), rows in members.items()
        )
        everywhere = sum(len(group.rows) for group in groups if group.everywhere)
        return cls(len(decodings), plain, everywhere < len(decodings), groups)


@dataclass
class Chosen:
    """A step's outcome, one entry a row: int64 tokens; float32 log-probabilities (nat) under the law drawn from and
    under the clean final posterior; float32 entropies (nat) of the latter; whether the token was drawn from a
    shallower posterior; whether all logits were finite."""

    token: Tensor
    logprob: Tensor
    final_logprob: Tensor
    entropy: Tensor
    explored: Tensor
    sound: Tensor


def decode_step(parts: ModelParts, cache: SlotCache, state: RowState, plan: Plan, longest: int) -> Chosen:
    """Compute one token for rows 0 … plan.rows - 1 and move their state on.

    Args:
        longest: The furthest position of a live row.
    """
    rows = round_up(plan.rows, row_multiple(parts.device))
    reach = min(round_up(longest + 1, BUCKET), cache.capacity)
    position = state.position[:rows].clamp(max=cache.capacity - 1)
    cache.begin(position, reach)
    mask = decode_mask(position, reach, parts.dtype)
    with parts.tapping(plan.taps) as taps:
        final = parts.hidden(state.token[:rows, None], position[:, None], mask, cache)[:, -1]  # [rows, hidden]
        logits = parts.head(final)[: plan.rows].float()  # [plan.rows, vocab]
        chosen = choose(parts, logits, {after: tap[:, -1] for after, tap in taps.items()}, state, plan)
    state.advance(chosen.token)
    return chosen


def choose(parts: ModelParts, logits: Tensor, taps: dict[int, Tensor], state: RowState, plan: Plan) -> Chosen:
    """Draw each row's token.

    Args:
        logits: float32 [rows, vocab], the final layer's.
        taps: Residual streams [rows or more, hidden] by the number of blocks behind them.
    """
    rows = plan.rows
    shifted = logits - logits.amax(-1, keepdim=True)  # [rows, vocab]
    weights = shifted.exp()
    total = weights.sum(-1)
    # A product of a row and a column is one pass over both, with no third tensor of the vocabulary's size.
    entropy = total.log() - torch.bmm(weights[:, None], shifted[:, :, None]).view(-1) / total
    sound = entropy.isfinite()
    if not bool(sound.all()):
        shifted = torch.where(sound[:, None], shifted, 0.0)  # something to draw from; the engine drops the row
    seed, position = state.seed[:rows], state.position[:rows] + 1
    u = uniform(seed, position, DRAW_TOKEN)
    if plan.needs_plain:
        token, logprob = sample_plain(shifted, plan.plain, u)
    else:
        token, logprob = torch.zeros_like(seed), torch.zeros_like(entropy)
    chosen = Chosen(token, logprob, entropy, entropy, torch.zeros_like(sound), sound)
    gate = uniform(seed, position, DRAW_GATE)
    for group in plan.groups:
        _explore(parts, group, shifted, taps, state, gate, u, chosen)
    chosen.final_logprob = shifted.gather(1, chosen.token[:, None]).squeeze(1) - total.log()
    return chosen


def _explore(
    parts: ModelParts,
    group: Group,
    logits: Tensor,
    taps: dict[int, Tensor],
    state: RowState,
    gate: Tensor,
    u: Tensor,
    chosen: Chosen,
) -> None:
    """Overwrite the choice of the group's rows that are in their span. The gate is drawn first: only rows that do
    explore pay for the shallower posteriors, and the law is the same."""
    rows, temperature = group.rows, group.temperature
    inside = torch.ones_like(rows, dtype=torch.bool) if group.everywhere else state.thinking[rows]
    rows, temperature = rows[inside], temperature[inside]
    if len(rows) == 0:
        return
    scaled = logits[rows] / temperature[:, None]  # [m, vocab]
    top = scaled.topk(group.exploration.top_k, -1)  # [m, k]
    p0 = (top.values - scaled.logsumexp(-1, keepdim=True)).exp()  # [m, k]
    law = p0 / p0.sum(-1, keepdim=True)
    eager = gate[rows] < 1 - p0[:, 0] if group.exploration.exploit else torch.ones_like(rows, dtype=torch.bool)
    explores = eager & (group.exploration.depths > 1)
    which = explores.nonzero().squeeze(1)
    if len(which):
        states = torch.stack([taps[after][rows[which]] for after in group.blocks], 1)  # [e, d-1, hidden]
        below = _posteriors(parts, states, top.indices[which], temperature[which], group.exploration.norm)
        q, _ = explored_law(torch.cat([p0[which, None], below], 1).double())
        if not group.everywhere:
            q = hold(q, law[which].double(), top.indices[which] == state.closing(rows[which])[:, None])
        finite = q.isfinite().all(-1)
        chosen.sound[rows[which]] &= finite
        law[which] = torch.where(finite[:, None], q.to(law.dtype), law[which])
    index = inverse_cdf(law, u[rows])[:, None]
    token = top.indices.gather(1, index).squeeze(1)
    if not group.everywhere:  # the closing tag's probability was held: drawing it is no exploration
        explores = explores & (token != state.closing(rows))
    chosen.token[rows] = token
    chosen.logprob[rows] = law.gather(1, index).squeeze(1).log()
    chosen.explored[rows] = explores


def _posteriors(parts: ModelParts, states: Tensor, ids: Tensor, temperature: Tensor, norm: str) -> Tensor:
    """Probabilities of the candidates under the shallower states, over the whole vocabulary.

    Args:
        states: [e, d-1, hidden].
        ids: int64 [e, k].
        temperature: float32 [e].

    Returns:
        float32 [e, d-1, k].
    """
    explorers, below, width = states.shape
    flat = states.reshape(-1, width)
    multiple = row_multiple(states.device)
    padded = round_up(len(flat), multiple)
    flat = torch.cat([flat, flat.new_zeros(padded - len(flat), width)]) if padded > len(flat) else flat
    tile = max(multiple, _TILE_BYTES // (4 * parts.vocab) // multiple * multiple)
    wanted = ids.repeat_interleave(below, 0)  # [e * (d-1), k]
    warmth = temperature.repeat_interleave(below)[:, None]
    found = []
    for start in range(0, explorers * below, tile):
        piece = flat[start : start + tile]
        logits = parts.head(parts.norm(piece) if norm == "final" else piece).float()
        part = slice(start, min(start + tile, explorers * below))
        logits = logits[: part.stop - part.start] / warmth[part]
        logits -= logits.amax(-1, keepdim=True)
        picked = logits.gather(1, wanted[part])
        # Below -80 a weight is nothing next to the largest, 1; unnormed states have logits of thousands, and exp of
        # those is many times slower.
        found.append(picked.exp() / logits.clamp_(min=-80.0).exp_().sum(-1, keepdim=True))
    return torch.cat(found).view(explorers, below, -1)
