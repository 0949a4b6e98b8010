"""Where siblings had better attend to one copy of their prompt: decode steps with it and without, interleaved.

    python -m benchmarks.sharing --model smollm2 --rounds 5

Prints the time of a step without sharing over that with it, by number of siblings and length of prompt; above 1,
sharing is faster. Decode steps alone are timed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Literal

import torch

from led_agent.engine import Engine, EngineRequest
from led_agent.engine.model import ModelParts, load_parts
from led_agent.models import locate
from led_agent.types import Decoding

_STEPS = 8


class Arm:
    """An engine whose branches grow without end, to be stepped now and then."""

    def __init__(self, parts: ModelParts, siblings: int, length: int, share: Literal["always", "never"]) -> None:
        self.engine = Engine(parts, slots=siblings, share_prefixes=share)
        prompt = [(37 * i) % 20_000 + 100 for i in range(length)]
        self.engine.submit(EngineRequest("x", prompt, Decoding.plain(0.8), 0, 400, siblings))
        while not self.engine.steps:
            self.engine.step()

    def seconds(self) -> float:
        """Of one step, the mean of a few."""
        began = time.perf_counter()
        for _ in range(_STEPS):
            self.engine.step(progress=False)
        return (time.perf_counter() - began) / _STEPS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--siblings", type=int, nargs="+", default=[4, 16, 32])
    parser.add_argument("--lengths", type=int, nargs="+", default=[64, 128, 256, 512, 1024])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    parts = load_parts(locate(options.model), dtype=options.dtype)
    parts.eos = frozenset()
    rows = []
    for siblings in options.siblings:
        for length in options.lengths:
            arms = [Arm(parts, siblings, length, share) for share in ("never", "always")]
            for arm in arms:
                arm.seconds()  # warm up
            pairs = [[arm.seconds() for arm in arms] for _ in range(options.rounds)]
            ratios = sorted(without / having for without, having in pairs)
            rows.append({"siblings": siblings, "prompt": length, "pairs": pairs, "ratio": statistics.median(ratios)})
            print(
                f"| {siblings} | {length} | {siblings * length} | {statistics.median(ratios):.2f} "
                f"({ratios[0]:.2f} … {ratios[-1]:.2f}) |",
                flush=True,
            )
    if options.out:
        found = {"model": options.model, "dtype": options.dtype, "threads": torch.get_num_threads(), "rows": rows}
        options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
