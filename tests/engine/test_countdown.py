"""The engine on the embedded reasoner: a trained model small enough for thousands of draws."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import AutoModelForCausalLM

from led_agent.decoding import exploration_law
from led_agent.engine import Engine, EngineRequest
from led_agent.engine.model import load_parts
from led_agent.models import locate
from led_agent.types import Decoding, DepthExploration
from tests.engine.reference import branches, full_logits, layer_logits

PREFIXES = ("3 7 24 = 65 <think>", "3 7 24 = 65 <think> 24", "3 7 24 = 65 <think> 24 * 3 = 72 72 - 7 = 65 yes")


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(load_parts(locate("countdown"), device="cpu", dtype="float32"), slots=256)


@pytest.fixture(scope="module")
def reference():
    return AutoModelForCausalLM.from_pretrained(locate("countdown"), dtype=torch.float32).eval()


def encoded(engine: Engine, text: str) -> list[int]:
    return [int(t) for t in engine.parts.tokenizer.encode(text, add_special_tokens=False)]


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize(
    "exploration",
    [
        DepthExploration(depths=4),
        DepthExploration(depths=12, exploit=False),
        DepthExploration(depths=8, top_k=8, norm="none", layers="official"),
    ],
    ids=["late", "all", "official"],
)
def test_the_sampler_follows_the_law_of_trained_states(
    engine: Engine, reference, prefix: str, exploration: DepthExploration
):
    """Within 1.5 × the Monte-Carlo noise that the law itself has."""
    n, temperature = 3000, 1.4
    ids = encoded(engine, prefix)
    with torch.no_grad():
        logits = layer_logits(reference, ids, exploration)
    candidates, law = exploration_law(logits, exploration, temperature)
    decoding = Decoding(temperature=temperature, exploration=exploration, span="all")
    grown = branches(engine, EngineRequest("x", ids, decoding, seed=1, max_tokens=1, n=n))
    tokens = torch.tensor([branch.token_ids[0] for branch in grown.values()])
    counts = (tokens[:, None] == candidates[0][None]).sum(0).double()
    assert int(counts.sum()) == n
    distance = float((counts / n - law[0]).abs().sum()) / 2
    noise = float((2 * law[0] * (1 - law[0]) / (math.pi * n)).sqrt().sum()) / 2
    assert distance < 1.5 * noise + 0.005


def test_greedy_and_its_log_probabilities_are_those_of_plain_forwards(engine: Engine, reference):
    prompt = encoded(engine, PREFIXES[0])
    grown = branches(engine, EngineRequest("x", prompt, Decoding.greedy(), max_tokens=75))["x"]
    logits = full_logits(reference, [*prompt, *grown.token_ids])[len(prompt) - 1 : -1]
    assert logits.argmax(-1).tolist() == list(grown.token_ids)
    expected = logits.log_softmax(-1).max(-1).values
    tolerance = 1e-5 * float(logits.abs().max())
    torch.testing.assert_close(torch.tensor(grown.final_logprobs), expected, atol=tolerance, rtol=0)


def test_a_whole_trace_does_not_depend_on_its_neighbours_to_the_bit(engine: Engine):
    prompt = encoded(engine, "1 7 8 = 49 <think>")
    led = EngineRequest("x", prompt, Decoding.led(temperature=1.4, depths=4), seed=5, max_tokens=75)
    alone = branches(Engine(engine.parts, slots=1), led)["x"]
    others = [EngineRequest(f"o{i}", prompt, Decoding.plain(1.2), seed=i, max_tokens=9 * i) for i in range(1, 9)]
    crowded = branches(engine, *others[:3], led, *others[3:])["x"]
    assert alone.token_ids == crowded.token_ids
    assert alone.logprobs == crowded.logprobs
    assert alone.explored == crowded.explored
    assert any(alone.explored)
