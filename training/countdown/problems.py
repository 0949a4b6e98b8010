"""Problems as tokens, and the traces that supervised training imitates. Which puzzles there are and how they are split
is in ``led_agent.countdown_puzzles``.

A trace tries pairs of steps until one reaches the target: ``12 * 5 = 60 60 - 2 = 58 no 12 - 2 = 10 10 * 5 = 50 yes
</think> ( 12 - 2 ) * 5``. Steps keep to whole numbers from 1 to ``LARGEST`` and put the larger operand first, so that
each way to try is written in one way only.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from led_agent.countdown import Puzzle
from led_agent.countdown_puzzles import Split, attempts, puzzles, sample_puzzles, shuffled, split_of
from led_agent.models import LARGEST_TARGET

__all__ = [
    "ATTEMPTS",
    "ATTEMPT_TOKENS",
    "CLOSE",
    "END",
    "HAZARD",
    "IDS",
    "LARGEST",
    "NEW_TOKENS",
    "OPEN",
    "PAD",
    "PROMPT_TOKENS",
    "UNKNOWN",
    "WORDS",
    "Split",
    "attempts",
    "encode",
    "prompt_words",
    "puzzles",
    "sample_puzzles",
    "shuffled",
    "split_of",
    "trace_words",
    "traces",
]

LARGEST = LARGEST_TARGET  # of intermediate values, too
ATTEMPTS = 6  # tries in a trace at most, before it gives up
HAZARD = 0.3  # chance that a try is a right one: constant, so that position in the trace promises nothing
ATTEMPT_TOKENS = 11
PROMPT_TOKENS = 6
NEW_TOKENS = ATTEMPTS * ATTEMPT_TOKENS + len(["</think>", "(", "12", "-", "2", ")", "*", "5", "<eos>"])

OPEN, CLOSE, PAD, END, UNKNOWN = "<think>", "</think>", "<pad>", "<eos>", "<unk>"
WORDS = [PAD, END, UNKNOWN, OPEN, CLOSE, *"+-*/=()", "yes", "no", "none", *map(str, range(LARGEST + 1))]
IDS = {word: index for index, word in enumerate(WORDS)}


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
