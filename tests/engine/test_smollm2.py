"""The engine on a real language model: SmolLM2-135M-Instruct."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from led_agent.engine import Engine, EngineRequest
from led_agent.engine.model import load_parts
from led_agent.engine.text import Detokenizer
from led_agent.types import Decoding
from tests.engine.reference import branches, full_logits

QUESTION = "A robe takes 2 bolts of blue fiber and half that much white fiber. How many bolts in total does it take?"


@pytest.fixture(scope="module")
def engine(smollm2: str) -> Engine:
    return Engine(load_parts(smollm2, device="cpu", dtype="float32"), slots=8)


@pytest.fixture(scope="module")
def reference(smollm2: str):
    return AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def prompt(engine: Engine) -> list[int]:
    tokenizer = engine.parts.tokenizer
    chat = [{"role": "user", "content": QUESTION}]
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    return tokenizer.encode(text, add_special_tokens=False)


def test_greedy_is_what_plain_forwards_give(engine: Engine, reference, prompt: list[int]):
    grown = branches(engine, EngineRequest("x", prompt, Decoding.greedy(), max_tokens=24))["x"]
    logits = full_logits(reference, [*prompt, *grown.token_ids])[len(prompt) - 1 : -1]
    assert logits.argmax(-1).tolist() == list(grown.token_ids)
    expected = logits.log_softmax(-1).max(-1).values
    # Logits reach 33, and the plain forward itself is 4e-5 away from a float64 one: 1e-5 of the largest.
    tolerance = 1e-5 * float(logits.abs().max())
    torch.testing.assert_close(torch.tensor(grown.final_logprobs), expected, atol=tolerance, rtol=0)
    assert len(grown.text.split()) > 5


def test_a_branch_does_not_depend_on_its_neighbours_to_the_bit(engine: Engine, prompt: list[int], smollm2: str):
    led = EngineRequest("x", prompt, Decoding.led(), seed=5, max_tokens=20)
    alone = branches(Engine(engine.parts, slots=1), led)["x"]
    others = [
        EngineRequest(f"o{i}", prompt[: 9 + 5 * i], Decoding.plain(1.2), seed=i, max_tokens=6 * i) for i in range(1, 7)
    ]
    crowded = branches(engine, *others[:3], led, *others[3:])["x"]
    assert alone.token_ids == crowded.token_ids
    assert alone.logprobs == crowded.logprobs
    assert alone.explored == crowded.explored
    assert any(alone.explored)


@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=60))
def test_text_comes_out_whole_whatever_its_characters(engine: Engine, text: str):
    tokenizer = engine.parts.tokenizer
    ids = tokenizer.encode(text, add_special_tokens=False)
    stream = Detokenizer(tokenizer)
    pieces = [stream.append(token) for token in ids]
    whole = tokenizer.decode(ids, skip_special_tokens=True)
    assert whole.startswith("".join(pieces))
    assert stream.finish() == whole


def test_half_a_character_is_held_back(engine: Engine):
    tokenizer = engine.parts.tokenizer
    ids = tokenizer.encode("🧮", add_special_tokens=False)
    assert len(ids) > 1
    stream = Detokenizer(tokenizer)
    assert [stream.append(token) for token in ids[:-1]] == [""] * (len(ids) - 1)
    assert stream.append(ids[-1]) == "🧮"
