"""Batching, forks, ends and refusals of the engine, on random models."""

from __future__ import annotations

import itertools
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from led_agent.engine import Engine, EngineRequest
from led_agent.engine.model import ModelParts
from led_agent.errors import ModelError, UsageError
from led_agent.types import Branch, Decoding, DepthExploration
from tests.engine.reference import branches, events, greedy, make_engine
from tests.tiny import tiny_model, tiny_tokenizer

PROMPT = [3, 14, 15, 92, 65, 35]
WORDS = [3, 14, 15, 12, 65]
LED = Decoding(temperature=0.9, exploration=DepthExploration(depths=5, top_k=12), span="all")
PLAIN = Decoding.plain(1.1, top_p=0.9)
MODEL = tiny_model("llama", initializer_range=0.15)


def same(a: Branch, b: Branch) -> bool:
    """To the bit."""
    names = ("token_ids", "logprobs", "final_logprobs", "entropies", "explored", "finish")
    return all(getattr(a, name) == getattr(b, name) for name in names)


def crowd(count: int, seed: int) -> list[EngineRequest]:
    """Neighbours of all kinds and lengths."""
    pick = random.Random(seed)
    decodings = [LED, PLAIN, Decoding.greedy(), LED.model_copy(update={"temperature": 0.4})]
    return [
        EngineRequest(
            f"n{seed}-{i}",
            [pick.randrange(97) for _ in range(pick.randrange(1, 40))],
            pick.choice(decodings),
            seed=pick.randrange(2**40),
            max_tokens=pick.randrange(1, 90),
        )
        for i in range(count)
    ]


@pytest.mark.parametrize("decoding", [LED, PLAIN, Decoding.plain(1.0)], ids=lambda d: d.label)
def test_a_branch_does_not_depend_on_its_neighbours_to_the_bit(decoding: Decoding):
    request = EngineRequest("x", PROMPT, decoding, seed=77, max_tokens=70)
    alone = branches(make_engine(MODEL, slots=1), request)["x"]
    for slots, seed in ((2, 1), (7, 2), (16, 3), (33, 4)):
        engine = make_engine(MODEL, slots=slots)
        others = crowd(20, seed)
        grown = branches(engine, *others[:9], request, *others[9:])
        assert same(alone, grown["x"]), f"differs among neighbours with {slots} slots"
    again = branches(engine, request)["x"]  # with its prompt's keys and values kept from before
    assert same(alone, again)


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 9), st.integers(1, 14), st.integers(0, 10_000))
def test_every_branch_comes_back_once_whatever_the_slots(slots: int, count: int, seed: int):
    engine = make_engine(MODEL, slots=slots)
    requests = crowd(count, seed)
    done = [e for e in events(engine, *requests) if e.kind == "done"]
    assert sorted(e.id for e in done) == sorted(r.id for r in requests)
    limits = {r.id: r.max_tokens for r in requests}
    for event in done:
        assert event.branch is not None
        assert event.branch.finish == "length"
        assert event.tokens == len(event.branch.token_ids) == limits[event.id]
    assert not engine.busy


def test_free_slots_are_refilled_at_once():
    engine = make_engine(MODEL, slots=4)
    list(engine.generate([EngineRequest("x", PROMPT, PLAIN, max_tokens=10, n=40)]))
    assert engine.busy_slot_steps == engine.slot_steps == 4 * engine.steps == 400


def test_a_prompt_is_prefilled_once_for_all_its_branches():
    engine = make_engine(MODEL, slots=3)
    grown = branches(engine, EngineRequest("x", PROMPT, PLAIN, max_tokens=4, n=8))
    assert [b.prefill_tokens for b in sorted(grown.values(), key=lambda b: b.id)] == [len(PROMPT) - 1] + [0] * 7


def test_siblings_differ_by_seed_and_branch_0_has_the_requests_own():
    engine = make_engine(MODEL)
    independent = PLAIN.replace(siblings="independent")
    grown = branches(engine, EngineRequest("x", PROMPT, independent, seed=9, max_tokens=20, n=6))
    assert len({b.token_ids for b in grown.values()}) == 6
    single = branches(engine, EngineRequest("y", PROMPT, PLAIN, seed=9, max_tokens=20))["y"]
    assert single.token_ids == grown["x/0"].token_ids


@pytest.mark.parametrize("length", [1, 2, 5, 63, 64, 65, 130])
def test_prompts_of_any_length(length: int):
    prompt = [(7 * i) % 97 for i in range(length)]
    grown = branches(make_engine(MODEL, slots=2), EngineRequest("x", prompt, Decoding.greedy(), max_tokens=8))
    assert list(grown["x"].token_ids) == greedy(MODEL, prompt, 8)


def test_a_prompt_longer_than_a_prefill_chunk():
    model = tiny_model("qwen2", max_position_embeddings=2048)
    prompt = [(11 * i + i // 7) % 97 for i in range(1300)]
    grown = branches(make_engine(model, slots=2), EngineRequest("x", prompt, Decoding.greedy(), max_tokens=6))
    assert list(grown["x"].token_ids) == greedy(model, prompt, 6)


def test_a_branch_continues_from_its_parent_and_from_known_tokens():
    engine = make_engine(MODEL, slots=3)
    whole = greedy(MODEL, PROMPT, 24)
    branches(engine, EngineRequest("a", PROMPT, Decoding.greedy(), max_tokens=10))
    child = branches(engine, EngineRequest("b", parent="a", decoding=Decoding.greedy(), max_tokens=14))["b"]
    known = branches(
        make_engine(MODEL), EngineRequest("c", PROMPT, Decoding.greedy(), prefix_ids=whole[:10], max_tokens=14)
    )["c"]
    assert list(child.token_ids) == list(known.token_ids) == whole[10:]
    assert child.prefill_tokens == 0  # its parent left its keys and values behind
    assert known.prefill_tokens == len(PROMPT) - 1 + 10  # here nobody did: what is known is decoded again
    assert same(child, known)


def test_the_context_ends_a_branch_and_refuses_a_prompt():
    model = tiny_model("llama", max_position_embeddings=32)
    engine = make_engine(model, slots=2)
    grown = branches(engine, EngineRequest("x", PROMPT, PLAIN, max_tokens=1000))["x"]
    assert (grown.finish, len(grown.token_ids)) == ("length", 32 - len(PROMPT))
    with pytest.raises(UsageError, match="32 tokens, and the model's context of 32"):
        engine.submit(EngineRequest("y", list(range(32)), PLAIN))


def test_a_sliding_window_is_the_context_so_that_it_never_slides():
    model = tiny_model("mistral", sliding_window=24)
    engine = make_engine(model)
    assert engine.parts.context == 24
    grown = branches(engine, EngineRequest("x", PROMPT, Decoding.greedy(), max_tokens=100))["x"]
    assert list(grown.token_ids) == greedy(model, PROMPT, 24 - len(PROMPT))


def test_end_of_sequence_ends_a_branch():
    whole = greedy(MODEL, PROMPT, 12)
    model = tiny_model("llama", initializer_range=0.15, eos_token_id=whole[5])
    grown = branches(make_engine(model), EngineRequest("x", PROMPT, Decoding.greedy(), max_tokens=12))["x"]
    first = whole.index(whole[5])
    assert (grown.finish, list(grown.token_ids)) == ("eos", whole[: first + 1])


def test_stop_strings_are_cut_and_step_boundaries_are_kept():
    tokenizer = tiny_tokenizer()
    model = tiny_model("llama", vocab_size=len(tokenizer))
    engine = make_engine(model, tokenizer)
    assert max(WORDS) < len(tokenizer)
    free = branches(engine, EngineRequest("free", WORDS, PLAIN, seed=3, max_tokens=30))["free"]
    assert free.text == tokenizer.decode(free.token_ids, skip_special_tokens=True)
    at = next(i for i in range(10, 40) if free.text.find(free.text[i : i + 4]) == i)
    middle = free.text[at : at + 4]
    stopped = branches(engine, EngineRequest("s", WORDS, PLAIN, seed=3, max_tokens=30, stop=[middle]))["s"]
    stepped = branches(engine, EngineRequest("t", WORDS, PLAIN, seed=3, max_tokens=30, step=[middle]))["t"]
    assert (stopped.finish, stopped.text) == ("stop", free.text[:at])
    assert stepped.finish == "step"
    assert middle in stepped.text
    assert free.text.startswith(stepped.text)
    assert stepped.token_ids == stopped.token_ids == free.token_ids[: len(stepped.token_ids)]


def test_cancelling_ends_a_branch_and_leaves_the_others_as_they_would_be():
    engine = make_engine(MODEL, slots=3)
    # Longer than the cache's first 64 positions, so that the rows that move are in one that has grown.
    requests = [EngineRequest(f"r{i}", PROMPT, LED, seed=i, max_tokens=80) for i in range(6)]
    expected = branches(make_engine(MODEL), *requests)
    for request in requests:
        engine.submit(request)
    done = {}
    for turn in itertools.count():
        if not engine.busy:
            break
        arrived = engine.step()
        if turn == 10:
            arrived += engine.cancel(["r0", "r1", "r5", "unknown"])  # two growing, one waiting
        done |= {e.id: e.branch for e in arrived if e.branch is not None}
    assert done["r1"].finish == done["r5"].finish == "cancelled"
    assert done["r1"].token_ids == expected["r1"].token_ids[:11]
    assert done["r5"].token_ids == ()
    for name in ("r2", "r3", "r4"):
        assert same(done[name], expected[name])


def test_a_caller_that_stops_listening_leaves_nothing_behind():
    engine = make_engine(MODEL, slots=2)
    stream = engine.generate([EngineRequest("x", PROMPT, PLAIN, max_tokens=50, n=5)])
    next(stream)
    assert engine.busy
    stream.close()
    assert not engine.busy


def test_logits_that_are_not_finite_end_their_branch_only():
    engine = make_engine(MODEL, slots=4)
    embeddings = engine.parts.model.model.embed_tokens.weight
    with torch.no_grad():
        embeddings[50] = float("nan")  # a poisoned token, tied to nothing else
    requests = [EngineRequest("bad", [3, 50], LED, max_tokens=9), EngineRequest("good", PROMPT, LED, max_tokens=9)]
    grown = branches(engine, *requests)
    assert grown["bad"].finish == "error"
    assert "position 2 are not finite" in (grown["bad"].error or "")
    healthy = branches(make_engine(MODEL), requests[1])["good"]
    assert 50 in healthy.token_ids or same(grown["good"], healthy)
    after = branches(engine, EngineRequest("next", PROMPT, LED, max_tokens=9))["next"]  # in the slot of the bad one
    assert same(after, grown["good"].model_copy(update={"id": "next"}))


def test_padding_columns_of_the_vocabulary_are_never_sampled():
    tokenizer = tiny_tokenizer()
    real = len(tokenizer)
    model = tiny_model("llama", vocab_size=real + 40, initializer_range=0.05)
    engine = make_engine(model, tokenizer, slots=16)
    assert engine.parts.vocab == real
    hot = Decoding(temperature=5.0, exploration=DepthExploration(depths=6, top_k=real, norm="none"), span="all")
    for decoding in (hot, Decoding.plain(5.0), Decoding.plain(5.0, top_k=real)):
        grown = branches(engine, EngineRequest("x", [3], decoding, max_tokens=40, n=16))
        assert max(max(b.token_ids) for b in grown.values()) < real
    with pytest.raises(UsageError, match="top_k"):
        engine.submit(EngineRequest("y", [3], Decoding.plain(1.0, top_k=real + 1)))


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        (EngineRequest("x", []), "empty prompt"),
        (EngineRequest("x", [97]), "token 97 is outside"),
        (EngineRequest("x", [-1]), "token -1 is outside"),
        (EngineRequest("x"), "either prompt_ids or a parent"),
        (EngineRequest("x", [1], parent="a"), "either prompt_ids or a parent"),
        (EngineRequest("x", parent="nobody"), "no branch 'nobody'"),
        (EngineRequest("x", [1], LED, max_tokens=0), "max_tokens is 0"),
        (EngineRequest("x", [1], LED, n=0), "n is 0"),
        (EngineRequest("x", [1], LED, seed=-1), "seed is -1"),
        (EngineRequest("x", [1], LED, stop=["."]), "no tokenizer"),
        (EngineRequest("x", [1], Decoding.led("paper")), "6 blocks"),
        (EngineRequest("x", [1], Decoding.led(depths=6, top_k=98)), "97 tokens"),
    ],
)
def test_requests_that_are_refused(request_: EngineRequest, says: str):
    engine = make_engine(MODEL)
    with pytest.raises(UsageError, match=says):
        engine.submit(request_)
    assert not engine.busy


def test_an_id_in_use_is_refused():
    engine = make_engine(MODEL)
    engine.submit(EngineRequest("x", PROMPT, LED, n=2))
    with pytest.raises(UsageError, match="'x/1' is already"):
        engine.submit(EngineRequest("x/1", PROMPT, LED))


def test_memory_that_is_not_there_costs_the_branch_not_the_engine(monkeypatch: pytest.MonkeyPatch):
    engine = make_engine(MODEL, slots=4)
    monkeypatch.setattr("led_agent.engine.engine.free_bytes", lambda device: 100_000)
    grown = branches(
        engine,
        EngineRequest("big", PROMPT, PLAIN, max_tokens=200),
        EngineRequest("small", PROMPT, PLAIN, max_tokens=20),
    )
    assert grown["big"].finish == "error"
    assert "use fewer slots" in (grown["big"].error or "")
    assert grown["small"].finish == "length"


def test_mixed_decodings_in_one_batch_are_each_what_they_are_alone():
    decodings = [LED, PLAIN, Decoding.greedy(), Decoding.led(depths=3, top_k=4, norm="none", layers="official")]
    requests = [EngineRequest(f"m{i}", PROMPT, d, seed=i, max_tokens=25) for i, d in enumerate(decodings)]
    together = branches(make_engine(MODEL, slots=4), *requests)
    for request in requests:
        assert same(together[request.id], branches(make_engine(MODEL, slots=1), request)[request.id])


def test_exploration_off_equals_no_exploration():
    for span, exploration in (("none", LED.exploration), ("all", DepthExploration(depths=1, top_k=97))):
        off = Decoding(temperature=0.9, exploration=exploration, span=span)
        grown = branches(make_engine(MODEL), EngineRequest("x", PROMPT, off, seed=4, max_tokens=30))["x"]
        assert not any(grown.explored)
    plain = branches(make_engine(MODEL), EngineRequest("x", PROMPT, Decoding.plain(0.9), seed=4, max_tokens=30))["x"]
    none = Decoding(temperature=0.9, exploration=LED.exploration, span="none")
    assert same(plain, branches(make_engine(MODEL), EngineRequest("x", PROMPT, none, seed=4, max_tokens=30))["x"])


def test_slots_must_be_positive():
    with pytest.raises(UsageError, match="slots is 0"):
        make_engine(MODEL, slots=0)


def test_loading_what_is_not_there():
    with pytest.raises(ModelError, match="no alias"):
        Engine.load("surely-not-a-model")


@pytest.mark.parametrize("stop", [(), ("w7",)])
def test_steps_that_tell_nothing_give_the_same_branches(stop: tuple[str, ...]):
    """Text that is put off comes out as it would have, token by token."""
    tokenizer = tiny_tokenizer()
    parts = ModelParts.of(tiny_model("llama", vocab_size=len(tokenizer)), tokenizer)
    results = []
    for told in (True, False):
        engine = Engine(parts, slots=4)
        engine.submit(EngineRequest("x", [4, 9], Decoding.plain(1.0), seed=2, max_tokens=40, n=6, stop=stop))
        events = []
        while engine.busy:
            events += engine.step(progress=told)
        assert any(event.kind == "progress" for event in events) == told
        results.append({e.id: e.branch.model_copy(update={"seconds": 0.0}) for e in events if e.branch is not None})
    assert results[0] == results[1]
    assert len(results[0]) == 6
