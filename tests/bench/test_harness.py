"""The harness with plain callables: who is timed when, what is made of the figures, and what goes wrong."""

from __future__ import annotations

import random

import pytest

from led_agent.bench.harness import WARM_UP, Arm, Comparison, Spread, compare
from led_agent.bench.workload import Workload
from led_agent.errors import UsageError


class Clock:
    """Arms that take as long as they are told to, and note when they were called."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int]] = []

    def arm(self, name: str, *seconds: float | BaseException) -> Arm:
        def run(number: int) -> tuple[int, float]:
            self.calls.append((name, number))
            taken = seconds[number % len(seconds)] if number != WARM_UP else 1.0
            if isinstance(taken, BaseException):
                raise taken
            return 100, taken

        return Arm(name, run)


def result(found: Comparison, name: str) -> tuple[float, ...]:
    return next(arm.rates for arm in found.arms if arm.name == name)


def test_every_round_begins_with_another_arm_and_each_is_warmed_up_once():
    clock = Clock()
    compare([clock.arm(name, 1.0) for name in "abc"], rounds=4)
    names = "".join(name for name, _ in clock.calls)
    assert names == "abc" + "abc" + "bca" + "cab" + "abc"
    assert [number for _, number in clock.calls] == [WARM_UP] * 3 + [n for n in range(4) for _ in range(3)]


def test_a_preparation_takes_the_place_of_the_warm_up():
    clock, prepared = Clock(), []
    compare([Arm("a", clock.arm("a", 1.0).run, lambda: prepared.append("a"))], rounds=1)
    assert (prepared, clock.calls) == (["a"], [("a", 0)])


def test_ratios_are_of_figures_of_one_round():
    clock = Clock()
    arms = [clock.arm("a", 1.0, 4.0, 2.0), clock.arm("b", 2.0, 4.0, 8.0)]
    found = compare(arms, rounds=3, ratios=[("a", "b")])
    assert (result(found, "a"), result(found, "b")) == ((100.0, 25.0, 50.0), (50.0, 25.0, 12.5))
    ratio = found.ratio("a", "b")
    assert ratio is not None
    assert ratio.rounds == (2.0, 1.0, 4.0)
    # Not the ratio of the medians, which is 50 ÷ 25 as well, but of lowest and highest 8 … 0.5.
    assert ratio.spread == Spread(median=2.0, low=1.0, high=4.0, lower_quartile=1.5, upper_quartile=3.0)
    assert found.ratio("b", "a") is None
    assert Comparison.model_validate_json(found.model_dump_json()) == found


def test_an_even_number_of_figures_has_its_median_between_two():
    rng = random.Random(0)
    values = [4.0, 1.0, 3.0, 2.0]
    rng.shuffle(values)
    assert Spread.of(values) == Spread(median=2.5, low=1.0, high=4.0, lower_quartile=1.75, upper_quartile=3.25)
    assert Spread.of([7.0]) == Spread(median=7.0, low=7.0, high=7.0, lower_quartile=7.0, upper_quartile=7.0)
    assert Spread.of([]) is None


def test_an_arm_that_raises_is_out_with_its_error_and_the_others_go_on():
    clock = Clock()
    bad = clock.arm("bad", 1.0, RuntimeError("no memory\nsecond line"))
    found = compare([clock.arm("good", 1.0), bad], rounds=3, ratios=[("good", "bad")])
    assert found.rounds == 3
    assert result(found, "good") == (100.0,) * 3
    assert [(arm.name, len(arm.rates), arm.error) for arm in found.arms] == [
        ("good", 3, None),
        ("bad", 1, "bad raised RuntimeError: no memory"),
    ]
    ratio = found.ratio("good", "bad")
    assert ratio is not None
    assert ratio.rounds == (1.0,)
    assert [number for name, number in clock.calls if name == "bad"] == [WARM_UP, 0, 1]


def test_an_arm_that_cannot_be_prepared_is_reported_and_never_timed():
    def fail() -> None:
        raise OSError("no such file")

    clock = Clock()
    found = compare([clock.arm("good", 1.0), Arm("bad", clock.arm("bad", 1.0).run, fail)], rounds=2)
    assert found.arms[1].error == "bad raised OSError: no such file"
    assert (found.arms[1].rates, found.arms[1].spread) == ((), None)
    assert ("bad", 0) not in clock.calls


def test_where_every_arm_fails_it_ends():
    clock = Clock()
    found = compare([clock.arm("a", ValueError("x"))], rounds=5)
    assert found.rounds == 1
    assert len(clock.calls) == 2


def test_a_time_of_nothing_is_an_error_and_no_infinite_rate():
    found = compare([Clock().arm("a", 0.0)], rounds=1)
    assert "100 tokens in 0.0 seconds" in str(found.arms[0].error)


@pytest.mark.parametrize("at", [0, 1])
def test_an_interrupt_keeps_the_complete_rounds(at: int):
    """It comes in the third round, before or after another arm was timed in it."""
    clock = Clock()
    arms = [clock.arm("a", 1.0), clock.arm("b", 2.0)]
    arms[at] = clock.arm("ab"[at], 1.0, 1.0, KeyboardInterrupt())
    found = compare(arms, rounds=5, ratios=[("a", "b")])
    assert (found.interrupted, found.rounds, found.asked) == (True, 2, 5)
    assert [len(arm.rates) for arm in found.arms] == [2, 2]
    assert len(found.ratios[0].rounds) == 2


def test_an_interrupt_while_loading_leaves_no_figure():
    def interrupt() -> None:
        raise KeyboardInterrupt

    found = compare([Arm("a", Clock().arm("a", 1.0).run, interrupt)], rounds=2)
    assert (found.interrupted, found.rounds, found.arms[0].spread) == (True, 0, None)


def test_progress_counts_every_timing():
    told: list[tuple[str, int, int]] = []
    clock = Clock()
    compare([clock.arm("a", 1.0), clock.arm("b", 1.0)], rounds=2, progress=lambda *said: told.append(said))
    assert told[:3] == [("loading and warming up", done, 2) for done in range(3)]
    assert told[3:] == [("timing", done, 4) for done in range(1, 5)]


@pytest.mark.parametrize(
    ("names", "rounds", "ratios", "said"),
    [
        ("", 1, [], "nothing to compare"),
        ("aa", 1, [], "a name of its own"),
        ("ab", 0, [], "rounds is 0"),
        ("ab", 1, [("a", "c")], "no arm 'c'"),
    ],
)
def test_what_cannot_be_compared(names: str, rounds: int, ratios: list[tuple[str, str]], said: str):
    with pytest.raises(UsageError, match=said):
        compare([Clock().arm(name, 1.0) for name in names], rounds=rounds, ratios=ratios)


def test_prompts_differ_by_round_and_use_and_are_the_same_again():
    work = Workload(prompt=32)
    prompts = [tuple(work.prompt_ids(number, 500, use)) for number in range(-3, 40) for use in ("", "led")]
    assert len(set(prompts)) == len(prompts)
    assert {len(prompt) for prompt in prompts} == {32}
    assert min(map(min, prompts)) >= 100
    assert max(map(max, prompts)) < 500
    assert work.prompt_ids(3, 500) == work.prompt_ids(3, 500)
    assert max(Workload(prompt=50).prompt_ids(0, 20)) < 20
