"""Problems, how they are split, and the traces that supervised training imitates.

A trace tries pairs of steps until one reaches the target: ``12 * 5 = 60 60 - 2 = 58 no 12 - 2 = 10 10 * 5 = 50 yes
</think> ( 12 - 2 ) * 5``. Steps keep to whole numbers from 1 to ``LARGEST`` and put the larger operand first, so that
each way to try is written in one way only.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import combinations, combinations_with_replacement
from typing import Literal

from led_agent.countdown import Puzzle
from led_agent.models import LARGEST_GIVEN, LARGEST_TARGET

LARGEST = LARGEST_TARGET  # of intermediate values, too
ATTEMPTS = 6  # tries in a trace at most, before it gives up
HAZARD = 0.3  # chance that a try is a right one: constant, so that position in the trace promises nothing
ATTEMPT_TOKENS = 11
PROMPT_TOKENS = 6
NEW_TOKENS = ATTEMPTS * ATTEMPT_TOKENS + len(["</think>", "(", "12", "-", "2", ")", "*", "5", "<eos>"])

OPEN, CLOSE, PAD, END, UNKNOWN = "<think>", "</think>", "<pad>", "<eos>", "<unk>"
WORDS = [PAD, END, UNKNOWN, OPEN, CLOSE, *"+-*/=()", "yes", "no", "none", *map(str, range(LARGEST + 1))]
IDS = {word: index for index, word in enumerate(WORDS)}

Split = Literal["train", "dev", "test"]


@dataclass(frozen=True)
class Step:
    """One line of arithmetic."""

    left: int
    sign: str
    right: int
    result: int

    @property
    def words(self) -> list[str]:
        return [str(self.left), self.sign, str(self.right), "=", str(self.result)]


@dataclass(frozen=True)
class Attempt:
    """Two steps: two of the numbers, then what came out with the third."""

    first: Step
    second: Step

    @property
    def result(self) -> int:
        return self.second.result

    def words(self, target: int) -> list[str]:
        return [*self.first.words, *self.second.words, "yes" if self.result == target else "no"]

    def expression(self) -> list[str]:
        """The attempt as one bracketed expression."""
        first, second = self.first, self.second
        inner = ["(", str(first.left), first.sign, str(first.right), ")"]
        if second.left == first.result:
            return [*inner, second.sign, str(second.right)]
        return [str(second.left), second.sign, *inner]


def steps(a: int, b: int) -> list[Step]:
    """What can be done with two numbers within 1 … ``LARGEST``, the larger one first."""
    large, small = max(a, b), min(a, b)
    found = [Step(large, "+", small, large + small), Step(large, "*", small, large * small)]
    found = [step for step in found if step.result <= LARGEST]
    if large > small:
        found.append(Step(large, "-", small, large - small))
    if large % small == 0:
        found.append(Step(large, "/", small, large // small))
    return found


@cache
def attempts(numbers: tuple[int, int, int]) -> tuple[Attempt, ...]:
    """All attempts on three sorted numbers, without repetition."""
    found: dict[Attempt, None] = {}
    for i, j in combinations(range(3), 2):
        for first in steps(numbers[i], numbers[j]):
            for second in steps(first.result, numbers[3 - i - j]):
                found[Attempt(first, second)] = None
    return tuple(found)


def split_of(puzzle: Puzzle) -> Split:
    """By a hash of the sorted numbers and the target: 10 % test, 5 % dev, the rest train."""
    key = f"{','.join(map(str, sorted(puzzle.numbers)))}={puzzle.target}"
    bucket = int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") % 100
    return "test" if bucket < 10 else "dev" if bucket < 15 else "train"


@cache
def puzzles(split: Split) -> tuple[Puzzle, ...]:
    """Every solvable puzzle of a split, numbers sorted, in a fixed order; none whose target is one of its numbers."""
    found = []
    for numbers in combinations_with_replacement(range(1, LARGEST_GIVEN + 1), 3):
        reached = {attempt.result for attempt in attempts(numbers)} - set(numbers)
        found += [Puzzle(numbers, target) for target in sorted(reached)]
    return tuple(puzzle for puzzle in found if split_of(puzzle) == split)


def sample_puzzles(split: Split, count: int, seed: int) -> list[Puzzle]:
    """Some of a split's puzzles, numbers shuffled as a user would give them."""
    rng = random.Random(seed)
    chosen = rng.sample(puzzles(split), count)
    return [shuffled(puzzle, rng) for puzzle in chosen]


def shuffled(puzzle: Puzzle, rng: random.Random) -> Puzzle:
    return Puzzle(tuple(rng.sample(puzzle.numbers, len(puzzle.numbers))), puzzle.target)


def prompt_words(puzzle: Puzzle) -> list[str]:
    """What the chat template makes of a puzzle; always ``PROMPT_TOKENS`` long."""
    return [*map(str, puzzle.numbers), "=", str(puzzle.target), OPEN]


def trace_words(puzzle: Puzzle, rng: random.Random) -> list[str]:
    """A trace for a puzzle: each try is right with chance ``HAZARD``, else a wrong one not tried before."""
    every = attempts(tuple(sorted(puzzle.numbers)))  # type: ignore[arg-type]
    right = [attempt for attempt in every if attempt.result == puzzle.target]
    wrong = [attempt for attempt in every if attempt.result != puzzle.target]
    rng.shuffle(wrong)
    words: list[str] = []
    for _ in range(ATTEMPTS):
        if rng.random() < HAZARD or not wrong:
            found = rng.choice(right)
            return [*words, *found.words(puzzle.target), CLOSE, *found.expression(), END]
        words += wrong.pop().words(puzzle.target)
    return [*words, CLOSE, "none", END]


def encode(words: list[str]) -> list[int]:
    return [IDS[word] for word in words]


def traces(seed: int) -> Iterator[list[int]]:
    """Prompt and trace of training puzzles without end, as token ids."""
    rng, pool = random.Random(seed), puzzles("train")
    while True:
        puzzle = shuffled(rng.choice(pool), rng)
        yield encode(prompt_words(puzzle) + trace_words(puzzle, rng))
