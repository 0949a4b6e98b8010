"""What the process that drives a long run holds in memory, and how fast it goes when decoding costs nothing.

    python -m benchmarks.driver_memory --problems 10000 --branches 16 --tokens 512
    python -m benchmarks.driver_memory --problems 500,1000,2000

A scripted decoder gives branches of real size (five numbers a token), a run's folder keeps them. Each figure is of a
process of its own: the run, then the same folder opened again as a resumed run opens it. The folder, 0.6 MB a
problem at 16 branches of 512 tokens, is made where the system keeps temporary files (TMPDIR), and removed.
"""

from __future__ import annotations

import json
import math
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer

from led_agent import Problem, Search
from led_agent.protocols import Sink
from led_agent.runs import RunFolder
from led_agent.strategies import BestOfN
from led_agent.testing import ScriptedDecoder
from led_agent.types import Branch, DecodeRequest

_BYTES_A_TOKEN = 100  # of the journal, generously


class Forgetful(ScriptedDecoder):
    """Keeps no request: they would be most of what is measured."""

    def submit(self, request: DecodeRequest, sink: Sink) -> None:
        super().submit(request, sink)
        self.requests.clear()


class Model:
    """Makes branches of real size, quickly: what is drawn once is shifted by a little for each branch, so that every
    number is an object of its own, as when an engine has made it."""

    def __init__(self, tokens: int) -> None:
        draw = random.Random(0)
        self._logprobs = [math.log(1 - draw.random()) for _ in range(tokens)]
        self._ids = [draw.randrange(300, 150_000) for _ in range(tokens)]
        self._explored = tuple(draw.random() < 0.1 for _ in range(tokens))
        self._text = " ".join(f"w{draw.randrange(10**4)}" for _ in range(tokens))

    def __call__(self, request: DecodeRequest) -> Branch:
        small, number = request.seed / 2**63, request.seed % 1000
        logprobs = tuple([value - small for value in self._logprobs])
        return Branch(
            text=f"{self._text} {number}",
            token_ids=tuple([token + number for token in self._ids]),
            logprobs=logprobs,
            final_logprobs=tuple([value * small for value in logprobs]),
            entropies=tuple([small - value for value in logprobs]),
            explored=self._explored,
            finish="length",
        )


def drive(folder: Path, problems: int, branches: int, tokens: int, ordered: bool) -> dict[str, float]:
    """Run what is left of the problems in this folder."""
    asked = [Problem(prompt=f"Question {k}: what is {k} + {k}?", id=f"p{k}") for k in range(problems)]
    began, computed = time.perf_counter(), time.process_time()
    with RunFolder(folder, {"branches": branches, "tokens": tokens}) as kept:
        left = kept.remaining(asked)
        opened, computed = time.perf_counter() - began, time.process_time() - computed
        at_opening = _peak()
        search = Search(
            decoder=Forgetful(Model(tokens), slots=16),
            strategy=BestOfN(branches, stop_at_first=False),
            verifiers=[lambda problem, branch: branch.text.endswith("7")],
            max_tokens=tokens,
            journal=kept.journal,
        )
        with search:
            for solution in search.solve_many(left, ordered=ordered):
                kept.keep(solution)
    seconds = time.perf_counter() - began
    return {
        "problems run": len(left), "seconds to open": opened, "of the processor": computed,
        "MiB when opened": at_opening, "problems/s": len(left) / seconds, "peak MiB": _peak(),
        "journal GB": (folder / "journal.jsonl").stat().st_size / 1e9,
    }  # fmt: skip


def _peak() -> float:
    """The most that this process has had resident so far, in MiB."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (2**20 if sys.platform == "darwin" else 2**10)


def _alone(folder: Path, problems: int, branches: int, tokens: int, ordered: bool) -> dict[str, float]:
    """``drive`` in a process of its own: the most that a process has had resident never falls."""
    given = ["--folder", str(folder), "--problems", str(problems), "--branches", str(branches), "--tokens", str(tokens)]
    command = [sys.executable, "-m", "benchmarks.driver_memory", *given, "--ordered" if ordered else "--no-ordered"]
    told: dict[str, float] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    return told


def main(
    problems: Annotated[str, typer.Option(help="How many; several with commas, each a run of its own.")] = "500",
    branches: Annotated[int, typer.Option(help="A problem.")] = 16,
    tokens: Annotated[int, typer.Option(help="A branch.")] = 512,
    ordered: Annotated[bool, typer.Option(help="Give solutions in the order of the problems.")] = False,
    folder: Annotated[Path | None, typer.Option(help="Run in this folder only, and print JSON.", hidden=True)] = None,
) -> None:
    if folder is not None:
        print(json.dumps(drive(folder, int(problems), branches, tokens, ordered)))
        return
    for count in map(int, problems.split(",")):
        with tempfile.TemporaryDirectory() as made:
            needed, free = count * branches * tokens * _BYTES_A_TOKEN, shutil.disk_usage(made).free
            if needed > free:
                raise SystemExit(f"{made} has {free / 1e9:.1f} GB left, {needed / 1e9:.1f} are needed; set TMPDIR")
            for name in ("run", "opened again"):
                told = _alone(Path(made), count, branches, tokens, ordered)
                figures = ", ".join(f"{what} {value:.4g}" for what, value in told.items())
                print(f"{count} × {branches} × {tokens}, {name}: {figures}", flush=True)


if __name__ == "__main__":
    typer.run(main)
