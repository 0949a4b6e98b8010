"""The API reference has all public names, and each page of it names what is there."""

from __future__ import annotations

import importlib
import re

import pytest

import led_agent
import led_agent.strategies
import led_agent.verifiers
from tests.docs.pages import ROOT

_ENTRY = re.compile(r"^::: (\S+)$", re.MULTILINE)
ENTRIES = [entry for page in sorted((ROOT / "docs" / "api").glob("*.md")) for entry in _ENTRY.findall(page.read_text())]


@pytest.mark.parametrize("entry", ENTRIES)
def test_an_entry_is_there_and_explained(entry: str):
    module, _, name = entry.rpartition(".")
    assert getattr(importlib.import_module(module), name).__doc__


@pytest.mark.parametrize(
    ("module", "names"),
    [
        ("led_agent", led_agent.__all__),
        ("led_agent.strategies", led_agent.strategies.__all__),
        ("led_agent.verifiers", led_agent.verifiers.__all__),
        ("led_agent.engine", ["Engine", "EngineRequest", "BranchEvent", "ModelParts"]),
        ("led_agent.decoding", ["exploration_law"]),
        ("led_agent.journal", ["Journal", "read_trees"]),
        ("led_agent.testing", ["ScriptedDecoder"]),
        ("led_agent.answers", ["final_answer", "after_thinking", "boxed"]),
    ],
)
def test_public_names_are_in_the_reference(module: str, names: list[str]):
    shown = {getattr(importlib.import_module(e.rpartition(".")[0]), e.rpartition(".")[2]) for e in ENTRIES}
    home = importlib.import_module(module)
    missing = [name for name in names if getattr(home, name) not in shown]
    assert not missing
