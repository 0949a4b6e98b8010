"""Search with each decoding on the embedded model: the same whatever the slots, kept, resumed and shown."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from led_agent.events import Decoded
from led_agent.journal import Journal, read_events, read_trees
from led_agent.local import LocalDecoder
from led_agent.models import EMBEDDED_EXAMPLE
from led_agent.search import Search
from led_agent.solution import Solution
from led_agent.strategies import BestOfN
from led_agent.tree import ROOT, Tree
from led_agent.types import Branch, Budget, Decoding, DepthExploration, LatentNoise, Problem, QualityGuard, Rollback
from led_agent.view import render_tree

N = 6
STRICT = QualityGuard(window=6, every=3, longest_step=6, min_logprob=-0.7, max_entropy=1.0, temperature=0.5)
DECODINGS = {
    "plain": Decoding.plain(1.3),
    "independent": Decoding.plain(1.3).replace(siblings="independent"),
    "led": Decoding.led(depths=4, temperature=1.3),
    "noise": Decoding.noise(0.6, temperature=1.0, orthogonal=True),
    "dola": Decoding.dola("high", temperature=1.0),
    "esamp": Decoding.esamp(0.5, temperature=1.3),
    "guarded": Decoding(
        temperature=1.3, exploration=DepthExploration(depths=4), latent_noise=LatentNoise(sigma=1.0), guard=STRICT
    ),
}
every_decoding = pytest.mark.parametrize("name", DECODINGS)


@pytest.fixture(scope="module")
def decoders() -> Iterator[dict[int, LocalDecoder]]:
    both = {slots: LocalDecoder.load("countdown", device="cpu", slots=slots) for slots in (3, 16)}
    yield both
    for decoder in both.values():
        decoder.close()


def searched(decoder: LocalDecoder, name: str, journal: Journal | None = None, **options: Any) -> Solution:
    strategy = BestOfN(N, stop_at_first=False)
    chosen = {"strategy": strategy, "decoding": DECODINGS[name], "seed": 7, "max_tokens": 60, **options}
    with Search(decoder=decoder, journal=journal, **chosen) as search:
        return search.solve(EMBEDDED_EXAMPLE)


@pytest.fixture(scope="module")
def solutions(decoders: dict[int, LocalDecoder]) -> dict[str, Solution]:
    return {name: searched(decoders[16], name) for name in DECODINGS}


def grown(branch: Branch | None) -> dict[str, Any]:
    """All but what depends on how busy the engine was."""
    assert branch is not None
    return branch.model_dump(exclude={"seconds", "prefill_tokens"})


def all_grown(tree: Tree) -> dict[str, Any]:
    return {node.id: (grown(node.branch), node.status) for node in tree.nodes()}


# --- whatever the slots ----------------------------------------------------------------------------------------------


@every_decoding
def test_a_search_finds_the_same_with_few_slots_and_with_many(
    name: str, decoders: dict[int, LocalDecoder], solutions: dict[str, Solution]
):
    few, many = searched(decoders[3], name), solutions[name]
    assert all_grown(few.tree) == all_grown(many.tree)
    assert (few.answer, few.verified, few.status) == (many.answer, many.verified, many.status)
    assert len(many.tree) == N + 1
    assert {node.branch.finish for node in many.tree.nodes() if node.branch} <= {"eos", "length"}


@every_decoding
def test_each_branch_has_its_own_place_among_its_siblings(name: str, solutions: dict[str, Solution]):
    places = [node.request.sibling for node in solutions[name].tree.nodes() if node.request]
    assert [place.index for place in places if place] == list(range(N))
    assert {(place.group, place.of) for place in places if place} == {(places[0].group if places[0] else 0, N)}
    seeds = [node.request.seed for node in solutions[name].tree.nodes() if node.request]
    assert len(set(seeds)) == N


def test_decodings_differ_in_what_they_find(solutions: dict[str, Solution]):
    found = {tuple(n.branch.token_ids for n in s.tree.nodes() if n.branch) for s in solutions.values()}
    assert len(found) == len(DECODINGS)


def test_places_are_given_once_each_over_several_calls_and_then_in_a_new_group():
    tree = Tree(Problem(prompt=EMBEDDED_EXAMPLE))
    places = []
    for n in (3, 1, 4, 2, 6, 3):
        for request in tree.requests(n, siblings=8):
            tree.add(request)
            assert request.sibling is not None
            places.append(request.sibling)
    assert [place.index for place in places] == [*range(8), *range(8), *range(3)]
    groups = [place.group for place in places]
    assert len(set(groups)) == 3
    assert [len(set(groups[start : start + 8])) for start in (0, 8, 16)] == [1, 1, 1]


def test_places_are_those_of_a_parent_and_a_purpose():
    tree = Tree(Problem(prompt=EMBEDDED_EXAMPLE))
    for request in tree.requests(2, siblings=4):
        tree.add(request)
        tree.attach(Branch(id=request.id, text="x", token_ids=(1,), finish="step"))
    below, fallback, more = (
        tree.requests(2, parent="1"),
        tree.requests(2, purpose="fallback"),
        tree.requests(2, siblings=4),
    )
    (alone,) = tree.requests(1, parent="2")
    assert [r.sibling.index for r in (*below, *fallback, *more) if r.sibling] == [0, 1, 0, 1, 2, 3]
    assert len({r.sibling.group for r in (*below, *fallback, *more) if r.sibling}) == 3
    assert alone.sibling is None
    other = Tree(Problem(prompt=EMBEDDED_EXAMPLE), seed=1).requests(2)
    assert other[0].sibling is not None
    assert other[0].sibling.group not in {r.sibling.group for r in fallback if r.sibling}


# --- the guard's work ------------------------------------------------------------------------------------------------


def rollbacks(tree: Tree) -> dict[str, tuple[Rollback, ...]]:
    return {node.id: node.branch.rollbacks for node in tree.nodes() if node.branch is not None}


def test_what_was_rolled_back_is_on_the_tree_and_paid_for(solutions: dict[str, Solution]):
    solution = solutions["guarded"]
    assert sum(map(len, rollbacks(solution.tree).values())) > 3
    done = [node.branch for node in solution.tree.nodes() if node.branch is not None]
    discarded = sum(branch.discarded for branch in done)
    assert discarded > 10
    assert solution.usage.generated_tokens == discarded + sum(len(branch.token_ids) for branch in done)
    assert all(solutions[name].usage.generated_tokens > 0 for name in DECODINGS)
    for branch in done:
        assert branch.discarded == 0 or branch.rollbacks


def test_the_budget_counts_what_was_rolled_back(decoders: dict[int, LocalDecoder], solutions: dict[str, Solution]):
    whole = solutions["guarded"].usage.generated_tokens
    kept = sum(len(node.branch.token_ids) for node in solutions["guarded"].tree.nodes() if node.branch)
    limit = (whole + kept) // 2
    solution = searched(decoders[16], "guarded", budget=Budget(tokens=limit))
    assert solution.usage.generated_tokens >= limit
    counted = sum(n.branch.discarded + len(n.branch.token_ids) for n in solution.tree.nodes() if n.branch)
    assert solution.usage.generated_tokens == counted


def test_what_was_rolled_back_survives_json_and_the_journal(tmp_path: Path, decoders: dict[int, LocalDecoder]):
    path = tmp_path / "run.jsonl"
    with Journal(path) as journal:
        tree = searched(decoders[16], "guarded", journal).tree
    told = rollbacks(tree)
    assert any(told.values())
    again = Tree.from_json(tree.to_json())
    assert rollbacks(again) == told
    assert again.to_json() == tree.to_json()
    (read,) = read_trees(path).values()
    assert rollbacks(read) == told
    assert read.to_json() == tree.to_json()


def test_the_view_tells_of_branches_that_were_turned_back(solutions: dict[str, Solution]):
    def shown(name: str) -> list[str]:
        console = Console(file=io.StringIO(), width=400, color_system=None)
        console.print(render_tree(solutions[name].tree))
        return str(console.file.getvalue()).splitlines()  # type: ignore[attr-defined]

    told = rollbacks(solutions["guarded"].tree)
    lines = [line for line in shown("guarded") if any(f" {name} " in line for name in told)]
    assert sum("turned back" in line for line in lines) == sum(bool(events) for events in told.values())
    assert not any("turned back" in line for line in shown("plain"))


# --- resumed ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["plain", "noise", "guarded"])
def test_a_torn_journal_resumes_to_the_same_branches(
    name: str, tmp_path: Path, decoders: dict[int, LocalDecoder], solutions: dict[str, Solution]
):
    path = tmp_path / "run.jsonl"
    with Journal(path) as journal:
        searched(decoders[3], name, journal)
    lines = path.read_bytes().splitlines(keepends=True)
    decoded = [i for i, (_, event) in enumerate(read_events(path)) if isinstance(event, Decoded)]
    path.write_bytes(b"".join(lines[: decoded[2] + 1]) + lines[decoded[3]][:40])
    with Journal(path) as journal:
        resumed = searched(decoders[16], name, journal)
    assert all_grown(resumed.tree) == all_grown(solutions[name].tree)
    assert resumed.tree[ROOT].notes == ()
