"""Branches that a budget can pay: whole ones, and one where none is under way."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from led_agent import Budget, Decoding, Search
from led_agent.local import LocalDecoder
from led_agent.purse import Purse
from led_agent.strategies import BestOfN

ASKED = "Using the numbers 3, 7 and 19, make 40. Use each number exactly once."


def test_as_many_as_can_be_paid_whole() -> None:
    purse = Purse(most=60)
    assert purse.affordable(300, []) == 5
    assert purse.affordable(300, [0, 0]) == 3
    assert purse.affordable(300, [50, 0]) == 3
    assert purse.affordable(59, []) == 1
    assert purse.affordable(59, [10]) == 0


def test_what_has_ended_shows_how_long_branches_are() -> None:
    purse = Purse(most=500)
    purse.ended(20)
    purse.ended(10)
    assert purse.set_aside([5]) == 40
    assert purse.affordable(100, [5]) == 1
    assert purse.set_aside([5, 35]) == 70
    purse.ended(900)
    assert purse.set_aside() == 500


@given(st.integers(1, 500), st.integers(0, 600), st.integers(1, 10_000), st.lists(st.integers(0, 500), max_size=20))
def test_never_more_than_is_left(most: int, longest: int, left: int, growing: list[int]) -> None:
    purse = Purse(most, longest)
    count = purse.affordable(left, growing)
    assert count >= (0 if growing else 1)
    if count > (0 if growing else 1):
        aside = purse.set_aside(growing)
        assert count * aside + sum(max(1, aside - tokens) for tokens in growing) <= left


def test_a_small_budget_is_spent_on_whole_answers() -> None:
    """64 branches side by side would be 64 beginnings."""
    decoder = LocalDecoder.load(slots=64)
    search = Search(
        decoder=decoder, strategy=BestOfN(64, stop_at_first=False), decoding=Decoding.plain(0.6), max_tokens=75,
        budget=Budget(tokens=300), verifiers=[],
    )  # fmt: skip
    solution = search.solve(ASKED)
    decoder.close()
    ended = [node for node in solution.tree.nodes() if node.branch is not None and node.branch.finish == "eos"]
    assert solution.status == "budget"
    assert 300 <= solution.usage.generated_tokens < 364
    assert sum(len(node.branch.token_ids) for node in ended if node.branch is not None) >= 300 - 2 * 75
