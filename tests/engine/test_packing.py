"""What stands in for a model's own modules on a CPU computes the same."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from led_agent.engine import Engine, EngineRequest
from led_agent.engine.model import ModelParts
from led_agent.engine.packing import fuse_norms, pack_linears
from led_agent.types import Decoding
from tests.tiny import FAMILIES, tiny_model, tiny_tokenizer


@pytest.mark.parametrize("family", FAMILIES)
def test_a_fused_norm_gives_the_same_bits(family: str):
    model = tiny_model(family)
    fused = copy.deepcopy(model)
    assert fuse_norms(fused) == sum(type(m).__name__.endswith("RMSNorm") for m in model.modules()) > 0
    states = torch.randn(7, 1, model.config.hidden_size)
    with torch.inference_mode():
        assert torch.equal(fused.model.norm(states), model.model.norm(states))


def test_norms_of_other_precisions_are_left_alone():
    assert fuse_norms(tiny_model().to(torch.bfloat16)) == 0


def test_large_layers_are_packed_and_small_ones_are_not():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(512, 512), nn.Linear(512, 16))
    states = torch.randn(12, 512)
    with torch.inference_mode():
        expected = model(states)
        assert pack_linears(model, spare_bytes=1 << 30) == 1
        torch.testing.assert_close(model(states), expected, atol=1e-5, rtol=1e-5)
    assert "forward" in vars(model[0])
    assert "forward" not in vars(model[1])


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
