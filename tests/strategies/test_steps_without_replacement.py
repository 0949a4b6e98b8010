"""Sampling without replacement on steps, against enumerated probabilities: which outputs and which steps come when."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from led_agent import Decoding, Search
from led_agent.errors import UsageError
from led_agent.local import LocalDecoder
from led_agent.strategies import WithoutReplacement
from led_agent.strategies.named import parse_strategy
from led_agent.strategies.without_replacement import Order
from led_agent.tree import ROOT, Node, Tree
from led_agent.types import Branch, DecodeRequest, Problem, Verdict, VerdictStatus
from led_agent.verifiers import countdown
from tests.strategies.laws import Chain, Sequences, agrees, in_order, included

PROBLEM = Problem(prompt="What is it?", id="it")
CHAIN = Chain(((0.1, 0.6, 0.3), (0.35, 0.25, 0.4), (0.2, 0.7, 0.1)), length=4)
Path = tuple[int, ...]
ORDERS: list[Order] = ["outputs", "steps", "breadth"]
# Steps that end at a token, at a number of tokens, and at whichever comes first.
ENDS: list[dict[str, Any]] = [
    {"step_tokens": (2,)},
    {"max_step_tokens": 2},
    {"step_tokens": (2,), "max_step_tokens": 2},
]
every_end = pytest.mark.parametrize("ends", ENDS, ids=str)
SEEDS = 600


@dataclass(frozen=True)
class Steps:
    """The steps of a chain by enumeration: which there are, and which of them are rejected."""

    chain: Chain
    step_tokens: Path = ()
    max_step_tokens: int = 99
    wrong: frozenset[Path] = frozenset()

    def after(self, path: Path = ()) -> dict[Path, float]:
        """All that can come next behind a path, to the end of its step, and the whole path's probability."""
        return dict(self._grown(path, len(path), self.chance(path)))

    def ends_at_step(self, path: Path) -> bool:
        return path[-1] != 0 and len(path) < self.chain.length

    def goes_on(self, path: Path) -> bool:
        return self.ends_at_step(path) and path not in self.wrong

    def chance(self, path: Path) -> float:
        return math.prod(self.chain.after(path[:at])[token] for at, token in enumerate(path))

    def outputs(self) -> Sequences:
        """The whole outputs none of whose steps is rejected; their probabilities add up to 1."""
        found: Sequences = {}
        todo = [self.after()]
        while todo:
            for path, chance in todo.pop().items():
                if not self.ends_at_step(path):
                    found[path] = chance
                elif self.goes_on(path):
                    todo.append(self.after(path))
        total = sum(found.values())
        return {path: chance / total for path, chance in found.items()}

    def in_order(self, k: int, *, breadth: bool) -> dict[tuple[Path, ...], float]:
        """The first k paths where each is drawn in proportion to its probability from those that can be had."""
        found: dict[tuple[Path, ...], float] = {(): 1.0}
        for _ in range(k):
            found = {(*sample, path): p * q for sample, p in found.items() for path, q in self._next(sample, breadth)}
        return found

    def _next(self, sample: tuple[Path, ...], breadth: bool) -> list[tuple[Path, float]]:
        """What can be drawn next, and how likely it is."""
        levels: dict[int, dict[Path, float]] = {}
        for above in [(), *filter(self.goes_on, sample)]:
            depth = sum(self._begins(step, above) for step in sample) if breadth else 0
            levels.setdefault(depth, {}).update({p: q for p, q in self.after(above).items() if p not in sample})
        free = next(level for _, level in sorted(levels.items()) if level)
        total = sum(free.values())
        return [(path, q / total) for path, q in free.items()]

    @staticmethod
    def _begins(step: Path, path: Path) -> bool:
        return path[: len(step)] == step

    def _grown(self, path: Path, begun: int, p: float) -> Iterator[tuple[Path, float]]:
        for token, q in enumerate(self.chain.after(path)):
            whole = (*path, token)
            if q == 0:
                continue
            ended = not self.ends_at_step(whole)
            if ended or token in self.step_tokens or len(whole) - begun == self.max_step_tokens:
                yield whole, p * q
            else:
                yield from self._grown(whole, begun, p * q)


def path(tree: Tree, node: Node) -> Path:
    return tree.branch(node.id).token_ids


def paths(tree: Tree) -> list[Path]:
    """Of all nodes, in the order in which they were asked for."""
    return [path(tree, node) for node in tree.nodes() if node.branch is not None and node.branch.finish != "error"]


def outputs(tree: Tree) -> list[Path]:
    """Whole outputs, in the order in which they were complete."""
    whole = [node for node in tree.nodes() if node.branch is not None and node.branch.finish in ("eos", "length")]
    return [path(tree, node) for node in whole]


def grow(
    tree: Tree,
    strategy: WithoutReplacement,
    decode: Callable[[DecodeRequest], Branch] = CHAIN,
    wrong: frozenset[Path] = frozenset(),
    slots: int = 9,
    enough: int = 999,
) -> Tree:
    """A search that rejects whole outputs, and those steps that are wrong, up to so many whole outputs."""
    while len(outputs(tree)) < enough and (wanted := strategy.propose(tree, slots)):
        for request in wanted:
            tree.add(request)
        for request in wanted:
            tree.attach(decode(request))
            node = tree[request.id]
            if not node.settled:
                tree.judge(node.id, judged(tree, node, wrong))
    return tree


def judged(tree: Tree, node: Node, wrong: frozenset[Path]) -> list[Verdict]:
    step = node.branch is not None and node.branch.finish == "step"
    return [Verdict(status="rejected")] if not step or path(tree, node) in wrong else []


def grown(
    seed: int,
    chain: Chain = CHAIN,
    wrong: frozenset[Path] = frozenset(),
    slots: int = 9,
    enough: int = 999,
    **options: Any,
) -> Tree:
    tree = Tree(PROBLEM, decoding=Decoding.plain(1.0), seed=seed, max_tokens=chain.length)
    return grow(tree, WithoutReplacement(**options), chain, wrong, slots, enough)


# --- the law -------------------------------------------------------------------------------------------------------

WRONG = frozenset({(2,), (1, 1), (1, 2, 2)})


@every_end
@pytest.mark.parametrize("wrong", [frozenset(), WRONG], ids=["none rejected", "some rejected"])
def test_whole_outputs_are_a_sample_without_replacement_of_those_with_no_rejected_step(
    ends: dict[str, Any], wrong: frozenset[Path]
) -> None:
    law = Steps(CHAIN, wrong=wrong, **ends).outputs()
    assert (len(law) == len(CHAIN.sequences())) == (not wrong)
    samples = [outputs(grown(seed, wrong=wrong, n=99, batch=1, enough=3, **ends)) for seed in range(SEEDS)]
    assert all(len(sample) == 3 for sample in samples)
    assert agrees(Counter(tuple(sample[:1]) for sample in samples), in_order(law, 1))
    assert agrees(Counter(tuple(sample[:2]) for sample in samples), in_order(law, 2))
    assert included(samples, law, 3)


@every_end
@pytest.mark.parametrize("order", ["steps", "breadth"])
def test_steps_are_drawn_in_proportion_from_those_that_can_be_had(ends: dict[str, Any], order: Order) -> None:
    law = Steps(CHAIN, wrong=WRONG, **ends)
    samples = [paths(grown(seed, wrong=WRONG, n=4, batch=1, order=order, **ends)) for seed in range(SEEDS)]
    for k in (1, 2, 3):
        expected = law.in_order(k, breadth=order == "breadth")
        assert agrees(Counter(tuple(sample[:k]) for sample in samples), expected)
    last = Counter[Path]()
    for sample, chance in law.in_order(4, breadth=order == "breadth").items():
        last[sample[-1]] += chance  # type: ignore[assignment]
    assert agrees(Counter(sample[3] for sample in samples), dict(last))


def test_the_checks_notice_another_law_and_another_order() -> None:
    ends = {"step_tokens": (2,)}
    samples = [paths(grown(seed, n=2, batch=1, order="steps", **ends)) for seed in range(SEEDS)]
    counts = Counter(tuple(sample) for sample in samples)
    assert agrees(counts, Steps(CHAIN, **ends).in_order(2, breadth=False))
    assert not set(counts) <= set(Steps(CHAIN, **ends).in_order(2, breadth=True))
    other = Chain(((0.2, 0.5, 0.3), *CHAIN.law[1:]), length=4)
    assert not agrees(counts, Steps(other, **ends).in_order(2, breadth=False))


weights = st.lists(st.sampled_from([0.0, 1e-4, 0.1, 0.5, 1.0, 3.0]), min_size=3, max_size=3).filter(any)
chains = st.lists(weights, min_size=3, max_size=3).map(
    lambda rows: Chain(tuple(tuple(w / sum(row) for w in row) for row in rows), length=4)
)
wrongs = st.frozensets(st.lists(st.integers(1, 2), min_size=1, max_size=3).map(tuple), max_size=4)


@given(
    chain=chains,
    ends=st.sampled_from(ENDS),
    order=st.sampled_from(ORDERS),
    wrong=wrongs,
    seed=st.integers(0, 2**31),
    batch=st.integers(1, 6),
    slots=st.integers(1, 6),
)
@settings(deadline=None, max_examples=80)
def test_a_finite_law_is_drawn_out_each_once_and_nothing_goes_on_from_what_is_rejected(
    chain: Chain, ends: dict[str, Any], order: Order, wrong: frozenset[Path], seed: int, batch: int, slots: int
) -> None:
    law = Steps(chain, wrong=wrong, **ends)
    tree = grown(seed, chain, wrong, slots, n=999, batch=batch, order=order, **ends)
    found = paths(tree)
    assert len(found) == len(set(found))
    there = {one for one in found if not law.ends_at_step(one)}
    left = {path: p for path, p in _outputs(law).items() if path not in there}
    assert there <= set(_outputs(law))
    assert all(p < 1e-5 for p in left.values())
    rejected = {one for one in found if law.ends_at_step(one) and one in wrong}
    assert not any(one != step and one[: len(step)] == step for step in rejected for one in found)
    ended = sum(law.chance(one) for one in {*there, *rejected})
    assert ended == pytest.approx(1, abs=1e-4)


def _outputs(law: Steps) -> Sequences:
    """With probabilities from the prompt on; there may be none."""
    try:
        return {path: law.chance(path) for path in law.outputs()}
    except ZeroDivisionError:
        return {}


@given(
    ends=st.sampled_from(ENDS),
    order=st.sampled_from(ORDERS),
    distinct=st.booleans(),
    seed=st.integers(0, 2**31),
    slots=st.lists(st.integers(1, 5), min_size=1),
    luck=st.randoms(use_true_random=False),
)
@settings(deadline=None, max_examples=40)
def test_slots_and_the_order_of_branches_and_verdicts_change_nothing(
    ends: dict[str, Any], order: Order, distinct: bool, seed: int, slots: list[int], luck: random.Random
) -> None:
    options = {"n": 12, "batch": 3, "order": order, "distinct_answers": distinct, **ends}
    steady = grown(seed, wrong=WRONG, **options)
    tree = Tree(PROBLEM, decoding=Decoding.plain(1.0), seed=seed, max_tokens=4)
    strategy = WithoutReplacement(**options)
    for room in itertools.cycle(slots):
        for request in strategy.propose(tree, room):
            tree.add(request)
        waiting = tree.unsettled()
        if not waiting:
            break
        node = luck.choice(waiting)
        assert node.request is not None
        if node.branch is None:
            tree.attach(CHAIN(node.request))
        elif not node.settled:
            tree.judge(node.id, judged(tree, node, WRONG))
    assert told(tree) == told(steady)


def told(tree: Tree) -> dict[str, Any]:
    return {node.id: (node.request, node.branch, node.status == "rejected") for node in tree.nodes()}


# --- what is asked for ---------------------------------------------------------------------------------------------


def begun(**options: Any) -> tuple[Tree, WithoutReplacement]:
    """A tree whose first branch, (1, 2), has ended at a step that is not judged yet."""
    tree = Tree(PROBLEM, decoding=Decoding.plain(1.0), max_tokens=4)
    strategy = WithoutReplacement(step_tokens=(2,), **options)
    tree.add(*strategy.propose(tree, 9))
    chances = (math.log(0.6), math.log(0.4))
    tree.attach(Branch(id="1", text="1 2", token_ids=(1, 2), logprobs=chances, finish="step"))
    return tree, strategy


Place = tuple[str, int | None, Path, str]


def places(requests: Any) -> set[Place]:
    return {(r.parent, r.keep, r.exclude, r.purpose) for r in requests}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("status", ["abstained", "error", "rejected", None])
def test_a_round_waits_for_the_verdicts_of_its_steps_and_goes_on_from_those_not_rejected(
    order: Order, status: VerdictStatus | None
) -> None:
    tree, strategy = begun(batch=9, order=order)
    assert strategy.propose(tree, 9) == []
    tree.judge("1", [Verdict(status=status)] if status else [])
    wanted = strategy.propose(tree, 9)
    left: set[Place] = {(ROOT, None, (1,), "explore"), ("1", 1, (2,), "fork")}
    after: set[Place] = set() if status == "rejected" else {("1", None, (), "explore")}
    assert places(wanted) == left | after
    assert {request.step_tokens for request in wanted} == {(2,)}


def test_outputs_that_were_begun_are_ended_first() -> None:
    tree, strategy = begun(batch=1)
    tree.judge("1", [])
    (request,) = strategy.propose(tree, 9)
    assert (request.parent, request.prefix_ids, request.max_tokens) == ("1", (1, 2), 2)
    tree.add(request)
    assert tree["1"].status == "expanded"


def test_what_is_next_behind_a_step_excludes_what_was_drawn_there() -> None:
    tree = grown(3, n=14, batch=1, order="steps", step_tokens=(2,))
    known: set[Path] = set()
    for node in tree.nodes():
        request = node.request
        assert request is not None
        kept = len(request.prefix_ids)
        followed = {one[kept] for one in known if one[:kept] == request.prefix_ids and len(one) > kept}
        assert followed == set(request.exclude)
        known.add(path(tree, node))
    again = [n for n in tree.nodes() if n.request and n.request.parent != ROOT and n.request.keep is None]
    assert any(node.request.exclude for node in again if node.request)


def test_a_fork_inside_a_step_ends_where_the_step_would_have() -> None:
    tree = grown(1, n=40, batch=4, order="steps", max_step_tokens=3)
    forks = [node.request for node in tree.nodes() if node.request is not None and node.purpose == "fork"]
    assert {len(request.prefix_ids) % 3 + (request.max_step_tokens or 0) for request in forks} == {3}
    assert all(len(one) in (3, 4) or one[-1] == 0 for one in paths(tree))


def test_each_step_is_one_of_the_n() -> None:
    for order in ORDERS:
        tree = grown(2, n=5, batch=2, order=order, step_tokens=(1, 2))
        assert len(tree.nodes()) == 5


def test_a_step_without_room_behind_it_is_the_end() -> None:
    tree, strategy = begun(batch=9)
    tree.judge("1", [])
    (request,) = (r for r in strategy.propose(tree, 9) if r.parent == "1" and r.keep is None)
    tree.add(request)
    chances = (math.log(0.7), math.log(0.4))
    tree.attach(Branch(id=request.id, text="1 2", token_ids=(1, 2), logprobs=chances, finish="step"))
    tree.judge(request.id, [])
    assert not any(r.parent == request.id and r.keep is None for r in strategy.propose(tree, 9))


def test_nothing_is_asked_for_behind_a_step_that_was_given_up() -> None:
    tree, strategy = begun(batch=9)
    tree.judge("1", [])
    tree.prune("1", "enough of it")
    assert places(strategy.propose(tree, 9)) == {(ROOT, None, (1,), "explore")}


def test_however_improbable_a_step_is_what_was_begun_is_ended() -> None:
    tree, strategy = (
        Tree(PROBLEM, decoding=Decoding.plain(), max_tokens=900),
        WithoutReplacement(step="line", batch=1),
    )
    tree.add(*strategy.propose(tree, 9))
    for _ in range(3):
        name = tree.pending()[0].id
        ids, chances = (7,) * 200, (-1.0,) * 200
        tree.attach(Branch(id=name, text="so\n", token_ids=ids, logprobs=chances, finish="step"))
        tree.judge(name, [])
        wanted = strategy.propose(tree, 1)
        assert [(r.parent, r.keep, len(r.prefix_ids)) for r in wanted] == [(name, None, 200 * tree.depth(name))]
        tree.add(*wanted)


@pytest.mark.parametrize("order", ORDERS)
def test_without_log_probabilities_what_was_begun_is_ended_and_nothing_else_is_begun(order: Order) -> None:
    def mute(request: DecodeRequest) -> Branch:
        return CHAIN(request).model_copy(update={"logprobs": (), "entropies": ()})

    lengths = set()
    for seed in range(8):
        tree = Tree(PROBLEM, decoding=Decoding.plain(1.0), seed=seed, max_tokens=4)
        nodes = grow(tree, WithoutReplacement(order=order, max_step_tokens=1), mute).nodes()
        assert [node.parent for node in nodes] == [ROOT, *(node.id for node in nodes[:-1])]
        assert len(outputs(tree)) == 1
        lengths.add(len(nodes))
    assert max(lengths) > 2


def test_steps_have_no_answers_that_could_come_again() -> None:
    def same(request: DecodeRequest) -> Branch:
        return CHAIN(request).model_copy(update={"text": "The answer is 7"})

    every = frozenset(itertools.chain.from_iterable(itertools.product((1, 2), repeat=k) for k in (1, 2, 3)))
    tree = Tree(PROBLEM, decoding=Decoding.plain(1.0), seed=3, max_tokens=4)
    options: dict[str, Any] = {"n": 6, "distinct_answers": True, "rollbacks": 2, "step_tokens": (2,)}
    grow(tree, WithoutReplacement(**options), same, wrong=every)
    assert all(n.status == "rejected" for n in tree.nodes())
    again = [n for n in tree.nodes() if n.request and "was rejected before" in n.request.trigger]
    whole = [n for n in tree.nodes() if n.branch is not None and n.branch.finish != "step"]
    assert len(whole) > 3
    assert len(again) == 2
    assert len(tree.nodes()) == 8
    assert {n.parent for n in again} <= {ROOT, *(n.id for n in whole), *(n.parent for n in whole)}


# --- settings ------------------------------------------------------------------------------------------------------


def test_as_it_comes_it_knows_no_steps_and_n_is_its_first_setting() -> None:
    strategy = WithoutReplacement(3)
    assert (strategy.n, strategy.order) == (3, "outputs")
    (request,) = strategy.propose(Tree(PROBLEM, decoding=Decoding.plain()), 9)
    assert (request.step, request.max_step_tokens, request.step_tokens) == ((), None, ())


def test_it_is_named_with_its_steps() -> None:
    named = parse_strategy("without-replacement:n=64,step=none,step_tokens=40+41,max_step_tokens=none,order=breadth")
    assert named == WithoutReplacement(64, order="breadth", step_tokens=(40, 41))
    assert parse_strategy("without-replacement:step=line,max_step_tokens=9") == WithoutReplacement(
        step="line", max_step_tokens=9
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"order": "steps"}, "order 'steps' is one of steps, which end nowhere; give step, step_tokens"),
        ({"order": "breadth", "step": "none"}, "order 'breadth' is one of steps, which end nowhere"),
        ({"order": "depth", "step": "line"}, "has no order 'depth'; outputs, steps, breadth are allowed"),
        ({"step": ""}, "step is empty"),
        ({"max_step_tokens": 0}, "needs max_step_tokens of at least 1 or None"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        WithoutReplacement(**options)


# --- the embedded model --------------------------------------------------------------------------------------------

ASKED = "Use 4, 4 and 4 to make 99."  # which can't be: all is rejected


@pytest.fixture(scope="module")
def decoder() -> Iterator[LocalDecoder]:
    made = LocalDecoder.load("countdown", slots=8)
    yield made
    made.close()


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("judges_steps", [True, False])
def test_a_search_on_attempts_computes_nothing_twice(decoder: LocalDecoder, order: Order, judges_steps: bool) -> None:
    no = decoder.engine.parts.tokenizer.convert_tokens_to_ids("no")
    before = decoder.engine.generated_tokens, decoder.engine.prefill_tokens
    solution = Search(
        decoder=decoder,
        strategy=WithoutReplacement(n=16, order=order, step_tokens=(no,)),
        verifiers=[countdown(steps=judges_steps)],
        decoding=Decoding.plain(1.0),
        max_tokens=75,
        seed=4,
    ).solve(ASKED)
    tree = solution.tree
    found = paths(tree)
    assert len(set(found)) == len(found) == 16
    steps = [node for node in tree.nodes() if node.branch is not None and node.branch.finish == "step"]
    assert steps
    assert all(path(tree, node)[-1] == no for node in steps)
    assert {node.status for node in steps} <= ({"rejected"} if judges_steps else {"open", "expanded"})
    assert any(node.status == "expanded" for node in tree.nodes()) == (not judges_steps and order != "breadth")
    visited = {one[:at] for one in found for at in range(1, len(one) + 1)}
    generated = decoder.engine.generated_tokens - before[0]
    assert solution.usage.generated_tokens == generated == len(visited)
    assert decoder.engine.prefill_tokens - before[1] <= len(decoder.render(ASKED)) - 1
