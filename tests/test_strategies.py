"""Strategies: what holds of all of them, and what each does, as trees written out."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from led_agent import strategies
from led_agent.errors import UsageError
from led_agent.events import Event
from led_agent.protocols import BranchProgress, Strategy
from led_agent.search import solve
from led_agent.solution import Solution
from led_agent.strategies import BestOfN, EntropyBranching, Fallback
from led_agent.testing import ScriptedDecoder
from led_agent.tree import ROOT, Tree
from led_agent.types import Branch, Budget, DecodeRequest, Decoding, Problem, Verdict

PROBLEM = Problem(prompt="What is 6 x 7?", id="six")
SAFETY = Budget(branches=500, seconds=60)


@dataclass(frozen=True)
class TwoSteps:
    """``width`` first steps, and two endings of each; a first step that failed is left alone."""

    width: int = 1

    def propose(self, tree: Tree, slots: int) -> Sequence[DecodeRequest]:
        missing = self.width - len(tree.children(purpose="explore"))
        if missing > 0:
            return tree.requests(min(missing, slots), step=["\n"])
        for first in tree.children(purpose="explore"):
            done = len(tree.children(first.id, purpose="explore"))
            if first.branch is not None and first.status in ("open", "expanded") and done < 2:
                return tree.requests(min(2 - done, slots), parent=first.id)
        return []


# Every strategy there is, as it comes, and some as they are used.
DEFAULTS: list[Strategy] = [getattr(strategies, name)() for name in strategies.__all__]
ALL: list[Strategy] = [
    *DEFAULTS,
    BestOfN(1),
    BestOfN(5, stop_at_first=False),
    Fallback(BestOfN(2), tries=1, temperature=0.7),
    Fallback(BestOfN(2), tries=0),
    Fallback(Fallback(BestOfN(1), tries=1)),
    Fallback(TwoSteps(2)),
]
every_strategy = pytest.mark.parametrize("strategy", ALL, ids=repr)


def says_42(problem: Problem, branch: Branch) -> bool:
    return "42" in branch.text


def step_by_step(request: DecodeRequest) -> Branch:
    """A script for any strategy: a step where steps are asked for, an ending else, and always wrong."""
    text = "first\n" if request.step else f"41 {request.seed % 100}"
    return Branch(text=text, token_ids=(1, 2), finish="step" if request.step else "eos")


def run(strategy: Strategy, script: Any, *, verifiers: Sequence[Any] = (says_42,), **options: Any) -> Solution:
    chosen = {"budget": SAFETY, "decoding": Decoding.led(depths=2), **options}
    return solve(PROBLEM, decoder=ScriptedDecoder(script), strategy=strategy, verifiers=list(verifiers), **chosen)


def drawn(tree: Tree) -> str:
    """A tree as text: a line a node, indented by depth: id, purpose, decoding, status, text."""
    lines = []
    for node in sorted(tree.nodes(), key=lambda node: [int(step) for step in node.id.split(".")]):
        assert node.request is not None
        text = node.branch.text.strip() if node.branch is not None else "…"
        label = node.request.decoding.label
        lines.append(f"{'  ' * (tree.depth(node.id) - 1)}{node.id} {node.purpose} [{label}] {node.status}: {text}")
    return "\n".join(lines)


def outline(picture: str) -> str:
    """A picture in a test, without the test's indentation."""
    lines = picture.strip("\n").rstrip().splitlines()
    margin = min(len(line) - len(line.lstrip()) for line in lines)
    return "\n".join(line[margin:] for line in lines)


# --- all of them ---------------------------------------------------------------------------------------------------


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
@pytest.mark.parametrize("verdict", [True, False, 0.5, None])
def test_a_strategy_comes_to_an_end(strategy: Strategy, verdict: Any) -> None:
    verifiers = [] if verdict is None else [lambda problem, branch: verdict]
    solution = run(strategy, step_by_step, verifiers=verifiers)
    assert solution.status in ("exhausted", "verified")
    assert solution.verified == (verdict is True)
    assert len(solution.tree) > 1


@every_strategy
def test_a_strategy_comes_to_an_end_where_every_branch_fails(strategy: Strategy) -> None:
    solution = run(strategy, lambda request: Branch(text="", finish="error", error="out of memory"))
    assert solution.status == "failed"
    assert {node.status for node in solution.tree.nodes()} == {"failed"}


fates = st.sampled_from(["right", "wrong", "unsure", "broken", "failed", "cut off", "pending"])


@every_strategy
@given(data=st.data(), slots=st.lists(st.integers(1, 6), min_size=1, max_size=10))
@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.too_slow])
def test_a_strategy_knows_nothing_but_the_tree(strategy: Strategy, data: st.DataObject, slots: list[int]) -> None:
    """Whatever becomes of its branches, it proposes the same for the same tree: asked twice, unpickled, replayed."""
    tree = Tree(PROBLEM, decoding=Decoding.led(depths=2))
    events: list[Event] = [tree.started]
    tree.listen(events.append)
    again = pickle.loads(pickle.dumps(strategy))
    for room in slots:
        before = tree.to_json()
        wanted = list(strategy.propose(tree, room))
        assert wanted == list(strategy.propose(tree, room))
        assert wanted == list(again.propose(Tree.replay(events), room))
        assert wanted == list(again.propose(Tree.from_json(before), room))
        assert tree.to_json() == before
        assert len({request.id for request in wanted}) == len(wanted) <= room
        for request in wanted:
            tree.add(request)  # refuses what can't follow
        for node in tree.pending():
            befall(tree, node.id, data.draw(fates))
        finished = getattr(strategy, "finished", None)
        if finished is not None:
            assert finished(tree) == finished(Tree.replay(events))


def befall(tree: Tree, name: str, fate: str) -> None:
    """Let a branch come back, or not, and be judged, or not."""
    request = tree[name].request
    assert request is not None
    if fate == "pending":
        return
    finish: Any = {"failed": "error", "cut off": "cancelled"}.get(fate, "step" if request.step else "eos")
    tree.attach(Branch(id=name, text=fate, token_ids=(1,), finish=finish))
    status: Any = {"right": "accepted", "wrong": "rejected", "unsure": "abstained", "broken": "error"}.get(fate)
    if status is not None and finish == "eos":
        tree.judge(name, [Verdict(status=status)])


@every_strategy
def test_no_slots_no_requests(strategy: Strategy) -> None:
    assert list(strategy.propose(Tree(PROBLEM), 0)) == []


# --- best of n -----------------------------------------------------------------------------------------------------


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


# --- fallback ------------------------------------------------------------------------------------------------------


def test_all_rejected_falls_back_greedily_and_then_coolly_twice() -> None:
    solution = run(Fallback(BestOfN(2)), ["it is 41"])
    assert drawn(solution.tree) == outline("""
        1 explore [led d=2 k=20 T=0.6] rejected: it is 41
        2 explore [led d=2 k=20 T=0.6] rejected: it is 41
        3 fallback [greedy] rejected: it is 41
        4 fallback [plain T=0.3] rejected: it is 41
        5 fallback [plain T=0.3] rejected: it is 41
    """)
    assert (solution.status, solution.verified) == ("exhausted", False)
    assert solution.tree["3"].request is not None
    assert solution.tree["3"].request.trigger == "2 of 2 branches rejected or failed"


def test_an_answer_found_in_the_fallback_ends_it() -> None:
    solution = run(Fallback(BestOfN(2)), lambda request: "42!" if request.id == "4" else "41")
    assert drawn(solution.tree) == outline("""
        1 explore [led d=2 k=20 T=0.6] rejected: 41
        2 explore [led d=2 k=20 T=0.6] rejected: 41
        3 fallback [greedy] rejected: 41
        4 fallback [plain T=0.3] accepted: 42!
    """)
    assert (solution.status, solution.text) == ("verified", "42!")


def test_an_answer_found_by_exploring_needs_no_fallback() -> None:
    solution = run(Fallback(BestOfN(2)), ["41", "42"])
    assert drawn(solution.tree) == outline("""
        1 explore [led d=2 k=20 T=0.6] rejected: 41
        2 explore [led d=2 k=20 T=0.6] accepted: 42
    """)


def test_an_answer_found_among_all_that_were_wanted_needs_no_fallback_either() -> None:
    solution = run(Fallback(BestOfN(3, stop_at_first=False)), ["41", "42", "43"])
    assert drawn(solution.tree) == outline("""
        1 explore [led d=2 k=20 T=0.6] rejected: 41
        2 explore [led d=2 k=20 T=0.6] accepted: 42
        3 explore [led d=2 k=20 T=0.6] rejected: 43
    """)


def test_where_the_exploration_was_greedy_the_greedy_try_is_left_out() -> None:
    solution = run(Fallback(BestOfN(1), tries=2), ["41"], decoding=Decoding.greedy())
    assert drawn(solution.tree) == outline("""
        1 explore [greedy] rejected: 41
        2 fallback [plain T=0.3] rejected: 41
        3 fallback [plain T=0.3] rejected: 41
    """)


def test_the_fallback_starts_from_the_deepest_sound_step() -> None:
    script: dict[str, str] = {"1": "let x = 6\n", "1.1": "41", "1.2": "43", "1.3": "44", "1.4": "so 42"}
    solution = run(
        Fallback(TwoSteps()),
        lambda request: Branch(text=script[request.id], token_ids=(7,), finish="step" if request.step else "eos"),
    )
    assert drawn(solution.tree) == outline("""
        1 explore [led d=2 k=20 T=0.6] expanded: let x = 6
          1.1 explore [led d=2 k=20 T=0.6] rejected: 41
          1.2 explore [led d=2 k=20 T=0.6] rejected: 43
          1.3 fallback [greedy] rejected: 44
          1.4 fallback [plain T=0.3] accepted: so 42
    """)
    assert solution.text == "let x = 6\nso 42"
    assert solution.tree["1.3"].request is not None
    assert solution.tree["1.3"].request.prefix_ids == (7,)


def test_a_step_that_was_given_up_is_not_sound() -> None:
    tree = Tree(PROBLEM)
    for parent in (ROOT, "1", "1.1"):
        (request,) = tree.requests(1, parent=parent)
        tree.add(request)
        tree.attach(Branch(id=request.id, text="x", token_ids=(1,), finish="eos" if parent == "1.1" else "step"))
    tree.judge("1.1.1", [Verdict(status="rejected")])
    fallback = Fallback(BestOfN(1))
    assert [request.parent for request in fallback.propose(tree, 1)] == ["1.1"]
    tree.prune("1.1", "a dead end")
    assert [request.parent for request in fallback.propose(tree, 1)] == ["1"]
    tree.prune("1", "all of it")
    assert [request.parent for request in fallback.propose(tree, 1)] == [ROOT]


def test_of_two_steps_of_one_depth_the_older_is_taken() -> None:
    solution = run(Fallback(TwoSteps(2), tries=1), step_by_step)
    fallbacks = [node.parent for node in solution.tree.nodes() if node.purpose == "fallback"]
    assert fallbacks == ["1"]


def test_the_fallback_waits_until_every_branch_has_its_verdict() -> None:
    tree = Tree(PROBLEM)
    for request in tree.requests(2):
        tree.add(request)
    fallback = Fallback(BestOfN(2))
    tree.attach(Branch(id="1", text="41"))
    tree.judge("1", [Verdict(status="rejected")])
    assert fallback.propose(tree, 4) == []
    tree.attach(Branch(id="2", text="41"))
    assert fallback.propose(tree, 4) == []
    tree.judge("2", [Verdict(status="rejected")])
    assert fallback.propose(tree, 0) == []
    (greedy,) = fallback.propose(tree, 4)
    assert (greedy.id, greedy.decoding, greedy.purpose) == ("3", Decoding.greedy(), "fallback")
    tree.add(greedy)
    assert fallback.propose(tree, 4) == []


def test_failed_branches_count_as_rejected_ones() -> None:
    broken = Branch(text="", finish="error", error="non-finite logits")
    solution = run(Fallback(BestOfN(2)), lambda request: "42" if request.purpose == "fallback" else broken)
    assert [node.status for node in solution.tree.nodes()] == ["failed", "failed", "accepted"]


ONLY_EXPLORED = outline("""
    1 explore [led d=2 k=20 T=0.6] rejected: 41
    2 explore [led d=2 k=20 T=0.6] open: maybe
""")


@pytest.mark.parametrize(
    "unsure",
    [lambda: 0.5, lambda: Verdict(status="abstained"), lambda: Verdict(status="error"), lambda: 1 / 0],
    ids=["score", "abstained", "error", "raises"],
)
def test_a_branch_that_nobody_rejected_is_better_than_a_fallback(unsure: Callable[[], Any]) -> None:
    def verifier(problem: Problem, branch: Branch) -> Any:
        return unsure() if branch.text == "maybe" else False

    solution = run(Fallback(BestOfN(2)), ["41", "maybe"], verifiers=[verifier])
    assert drawn(solution.tree) == ONLY_EXPLORED
    assert (solution.status, solution.text) == ("exhausted", "maybe")


def test_without_a_verifier_there_is_nothing_to_fall_back_from() -> None:
    solution = run(Fallback(BestOfN(2)), ["41", "42"], verifiers=[])
    assert [(node.purpose, node.status) for node in solution.tree.nodes()] == [("explore", "open")] * 2


def test_without_tries_it_is_the_inner_strategy() -> None:
    alone, wrapped = run(BestOfN(3), ["41"]), run(Fallback(BestOfN(3), tries=0), ["41"])
    assert drawn(alone.tree) == drawn(wrapped.tree)


def test_the_fallback_does_not_explore_whatever_the_search_does() -> None:
    solution = run(Fallback(BestOfN(1)), ["41"], decoding=Decoding.led("official", span="all"))
    decodings = [node.request.decoding for node in solution.tree.nodes() if node.request]
    assert decodings == [
        Decoding.led("official", span="all"),
        Decoding.greedy(),
        Decoding.plain(0.3),
        Decoding.plain(0.3),
    ]


def test_the_tries_are_different_branches() -> None:
    solution = run(Fallback(BestOfN(1), tries=5), ["41"])
    seeds = [node.request.seed for node in solution.tree.nodes() if node.request]
    assert len(set(seeds)) == 6


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"tries": -1}, "tries of at least 0, found -1"),
        ({"temperature": 0.0}, "temperature above 0, found 0.0"),
        ({"temperature": -1.0}, "temperature above 0"),
        ({"temperature": float("nan")}, "temperature above 0"),
    ],
)
def test_a_fallback_that_cannot_be_is_refused(options: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        Fallback(**options)


def test_the_fallback_is_content_when_the_inner_strategy_is() -> None:
    @dataclass(frozen=True)
    class Content(BestOfN):
        def finished(self, tree: Tree) -> bool:
            return len(tree.leaves()) >= 2

    solution = run(Fallback(Content(5)), ["41"])
    assert "the strategy is content" in solution.reason
    assert all(node.purpose == "explore" for node in solution.tree.nodes())


def test_an_accepted_fallback_is_enough_even_for_a_strategy_that_wants_all() -> None:
    tree = Tree(PROBLEM)
    for purpose in ("explore", "fallback"):
        (request,) = tree.requests(1, purpose=purpose)
        tree.add(request)
        tree.attach(Branch(id=request.id, text="x"))
    strategy = Fallback(BestOfN(1, stop_at_first=False))
    tree.judge("1", [Verdict(status="accepted")])
    assert not strategy.finished(tree)
    tree.judge("2", [Verdict(status="accepted")])
    assert strategy.finished(tree)


def test_around_a_strategy_without_finished_the_first_accepted_branch_ends_it() -> None:
    tree = Tree(PROBLEM)
    (request,) = tree.requests(1)
    tree.add(request)
    tree.attach(Branch(id="1", text="42"))
    assert not Fallback(TwoSteps()).finished(tree)
    tree.judge("1", [Verdict(status="accepted")])
    assert Fallback(TwoSteps()).finished(tree)


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


# --- entropy branching ---------------------------------------------------------------------------------------------


def unsure(request: DecodeRequest) -> Branch:
    """Eight tokens, the model least sure of the second, of the third which is too near, and of the seventh."""
    entropies = (0.1, 2.0, 1.9, 0.0, 0.3, 1.4, 1.5, 0.1)
    ids = tuple(range(10, 18)) if request.keep is None else (99,) * (8 - request.keep)
    return Branch(text="41", token_ids=ids, entropies=entropies[-len(ids) :], kept_text="so ")


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


def test_forks_of_forks_count_from_their_own_tokens_and_no_more_than_n() -> None:
    solution = run(EntropyBranching(n=6, roots=1, forks=1), unsure)
    assert [node.id for node in solution.tree.nodes()] == [".".join(["1"] * depth) for depth in range(1, 7)]
    forks = [(node.request.keep, node.request.exclude) for node in solution.tree.nodes() if node.request]
    assert forks[:3] == [(None, ()), (1, (11,)), (0, (99, 11))]  # none of the two that were drawn there before


@pytest.mark.parametrize("options", [{"n": 0}, {"roots": 0}, {"forks": 0}, {"gap": 0}, {"n": 2, "roots": 3}])
def test_entropy_branching_that_cannot_be_is_refused(options: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="EntropyBranching"):
        EntropyBranching(**options)
