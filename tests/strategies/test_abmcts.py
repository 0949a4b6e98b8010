"""ABMCTS: it chooses as the authors' implementation does, and grows the tree that the rewards ask for."""

from __future__ import annotations

import math
import pickle
import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import treequest
from hypothesis import given, settings
from hypothesis import strategies as st

from led_agent.errors import UsageError
from led_agent.search import solve
from led_agent.strategies import ABMCTS, Fallback
from led_agent.strategies.abmcts import _Grown
from led_agent.testing import ScriptedDecoder
from led_agent.tree import ROOT, Tree, derive_seed
from led_agent.types import Branch, Budget, DecodeRequest, Problem, Verdict

PROBLEM = Problem(prompt="What is 6 x 7?", id="six")
MODELS = ["gaussian", "beta"]
every_model = pytest.mark.parametrize("model", MODELS)

Landscape = Callable[[float | None, random.Random], float]  # a branch's reward, from its parent's


def uneven(above: float | None, rng: random.Random) -> float:
    """Rewards that say nothing of each other."""
    return round(rng.random(), 2)


def refinement_pays(above: float | None, rng: random.Random) -> float:
    return 0.2 + 0.1 * rng.random() if above is None else min(0.95, above + 0.2 * rng.random())


def refinement_is_useless(above: float | None, rng: random.Random) -> float:
    return 0.2 + 0.5 * rng.random() if above is None else 0.1 * rng.random()


def settle(tree: Tree, name: str, landscape: Landscape, entropies: Sequence[float] = ()) -> None:
    """Let a branch come back and be judged, whenever that is, by its name and its parent's reward."""
    parent = tree[name].parent or ROOT
    above = tree[parent].verdict
    rng = random.Random(derive_seed(tree.started.seed, tree.problem, f"landscape {name}"))
    score = landscape(above.score if above is not None else None, rng)
    ids = tuple(range(len(entropies)))
    tree.attach(Branch(id=name, text=f"answer {name}", token_ids=ids, entropies=tuple(entropies)))
    tree.judge(name, [Verdict(status="accepted" if score == 1 else "rejected", score=score, reason="so so")])


def grown(
    strategy: ABMCTS, landscape: Landscape, *, seed: int = 0, slots: Sequence[int] = (100,), luck: int | None = None
) -> Tree:
    """The tree that a strategy grows; with ``luck``, branches come back one or more at a time, in any order."""
    tree, rng = Tree(PROBLEM, seed=seed), random.Random(luck)
    for turn in range(10_000):
        for request in strategy.propose(tree, slots[turn % len(slots)]):
            tree.add(request)
        waiting = [node.id for node in tree.unsettled()]
        if not waiting:
            return tree
        back = waiting if luck is None else rng.sample(waiting, rng.randint(1, len(waiting)))
        for name in back:
            settle(tree, name, landscape)
    raise AssertionError("it does not end")


def shape(tree: Tree) -> list[tuple[str, float]]:
    """Names and rewards, in the order in which they were asked for."""
    return [(node.id, node.verdict.score if node.verdict else -1.0) for node in tree.nodes()]


# --- the authors' implementation -----------------------------------------------------------------------------------

AGAIN = "again"


class Twin:
    """The same tree in treequest, told node by node."""

    def __init__(self, model: Any) -> None:
        self.algorithm = treequest.ABMCTSA(dist_type=model)
        self.state = self.algorithm.init_tree()
        self.state.all_rewards_store[AGAIN] = []
        self.at: dict[str, int] = {ROOT: -1}  # name -> treequest's number

    def tell(self, name: str, parent: str, score: float) -> None:
        node = self.state.tree.get_node(self.at[parent])
        self.state.thompson_states.get_or_create(node, [AGAIN])
        trial = self.state.trial_store.create_trial(node, AGAIN)
        self.state = self.algorithm.tell(self.state, trial.trial_id, (name, score))
        self.at[name] = len(self.state.tree) - 2

    def parameters(self, name: str) -> tuple[list[float], list[float], list[list[float]]] | None:
        """Of a node's beliefs: wider, deeper, and each child in turn. None for a leaf."""
        found = self.state.thompson_states.states.get(self.at[name])
        if found is None:
            return None
        choice, nodes = found.gen_vs_cont_probas["shared"], found.node_probas["shared"]
        children = [list(nodes[k].params.values()) for k in range(len(nodes))]
        return list(choice["GEN"].params.values()), list(choice["CONT"].params.values()), children

    def choices(self, draws: int) -> Counter[str]:
        """How often each node is chosen to have another child."""
        _, trials = self.algorithm.ask_batch(self.state, draws, [AGAIN])
        names = {number: name for name, number in self.at.items()}
        return Counter(names[trial.node_to_expand] for trial in trials)


def known(strategy: ABMCTS, tree: Tree) -> _Grown:
    found = _Grown(strategy, tree)
    found.learn(found.asked)
    return found


def choices(strategy: ABMCTS, tree: Tree, draws: int) -> Counter[str]:
    found, rng = known(strategy, tree), random.Random(5)
    return Counter(found.select(rng)[0] for _ in range(draws))


def values_of(belief: Any) -> list[float]:
    return list(vars(belief).values())


@every_model
@pytest.mark.parametrize("seed", range(4))
def test_what_it_believes_is_what_treequest_believes_in_every_state(model: Any, seed: int) -> None:
    strategy, twin = ABMCTS(n=20, model=model, batch=1), Twin(model)
    whole = grown(strategy, refinement_pays, seed=seed)
    assert max(whole.depth(node.id) for node in whole.nodes()) >= 3  # or there is little to compare
    tree = Tree(PROBLEM, seed=seed)
    for node in whole.nodes():
        assert node.request is not None
        tree.add(node.request)
        settle(tree, node.id, refinement_pays)
        twin.tell(node.id, node.parent or ROOT, tree[node.id].verdicts[0].score)
        found = known(strategy, tree)
        for name in (ROOT, *(n.id for n in tree.nodes())):
            theirs = twin.parameters(name)
            wider, deeper, into = found.posteriors(name)
            if theirs is None:
                assert not into
                continue
            assert values_of(wider) == pytest.approx(theirs[0])
            assert values_of(deeper) == pytest.approx(theirs[1])
            assert [values_of(belief) for belief in into.values()] == [pytest.approx(child) for child in theirs[2]]


@every_model
@pytest.mark.parametrize("size", [1, 4, 12])
def test_it_chooses_each_node_as_often_as_treequest(model: Any, size: int) -> None:
    strategy, twin, draws = ABMCTS(n=size, model=model, batch=2), Twin(model), 2000
    tree = grown(strategy, uneven, seed=3)
    for node in tree.nodes():
        twin.tell(node.id, node.parent or ROOT, node.verdicts[0].score)
    np.random.seed(11)
    ours, theirs = choices(strategy, tree, draws), twin.choices(draws)
    assert len(ours) > 1
    for name in ours | theirs:
        pooled = (ours[name] + theirs[name]) / (2 * draws)
        error = math.sqrt(2 * pooled * (1 - pooled) / draws)
        assert abs(ours[name] - theirs[name]) / draws <= 4 * error, (name, ours, theirs)


# --- trees written out ---------------------------------------------------------------------------------------------

# Names and rewards in the order in which they were asked for.
ONE_AT_A_TIME = [
    ("1", 0.17),
    *[("1.1", 0.72), ("2", 0.27), ("1.2", 0.56), ("3", 0.42), ("3.1", 0.41)],
    *[("1.3", 0.07), ("1.4", 0.16), ("4", 0.36), ("3.2", 0.53)],
]
FOUR_AT_A_TIME = [
    *[("1", 0.17), ("2", 0.27), ("3", 0.42), ("4", 0.36)],
    *[("5", 0.52), ("3.1", 0.41), ("6", 0.02), ("1.1", 0.72)],
    *[("1.2", 0.56), ("1.3", 0.07), ("5.1", 0.55), ("7", 0.22)],
]
BETA_FOUR_AT_A_TIME = [
    *[("1", 0.17), ("2", 0.27), ("3", 0.42), ("4", 0.36)],
    *[("5", 0.52), ("6", 0.02), ("2.1", 0.12), ("3.1", 0.41)],
    *[("3.2", 0.53), ("7", 0.22), ("4.1", 0.33), ("5.1", 0.55)],
]


@pytest.mark.parametrize(
    ("strategy", "golden"),
    [
        (ABMCTS(n=10, batch=1), ONE_AT_A_TIME),
        (ABMCTS(n=12, batch=4), FOUR_AT_A_TIME),
        (ABMCTS(n=12, batch=4, model="beta"), BETA_FOUR_AT_A_TIME),
    ],
    ids=["1", "4", "beta"],
)
def test_a_golden_tree(strategy: ABMCTS, golden: list[tuple[str, float]]) -> None:
    assert shape(grown(strategy, uneven, seed=7)) == golden


def test_the_first_round_is_fresh_answers_and_each_stands_alone() -> None:
    wanted = ABMCTS(batch=3).propose(Tree(PROBLEM), 8)
    assert [(request.id, request.parent, request.purpose, request.sibling) for request in wanted] == [
        (name, ROOT, "explore", None) for name in ("1", "2", "3")
    ]


def test_a_round_waits_for_the_verdicts_of_the_one_before_and_may_come_in_parts() -> None:
    strategy, tree = ABMCTS(n=7, batch=3), Tree(PROBLEM)
    for room in (2, 5):
        for request in strategy.propose(tree, room):
            tree.add(request)
    assert [node.id for node in tree.nodes()] == ["1", "2", "3"]
    for name in ("3", "1"):
        settle(tree, name, uneven)
        assert strategy.propose(tree, 8) == []
    tree.attach(Branch(id="2", text="x"))
    assert strategy.propose(tree, 8) == []
    tree.judge("2", [Verdict(status="rejected")])
    assert len(strategy.propose(tree, 8)) == 3
    assert len(strategy.propose(tree, 2)) == 2


# --- wider or deeper -----------------------------------------------------------------------------------------------


def interval(counts: Sequence[float]) -> tuple[float, float]:
    """95 % of the mean."""
    half = 1.96 * float(np.std(counts, ddof=1)) / math.sqrt(len(counts))
    return float(np.mean(counts)) - half, float(np.mean(counts)) + half


def refined(tree: Tree) -> float:
    """Which part of the branches refine an answer."""
    return sum(node.parent != ROOT for node in tree.nodes()) / (len(tree) - 1)


@every_model
def test_it_deepens_where_refinements_pay_and_widens_where_they_are_useless(model: Any) -> None:
    strategy = ABMCTS(n=24, model=model, batch=1)
    paying, useless = (
        [grown(strategy, on, seed=k) for k in range(100)] for on in (refinement_pays, refinement_is_useless)
    )
    assert interval([refined(tree) for tree in paying])[0] > 0.6
    assert interval([refined(tree) for tree in useless])[1] < 0.2
    # The best of as many fresh answers has 0.3 at most on the first, and the best of a chain 0.7 on the second.
    best = [interval([max(score for _, score in shape(tree)) for tree in trees]) for trees in (paying, useless)]
    assert best[0][0] > 0.5
    assert best[1][0] > 0.65


@every_model
@pytest.mark.parametrize("landscape", [refinement_pays, refinement_is_useless])
def test_its_trees_are_as_deep_as_treequests(model: Any, landscape: Landscape) -> None:
    ours = [refined(grown(ABMCTS(n=16, model=model, batch=1), landscape, seed=seed)) for seed in range(100)]
    theirs = []
    np.random.seed(1)
    for seed in range(100):
        algorithm, rng = treequest.ABMCTSA(dist_type=model), random.Random(seed)
        state = algorithm.init_tree()
        for _ in range(16):
            state = algorithm.step(state, {AGAIN: lambda above: (score := landscape(above, rng), score)}, inplace=True)  # noqa: B023
        theirs.append(1 - len(state.tree.root.children) / 16)
    error = math.sqrt((np.var(ours, ddof=1) + np.var(theirs, ddof=1)) / 100)
    assert abs(np.mean(ours) - np.mean(theirs)) <= 3 * error


# --- what the tree depends on --------------------------------------------------------------------------------------


@given(
    slots=st.lists(st.integers(1, 7), min_size=1, max_size=5),
    luck=st.integers(0, 10_000),
    seed=st.integers(0, 3),
    model=st.sampled_from(MODELS),
    batch=st.sampled_from([1, 3, 4]),
)
@settings(deadline=None, max_examples=40)
def test_the_tree_depends_on_the_seed_and_not_on_slots_nor_on_who_comes_back_first(
    slots: list[int], luck: int, seed: int, model: Any, batch: int
) -> None:
    strategy = ABMCTS(n=14, model=model, batch=batch)
    whole, parts = grown(strategy, uneven, seed=seed), grown(strategy, uneven, seed=seed, slots=slots, luck=luck)
    assert [node.request for node in parts.nodes()] == [node.request for node in whole.nodes()]
    assert shape(grown(strategy, uneven, seed=seed + 10)) != shape(whole)


@pytest.mark.parametrize("slots", [1, 3, 8])
def test_a_search_with_any_number_of_slots_grows_the_same_tree(slots: int) -> None:
    def scored(problem: Problem, branch: Branch) -> Verdict:
        return Verdict(status="rejected", score=float(branch.text), reason="so so")

    def run(room: int) -> list[DecodeRequest | None]:
        decoder = ScriptedDecoder(lambda request: f"0.{request.seed % 1000:03}", slots=room)
        solution = solve(
            PROBLEM, decoder=decoder, strategy=ABMCTS(n=12), verifiers=[scored], seed=4, budget=Budget(seconds=60)
        )
        return [node.request for node in solution.tree.nodes()]

    found = run(slots)
    assert len(found) == 12
    assert any(request is not None and request.purpose == "repair" for request in found)
    assert found == run(5)


@given(seed=st.integers(0, 50), cut=st.integers(0, 14))
@settings(deadline=None, max_examples=20)
def test_asked_twice_unpickled_or_with_the_tree_replayed_it_proposes_the_same(seed: int, cut: int) -> None:
    strategy, tree = ABMCTS(n=16, batch=3), Tree(PROBLEM, seed=seed)
    events: list[Any] = [tree.started]
    tree.listen(events.append)
    while len(tree) <= cut:
        for request in strategy.propose(tree, 2):
            tree.add(request)
        for node in tree.unsettled():
            settle(tree, node.id, uneven)
    wanted = list(strategy.propose(tree, 5))
    assert wanted
    assert wanted == list(strategy.propose(tree, 5))
    assert wanted == list(pickle.loads(pickle.dumps(strategy)).propose(Tree.replay(events), 5))
    assert wanted == list(strategy.propose(Tree.from_json(tree.to_json()), 5))


def test_what_others_asked_for_does_not_count() -> None:
    tree = Tree(PROBLEM)
    for request in tree.requests(2, purpose="fallback"):
        tree.add(request)
    assert [request.id for request in ABMCTS(n=3, batch=2).propose(tree, 9)] == ["3", "4"]


# --- refinements ---------------------------------------------------------------------------------------------------

ENTROPIES = (0.1, 2.0, 1.9, 0.0, 0.3, 1.4, 1.5, 0.1)


def deepened(tree: Tree, strategy: ABMCTS, entropies: Sequence[float] = ()) -> None:
    """Grow a tree whose refinements are better than any fresh answer."""
    while wanted := strategy.propose(tree, 9):
        for request in wanted:
            tree.add(request)
        for request in wanted:
            settle(tree, request.id, lambda above, rng: 0.1 if above is None else 0.9, entropies)


def test_a_repair_asks_again_with_the_answer_and_what_the_verifier_told() -> None:
    tree = Tree(PROBLEM)
    deepened(tree, ABMCTS(n=8, batch=1))
    repairs = [node for node in tree.nodes() if node.purpose == "repair"]
    assert repairs
    for node in repairs:
        assert node.request is not None
        assert node.request.prefix_ids == ()
        question, answer, told = node.request.prompt
        assert (question.role, question.content) == ("user", PROBLEM.prompt)
        assert (answer.role, answer.content) == ("assistant", f"answer {node.parent}")
        assert told.role == "user"
        assert told.content.startswith("That answer was not accepted: so so")


@pytest.mark.parametrize(("deepen", "follow_up"), [("auto", False), ("fork", True)])
def test_a_fork_is_where_the_model_was_least_sure_and_nowhere_twice(deepen: Any, follow_up: bool) -> None:
    tree = Tree(PROBLEM, follow_up=follow_up)
    deepened(tree, ABMCTS(n=24, batch=6, deepen=deepen), ENTROPIES)
    forks = [node.request for node in tree.nodes() if node.request and node.purpose == "fork"]
    assert len(forks) > 6
    assert {node.purpose for node in tree.nodes()} == {"explore", "fork"}
    for parent in {fork.parent for fork in forks}:
        kept = [(fork.keep, fork.exclude) for fork in forks if fork.parent == parent]
        assert kept == [(1, (1,)), (6, (6,))][: len(kept)]  # the third would be nearer than four tokens to one of them
    assert any(len([f for f in forks if f.parent == parent]) == 2 for parent in {fork.parent for fork in forks})


def test_what_can_not_be_forked_any_more_is_passed_through() -> None:
    tree = Tree(PROBLEM, follow_up=False)
    deepened(tree, ABMCTS(n=12, batch=3), (0.0, 1.0))
    children = Counter(node.parent for node in tree.nodes() if node.purpose == "fork")
    assert set(children.values()) == {1}
    assert max(tree.depth(node.id) for node in tree.nodes()) > 3


def test_where_nothing_can_be_refined_all_are_fresh_answers() -> None:
    tree = Tree(PROBLEM, follow_up=False)
    deepened(tree, ABMCTS(n=9, batch=2))  # no entropies are known
    assert [node.id for node in tree.nodes()] == [str(k) for k in range(1, 10)]


def test_failed_and_accepted_branches_are_not_refined() -> None:
    tree, strategy = Tree(PROBLEM), ABMCTS(n=12, batch=2, stop_at_first=False)
    fates = ["error", "accepted"] * 6
    while wanted := strategy.propose(tree, 9):
        for request in wanted:
            tree.add(request)
        for node in tree.unsettled():
            if fates.pop() == "error":
                tree.attach(Branch(id=node.id, text="", finish="error", error="out of memory"))
            else:
                tree.attach(Branch(id=node.id, text="42"))
                tree.judge(node.id, [Verdict(status="accepted")])
    assert len(tree) == 13
    assert {node.parent for node in tree.nodes()} == {ROOT}


def test_without_a_verifier_the_models_confidence_is_the_reward() -> None:
    tree, strategy = Tree(PROBLEM), ABMCTS(batch=2)
    for request, logprob in zip(strategy.propose(tree, 9), (-0.1, -3.0), strict=True):
        tree.add(request)
        tree.attach(Branch(id=request.id, text="42", token_ids=(1, 2), final_logprobs=(logprob, logprob)))
        tree.judge(request.id, [])
    found = known(strategy, tree)
    assert found.own == {"1": pytest.approx(math.exp(-0.1)), "2": pytest.approx(math.exp(-3))}


# --- the end -------------------------------------------------------------------------------------------------------


def test_it_stops_at_the_first_accepted_branch_unless_told_otherwise() -> None:
    tree = Tree(PROBLEM)
    (request,) = ABMCTS(batch=1).propose(tree, 9)
    tree.add(request)
    assert not ABMCTS().finished(tree)
    tree.attach(Branch(id="1", text="42"))
    tree.judge("1", [Verdict(status="accepted")])
    assert ABMCTS().finished(tree)
    assert not ABMCTS(stop_at_first=False).finished(tree)


def test_a_fallback_begins_when_its_branches_are_spent() -> None:
    decoder = ScriptedDecoder(lambda request: "42" if request.purpose == "fallback" else "41")
    solution = solve(
        PROBLEM,
        decoder=decoder,
        strategy=Fallback(ABMCTS(n=6, batch=2), repairs=0),
        verifiers=[lambda problem, branch: branch.text == "42"],
    )
    assert [node.purpose for node in solution.tree.nodes()][6:] == ["fallback"]
    assert solution.verified


@pytest.mark.parametrize(
    "options",
    [
        {"n": 0}, {"batch": 0}, {"gap": 0}, {"kappa": 0.0}, {"nu": -1.0}, {"tau2": math.inf}, {"a": 0.0},
        {"b": math.nan}, {"mean": math.nan}, {"model": "poisson"}, {"deepen": "dig"},
    ],
)  # fmt: skip
def test_settings_that_cannot_be_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=f"ABMCTS.*{next(iter(options))}"):
        ABMCTS(**options)


def test_draws_of_a_prior_that_says_next_to_nothing_are_finite() -> None:
    rng = random.Random(0)
    prior = ABMCTS(nu=1e-3).prior
    assert all(math.isfinite(prior.draw(rng)) for _ in range(1000))
