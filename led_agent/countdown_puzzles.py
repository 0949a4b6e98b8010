"""Which Countdown puzzles of three numbers there are, and which of them the embedded model was not trained on.

Training and evaluation read the split here, so that what is held out by the one is asked by the other. It knows no
model, no traces and no tokens.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from functools import cache
from itertools import combinations, combinations_with_replacement
from typing import Literal

from led_agent.countdown import Puzzle
from led_agent.models import LARGEST_GIVEN, LARGEST_TARGET

__all__ = ["Attempt", "Split", "Step", "attempts", "puzzles", "sample_puzzles", "shuffled", "split_of", "steps"]

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
    """What can be done with two numbers within 1 … ``LARGEST_TARGET``, the larger one first."""
    large, small = max(a, b), min(a, b)
    found = [Step(large, "+", small, large + small), Step(large, "*", small, large * small)]
    found = [step for step in found if step.result <= LARGEST_TARGET]
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
