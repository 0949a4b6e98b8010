"""One decode step on the device: forward all rows, choose a token for each, move their state on.

This file knows tensors: rows, their settings and the model's parts. It does not know requests, text or events.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from led_agent.decoding.noise import Frames, directions, next_gain, perturb, scale
from led_agent.engine.cache import SlotCache, round_up
from led_agent.engine.choose import Chosen, choose, row_multiple
from led_agent.engine.model import ModelParts
from led_agent.engine.plan import Noisy, Plan
from led_agent.engine.state import RowState
from led_agent.engine.trunk import Perturbation

__all__ = ["decode_step"]


def decode_step(
    parts: ModelParts, cache: SlotCache, state: RowState, plan: Plan, longest: int, frames: Frames
) -> Chosen:
    """Compute one token for rows 0 … plan.rows - 1 and move their state on.

    Args:
        longest: The furthest place in its slot that a live row writes.
        frames: Where siblings' orthogonal directions are kept.
    """
    rows = round_up(plan.rows, row_multiple(parts.device))
    position = state.position[:rows]
    cache.begin(position, longest, plan.sharing)
    amounts = torch.zeros(plan.rows, device=parts.device)
    noise = [piece for group in plan.noisy for piece in _noise(group, state, parts.width, frames, amounts)]
    final, taps = parts.forward(state.token[:rows], position, cache, plan.taps, noise)
    logits = parts.head(final)[: plan.rows].float()  # [plan.rows, vocab]
    chosen = choose(parts, logits, final, taps, state, plan)
    state.advance(chosen.token)
    _adapt(plan, state, chosen)
    chosen.noise = amounts if plan.noisy else None
    return chosen


def _noise(group: Noisy, state: RowState, width: int, frames: Frames, amounts: Tensor) -> list[Perturbation]:
    """What is added behind each of the group's blocks in this step; nothing where no row is in its span. How much each
    row gets is noted in ``amounts``, float32 [plan.rows]."""
    rows, noise, layers = group.rows, group.noise, len(group.after)
    on = state.position[rows] >= state.begins[rows]
    if not group.everywhere:
        on = on & state.thinking[rows]
    if not bool(on.any()):
        return []
    amount = scale(noise, state.doubt[rows], state.gain[rows]) * on  # [m]
    amounts[rows] = amount
    counter = state.steps[rows] if noise.hold == "step" else state.position[rows] // noise.hold
    if noise.orthogonal:
        direction = _orthogonal(group, state, counter, width, frames)
    else:
        direction = directions(state.seed[rows], counter, layers, width)  # [m, layers, width]
    return [
        (after, partial(_perturb_rows, rows, direction[:, layer], amount, noise.tangent))
        for layer, after in enumerate(group.after)
    ]


def _orthogonal(group: Noisy, state: RowState, counter: Tensor, width: int, frames: Frames) -> Tensor:
    """[m, layers, width]: siblings' orthogonal directions; a branch that stands alone has its own."""
    layers = len(group.after)
    own = directions(state.seed[group.rows], counter, layers, width)
    for i, (sibling, at) in enumerate(zip(group.siblings, counter.tolist(), strict=True)):
        if sibling is not None:
            own[i] = frames.direction(sibling, at, layers, width).to(own.device)
    return own


def _perturb_rows(rows: Tensor, direction: Tensor, amount: Tensor, tangent: bool, states: Tensor) -> Tensor:
    """Of states [rows, width], the same with those of ``rows`` moved."""
    return states.index_copy(0, rows, perturb(states[rows], direction, amount, tangent=tangent))


def _adapt(plan: Plan, state: RowState, chosen: Chosen) -> None:
    """Take in how sure this step was, for the next one's noise; of every row, whether it has any just now or not."""
    state.doubt[: plan.rows] = 1.0 - chosen.top
    for group in plan.noisy:
        if group.noise.scale == "entropy":
            gain = next_gain(state.gain[group.rows], chosen.entropy[group.rows], group.noise.target)
            state.gain[group.rows] = torch.where(gain.isfinite(), gain, state.gain[group.rows])
