"""What a CPU is good for: how many threads, and which precision."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from led_agent.engine.linear import Linear

__all__ = ["granted_threads", "limit_threads", "preferred_dtype"]

_log = logging.getLogger(__name__)
_SMALL_MODEL = 10_000_000  # parameters; below, calls take longer than products, in any precision
_ROWS = 16
_REPEATS = 7
_WORTHWHILE = 1.2  # times as fast, for a precision that rounds more


def granted_threads(quota: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """Cores that this process may use: those it may run on, or, in a container, the time that it is given if that is
    less, which torch doesn't look at."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        allowed, period = quota.read_text().split()
        return max(1, min(cores, -(-int(allowed) // int(period))))
    except (OSError, ValueError):  # not Linux, another layout, or "max": no limit
        return cores


def limit_threads() -> None:
    """Keep torch from using more threads than there are cores for it: each product would wait for those that don't
    run. Nothing is changed where the user has said how many."""
    granted = granted_threads()
    if "OMP_NUM_THREADS" not in os.environ and torch.get_num_threads() > granted:
        _log.info("computing with %d threads instead of %d", granted, torch.get_num_threads())
        torch.set_num_threads(granted)


def preferred_dtype(config: Any) -> torch.dtype:
    """float32, or bfloat16 where the weights are stored in it, the CPU has products for it, and these are faster by far
    on a matrix of this model's size: measured now, in a few hundredths of a second."""
    stored = getattr(config, "dtype", None)
    if stored != torch.bfloat16 or not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return torch.float32
    if _parameters(config) < _SMALL_MODEL:
        return torch.float32
    seconds = _product_seconds(config.hidden_size, config.intermediate_size)
    ratio = seconds[torch.float32] / seconds[torch.bfloat16]
    _log.info("a product in bfloat16 is %.2f times as fast as in float32", ratio)
    return torch.bfloat16 if ratio >= _WORTHWHILE else torch.float32


def _parameters(config: Any) -> int:
    """Roughly: blocks and embeddings."""
    width: int = config.hidden_size
    return int(
        config.num_hidden_layers * (3 * width * config.intermediate_size + 2 * width**2) + config.vocab_size * width
    )


@torch.inference_mode()
def _product_seconds(width: int, out: int) -> dict[torch.dtype, float]:
    """The least time of a product of a few rows, by precision. Several matrices take turns, so that none stays in the
    processor's cache."""
    best: dict[torch.dtype, float] = {}
    arms = []
    for dtype in (torch.float32, torch.bfloat16):
        copies = max(2, min(16, 2**26 // (width * out * dtype.itemsize)))
        layers = [Linear([nn.Linear(width, out, bias=False, dtype=dtype)], pack=True) for _ in range(copies)]
        arms.append((dtype, layers, torch.ones(_ROWS, width, dtype=dtype)))
    for repeat in range(_REPEATS):
        for dtype, layers, x in arms:
            began = time.perf_counter()
            for layer in layers:
                layer(x)
            took = (time.perf_counter() - began) / len(layers)
            if repeat:  # the first one warms up
                best[dtype] = min(best.get(dtype, took), took)
    return best
