"""Draw each row's next token from its own law: plain, filtered, explored, contrasted or distilled.

This file knows tensors: logits, tapped states, rows and their settings. It does not know requests, text or events.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from led_agent.decoding.contrast import contrasted, distil, foresee, random_projection
from led_agent.decoding.exploration import explored_law, hold
from led_agent.decoding.processors import penalise, warped
from led_agent.decoding.sampling import (
    DRAW_GATE,
    Drawn,
    lay,
    lay_ordered,
    nothing_drawn,
    plain_law,
    put,
    row_sum,
    sample_plain,
    uniform,
)
from led_agent.engine.model import ModelParts
from led_agent.engine.plan import Contrast, Distilled, Group, Plan, Typical
from led_agent.engine.state import RowState
from led_agent.types import DepthExploration

__all__ = ["Chosen", "candidates", "choose", "posterior", "posteriors", "row_multiple"]

# Logits of shallower states held at a time.
_TILE_BYTES = 24 * 2**20
_CACHED_ROWS = 8  # of logits normalised at a time
_GPU_TILE_BYTES, _GPU_ROWS = 512 * 2**20, 64
# Where staying with the final layer is less unlikely to be left than this, its own law stands for the mixture's
# log-probability: they differ by no more.
_SURE = 1e-6
_LEAST = -1e4  # a logit this far below the largest has no probability left in float32


def row_multiple(device: torch.device) -> int:
    """Rows are computed in multiples of this many.

    On CPU, matrix products of 1 to 3 rows, and of odd remainders, take other kernels than those of 4, 8, 12, … rows,
    and round differently; in multiples of 4 a row's result is to the bit the same whatever the number of rows.
    """
    return 4 if device.type == "cpu" else 1


@dataclass
class Chosen:
    """A step's outcome, one entry a row: int64 tokens; float32 log-probabilities (nat) under the law drawn from and
    under the final posterior; float32 entropies (nat) and top probabilities of the latter; whether the token was
    drawn from a shallower posterior; whether all logits were finite; and float32 the scale of the noise that the step
    was taken with, None where no row has any."""

    token: Tensor
    logprob: Tensor
    final_logprob: Tensor
    entropy: Tensor
    top: Tensor
    explored: Tensor
    sound: Tensor
    noise: Tensor | None = None


@dataclass
class _Step:
    """What the methods of one step share; each overwrites ``drawn`` for its rows."""

    parts: ModelParts
    state: RowState
    logits: Tensor  # float32 [rows, vocab], the largest of each row 0, penalties applied
    taps: dict[int, Tensor]  # residual streams [rows or more, hidden] by the number of blocks behind them
    final: Tensor  # [rows or more, hidden], the final states, normed
    temperature: Tensor  # float32 [rows]
    u: Tensor  # float64 [rows]
    gate: Tensor  # float64 [rows]
    drawn: Drawn
    explored: Tensor  # bool [rows]
    sound: Tensor  # bool [rows]

    def inside(self, group: Group | Contrast | Distilled | Typical) -> Tensor:
        """int64 [m], the group's rows that are in their span now."""
        return group.rows if group.everywhere else group.rows[self.state.thinking[group.rows]]


def choose(
    parts: ModelParts, logits: Tensor, final: Tensor, taps: dict[int, Tensor], state: RowState, plan: Plan
) -> Chosen:
    """Draw each row's token, and move codes and distillers on.

    Args:
        logits: float32 [rows, vocab], the final layer's.
        final: [rows or more, hidden], the states that they come from.
        taps: Residual streams [rows or more, hidden] by the number of blocks behind them.
    """
    rows = plan.rows
    shifted, total, entropy, sound = posterior(logits)
    if not bool(sound.all()):
        shifted = torch.where(sound[:, None], shifted, 0.0)  # something to draw from; the engine drops the row
    u, coded = state.numbers(rows)
    step = _Step(
        parts=parts,
        state=state,
        logits=_penalised(logits, shifted, state, plan),
        taps=taps,
        final=final,
        temperature=plan.plain.temperature,
        u=u,
        gate=uniform(state.seed[:rows], state.position[:rows] + 1, DRAW_GATE),
        drawn=nothing_drawn(u),
        explored=torch.zeros_like(sound),
        sound=sound,
    )
    for contrast in plan.contrasts:
        _contrast(step, contrast)
    if plan.needs_plain:
        step.drawn = sample_plain(step.logits, plan.plain, u)
    for typical in plan.typical:
        law = warped(step.logits[typical.rows], typical.filters).softmax(-1)
        put(step.drawn, typical.rows, lay(law, u[typical.rows]))
    for distilled in plan.distilled:
        _distilled(step, distilled)
    for group in plan.groups:
        _explore(step, group)
    for row, ids in plan.excluded:
        _exclude(step, plan, row, ids)
    state.follow(step.drawn, coded)
    token = step.drawn.token
    final_logprob = shifted.gather(1, token[:, None]).squeeze(1) - total.log().float()
    return Chosen(
        token, step.drawn.logprob, final_logprob, entropy, total.float().reciprocal(), step.explored, step.sound
    )


def posterior(logits: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of logits float32 [rows, vocab]: the same less the largest of their row, the sum of their exponentials, float64
    [rows], the entropy (nat), float32 [rows], and whether all are finite, bool [rows]."""
    shifted = logits - logits.amax(-1, keepdim=True)  # [rows, vocab]
    weights = shifted.exp()
    total = row_sum(weights)
    # A banned token's logit is -inf, and its share of the entropy 0.
    entropy = (total.log() - row_sum(weights.mul_(shifted.clamp(min=_LEAST))) / total).float()
    return shifted, total, entropy, entropy.isfinite()


def _penalised(logits: Tensor, shifted: Tensor, state: RowState, plan: Plan) -> Tensor:
    """Repetition penalties look at a logit's sign, so they come before the shift that makes the largest 0."""
    if plan.penalty is None:
        return shifted
    finite = torch.where(logits.isfinite(), logits, shifted)
    changed = penalise(finite, state.seen[: plan.rows], plan.penalty)
    changed = changed - changed.amax(-1, keepdim=True)
    return torch.where((plan.penalty != 1.0)[:, None], changed, shifted)


def _contrast(step: _Step, group: Contrast) -> None:
    """Put DoLa's scores in the logits' place, for whatever samples after it."""
    rows = step.inside(group)
    if len(rows) == 0:
        return
    states = torch.stack([step.taps[after][rows] for after in group.blocks], 1)  # [m, layers, hidden]
    layers = len(group.blocks)
    tile = max(1, _TILE_BYTES // (4 * step.parts.vocab * layers))
    pieces = []
    for start in range(0, len(rows), tile):
        part = states[start : start + tile]
        early = _head_of(step.parts, step.parts.norm(part.flatten(0, 1))).view(len(part), layers, -1)
        scores, _ = contrasted(step.logits[rows[start : start + tile]], early, group.contrast.plausibility)
        pieces.append(scores - scores.amax(-1, keepdim=True))
    found = torch.cat(pieces)
    finite = ~found.isnan().any(-1)
    step.sound[rows] &= finite
    step.logits = step.logits.index_copy(0, rows, torch.where(finite[:, None], found, step.logits[rows]))


def _head_of(parts: ModelParts, states: Tensor) -> Tensor:
    """float32 [n, vocab] logits of states [n, hidden]."""
    return parts.head(_padded(states))[: len(states)].float()


def _distilled(step: _Step, group: Distilled) -> None:
    """Draw from z' = (1 + β) z - β W f(h) on the filtered candidates, and train each row's own distiller."""
    rows = step.inside(group)
    if len(rows) == 0:
        return
    settings, state = group.distiller, step.state
    trained = state.distillers[settings.rank][rows]  # [m, hidden, rank]
    projection = random_projection(settings.rank, trained.shape[1], trained.device)
    foreseen, features = foresee(projection, trained, step.taps[1][rows].float())
    other = _head_of(step.parts, foreseen.to(step.parts.dtype))
    kept = warped(step.logits[rows], group.filters).isfinite()
    moved = (1 + settings.beta) * step.logits[rows] - settings.beta * other
    scaled = torch.where(kept, moved, float("-inf")) / group.filters[0]
    finite = ~(scaled.isnan() | scaled.isposinf()).any(-1)
    step.sound[rows] &= finite
    law = torch.where(finite[:, None], scaled, step.logits[rows]).softmax(-1)
    put(step.drawn, rows, lay(law, step.u[rows]))
    # A row that is not sound is dropped or turned back: it must not have taught its distiller anything.
    error = torch.where(step.sound[rows, None], step.final[rows].float() - foreseen, 0.0)
    features = torch.where(step.sound[rows, None], features, 1.0)
    state.distillers[settings.rank][rows] = distil(trained, features, error, settings.rate)


@dataclass(frozen=True)
class _Candidates:
    """Of LED's rows, what the final layer says: [m, k] by candidate, the most probable first, or [m] by row."""

    rows: Tensor  # int64 [m]
    ids: Tensor  # int64 [m, k]
    temperature: Tensor  # float32 [m]
    p0: Tensor  # float64 [m, k], over the whole vocabulary
    plain: Tensor  # float64 [m, k], p0 renormalised
    stay: Tensor  # float64 [m], the chance of not exploring
    u: Tensor  # float64 [m]


def _explore(step: _Step, group: Group) -> None:
    """Draw from LED's law, P = stay · p̂0 + (1 - stay) · q, for the group's rows that are in their span."""
    rows = step.inside(group)
    if len(rows) == 0:
        return
    of = _candidates_of(step, group, rows)
    drawn, explores = _by_gate(step, group, of) if group.exploration.gate_first else _by_mixture(step, group, of)
    token = of.ids.gather(1, drawn.token[:, None]).squeeze(1)
    if not group.everywhere:  # the closing tag's probability was held: drawing it is no exploration
        explores = explores & (token != step.state.closing(rows))
    put(step.drawn, rows, Drawn(token, drawn.logprob, drawn.code, drawn.width))
    step.explored[rows] = explores


def _candidates_of(step: _Step, group: Group, rows: Tensor) -> _Candidates:
    temperature = step.temperature[rows]
    everyone = len(rows) == len(step.logits)  # then in their order, and nothing need be copied
    logits = step.logits if everyone else step.logits[rows]  # [m, vocab], the largest 0
    top = logits.topk(group.exploration.top_k, -1)  # [m, k]
    p0 = candidates(top.values, logits, temperature)
    stay = p0[:, 0] if group.exploration.exploit else torch.zeros_like(p0[:, 0])
    if group.exploration.depths == 1:
        stay = torch.ones_like(stay)
    return _Candidates(rows, top.indices, temperature, p0, p0 / p0.sum(-1, keepdim=True), stay, step.u[rows])


def _exclude(step: _Step, plan: Plan, row: int, ids: Tensor) -> None:
    """Draw a row's token again, from its law without some tokens. It happens once a branch, at its first token, so the
    law is written out over the whole vocabulary. A row with nothing left to draw is unsound."""
    rows = torch.tensor([row], device=step.u.device)
    law, explored = _whole_law(step, plan, rows, ids)
    left = law.index_fill(1, ids, 0.0)
    remains = left.sum(-1)
    if not bool(remains > 0):
        step.sound[rows] = False
        return
    drawn = lay(left, step.u[rows])
    logprob = drawn.logprob + remains.log().float()  # of the whole law, which is what the tree's sums are made of
    put(step.drawn, rows, Drawn(drawn.token, logprob, drawn.code, drawn.width))
    share = (explored.gather(1, drawn.token[:, None]) / law.gather(1, drawn.token[:, None])).squeeze(1)
    step.explored[rows] = step.gate[rows] < share


def _whole_law(step: _Step, plan: Plan, rows: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """The law of one row's next token, float64 [1, vocab], and what of it comes from shallower posteriors."""
    logits = step.logits[rows]
    if bool(step.temperature[rows] == 0):  # greedy takes the most probable of what is left
        logits = logits.index_fill(1, ids, float("-inf"))
    nothing = torch.zeros(logits.shape, dtype=torch.float64, device=logits.device)
    for group in plan.groups:
        if bool((step.inside(group) == rows).any()):
            of = _candidates_of(step, group, rows)
            q = _explored(step, group, of, torch.full_like(of.stay, group.exploration.depths > 1, dtype=torch.bool))
            from_q = (1 - of.stay[:, None]) * q
            law = nothing.scatter(1, of.ids, of.stay[:, None] * of.plain + from_q)
            return law, nothing.scatter(1, of.ids, from_q)
    for typical in plan.typical:
        if bool((typical.rows == rows).any()):
            return warped(logits, typical.filters).double().softmax(-1), nothing
    plain = plan.plain
    alone = replace(plain, **{name: getattr(plain, name)[rows] for name in ("temperature", "top_k", "top_p", "min_p")})
    return plain_law(logits, alone), nothing


def candidates(top: Tensor, logits: Tensor, temperature: Tensor) -> Tensor:
    """Probabilities over the whole vocabulary, float64 [m, k], of candidates with logits ``top`` [m, k].

    Args:
        logits: float32 [m, vocab], the largest of each row 0.
    """
    warmth = temperature[:, None]
    total = row_sum((logits / warmth).exp_())
    return (top / warmth).double().exp() / total[:, None]


def _by_mixture(step: _Step, group: Group, of: _Candidates) -> tuple[Drawn, Tensor]:
    """Draw from P itself: q is needed of every row but those whose u draws the most probable token whatever q is, and
    whose P(v) is that of the final layer to within ``_SURE``. Whether a token was explored is drawn given the token."""
    sure = of.stay * of.plain[:, 0]
    wanted = (of.u >= sure) | (1 - of.stay > _SURE)
    if group.exploration.depths == 1:
        wanted = torch.zeros_like(wanted)
    q = _explored(step, group, of, wanted)
    stay = of.stay[:, None]
    law = torch.where(wanted[:, None], stay * of.plain + (1 - stay) * q, of.plain)
    drawn = lay_ordered(law, of.u)
    index = drawn.token[:, None]
    share = (1 - of.stay) * (q.gather(1, index) / law.gather(1, index)).squeeze(1)  # of P(v), what comes from q
    if group.exploration.depths > 1:
        drawn = _surely(drawn, ~wanted, of.u, sure)
    return drawn, wanted & (step.gate[of.rows] < share)


def _by_gate(step: _Step, group: Group, of: _Candidates) -> tuple[Drawn, Tensor]:
    """Draw the gate by the branch's own number, then from p̂0 or from q. Where a sibling's code were to draw the gate as
    well, those that take the same token by different gates would be torn apart."""
    explores = step.gate[of.rows] < 1 - of.stay
    return lay_ordered(_explored(step, group, of, explores), of.u), explores


def _surely(drawn: Drawn, rows: Tensor, u: Tensor, sure: Tensor) -> Drawn:
    """Where u lay in the part of the top token's interval that needs no q, the code goes on inside that part."""
    width = torch.where(rows, sure, drawn.width)
    code = torch.where(rows, u / sure.clamp(min=torch.finfo(u.dtype).tiny), drawn.code)
    return Drawn(drawn.token, torch.where(rows, sure.log().float(), drawn.logprob), code, width)


def _explored(step: _Step, group: Group, of: _Candidates, wanted: Tensor) -> Tensor:
    """The explored distribution q of the wanted rows over their candidates, and p̂0 of the others, float64 [m, k]. A
    row whose q is not finite is unsound, and keeps p̂0."""
    which = wanted.nonzero().squeeze(1)
    if len(which) == 0:
        return of.plain
    rows, ids, plain = of.rows[which], of.ids[which], of.plain[which]
    states = torch.stack([step.taps[after][rows] for after in group.blocks], 1)  # [e, d-1, hidden]
    below = posteriors(step.parts, states, ids, of.temperature[which], group.exploration)
    allowed = step.logits[rows].gather(1, ids).isneginf().logical_not()
    q, _ = explored_law(torch.cat([of.p0[which, None], below.double()], 1), allowed)
    if not group.everywhere:
        q = hold(q, plain, ids == step.state.closing(rows)[:, None])
    finite = q.isfinite().all(-1)
    step.sound[rows] &= finite
    return of.plain.index_copy(0, which, torch.where(finite[:, None], q, plain))


def posteriors(
    parts: ModelParts, states: Tensor, ids: Tensor, temperature: Tensor, exploration: DepthExploration
) -> Tensor:
    """Probabilities of the candidates under the shallower states, over the whole vocabulary. Logits are made a tile at
    a time, and normalised in float32 a few rows at a time, which stay in the processor's cache.

    Args:
        states: [e, d-1, hidden], after ``exploration.blocks``.
        ids: int64 [e, k].
        temperature: float32 [e].
        exploration: Whose ``norm`` says what the states go through before the head.

    Returns:
        float32 [e, d-1, k].
    """
    explorers, below, width = states.shape
    norm = exploration.norm
    if norm == "tuned":
        states = _translated(parts, states, exploration)
    flat = states.reshape(-1, width)
    multiple = row_multiple(states.device)
    cpu = states.device.type == "cpu"
    # On a GPU each product reads the whole head anew, and each call takes its time: fewer and larger ones.
    tile_bytes, together = (_TILE_BYTES, _CACHED_ROWS) if cpu else (_GPU_TILE_BYTES, _GPU_ROWS)
    tile = max(multiple, tile_bytes // (4 * parts.vocab) // multiple * multiple)
    wanted = ids.repeat_interleave(below, 0)  # [e * (d-1), k]
    warmth = temperature.repeat_interleave(below)[:, None]
    found = []
    for start in range(0, len(flat), tile):
        piece = flat[start : start + tile]
        logits = parts.head(_padded(piece if norm == "none" else parts.norm(piece)))
        for at in range(0, len(piece), together):
            rows = slice(start + at, min(start + at + together, start + len(piece)))
            few = logits[at : at + len(wanted[rows])].float() / warmth[rows]
            found.append(_normalised(few, wanted[rows], wide=norm == "none"))
    return torch.cat(found).view(explorers, below, -1)


def _translated(parts: ModelParts, states: Tensor, exploration: DepthExploration) -> Tensor:
    """States [e, d-1, hidden] by the tuned lens, each row's own whatever ``e`` is."""
    full = _padded(states.flatten(1)).view(-1, *states.shape[1:])
    return parts.tuned().translate(full, exploration.blocks(parts.n_blocks))[: len(states)]


def _normalised(logits: Tensor, ids: Tensor, *, wide: bool) -> Tensor:
    """float32 [n, k]: softmax of logits float32 [n, vocab] at ids. ``wide`` ones, which may lie thousands below the
    largest, are cut off where e^x is nothing next to it, for exp of what follows is many times slower."""
    if not wide:
        return logits.log_softmax(-1).gather(1, ids).exp()
    least = logits.amax(-1, keepdim=True) - 80.0
    beyond = (logits.gather(1, ids) - least).clamp_(max=0.0)  # what the cut takes from the wanted ones
    return (torch.maximum(logits, least).log_softmax(-1).gather(1, ids) + beyond).exp()


def _padded(states: Tensor) -> Tensor:
    """States [n, hidden] and as many rows of zeros behind them as make a row's result independent of n."""
    missing = -len(states) % row_multiple(states.device)
    return torch.cat([states, states.new_zeros(missing, states.shape[1])]) if missing else states
