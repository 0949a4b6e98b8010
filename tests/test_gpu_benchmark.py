"""The GPU benchmark, run whole on a CPU at a tiny size."""

from __future__ import annotations

import json
from pathlib import Path

from torch import device

from benchmarks.gpu import copy_bandwidth, main


def test_it_measures_everything_it_names(tmp_path: Path):
    out = tmp_path / "gpu.json"
    main(shapes="tiny", device="cpu", dtype="float32", batches="2,3", prompt=40, new=4, rounds=1, minutes=7.0, out=out)
    found = json.loads(out.read_text())
    assert found["copy bandwidth, GB/s"] > 0
    assert found["left out"] == []
    tiny = found["models"]["tiny"]
    assert set(tiny) == {"against generate", "B=2", "B=3"}
    assert tiny["against generate"]["engine ÷ generate"]["median"] > 0
    for name in ("B=2", "B=3"):
        assert "error" not in tiny[name]
        assert set(tiny[name]["step seconds"]) == {
            "plain", "LED, r=0.10", "LED, r=0.17", "LED, every row explores", "plain, different prompts",
        }  # fmt: skip
        assert 0 <= tiny[name]["explored"]["LED, r=0.10"] < 0.5
        assert tiny[name]["explored"]["LED, every row explores"] == 1.0


def test_what_is_not_begun_in_time_is_named(tmp_path: Path):
    out = tmp_path / "gpu.json"
    main(shapes="tiny", device="cpu", dtype="float32", batches="2", prompt=8, new=2, rounds=1, minutes=0.0, out=out)
    assert json.loads(out.read_text())["left out"] == ["tiny, against generate", "tiny, B=2"]


def test_bandwidth_is_positive():
    assert copy_bandwidth(device("cpu")) > 1e8
