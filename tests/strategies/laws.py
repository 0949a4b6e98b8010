"""A law that is small enough to be enumerated, and whether what was drawn from it is as frequent as it should be."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from led_agent.types import Branch, DecodeRequest

Law = tuple[tuple[float, ...], ...]
Sequences = dict[tuple[int, ...], float]


@dataclass(frozen=True)
class Chain:
    """A Markov law: row i is that of the token after token i, the first row that of the first. Token 0 ends. A branch
    ends at a step where its request says so."""

    law: Law
    length: int = 3

    def after(self, before: Sequence[int]) -> tuple[float, ...]:
        return self.law[before[-1] if before else 0]

    def sequences(self, before: tuple[int, ...] = (), p: float = 1.0) -> Sequences:
        """All whole outputs of positive probability."""
        found: Sequences = {}
        for token, q in enumerate(self.after(before)):
            whole = (*before, token)
            if q > 0:
                ended = token == 0 or len(whole) == self.length
                found |= {whole: p * q} if ended else self.sequences(whole, p * q)
        return found

    def __call__(self, request: DecodeRequest) -> Branch:
        numbers, before = random.Random(request.seed), request.prefix_ids
        tokens: list[int] = []
        while not (tokens and self._finish(request, tokens)):
            law = self.after((*before, *tokens))
            banned = request.exclude if not tokens else ()
            left = [0.0 if token in banned else p for token, p in enumerate(law)]
            if sum(left) == 0:
                return Branch(text="", id=request.id, finish="error", error="nothing can be drawn")
            tokens += numbers.choices(range(len(law)), left)
        laws = [self.after((*before, *tokens[:at])) for at in range(len(tokens))]
        return Branch(
            id=request.id,
            text=" ".join(map(str, tokens)),
            kept_text=" ".join(map(str, before[len(before) - (request.keep or 0) :])) + " " if request.keep else "",
            token_ids=tuple(tokens),
            logprobs=tuple(math.log(law[token]) for law, token in zip(laws, tokens, strict=True)),
            entropies=tuple(-sum(p * math.log(p) for p in law if p > 0) for law in laws),
            finish=self._finish(request, tokens),
        )

    def _finish(self, request: DecodeRequest, tokens: Sequence[int]) -> Any:
        """How a branch ends with these tokens, if it does."""
        if tokens[-1] == 0:
            return "eos"
        if len(request.prefix_ids) + len(tokens) >= self.length:
            return "length"
        ends = tokens[-1] in request.step_tokens or len(tokens) == request.max_step_tokens
        return "step" if ends else None


def in_order(p: Sequences, k: int) -> dict[tuple[tuple[int, ...], ...], float]:
    """Each ordered sample of k without replacement, and its probability."""
    found = {}
    for sample in itertools.permutations(p, k):
        chance, left = 1.0, 1.0
        for one in sample:
            chance *= p[one] / left
            left -= p[one]
        found[sample] = chance
    return found


def agrees(counts: Counter[Any], expected: dict[Any, float]) -> bool:
    """Pearson's test: rare outcomes are put together, and the sum lies within four deviations of what it should be."""
    total = counts.total()
    assert set(counts) <= set(expected)
    assert sum(expected.values()) == pytest.approx(1.0)
    often = [one for one, p in expected.items() if p * total >= 5]
    cells = [(counts[one], expected[one] * total) for one in often]
    cells.append((total - sum(c for c, _ in cells), total - sum(e for _, e in cells)))
    cells = [(c, e) for c, e in cells if e > 1]
    square = sum((c - e) ** 2 / e for c, e in cells)
    freedom = len(cells) - 1
    return square < freedom + 4 * math.sqrt(2 * freedom)


def inclusion(p: Sequences, k: int) -> dict[tuple[int, ...], float]:
    """How likely each is to be among k drawn without replacement."""
    found = dict.fromkeys(p, 0.0)
    for sample, chance in in_order(p, k).items():
        for one in sample:
            found[one] += chance
    return found


def included(samples: Sequence[Sequence[tuple[int, ...]]], p: Sequences, k: int) -> bool:
    """Whether each is as often among the samples as it should be, to within four and a half deviations."""
    counts = Counter(one for sample in samples for one in sample)
    n = len(samples)
    chances = inclusion(p, k)
    return all(abs(counts[s] - n * q) <= 4.5 * math.sqrt(n * q * (1 - q)) + 1 for s, q in chances.items())
