"""Best of N."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from led_agent.errors import UsageError
from led_agent.events import Event
from led_agent.protocols import BranchProgress
from led_agent.strategies import BestOfN
from led_agent.tree import Tree
from led_agent.types import Branch, Verdict
from tests.strategies.helpers import PROBLEM, drawn, outline, run


@given(n=st.integers(1, 12), slots=st.lists(st.integers(-1, 5), max_size=20))
@settings(deadline=None, max_examples=60)
def test_best_of_n_asks_for_n_and_never_for_more_than_it_may(n: int, slots: list[int]) -> None:
    tree, strategy = Tree(PROBLEM), BestOfN(n)
    for room in [*slots, n]:
        wanted = strategy.propose(tree, room)
        assert len(wanted) == max(0, min(room, n - (len(tree) - 1)))
        for request in wanted:
            tree.add(request)
    assert [node.id for node in tree.nodes()] == [str(k) for k in range(1, n + 1)]
    assert strategy.propose(tree, 5) == []


@pytest.mark.parametrize("n", [0, -1])
def test_best_of_none_is_refused(n: int) -> None:
    with pytest.raises(UsageError, match=f"at least 1, found {n}"):
        BestOfN(n)


def test_best_of_n_stops_at_the_first_accepted_branch_unless_told_otherwise() -> None:
    tree = Tree(PROBLEM)
    for request in tree.requests(2):
        tree.add(request)
        tree.attach(Branch(id=request.id, text="x"))
    assert not BestOfN(4).finished(tree)
    tree.judge("1", [Verdict(status="rejected")])
    assert not BestOfN(4).finished(tree)
    tree.judge("2", [Verdict(status="accepted")])
    assert BestOfN(4).finished(tree)
    assert not BestOfN(4, stop_at_first=False).finished(tree)


def test_best_of_n_does_not_count_what_others_asked_for() -> None:
    tree = Tree(PROBLEM)
    for request in tree.requests(3, purpose="fallback"):
        tree.add(request)
    assert [request.id for request in BestOfN(2).propose(tree, 9)] == ["4", "5"]


def test_best_of_n_that_goes_through_all() -> None:
    solution = run(BestOfN(4, stop_at_first=False), ["it is 41", "it is 42", "42 it is", "43"])
    assert drawn(solution.tree) == outline("""
        1 explore [led d=2 k=20 T=0.6] rejected: it is 41
        2 explore [led d=2 k=20 T=0.6] accepted: it is 42
        3 explore [led d=2 k=20 T=0.6] accepted: 42 it is
        4 explore [led d=2 k=20 T=0.6] rejected: 43
    """)
    assert solution.text == "it is 42"


def test_the_picture_of_a_tree_shows_what_is_still_growing() -> None:
    pictures: list[str] = []

    def observer(tree: Tree, event: Event | BranchProgress) -> None:
        if getattr(event, "event", "") == "requested":
            pictures.append(drawn(tree))

    run(BestOfN(2), ["41"], observer=observer)
    assert pictures[-1] == outline("""
        1 explore [led d=2 k=20 T=0.6] open: …
        2 explore [led d=2 k=20 T=0.6] open: …
    """)
