"""What holds of all strategies: they end, stay within what they may, and know nothing but the tree."""

from __future__ import annotations

import dataclasses
import pickle
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from led_agent.events import Event
from led_agent.journal import Journal, read_trees
from led_agent.local import LocalDecoder
from led_agent.protocols import Strategy
from led_agent.search import solve
from led_agent.solution import Solution
from led_agent.strategies import MCTS, Beam, BestOfN, EntropyBranching, Fallback
from led_agent.testing import ScriptedDecoder
from led_agent.tree import ROOT, Tree
from led_agent.types import Branch, Budget, Decoding, Problem, Verdict
from tests.strategies.helpers import (
    ALL,
    DEFAULTS,
    PROBLEM,
    SETTLED,
    Judge,
    Play,
    canonical,
    is_hasty,
    rates,
    rejects,
    rejects_ends,
    run,
    silent,
    step_by_step,
)

every_strategy = pytest.mark.parametrize("strategy", ALL, ids=repr)
few = settings(deadline=None, max_examples=4, suppress_health_check=[HealthCheck.too_slow], derandomize=True)


@every_strategy
def test_a_strategy_is_a_frozen_record_that_survives_pickling(strategy: Strategy) -> None:
    assert isinstance(strategy, Strategy)
    assert dataclasses.is_dataclass(strategy)
    again = pickle.loads(pickle.dumps(strategy))
    assert again == strategy
    assert hash(again) == hash(strategy)
    for field in dataclasses.fields(strategy):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(strategy, field.name, getattr(strategy, field.name))


@every_strategy
def test_no_slots_no_requests(strategy: Strategy) -> None:
    assert list(strategy.propose(Tree(PROBLEM), 0)) == []


def accepts(tree: Tree, node: Any) -> list[Verdict]:
    return [Verdict(status="abstained" if node.branch.finish == "step" else "accepted")]


def breaks(tree: Tree, node: Any) -> list[Verdict]:
    return [Verdict(status="error")]


@every_strategy
@pytest.mark.parametrize("judge", [rejects, rejects_ends, rates, silent, accepts, breaks], ids=lambda f: f.__name__)
def test_a_strategy_comes_to_an_end(strategy: Strategy, judge: Judge) -> None:
    tree = Play(strategy, judge=judge)()  # which fails where it goes on for ever
    assert tree.leaves()
    assert not tree.pending()
    assert bool(tree.accepted()) == (judge is accepts)


@every_strategy
def test_a_strategy_comes_to_an_answer(strategy: Strategy) -> None:
    """Not all of its tokens may go into steps that nobody finishes."""
    tree = Play(strategy, judge=rates)()
    assert any(leaf.branch is not None and leaf.branch.finish == "eos" for leaf in tree.leaves())


@pytest.mark.parametrize("strategy", DEFAULTS, ids=repr)
def test_a_strategy_comes_to_an_end_where_every_branch_fails(strategy: Strategy) -> None:
    solution = run(strategy, lambda request: Branch(text="", finish="error", error="out of memory"))
    assert solution.status == "failed"
    assert {node.status for node in solution.tree.nodes()} == {"failed"}


@pytest.mark.parametrize("strategy", SETTLED + [s for s in DEFAULTS if not is_hasty(s)], ids=repr)
@pytest.mark.parametrize("judge", [rejects, rejects_ends, silent], ids=lambda f: f.__name__)
def test_the_tree_does_not_depend_on_slots_or_the_order_of_results(strategy: Strategy, judge: Judge) -> None:
    expected = canonical(Play(strategy, judge=judge, slots=16)())
    for slots in (1, 7):
        found = canonical(Play(strategy, judge=judge, slots=slots, luck=random.Random(slots))())
        assert list(found) == list(expected)
        assert found == expected


@every_strategy
def test_the_same_seed_is_the_same_tree_and_another_is_another(strategy: Strategy) -> None:
    first, second, other = (
        Play(strategy, judge=rejects, luck=random.Random(3), seed=seed)().to_json() for seed in (1, 1, 2)
    )
    assert first == second
    assert first != other


fates = st.sampled_from(["right", "wrong", "unsure", "rated", "broken", "mute", "failed", "cut off", "pending", "late"])


@every_strategy
@given(data=st.data(), slots=st.lists(st.integers(1, 6), min_size=1, max_size=8))
@few
def test_a_strategy_knows_nothing_but_the_tree(strategy: Strategy, data: st.DataObject, slots: list[int]) -> None:
    """Whatever becomes of its branches, it proposes the same for the same tree: asked twice, unpickled, replayed."""
    tree = Tree(PROBLEM, decoding=Decoding.led(depths=2))
    events: list[Event] = [tree.started]
    tree.listen(events.append)
    again = pickle.loads(pickle.dumps(strategy))
    for room in slots:
        before = tree.to_json()
        wanted = list(strategy.propose(tree, room))
        replayed, read = Tree.replay(events), Tree.from_json(before)
        assert wanted == list(strategy.propose(tree, room))
        assert wanted == list(again.propose(replayed, room))
        assert wanted == list(again.propose(read, room))
        for name in ("finished", "prune", "choose"):
            if hasattr(strategy, name):
                told = getattr(strategy, name)(tree)
                assert told == getattr(again, name)(replayed) == getattr(again, name)(read)
        assert tree.to_json() == before
        assert len({request.id for request in wanted}) == len(wanted) <= room
        for request in wanted:
            tree.add(request)  # refuses what can't follow
        for node in tree.unsettled():
            befall(tree, node.id, data.draw(fates))
        for name, reason in getattr(strategy, "prune", lambda tree: ())(tree):
            tree.prune(name, reason)


def befall(tree: Tree, name: str, fate: str) -> None:
    """Let a branch come back, or not, and be judged, or not."""
    node = tree[name]
    if fate == "pending" or node.request is None or (node.pending and node.status == "pruned"):
        return
    if node.branch is None:
        finish: Any = {"failed": "error", "cut off": "cancelled"}.get(fate)
        branch = step_by_step(node.request)
        tree.attach(branch.model_copy(update={"id": name, "finish": finish or branch.finish}))
    if tree[name].settled or fate in ("late", "failed", "cut off"):
        return
    status: Any = {"right": "accepted", "wrong": "rejected", "unsure": "abstained", "broken": "error"}.get(fate)
    rated = [Verdict(status="abstained", score=0.5)]
    tree.judge(name, [Verdict(status=status)] if status else rated if fate == "rated" else [])


# --- with the loop ---------------------------------------------------------------------------------------------------


class Graded:
    """A verifier that rejects all answers, and grades steps."""

    def __call__(self, problem: Problem, branch: Branch) -> bool:
        return False

    def step(self, problem: Problem, branch: Branch) -> float:
        return 0.05 + hash(branch.token_ids) % 90 / 100


@every_strategy
@given(
    tokens=st.one_of(st.none(), st.integers(1, 60)),
    prefill=st.one_of(st.none(), st.integers(1, 12)),
    branches=st.one_of(st.none(), st.integers(1, 12)),
    calls=st.one_of(st.none(), st.integers(1, 12)),
    slots=st.integers(1, 8),
)
@few
def test_a_budget_is_kept(
    strategy: Strategy, tokens: int | None, prefill: int | None, branches: int | None, calls: int | None, slots: int
) -> None:
    budget = Budget(tokens=tokens, prefill_tokens=prefill, branches=branches, verifier_calls=calls, seconds=60)
    decoder = ScriptedDecoder(step_by_step, slots=slots)
    solution = run(strategy, None, decoder=decoder, verifiers=[Graded()], budget=budget)
    usage, room = solution.usage, int(slots * 1.25 + 0.5)
    assert usage.branches <= (branches or 600)
    assert usage.verifier_calls <= (calls or 600)
    # A script's branches come whole, and all that were asked for together: that much it may be more.
    assert usage.generated_tokens < (tokens or 6000) + 5 * room
    assert usage.prefill_tokens < (prefill or 6000) + 3 * room
    requests = decoder.requests
    assert len({request.id for request in requests}) == len(requests) == usage.branches
    assert {request.parent for request in requests} <= {ROOT, *(request.id for request in requests)}


@pytest.mark.parametrize("strategy", [s for s in SETTLED if not isinstance(s, BestOfN)], ids=repr)
def test_a_run_that_was_cut_anywhere_comes_to_the_same_end(strategy: Strategy, tmp_path: Path) -> None:
    options: dict[str, Any] = {"verifiers": [Graded()], "seed": 5}
    path = tmp_path / "whole.jsonl"
    with Journal(path) as journal:
        whole = run(strategy, step_by_step, journal=journal, **options)
    lines = path.read_bytes().splitlines(keepends=True)
    drawn = random.Random(0).sample(range(1, len(lines)), min(4, len(lines) - 1))
    for at in (*drawn, len(lines) - 1):
        cut = tmp_path / f"{at}.jsonl"
        cut.write_bytes(b"".join(lines[:at]))
        with Journal(cut) as journal:
            again = run(strategy, step_by_step, journal=journal, **options)
        assert canonical(again.tree) == canonical(whole.tree)
        assert (again.status, again.confidence) == (whole.status, whole.confidence)
        assert canonical(read_trees(cut)["six"]) == canonical(whole.tree)


@pytest.mark.parametrize("strategy", [s for s in ALL if is_hasty(s)], ids=repr)
def test_a_hasty_run_that_was_cut_comes_to_an_end(strategy: Strategy, tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    with Journal(path) as journal:
        run(strategy, step_by_step, journal=journal, verifiers=[Graded()])
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[: len(lines) // 2]))
    with Journal(path) as journal:
        assert run(strategy, step_by_step, journal=journal, verifiers=[Graded()]).status == "exhausted"


@pytest.fixture(scope="module")
def countdown() -> Iterator[LocalDecoder]:
    decoder = LocalDecoder.load("countdown", device="cpu")
    yield decoder
    decoder.close()


@pytest.mark.parametrize(
    "strategy",
    [
        Fallback(Beam(width=2, expand=2, max_step_tokens=12, max_depth=3)),
        MCTS(simulations=6, batch=2, width=2, max_step_tokens=12),
        EntropyBranching(n=6, roots=2),
    ],
    ids=lambda s: type(s).__name__,
)
def test_a_search_with_a_real_model_that_was_cut_comes_to_the_same_end(
    strategy: Strategy, countdown: LocalDecoder, tmp_path: Path
) -> None:
    problem = "Use 4, 4 and 4 to make 99."  # which can't be: all is rejected
    decoding = Decoding.plain(0.8)
    path = tmp_path / "run.jsonl"

    def ask(journal: Journal) -> Solution:
        return solve(
            problem, decoder=countdown, strategy=strategy, journal=journal, decoding=decoding, max_tokens=80, seed=3
        )

    def told(tree: Tree) -> dict[str, Any]:
        return {node.id: (node.request, tree.branch(node.id).token_ids, node.status) for node in tree.nodes()}

    with Journal(path) as journal:
        whole = ask(journal)
    assert not whole.verified
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[: len(lines) // 2]))
    with Journal(path) as journal:
        again = ask(journal)
    assert told(again.tree) == told(whole.tree)
    assert (again.status, again.text) == (whole.status, whole.text)
