"""Sampling without replacement, against enumerated probabilities: on a scripted law, and on small real models."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from led_agent import Decoding, Search
from led_agent.errors import UsageError
from led_agent.events import Event
from led_agent.local import LocalDecoder
from led_agent.search import solve
from led_agent.strategies import Fallback, WithoutReplacement
from led_agent.testing import ScriptedDecoder
from led_agent.tree import ROOT, Tree
from led_agent.types import Branch, DecodeRequest, DepthExploration, LatentNoise, Problem, QualityGuard, Verdict
from tests.strategies.laws import Chain, agrees, in_order, included

PROBLEM = Problem(prompt="What is it?", id="it")
CHAIN = Chain(((0.1, 0.6, 0.3), (0.35, 0.25, 0.4), (0.2, 0.7, 0.1)))


def drawn(tree: Tree) -> list[tuple[int, ...]]:
    """The whole outputs, in the order in which they were asked for."""
    return [tree.branch(n.id).token_ids for n in tree.nodes() if n.branch is not None and n.branch.finish != "error"]


def grow(tree: Tree, strategy: WithoutReplacement, decode: Callable[[DecodeRequest], Branch], slots: int = 9) -> Tree:
    """A search that rejects everything."""
    while wanted := strategy.propose(tree, slots):
        assert len(wanted) <= slots
        for request in wanted:
            tree.add(request)
        for request in wanted:
            branch = decode(request)
            tree.attach(branch)
            if branch.finish != "error":
                tree.judge(request.id, [Verdict(status="rejected")])
    return tree


def grown(seed: int, chain: Chain = CHAIN, slots: int = 9, **options: Any) -> Tree:
    tree = Tree(PROBLEM, decoding=Decoding.plain(1.0), seed=seed, max_tokens=chain.length)
    return grow(tree, WithoutReplacement(**options), chain, slots)


# --- the law -------------------------------------------------------------------------------------------------------

SEEDS = 1600


@pytest.fixture(scope="module")
def samples() -> list[list[tuple[int, ...]]]:
    return [drawn(grown(seed, n=3, batch=1)) for seed in range(SEEDS)]


@pytest.mark.parametrize("k", [1, 2, 3])
def test_in_their_order_they_are_exactly_a_sample_without_replacement(
    samples: list[list[tuple[int, ...]]], k: int
) -> None:
    p = CHAIN.sequences()
    assert len(p) == 15
    assert agrees(Counter(tuple(sample[:k]) for sample in samples), in_order(p, k))


def test_so_are_their_first_tokens_alone(samples: list[list[tuple[int, ...]]]) -> None:
    """Few outcomes, so that small deviations show: from which regions the second and the third were drawn."""
    expected: dict[tuple[int, ...], float] = Counter()
    for sample, chance in in_order(CHAIN.sequences(), 3).items():
        expected[tuple(one[0] for one in sample)] += chance
    assert agrees(Counter(tuple(one[0] for one in sample) for sample in samples), expected)


def test_each_is_among_them_as_often_as_it_should_be(samples: list[list[tuple[int, ...]]]) -> None:
    assert included(samples, CHAIN.sequences(), 3)


def test_the_checks_notice_another_law(samples: list[list[tuple[int, ...]]]) -> None:
    other = Chain(((0.2, 0.5, 0.3), *CHAIN.law[1:])).sequences()
    assert not agrees(Counter(tuple(sample[:2]) for sample in samples), in_order(other, 2))
    assert not included(samples, other, 3)


def test_in_rounds_the_next_to_arrive_is_still_the_second_and_each_is_new() -> None:
    trees = [drawn(grown(seed, n=4, batch=3)) for seed in range(SEEDS // 2)]
    assert agrees(Counter(tuple(sample[:2]) for sample in trees), in_order(CHAIN.sequences(), 2))
    assert all(len(set(sample)) == 4 for sample in trees)


weights = st.lists(st.sampled_from([0.0, 1e-4, 0.1, 0.5, 1.0, 3.0]), min_size=3, max_size=3).filter(any)
chains = st.lists(weights, min_size=3, max_size=3).map(
    lambda rows: Chain(tuple(tuple(w / sum(row) for w in row) for row in rows))
)


@given(chain=chains, seed=st.integers(0, 2**31), batch=st.integers(1, 6), slots=st.integers(1, 6))
@settings(deadline=None, max_examples=60)
def test_a_finite_law_is_drawn_out_each_output_once(chain: Chain, seed: int, batch: int, slots: int) -> None:
    tree = grown(seed, chain, slots, n=99, batch=batch)
    p = chain.sequences()
    found = drawn(tree)
    assert len(found) == len(set(found))
    assert set(found) <= set(p)
    assert all(p[one] < 1e-5 for one in set(p) - set(found))
    assert sum(math.exp(tree.branch(node.id).logprob or 0.0) for node in tree.nodes()) == pytest.approx(1, abs=1e-5)
    assert all(
        tree.branch(node.id).logprob == pytest.approx(math.log(p[one]))
        for node, one in zip(tree.nodes(), found, strict=True)
    )


@given(seed=st.integers(0, 2**31), n=st.integers(1, 12), batch=st.integers(1, 6))
@settings(deadline=None, max_examples=40)
def test_there_are_n_and_each_is_new(seed: int, n: int, batch: int) -> None:
    found = drawn(grown(seed, n=n, batch=batch))
    assert len(found) == len(set(found)) == n


def test_every_request_keeps_what_it_can_and_leaves_it_by_another_token() -> None:
    tree = grown(3, n=12, batch=2)
    whole: set[tuple[int, ...]] = set()
    for node in tree.nodes():
        request = node.request
        assert request is not None
        kept = len(request.prefix_ids)
        followed = {known[kept] for known in whole if known[:kept] == request.prefix_ids}
        assert followed == set(request.exclude)
        assert request.sibling is None
        assert (request.parent == ROOT) == (request.keep is None)
        assert request.max_tokens == 3 - kept
        whole.add(tree.branch(node.id).token_ids)
    assert tree["1"].request is not None
    assert tree["1"].request.trigger == ""
    second = tree.nodes()[1].request
    assert second is not None
    assert "of all probability is left at token" in second.trigger


# --- what does not change it ---------------------------------------------------------------------------------------


def contents(tree: Tree) -> dict[str, Any]:
    return {node.id: (node.request, node.branch, node.status) for node in tree.nodes()}


@given(
    seed=st.integers(0, 2**31), slots=st.lists(st.integers(1, 5), min_size=1), data=st.data(), distinct=st.booleans()
)
@settings(deadline=None, max_examples=25)
def test_slots_and_the_order_of_arrival_change_nothing(
    seed: int, slots: list[int], data: st.DataObject, distinct: bool
) -> None:
    options: dict[str, Any] = {"n": 9, "batch": 3, "distinct_answers": distinct}
    steady = grown(seed, **options)
    tree = Tree(PROBLEM, decoding=Decoding.plain(1.0), seed=seed, max_tokens=3)
    events: list[Event] = [tree.started]
    tree.listen(events.append)
    strategy = WithoutReplacement(**options)
    for room in itertools.cycle(slots):
        wanted = strategy.propose(Tree.replay(events), room)  # as from a journal
        assert wanted == strategy.propose(tree, room)
        for request in wanted:
            tree.add(request)
        waiting = tree.unsettled()
        if not waiting:
            break
        node = data.draw(st.sampled_from(waiting))
        assert node.request is not None
        if node.branch is None:
            tree.attach(CHAIN(node.request))
        if not distinct or data.draw(st.booleans()):
            tree.judge(node.id, [Verdict(status="rejected")])
    assert contents(tree) == contents(steady)


def test_another_seed_is_another_tree() -> None:
    assert len({tuple(drawn(grown(seed, n=4))) for seed in range(30)}) > 20


# --- what goes wrong -----------------------------------------------------------------------------------------------


def start(seed: int = 0, **options: Any) -> tuple[Tree, WithoutReplacement]:
    """A tree with its first branch, (1, 2, 1), whose positions all have mass."""
    tree, strategy = Tree(PROBLEM, decoding=Decoding.plain(1.0), seed=seed, max_tokens=3), WithoutReplacement(**options)
    (request,) = strategy.propose(tree, 9)
    tree.add(request)
    logprobs = tuple(math.log(p) for p in (0.6, 0.4, 0.7))
    tree.attach(Branch(id="1", text="1 2 1", token_ids=(1, 2, 1), logprobs=logprobs, finish="length"))
    return tree, strategy


def places(requests: Sequence[DecodeRequest]) -> set[tuple[str, int | None]]:
    return {(request.parent, request.keep) for request in requests}


def test_after_a_round_each_position_with_mass_may_be_the_next() -> None:
    tree, strategy = start(batch=9)
    assert places(strategy.propose(tree, 9)) == {(ROOT, None), ("1", 1), ("1", 2)}


def test_where_nothing_could_be_drawn_nothing_is_tried_again_and_what_was_cancelled_is() -> None:
    tree, strategy = start(batch=3)
    for request in strategy.propose(tree, 9):
        tree.add(request)
        finish: Any = "cancelled" if request.parent == ROOT else "error"
        tree.attach(Branch(id=request.id, text="", token_ids=(2,), logprobs=(-1.0,), finish=finish))
    (again,) = strategy.propose(tree, 9)
    assert (again.parent, again.keep, again.exclude) == (ROOT, None, (1,))
    assert again.seed not in {node.request.seed for node in tree.nodes() if node.request}


def test_nothing_is_asked_for_inside_a_branch_that_was_given_up() -> None:
    tree, strategy = start(batch=3)
    tree.prune("1", "enough of it")
    (request,) = strategy.propose(tree, 9)
    assert (request.parent, request.exclude) == (ROOT, (1,))
    tree.add(request)


@pytest.mark.parametrize("logprobs", [(), (0.0, 0.0, 0.0)])
def test_a_branch_that_leaves_no_mass_or_does_not_say_is_the_only_one(logprobs: tuple[float, ...]) -> None:
    tree, strategy = Tree(PROBLEM, decoding=Decoding.greedy()), WithoutReplacement()
    tree.add(*strategy.propose(tree, 9))
    tree.attach(Branch(id="1", text="1 2 1", token_ids=(1, 2, 1), logprobs=logprobs))
    assert strategy.propose(tree, 9) == []


def test_a_long_unlikely_branch_is_forked_where_that_can_matter() -> None:
    tree, strategy = Tree(PROBLEM, decoding=Decoding.plain(), max_tokens=5000), WithoutReplacement(n=400, batch=399)
    tree.add(*strategy.propose(tree, 9))
    tree.attach(Branch(id="1", text="x", token_ids=(7,) * 5000, logprobs=(-1.0,) * 5000))
    wanted = strategy.propose(tree, 999)
    assert {request.keep or 0 for request in wanted} == set(range(47))  # exp(-46) is below 1e-20 only just


@pytest.mark.parametrize(
    ("decoding", "told"),
    [
        (Decoding.noise(), "latent noise"),
        (
            Decoding.led().replace(latent_noise=LatentNoise(), guard=QualityGuard()),
            "latent noise and the quality guard",
        ),
        (Decoding.esamp(), "esamp"),
        (Decoding.greedy().replace(guard=QualityGuard()), "the quality guard"),
    ],
)
def test_what_has_no_law_of_its_own_is_refused(decoding: Decoding, told: str) -> None:
    with pytest.raises(UsageError, match=f"can't draw with {told}: how much probability is left"):
        WithoutReplacement().propose(Tree(PROBLEM, decoding=decoding), 1)
    solution = solve(PROBLEM, decoder=ScriptedDecoder(CHAIN), strategy=WithoutReplacement(), decoding=decoding)
    assert solution.status == "failed"
    assert told in solution.reason


def test_the_gate_is_not_drawn_first() -> None:
    gated = Decoding.led("official", gate_first=True, temperature=0.7)
    (request,) = WithoutReplacement().propose(Tree(PROBLEM, decoding=gated), 1)
    assert request.decoding == Decoding.led("official", temperature=0.7)
    for kept in (Decoding.plain(), Decoding.led(), Decoding.dola(), Decoding.noise(0.0), Decoding.greedy()):
        (request,) = WithoutReplacement().propose(Tree(PROBLEM, decoding=kept), 1)
        assert request.decoding == kept


@pytest.mark.parametrize("options", [{"n": 0}, {"batch": 0}, {"rollbacks": -1}])
def test_a_strategy_that_cannot_be_is_refused(options: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="WithoutReplacement needs"):
        WithoutReplacement(**options)


@pytest.mark.parametrize("stop", [True, False])
def test_it_stops_at_the_first_accepted_branch_or_not(stop: bool) -> None:
    tree, _ = start()
    strategy = WithoutReplacement(stop_at_first=stop)
    assert not strategy.finished(tree)
    tree.judge("1", [Verdict(status="accepted")])
    assert strategy.finished(tree) == stop


def test_a_fallback_around_it_begins_when_it_has_ended() -> None:
    strategy = Fallback(WithoutReplacement(n=5, batch=2), tries=2, repairs=0)
    solution = solve(
        PROBLEM,
        decoder=ScriptedDecoder(CHAIN),
        strategy=strategy,
        verifiers=[lambda problem, branch: False],
        decoding=Decoding.plain(),
        max_tokens=3,
    )
    purposes = [node.purpose for node in solution.tree.nodes()]
    assert len(purposes) == 7
    assert purposes[5:] == ["fallback", "fallback"]


# --- distinct answers ----------------------------------------------------------------------------------------------

WIDE = Chain(
    (
        (0.0, 0.9, 0.05, 0.05),
        (0.0, 0.3, 0.3, 0.4),
        (0.0, 0.8, 0.1, 0.1),
        (0.0, 0.1, 0.2, 0.7),
    ),
    length=4,
)


def answers(request: DecodeRequest) -> Branch:
    """The last token is the answer, spelled in two ways."""
    branch = WIDE(request)
    last = branch.token_ids[-1]
    return branch.model_copy(update={"text": f"{branch.text}\nThe answer is {last}{'.0' if request.seed % 2 else ''}"})


def distinct(seed: int, **options: Any) -> Tree:
    tree = Tree(PROBLEM, decoding=Decoding.plain(), seed=seed, max_tokens=4)
    return grow(tree, WithoutReplacement(distinct_answers=True, **options), answers)


def answer(tree: Tree, name: str) -> int:
    return tree.branch(name).token_ids[-1]


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_rejected_answers_that_come_again_do_not_count(batch: int) -> None:
    repeats = 0
    for seed in range(40):
        tree = distinct(seed, n=3, batch=batch, rollbacks=20)
        given = [answer(tree, node.id) for node in tree.nodes()]
        assert set(given) == {1, 2, 3}  # so that three different ones count
        assert len(set(drawn(tree))) == len(given) <= 23
        repeats += len(given) - 3
    assert repeats > 40


def test_a_repeated_answer_is_rolled_back_to_where_the_model_was_least_sure() -> None:
    rolled = 0
    for seed in range(40):
        tree = distinct(seed, n=3, batch=1, rollbacks=20)
        nodes = tree.nodes()
        for at, (node, following) in enumerate(itertools.pairwise(nodes)):
            repeated = answer(tree, node.id) in {answer(tree, other.id) for other in nodes[:at]}
            assert following.request is not None
            assert ("was rejected before" in following.request.trigger) == repeated
            if not repeated:
                continue
            rolled += 1
            assert node.request is not None
            assert node.branch is not None
            place = len(following.request.prefix_ids) - len(node.request.prefix_ids)
            told = f"entropy of {node.branch.entropies[place]:.2f} nat at token {place}"
            assert told in following.request.trigger
            assert following.request.prefix_ids == tree.branch(node.id).token_ids[: len(following.request.prefix_ids)]
            surer = [k for k, entropy in enumerate(node.branch.entropies) if entropy > node.branch.entropies[place]]
            for k in surer:  # all that can follow there was drawn
                prefix = tree.branch(node.id).token_ids[: len(node.request.prefix_ids) + k]
                known = {one[len(prefix)] for one in drawn(tree)[: at + 1] if one[: len(prefix)] == prefix}
                assert math.fsum(WIDE.after(prefix)[token] for token in known) == pytest.approx(1)
    assert rolled > 40


def test_after_so_many_rollbacks_a_repeated_answer_counts() -> None:
    def same(request: DecodeRequest) -> Branch:
        return WIDE(request).model_copy(update={"text": "The answer is 7"})

    def tree(**options: Any) -> Tree:
        empty = Tree(PROBLEM, decoding=Decoding.plain(), max_tokens=4)
        return grow(empty, WithoutReplacement(**options), same)

    assert len(tree(n=4, distinct_answers=True, rollbacks=5).nodes()) == 9
    assert len(tree(n=4, distinct_answers=True, rollbacks=0).nodes()) == 4
    assert len(tree(n=4).nodes()) == 4
    triggers = [node.request.trigger for node in tree(n=4, distinct_answers=True, rollbacks=5).nodes() if node.request]
    assert sum("'7' was rejected before" in trigger for trigger in triggers) == 5


def test_far_inside_a_branch_that_no_race_would_fork_it_is_still_rolled_back() -> None:
    tree = Tree(PROBLEM, decoding=Decoding.plain(), max_tokens=300)
    strategy = WithoutReplacement(distinct_answers=True, batch=1)
    for name in ("1", "2"):
        tree.add(*strategy.propose(tree, 9))
        ids = (int(name), *range(10, 309))
        entropies = (0.5,) * 250 + (2.5,) + (0.5,) * 49
        tree.attach(Branch(id=name, text="answer: 8", token_ids=ids, logprobs=(-1.0,) * 300, entropies=entropies))
        assert strategy.propose(tree, 9) == []  # the verdict is still to come
        tree.judge(name, [Verdict(status="rejected")])
    (request,) = strategy.propose(tree, 9)
    assert (request.parent, request.keep, request.exclude) == ("2", 250, (259,))
    assert request.trigger == "'8' was rejected before; entropy of 2.50 nat at token 250"


def test_what_was_not_rejected_is_not_rolled_back() -> None:
    tree = Tree(PROBLEM, decoding=Decoding.plain(), max_tokens=4)
    strategy = WithoutReplacement(n=6, batch=2, distinct_answers=True)
    while wanted := strategy.propose(tree, 9):
        for request in wanted:
            tree.add(request)
            tree.attach(WIDE(request).model_copy(update={"text": "The answer is 7"}))
            tree.judge(request.id, [Verdict(status="abstained")])
    assert len(tree.nodes()) == 6
    assert not any("rejected" in (node.request.trigger if node.request else "") for node in tree.nodes())


# --- real models ---------------------------------------------------------------------------------------------------

LAWS = {
    "plain": Decoding.plain(1.2),
    "top k": Decoding.plain(0.9, top_k=3),
    "led": Decoding(temperature=0.9, exploration=DepthExploration(depths=3, top_k=4), span="all"),
}


@pytest.mark.parametrize("name", LAWS)
def test_on_a_model_with_few_words_they_are_as_frequent_as_the_law_says(name: str) -> None:
    """Many trees grow together on one engine; the probabilities are those of all outputs, drawn out without end."""
    from led_agent.engine import Engine, EngineRequest
    from led_agent.engine.model import ModelParts
    from tests.tiny import tiny_model

    parts = ModelParts.of(tiny_model("llama", vocab_size=5, num_hidden_layers=3, initializer_range=0.2, eos_token_id=2))
    engine, law = Engine(parts, slots=64), LAWS[name]

    def search(strategy: WithoutReplacement, seeds: int) -> list[Tree]:
        trees = [Tree(PROBLEM, decoding=law, seed=seed, max_tokens=2) for seed in range(seeds)]
        while asked := {f"{t}#{r.id}": r for t, tree in enumerate(trees) for r in strategy.propose(tree, 99)}:
            for key, request in asked.items():
                trees[int(key.partition("#")[0])].add(request)
            made = [
                EngineRequest(
                    key,
                    [1, 3, 4, 0],
                    request.decoding,
                    seed=request.seed,
                    max_tokens=request.max_tokens,
                    prefix_ids=request.prefix_ids,
                    exclude=request.exclude,
                )
                for key, request in asked.items()
            ]
            for event in engine.generate(made):
                if event.branch is not None:
                    tree, _, node = event.id.partition("#")
                    trees[int(tree)].attach(event.branch.model_copy(update={"id": node}))
        return trees

    (whole,) = search(WithoutReplacement(n=99), 1)
    assert all(node.status != "failed" for node in whole.nodes())
    p = {whole.branch(node.id).token_ids: math.exp(whole.branch(node.id).logprob or 0.0) for node in whole.nodes()}
    assert len(p) == len(whole.nodes())
    assert sum(p.values()) == pytest.approx(1, abs=1e-4)
    assert len(p) > (6 if name == "top k" else 12)
    total = sum(p.values())
    trees = search(WithoutReplacement(n=3, batch=1), 400)
    assert included([drawn(tree) for tree in trees], {one: q / total for one, q in p.items()}, 3)
    assert all(len(set(drawn(tree))) == 3 for tree in trees)


def test_greedily_there_is_one_branch_and_then_nothing(decoder: LocalDecoder) -> None:
    solution = Search(decoder=decoder, strategy=WithoutReplacement(), decoding=Decoding.greedy(), verifiers=[]).solve(
        ASKED
    )
    assert (len(solution.tree.nodes()), solution.status) == (1, "exhausted")


ASKED = "Using the numbers 3, 7 and 19, make 40. Use each number exactly once."


@pytest.fixture(scope="module")
def decoder() -> Iterator[LocalDecoder]:
    made = LocalDecoder.load(slots=8)
    yield made
    made.close()


def test_a_search_decodes_tails_only(decoder: LocalDecoder) -> None:
    before = decoder.engine.generated_tokens
    search = Search(
        decoder=decoder, strategy=WithoutReplacement(n=12), verifiers=[lambda problem, branch: False], seed=5
    )
    solution = search.solve(ASKED)
    tree = solution.tree
    whole = drawn(tree)
    assert len(whole) == len(set(whole)) == 12
    visited = {one[:at] for one in whole for at in range(1, len(one) + 1)}
    assert solution.usage.generated_tokens == decoder.engine.generated_tokens - before == len(visited)
    assert len(visited) < sum(map(len, whole))
    assert solution.usage.prefill_tokens <= len(decoder.render(ASKED)) - 1
    assert contents(search.solve(ASKED).tree).keys() == contents(tree).keys()
