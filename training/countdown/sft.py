"""Supervised training on traces, with a logit-lens loss on late blocks where one is wanted.

The lens loss asks the last quarter of the blocks, read through the final norm and head, to predict the next token too.
Arithmetic is then finished before them, and what they disagree about with the last block is a choice and no error.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import LlamaForCausalLM

from .log import Log
from .model import lens, new_model
from .parallel import Team
from .problems import IDS, PAD, PROMPT_TOKENS, traces


@dataclass(frozen=True)
class SftSettings:
    """How the supervised checkpoint is made."""

    blocks: int = 12
    width: int = 96
    lens_weight: float = 0.3  # of the late blocks' loss; 0 leaves it out
    tokens: int = 12_000_000  # seen in training, prompts included
    batch: int = 64  # traces a step
    muon_rate: float = 0.02
    adam_rate: float = 3e-3
    seed: int = 0


def train(settings: SftSettings, log: Log | None, team: Team) -> LlamaForCausalLM:
    """Train from scratch for ``settings.tokens``, learning rates warmed up over 2 % and then falling linearly to 0."""
    torch.manual_seed(settings.seed)
    model = new_model(settings.blocks, settings.width).train()
    optimizers = _optimizers(model, settings)
    seen = step = 0
    begun = time.perf_counter()
    for batch in _batches(settings):
        done = seen / settings.tokens
        for optimizer, rate in zip(optimizers, (settings.muon_rate, settings.adam_rate), strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * min(1.0, done / 0.02 + 0.01) * max(0.0, 1 - done)
        counted = sum(map(len, batch)) - PROMPT_TOKENS * len(batch)
        mine = team.share(sorted(batch, key=len))
        losses = [_loss(model, part, settings.lens_weight, counted) for part in _halves(mine)]
        team.sum_gradients(model)
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        (loss,) = team.sum(sum(losses))
        seen, step = seen + sum(map(len, batch)), step + 1
        if log is not None and (step % 50 == 0 or seen >= settings.tokens):
            log.add(step=step, tokens=seen, loss=loss, gradient=float(norm), seconds=time.perf_counter() - begun)
        if seen >= settings.tokens:
            break
    return model.eval()


def _batches(settings: SftSettings) -> Iterator[list[list[int]]]:
    stream = traces(settings.seed)
    while True:
        yield [next(stream) for _ in range(settings.batch)]


def _halves(traces: Sequence[list[int]]) -> Iterator[Tensor]:
    """Traces in order of length as two padded halves: less padding, and each fits the processor's cache."""
    middle = len(traces) // 2
    for part in (traces[:middle], traces[middle:]):
        longest = len(part[-1])
        yield torch.tensor([trace + [IDS[PAD]] * (longest - len(trace)) for trace in part])


def _loss(model: LlamaForCausalLM, rows: Tensor, lens_weight: float, counted: int) -> float:
    """Add a part's gradient [rows, length]; its share of the mean loss, in nats, over the ``counted`` tokens that
    follow prompts in the batch."""
    labels = rows[:, 1:].masked_fill(rows[:, 1:] == IDS[PAD], -100)
    labels[:, : PROMPT_TOKENS - 1] = -100
    states = model.model(input_ids=rows[:, :-1], use_cache=False, output_hidden_states=True).hidden_states

    def entropy_of(logits: Tensor) -> Tensor:
        total = cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100, reduction="sum")
        return total / counted

    final = loss = entropy_of(model.lm_head(states[-1]))
    if lens_weight:
        late = [entropy_of(lens(model, states[i])) for i in late_blocks(len(states) - 1)]
        loss = final + lens_weight * torch.stack(late).mean()
    loss.backward()
    return float(final.detach())


def late_blocks(blocks: int) -> range:
    """After how many blocks the late states stand: the last quarter, without the final one."""
    return range(blocks - max(1, blocks // 4), blocks)


def _optimizers(model: LlamaForCausalLM, settings: SftSettings) -> list[torch.optim.Optimizer]:
    """Muon (Jordan et al., 2024) for the blocks' matrices, AdamW for the embeddings and norms."""
    matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
    chosen = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    return [
        torch.optim.Muon(matrices, lr=settings.muon_rate, weight_decay=0.0),
        torch.optim.AdamW(rest, lr=settings.adam_rate, betas=(0.9, 0.95), weight_decay=0.0),
    ]
