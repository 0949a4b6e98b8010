"""How well the confidence of unverified answers is calibrated, and the weights that calibrate it.

    python -m benchmarks.confidence [--problems 400] [--fit] [--out benchmarks/results/confidence.json]

Branches of both embedded models on Countdown, without a verifier; the leading answer of the first 2, 4, 8 and 16 of
them, and whether it is right. Weights are fitted on the development split and measured on the test split, with those
that are in ``led_agent.confidence`` now. Intervals are bootstrapped over problems.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from led_agent import Decoding, Problem, Search
from led_agent.confidence import EMBEDDED, SHARE, Calibration, agree, read_votes, votes
from led_agent.local import LocalDecoder
from led_agent.strategies import BestOfN
from led_agent.types import Confidence
from led_agent.verifiers import countdown
from led_agent.verifiers.equivalence import equivalence_groups, final_answers
from training.countdown.problems import Split, sample_puzzles

SIZES = (2, 4, 8, 16)
MODELS, TEMPERATURES = ("countdown", "countdown-sft"), (0.6, 1.0)


@dataclass(frozen=True)
class Case:
    """A leading answer: whose, among how many, how the branches agree on it, and whether it is right."""

    model: str
    temperature: float
    problem: str
    size: int
    found: Confidence
    right: bool


def cases(split: Split, count: int, seed: int) -> list[Case]:
    problems = [Problem(prompt=str(puzzle)) for puzzle in sample_puzzles(split, count, seed)]
    found: list[Case] = []
    for model in MODELS:
        decoder = LocalDecoder.load(model, slots=64)
        for temperature in TEMPERATURES:
            search = Search(
                decoder=decoder, strategy=BestOfN(max(SIZES), stop_at_first=False), verifiers=[],
                decoding=Decoding.plain(temperature), max_tokens=75, seed=seed,
            )  # fmt: skip
            for solution in search.solve_many(problems):
                cast = votes(solution.tree)
                truth = countdown()
                right = {vote.node.id: truth(solution.problem, solution.tree.branch(vote.node.id)) for vote in cast}
                for size in SIZES:
                    known = read_votes(cast[:size], lambda texts: final_answers(texts).answers)
                    agreed = agree(known, equivalence_groups([vote.answer for vote in known]).groups)
                    if agreed is not None and agreed.confidence is not None:
                        ok = right[agreed.best].status == "accepted"
                        found.append(Case(model, temperature, solution.problem.key, size, agreed.confidence, ok))
            print(f"{split} {model} T={temperature:g}: {len(found)} leading answers so far", flush=True)
        decoder.close()
    return found


def features(found: Confidence) -> list[float]:
    odds = math.log((found.votes + 0.5) / (found.of - found.votes + 0.5))
    return [1.0, odds, found.entropy, found.logprob or 0.0]


def fit(known: Sequence[Case], used: Sequence[bool], ridge: float = 1e-3) -> Calibration:
    """Logistic regression by Newton's method, each problem weighing the same, on those features that are ``used``."""
    x = np.array([features(case.found) for case in known]) * np.array(used, float)
    y = np.array([float(case.right) for case in known])
    weights = np.zeros(x.shape[1])
    for _ in range(50):
        p = 1 / (1 + np.exp(-x @ weights))
        gradient = x.T @ (p - y) + ridge * weights
        curvature = (x * (p * (1 - p))[:, None]).T @ x + ridge * np.eye(x.shape[1])
        weights -= np.linalg.solve(curvature, gradient)
    return Calibration(*(round(float(w), 3) for w in weights))


def expected_error(p: np.ndarray, y: np.ndarray, bins: int = 10) -> float:
    """Expected calibration error (Naeini et al., 2015): mean gap of confidence and accuracy over equal-width bins."""
    at = np.minimum((p * bins).astype(int), bins - 1)
    return float(sum(abs(p[at == b].mean() - y[at == b].mean()) * (at == b).mean() for b in set(at)))


def measure(known: Sequence[Case], calibration: Calibration, draws: int = 2000) -> dict[str, object]:
    """Brier score and calibration error, with 95 % intervals over problems; by size as well."""
    rng = np.random.default_rng(0)
    names = sorted({case.problem for case in known})
    p = np.array([calibration(c.found.votes, c.found.of, c.found.entropy, c.found.logprob) for c in known])
    y = np.array([float(case.right) for case in known])
    rows = {name: [] for name in names}
    for at, case in enumerate(known):
        rows[case.problem].append(at)
    scores = []
    for _ in range(draws):
        at = np.concatenate([rows[names[k]] for k in rng.integers(len(names), size=len(names))])
        scores.append((np.mean((p[at] - y[at]) ** 2), expected_error(p[at], y[at])))
    low, high = np.quantile(scores, [0.025, 0.975], axis=0)
    base = float(np.mean((y.mean() - y) ** 2))
    return {
        "cases": len(known), "right": float(y.mean()), "brier": float(np.mean((p - y) ** 2)), "brier of the mean": base,
        "brier interval": [low[0], high[0]], "ece": expected_error(p, y), "ece interval": [low[1], high[1]],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=400, help="of each split")
    parser.add_argument("--fit", action="store_true", help="fit weights on the development split, too")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/confidence.json"))
    given = parser.parse_args()
    held_out = cases("test", given.problems, 1)
    result: dict[str, object] = {
        "in the package": asdict(EMBEDDED),
        "test": measure(held_out, EMBEDDED),
        "test, the share alone": measure(held_out, SHARE),
    }
    for model in MODELS:
        result[f"test, {model}"] = measure([case for case in held_out if case.model == model], EMBEDDED)
    for size in SIZES:
        result[f"test, {size} branches"] = measure([case for case in held_out if case.size == size], EMBEDDED)
    if given.fit:
        known = cases("dev", given.problems, 2)
        # How likely a model finds its tokens differs from model to model more than how its branches agree.
        for name, used in (("agreement", (1, 1, 1, 0)), ("agreement and log-probability", (1, 1, 1, 1))):
            fitted = fit(known, [bool(u) for u in used])
            result |= {f"fitted to {name}": asdict(fitted), f"test, fitted to {name}": measure(held_out, fitted)}
    given.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1), flush=True)


if __name__ == "__main__":
    main()
