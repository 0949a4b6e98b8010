"""Taking models apart, and refusing those that aren't covered."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, Qwen3NextConfig

from led_agent.engine.cache import PrefixCache
from led_agent.engine.model import ModelParts, load_parts
from led_agent.errors import ModelError, UsageError
from tests.tiny import FAMILIES, tiny_config, tiny_model, tiny_tokenizer


@pytest.mark.parametrize("family", FAMILIES)
def test_taps_are_the_hidden_states(family: str):
    model = tiny_model(family)
    ids = torch.tensor([3, 1, 4, 1, 5])
    with torch.no_grad():
        parts = ModelParts.of(model)
        out = model.model(input_ids=ids[None], output_hidden_states=True)
        cache = PrefixCache(parts.kv_shape, 5, dtype=parts.dtype, device=parts.device)
        final, taps = parts.forward(ids, cache.begin(5), cache, taps=(0, 2, 5))
    assert set(taps) == {0, 2, 5}
    for depth, tap in taps.items():
        scale = float(out.hidden_states[depth].abs().max())
        torch.testing.assert_close(tap, out.hidden_states[depth][0], atol=1e-5 * scale, rtol=0)
    torch.testing.assert_close(final, out.last_hidden_state[0], atol=1e-5 * float(final.abs().max()), rtol=0)


def test_an_uncovered_architecture_is_refused_before_its_weights_are_read(tmp_path: Path):
    GPT2Config(n_layer=2, n_embd=16, n_head=2, vocab_size=50).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"type 'gpt2' aren't covered.*llama, mistral, qwen2, qwen3, smollm3"):
        load_parts(tmp_path)


def test_linear_attention_is_refused_by_name():
    config = tiny_config("qwen3")
    config.layer_types = ["full_attention", "linear_attention"] * 3
    from led_agent.engine.model import _refuse_early

    with pytest.raises(ModelError, match="layers of type full_attention, linear_attention"):
        _refuse_early(config)
    with pytest.raises(ModelError, match="qwen3_next"):
        _refuse_early(Qwen3NextConfig())


def test_rotary_positions_that_change_with_the_batch_are_refused():
    config = tiny_config("llama")
    config.rope_parameters = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    with pytest.raises(ModelError, match="'dynamic' rotary"):
        ModelParts.of(AutoModelForCausalLM.from_config(config))


def test_llama3_rotary_positions_are_taken():
    scaled = {
        "rope_type": "llama3",
        "factor": 4.0,
        "rope_theta": 10000.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }
    assert ModelParts.of(tiny_model("llama", rope_parameters=scaled)).n_blocks == 6


@pytest.mark.parametrize(("device", "says"), [("nonsense", "no device"), ("cuda", "no CUDA device")])
def test_devices_that_are_not_there(saved_model: Path, device: str, says: str):
    if device == "cuda" and torch.cuda.is_available():
        says = "never"
        assert load_parts(saved_model, device=device).device.type == "cuda"
        return
    with pytest.raises(UsageError, match=says):
        load_parts(saved_model, device=device)


def test_dtypes(saved_model: Path):
    assert load_parts(saved_model, device="cpu").dtype == torch.float32
    assert load_parts(saved_model, device="cpu", dtype="bfloat16").dtype == torch.bfloat16
    with pytest.raises(UsageError, match="no dtype is called 'int8'"):
        load_parts(saved_model, dtype="int8")


def test_a_broken_folder_is_a_model_error(tmp_path: Path):
    (tmp_path / "config.json").write_text("{not json")
    with pytest.raises(ModelError, match="can't load the model"):
        load_parts(tmp_path)


def test_what_a_tokenizer_tells():
    tokenizer = tiny_tokenizer(think="token")
    model = tiny_model("llama", vocab_size=len(tokenizer) + 7)
    parts = ModelParts.of(model, tokenizer)
    assert parts.vocab == len(tokenizer)
    assert parts.eos == {tokenizer.eos_token_id}
    assert parts.thinking.close == (tokenizer.convert_tokens_to_ids("</think>"),)
    assert not ModelParts.of(tiny_model("llama"), tiny_tokenizer()).thinking
