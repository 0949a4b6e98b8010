"""Threads and precision that suit a CPU."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from led_agent.engine import cpu
from tests.tiny import tiny_config

BIG = {"hidden_size": 1032, "intermediate_size": 2048, "num_hidden_layers": 8}


@pytest.mark.parametrize(
    ("says", "granted"),
    [("150000 100000\n", 2), ("100000 100000\n", 1), ("5000 100000\n", 1), ("9900000 100000\n", None)],
)
def test_a_container_s_share_of_the_machine_counts(
    says: str, granted: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    (tmp_path / "cpu.max").write_text(says)
    assert cpu.granted_threads(tmp_path / "cpu.max") == (granted or 8)


@pytest.mark.parametrize("says", ["max 100000\n", "", None])
def test_without_a_limit_it_is_the_cores_that_may_be_used(
    says: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1, 4, 5})
    if says is not None:
        (tmp_path / "cpu.max").write_text(says)
    assert cpu.granted_threads(tmp_path / "cpu.max") == 3


@pytest.mark.parametrize(("said", "threads"), [(None, 1), ("4", 4)])
def test_threads_are_only_ever_taken_away_and_not_where_the_user_has_said(
    said: str | None, threads: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if said is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", said)
    now = [4]
    monkeypatch.setattr(torch, "get_num_threads", lambda: now[0])
    monkeypatch.setattr(torch, "set_num_threads", lambda n: now.__setitem__(0, n))
    monkeypatch.setattr(cpu, "granted_threads", lambda: 1)
    cpu.limit_threads()
    assert now[0] == threads
    monkeypatch.setattr(cpu, "granted_threads", lambda: 64)
    cpu.limit_threads()
    assert now[0] == threads


def stored(dtype: torch.dtype, **changes: Any) -> Any:
    config = tiny_config("llama", **changes)
    config.dtype = dtype
    return config


@pytest.mark.parametrize(("ratio", "chosen"), [(1.8, torch.bfloat16), (1.1, torch.float32), (0.4, torch.float32)])
def test_bfloat16_is_taken_where_it_is_faster_by_far(
    ratio: float, chosen: torch.dtype, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    monkeypatch.setattr(cpu, "_product_seconds", lambda *_: {torch.float32: ratio, torch.bfloat16: 1.0})
    assert cpu.preferred_dtype(stored(torch.bfloat16, **BIG)) == chosen
    assert cpu.preferred_dtype(stored(torch.float32, **BIG)) == torch.float32  # nothing is rounded away
    assert cpu.preferred_dtype(stored(torch.bfloat16)) == torch.float32  # too small to gain


def test_a_processor_without_such_products_computes_in_float32(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    monkeypatch.setattr(cpu, "_product_seconds", lambda *_: pytest.fail("was measured"))
    assert cpu.preferred_dtype(stored(torch.bfloat16, **BIG)) == torch.float32


def test_the_measurement_times_both():
    seconds = cpu._product_seconds(256, 512)
    assert set(seconds) == {torch.float32, torch.bfloat16}
    assert all(0 < s < 10 for s in seconds.values())
