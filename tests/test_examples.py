"""Each example is short and runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

LONG = ("trl_rollout",)  # with tests of their own: test_trl_example.py
EXAMPLES = sorted(p for p in (Path(__file__).parents[1] / "examples").glob("*.py") if p.stem not in LONG)


def test_there_are_examples():
    assert {p.stem for p in EXAMPLES} >= {"math_problem", "custom_verifier", "custom_strategy", "countdown", "cluster"}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_an_example_is_short_and_runs(path: Path, saved_model: Path):
    assert len(path.read_text().splitlines()) <= 20
    model = "countdown" if path.stem in ("countdown", "cluster") else str(saved_model)
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", str(path), model], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    if path.stem == "cluster":
        assert "the same tokens in every branch: True" in done.stdout
        assert done.stdout.count("led-decoder-") == 2
