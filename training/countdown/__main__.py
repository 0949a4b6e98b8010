"""The command line of the recipe: ``python -m training.countdown build``."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Annotated

import typer

from .evaluate import Measuring
from .problems import ATTEMPTS, NEW_TOKENS
from .report import curves
from .rl import RlSettings
from .sft import SftSettings
from .stages import Plan
from .stages import build as build_all
from .stages import compare as compare_all
from .stages import install as install_all
from .stages import measure as measure_all

app = typer.Typer(add_completion=False, no_args_is_help=True, help=f"Countdown reasoner, {ATTEMPTS} tries a trace.")
Processes = Annotated[int, typer.Option(min=1, help="Processes of one thread each; the result depends on it.")]
Seed = Annotated[int, typer.Option(help="Of weights, traces and rollouts.")]
Tokens = Annotated[int, typer.Option(min=1, help="Tokens of supervised training.")]
Problems = Annotated[int, typer.Option(min=2, help="Problems to evaluate on.")]
Samples = Annotated[int, typer.Option(min=1, help="Rollouts a problem and temperature.")]


@app.command()
def build(
    out: Annotated[Path, typer.Option(help="Where the checkpoints go; finished stages there are kept.")] = Path(
        "runs/countdown"
    ),
    seed: Seed = 0,
    processes: Processes = 2,
    blocks: Annotated[int, typer.Option(min=4, help="Transformer blocks.")] = SftSettings.blocks,
    lens_weight: Annotated[float, typer.Option(min=0, help="Weight of the lens loss.")] = SftSettings.lens_weight,
    tokens: Tokens = SftSettings.tokens,
    rl_steps: Annotated[int, typer.Option(min=1, help="Updates of reinforcement learning.")] = RlSettings.steps,
    problems: Problems = Measuring.problems,
    samples: Samples = Measuring.samples,
) -> None:
    """Make countdown-sft and countdown, and measure both on held-out problems."""
    if importlib.util.find_spec("matplotlib") is None:  # said now, and not in an hour
        raise typer.BadParameter("the curves need matplotlib: pip install -c constraints.txt -e '.[training]'")
    plan = Plan(
        out,
        processes,
        SftSettings(blocks=blocks, lens_weight=lens_weight, tokens=tokens, seed=seed),
        RlSettings(steps=rl_steps, seed=seed),
        Measuring(problems=problems, samples=samples, seed=seed),
    )
    build_all(plan)
    curves(out / "countdown-sft" / "log.jsonl", out / "countdown" / "log.jsonl", out / "curves.svg")


@app.command()
def compare(
    out: Annotated[Path, typer.Option(help="Where the checkpoints go; finished ones there are kept.")] = Path(
        "runs/depths"
    ),
    seed: Seed = 0,
    processes: Processes = 2,
    blocks: Annotated[list[int], typer.Option(help="Depths.")] = [8, 12, 16],  # noqa: B006  (typer reads it)
    lens_weight: Annotated[list[float], typer.Option(help="Weights of the lens loss.")] = [0.0, 0.3],  # noqa: B006
    tokens: Tokens = 3_000_000,
    problems: Problems = 300,
    samples: Samples = 16,
) -> None:
    """Compare depths, with and without the lens loss, on the development split."""
    measuring = Measuring("dev", problems, samples, temperatures=(0.0, 0.6, 1.0), led=(0.6, 1.0), seed=seed)
    compare_all(
        Plan(out, processes, sft=SftSettings(tokens=tokens, seed=seed), measuring=measuring), blocks, lens_weight
    )


@app.command()
def measure(
    checkpoints: Annotated[list[Path], typer.Argument(help="Folders of checkpoints.")],
    out: Annotated[Path, typer.Option(help="Where tables.md goes.")] = Path(),
    seed: Seed = 0,
    processes: Processes = 2,
    problems: Problems = Measuring.problems,
    samples: Samples = Measuring.samples,
    new_tokens: Annotated[int, typer.Option(min=1, help="Of a rollout; fewer mean fewer tries.")] = NEW_TOKENS,
    led: Annotated[list[float] | None, typer.Option(help="Measure LED over the late blocks at this T, too.")] = None,
) -> None:
    """Measure checkpoints on held-out problems; a folder that holds such a report is not measured again."""
    measuring = Measuring(problems=problems, samples=samples, new_tokens=new_tokens, led=tuple(led or ()), seed=seed)
    measure_all(Plan(out, processes, measuring=measuring), checkpoints)


@app.command()
def install(
    out: Annotated[Path, typer.Option(help="Where `build` put the checkpoints.")] = Path("runs/countdown"),
) -> None:
    """Copy finished checkpoints into the package."""
    import led_agent.models

    install_all(out, Path(led_agent.models.__file__).parent)


if __name__ == "__main__":
    app()
