"""The embedded reasoner: how long a cold start takes, and how fast sixteen branches at a time grow.

python benchmarks/countdown.py [--starts 5] [--rounds 7]
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from typing import Annotated

import typer

from led_agent import Decoding, Search
from led_agent.models import EMBEDDED_EXAMPLE
from led_agent.strategies import BestOfN

COLD = [sys.executable, "-m", "led_agent", "solve", EMBEDDED_EXAMPLE, "--json"]


def cold_start() -> float:
    """Seconds from the command to its answer, imports and loading included."""
    begun = time.perf_counter()
    subprocess.run(COLD, check=True, capture_output=True)
    return time.perf_counter() - begun


def rate(search: Search, puzzles: list[str]) -> float:
    """Generated tokens a second: sixteen branches at a time, a slot refilled when its branch ends."""
    begun = time.perf_counter()
    tokens = sum(solution.usage.generated_tokens for solution in search.solve_many(puzzles))
    return tokens / (time.perf_counter() - begun)


def told(values: list[float], unit: str) -> str:
    return f"median {statistics.median(values):.2f} {unit} ({min(values):.2f}–{max(values):.2f}, n={len(values)})"


def main(
    starts: Annotated[int, typer.Option(help="Cold starts.")] = 5,
    rounds: Annotated[int, typer.Option(help="Interleaved rounds of 12 puzzles.")] = 7,
) -> None:
    print("cold start to the answer:", told([cold_start() for _ in range(starts)], "s"))
    puzzles = [f"Use {a}, {a + 7} and {a + 11} to make {3 * a + 5}." for a in range(2, 14)]
    laws = {"LED, the default": None, "plain, T=0.6": Decoding.plain(0.6)}
    searches = {
        name: Search("countdown", strategy=BestOfN(16, stop_at_first=False), decoding=law) for name, law in laws.items()
    }
    rates: dict[str, list[float]] = {name: [] for name in laws}
    for search in searches.values():
        rate(search, puzzles[:2])
    for _ in range(rounds):
        for name, search in searches.items():
            rates[name].append(rate(search, puzzles))
    for name, values in rates.items():
        print(f"16 branches, {name}:", told(values, "tokens/s"))
    for search in searches.values():
        search.close()


if __name__ == "__main__":
    typer.run(main)
