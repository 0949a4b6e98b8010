"""Reinforcement learning with a verifiable reward: group-normalised REINFORCE, on policy, without a KL term.

The advantage of a rollout is its reward against its own group's, as in GRPO (Shao et al., arXiv 2402.03300); with one
update a batch there is no ratio to clip.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from led_agent.countdown import Puzzle

from .log import Log
from .model import prompts, rollout, temperature_chooser, words_of
from .parallel import Team
from .problems import IDS, NEW_TOKENS, PAD, puzzles, shuffled
from .scoring import Score, score


@dataclass(frozen=True)
class RlSettings:
    """How the reinforced checkpoint is made from the supervised one."""

    steps: int = 300
    problems: int = 32  # a step
    group: int = 8  # rollouts a problem
    rate: float = 3e-4
    dishonesty: float = 0.5  # taken from the reward of a trace with a wrong line, or a yes or no that doesn't hold
    temperature: float = 1.0
    seed: int = 0


def reward(result: Score, settings: RlSettings) -> float:
    """1 for a right answer, less where the trace says something untrue: a model that guesses "yes" gains nothing."""
    return float(result.correct) - settings.dishonesty * (not result.honest)


def train(model: LlamaForCausalLM, settings: RlSettings, log: Log | None, team: Team) -> None:
    """Train in place for ``settings.steps``."""
    rng = random.Random(settings.seed)
    generator = torch.Generator().manual_seed(settings.seed * team.size + team.rank)
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.rate, betas=(0.9, 0.95), weight_decay=0.0)
    pool = puzzles("train")
    begun = time.perf_counter()
    for step in range(1, settings.steps + 1):
        asked = [shuffled(puzzle, rng) for puzzle in rng.sample(pool, settings.problems)]
        group = [puzzle for puzzle in team.share(asked) for _ in range(settings.group)]
        start = prompts(group)
        grown = rollout(model, start, temperature_chooser(model, settings.temperature, generator))
        scores = [score(puzzle, words) for puzzle, words in zip(group, words_of(grown), strict=True)]
        entropy = _update(model, start, grown, advantages(scores, settings), settings)
        team.sum_gradients(model)
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        told = _told(group, scores, grown, entropy, team)
        if log is not None and (step % 10 == 0 or step == 1):
            log.add(step=step, **told, gradient=float(norm), seconds=time.perf_counter() - begun)


def advantages(scores: list[Score], settings: RlSettings) -> Tensor:
    """Float [rollouts]: each reward less its group's mean, over its group's standard deviation."""
    rewards = torch.tensor([reward(result, settings) for result in scores]).view(-1, settings.group)
    centred = rewards - rewards.mean(-1, keepdim=True)
    return (centred / (rewards.std(-1, keepdim=True) + 1e-4)).flatten()


def _update(model: LlamaForCausalLM, start: Tensor, grown: Tensor, advantage: Tensor, settings: RlSettings) -> float:
    """Add the policy gradient of rollouts [rows, new]; the summed entropy of the final posteriors, in nats.

    Each token weighs the same, whatever its trace's length: the sum is over a constant.
    """
    summed = 0.0
    order = (grown != IDS[PAD]).sum(-1).argsort()
    for rows in order.split(64):  # alike in length: little padding
        new = grown[rows][:, : int((grown[rows] != IDS[PAD]).sum(-1).max())]
        states = model.model(input_ids=torch.cat([start[rows], new[:, :-1]], 1), use_cache=False).last_hidden_state
        logits = model.lm_head(states[:, start.shape[1] - 1 :])  # [rows, new, vocabulary]
        logp = torch.log_softmax(logits / settings.temperature, -1)
        real = new != IDS[PAD]
        taken = logp.gather(2, new[..., None])[..., 0].masked_fill(~real, 0.0)
        loss = -(advantage[rows, None] * taken).sum() / (settings.problems * settings.group * NEW_TOKENS)
        loss.backward()
        with torch.no_grad():
            summed += float((-(logp.exp() * logp).sum(-1) * real).sum())
    return summed


def _told(group: list[Puzzle], scores: list[Score], grown: Tensor, entropy: float, team: Team) -> dict[str, float]:
    tokens = int((grown != IDS[PAD]).sum())
    sums = team.sum(
        len(group),
        sum(s.correct for s in scores),
        sum(s.honest for s in scores),
        sum(s.steps for s in scores),
        sum(s.right_steps for s in scores),
        tokens,
        entropy,
    )
    rows, correct, honest, steps, right, tokens_all, entropy_all = sums
    return {
        "correct": correct / rows,
        "honest": honest / rows,
        "arithmetic": right / max(steps, 1),
        "tokens": tokens_all / rows,
        "entropy": entropy_all / tokens_all,
    }
