"""All strategies on held-out puzzles under one budget of tokens, and what the ladder adds to exploring.

    python -m benchmarks.strategies table --model countdown-sft
    python -m benchmarks.strategies table --model countdown
    python -m benchmarks.strategies ladder --model countdown

Runs of ``led-agent eval``; reports go to ``benchmarks/results``. A step is an attempt of the trace: it ends at the word
"no". A run that was interrupted goes on when it is started again.
"""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import Annotated

import typer

from led_agent.cli import main as led_agent
from training.countdown.problems import IDS

RESULTS = Path(__file__).parent / "results"
STEP = f"step=none,step_tokens={IDS['no']},max_step_tokens=none"
STRATEGIES = (
    "best-of-n:n=64",
    "self-consistency:n=64",
    "weighted-vote:n=64",
    "without-replacement:n=64",
    "without-replacement:n=64,distinct_answers=true",
    "entropy-branching:n=64",
    f"beam:{STEP}",
    f"dvts:{STEP}",
    f"particle-filter:n=16,{STEP}",
    f"tree-of-thoughts:n=64,{STEP}",
    f"tree-of-thoughts:n=64,method=dfs,{STEP}",
    f"mcts:simulations=64,{STEP}",
    "abmcts:n=64",
    "repair(best-of-n:n=64)",
    "escalate(best-of-n:n=64)",
    "portfolio:n=64",
    "fallback(best-of-n:n=8)",
    "fallback(escalate(best-of-n:n=8))",
)
# From decoding that is sound to decoding that spoils what the model can do.
DECODINGS = (
    "plain:temperature=0.6",
    "plain:temperature=1.4",
    "noise:sigma=0.2,temperature=0.6",
    "led.paper:depths=8,temperature=1.0",
    "dola",
)

app = typer.Typer(help=__doc__, add_completion=False)
Model = Annotated[str, typer.Option(help="countdown or countdown-sft.")]
Count = Annotated[int, typer.Option(help="Held-out puzzles.")]
Work = Annotated[Path, typer.Option(help="Where the runs are kept while they go on.")]


def evaluate(model: str, strategies: tuple[str, ...], decoding: str, tokens: int, problems: int, work: Path) -> None:
    """One evaluation; its report is copied to the results under the name of its folder."""
    given = [value for strategy in strategies for value in ("--strategy", strategy)]
    common = ["--budget-tokens", str(tokens), "--limit", str(problems), "--max-tokens", "75", "--seed", "7"]
    with contextlib.suppress(SystemExit):
        led_agent(["eval", "countdown", "--model", model, "-d", decoding, *given, *common, "--out", str(work)])
    for suffix in ("md", "json"):
        shutil.copy(work / f"report.{suffix}", RESULTS / f"{work.name}.{suffix}")


@app.command()
def table(
    model: Model = "countdown-sft", tokens: int = 150, problems: Count = 300, work: Work = Path("runs/strategies")
) -> None:
    """Every strategy at the same decoding and budget."""
    evaluate(model, STRATEGIES, "plain:temperature=0.6", tokens, problems, work / f"strategies-{model}")


@app.command()
def ladder(
    model: Model = "countdown", tokens: int = 300, problems: Count = 300, work: Work = Path("runs/strategies")
) -> None:
    """Best-of-n for the whole budget against the ladder over four branches, decoding by decoding."""
    for decoding in DECODINGS:
        name = decoding.translate(str.maketrans(":=,", "---"))
        pair = ("best-of-n:n=64", "fallback(best-of-n:n=4)")
        evaluate(model, pair, decoding, tokens, problems, work / f"ladder-{model}-{name}")


if __name__ == "__main__":
    app()
