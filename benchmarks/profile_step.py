"""Where a decode step's time goes: linear layers, attention, head, choice, what is left of the trunk, and the host.

    python -m benchmarks.profile_step --model smollm2 --batches 1,16,32

Wall time inside each part, medians over steps, in shares of the whole step; the clocks themselves add about 2 %. Beside
them stand the least times that the linear layers and the head could take: their weights' bytes over the bandwidth of
the memory, measured by summing a large tensor.
"""

from __future__ import annotations

import json
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from led_agent.bench.workload import Workload
from led_agent.engine import Engine, EngineRequest
from led_agent.engine import engine as engine_module
from led_agent.engine import step as step_module
from led_agent.engine.linear import Linear
from led_agent.engine.model import load_parts
from led_agent.models import locate
from led_agent.types import Decoding

_STEPS = 24


class Clock:
    """Adds up the time inside functions that it stands around."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = defaultdict(float)

    def around(self, owner: Any, name: str, part: str) -> None:
        inner: Callable[..., Any] = getattr(owner, name)

        def timed(*args: Any, **options: Any) -> Any:
            began = time.perf_counter()
            out = inner(*args, **options)
            self.spent[part] += time.perf_counter() - began
            return out

        setattr(owner, name, timed)


def bandwidth() -> float:
    """Bytes a second that are read when a tensor of 1 GiB is summed; the best of 5."""
    block = torch.ones(2**28)
    times = []
    for _ in range(5):
        began = time.perf_counter()
        block.sum()
        times.append(time.perf_counter() - began)
    return block.nbytes / min(times)


def parts_of_a_step(engine: Engine, clock: Clock) -> dict[str, float]:
    """Seconds of one step, the median over a few, by part."""
    steps: dict[str, list[float]] = defaultdict(list)
    for _ in range(_STEPS):
        clock.spent.clear()
        began = time.perf_counter()
        engine.step(progress=False)
        whole = time.perf_counter() - began
        spent = clock.spent
        linear = spent["linear"] - spent["head"]  # the head is one of them
        found = {
            "linear layers": linear,
            "attention": spent["attention"],
            "norms, positions, calls": spent["forward"] - linear - spent["attention"],
            "head": spent["head"],
            "choice": spent["choice"],
            "host": whole - spent["forward"] - spent["head"] - spent["choice"],
            "whole step": whole,
        }
        for name, seconds in found.items():
            steps[name].append(seconds)
    return {name: statistics.median(values) for name, values in steps.items()}


def main(
    model: Annotated[str, typer.Option(help="Alias, folder or hub id.")] = "smollm2",
    batches: Annotated[str, typer.Option(help="Branches at a time.")] = "1,16,32",
    prompt: Annotated[int, typer.Option(help="Tokens.")] = 128,
    out: Annotated[Path | None, typer.Option(help="Where to keep all figures.")] = None,
) -> None:
    rate, rows = bandwidth(), []
    clock = Clock()
    clock.around(Linear, "_packed", "linear")
    clock.around(Linear, "_with", "linear")
    clock.around(step_module, "choose", "choice")
    clock.around(engine_module.SlotCache, "attend", "attention")
    for dtype in ("float32", "bfloat16"):
        parts = load_parts(locate(model), dtype=dtype)
        parts.eos = frozenset()
        clock.around(parts, "forward", "forward")
        clock.around(parts, "head", "head")
        weights = sum(p.nbytes for p in parts.model.parameters())
        head = parts.model.lm_head.weight.nbytes
        for branches in map(int, batches.split(",")):
            engine = Engine(parts, slots=branches)
            ids = Workload(prompt=prompt).prompt_ids(0, parts.vocab)
            engine.submit(EngineRequest("x", ids, Decoding.plain(0.6), 0, 4 * _STEPS, branches))
            for _ in range(6):
                engine.step(progress=False)
            found = parts_of_a_step(engine, clock)
            whole = found["whole step"]
            rows.append({"dtype": dtype, "branches": branches, "seconds": found})
            shares = " | ".join(f"{1e3 * s:.1f} ({s / whole:.0%})" for name, s in found.items() if name != "whole step")
            floors = f"{1e3 * (weights - head) / rate:.1f} | {1e3 * head / rate:.1f}"
            print(f"| {dtype} | {branches} | {1e3 * whole:.1f} | {shares} | {floors} |", flush=True)
    if out is not None:
        out.write_text(json.dumps({"model": model, "bandwidth": rate, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
