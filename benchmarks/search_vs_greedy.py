"""What search adds on held-out puzzles: the embedded model greedily, sampled once, and as 16 paths with a verifier.

    python -m benchmarks.search_vs_greedy [--problems 300] [--model countdown]

Through the package's own door (``Search``), with its defaults. Intervals are 95 % bootstraps over problems.
"""

from __future__ import annotations

from typing import Annotated

import typer

from led_agent import Decoding, Search, Strategy
from led_agent.strategies import BestOfN, Fallback
from training.countdown.evaluate import bootstrap
from training.countdown.problems import sample_puzzles


def solved(model: str, puzzles: list[str], strategy: Strategy, decoding: Decoding | None) -> tuple[list[float], float]:
    """Whether each puzzle was verified, and generated tokens a puzzle."""
    with Search(model, strategy=strategy, decoding=decoding) as search:
        solutions = list(search.solve_many(puzzles))
    tokens = sum(solution.usage.generated_tokens for solution in solutions)
    return [float(solution.verified) for solution in solutions], tokens / len(puzzles)


def main(
    problems: Annotated[int, typer.Option(help="Held-out puzzles.")] = 300,
    model: Annotated[str, typer.Option(help="countdown or countdown-sft.")] = "countdown",
    seed: Annotated[int, typer.Option(help="Which puzzles.")] = 1,
) -> None:
    puzzles = [str(puzzle) for puzzle in sample_puzzles("test", problems, seed)]
    ways: dict[str, tuple[Strategy, Decoding | None]] = {
        "greedy": (BestOfN(1), Decoding.greedy()),
        "one sample, plain T=0.6": (BestOfN(1), Decoding.plain(0.6)),
        "one sample, LED (default)": (BestOfN(1), None),
        "16 paths, plain T=0.6": (BestOfN(16), Decoding.plain(0.6)),
        "16 paths, LED (default)": (BestOfN(16), None),
        "16 paths, LED, then fallback": (Fallback(BestOfN(16)), None),
    }
    print(f"{model}, {problems} held-out puzzles\n\n| way | solved | tokens a puzzle |\n|---|---|---|")
    for name, (strategy, decoding) in ways.items():
        marks, tokens = solved(model, puzzles, strategy, decoding)
        print(f"| {name} | {bootstrap(marks)} | {tokens:.0f} |", flush=True)


if __name__ == "__main__":
    typer.run(main)
