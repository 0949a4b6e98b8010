"""Under pressure: a full queue, a spoilt slot, memory that is short, many kept prompts."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from led_agent.engine import Engine, EngineRequest
from led_agent.engine.model import ModelParts
from led_agent.types import Decoding
from tests.engine.reference import branches, make_engine
from tests.tiny import tiny_model

MODEL = tiny_model("llama", initializer_range=0.15)
PARTS = ModelParts.of(copy.deepcopy(MODEL))
PLAIN = Decoding.plain(1.0)
PROMPT = [3, 14, 15, 92, 65, 35]


def test_generate_grows_its_branches_while_others_wait():
    """Of requests that were submitted besides, as many as there are slots or more."""
    engine = Engine(PARTS, slots=2)
    others = engine.submit(EngineRequest("w", PROMPT, PLAIN, max_tokens=4, n=5))
    mine = [EngineRequest(f"x{i}", PROMPT, PLAIN, max_tokens=4) for i in range(3)]
    ended = [event.id for event in engine.generate(mine) if event.kind == "done"]
    assert set(ended) >= {"x0", "x1", "x2"}
    assert set(ended) <= {"x0", "x1", "x2", *others}


def test_generate_takes_no_more_than_may_wait():
    engine = Engine(PARTS, slots=4, max_waiting=2)
    requests = (EngineRequest(f"x{i}", PROMPT, PLAIN, max_tokens=4) for i in range(9))
    assert sum(event.kind == "done" for event in engine.generate(requests)) == 9


@pytest.mark.parametrize("order", [("good", "bad"), ("bad", "good")])
def test_what_is_not_finite_does_not_come_back_by_a_slot(order: tuple[str, str]):
    """Rows that nobody has are computed to fill up a batch, and must not spoil whom they are given to next."""
    engine = make_engine(MODEL, slots=2)
    with torch.no_grad():
        engine.parts.model.model.embed_tokens.weight[0] = float("nan")
    requests = {
        "good": EngineRequest("good", [3, 14], PLAIN, seed=1, max_tokens=9),
        "bad": EngineRequest("bad", [3, 0], Decoding.greedy(), max_tokens=9),
    }
    # Its prompt's keys and values cover less of the slot than the bad one had.
    after = EngineRequest("next", [3], PLAIN, seed=2, max_tokens=9)
    expected = branches(Engine(engine.parts, slots=1), after)["next"]
    assert expected.finish == "length"
    grown = branches(engine, *(requests[name] for name in order), after)
    assert {name: branch.finish for name, branch in grown.items()} == {
        "good": "length",
        "bad": "error",
        "next": "length",
    }
    assert (grown["next"].token_ids, grown["next"].logprobs) == (expected.token_ids, expected.logprobs)


def test_a_cache_that_grows_to_what_was_planned_is_let_grow(monkeypatch: pytest.MonkeyPatch):
    """Memory is what it was when the engine was made, less what the slots have taken since."""
    layers, heads, dim = PARTS.kv_shape
    position = 2 * layers * heads * dim * 4
    whole = 8 * position * 256 * 10 // 4 + 8
    taken: dict[str, Any] = {}

    def free(device: torch.device) -> int:
        return whole - (taken["engine"]._cache.nbytes if taken else 0)

    monkeypatch.setattr("led_agent.engine.memory.free_bytes", free)
    monkeypatch.setattr("led_agent.engine.engine.free_bytes", free)
    engine = taken["engine"] = Engine(PARTS, slots=8)
    assert engine.memory.capacity == 256
    for length in (60, 120, 200, 250):
        grown = branches(engine, EngineRequest(f"x{length}", PROMPT, PLAIN, max_tokens=length))
        assert grown[f"x{length}"].error is None


def test_a_branch_that_fits_is_let_in_where_twice_the_cache_does_not(monkeypatch: pytest.MonkeyPatch):
    engine = Engine(PARTS, slots=8)
    enough = engine._cache.nbytes_for(192) * 10 // 9 + 10
    branches(engine, EngineRequest("a", PROMPT, PLAIN, max_tokens=100))
    assert engine._cache.capacity == 128
    monkeypatch.setattr("led_agent.engine.engine.free_bytes", lambda device: enough)
    grown = branches(engine, EngineRequest("b", PROMPT, PLAIN, max_tokens=150))["b"]
    assert grown.error is None


def test_a_step_costs_the_same_however_many_prompts_are_kept(monkeypatch: pytest.MonkeyPatch):
    """Their bytes are known, not counted anew at every step."""
    counted = 0
    from led_agent.engine.cache import PrefixCache

    def nbytes(cache: PrefixCache) -> int:
        nonlocal counted
        counted += 1
        return cache.kv.nbytes

    engine = Engine(PARTS, slots=4)
    branches(engine, *(EngineRequest(f"x{i}", [3, i, 5], PLAIN, max_tokens=1) for i in range(90)))
    monkeypatch.setattr(PrefixCache, "nbytes", property(nbytes))
    branches(engine, EngineRequest("y", [3, 4], PLAIN, max_tokens=20))
    assert counted < 90
