"""The engine does not grow with what it has done: memory after ten thousand branches is that after two thousand."""

from __future__ import annotations

import gc
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from led_agent.engine import Engine, EngineRequest
from led_agent.engine.model import ModelParts
from led_agent.types import Decoding
from tests.tiny import tiny_model

STATM = Path("/proc/self/statm")
MANY, WARM = 10_000, 2_000
KEPT = 2**16  # bytes of prompts that may be kept: some hundreds of them


def resident() -> int:
    """Bytes of this process in memory now."""
    gc.collect()
    return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def requests() -> Iterator[EngineRequest]:
    """Short ones, most of which have a prompt of their own."""
    pick = random.Random(5)
    decodings = [Decoding.plain(1.0), Decoding.greedy(), Decoding.plain(1.2, top_p=0.9)]
    for i in range(MANY):
        prompt = [pick.randrange(97) for _ in range(pick.choice([1, 3, 4, 5, 6]))]
        yield EngineRequest(f"r{i}", prompt, pick.choice(decodings), seed=i, max_tokens=pick.randrange(2, 7))


@pytest.mark.slow
@pytest.mark.skipif(not STATM.exists(), reason="tells its memory only where there is /proc")
def test_ten_thousand_branches_leave_nothing_behind(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("led_agent.engine.prefixes._KEEP_BYTES", KEPT)
    small = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_key_value_heads": 1}
    engine = Engine(ModelParts.of(tiny_model("llama", num_hidden_layers=1, **small)), slots=16)
    done, tokens, most, warm = 0, 0, 0, 0
    for event in engine.generate(requests()):
        if event.branch is None:
            continue
        done += 1
        if done % 50 == 0:
            most = max(most, engine._prefixes.nbytes)
        tokens += len(event.branch.token_ids)
        if done == WARM:
            warm = resident()
    assert done == MANY
    assert not engine.busy
    assert engine._live == []
    assert not engine._waiting
    assert engine.busy_slot_steps == tokens
    assert KEPT / 2 < most <= KEPT
    assert len(engine._finished) < MANY
    assert abs(resident() - warm) < 0.05 * warm
