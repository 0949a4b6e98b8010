"""What the engine must compute, computed the slow and obvious way: whole sequences, one at a time."""

from __future__ import annotations

import copy
from typing import Any

import torch

from led_agent.decoding import exploration_law
from led_agent.engine import BranchEvent, Engine, EngineRequest
from led_agent.engine.model import ModelParts
from led_agent.types import Branch, DepthExploration


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
