"""EntropyBranching: where forks are made, and in which rounds."""

from __future__ import annotations

import pytest

from led_agent.errors import UsageError
from led_agent.strategies import EntropyBranching
from led_agent.types import Branch, DecodeRequest
from tests.strategies.helpers import Play, run


def unsure(request: DecodeRequest) -> Branch:
    """Eight tokens, the model least sure of the second, of the third which is too near, and of the seventh; a fork is
    surer of all of its own."""
    entropies = (0.1, 2.0, 1.9, 0.0, 0.3, 1.4, 1.5, 0.1)
    ids = tuple(range(10, 18)) if request.keep is None else (99,) * (8 - request.keep)
    doubts = entropies if request.keep is None else tuple(doubt / 4 for doubt in entropies[-len(ids) :])
    return Branch(text="41", token_ids=ids, entropies=doubts, kept_text="so ")


def test_forks_are_where_the_model_was_least_sure_and_elsewhere_than_before() -> None:
    solution = run(EntropyBranching(n=3, roots=1), unsure)
    forks = [node.request for node in solution.tree.nodes() if node.request and node.purpose == "fork"]
    assert [(fork.parent, fork.keep, fork.exclude, fork.prefix_ids) for fork in forks] == [
        ("1", 1, (11,), (10,)),
        ("1", 6, (16,), (10, 11, 12, 13, 14, 15)),
    ]
    assert forks[0].trigger == "entropy of 2.00 nat at token 1"
    assert [fork.id for fork in forks] == ["1.1", "1.2"]
    assert len({fork.seed for fork in forks}) == 2
    assert all(leaf.status == "rejected" for leaf in solution.tree.leaves())
    assert len(solution.tree.leaves()) == 3


def test_a_round_doubles_the_branches_and_looks_at_those_from_before_it() -> None:
    doubts = {"1": (0.9, 0.8), "2": (0.5, 0.1), "1.1": (3.0, 0.7), "1.2": (2.0, 0.2)}

    def script(request: DecodeRequest) -> Branch:
        found = doubts.get(request.id, (0.01, 0.01))
        return Branch(text="41", token_ids=(7,) * len(found), entropies=found)

    for slots in (1, 2, 8):
        tree = Play(EntropyBranching(n=8, roots=2, gap=1), script=script, slots=slots)()
        forks = [(r.parent, r.keep) for node in tree.nodes() if (r := node.request) and node.purpose == "fork"]
        # A round of two: both in branch 1, though what comes of the first is less sure. Then one of four.
        assert forks == [("1", 0), ("1", 1), ("1.1", 0), ("1.2", 0), ("1.1", 1), ("2", 0)]


def test_forks_of_forks_count_from_their_own_tokens_and_no_more_than_n() -> None:
    solution = run(EntropyBranching(n=6, roots=1, forks=1), unsure)
    assert [node.id for node in solution.tree.nodes()] == [".".join(["1"] * depth) for depth in range(1, 7)]
    forks = [(node.request.keep, node.request.exclude) for node in solution.tree.nodes() if node.request]
    assert forks[:3] == [(None, ()), (1, (11,)), (0, (99, 11))]  # none of the two that were drawn there before


@pytest.mark.parametrize("options", [{"n": 0}, {"roots": 0}, {"forks": 0}, {"gap": 0}, {"n": 2, "roots": 3}])
def test_entropy_branching_that_cannot_be_is_refused(options: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="EntropyBranching"):
        EntropyBranching(**options)
