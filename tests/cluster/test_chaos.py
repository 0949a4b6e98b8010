"""A run on a cluster whose decoders, verifiers, nodes and driver are killed, against an undisturbed one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_nothing_is_lost_doubled_or_changed_whatever_is_killed(tmp_path: Path):
    """The benchmark itself, on fewer problems, with fewer kills."""
    command = [
        sys.executable, "-m", "benchmarks.chaos", "--problems", "40", "--branches", "4", "--every", "4", "--kills", "6",
        "--folder", str(tmp_path), "--json",
    ]  # fmt: skip
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0"}
    ran = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False)
    assert ran.returncode == 0, ran.stderr[-2000:]
    found = json.loads(ran.stdout.splitlines()[-1])
    assert found["problems"] == 40
    assert (found["lost"], found["duplicated"], found["different"], found["put_aside"]) == (0, 0, 0, 0)
    assert found["decoders_killed"] >= 1
    assert (found["verifiers_killed"], found["nodes_removed"], found["drivers_killed"]) == (1, 1, 1)
    assert found["again"] >= 1
