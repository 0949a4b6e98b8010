"""Sampling without replacement on steps, against best-of-n: development puzzles solved within so many tokens.

    python -m benchmarks.steps_without_replacement --problems 200 --seed 0

A step is an attempt of the trace: it ends at the word "no". There is one search a puzzle and setting, which begins
nothing more once an answer was accepted; a puzzle is solved within a budget where its branches up to the first right
one, in the order in which they were asked for, have that many tokens or fewer. Shares come with 95 % bootstrap
intervals over puzzles; differences are paired, from best-of-n at the temperature that does best at that budget, which
favours best-of-n. "(reject)" is with ``countdown(steps=True)``, so that no failed attempt is gone on from.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import typer

from led_agent import Budget, DecodeRequest, Decoding, Problem, Search, Tree
from led_agent.countdown_puzzles import sample_puzzles
from led_agent.evaluation.outcomes import outcome_of
from led_agent.evaluation.statistics import Bootstrap, Estimate
from led_agent.local import LocalDecoder
from led_agent.protocols import Strategy
from led_agent.strategies import BestOfN, WithoutReplacement
from led_agent.verifiers import countdown
from training.countdown.problems import IDS, NEW_TOKENS

BUDGETS = (40, 60, 80, 120, 160, 240)
WHOLE = WithoutReplacement(n=64)
STEPS = WithoutReplacement(n=64, step_tokens=(IDS["no"],))
SETTINGS: tuple[tuple[str, Strategy, bool, tuple[float, ...]], ...] = (
    ("best-of-n", BestOfN(64), False, (0.6, 1.0, 1.4)),
    ("without replacement, whole outputs", WHOLE, False, (0.6, 1.0)),
    ("steps, order=outputs", STEPS, False, (0.6, 1.0)),
    ("steps, order=outputs (reject)", STEPS, True, (0.6, 1.0)),
    ("steps, order=steps", replace(STEPS, order="steps"), False, (0.6, 1.0)),
    ("steps, order=breadth", replace(STEPS, order="breadth"), False, (0.6, 1.0)),
)


@dataclass(frozen=True)
class UntilAccepted:
    """A strategy that begins nothing more once an answer was accepted, and lets what is under way come to its end."""

    inner: Strategy

    def propose(self, tree: Tree, slots: int) -> Sequence[DecodeRequest]:
        return [] if tree.accepted() else self.inner.propose(tree, slots)

    def finished(self, tree: Tree) -> bool:
        return False


def tokens_to_first(
    decoder: LocalDecoder, problems: list[Problem], strategy: Strategy, steps: bool, temperature: float, seed: int
) -> list[int | None]:
    """Of each problem, the tokens up to its first right answer; None where there is none."""
    search = Search(
        decoder=decoder,
        strategy=UntilAccepted(strategy),
        verifiers=[countdown(steps=steps)],
        decoding=Decoding.plain(temperature),
        budget=Budget(tokens=max(BUDGETS) + 2 * NEW_TOKENS),
        max_tokens=NEW_TOKENS,
        seed=seed,
    )
    found = {s.problem.key: outcome_of(s, samples=False).to_first for s in search.solve_many(problems)}
    return [found[problem.key] for problem in problems]


def told(estimate: Estimate | None) -> str:
    return "-" if estimate is None else f"{estimate.value:.3f} ({estimate.low:.3f} … {estimate.high:.3f})"


def signed(estimate: Estimate | None) -> str:
    return "-" if estimate is None else f"{estimate.value:+.3f} ({estimate.low:+.3f} … {estimate.high:+.3f})"


def table(rows: dict[str, list[int | None]]) -> None:
    """Shares, then differences from the best best-of-n of each budget."""
    (problems,) = {len(row) for row in rows.values()}
    bootstrap = Bootstrap.of(problems)
    solved = {
        name: {b: [float(at is not None and at <= b) for at in row] for b in BUDGETS} for name, row in rows.items()
    }
    yardsticks = [name for name in rows if name.startswith("best-of-n")]
    best = {b: max(yardsticks, key=lambda name: sum(solved[name][b])) for b in BUDGETS}
    head = "| setting | " + " | ".join(map(str, BUDGETS)) + " |\n" + "|---" * (len(BUDGETS) + 1) + "|"
    print("Solved within so many generated tokens:\n\n" + head)
    for name in rows:
        print(f"| {name} |", " | ".join(told(bootstrap.mean(solved[name][b])) for b in BUDGETS), "|")
    print("\nDifference from the best best-of-n of the budget:\n\n" + head)
    print("| the best |", " | ".join(best[b] for b in BUDGETS), "|")
    for name in rows:
        if name not in yardsticks:
            pairs = {b: zip(solved[name][b], solved[best[b]][b], strict=True) for b in BUDGETS}
            shown = (signed(bootstrap.mean([x - y for x, y in pairs[b]])) for b in BUDGETS)
            print(f"| {name} |", " | ".join(shown), "|")


def main(
    problems: Annotated[int, typer.Option(help="Puzzles of the development split.")] = 200,
    seed: int = 0,
    batch: Annotated[int, typer.Option(help="Branches of a round without replacement.")] = 4,
    only: Annotated[str, typer.Option(help="Only settings in whose names this stands; best-of-n always.")] = "",
) -> None:
    asked = [Problem(prompt=str(puzzle)) for puzzle in sample_puzzles("dev", problems, seed)]
    decoder = LocalDecoder.load("countdown", slots=64)
    rows: dict[str, list[int | None]] = {}
    for name, strategy, steps, temperatures in SETTINGS:
        if only not in name and not isinstance(strategy, BestOfN):
            continue
        chosen = replace(strategy, batch=batch) if isinstance(strategy, WithoutReplacement) else strategy
        for temperature in temperatures:
            begun = time.perf_counter()
            row = rows[f"{name}, T={temperature:g}"] = tokens_to_first(decoder, asked, chosen, steps, temperature, seed)
            unsolved = sum(at is None for at in row)
            print(f"{name}, T={temperature:g}: {time.perf_counter() - begun:.0f} s, {unsolved} never", flush=True)
    decoder.close()
    print(f"\n{problems} puzzles, seed {seed}, batch {batch}\n")
    table(rows)


if __name__ == "__main__":
    typer.run(main)
