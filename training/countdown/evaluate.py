"""What a checkpoint can do: pass@k, arithmetic, form, tokens, and entropy by depth, with bootstrap intervals."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from led_agent.countdown import Puzzle
from led_agent.decoding import exploration_law
from led_agent.types import DepthExploration

from .model import Chooser, draw, lens, prompts, rollout, temperature_chooser, words_of
from .parallel import Team
from .problems import CLOSE, IDS, NEW_TOKENS, PAD, WORDS, Split, sample_puzzles
from .scoring import Score, score
from .sft import late_blocks

TEMPERATURES = (0.0, 0.6, 1.0, 1.2, 1.4)
KS = (1, 4, 16, 32)
ROWS = 512  # rollouts at a time
KINDS = ("choice", "result", "verdict")  # what a token of a trace is: an operand or a sign, a line's result, yes or no


@dataclass(frozen=True)
class Law:
    """How rollouts are drawn: a temperature, and LED over that many posteriors where there are two or more."""

    temperature: float
    depths: int = 1

    @property
    def label(self) -> str:
        if self.temperature == 0:
            return "greedy"
        return f"T={self.temperature:g}" + (f" led d={self.depths}" if self.depths > 1 else "")

    def chooser(self, model: LlamaForCausalLM, generator: torch.Generator) -> Chooser:
        plain = temperature_chooser(model, self.temperature, generator)
        if self.depths == 1:
            return plain
        exploration = DepthExploration(depths=self.depths, top_k=20)
        blocks = exploration.blocks(model.config.num_hidden_layers)

        def choose(states: Sequence[Tensor], thinking: Tensor) -> Tensor:
            token = plain(states, thinking)
            if thinking.any():
                logits = [model.lm_head(states[-1]), *(lens(model, states[at]) for at in blocks)]
                stacked = torch.stack(logits, 1)[thinking]  # [rows, d, vocabulary]
                held = torch.full((len(stacked),), IDS[CLOSE])
                ids, law = exploration_law(stacked, exploration, self.temperature, held=held)
                token[thinking] = ids.gather(1, draw(law, generator)[:, None])[:, 0]
            return token

        return choose


@dataclass(frozen=True)
class Measuring:
    """On what checkpoints are measured, and with which temperatures, with and without LED over the late blocks."""

    split: Split = "test"
    problems: int = 400
    samples: int = 32
    temperatures: tuple[float, ...] = TEMPERATURES
    led: tuple[float, ...] = ()
    new_tokens: int = NEW_TOKENS
    seed: int = 0

    @property
    def report(self) -> str:
        """The report's file name in a checkpoint's folder."""
        return "report.json" if self.new_tokens == NEW_TOKENS else f"report-{self.new_tokens}.json"

    def laws(self, blocks: int) -> list[Law]:
        return [Law(t) for t in self.temperatures] + [Law(t, len(late_blocks(blocks)) + 1) for t in self.led]


@dataclass(frozen=True)
class Estimate:
    """A mean over problems and its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} ({self.low:.3f}–{self.high:.3f})"


def bootstrap(values: Sequence[float] | np.ndarray[Any, Any], seed: int = 0) -> Estimate:
    """The mean with a percentile interval over 5,000 resamples of the problems."""
    data = np.asarray(values, dtype=np.float64)
    picks = np.random.default_rng(seed).integers(0, len(data), (5000, len(data)))
    low, high = np.percentile(data[picks].mean(1), [2.5, 97.5])
    return Estimate(float(data.mean()), float(low), float(high))


def pass_at(k: int, samples: int, correct: int) -> float:
    """The chance that one of k samples is right, unbiased from more of them (Chen et al., arXiv 2107.03374)."""
    return 1.0 - comb(samples - correct, k) / comb(samples, k)


@dataclass(frozen=True)
class Outcome:
    """Rollouts of one law on a set of problems: right ones of each problem, and sums over all."""

    law: Law
    samples: int
    correct: list[int]
    arithmetic: float
    honest: float
    form: float
    tokens: float
    distinct: float  # different answers a problem

    def passes(self, k: int) -> np.ndarray[Any, Any]:
        """Float [problems]: pass@k of each."""
        return np.array([pass_at(k, self.samples, c) for c in self.correct])


def sample(
    model: LlamaForCausalLM, asked: list[Puzzle], law: Law, samples: int, seed: int, team: Team,
    new_tokens: int = NEW_TOKENS,
) -> Outcome:  # fmt: skip
    """Draw rollouts and score them; every process of the team returns the same."""
    samples = 1 if law.temperature == 0 else samples
    generator = torch.Generator().manual_seed(seed * team.size + team.rank)
    mine = [puzzle for puzzle in team.share(asked) for _ in range(samples)]
    scores: list[Score] = []
    tokens = 0
    for at in range(0, len(mine), ROWS):
        part = mine[at : at + ROWS]
        grown = rollout(model, prompts(part), law.chooser(model, generator), new_tokens)
        tokens += int((grown != IDS[PAD]).sum())
        scores += [score(puzzle, words) for puzzle, words in zip(part, words_of(grown), strict=True)]
    groups = [scores[at : at + samples] for at in range(0, len(scores), samples)]
    found = team.gather([(sum(s.correct for s in group), len({s.answer for s in group})) for group in groups])
    steps, right, honest, form, tokens_all = team.sum(
        sum(s.steps for s in scores), sum(s.right_steps for s in scores), sum(s.honest for s in scores),
        sum(s.well_formed for s in scores), tokens,
    )  # fmt: skip
    rows = len(asked) * samples
    return Outcome(
        law, samples, [c for c, _ in found], right / max(steps, 1), honest / rows, form / rows, tokens_all / rows,
        sum(d for _, d in found) / len(asked),
    )  # fmt: skip


@dataclass(frozen=True)
class Depths:
    """Posteriors read off each depth through the final norm and head, over the thinking of rollouts at T=1.

    ``entropy[kind][i]``: nats after i + 1 blocks, of each problem, the mean over its tokens of that kind;
    ``result_right[i]``: how often the most probable token at a line's result is the true result, the line's operands
    being what they are.
    """

    entropy: dict[str, list[list[float]]]
    result_right: list[float]

    def estimate(self, kind: str, depth: int) -> Estimate:
        """Mean entropy over problems after that many blocks."""
        return bootstrap(self.entropy[kind][depth - 1])


@torch.inference_mode()
def by_depth(model: LlamaForCausalLM, asked: list[Puzzle], seed: int, team: Team, samples: int = 4) -> Depths:
    """Look into some rollouts of each problem."""
    mine = [puzzle for puzzle in team.share(asked) for _ in range(samples)]
    start = prompts(mine)
    generator = torch.Generator().manual_seed(seed * team.size + team.rank)
    grown = rollout(model, start, temperature_chooser(model, 1.0, generator))
    kinds, truth = kinds_of(grown), _true_results(grown)
    blocks = model.config.num_hidden_layers
    means = np.zeros((len(mine) // samples, blocks, len(KINDS)))
    right = np.zeros(blocks)
    inputs = torch.cat([start, grown[:, :-1]], 1)
    for at in range(0, len(mine), ROWS):  # a part at a time: the states of all depths are large
        rows = slice(at, at + ROWS)
        states = model.model(input_ids=inputs[rows], use_cache=False, output_hidden_states=True).hidden_states
        for depth in range(1, blocks + 1):
            state = states[depth][:, start.shape[1] - 1 :]
            logits = model.lm_head(state) if depth == blocks else lens(model, state)  # the last is normed already
            logp = torch.log_softmax(logits, -1)
            entropy = -(logp.exp() * logp).sum(-1)  # [rows, new]
            right[depth - 1] += int((logits.argmax(-1) == truth[rows])[truth[rows] >= 0].sum())
            for kind in range(len(KINDS)):
                sums = (entropy * (kinds[rows] == kind)).sum(-1).numpy()
                np.add.at(means[:, depth - 1, kind], np.arange(at, at + len(sums)) // samples, sums)
    counts = np.stack([(kinds == kind).sum(-1).view(-1, samples).sum(-1).numpy() for kind in range(len(KINDS))], -1)
    means /= np.maximum(counts, 1)[:, None]
    total = np.array(team.sum(*right, float((truth >= 0).sum())))
    every = np.array(team.gather(list(means)))  # [problems, blocks, kinds]
    entropies = {kind: every[:, :, i].T.tolist() for i, kind in enumerate(KINDS)}
    return Depths(entropies, (total[:-1] / max(total[-1], 1.0)).tolist())


def kinds_of(grown: Tensor) -> Tensor:
    """Int64 like ``grown`` [rows, new]: index into ``KINDS`` of each thinking token, -1 of what is none of them."""
    before = torch.cat([torch.full_like(grown[:, :1], IDS["no"]), grown[:, :-1]], 1)
    kinds = torch.zeros_like(grown)
    kinds[before == IDS["="]] = 1
    kinds[(grown == IDS["yes"]) | (grown == IDS["no"])] = 2
    thinking = (grown == IDS[CLOSE]).cumsum(-1) == 0
    ended = (grown == IDS[PAD]) | (grown == IDS["="]) | ~thinking
    return kinds.masked_fill(ended, -1)


def _true_results(grown: Tensor) -> Tensor:
    """Int64 like ``grown``: at each line's result the id of the right one, -1 elsewhere or where there is none."""
    truth = torch.full_like(grown, -1)
    for row, at in (kinds_of(grown) == 1).nonzero().tolist():
        line = [WORDS[t] for t in grown[row, max(0, at - 4) : at].tolist()]
        result = _result(line)
        if result is not None:
            truth[row, at] = IDS[str(result)]
    return truth


def _result(line: list[str]) -> int | None:
    """What a line's first four words come to, where that is a token."""
    if len(line) != 4 or not (line[0].isdigit() and line[2].isdigit()):
        return None
    a, b = int(line[0]), int(line[2])
    value = {"+": a + b, "-": a - b, "*": a * b, "/": a // b if b and a % b == 0 else -1}.get(line[1], -1)
    return value if str(value) in IDS else None


@dataclass(frozen=True)
class Report:
    """A checkpoint on a set of problems."""

    name: str
    split: Split
    outcomes: list[Outcome]
    depths: Depths

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)) + "\n")

    @classmethod
    def read(cls, path: Path) -> Report:
        data = json.loads(path.read_text())
        outcomes = [Outcome(**(item | {"law": Law(**item["law"])})) for item in data["outcomes"]]
        return cls(data["name"], data["split"], outcomes, Depths(**data["depths"]))


def evaluate(name: str, model: LlamaForCausalLM, settings: Measuring, team: Team) -> Report:
    """Sample with every law on the same problems, and look at the depths."""
    asked = sample_puzzles(settings.split, settings.problems, settings.seed)
    outcomes = []
    for law in settings.laws(model.config.num_hidden_layers):
        if team.leads:
            told = f"{name}: {len(asked)} problems × {settings.samples} rollouts, {law.label}"
            print(told, file=sys.stderr, flush=True)
        outcomes.append(sample(model, asked, law, settings.samples, settings.seed, team, settings.new_tokens))
    return Report(name, settings.split, outcomes, by_depth(model, asked, settings.seed, team))
