"""Siblings that attend to one copy of their prompt: exact, the same to the bit whoever else is there, and worth it."""

from __future__ import annotations

import copy
import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from led_agent.engine import Engine, EngineRequest
from led_agent.engine.attention import Shared, attend_slots, decode_mask
from led_agent.engine.growing import derived
from led_agent.engine.model import ModelParts
from led_agent.types import Branch, Decoding, DepthExploration, Sibling
from tests.engine.reference import full_logits, greedy, sequence_laws
from tests.tiny import FAMILIES, tiny_model

LENGTHS = (2, 5, 63, 64, 65, 130)
EXPLORATION = DepthExploration(depths=5, top_k=12, exploit=False)
LED = Decoding(temperature=0.9, exploration=EXPLORATION, span="all")
PLAIN = Decoding.plain(1.0, top_p=0.95)
PARTS = ModelParts.of(tiny_model("llama", initializer_range=0.15))


def prompt_of(length: int, start: int = 0) -> list[int]:
    return [(7 * i + i // 5 + start) % 97 for i in range(length)]


def engine_of(parts: ModelParts = PARTS, *, slots: int = 8, share: Any = "always") -> Engine:
    return Engine(parts, slots=slots, share_prefixes=share)


def grown_by(engine: Engine, requests: Sequence[EngineRequest]) -> dict[str, Branch]:
    return {e.id: e.branch for e in engine.generate(requests) if e.branch is not None}


def same(a: Branch, b: Branch) -> bool:
    """To the bit."""
    names = ("token_ids", "logprobs", "final_logprobs", "entropies", "explored", "finish")
    return all(getattr(a, name) == getattr(b, name) for name in names)


def one_by_one(request: EngineRequest) -> list[EngineRequest]:
    """A request's siblings, each asked for by itself."""
    return [
        EngineRequest(
            f"{request.id}/{i}",
            request.prompt_ids,
            request.decoding,
            seed=derived(request.seed, i),
            max_tokens=request.max_tokens,
            sibling=Sibling(group=request.seed, index=i, of=request.n),
        )
        for i in range(request.n)
    ]


def shared_rows(engine: Engine) -> list[bool]:
    return [growing.shared is not None for growing in engine._live]


# --- exact -----------------------------------------------------------------------------------------------------------


@functools.cache
def family_of(family: str) -> tuple[Any, ModelParts]:
    """Neither so flat that nothing shows nor so sharp that float32 itself is no better than 1e-5."""
    model = tiny_model(family, initializer_range=0.2)
    return model, ModelParts.of(copy.deepcopy(model))


def listening(parts: ModelParts) -> tuple[ModelParts, list[Tensor]]:
    """The same parts, and the logits of each step to come."""
    seen: list[Tensor] = []
    heard = copy.copy(parts)
    heard.head = lambda states: seen.append(parts.head(states)) or seen[-1]  # type: ignore[method-assign]
    return heard, seen


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_siblings_are_those_of_a_plain_forward(family: str, length: int):
    model, parts = family_of(family)
    prompt, n = prompt_of(length), 2 + LENGTHS.index(length) * 7 // 5
    assert 2 <= n <= 9
    expected = greedy(model, prompt, 5)
    logits = full_logits(model, [*prompt, *expected])[length - 1 : -1]
    clean = logits.log_softmax(-1).gather(1, torch.tensor(expected)[:, None]).squeeze(1)
    bound = 1e-5 * max(1.0, float(logits.abs().max()))
    for share in ("always", "never"):
        heard, seen = listening(parts)
        engine = engine_of(heard, share=share)
        engine.submit(EngineRequest("x", prompt, Decoding.greedy(), max_tokens=5, n=n))
        events = engine.step()
        assert shared_rows(engine) == [share == "always"] * min(n, 8)
        while engine.busy:
            events += engine.step()
        grown = [event.branch for event in events if event.branch is not None]
        assert len(grown) == n
        for branch in grown:
            assert list(branch.token_ids) == expected
            assert float((torch.tensor(branch.final_logprobs) - clean).abs().max()) <= 2 * bound
        ours = torch.stack(seen[:5])[:, : min(n, 8)]
        assert float((ours - logits[:, None]).abs().max()) <= bound


@pytest.mark.parametrize("family", ["llama", "qwen3"])
@pytest.mark.parametrize("length", [2, 64, 65, 130])
def test_led_draws_siblings_from_its_law(family: str, length: int):
    """Each token's log-probability against the law of the hidden states behind its branch's own tokens."""
    model = tiny_model(family, initializer_range=0.15)
    double, prompt = copy.deepcopy(model).double(), prompt_of(length)
    engine = engine_of(ModelParts.of(model))
    for branch in grown_by(engine, [EngineRequest("x", prompt, LED, seed=length, max_tokens=4, n=4)]).values():
        law, clean = sequence_laws(double, [*prompt, *branch.token_ids], 4, EXPLORATION, 0.9)
        tokens = torch.tensor(branch.token_ids)[:, None]
        for drawn_from, told in ((law, branch.logprobs), (clean, branch.final_logprobs)):
            expected = drawn_from.gather(1, tokens).squeeze(1)
            torch.testing.assert_close(torch.tensor(told).double().exp(), expected, atol=1e-4, rtol=0)


# --- to the bit ------------------------------------------------------------------------------------------------------

DECODINGS = {"plain": PLAIN, "led": LED, "noise": Decoding.noise(0.3, temperature=1.0, span="all")}
every_decoding = pytest.mark.parametrize("decoding", DECODINGS.values(), ids=DECODINGS.keys())


@every_decoding
@pytest.mark.parametrize("length", [2, 65, 130])
def test_a_sibling_does_not_depend_on_who_is_there(decoding: Decoding, length: int):
    """Its siblings or some of them, strangers that share and that don't, few slots or many."""
    request = EngineRequest("x", prompt_of(length), decoding, seed=321, max_tokens=18, n=5)
    singles = one_by_one(request)
    alone = {single.id: grown_by(engine_of(slots=1), [single])[single.id] for single in singles}
    strangers = [
        EngineRequest("a", prompt_of(7, 1), PLAIN, seed=1, max_tokens=7),
        EngineRequest("b", prompt_of(80, 2), LED, seed=2, max_tokens=23, n=3),
        EngineRequest("c", prompt_of(3, 3), Decoding.greedy(), seed=3, max_tokens=11, n=2),
    ]
    crowds: list[tuple[int, list[EngineRequest]]] = [
        (2, [request]),
        (8, [request]),
        (8, singles[1::2]),
        (3, [*strangers[:1], *singles[::-1]]),
        (8, [*strangers, request]),
        (16, [*strangers[::-1], *singles]),
        (13, [singles[0], strangers[1], *singles[1:3], *strangers[::2], *singles[3:]]),
    ]
    for slots, crowd in crowds:
        grown = grown_by(engine_of(slots=slots), crowd)
        for name in alone.keys() & grown.keys():
            assert same(alone[name], grown[name]), f"{name} of {[r.id for r in crowd]} with {slots} slots"


def test_groups_of_different_prompts_share_each_their_own():
    """At once, with branches that share nothing among them, and of lengths that make rows move."""
    requests = [EngineRequest(f"g{n}", prompt_of(20 * n, n), PLAIN, seed=n, max_tokens=9 + n, n=n) for n in range(2, 6)]
    requests += [EngineRequest(f"u{i}", prompt_of(9 + i, i), LED, seed=i, max_tokens=3 + 5 * i) for i in range(4)]
    singles = [s for r in requests for s in (one_by_one(r) if r.n > 1 else [r])]
    expected = {s.id: grown_by(engine_of(slots=1), [s])[s.id] for s in singles}
    mixed = singles[::3] + singles[1::3] + singles[2::3]
    engine = engine_of(slots=18)
    for single in mixed:
        engine.submit(single)
    events = engine.step()
    assert sum(shared_rows(engine)) == 2 + 3 + 4 + 5
    assert len({id(growing.shared) for growing in engine._live if growing.shared is not None}) == 4
    while engine.busy:
        events += engine.step(tokens=8)
    together = {event.id: event.branch for event in events if event.branch is not None}
    for grown in (together, grown_by(engine_of(slots=7), mixed), grown_by(engine_of(slots=3), requests)):
        assert grown.keys() == expected.keys()
        assert all(same(grown[name], expected[name]) for name in expected)


@pytest.mark.parametrize("gone", [[0], [4], [1, 3], [0, 1, 2, 3]])
def test_siblings_that_are_cancelled_leave_the_others_as_they_would_be(gone: list[int]):
    request = EngineRequest("x", prompt_of(70), LED, seed=9, max_tokens=20, n=5)
    expected = grown_by(engine_of(), [request])
    engine = engine_of()
    engine.submit(request)
    events = engine.step(tokens=6)
    events += engine.cancel([f"x/{i}" for i in gone])
    while engine.busy:
        events += engine.step()
    for name, branch in {e.id: e.branch for e in events if e.branch is not None}.items():
        if int(name[-1]) in gone:
            assert branch.token_ids == expected[name].token_ids[: len(branch.token_ids)]
            assert branch.finish == "cancelled"
        else:
            assert same(branch, expected[name])


@pytest.mark.parametrize("slots", [1, 2, 3])
def test_a_slot_is_refilled_by_branches_that_share_and_that_do_not(slots: int):
    """A row begins elsewhere in its sequence each time, and what stood in it before must not be seen."""
    sharing = EngineRequest("x", prompt_of(90), PLAIN, seed=1, max_tokens=40, n=2)
    longer = EngineRequest("l", prompt_of(100, 3), PLAIN, seed=2, max_tokens=30)
    single = EngineRequest("s", [5], PLAIN, seed=3, max_tokens=12)  # with a prompt of which nothing is computed before
    orders = [
        [longer, *one_by_one(sharing), single],
        [*one_by_one(sharing), single, longer],
        [single, one_by_one(sharing)[0], longer, one_by_one(sharing)[1]],
    ]
    expected = {r.id: grown_by(engine_of(slots=1), [r])[r.id] for r in orders[0]}
    for order in orders:
        grown = grown_by(engine_of(slots=slots), order)
        assert all(same(grown[name], expected[name]) for name in expected)


def test_a_prefix_that_is_forgotten_stays_where_rows_share_it(monkeypatch: pytest.MonkeyPatch):
    """Siblings that come later compute it anew, and are what they would have been."""
    monkeypatch.setattr("led_agent.engine.prefixes._KEEP_BYTES", 0)
    request = EngineRequest("x", prompt_of(70), PLAIN, seed=4, max_tokens=12, n=6)
    expected = grown_by(engine_of(share="always"), [request])
    engine = engine_of(slots=5)
    events = []
    for single in one_by_one(request):
        engine.submit(single)
        events += engine.step(tokens=2)
        assert len(engine._prefixes) == 0
    while engine.busy:
        events += engine.step()
    grown = {event.id: event.branch for event in events if event.branch is not None}
    assert all(same(grown[name], expected[name]) for name in expected)


# --- the attention itself --------------------------------------------------------------------------------------------


def plainly(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """float64 [heads, head_dim]: a softmax over all positions. Queries [heads, head_dim], keys and values [kv_heads, m,
    head_dim]."""
    group = len(query) // len(keys)
    keys, values = (x.double().repeat_interleave(group, 0) for x in (keys, values))
    weights = torch.einsum("hd,hmd->hm", query.double(), keys).softmax(-1)
    return torch.einsum("hm,hmd->hd", weights, values)


@settings(max_examples=120, deadline=None, derandomize=True)
@given(
    rows=st.integers(1, 9),
    kv_heads=st.integers(1, 3),
    group=st.integers(1, 3),
    dim=st.sampled_from([2, 8, 16]),
    reach=st.integers(1, 70),
    length=st.integers(1, 140),
    strength=st.sampled_from([1e-3, 1.0, 8.0, 60.0]),
    lift=st.sampled_from([-300.0, -30.0, 0.0, 30.0, 300.0]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    seed=st.integers(0, 10_000),
    everyone=st.booleans(),
)
def test_attention_to_a_shared_prefix_is_that_over_both(
    rows: int,
    kv_heads: int,
    group: int,
    dim: int,
    reach: int,
    length: int,
    strength: float,
    lift: float,
    dtype: torch.dtype,
    seed: int,
    everyone: bool,
):
    """Against a softmax over the positions side by side; ``lift`` makes the prefix's scores much larger or smaller than
    the row's own, so that one of them has all the weight."""
    make = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=make)

    query = random(rows, kv_heads * group, dim).to(dtype)
    query[..., 0] = 1.0  # what keys have here is added to every score
    own_keys, own_values = (random(rows, kv_heads, reach, dim).mul(strength).to(dtype) for _ in range(2))
    prefix_keys, prefix_values = (random(kv_heads, length + 1, dim).mul(strength).to(dtype) for _ in range(2))
    prefix_keys[..., 0] += lift
    prefix_keys[:, -1] = prefix_values[:, -1] = 0.0
    places = torch.randint(0, reach, (rows,), generator=make)
    sharing = list(range(rows)) if everyone else [row for row in range(rows) if (seed >> row) % 2]
    mask = decode_mask(places, reach, dtype)
    shared = [Shared(prefix_keys, prefix_values, None if everyone else torch.tensor(sharing))] if sharing else []
    out = attend_slots(query, own_keys.transpose(-1, -2).contiguous(), own_values, mask, shared)
    out = out.view(rows, kv_heads * group, dim)
    for row in range(rows):
        stop = int(places[row]) + 1
        keys, values = own_keys[row, :, :stop], own_values[row, :, :stop]
        if row in sharing:
            keys = torch.cat([prefix_keys[:, :-1], keys], 1)
            values = torch.cat([prefix_values[:, :-1], values], 1)
        expected = plainly(query[row], keys, values)
        # A score's rounding is relative to its terms, and moves the weights by as much.
        terms = float((query[row].abs().max() * keys.abs().max() * dim).double())
        unit = torch.finfo(dtype).eps
        bound = 4 * unit * (1 + terms) * max(1.0, float(values.abs().max()))
        assert float((out[row].double() - expected).abs().max()) <= bound


@pytest.mark.parametrize("length", [63, 600, 2049])
@pytest.mark.parametrize(("kv_heads", "group", "dim"), [(3, 3, 64), (2, 7, 64), (4, 1, 128)])
def test_attention_to_a_shared_prefix_is_to_the_bit_the_same_for_any_number_of_rows(
    kv_heads: int, group: int, dim: int, length: int
):
    """In the shapes of real models: products of other shapes may add up in another order."""
    make = torch.Generator().manual_seed(length)
    query, keys, values, prefix_keys, prefix_values = (
        torch.randn(*shape, generator=make)
        for shape in (
            (32, kv_heads * group, dim),
            (32, kv_heads, dim, 64),
            (32, kv_heads, 64, dim),
            (kv_heads, length + 1, dim),
            (kv_heads, length + 1, dim),
        )
    )
    prefix_keys *= 0.2
    prefix_keys[:, -1] = prefix_values[:, -1] = 0.0
    mask = decode_mask(torch.arange(32) + 20, 64, torch.float32)

    def first(rows: int, sharing: Tensor | None) -> Tensor:
        shared = [Shared(prefix_keys, prefix_values, sharing)]
        return attend_slots(query[:rows], keys[:rows], values[:rows], mask[:rows], shared)[0]

    alone = first(4, None)
    for rows in range(4, 33, 4):
        assert torch.equal(first(rows, None), alone)
        assert torch.equal(first(rows, torch.tensor([0, 0, 0, 0])), alone)
        assert torch.equal(first(rows, torch.arange(rows).flip(0)), alone)


def test_one_position_of_its_own_and_one_shared():
    """By hand: scores 0 and ln 3, so weights 1/4 and 3/4."""
    query = torch.tensor([[[1.0, 0.0]]])
    prefix = Shared(torch.tensor([[[0.0, 9.0], [0.0, 0.0]]]), torch.tensor([[[4.0, 8.0], [0.0, 0.0]]]), None)
    keys, values = torch.tensor([[[[3.0], [9.0]]]]).log(), torch.tensor([[[[0.0, 4.0]]]])
    out = attend_slots(query, keys, values, torch.zeros(1, 1, 1, 1), [prefix])
    torch.testing.assert_close(out, torch.tensor([[1.0, 5.0]]))


# --- whether it is done ----------------------------------------------------------------------------------------------


def long_engine(share: str) -> Engine:
    return Engine(LONG, slots=4, share_prefixes=share)  # type: ignore[arg-type]


LONG = ModelParts.of(tiny_model("llama", num_hidden_layers=2, max_position_embeddings=4096))


@pytest.mark.parametrize(
    ("length", "of", "shares"), [(1024, 2, False), (1025, 2, True), (512, 4, False), (513, 4, True), (2100, 1, False)]
)
def test_long_prompts_with_many_siblings_are_shared_and_a_request_alone_decides(length: int, of: int, shares: bool):
    """The prompt's last token is computed by each of them, so it does not count."""
    request = EngineRequest("x", prompt_of(length), PLAIN, max_tokens=3, n=of)
    asks: list[Callable[[Engine], Any]] = [lambda e: e.submit(request)]
    if of > 1:  # one alone, however many of the others ever come
        asks.append(lambda e: e.submit(one_by_one(request)[1]))
    for ask in asks:
        engine = long_engine("auto")
        ask(engine)
        while not engine._live:
            engine.step()
        assert shared_rows(engine) == [shares] * len(engine._live)


@pytest.mark.parametrize(("share", "shares"), [("always", True), ("never", False)])
def test_sharing_can_be_had_always_and_never(share: str, shares: bool):
    for length, of in itertools.product((2, 1500), (2, 3)):
        engine = long_engine(share)
        engine.submit(EngineRequest("x", prompt_of(length), PLAIN, max_tokens=9, n=of))
        while not engine._live:
            engine.step()
        assert shared_rows(engine) == [shares] * of


@pytest.mark.parametrize(("length", "of"), [(1, 2), (70, 1)])
def test_nothing_is_shared_where_there_is_nothing_or_nobody_to_share_with(length: int, of: int):
    engine = engine_of()
    sibling = Sibling(group=3, index=0, of=of)
    engine.submit(EngineRequest("x", prompt_of(length), PLAIN, max_tokens=9, sibling=sibling))
    engine.step()
    assert shared_rows(engine) == [False]


def test_rows_that_share_a_prompt_have_room_for_their_own_tokens_only():
    prompt = prompt_of(3000)
    sizes = {}
    for share in ("always", "never"):
        engine = long_engine(share)
        grown = grown_by(engine, [EngineRequest("x", prompt, PLAIN, seed=2, max_tokens=40, n=4)])
        sizes[share] = engine._cache.capacity
        assert sorted(b.prefill_tokens for b in grown.values()) == [0, 0, 0, 2999]
    assert sizes["always"] == 64
    assert sizes["never"] >= 3040
