"""A decode step that never looks at its own outcome: the same tensors and calls whatever is drawn.

A device can run many such steps without its host, and CUDA can record one as a graph and replay it. What every row
wants is in tensors, not in the calls: only which kinds of rows there are (``Shape``) decides what is called. Plain
sampling and LED are covered; the rest goes through ``choose``, which gives the same tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from led_agent.decoding.exploration import explored_law, hold
from led_agent.decoding.sampling import (
    DRAW_GATE,
    Drawn,
    filtered_weights,
    inverse_cdf,
    lay_everywhere,
    lay_ordered,
    nothing_drawn,
    row_sum,
    uniform,
)
from led_agent.engine.cache import Sharing, SlotCache
from led_agent.engine.choose import Chosen, candidates, posterior, posteriors
from led_agent.engine.model import ModelParts
from led_agent.engine.state import RowState
from led_agent.types import Decoding, DepthExploration, Sibling

__all__ = ["Rows", "Shape", "StaticPlan", "static_step"]

# Rows times posteriors up to which the head is bound by reading its weights on an accelerator, so that exploring every
# row costs nothing; beyond, only rows whose gate opens are explored, up to a capacity.
_FREE_POSTERIORS = 184


@dataclass(frozen=True)
class Shape:
    """What is called: two plans of one shape run the same program.

    Attributes:
        rows: Rows computed.
        loose, laid, greedy: Whether there are rows of these kinds (``PlainSettings``).
        filtered: How many of the most probable tokens filtered rows look at; 0 where there are none.
        sifted: Whether a row has a min_p.
        exploration: LED's settings, where there are rows that explore.
        capacity: How many rows may explore in one step; those beyond are computed again in the next.
        shared: The prefix that all rows attend to, by its identity.
    """

    rows: int
    loose: bool
    laid: bool
    greedy: bool
    filtered: int
    sifted: bool
    exploration: DepthExploration | None
    capacity: int
    shared: int | None


@dataclass(frozen=True)
class Rows:
    """What each row wants: tensors [rows]."""

    temperature: Tensor  # float32; 1 where greedy
    top_k: Tensor  # int64
    top_p: Tensor  # float32
    min_p: Tensor  # float32
    laid: Tensor  # bool
    greedy: Tensor  # bool
    filtered: Tensor  # bool
    explores: Tensor  # bool
    everywhere: Tensor  # bool, not inside the thinking only

    def copied(self) -> Rows:
        """The same in tensors of its own."""
        return Rows(**{field.name: getattr(self, field.name).clone() for field in fields(self)})

    def load(self, other: Rows) -> None:
        """Take over another's values, in place."""
        for field in fields(self):
            getattr(self, field.name).copy_(getattr(other, field.name))


@dataclass(frozen=True)
class StaticPlan:
    """A batch as ``static_step`` takes it."""

    shape: Shape
    rows: Rows
    sharing: tuple[Sharing, ...]

    @classmethod
    def of(
        cls,
        decodings: Sequence[Decoding],
        spans: Sequence[str],
        parts: ModelParts,
        siblings: Sequence[Sibling | None],
        sharing: Sequence[Sharing],
        rows: int,
    ) -> StaticPlan | None:
        """Args: as for ``Plan.of``; ``rows`` are computed, the last of them for nobody. None where a row's method looks
        at outcomes."""
        explorations = {d.exploration for d, span in zip(decodings, spans, strict=True) if _explores(d, span)}
        if len(explorations) > 1 or len(sharing) > 1 or any(s.rows is not None for s in sharing):
            return None
        if any(_looks(d, span) for d, span in zip(decodings, spans, strict=True)):
            return None
        filtered = [d.top_k is not None or d.top_p < 1 for d in decodings]
        laid = [
            d.siblings == "stratified" and s is not None and s.of > 1 for d, s in zip(decodings, siblings, strict=True)
        ]
        widths = [min(parts.vocab, d.top_k or parts.vocab) for d, f in zip(decodings, filtered, strict=True) if f]
        explores = [_explores(d, span) for d, span in zip(decodings, spans, strict=True)]
        wants = Rows(
            temperature=_column(parts, rows, [1.0 if d.is_greedy else d.temperature for d in decodings], 1.0),
            top_k=_column(parts, rows, [d.top_k or parts.vocab for d in decodings], parts.vocab),
            top_p=_column(parts, rows, [d.top_p for d in decodings], 1.0),
            min_p=_column(parts, rows, [d.min_p for d in decodings], 0.0),
            laid=_column(parts, rows, laid, False),
            greedy=_column(parts, rows, [d.is_greedy for d in decodings], False),
            filtered=_column(parts, rows, filtered, False),
            explores=_column(parts, rows, explores, False),
            everywhere=_column(parts, rows, [span == "all" for span in spans], False),
        )
        exploration = next(iter(explorations), None)
        shape = Shape(
            rows=rows,
            loose=any(_is_loose(d, span, la) for d, span, la in zip(decodings, spans, laid, strict=True)),
            laid=any(laid),
            greedy=any(d.is_greedy for d in decodings),
            filtered=max(widths, default=0),
            sifted=any(d.min_p > 0 for d in decodings),
            exploration=exploration,
            capacity=_capacity(exploration, rows),
            shared=id(sharing[0].prefix) if sharing else None,
        )
        return cls(shape, wants, tuple(sharing))


def _explores(decoding: Decoding, span: str) -> bool:
    return span != "none" and decoding.exploration is not None and not decoding.is_greedy


def _is_loose(decoding: Decoding, span: str, laid: bool) -> bool:
    everywhere = _explores(decoding, span) and span == "all"
    return not (decoding.is_greedy or decoding.top_k is not None or decoding.top_p < 1 or laid or everywhere)


def _looks(decoding: Decoding, span: str) -> bool:
    """Whether a method is in use that ``static_step`` doesn't have."""
    others = span != "none" and (decoding.noisy or decoding.contrast or decoding.distiller)
    return bool(others or decoding.guard or decoding.typical_p < 1.0 or decoding.repetition_penalty != 1.0)


def _column(parts: ModelParts, rows: int, values: Sequence[float], rest: float) -> Tensor:
    return torch.tensor([*values, *[rest] * (rows - len(values))], device=parts.device)


def _capacity(exploration: DepthExploration | None, rows: int) -> int:
    if exploration is None:
        return 0
    if rows * (exploration.depths - 1) <= _FREE_POSTERIORS or not exploration.gate_first:
        return rows
    return min(rows, max(16, rows // 2))


def static_step(
    parts: ModelParts, cache: SlotCache, state: RowState, plan: StaticPlan, reach: int
) -> tuple[Chosen, Tensor]:
    """Compute one token for every row and move the rows' state on.

    Args:
        reach: How many places of a slot are read; all rows write below it.

    Returns:
        What was chosen, and bool [rows]: whether it counts. Where it doesn't, the row has found no room to explore, and
        stands where it stood.
    """
    rows, exploration = plan.shape.rows, plan.shape.exploration
    position = state.position[:rows]
    cache.begin(position, reach - 1, plan.sharing)
    taps = exploration.blocks(parts.n_blocks) if exploration is not None else ()
    final, kept = parts.forward(state.token[:rows], position, cache, taps)
    shifted, total, entropy, sound = posterior(parts.head(final).float())
    shifted = torch.where(sound[:, None], shifted, 0.0)
    u, coded = state.numbers(rows)
    drawn = _plain(shifted, plan, u)
    taken, explored = torch.ones_like(sound), torch.zeros_like(sound)
    if exploration is not None:
        states = torch.stack([kept[after] for after in taps], 1) if taps else None
        drawn, explored, taken, sound = _led(parts, shifted, states, state, plan, u, drawn, sound)
    state.follow(drawn, coded & taken)
    state.advance(drawn.token, taken)
    state.doubt[:rows] = torch.where(taken, 1.0 - total.float().reciprocal(), state.doubt[:rows])
    final_logprob = shifted.gather(1, drawn.token[:, None]).squeeze(1) - total.log().float()
    top = total.float().reciprocal()
    return Chosen(drawn.token, drawn.logprob, final_logprob, entropy, top, explored, sound), taken


def _mixed(where: Tensor, new: Drawn, old: Drawn) -> Drawn:
    """``new`` in the rows of ``where``, ``old`` in the others."""
    return Drawn(*(torch.where(where, getattr(new, f.name), getattr(old, f.name)) for f in fields(Drawn)))


def _plain(shifted: Tensor, plan: StaticPlan, u: Tensor) -> Drawn:
    """The plain sampler's kinds, each for all rows, and of each the rows that want it."""
    shape, rows = plan.shape, plan.rows
    drawn = nothing_drawn(u)
    scaled = shifted / rows.temperature[:, None]
    if shape.loose or shape.laid:
        weights = scaled.exp()
        if shape.sifted:
            weights = weights * (weights >= rows.min_p[:, None])
        if shape.loose:
            token = inverse_cdf(weights, u)
            width = weights.gather(1, token[:, None]).squeeze(1) / row_sum(weights)
            drawn = Drawn(token, width.log().float(), u, width)
        if shape.laid:
            drawn = _mixed(rows.laid, lay_everywhere(weights, u), drawn)
    if shape.filtered:
        head = scaled.topk(shape.filtered, -1)
        kept = filtered_weights(head.values, row_sum(scaled.exp()), rows.top_k, rows.top_p, rows.min_p)
        found = lay_ordered(kept, u)
        token = head.indices.gather(1, found.token[:, None]).squeeze(1)
        drawn = _mixed(rows.filtered, Drawn(token, found.logprob, found.code, found.width), drawn)
    if shape.greedy:
        best = Drawn(shifted.argmax(-1), torch.zeros_like(drawn.logprob), u, torch.ones_like(u))
        drawn = _mixed(rows.greedy, best, drawn)
    return drawn


def _led(
    parts: ModelParts,
    shifted: Tensor,
    states: Tensor | None,
    state: RowState,
    plan: StaticPlan,
    u: Tensor,
    plain: Drawn,
    sound: Tensor,
) -> tuple[Drawn, Tensor, Tensor, Tensor]:
    """LED's law for the rows that are in their span: what is drawn, whether it was explored, whether it counts, and
    whether all was finite."""
    rows, settings, n = plan.rows, plan.shape.exploration, plan.shape.rows
    assert settings is not None
    every = torch.arange(n, device=u.device)
    inside = rows.explores & (rows.everywhere | state.thinking[:n])
    top = shifted.topk(settings.top_k, -1)  # [rows, k]
    p0 = candidates(top.values, shifted, rows.temperature)
    own = p0 / p0.sum(-1, keepdim=True)
    stay = p0[:, 0] if settings.exploit else torch.zeros_like(p0[:, 0])
    if states is None:  # one posterior only: the final one
        found = lay_ordered(own, u)
        token = top.indices.gather(1, found.token[:, None]).squeeze(1)
        drawn = _mixed(inside, Drawn(token, found.logprob, found.code, found.width), plain)
        return drawn, torch.zeros_like(inside), torch.ones_like(inside), sound
    gate = uniform(state.seed[:n], state.position[:n] + 1, DRAW_GATE)
    explores = inside & (gate < 1 - stay) if settings.gate_first else inside
    which, covered = _compacted(explores, plan.shape.capacity)
    below = posteriors(parts, states[which], top.indices[which], rows.temperature[which], settings)
    allowed = shifted[which].gather(1, top.indices[which]).isneginf().logical_not()
    q, _ = explored_law(torch.cat([p0[which, None], below.double()], 1), allowed)
    if state.tags:
        closing = top.indices[which] == state.closing(every)[which, None]
        q = torch.where(rows.everywhere[which, None], q, hold(q, own[which], closing))
    finite = q.isfinite().all(-1)
    q = own.index_copy(0, which, torch.where((finite & explores[which])[:, None], q, own[which]))
    sound = sound & torch.ones_like(sound).index_copy(0, which, finite | ~explores[which])
    law = q if settings.gate_first else stay[:, None] * own + (1 - stay[:, None]) * q
    found = lay_ordered(law, u)
    index = found.token[:, None]
    token = top.indices.gather(1, index).squeeze(1)
    explored = (
        explores if settings.gate_first else gate < (1 - stay) * (q.gather(1, index) / law.gather(1, index))[:, 0]
    )
    if state.tags:
        explored = explored & (rows.everywhere | (token != state.closing(every)))
    drawn = _mixed(inside, Drawn(token, found.logprob, found.code, found.width), plain)
    return drawn, explored & inside, covered | ~explores, sound


def _compacted(wanted: Tensor, capacity: int) -> tuple[Tensor, Tensor]:
    """Row numbers int64 [capacity], wanted rows first, and bool [rows]: which rows are among them."""
    order = torch.sort(wanted.logical_not().to(torch.uint8), stable=True).indices[:capacity]
    covered = torch.zeros_like(wanted).index_fill(0, order, True)
    return order, covered
