"""What the embedded model is taught: problems, their split, traces, and the scoring that rewards."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from led_agent.countdown import Puzzle
from training.countdown.problems import (
    ATTEMPTS,
    HAZARD,
    IDS,
    LARGEST,
    NEW_TOKENS,
    PROMPT_TOKENS,
    WORDS,
    attempts,
    prompt_words,
    puzzles,
    sample_puzzles,
    shuffled,
    split_of,
    trace_words,
    traces,
)
from training.countdown.rl import RlSettings, advantages, reward
from training.countdown.scoring import Score, is_solution, score

NUMBERS = st.tuples(*[st.integers(1, 25)] * 3).map(lambda numbers: tuple(sorted(numbers)))
PUZZLES = st.sampled_from(puzzles("train"))


def by_brute_force(numbers: tuple[int, ...]) -> set[int]:
    """What three numbers reach in two steps within 1 … LARGEST, computed without the recipe's code."""
    reached = set()
    for a, b, c in itertools.permutations(numbers):
        for first in (a + b, a - b, a * b, a // b if a % b == 0 else 0):
            if 1 <= first <= LARGEST:
                pairs = ((first, c), (c, first))
                seconds = [v for x, y in pairs for v in (x + y, x - y, x * y, x // y if x % y == 0 else 0)]
                reached |= {v for v in seconds if 1 <= v <= LARGEST}
    return reached


@given(NUMBERS)
def test_attempts_are_all_there_are_and_each_is_right(numbers: tuple[int, int, int]):
    every = attempts(numbers)
    assert {attempt.result for attempt in every} == by_brute_force(numbers)
    assert len(set(every)) == len(every)
    for attempt in every:
        assert is_solution(Puzzle(numbers, attempt.result), " ".join(attempt.expression()))


def test_the_split_is_disjoint_whole_and_blind_to_order():
    train, dev, test = (set(puzzles(split)) for split in ("train", "dev", "test"))
    assert not train & dev | train & test | dev & test
    total = len(train | dev | test)
    assert total == 25_019
    assert abs(len(test) / total - 0.10) < 0.01
    assert abs(len(dev) / total - 0.05) < 0.01
    for puzzle in itertools.islice(test, 200):
        assert {split_of(Puzzle(order, puzzle.target)) for order in itertools.permutations(puzzle.numbers)} == {"test"}


def test_nothing_held_out_is_ever_trained_on():
    for row in itertools.islice(traces(3), 5000):
        *numbers, _, target, _ = (WORDS[token] for token in row[:PROMPT_TOKENS])
        assert split_of(Puzzle(tuple(map(int, numbers)), int(target))) == "train"


def test_the_same_seed_gives_the_same_problems_and_traces():
    assert sample_puzzles("test", 50, 1) == sample_puzzles("test", 50, 1) != sample_puzzles("test", 50, 2)
    assert list(itertools.islice(traces(5), 20)) == list(itertools.islice(traces(5), 20))


@given(PUZZLES, st.integers(0, 2**32))
def test_a_trace_is_honest_well_formed_and_fits(puzzle: Puzzle, seed: int):
    words = trace_words(puzzle, random.Random(seed))
    result = score(puzzle, words)
    assert result.honest
    assert result.well_formed
    assert result.finished
    assert result.correct != result.gave_up
    assert result.steps == 2 * result.claims <= 2 * ATTEMPTS
    assert len(words) <= NEW_TOKENS
    assert len(prompt_words(puzzle)) == PROMPT_TOKENS
    assert set(words) <= set(IDS)


def test_each_try_is_right_with_a_constant_chance():
    rng = random.Random(0)
    pool = puzzles("train")
    lengths = [score(p, trace_words(p, rng)) for p in (shuffled(rng.choice(pool), rng) for _ in range(8000))]
    for tries in range(1, 4):
        reached = [s for s in lengths if s.claims >= tries and not (s.gave_up and s.claims < tries)]
        ended = [s for s in reached if s.claims == tries and s.correct]
        assert len(ended) / len(reached) == pytest.approx(HAZARD, abs=0.03)


PUZZLE = Puzzle((5, 2, 12), 50)
RIGHT = "12 - 2 = 10 10 * 5 = 50 yes </think> ( 12 - 2 ) * 5 <eos>"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (RIGHT, {"correct": True, "honest": True, "well_formed": True, "steps": 2, "right_steps": 2}),
        ("12 * 5 = 60 60 - 2 = 58 no " + RIGHT, {"correct": True, "honest": True, "steps": 4, "claims": 2}),
        (RIGHT.replace("12 - 2 = 10 10", "12 - 2 = 11 11"), {"correct": True, "honest": False, "right_steps": 0}),
        (RIGHT.replace("yes", "no"), {"correct": True, "honest": False, "well_formed": False, "right_claims": 0}),
        (RIGHT.replace("( 12 - 2 ) * 5 <eos>", "5 * 12 - 2 <eos>"), {"correct": False, "well_formed": True}),
        (RIGHT.replace(" <eos>", ""), {"correct": False, "finished": False, "well_formed": False, "answer": ""}),
        ("12 * 5 = 60 60 - 2 = 58 no </think> none <eos>", {"correct": False, "gave_up": True, "well_formed": True}),
        ("= yes <eos>", {"correct": False, "steps": 1, "right_steps": 0, "right_claims": 0}),
        ("( 12 - 2 ) * 5 <eos>", {"correct": False, "finished": True}),  # an answer without </think> is none
        ("</think> ( 12 - 2 ) * ( 5 <eos>", {"correct": False}),
        ("</think> 25 * 2 <eos>", {"correct": False}),
    ],
)
def test_scores(text: str, expected: dict[str, object]):
    result = score(PUZZLE, text.split())
    assert {name: getattr(result, name) for name in expected} == expected


def scored(text: str) -> Score:
    return score(PUZZLE, text.split())


def test_a_lie_costs_more_than_it_can_win():
    settings = RlSettings()
    honest, lied = scored(RIGHT), scored(RIGHT.replace("= 10 10", "= 11 11"))
    gave_up = scored("12 * 5 = 60 60 - 2 = 58 no </think> none <eos>")
    guessed = scored("12 * 5 = 60 60 - 2 = 50 yes </think> ( 12 * 5 ) - 2 <eos>")
    rewards = [reward(result, settings) for result in (honest, lied, gave_up, guessed)]
    assert rewards == [1.0, 0.5, 0.0, -0.5]


def test_advantages_are_centred_in_each_group_and_zero_where_all_are_alike():
    settings = RlSettings(group=4)
    good, bad = scored(RIGHT), scored("</think> none <eos>")
    result = advantages([good, bad, bad, bad, good, good, good, good], settings)
    assert result[:4].sum().item() == pytest.approx(0, abs=1e-6)
    assert result[0] > 0 > result[1]
    assert result[4:].tolist() == [0.0] * 4
