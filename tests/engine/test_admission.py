"""Who is let in, when and into how much memory: long prompts, kept prompts, full queues, forks of growing branches."""

from __future__ import annotations

import copy
import itertools
import random
from collections.abc import Iterator

import pytest
import torch

from led_agent.engine import BranchEvent, Engine, EngineRequest
from led_agent.engine.growing import Prefix
from led_agent.engine.memory import MemoryPlan
from led_agent.engine.model import ModelParts
from led_agent.engine.prefixes import CHUNK
from led_agent.errors import UsageError
from led_agent.types import Branch, Decoding, DepthExploration, Sibling
from tests.engine.reference import branches, full_logits, greedy
from tests.tiny import tiny_model

PROMPT = [3, 14, 15, 92, 65, 35]
PLAIN = Decoding.plain(1.1, top_p=0.9)
LED = Decoding(temperature=0.9, exploration=DepthExploration(depths=5, top_k=12), span="all")
NOISE = Decoding.noise(0.5, temperature=1.0, span="all")
GREEDY = Decoding.greedy()
MODEL = tiny_model("llama", initializer_range=0.15)
PARTS = ModelParts.of(copy.deepcopy(MODEL))
# With room for prompts of several chunks.
ROOMY = ModelParts.of(tiny_model("llama", initializer_range=0.15, num_hidden_layers=3, max_position_embeddings=2048))
FEW_LAYERS = Decoding(temperature=0.9, exploration=DepthExploration(depths=3, top_k=12), span="all")


def prompt_of(length: int) -> list[int]:
    return [(11 * i + i // 7) % 97 for i in range(length)]


def same(a: Branch, b: Branch) -> bool:
    """To the bit."""
    names = ("token_ids", "logprobs", "final_logprobs", "entropies", "explored", "finish")
    return all(getattr(a, name) == getattr(b, name) for name in names)


def rest_of(engine: Engine) -> list[BranchEvent]:
    """What comes until nothing is left to do."""
    events = []
    while engine.busy:
        events += engine.step(tokens=8)
    return events


def ended(events: list[BranchEvent]) -> dict[str, Branch]:
    return {event.id: event.branch for event in events if event.branch is not None}


@pytest.fixture(autouse=True)
def _steps_never_end_early(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the machine is."""
    monkeypatch.setattr("led_agent.engine.engine._MACRO_SECONDS", float("inf"))


# --- long prompts ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 3])
def test_branches_go_on_while_a_long_prompt_comes_in(n: int):
    """It takes three steps, in each of which the others get their token, and what comes out is what would have."""
    first = [EngineRequest(f"a{i}", PROMPT, FEW_LAYERS, seed=i, max_tokens=20) for i in range(3)]
    long = EngineRequest("long", prompt_of(1300), PLAIN, seed=7, max_tokens=9, n=n)
    behind = EngineRequest("behind", PROMPT, PLAIN, seed=8, max_tokens=9)
    expected = {}
    for request in (*first, long, behind):
        expected |= branches(Engine(ROOMY, slots=1), request)

    engine = Engine(ROOMY, slots=8)
    for request in first:
        engine.submit(request)
    events = engine.step(tokens=4)
    engine.submit(long)
    engine.submit(behind)
    counts = {f"a{i}": 4 for i in range(3)}
    for turn in range(1, 4):
        new = engine.step()
        told = {event.id: event.tokens for event in new if event.id in counts}
        counts = {name: count + 1 for name, count in counts.items()}
        assert told == counts
        assert {event.id for event in new} - told.keys() == ({*expected} - {*counts} if turn == 3 else set())
        events += new
    events += rest_of(engine)
    grown = ended(events)
    assert grown.keys() == expected.keys()
    assert all(same(grown[name], expected[name]) for name in expected)
    assert sum(grown[name].prefill_tokens for name in grown if name.startswith("long")) == 1299


def test_a_chunk_is_all_that_is_prefilled_between_two_tokens(monkeypatch: pytest.MonkeyPatch):
    engine, computed = Engine(ROOMY, slots=8), []
    advance = engine._prefixes.advance

    def watched(prefix):
        cache, new = advance(prefix)
        computed.append(new)
        return cache, new

    monkeypatch.setattr(engine._prefixes, "advance", watched)
    engine.submit(EngineRequest("a", PROMPT, PLAIN, max_tokens=40))
    engine.step()
    for i, length in enumerate((300, 1200, 2, 700)):
        engine.submit(EngineRequest(f"r{i}", prompt_of(length)[::-1], PLAIN, max_tokens=3))
    totals = []
    while engine._waiting:
        computed.clear()
        engine.step()
        assert max(computed) <= CHUNK
        totals.append(sum(computed))
    assert sum(totals) == 299 + 1199 + 1 + 699
    assert max(totals) < 2 * CHUNK


def test_a_prompt_that_nobody_waits_for_any_more_is_prefilled_no_further():
    engine = Engine(ROOMY, slots=4)
    long = EngineRequest("long", prompt_of(1300), PLAIN, seed=7, max_tokens=9)
    engine.submit(EngineRequest("a", PROMPT, PLAIN, max_tokens=30))
    engine.submit(long)
    engine.step()
    (event,) = engine.cancel(["long"])
    assert event.branch is not None
    assert (event.branch.finish, event.branch.token_ids) == ("cancelled", ())
    assert event.branch.prefill_tokens < 1299
    engine.step(tokens=8)
    assert engine._prefixes[Prefix(tuple(prompt_of(1300)), ())].filled < 1299
    again = branches(engine, long)["long"]  # goes on where that one was
    assert again.prefill_tokens + event.branch.prefill_tokens == 1299
    assert same(again, branches(Engine(ROOMY, slots=1), long)["long"])


# --- kept prompts ----------------------------------------------------------------------------------------------------


def test_prompts_are_kept_up_to_their_bytes_and_the_least_recently_used_go(monkeypatch: pytest.MonkeyPatch):
    layers, heads, dim = PARTS.kv_shape
    each = 2 * layers * heads * dim * 4 * 20  # of a prompt of 20 tokens: 19, and one of zeros
    monkeypatch.setattr("led_agent.engine.prefixes._KEEP_BYTES", 3 * each)
    engine = Engine(PARTS, slots=1)

    def prefilled(start: int) -> int:
        request = EngineRequest("x", [(start + i) % 97 for i in range(20)], GREEDY, max_tokens=2)
        return branches(engine, request)["x"].prefill_tokens

    assert [prefilled(start) for start in (0, 1, 2)] == [19, 19, 19]
    assert [prefilled(start) for start in (0, 1, 2, 0)] == [0, 0, 0, 0]
    assert engine._prefixes.nbytes == 3 * each
    assert prefilled(3) == 19  # in the place of 1
    assert (len(engine._prefixes), engine._prefixes.nbytes) == (3, 3 * each)
    assert [prefilled(start) for start in (2, 0, 3)] == [0, 0, 0]
    assert prefilled(1) == 19


def test_a_prompt_is_kept_as_long_as_somebody_waits_for_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("led_agent.engine.prefixes._KEEP_BYTES", 0)
    engine = Engine(PARTS, slots=2)
    engine.submit(EngineRequest("x", PROMPT, PLAIN, max_tokens=3, n=7))
    engine.submit(EngineRequest("y", PROMPT, PLAIN, prefix_ids=[5, 6, 7], max_tokens=3, n=3))
    events = []
    while engine.busy:
        events += engine.step()
        assert ((tuple(PROMPT), ()) in engine._prefixes._kept) == bool(engine._waiting)
    computed = {name: branch.prefill_tokens for name, branch in ended(events).items()}
    # The second request's base is the whole prompt: branches of the first have left its last token behind.
    assert {name for name, new in computed.items() if new} == {"x/0", "y/0"}
    assert (computed["x/0"], computed["y/0"]) == (5, 2)
    assert len(engine._prefixes) == 0


# --- full queues -----------------------------------------------------------------------------------------------------


def test_more_than_may_wait_are_refused_whole():
    engine = Engine(PARTS, slots=2, max_waiting=5)
    engine.submit(EngineRequest("a", PROMPT, PLAIN, max_tokens=4, n=3))
    with pytest.raises(UsageError, match="3 branches wait already and 5 may; step the engine, or let generate"):
        engine.submit(EngineRequest("b", PROMPT, PLAIN, max_tokens=4, n=3))
    assert len(engine._waiting) == 3
    assert len(engine.submit(EngineRequest("b", PROMPT, PLAIN, max_tokens=4, n=2))) == 2
    engine.step()
    assert len(engine._waiting) == 3  # those that have a slot do not wait
    assert engine.submit(EngineRequest("c", PROMPT, PLAIN, max_tokens=4, n=2)) == ["c/0", "c/1"]
    assert len(ended(rest_of(engine))) == 7


def test_generate_takes_requests_as_it_needs_them():
    """Of any number of them: no more than slots' worth beyond those that are growing."""
    engine, slots, pulled, done = Engine(PARTS, slots=3), 3, [], 0

    def endless() -> Iterator[EngineRequest]:
        for i in itertools.count():
            pulled.append(i)
            yield EngineRequest(f"r{i}", PROMPT, PLAIN, seed=i, max_tokens=1 + i % 5)

    stream = engine.generate(endless())
    for event in stream:
        done += event.kind == "done"
        # A macro-step's events come one by one, when it is over: up to 8 ends in each slot.
        assert len(pulled) <= done + 2 * slots + 8 * slots
        if done == 50:
            break
    assert len(pulled) >= 50
    stream.close()
    assert not engine.busy
    after = len(pulled)
    engine.step()
    assert len(pulled) == after


def test_generate_takes_nothing_before_it_is_asked():
    engine, pulled = Engine(PARTS, slots=2), []

    def three() -> Iterator[EngineRequest]:
        for i in range(3):
            pulled.append(i)
            yield EngineRequest(f"r{i}", PROMPT, PLAIN, max_tokens=30)

    stream = engine.generate(three())
    assert not pulled
    next(stream)
    assert pulled == [0, 1]
    assert {event.id for event in stream if event.kind == "done"} == {"r0", "r1", "r2"}


def test_a_list_with_a_request_that_is_refused_is_refused_before_anything_grows():
    engine = Engine(PARTS, slots=2)
    requests = [EngineRequest("a", PROMPT, PLAIN, max_tokens=3), EngineRequest("b", [], PLAIN)]
    with pytest.raises(UsageError, match="empty prompt"):
        next(engine.generate(requests))
    assert not engine.busy
    with pytest.raises(UsageError, match="empty prompt"):
        list(engine.generate(iter(requests)))  # known only when it is its turn
    assert not engine.busy


# --- memory ----------------------------------------------------------------------------------------------------------


def test_a_branch_longer_than_the_capacity_is_refused():
    engine = Engine(PARTS, slots=4, capacity=30)
    assert engine.memory.capacity == 30
    with pytest.raises(UsageError, match="may become 31 tokens long, and a slot holds 30"):
        engine.submit(EngineRequest("x", PROMPT, PLAIN, max_tokens=25))
    grown = branches(engine, EngineRequest("x", PROMPT, PLAIN, max_tokens=24))["x"]
    assert len(grown.token_ids) == 24
    with pytest.raises(UsageError, match="may become 31"):
        engine.submit(EngineRequest("y", parent="x", decoding=PLAIN, max_tokens=1))
    assert engine.submit(EngineRequest("y", parent="x", parent_tokens=23, decoding=PLAIN, max_tokens=1)) == ["y"]


@pytest.mark.parametrize("capacity", [0, -3, 257])
def test_a_capacity_outside_the_context_is_refused(capacity: int):
    with pytest.raises(UsageError, match=f"capacity is {capacity}; allowed are 1 to the model's context of 256"):
        Engine(PARTS, capacity=capacity)


@pytest.mark.parametrize("options", [{"max_waiting": 0}, {"ahead": -1}])
def test_limits_that_make_no_sense_are_refused(options: dict[str, int]):
    with pytest.raises(UsageError, match="at least one branch has to be let wait, and steps ahead are 0 or more"):
        Engine(PARTS, **options)


@pytest.mark.parametrize("value", ["", "sometimes", None, True])
def test_no_other_way_of_sharing_is_known(value: object):
    with pytest.raises(UsageError, match="allowed are auto, always and never"):
        Engine(PARTS, share_prefixes=value)  # type: ignore[arg-type]


def test_the_plan_is_the_context_or_what_fits(monkeypatch: pytest.MonkeyPatch):
    cpu = torch.device("cpu")
    for free, capacity, expected in (
        (10_000_000, None, 256),
        (200_000, None, 80_000 // 800),
        (200_000, 100, 100),
        (200_000, 7, 7),
    ):
        monkeypatch.setattr("led_agent.engine.memory.free_bytes", lambda device, free=free: free)
        plan = MemoryPlan.of(8, 100, 256, capacity, cpu)
        assert (plan.rows, plan.capacity, plan.nbytes) == (8, expected, 8 * expected * 100)
        assert capacity is not None or plan.nbytes <= 0.4 * free


@pytest.mark.parametrize(
    ("free", "capacity", "says"),
    [
        (200_000, 101, r"8 slots of 101 positions .*use fewer slots, or a capacity of 100 at most$"),
        (1_800, 1, r"use fewer slots$"),
        (1_800, None, r"8 slots of 1 positions .*use fewer slots$"),
    ],
)
def test_a_plan_that_does_not_fit_is_refused(
    free: int, capacity: int | None, says: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("led_agent.engine.memory.free_bytes", lambda device: free)
    with pytest.raises(UsageError, match=says):
        MemoryPlan.of(8, 100, 256, capacity, torch.device("cpu"))


def test_an_engine_plans_with_the_bytes_of_its_own_model(monkeypatch: pytest.MonkeyPatch):
    layers, heads, dim = PARTS.kv_shape
    position = 2 * layers * heads * dim * 4
    monkeypatch.setattr("led_agent.engine.memory.free_bytes", lambda device: 8 * position * 50 * 10 // 4 + 8)
    engine = Engine(PARTS, slots=6)  # computed as 8 rows
    assert engine.memory.capacity == 50
    with pytest.raises(UsageError, match="a capacity of 50 at most"):
        Engine(PARTS, slots=6, capacity=51)
    with pytest.raises(UsageError, match="a slot holds 50"):
        engine.submit(EngineRequest("x", PROMPT, PLAIN, max_tokens=45))
    monkeypatch.undo()
    assert engine._cache.nbytes_for(128) == 2 * engine._cache.nbytes == 8 * position * 128


# --- cancels ---------------------------------------------------------------------------------------------------------


def test_a_cancel_between_macro_steps_ends_branches_where_they_are():
    engine = Engine(PARTS, slots=3)
    requests = [EngineRequest(f"r{i}", PROMPT, LED, seed=i, max_tokens=30) for i in range(5)]
    expected = {request.id: branches(Engine(PARTS, slots=1), request)[request.id] for request in requests}
    for request in requests:
        engine.submit(request)
    events = engine.step(tokens=8)
    gone = engine.cancel(["r0", "r2", "r4", "r0", "nobody"])
    assert {event.id: event.tokens for event in gone} == {"r0": 8, "r2": 8, "r4": 0}
    assert engine.cancel(["r0", "r2", "r4"]) == []
    new = engine.step(tokens=8)
    assert {event.id: event.tokens for event in new} == {"r1": 16, "r3": 8}  # into a slot that came free
    grown = ended([*events, *gone, *new, *rest_of(engine)])
    for name, branch in grown.items():
        if branch.finish == "cancelled":
            assert branch.token_ids == expected[name].token_ids[: len(branch.token_ids)]
            assert branch.logprobs == expected[name].logprobs[: len(branch.token_ids)]
        else:
            assert same(branch, expected[name])
    assert engine.cancel(grown) == []


def test_all_of_them_can_be_cancelled_and_the_engine_goes_on():
    engine = Engine(PARTS, slots=3)
    names = engine.submit(EngineRequest("x", PROMPT, PLAIN, max_tokens=30, n=7))
    engine.step(tokens=3)
    assert {event.id for event in engine.cancel(names)} == set(names)
    assert not engine.busy
    assert engine.step(tokens=8) == []
    request = EngineRequest("y", PROMPT, LED, seed=3, max_tokens=12)
    assert same(branches(engine, request)["y"], branches(Engine(PARTS, slots=1), request)["y"])


# --- forks of growing branches ---------------------------------------------------------------------------------------


def parent_grown(share: str, decoding: Decoding, tokens: int, *, prompt: list[int]) -> tuple[Engine, list[int]]:
    """An engine with a branch "p" that has so many tokens and goes on, second of three siblings, and these tokens."""
    engine = Engine(PARTS, slots=8, share_prefixes=share)  # type: ignore[arg-type]
    engine.submit(EngineRequest("p", prompt, decoding, seed=5, max_tokens=60, sibling=Sibling(group=4, index=1, of=3)))
    engine.submit(EngineRequest("other", prompt[::-1], PLAIN, seed=6, max_tokens=3))
    engine.step(tokens=tokens)
    return engine, list(engine._live[0].token_ids)


@pytest.mark.parametrize("length", [1, 6, 64, 90])
@pytest.mark.parametrize("kept", [None, 0, 1, 19])
@pytest.mark.parametrize("share", ["always", "never"])
def test_a_fork_of_a_growing_branch_takes_over_what_that_has_computed(share: str, kept: int | None, length: int):
    """At no cost, and up to rounding as if it were computed again."""
    prompt = prompt_of(length)
    engine, tokens = parent_grown(share, LED, 20, prompt=prompt)
    assert (engine._live[0].shared is not None) == (share == "always" and length > 1)
    engine.submit(EngineRequest("f", parent="p", parent_tokens=kept, decoding=GREEDY, max_tokens=12))
    grown = ended(rest_of(engine))
    stem = [*prompt, *tokens[:kept]]
    assert list(grown["f"].token_ids) == greedy(MODEL, stem, 12)
    assert grown["f"].prefill_tokens == 0
    again = EngineRequest("f", prompt, GREEDY, prefix_ids=tokens[:kept], max_tokens=12)
    known = branches(Engine(PARTS, slots=1), again)["f"]
    assert grown["f"].final_logprobs == pytest.approx(known.final_logprobs, abs=1e-4)
    assert grown["f"].entropies == pytest.approx(known.entropies, abs=1e-4)
    # And the parent does not notice.
    whole = EngineRequest("p", prompt, LED, seed=5, max_tokens=60, sibling=Sibling(group=4, index=1, of=3))
    alone = branches(Engine(PARTS, slots=1, share_prefixes=share), whole)["p"]  # type: ignore[arg-type]
    assert same(grown["p"], alone)


@pytest.mark.parametrize("share", ["always", "never"])
def test_many_forks_of_a_growing_branch_share_one_copy_or_have_their_own(share: str):
    engine, tokens = parent_grown(share, PLAIN, 20, prompt=prompt_of(70))
    engine.submit(EngineRequest("f", parent="p", decoding=PLAIN, seed=2, max_tokens=10, n=4))
    engine.step()
    shared = [growing.shared for growing in engine._live if growing.id.startswith("f/")]
    assert len(shared) == 4
    assert len({id(prefix) for prefix in shared}) == 1
    assert (shared[0] is not None) == (share == "always")
    for name, branch in ended(rest_of(engine)).items():
        if not name.startswith("f/"):
            continue
        ids = [*prompt_of(70), *tokens, *branch.token_ids]
        clean = full_logits(MODEL, ids)[-11:-1].log_softmax(-1)
        expected = clean.gather(1, torch.tensor(branch.token_ids)[:, None]).squeeze(1)
        assert branch.final_logprobs == pytest.approx(expected.tolist(), abs=1e-4)
        assert branch.prefill_tokens == 0


def test_forks_wait_for_a_slot_while_their_parent_goes_on_and_ends():
    """What was copied when they were asked for is theirs."""
    engine = Engine(PARTS, slots=1)
    engine.submit(EngineRequest("p", PROMPT, PLAIN, seed=5, max_tokens=15))
    engine.step(tokens=8)
    tokens = list(engine._live[0].token_ids)
    engine.submit(EngineRequest("f", parent="p", decoding=GREEDY, max_tokens=9))
    engine.submit(EngineRequest("x", PROMPT[::-1], PLAIN, seed=5, max_tokens=70))
    grown = ended(rest_of(engine))
    assert len(grown["p"].token_ids) == 15
    assert list(grown["f"].token_ids) == greedy(MODEL, [*PROMPT, *tokens], 9)
    assert grown["f"].prefill_tokens == 0


def test_a_fork_of_a_fork_of_a_growing_branch():
    engine, first = parent_grown("always", PLAIN, 10, prompt=prompt_of(66))
    engine.submit(EngineRequest("f", parent="p", parent_tokens=7, decoding=PLAIN, seed=8, max_tokens=50, n=2))
    engine.step(tokens=6)
    second = list(next(growing for growing in engine._live if growing.id == "f/1").token_ids)
    engine.submit(EngineRequest("g", parent="f/1", parent_tokens=4, decoding=GREEDY, max_tokens=8))
    grown = ended(rest_of(engine))
    assert list(grown["g"].token_ids) == greedy(MODEL, [*prompt_of(66), *first[:7], *second[:4]], 8)
    assert grown["g"].prefill_tokens == 0


@pytest.mark.parametrize("kept", [-1, 9, 100])
def test_no_more_of_a_parent_can_be_kept_than_it_has(kept: int):
    engine, _ = parent_grown("never", PLAIN, 8, prompt=PROMPT)
    request = EngineRequest("f", parent="p", parent_tokens=kept, decoding=PLAIN, max_tokens=3)
    with pytest.raises(UsageError, match=f"parent_tokens is {kept}; branch 'p' has 8 tokens to keep"):
        engine.submit(request)
    engine.cancel(["p"])
    with pytest.raises(UsageError, match=f"parent_tokens is {kept}; branch 'p' has 8 tokens to keep"):
        engine.submit(request)
    with pytest.raises(UsageError, match="'g' has parent_tokens, and no parent"):
        engine.submit(EngineRequest("g", PROMPT, PLAIN, parent_tokens=1))


def test_tokens_that_a_parent_began_with_are_kept_beside_its_own():
    """``parent_tokens`` counts the parent's own tokens, whether it grows or has finished."""
    engine = Engine(PARTS, slots=4)
    engine.submit(EngineRequest("p", PROMPT, PLAIN, prefix_ids=[7, 8, 9], seed=5, max_tokens=10))
    engine.step(tokens=6)
    tokens = list(engine._live[0].token_ids)
    stem = [*PROMPT, 7, 8, 9, *tokens[:2]]
    engine.submit(EngineRequest("live", parent="p", parent_tokens=2, decoding=GREEDY, max_tokens=6))
    grown = ended(rest_of(engine))
    engine.submit(EngineRequest("later", parent="p", parent_tokens=2, decoding=GREEDY, max_tokens=6))
    grown |= ended(rest_of(engine))
    assert list(grown["live"].token_ids) == list(grown["later"].token_ids) == greedy(MODEL, stem, 6)
    assert (grown["live"].prefill_tokens, grown["later"].prefill_tokens) == (0, 0)


def test_a_fork_of_a_noisy_branch_starts_from_what_the_model_itself_computes():
    """The parent's keys and values carry its noise, so they are not taken over."""
    engine, tokens = parent_grown("never", NOISE, 20, prompt=PROMPT)
    engine.submit(EngineRequest("f", parent="p", decoding=LED, seed=3, max_tokens=12))
    grown = ended(rest_of(engine))["f"]
    again = EngineRequest("f", PROMPT, LED, prefix_ids=tokens, seed=3, max_tokens=12)
    assert same(grown, branches(Engine(PARTS, slots=1), again)["f"])
    assert grown.prefill_tokens == 20


def test_a_fork_with_tokens_of_the_callers_is_computed_anew():
    engine, tokens = parent_grown("never", LED, 20, prompt=PROMPT)
    engine.submit(EngineRequest("f", parent="p", parent_tokens=11, prefix_ids=[1, 2], decoding=LED, max_tokens=12))
    grown = ended(rest_of(engine))["f"]
    again = EngineRequest("f", PROMPT, LED, prefix_ids=[*tokens[:11], 1, 2], max_tokens=12)
    assert same(grown, branches(Engine(PARTS, slots=1), again)["f"])


# --- how full it is --------------------------------------------------------------------------------------------------


def test_slots_are_busy_nine_tenths_of_the_time():
    """With branches of very different lengths, the last of which have no others to fill the slots."""
    lengths = random.Random(11)
    requests = [
        EngineRequest(f"r{i}", PROMPT, PLAIN, seed=i, max_tokens=max(1, round(33 * lengths.lognormvariate(0.0, 0.6))))
        for i in range(200)
    ]
    mean = sum(request.max_tokens for request in requests) / 200
    assert 35 < mean < 45
    engine = Engine(PARTS, slots=16)
    grown = ended(list(engine.generate(requests)))
    assert engine.busy_slot_steps == sum(len(branch.token_ids) for branch in grown.values()) == 200 * mean
    assert engine.slot_steps == 16 * engine.steps
    assert engine.busy_slot_steps / engine.slot_steps >= 0.9


def test_a_caller_who_waits_for_branches_is_told_of_each_as_it_ends():
    engine = Engine(PARTS, slots=4)
    for i in range(4):
        engine.submit(EngineRequest(f"x{i}", PROMPT, PLAIN, max_tokens=3 + i))
    counts = []
    while engine.busy:
        counts.append([event.id for event in engine.step(tokens=50, progress=False, until_done=True)])
    assert counts == [["x0"], ["x1"], ["x2"], ["x3"]]
