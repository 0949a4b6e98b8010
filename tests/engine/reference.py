"""What the engine must compute, computed the slow and obvious way: whole sequences, one at a time."""

from __future__ import annotations

import copy
from typing import Any

import torch

from led_agent.decoding import exploration_law
from led_agent.engine import BranchEvent, Engine, EngineRequest
from led_agent.engine.cache import PrefixCache
from led_agent.engine.choose import Chosen, choose
from led_agent.engine.model import ModelParts
from led_agent.engine.plan import Plan
from led_agent.engine.state import RowState
from led_agent.types import Branch, Decoding, DepthExploration, Sibling


def make_engine(model: Any, tokenizer: Any = None, *, slots: int = 8) -> Engine:
    """An engine over a copy, so that the model itself stays a reference with its own attention."""
    return Engine(ModelParts.of(copy.deepcopy(model), tokenizer), slots=slots)


def branches(engine: Engine, *requests: EngineRequest) -> dict[str, Branch]:
    """All branches of these requests by id."""
    return {e.id: e.branch for e in engine.generate(requests) if e.branch is not None}


def events(engine: Engine, *requests: EngineRequest) -> list[BranchEvent]:
    return list(engine.generate(requests))


@torch.no_grad()
def full_logits(model: Any, ids: list[int]) -> torch.Tensor:
    """[len(ids), vocab] by one plain forward of one sequence, without a cache."""
    logits: torch.Tensor = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
    return logits


@torch.no_grad()
def greedy(model: Any, prompt: list[int], new: int) -> list[int]:
    """Greedy tokens, the whole sequence forwarded anew for each."""
    ids = list(prompt)
    for _ in range(new):
        ids.append(int(full_logits(model, ids)[-1].argmax()))
    return ids[len(prompt) :]


@torch.no_grad()
def layer_logits(model: Any, ids: list[int], exploration: DepthExploration) -> torch.Tensor:
    """float64 [1, d, vocab] at the last position, from ``output_hidden_states`` of a float64 model."""
    states = model.model(input_ids=torch.tensor([ids]), output_hidden_states=True, use_cache=False)
    blocks = len(model.model.layers)
    first = blocks - (1 if exploration.layers == "paper" else 2)
    # hidden_states[i] is the stream after i blocks, but for the last, which transformers gives normed.
    final = states.last_hidden_state[:, -1]
    rows = [final]
    for slot in range(exploration.depths - 1):
        state = states.hidden_states[first - slot][:, -1]
        rows.append(model.model.norm(state) if exploration.norm == "final" else state)
    return torch.stack([model.lm_head(row) for row in rows], 1)


def true_law(model: Any, ids: list[int], exploration: DepthExploration, temperature: float) -> torch.Tensor:
    """float64 [vocab], the exact law of the next token."""
    logits = layer_logits(model, ids, exploration)
    ids_, law = exploration_law(logits, exploration, temperature)
    return torch.zeros(logits.shape[-1], dtype=torch.float64).scatter(0, ids_[0], law[0])


DRAWS = 102_400
PIECE = 12_800


@torch.no_grad()
def sequence_laws(model: Any, ids: list[int], new: int, exploration: DepthExploration, temperature: float):
    """float64 [new, vocab] each: the law of LED and the final posterior at the last ``new`` positions but the last."""
    out = model.model(input_ids=torch.tensor([ids]), output_hidden_states=True, use_cache=False)
    first = len(model.model.layers) - (1 if exploration.layers == "paper" else 2)
    at = slice(len(ids) - new - 1, len(ids) - 1)
    slots = [out.last_hidden_state[0, at]]
    for j in range(exploration.depths - 1):
        state = out.hidden_states[first - j][0, at]
        slots.append(model.model.norm(state) if exploration.norm == "final" else state)
    logits = model.lm_head(torch.stack(slots, 1))  # [new, d, vocab]
    candidates, law = exploration_law(logits, exploration, temperature)
    return torch.zeros_like(logits[:, 0]).scatter(1, candidates, law), logits[:, 0].softmax(-1)


def state_of(parts: ModelParts, ids: list[int]) -> tuple[torch.Tensor, torch.Tensor, dict[int, torch.Tensor]]:
    """Logits [1, vocab], final state [1, hidden] and all taps behind a prompt, by the engine's own parts."""
    cache = PrefixCache(parts.kv_shape, len(ids), dtype=parts.dtype, device=parts.device)
    with torch.inference_mode():
        states, taps = parts.forward(torch.tensor(ids), cache.begin(len(ids)), cache, range(parts.n_blocks + 1))
        return parts.head(states[-1:]).float(), states[-1:], {after: tap[-1:] for after, tap in taps.items()}


@torch.inference_mode()
def draw_position(
    parts: ModelParts, ids: list[int], decoding: Decoding, span: str, n: int = DRAWS, piece: int = PIECE
) -> Chosen:
    """The engine's sampler on ``n`` rows of one position, each with a seed of its own."""
    logits, final, taps = state_of(parts, ids)
    plan = Plan.of([decoding] * piece, [span] * piece, parts, [Sibling(group=0, index=0, of=1)] * piece)
    pieces = []
    for start in range(0, n, piece):
        state = RowState(piece, parts.thinking, parts.device)
        state.seed[:] = torch.arange(start, start + piece)
        state.position[:] = len(ids) - 1
        state.thinking[:] = span == "think"
        rows = {after: tap.expand(piece, -1) for after, tap in taps.items()}
        pieces.append(choose(parts, logits.expand(piece, -1), final.expand(piece, -1), rows, state, plan))
    names = ("token", "logprob", "final_logprob", "entropy", "top", "explored", "sound")
    return Chosen(**{name: torch.cat([getattr(part, name) for part in pieces]) for name in names})


def chi_square(tokens: torch.Tensor, law: torch.Tensor) -> tuple[float, int]:
    """Pearson's statistic of draws against a law float64 [vocab], and its degrees of freedom; rare tokens count
    together, and impossible ones must not come."""
    n = len(tokens)
    counts = torch.bincount(tokens, minlength=len(law)).double()
    assert float(counts[law == 0].sum()) == 0
    likely = law * n >= 5
    rest, due = float(counts[~likely].sum()), float(n * law[~likely].sum())
    chi2 = float(((counts - n * law) ** 2 / (n * law))[likely].sum()) + (rest - due) ** 2 / max(due, 1.0)
    return chi2, int(likely.sum())
