"""What exploring takes beyond plain sampling."""

from __future__ import annotations

from torch.profiler import ProfilerActivity, profile

from led_agent.engine import Engine, EngineRequest
from led_agent.engine.model import ModelParts
from led_agent.types import Decoding
from tests.tiny import tiny_model

VOCAB, BRANCHES = 49_152, 32  # SmolLM2's vocabulary
PARTS = ModelParts.of(tiny_model("llama", vocab_size=VOCAB, num_hidden_layers=9, initializer_range=0.05))


def peak_bytes(decoding: Decoding) -> int:
    """Of what one step has allocated at a time, beyond what was there before."""
    engine = Engine(PARTS, slots=BRANCHES)
    engine.submit(EngineRequest("x", [5, 6, 7], decoding, max_tokens=8, n=BRANCHES))
    for _ in range(2):
        engine.step(progress=False)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        engine.step(progress=False)
    held = peak = 0
    for event in sorted(recorded.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak


def test_every_row_exploring_eight_posteriors_takes_at_most_64_mib_more():
    plain = peak_bytes(Decoding.plain(0.6))
    assert plain > BRANCHES * VOCAB * 4  # the logits at the least: the measure sees what it should
    for changes in ({}, {"norm": "none"}, {"exploit": False}, {"gate_first": True, "exploit": False}):
        led = Decoding.led("paper", temperature=0.6, span="all", **changes)
        assert peak_bytes(led) - plain <= 64 * 2**20
