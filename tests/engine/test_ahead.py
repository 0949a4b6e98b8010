"""Steps that never look at their outcome, taken ahead of the host, give the branches that steps one by one give."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from led_agent.decoding.sampling import lay, lay_everywhere
from led_agent.engine import Engine, EngineRequest
from led_agent.engine.ahead import reach_for
from led_agent.engine.cache import SlotCache
from led_agent.engine.model import ModelParts
from led_agent.engine.state import RowState
from led_agent.engine.static import StaticPlan, _compacted, static_step
from led_agent.types import Branch, Decoding, DepthExploration, LatentNoise, QualityGuard
from tests.engine.reference import branches
from tests.tiny import tiny_model, tiny_tokenizer

TOKENIZER = tiny_tokenizer(think="pieces")
MODEL = tiny_model("llama", vocab_size=len(TOKENIZER), initializer_range=0.15)
PROMPT = [3, 14, 15, 92 % 80, 65, 35]
DEPTHS = {"depths": 4, "top_k": 8}
DECODINGS = {
    "loose": Decoding.plain(0.9).replace(siblings="independent"),
    "laid": Decoding.plain(0.9),
    "greedy": Decoding.greedy(),
    "top-k": Decoding.plain(1.1, top_k=7),
    "top-p": Decoding.plain(1.3, top_p=0.8),
    "min-p": Decoding.plain(1.2, min_p=0.05),
    "led": Decoding(temperature=0.9, exploration=DepthExploration(**DEPTHS), span="all"),
    "gate first": Decoding(temperature=0.9, exploration=DepthExploration(**DEPTHS, gate_first=True), span="all"),
    "always": Decoding(temperature=0.9, exploration=DepthExploration(**DEPTHS, exploit=False, norm="none"), span="all"),
    "thinking": Decoding(temperature=1.5, exploration=DepthExploration(**DEPTHS), span="think"),
    "one depth": Decoding(temperature=0.9, exploration=DepthExploration(depths=1, top_k=8), span="all"),
}


def engine_of(ahead: int, *, slots: int = 4, model: Any = MODEL) -> Engine:
    parts = ModelParts.of(copy.deepcopy(model), TOKENIZER)
    parts.eos = frozenset()  # nothing but its length ends a branch
    return Engine(parts, slots=slots, ahead=ahead)


def close(a: Branch, b: Branch) -> bool:
    figures = ("logprobs", "final_logprobs", "entropies")
    return (a.token_ids, a.finish, a.explored) == (b.token_ids, b.finish, b.explored) and all(
        torch.allclose(torch.tensor(getattr(a, f)), torch.tensor(getattr(b, f)), atol=1e-5) for f in figures
    )


@pytest.mark.parametrize("name", DECODINGS)
def test_branches_are_those_of_steps_one_by_one(name: str):
    request = EngineRequest("x", PROMPT, DECODINGS[name], seed=7, max_tokens=37, n=9)
    plain, ahead = branches(engine_of(0), request), branches(engine_of(5), request)
    assert plain.keys() == ahead.keys()
    for branch in plain:
        assert close(plain[branch], ahead[branch]), branch


def test_mixed_batches_and_those_that_are_stepped_one_by_one_between_them():
    guarded = Decoding.plain(0.9).replace(guard=QualityGuard())
    noisy = Decoding.plain(0.9).replace(latent_noise=LatentNoise(sigma=0.1), span="all")
    every = [*DECODINGS.values(), guarded, noisy] * 2
    requests = [EngineRequest(f"r{i}", PROMPT[: 1 + i % 6], d, i, 5 + 3 * i % 41) for i, d in enumerate(every)]
    plain, ahead = branches(engine_of(0), *requests), branches(engine_of(3), *requests)
    for request in requests:
        assert close(plain[request.id], ahead[request.id]), request


def test_rows_that_find_no_room_to_explore_wait_and_lose_nothing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("led_agent.engine.static._capacity", lambda exploration, rows: 1)
    engine = engine_of(4)
    request = EngineRequest("x", PROMPT, DECODINGS["always"], seed=7, max_tokens=20, n=4)
    ahead = branches(engine, request)
    plain = branches(engine_of(0), request)
    for branch in plain:
        assert close(plain[branch], ahead[branch])
    assert engine.steps >= 4 * 20  # one row a step


def test_cancelling_and_forking_while_steps_are_under_way():
    engine = engine_of(4)
    requests = [EngineRequest(f"r{i}", PROMPT, DECODINGS["led"], i, 90) for i in range(6)]
    alone = branches(engine_of(0), *requests)
    for request in requests:
        engine.submit(request)
    while not any(growing.token_ids for growing in engine._live):
        engine.step()
    got = next(len(growing.token_ids) for growing in engine._live if growing.id == "r1")
    engine.submit(EngineRequest("fork", parent="r1", parent_tokens=got, decoding=Decoding.greedy(), max_tokens=9))
    done = {e.id: e.branch for e in engine.cancel(["r0", "r5"]) if e.branch is not None}
    while engine.busy:
        done |= {e.id: e.branch for e in engine.step(tokens=8) if e.branch is not None}
    for name in ("r1", "r2", "r3", "r4"):
        assert close(done[name], alone[name])
    assert done["r0"].token_ids == alone["r0"].token_ids[: len(done["r0"].token_ids)]
    known = EngineRequest("k", PROMPT, Decoding.greedy(), 0, 9, prefix_ids=alone["r1"].token_ids[:got])
    assert done["fork"].token_ids == branches(engine_of(0), known)["k"].token_ids
    assert done["fork"].prefill_tokens == 0


def test_cancelling_everything_leaves_nothing_under_way():
    engine = engine_of(4)
    engine.submit(EngineRequest("x", PROMPT, DECODINGS["laid"], max_tokens=60, n=3))
    engine.step()
    engine.cancel([f"x/{i}" for i in range(3)])
    assert not engine.busy


@pytest.mark.parametrize("name", [name for name in DECODINGS if name != "one depth"])
def test_a_step_never_looks_at_its_outcome(name: str):
    """Fake tensors have no values: whatever asked for one would raise. A graph can be recorded of what doesn't."""
    decoding, rows = DECODINGS[name], 4
    parts = ModelParts.of(copy.deepcopy(MODEL), TOKENIZER)
    span = "none" if decoding.exploration is None else decoding.span
    siblings = [None] * rows
    with FakeTensorMode(allow_non_fake_inputs=True), torch.inference_mode():
        plan = StaticPlan.of([decoding] * rows, [span] * rows, parts, siblings, (), rows)
        assert plan is not None
        state = RowState(rows, parts.thinking, parts.device)
        cache = SlotCache(parts.kv_shape, rows, dtype=parts.dtype, device=parts.device)
        for _ in range(2):
            chosen, taken = static_step(parts, cache, state, plan, 64)
    assert chosen.token.shape == taken.shape == (rows,)


def test_what_looks_at_outcomes_is_not_taken_ahead():
    parts = ModelParts.of(copy.deepcopy(MODEL), TOKENIZER)
    for decoding in (
        Decoding.plain(0.9).replace(guard=QualityGuard()),
        Decoding.plain(0.9).replace(latent_noise=LatentNoise(sigma=0.1), span="all"),
        Decoding.plain(0.9).replace(typical_p=0.9),
        Decoding.plain(0.9).replace(repetition_penalty=1.2),
    ):
        assert StaticPlan.of([decoding], ["all"], parts, [None], (), 4) is None


def test_lay_without_a_look_is_lay():
    torch.manual_seed(0)
    for n in (5, 128, 129, 300, 1000):
        weights = torch.rand(64, n).pow(8)
        weights[:, n // 2 :] *= torch.rand(64, 1) < 0.5
        u = torch.cat([torch.rand(60, dtype=torch.float64), torch.tensor([0.0, 0.5, 1 - 1e-9, 1 - 2**-53])])
        a, b = lay(weights, u), lay_everywhere(weights, u)
        assert torch.equal(a.token, b.token)
        torch.testing.assert_close(a.logprob, b.logprob)
        torch.testing.assert_close(a.code, b.code, atol=1e-9, rtol=1e-9)


def test_compaction_covers_wanted_rows_first():
    wanted = torch.tensor([False, True, False, True, True])
    order, covered = _compacted(wanted, 2)
    assert order.tolist() == [1, 3]
    assert (covered & wanted).tolist() == [False, True, False, True, False]


@pytest.mark.parametrize(("places", "reach"), [(1, 64), (64, 64), (65, 128), (300, 512), (513, 1024), (2000, 2000)])
def test_caches_are_read_to_few_different_lengths(places: int, reach: int):
    assert reach_for(places, 2000) == reach
