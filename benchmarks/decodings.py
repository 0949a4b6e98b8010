"""What each way of decoding finds on the embedded model: pass@1, pass@16 and distinct answers on held-out puzzles.

    python -m benchmarks.decodings --problems 240 --out benchmarks/decodings.jsonl [--part 0/2]
    python -m benchmarks.decodings --table benchmarks/decodings.jsonl

Each law is drawn 16 times a puzzle with stratified siblings and 16 times with independent ones, on the same puzzles. A
law that is in the file already is not drawn again. Intervals are percentile bootstraps over puzzles (5,000
resamples); differences are paired by puzzle.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

from led_agent import Branch, Decoding, LatentNoise, Problem
from led_agent.engine import Engine, EngineRequest
from led_agent.verifiers import countdown
from training.countdown.evaluate import Estimate, bootstrap
from training.countdown.problems import sample_puzzles

SAMPLES, NEW_TOKENS = 16, 116
MODES = ("stratified", "independent")


def laws() -> dict[str, Decoding]:
    """The laws compared, by name."""
    found = {f"plain, T={t}": Decoding.plain(t) for t in (0.6, 1.0, 1.2)}
    found["LED paper, d=4, gate first, T=0.6"] = Decoding.led("paper", depths=4, temperature=0.6, gate_first=True)
    for t in (0.6, 1.0):
        found |= {f"LED paper, d={d}, T={t}": Decoding.led("paper", depths=d, temperature=t) for d in (2, 3, 4, 8)}
        found[f"LED official, d=8, T={t}"] = Decoding.led("official", temperature=t)
        found |= {f"noise σ={s}, T={t}": Decoding.noise(s, temperature=t) for s in (0.02, 0.05, 0.1)}
        both = Decoding.led("paper", depths=4, temperature=t).replace(latent_noise=LatentNoise(sigma=0.05))
        found[f"LED d=4 + noise σ=0.05, T={t}"] = both
        found[f"DoLa low, T={t}"] = Decoding.dola("low", temperature=t)
        found[f"ESamp β=0.1, T={t}"] = Decoding.esamp(0.1, temperature=t)
    return found


def draw(engine: Engine, puzzles: list[Any], decoding: Decoding, seed: int) -> Iterator[list[Branch]]:
    """Each puzzle's branches."""
    tokenizer = engine.parts.tokenizer
    requests = []
    for at, puzzle in enumerate(puzzles):
        chat = [{"role": "user", "content": text_of(puzzle)}]
        text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        ids = tokenizer.encode(text, add_special_tokens=False)
        group = seed * 1_000_003 + at
        requests.append(EngineRequest(f"p{at}", ids, decoding, group, NEW_TOKENS, SAMPLES))
    grown: dict[str, list[Branch]] = {}
    for event in engine.generate(requests):
        if event.branch is not None:
            grown.setdefault(event.id.partition("/")[0], []).append(event.branch)
    yield from (grown[f"p{at}"] for at in range(len(puzzles)))


def text_of(puzzle: Any) -> str:
    *first, last = puzzle.numbers
    return f"Use {', '.join(map(str, first))} and {last} to make {puzzle.target}."


def measure(engine: Engine, puzzles: list[Any], decoding: Decoding, seed: int) -> dict[str, Any]:
    """A row of the file: right branches, distinct answers and distinct sequences of each puzzle, and the cost."""
    judge = countdown()
    began = time.perf_counter()
    rows: dict[str, Any] = {"correct": [], "answers": [], "sequences": [], "tokens": 0, "explored": 0}
    for puzzle, branches in zip(puzzles, draw(engine, puzzles, decoding, seed), strict=True):
        verdicts = [judge(Problem(prompt=text_of(puzzle)), branch) for branch in branches]
        rows["correct"].append(sum(v.status == "accepted" for v in verdicts))
        rows["answers"].append(len({v.answer for v in verdicts}))
        rows["sequences"].append(len({branch.token_ids for branch in branches}))
        rows["tokens"] += sum(len(branch.token_ids) for branch in branches)
        rows["explored"] += sum(sum(branch.explored) for branch in branches)
    return rows | {"seconds": time.perf_counter() - began}


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: a line a law and mode, then the paired differences between the modes."""
    order = list(laws())
    by = {(row["law"], row["mode"]): row for row in sorted(rows, key=lambda row: order.index(row["law"]))}
    head = ["law", "siblings", "pass@1", "pass@16", "distinct answers", "distinct sequences", "tokens a branch"]
    lines = [head, ["---"] * len(head)]
    for (law, mode), row in by.items():
        right = np.array(row["correct"])
        columns = [right / SAMPLES, right > 0, row["answers"], row["sequences"]]
        branches = len(right) * SAMPLES
        lines.append([law, mode, *(told(bootstrap(c)) for c in columns), f"{row['tokens'] / branches:.1f}"])
    head = ["stratified less independent", "pass@1", "pass@16", "distinct answers", "distinct sequences"]
    lines += [[], head, ["---"] * len(head)]
    both = [law for law, mode in by if mode == MODES[0] and (law, MODES[1]) in by]
    differences = {law: difference(by[law, MODES[0]], by[law, MODES[1]]) for law in both}
    lines += [[law, *(told(bootstrap(c), "+") for c in columns)] for law, columns in differences.items()]
    mean = [np.mean([c[i] for c in differences.values()], 0) for i in range(4)]
    lines.append(["mean of all laws", *(told(bootstrap(c), "+") for c in mean)])
    return "\n".join(f"| {' | '.join(line)} |" if line else "" for line in lines)


def difference(a: dict[str, Any], b: dict[str, Any]) -> list[np.ndarray[Any, Any]]:
    """What a has more than b, by puzzle, of each of the four figures."""
    right, other = np.array(a["correct"]), np.array(b["correct"])
    return [
        (right - other) / SAMPLES,
        (right > 0).astype(float) - (other > 0),
        np.array(a["answers"]) - np.array(b["answers"]),
        np.array(a["sequences"]) - np.array(b["sequences"]),
    ]


def told(estimate: Estimate, sign: str = "") -> str:
    return f"{estimate.mean:{sign}.3f} ({estimate.low:{sign}.3f} … {estimate.high:{sign}.3f})"


def main(
    problems: Annotated[int, typer.Option(help="Held-out puzzles.")] = 240,
    out: Annotated[Path, typer.Option(help="Where rows are kept, one JSON object a line.")] = Path("decodings.jsonl"),
    model: Annotated[str, typer.Option(help="An embedded model.")] = "countdown",
    seed: Annotated[int, typer.Option(help="Of puzzles and samples.")] = 0,
    slots: Annotated[int, typer.Option(help="Branches at a time.")] = 64,
    part: Annotated[str, typer.Option(help="K/N: only every N-th law, from the K-th on.")] = "0/1",
    show: Annotated[
        Path | None, typer.Option("--table", help="Print the table of a file, and do nothing else.")
    ] = None,
) -> None:
    if show is not None:
        print(table([json.loads(line) for line in show.read_text().splitlines()]))
        return
    torch.set_num_threads(1)
    first, step = map(int, part.split("/"))
    engine = Engine.load(model, slots=slots)
    puzzles = sample_puzzles("test", problems, seed)
    done = {(r["law"], r["mode"]) for r in map(json.loads, out.read_text().splitlines())} if out.exists() else set()
    for name, law in list(laws().items())[first::step]:
        for mode in MODES:
            if (name, mode) in done:
                continue
            row = measure(engine, puzzles, law.replace(siblings=mode), seed)
            with out.open("a") as file:
                file.write(json.dumps({"law": name, "mode": mode, "model": model, "seed": seed} | row) + "\n")
            print(f"{name}, {mode}: {sum(row['correct'])} right, {row['seconds']:.0f} s", flush=True)


if __name__ == "__main__":
    typer.run(main)
