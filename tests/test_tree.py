"""The tree: what any sequence of events makes of it, what it refuses, and that nothing is lost on the way out and back.

The state machine grows trees by every event there is and holds them against what was put in; the tests below it say
what each rule means in one small example.
"""

from __future__ import annotations

import copy
import json
import math
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from led_agent.errors import UsageError
from led_agent.events import Decoded, Ended, Event, Judged, Noted, Pruned, Requested, Started
from led_agent.tree import ROOT, Tree, derive_seed, summary_verdict
from led_agent.types import Branch, DecodeRequest, Decoding, Message, Problem, Usage, Verdict

QUICK = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
STATUSES = {"open", "expanded", "accepted", "rejected", "pruned", "failed"}

# Text as models write it at their worst: control characters, half an emoji, markup, quotes.
ODD = [
    "\x00\x01\x0b\x1b[31m\x7f",
    "\r\n\t\u2028",
    "🦊👩‍👩‍👧",
    "\ud83d",
    '<a href="x">&amp;]]></data>',
    "'\"\\",
    "\ufeff\uffff",
]
texts = st.sampled_from(ODD) | st.text(max_size=12)
numbers = st.lists(st.floats(-50, 0), max_size=3)


@st.composite
def branches(draw: st.DrawFn, name: str) -> Branch:
    n = draw(st.integers(0, 3))
    return Branch(
        id=name,
        text=draw(texts),
        finish=draw(st.sampled_from(["eos", "stop", "step", "step", "step", "length", "cancelled", "error"])),
        token_ids=tuple(draw(st.lists(st.integers(0, 99), min_size=n, max_size=n))),
        final_logprobs=tuple(draw(st.lists(st.floats(-50, 0), min_size=n, max_size=n))),
        explored=tuple(draw(st.lists(st.booleans(), min_size=n, max_size=n))),
        prefill_tokens=draw(st.integers(0, 5)),
        error=draw(st.none() | texts),
        seconds=draw(st.integers(0, 5)),
    )


verdicts = st.builds(
    Verdict,
    status=st.sampled_from(["accepted", "rejected", "abstained", "error"]),
    score=st.floats(0, 1),
    reason=texts,
    verifier=texts,
    answer=st.none() | texts,
)


def is_a_tree(tree: Tree) -> None:
    """What must hold of any tree, however it came about."""
    graph = tree.graph
    names = list(graph)
    assert names[0] == ROOT
    assert len(tree) == len(names) == graph.number_of_edges() + 1
    for name in names:
        node = tree[name]
        assert node.id == name
        assert node.status in STATUSES
        path = tree.path(name)
        assert path[0] == ROOT
        assert path[-1] == name
        assert tree.depth(name) == len(path) - 1
        if name == ROOT:
            assert node.parent is None
            assert node.request is None
            assert node.branch is None
        else:
            assert node.request is not None
            assert node.request.id == name
            assert list(graph.predecessors(name)) == [node.request.parent] == [node.parent]
            assert node.branch is None or node.branch.id == name
    assert [node.id for node in tree.nodes()] == names[1:]
    assert sorted(child.id for name in names for child in tree.children(name)) == sorted(names[1:])


def continued(tree: Tree, name: str) -> bool:
    """Whether a child goes on from the whole of a node: one that forks inside it or asks something else does not."""
    above = tree[name].request
    return any(c.request.keep is None and c.request.prompt == above.prompt for c in tree.children(name))


def agrees_with_its_verdicts(tree: Tree) -> None:
    """Statuses follow from what happened to a node, and from nothing else."""
    for node in tree.nodes():
        decided = node.verdict.status if node.verdict is not None else None
        assert (node.status == "accepted") == (decided == "accepted")
        assert (node.status == "rejected") == (decided == "rejected")
        goes_on = continued(tree, node.id)
        assert node.status != "open" or not goes_on
        assert node.status != "expanded" or goes_on
        if node.status == "failed":
            assert node.branch is not None
            assert node.branch.finish == "error"
            assert not tree.children(node.id)
        if node.branch is None:
            assert node.status in ("open", "pruned")
            assert node.verdicts == ()
        elif node.branch.finish in ("error", "cancelled"):
            assert node.status in ("failed", "pruned")
    nodes = tree.nodes()
    assert [n.id for n in tree.accepted()] == [n.id for n in nodes if n.status == "accepted"]
    assert [n.id for n in tree.pending()] == [n.id for n in nodes if n.branch is None and n.status == "open"]
    assert [n.id for n in tree.leaves()] == [n.id for n in nodes if n.branch is not None and not continued(tree, n.id)]


class Growing(RuleBasedStateMachine):
    """A search's worth of events, in any order that is allowed, and now and then one that isn't."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[Event] = []
        self.fresh: set[str] = set()  # nodes that were asked something else than their parent

    @initialize(seed=st.integers(0, 2**63 - 1), prompt=texts.filter(lambda t: t.strip() != ""), stop=st.lists(texts))
    def plant(self, seed: int, prompt: str, stop: list[str]) -> None:
        problem = Problem(prompt=prompt, metadata={"odd": ODD})
        self.tree = Tree(problem, decoding=Decoding.led(depths=2), seed=seed, max_tokens=64, stop=stop)
        self.events.append(self.tree.started)
        self.tree.listen(self.events.append)

    # what the rules choose among

    def names(self, keep: Callable[[Any], bool] = lambda node: True) -> list[str]:
        return [node.id for node in self.tree.nodes() if keep(node)]

    def continuable(self) -> list[str]:
        return [ROOT, *self.names(lambda n: n.branch is not None and n.status not in ("failed", "pruned"))]

    def judgeable(self) -> list[str]:
        return self.continuable()[1:]

    def pending(self) -> list[str]:
        return self.names(lambda n: n.branch is None)

    # events

    @rule(data=st.data(), n=st.integers(1, 3), again=st.sampled_from([None, None, None, "Again?"]), trigger=texts)
    def ask(self, data: st.DataObject, n: int, again: str | None, trigger: str) -> None:
        choice = self.continuable()
        parent = data.draw(st.sampled_from(choice) | st.sampled_from(choice[-2:]))  # deep as well as wide
        wish = {
            "parent": parent,
            "decoding": data.draw(st.none() | st.just(Decoding.greedy())),
            "prompt": again,
            "purpose": data.draw(st.sampled_from(["explore", "fallback"])),
            "trigger": trigger,
        }
        before = self.tree.to_json()
        requests = self.tree.requests(n, **wish)
        assert requests == self.tree.requests(n, **wish)
        assert self.tree.to_json() == before
        above = self.tree[parent].request
        asked = above.prompt if above else self.tree.problem.prompt
        for request in requests:
            assert request.id not in self.tree
            self.tree.add(request)
            if again is not None and again != asked:
                self.fresh.add(request.id)
                assert request.prefix_ids == ()
        assert len({r.id for r in requests}) == len({r.seed for r in requests}) == n

    @precondition(lambda self: self.pending())
    @rule(data=st.data())
    def decode(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(self.pending()))
        given_up = self.tree[name].status == "pruned"
        branch = data.draw(branches(name))
        assert self.tree.attach(branch) is True
        expected = {"error": "failed", "cancelled": "pruned"}.get(branch.finish, "open")
        assert self.tree[name].status == ("pruned" if given_up else expected)

    @precondition(lambda self: self.judgeable())
    @rule(data=st.data(), said=st.lists(verdicts, max_size=3))
    def verify(self, data: st.DataObject, said: list[Verdict]) -> None:
        name = data.draw(st.sampled_from(self.judgeable()))
        had = self.tree[name].verdicts
        self.tree.judge(name, said)
        assert self.tree[name].verdicts == (*had, *said)

    @precondition(lambda self: self.names())
    @rule(data=st.data(), reason=texts)
    def prune(self, data: st.DataObject, reason: str) -> None:
        name = data.draw(st.sampled_from(self.names()))
        was = {node.id: node.status for node in self.tree.nodes()}
        self.tree.prune(name, reason)
        for node in self.tree.nodes():
            below = name in self.tree.path(node.id)
            given_up = below and was[node.id] in ("open", "expanded")
            assert node.status == ("pruned" if given_up else was[node.id])

    @rule(data=st.data(), text=texts)
    def note(self, data: st.DataObject, text: str) -> None:
        name = data.draw(st.sampled_from([ROOT, *self.names()]))
        had = self.tree[name].notes
        self.tree.note(name, text)
        assert self.tree[name].notes == (*had, text)

    @rule(reason=texts)
    def end(self, reason: str) -> None:
        self.tree.end(Ended(status="interrupted", reason=reason, usage=self.tree.usage(1.5)))

    # what can't follow

    def refuses(self, change: Callable[[], object]) -> None:
        before, seen = self.tree.to_json(), len(self.events)
        with pytest.raises(UsageError):
            change()
        assert self.tree.to_json() == before
        assert len(self.events) == seen

    @precondition(lambda self: self.names())
    @rule(data=st.data())
    def second_result(self, data: st.DataObject) -> None:
        taken = self.names(lambda n: n.branch is not None)
        if taken:
            name = data.draw(st.sampled_from(taken))
            before, seen = self.tree.to_json(), len(self.events)
            assert self.tree.attach(data.draw(branches(name))) is False
            assert self.tree.to_json() == before
            assert len(self.events) == seen
            self.refuses(lambda: self.tree.apply(Decoded(branch=Branch(id=name, text="second"))))

    @rule(data=st.data())
    def nonsense(self, data: st.DataObject) -> None:
        request = self.tree.requests(1)[0]
        self.refuses(lambda: self.tree.add(request.model_copy(update={"parent": "nobody"})))
        self.refuses(lambda: self.tree.add(request.model_copy(update={"parent": request.id})))
        self.refuses(lambda: self.tree.add(request.model_copy(update={"problem": "another"})))
        self.refuses(lambda: self.tree.add(request.model_copy(update={"id": ROOT})))
        self.refuses(lambda: self.tree.attach(Branch(id="nobody", text="x")))
        self.refuses(lambda: self.tree.attach(Branch(id=ROOT, text="x")))
        self.refuses(lambda: self.tree.judge("nobody", [Verdict(status="accepted")]))
        self.refuses(lambda: self.tree.judge(ROOT, [Verdict(status="accepted")]))
        self.refuses(lambda: self.tree.prune("nobody", "x"))
        self.refuses(lambda: self.tree.prune(ROOT, "x"))
        self.refuses(lambda: self.tree.note("nobody", "x"))
        self.refuses(lambda: self.tree.apply(self.tree.started))
        for name in self.names():
            self.refuses(lambda name=name: self.tree.add(request.model_copy(update={"id": name})))
        closed = [name for name in self.names() if name not in self.continuable()]
        for name in closed:
            self.refuses(lambda name=name: self.tree.add(request.model_copy(update={"parent": name})))
            self.refuses(lambda name=name: self.tree.judge(name, [Verdict(status="accepted")]))

    # what always holds

    @invariant()
    def it_is_a_tree(self) -> None:
        is_a_tree(self.tree)
        agrees_with_its_verdicts(self.tree)

    @invariant()
    def a_branch_is_what_stands_on_its_path(self) -> None:
        for node in self.tree.nodes():
            path = self.tree.path(node.id)[1:]
            start = max((i for i, name in enumerate(path) if name in self.fresh), default=0)
            parts = [self.tree[name].branch for name in path[start:]]
            if any(part is None for part in parts):
                with pytest.raises(UsageError, match="not been decoded"):
                    self.tree.branch(node.id)
                continue
            whole = self.tree.branch(node.id)
            assert whole.text == self.tree.text(node.id) == "".join(part.text for part in parts)
            for name in ("token_ids", "final_logprobs", "explored"):
                assert getattr(whole, name) == tuple(x for part in parts for x in getattr(part, name))
            assert whole.seconds == sum(part.seconds for part in parts)
            assert whole.prefill_tokens == sum(part.prefill_tokens for part in parts)
            assert (whole.id, whole.finish) == (node.id, parts[-1].finish)
            assert self.tree.room(node.id) == 64 - len(whole.token_ids)
            assert self.tree.mean_logprob(node.id) == (
                pytest.approx(whole.mean_logprob) if whole.mean_logprob is not None else None
            )

    @invariant()
    def requests_continue_what_stands_there(self) -> None:
        for node in self.tree.nodes():
            if node.request is not None and node.id not in self.fresh and node.parent != ROOT:
                assert node.request.prefix_ids == self.tree.branch(node.parent).token_ids

    @invariant()
    def what_is_settled_waits_for_nothing(self) -> None:
        heard = {event.id for event in self.events if isinstance(event, Judged)}
        for node in self.tree.nodes():
            done = node.branch is not None and (node.id in heard or node.status in ("failed", "pruned"))
            assert node.settled == done
        assert [n.id for n in self.tree.unsettled()] == [n.id for n in self.tree.nodes() if not n.settled]

    @invariant()
    def usage_adds_up(self) -> None:
        decoded = [node.branch for node in self.tree.nodes() if node.branch is not None]
        assert self.tree.usage(2.5) == Usage(
            generated_tokens=sum(len(branch.token_ids) for branch in decoded),
            prefill_tokens=sum(branch.prefill_tokens for branch in decoded),
            seconds=2.5,
            branches=len(self.names()),
            verifier_calls=sum(len(node.verdicts) for node in self.tree.nodes()),
        )

    @invariant()
    def its_events_give_it_again(self) -> None:
        assert Tree.replay(self.events).to_json() == self.tree.to_json()

    def teardown(self) -> None:
        if hasattr(self, "tree"):
            comes_back_whole(self.tree)


Growing.TestCase.settings = settings(
    deadline=None, max_examples=50, stateful_step_count=25, suppress_health_check=[HealthCheck.too_slow]
)
TestGrowing = Growing.TestCase


def comes_back_whole(tree: Tree) -> None:
    link = json.loads(json.dumps(tree.to_node_link()))
    for again in (
        Tree.from_json(tree.to_json()),
        Tree.from_node_link(link),
        Tree.from_graphml(tree.to_graphml()),
    ):
        assert [again[name] for name in again.graph] == [tree[name] for name in tree.graph]
        assert (again.started.model_dump(mode="json"), again.ended) == (
            tree.started.model_dump(mode="json"),
            tree.ended,
        )
        assert again.to_json() == tree.to_json()


# --- small examples ------------------------------------------------------------------------------------------------


def grown(*branched: str, tree: Tree | None = None, part: str = "", **wish: Any) -> Tree:
    """A tree with these texts as branches under the root, or under ``parent=``, asked for by way of a part or not."""
    tree = tree if tree is not None else Tree("What is 6 x 7?")
    view = tree
    for name in part.split("/") if part else ():
        view = view.part(name)
    for request, text in zip(view.requests(len(branched), **wish), branched, strict=True):
        tree.add(request)
        tree.attach(Branch(id=request.id, text=text, token_ids=tuple(range(len(text.split())))))
    return tree


def said(status: Any, score: float | None = None) -> list[Verdict]:
    return [Verdict(status=status, score=score)]


def test_ids_are_paths() -> None:
    tree = grown("a", "b")
    grown("c", "d", tree=tree, parent="2")
    grown("e", tree=tree, parent="2.1")
    grown("f", tree=tree)
    assert [node.id for node in tree.nodes()] == ["1", "2", "2.1", "2.2", "2.1.1", "3"]
    assert tree.path("2.1.1") == [ROOT, "2", "2.1", "2.1.1"]
    assert [node.id for node in tree.children("2")] == ["2.1", "2.2"]
    assert tree.text("2.1.1") == "bce"
    assert tree.text(ROOT) == ""


def test_the_whole_of_a_branch_is_the_sum_of_its_steps() -> None:
    tree = Tree("q")
    steps = [
        Branch(id="1", text="a ", finish="step", token_ids=(1, 2), logprobs=(-1.0, -2.0), prefill_tokens=5, seconds=2),
        Branch(id="1.1", text="b ", finish="step", token_ids=(3,), entropies=(0.5,), explored=(True,), seconds=3),
        Branch(id="1.1.1", text="c", finish="length", token_ids=(), prefill_tokens=1, span="all"),
    ]
    for step in steps:
        tree.add(tree.requests(1, parent=step.id.rpartition(".")[0] or ROOT)[0])
        tree.attach(step)
    assert tree.branch("1.1.1") == Branch(
        id="1.1.1",
        text="a b c",
        finish="length",
        token_ids=(1, 2, 3),
        logprobs=(-1.0, -2.0),
        entropies=(0.5,),
        explored=(True,),
        prefill_tokens=6,
        seconds=5,
        span="all",
    )
    assert tree.branch("1") == steps[0]


def test_children_of_one_purpose() -> None:
    tree = grown("a", "b")
    grown("c", tree=tree, purpose="fallback")
    assert [node.id for node in tree.children(purpose="fallback")] == ["3"]
    assert [node.id for node in tree.children(purpose="explore")] == ["1", "2"]


def test_a_request_is_complete() -> None:
    tree = Tree(Problem(prompt="q", id="mine"), decoding=Decoding.plain(), seed=5, max_tokens=9, stop=["END"])
    (request,) = tree.requests(1, step=["\n"], purpose="explore", trigger="because")
    assert request == DecodeRequest(
        id="1",
        parent=ROOT,
        problem="mine",
        prompt="q",
        decoding=Decoding.plain(),
        seed=derive_seed(5, tree.problem, "1"),
        max_tokens=9,
        stop=("END",),
        step=("\n",),
        trigger="because",
    )
    (other,) = tree.requests(1, decoding=Decoding.greedy(), max_tokens=3)
    assert (other.decoding, other.max_tokens) == (Decoding.greedy(), 3)


def test_one_stop_string_is_one_stop_string_and_not_its_letters() -> None:
    tree = Tree("q", stop="END")
    assert tree.requests(1)[0].stop == ("END",)
    assert tree.requests(1, step="\n\n")[0].step == ("\n\n",)


def test_no_requests_are_none() -> None:
    assert Tree("q").requests(0) == []


def test_a_pending_node_cannot_be_continued() -> None:
    tree = Tree("q")
    tree.add(tree.requests(1)[0])
    with pytest.raises(UsageError, match="'1' has not been decoded"):
        tree.requests(1, parent="1")


@pytest.mark.parametrize(
    "question",
    [
        lambda tree: tree["9"],
        lambda tree: tree.parent("9"),
        lambda tree: tree.children("9"),
        lambda tree: tree.path("9"),
        lambda tree: tree.depth("9"),
        lambda tree: tree.branch("9"),
        lambda tree: tree.text("9"),
        lambda tree: tree.requests(1, parent="9"),
        lambda tree: tree.prune("9", "x"),
    ],
)
def test_a_question_about_a_node_that_is_not_there_is_a_usage_error(question: Callable[[Tree], object]) -> None:
    with pytest.raises(UsageError, match="no node '9'"):
        question(grown("a"))


def test_the_root_holds_no_branch() -> None:
    with pytest.raises(UsageError, match="root holds no branch"):
        Tree("q").branch(ROOT)


def test_the_graph_can_be_looked_at_only() -> None:
    import networkx as nx

    tree = grown("a")
    with pytest.raises(nx.NetworkXError):
        tree.graph.add_node("2")
    assert len(tree) == 2


def test_a_prompt_of_ones_own_starts_over() -> None:
    tree = grown("one two")
    (critique,) = tree.requests(1, parent="1", prompt="Criticise this: one two")
    assert critique.prefix_ids == ()
    assert critique.prompt == "Criticise this: one two"
    tree.add(critique)
    tree.attach(Branch(id=critique.id, text="bad ", token_ids=(7,)))
    assert tree.text("1.1") == "bad "
    (more,) = tree.requests(1, parent="1.1")
    assert (more.prompt, more.prefix_ids) == (critique.prompt, (7,))
    tree.add(more)
    tree.attach(Branch(id=more.id, text="very", token_ids=(8,)))
    assert tree.text("1.1.1") == "bad very"
    (back,) = tree.requests(1, parent="1.1.1", prompt="What is 6 x 7?")
    assert back.prefix_ids == ()


def test_asking_the_same_again_continues() -> None:
    tree = grown("one two")
    assert tree.requests(1, parent="1", prompt="What is 6 x 7?")[0].prefix_ids == (0, 1)
    assert tree.requests(1, parent="1", prompt=[Message(role="user", content="What is 6 x 7?")])[0].prefix_ids == ()


# --- seeds ---------------------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 2**63 - 1), other=st.integers(0, 2**63 - 1))
@QUICK
def test_seeds_are_63_bits_and_follow_from_seed_prompt_and_id(seed: int, other: int) -> None:
    one, two = Problem(prompt="one"), Problem(prompt="two")
    found = derive_seed(seed, one, "1")
    assert 0 <= found < 2**63
    assert found == derive_seed(seed, Problem(prompt="one", id="whatever", answer="4"), "1")
    assert found != derive_seed(seed, one, "2")
    assert found != derive_seed(seed, two, "1")
    assert (found == derive_seed(other, one, "1")) == (seed == other)


def test_seeds_of_a_whole_tree_are_distinct() -> None:
    tree = grown(*"abcdefgh")
    for name in "12345678":
        grown(*"abcdefgh", tree=tree, parent=name)
    seeds = [node.request.seed for node in tree.nodes() if node.request]
    assert len(set(seeds)) == len(seeds) == 72


def test_a_seed_stays_what_it_was_in_earlier_versions() -> None:
    """A journal of today is resumed with the seeds of tomorrow's version."""
    assert derive_seed(0, Problem(prompt="q"), "1") == 4439282424777367366


@given(order=st.permutations(["1", "2", "3", "4"]))
@settings(deadline=None, max_examples=24)
def test_requests_do_not_depend_on_the_order_in_which_branches_come_back(order: list[str]) -> None:
    tree = Tree("q", seed=3)
    for request in tree.requests(4):
        tree.add(request)
    for name in order:
        tree.attach(Branch(id=name, text=name, token_ids=(int(name),)))
    grandchildren = {name: tree.requests(2, parent=name) for name in order}
    reference = grown("1", "2", "3", "4", tree=Tree("q", seed=3))
    for name in order:
        for asked, expected in zip(grandchildren[name], reference.requests(2, parent=name), strict=True):
            assert (asked.id, asked.seed) == (expected.id, expected.seed)
            assert asked.prefix_ids == (int(name),)


# --- statuses ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given_verdicts", "status"),
    [
        ([], "open"),
        (["accepted"], "accepted"),
        (["rejected"], "rejected"),
        (["abstained"], "open"),
        (["error"], "open"),
        (["accepted", "abstained"], "accepted"),
        (["abstained", "accepted"], "accepted"),
        (["accepted", "error"], "open"),
        (["error", "accepted"], "open"),
        (["accepted", "rejected"], "rejected"),
        (["error", "rejected"], "rejected"),
        (["rejected", "error", "accepted"], "rejected"),
    ],
)
def test_what_verdicts_together_come_to(given_verdicts: list[Any], status: str) -> None:
    at_once, one_by_one = grown("a"), grown("a")
    at_once.judge("1", [Verdict(status=s) for s in given_verdicts])
    for s in given_verdicts:
        one_by_one.judge("1", [Verdict(status=s)])
    assert at_once["1"].status == one_by_one["1"].status == status


def test_the_reason_is_that_of_the_deciding_verdict() -> None:
    tree = grown("a")
    tree.judge("1", [Verdict(status="accepted", reason="good"), Verdict(status="rejected", reason="wrong")])
    assert tree["1"].reason == "wrong"
    assert tree["1"].verdict == Verdict(status="rejected", reason="wrong")
    assert summary_verdict([]) is None


def test_a_continued_node_is_expanded_and_stays_so_when_its_verdict_is_taken_back() -> None:
    tree = grown("a")
    grown("b", tree=tree, parent="1")
    assert tree["1"].status == "expanded"
    tree.judge("1", said("accepted"))
    assert tree["1"].status == "accepted"
    tree.judge("1", said("error"))
    assert tree["1"].status == "expanded"


def test_a_branch_with_an_error_is_failed_with_its_reason() -> None:
    tree = grown("a")
    tree.add(tree.requests(1)[0])
    tree.attach(Branch(id="2", text="", finish="error", error="non-finite logits"))
    assert (tree["2"].status, tree["2"].reason) == ("failed", "non-finite logits")


@pytest.mark.parametrize("finish", ["eos", "length", "cancelled", "error"])
def test_a_node_given_up_in_flight_keeps_what_comes_of_it_and_stays_given_up(finish: Any) -> None:
    tree = Tree("q")
    tree.add(tree.requests(1)[0])
    tree.prune("1", "hopeless")
    assert not tree["1"].pending
    assert tree.attach(Branch(id="1", text="half", finish=finish))
    assert (tree["1"].status, tree["1"].reason, tree.text("1")) == ("pruned", "hopeless", "half")


def test_pruning_spares_what_was_decided() -> None:
    tree = grown("a")
    grown("b", "c", "d", tree=tree, parent="1")
    tree.judge("1.1", said("accepted"))
    tree.judge("1.2", said("rejected"))
    tree.prune("1", "enough")
    assert [node.status for node in tree.nodes()] == ["pruned", "accepted", "rejected", "pruned"]


# --- the best ------------------------------------------------------------------------------------------------------


def leaf(tree: Tree, status: str, *, score: float = 0.0, finish: Any = "eos", logprob: float | None = None) -> str:
    """One more branch under the root, brought into ``status``."""
    (request,) = tree.requests(1)
    tree.add(request)
    finish = {"failed": "error", "pruned": "cancelled"}.get(status, finish)
    likely = () if logprob is None else (logprob,)
    tree.attach(Branch(id=request.id, text="x", finish=finish, final_logprobs=likely))
    if status in ("accepted", "rejected"):
        tree.judge(request.id, said(status, score))
    elif status == "open" and score:
        tree.judge(request.id, said("abstained", score))
    return request.id


# from the best to the worst
RANKED: list[dict[str, Any]] = [
    {"status": "accepted", "score": 1.0, "logprob": -1.0},
    {"status": "accepted", "score": 1.0, "logprob": -2.0},
    {"status": "accepted", "score": 1.0},
    {"status": "accepted", "score": 1.0, "finish": "length", "logprob": -0.5},
    {"status": "accepted", "score": 0.5, "logprob": -0.1},
    {"status": "open", "score": 0.9, "logprob": -9.0},
    {"status": "open", "score": 0.1, "logprob": -0.1},
    {"status": "open", "logprob": -0.1},
    {"status": "open", "finish": "length", "logprob": -0.1},
    {"status": "rejected", "score": 0.4, "logprob": -0.1},
    {"status": "rejected", "score": 0.0, "logprob": -0.1},
    {"status": "pruned", "logprob": -0.1},
    {"status": "failed"},
]


@pytest.mark.parametrize("better", range(len(RANKED) - 1))
def test_the_best_of_two_whichever_came_first(better: int) -> None:
    for worse in range(better + 1, len(RANKED)):
        for order in ((better, worse), (worse, better)):
            tree = Tree("q")
            names = [leaf(tree, **RANKED[k]) for k in order]
            assert tree.best() == tree[names[order.index(better)]]


@given(order=st.permutations(range(len(RANKED))))
@QUICK
def test_the_best_of_all_whatever_the_order_of_arrival(order: list[int]) -> None:
    tree = Tree("q")
    names = [leaf(tree, **RANKED[k]) for k in order]
    assert tree.best() == tree[names[order.index(0)]]


def test_of_equals_the_first_asked_for_is_the_best() -> None:
    tree = Tree("q")
    for _ in range(3):
        leaf(tree, "open", logprob=-1.0)
    assert tree.best() is not None
    assert tree.best().id == "1"  # type: ignore[union-attr]


def test_nothing_decoded_has_no_best() -> None:
    tree = Tree("q")
    assert tree.best() is None
    tree.add(tree.requests(1)[0])
    assert tree.best() is None


def test_an_accepted_node_is_the_best_even_where_it_was_continued() -> None:
    """A verdict may come when the strategy has already gone on from the branch."""
    tree = grown("42")
    grown("and so on", tree=tree, parent="1")
    tree.judge("1", said("accepted"))
    assert [node.id for node in tree.accepted()] == ["1"]
    assert tree.best() is not None
    assert tree.best().id == "1"  # type: ignore[union-attr]


# --- events --------------------------------------------------------------------------------------------------------


def test_listeners_hear_of_each_event_once_it_has_taken_effect() -> None:
    tree = Tree("q")
    heard: list[tuple[str, int]] = []
    tree.listen(lambda event: heard.append((event.event, len(tree))))
    grown("a", tree=tree)
    tree.judge("1", said("accepted"))
    tree.note("1", "x")
    tree.prune("1", "x")
    tree.end(Ended(status="verified", reason="x"))
    assert heard == [("requested", 2), ("decoded", 2), ("judged", 2), ("noted", 2), ("pruned", 2), ("ended", 2)]


def test_replay_needs_a_start_and_only_one() -> None:
    started = Tree("q").started
    with pytest.raises(UsageError, match="'nothing'"):
        Tree.replay([])
    with pytest.raises(UsageError, match="'noted'"):
        Tree.replay([Noted(id=ROOT, text="x")])
    with pytest.raises(UsageError, match="starts once"):
        Tree.replay([started, started])


@pytest.mark.parametrize(
    "event",
    [
        Decoded(branch=Branch(id="1", text="x")),
        Judged(id="1", verdicts=()),
        Pruned(id="1", reason="x"),
        Noted(id="1", text="x"),
        Requested(request=grown("x").requests(1, parent="1")[0]),
    ],
)
def test_events_of_another_run_are_refused(event: Event) -> None:
    with pytest.raises(UsageError):
        Tree.replay([Tree("What is 6 x 7?").started, event])


# --- out and back --------------------------------------------------------------------------------------------------


def test_what_is_exported_says_what_it_is() -> None:
    tree = grown("a")
    tree.judge("1", said("accepted", 0.75))
    assert json.loads(tree.to_json())["format"] == "led_agent.tree/1"
    import networkx as nx

    graph = nx.parse_graphml(tree.to_graphml())
    assert graph.nodes["1"]["status"] == "accepted"
    assert graph.nodes["1"]["score"] == 0.75
    assert graph.nodes["1"]["tokens"] == 1
    assert graph.nodes["1"]["seed"] == str(derive_seed(0, tree.problem, "1"))
    assert list(graph.edges) == [(ROOT, "1")]
    assert nx.is_arborescence(nx.node_link_graph(tree.to_node_link(), edges="edges"))


@pytest.mark.parametrize("odd", ODD)
def test_odd_text_survives_every_export(odd: str) -> None:
    tree = Tree(Problem(prompt=f"q{odd}", id=odd, answer=odd, metadata={odd: odd}), stop=[odd])
    (request,) = tree.requests(1, step=[odd], purpose=odd, trigger=odd)
    tree.add(request)
    tree.attach(Branch(id="1", text=odd, error=odd))
    tree.judge("1", [Verdict(status="rejected", reason=odd, verifier=odd, answer=odd)])
    tree.note(ROOT, odd)
    tree.end(Ended(status="exhausted", reason=odd))
    comes_back_whole(tree)
    assert Tree.from_graphml(tree.to_graphml()).text("1") == odd


def test_a_tree_read_back_goes_on_as_the_first_would() -> None:
    tree = grown("a", "b")
    tree.judge("1", said("rejected"))
    again = Tree.from_json(tree.to_json())
    assert again.requests(2, parent="2") == tree.requests(2, parent="2")
    assert again.best() == tree.best()
    for one in (tree, again):
        grown("c", tree=one, parent="2")
    assert again.to_json() == tree.to_json()


def document() -> dict[str, Any]:
    tree = grown("a", "b")
    grown("c", tree=tree, parent="2")
    tree.judge("1", said("accepted"))
    tree.end(Ended(status="verified", reason="x"))
    found: dict[str, Any] = json.loads(tree.to_json())
    return found


def changed(path: list[Any], value: Any) -> dict[str, Any]:
    whole = document()
    place: Any = whole
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return whole


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "null",
        "[]",
        "3",
        '"tree"',
        "{}",
        '{"format": "led_agent.tree/2"}',
        '{"format": "led_agent.tree/1"}',
        "[" * 100_000,
        "9" * 10_000,
    ],
    ids=lambda text: text[:40],
)
def test_text_that_is_no_tree_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="not a tree"):
        Tree.from_json(text)


@pytest.mark.parametrize(
    "malformed",
    [
        changed(["started"], None),
        changed(["started", "seed"], -1),
        changed(["started", "problem", "prompt"], ""),
        changed(["ended"], {"status": "won"}),
        changed(["nodes"], None),
        changed(["nodes"], 3),
        changed(["nodes"], []),
        changed(["nodes"], {"1": 2}),
        changed(["nodes", 1], None),
        changed(["nodes", 1], []),
        changed(["nodes", 1], {}),
        changed(["nodes", 1, "status"], "great"),
        changed(["nodes", 1, "status"], ["open"]),
        changed(["nodes", 1, "notes"], "abc"),
        changed(["nodes", 1, "notes"], 3),
        changed(["nodes", 1, "reason"], 3),
        changed(["nodes", 1, "verdicts"], [{"status": "accepted", "score": 2}]),
        changed(["nodes", 1, "branch"], {"text": 3}),
        changed(["nodes", 1, "branch", "id"], "2"),
        changed(["nodes", 1, "request"], None),
        changed(["nodes", 1, "request", "seed"], -1),
        changed(["nodes", 1, "id"], "2"),
        changed(["nodes", 1, "id"], ROOT),
        changed(["nodes", 1], {**document()["nodes"][1], "id": ROOT, "branch": None, "verdicts": []}),
        changed(["nodes", 0, "branch"], {"id": ROOT, "text": "x"}),
        changed(["nodes", 0, "verdicts"], [{"status": "accepted"}]),
        changed(["nodes", 1, "id"], ["1"]),
        changed(["nodes", 1, "colour"], "red"),
        # no tree: two parents, a ring, an orphan, a second root
        changed(["nodes", 2], document()["nodes"][1]),
        changed(["nodes", 1, "request", "parent"], "1"),
        changed(["nodes", 1, "request", "parent"], "2"),
        changed(["nodes", 1, "request", "parent"], "9"),
        changed(["nodes", 1], document()["nodes"][0]),
        changed(["nodes", 0], document()["nodes"][1]),
        changed(["nodes", 1], {**document()["nodes"][1], "id": ROOT, "request": {**document()["nodes"][1]["request"]}}),
        changed(["nodes", 1, "request"], {**document()["nodes"][1]["request"], "id": ROOT}),
    ],
)
def test_a_document_that_adds_up_to_no_tree_is_refused(malformed: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="not a tree"):
        Tree.from_json(json.dumps(malformed))


def test_a_branch_under_another_nodes_name_is_refused() -> None:
    with pytest.raises(UsageError, match="not a tree"):
        Tree.from_json(json.dumps(changed(["nodes", 3, "request", "parent"], "1")).replace('"2.1"', '"1"'))


@pytest.mark.parametrize(
    "data",
    [
        [],
        None,
        3,
        {},
        {"nodes": [], "edges": []},
        {"nodes": [{"id": None}], "edges": []},
        {"nodes": [{"id": {}}], "edges": []},
        {"nodes": [3], "edges": []},
        {"nodes": [{"id": "a"}], "edges": [{"source": "a"}]},
        {"nodes": [{"id": "a"}], "edges": 3},
        {"graph": [], "nodes": [], "edges": []},
        {"graph": {"format": "led_agent.tree/1"}, "nodes": [{"id": "root"}], "edges": []},
    ],
)
def test_node_link_data_that_is_no_tree_is_refused(data: Any) -> None:
    with pytest.raises(UsageError, match=r"^not "):
        Tree.from_node_link(data)


GRAPHML = grown("a").to_graphml()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "tree",
        "<graphml>",
        "<html></html>",
        '<graphml xmlns="http://graphml.graphdrawing.org/xmlns"></graphml>',
        GRAPHML[: len(GRAPHML) // 2],
        GRAPHML.replace('attr.name="record"', 'attr.name="recording"'),
        GRAPHML.replace("led_agent.tree/1", "somebody.else/1"),
        GRAPHML.replace('{"status"', '{"state"'),
        GRAPHML.replace('{"status"', '["status"'),
        GRAPHML.replace('<node id="1">', '<node id="one">'),
        GRAPHML.replace("\x00", "").replace("{", "\x00"),
    ],
)
def test_xml_that_is_no_tree_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"^not "):
        Tree.from_graphml(text)


JUNK: list[Any] = [None, True, 0, -1, 2**70, 1.5, math.inf, "", "root", "1", "2.1", [], ["1"], {}, {"id": "1"}]


def spoil(place: Any, chance: random.Random) -> Any:
    """A JSON document with one thing in it deleted, doubled, moved or replaced by junk."""
    if not isinstance(place, dict | list) or not place or chance.random() < 0.15:
        return chance.choice(JUNK)
    place = copy.copy(place)
    key = chance.choice(list(place) if isinstance(place, dict) else range(len(place)))
    act = chance.choice(["delete", "double", "swap", "deeper", "deeper", "deeper", "deeper"])
    if act == "delete":
        del place[key]
    elif act == "double" and isinstance(place, list):
        place.append(place[key])
    elif act == "swap" and isinstance(place, list):
        place[key], place[0] = place[0], place[key]
    else:
        place[key] = spoil(place[key], chance)
    return place


@given(chance=st.randoms(use_true_random=False), times=st.integers(1, 3))
@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow])
def test_a_spoilt_document_is_refused_or_still_a_tree(chance: random.Random, times: int) -> None:
    """Files come from anywhere: whatever is read is sound, and what is not sound is the caller's fault."""
    spoilt = document()
    link = grown("a", "b").to_node_link()
    for _ in range(times):
        spoilt, link = spoil(spoilt, chance), spoil(link, chance)
    for read, given_document in ((Tree.from_json, json.dumps(spoilt)), (Tree.from_node_link, link)):
        try:
            tree = read(given_document)
        except UsageError:
            continue
        is_a_tree(tree)
        comes_back_whole(tree)


def test_a_tree_starts_with_its_settings() -> None:
    tree = Tree("q", seed=4, decoding=Decoding.greedy(), max_tokens=7, stop=["x"])
    expected = Started(problem=Problem(prompt="q"), decoding=Decoding.greedy(), seed=4, max_tokens=7, stop=("x",))
    assert tree.started == expected
    assert Tree("q").started.decoding == Decoding.led("paper")


# --- what strategies ask ---------------------------------------------------------------------------------------------


def parted() -> Tree:
    """Two parts of the root, one of them with a part of its own; node 2.1 belongs to nobody."""
    tree = Tree("What is 6 x 7?", max_tokens=20)
    grown("a b", tree=tree, part="one")
    grown("c d e", tree=tree, part="two")
    grown("f", tree=tree, part="one/inner", parent="1")
    grown("g", tree=tree, parent="2")
    return tree


def test_a_part_shows_what_was_asked_for_by_way_of_it() -> None:
    tree = parted()
    one, two, inner = tree.part("one"), tree.part("two"), tree.part("one").part("inner")
    assert [node.id for node in tree.nodes()] == ["1", "2", "1.1", "2.1"]
    assert [node.id for node in one.nodes()] == ["1", "1.1"]
    assert [node.id for node in two.nodes()] == ["2"]
    assert [node.id for node in inner.nodes()] == ["1.1"]
    assert (len(tree), len(one), len(two), len(inner)) == (5, 3, 2, 2)
    assert [leaf.id for leaf in two.leaves()] == ["2"]  # what continues it is not seen there
    assert [leaf.id for leaf in tree.leaves()] == ["1.1", "2.1"]
    assert "2" not in one
    assert one.usage().generated_tokens == 3
    assert list(tree.part("three").nodes()) == []
    (request,) = inner.requests(1)
    assert (request.id, request.part) == ("3", "one/inner")


def test_a_part_is_read_only_and_follows_the_tree() -> None:
    tree = parted()
    one = tree.part("one")
    (request,) = one.requests(1)
    with pytest.raises(UsageError, match="the part 'one' of a tree is read-only"):
        one.add(request)
    tree.add(request)
    assert [node.id for node in one.unsettled()] == ["1", "1.1", "3"]
    tree.judge("1.1", [])
    tree.judge("1", said("accepted"))
    assert [node.id for node in one.unsettled()] == ["3"]
    assert [node.id for node in one.accepted()] == ["1"]
    assert tree.part("two").accepted() == []


@pytest.mark.parametrize("name", ["", "a/b"])
def test_a_part_has_a_name_without_a_slash(name: str) -> None:
    with pytest.raises(UsageError, match="a name without a slash is allowed"):
        Tree("x").part(name)


def test_parts_draw_their_siblings_apart() -> None:
    tree = Tree("What is 6 x 7?")
    groups = [tree.part(name).requests(2)[0].sibling for name in ("one", "two")]
    assert groups[0] is not None
    assert groups[1] is not None
    assert groups[0].group != groups[1].group


def test_requests_of_several_calls_are_numbered_as_of_one() -> None:
    tree = parted()
    calls = [tree.requests(1)[0], tree.requests(1, parent="1")[0], tree.requests(1)[0], tree.requests(1, parent="1")[0]]
    numbered = tree.numbered(calls)
    assert [request.id for request in numbered] == ["3", "1.2", "4", "1.3"]
    assert [request.seed for request in numbered[::2]] == [request.seed for request in tree.requests(2)]
    for request in numbered:
        tree.add(request)


def test_the_room_is_what_the_limit_leaves() -> None:
    tree = parted()
    assert [tree.room(name) for name in (ROOT, "1", "2", "1.1", "2.1")] == [20, 18, 17, 17, 16]
    (fork,) = tree.requests(1, parent="2", keep=1)
    tree.add(fork)
    tree.attach(Branch(id=fork.id, text="x", token_ids=(8, 9), final_logprobs=(-1.0, -2.0)))
    (below,) = tree.requests(1, parent=fork.id)
    tree.add(below)
    tree.attach(Branch(id=below.id, text="y", token_ids=(7,), final_logprobs=(-6.0,)))
    assert (tree.room(fork.id), tree.room(below.id)) == (20 - 3, 20 - 4)
    assert tree.mean_logprob(below.id) == pytest.approx(-3.0)
    (late,) = tree.requests(1)
    tree.add(late)
    with pytest.raises(UsageError, match="has not been decoded"):
        tree.room(late.id)


def test_parts_and_what_is_settled_come_back_whole() -> None:
    tree = parted()
    tree.judge("1", [])
    tree.judge("2", said("abstained", 0.5))
    tree.prune("2.1", "no")
    comes_back_whole(tree)
    for again in (Tree.from_json(tree.to_json()), Tree.from_graphml(tree.to_graphml()), copy.deepcopy(tree)):
        assert [node.id for node in again.unsettled()] == ["1.1"]
        assert [node.id for node in again.part("one").nodes()] == ["1", "1.1"]
        assert again.room("1.1") == tree.room("1.1")
