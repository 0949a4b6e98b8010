"""The command `led-agent bench`: what it does with its options, and what it prints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError
from rich.console import Console

from led_agent.bench.measure import PEERS, BenchResult, bench, check_peers
from led_agent.bench.view import markdown, render
from led_agent.bench.workload import Workload
from led_agent.diagnosis_view import stages
from led_agent.errors import UsageError, explain

__all__ = ["parse_peers", "print_result", "run_bench", "workload_of"]


def parse_peers(text: str | None) -> tuple[str, ...]:
    """Names with commas between them; None is all, and "none" is none.

    Raises:
        UsageError: there is no such peer.
    """
    if text is None:
        return PEERS
    if text.strip() == "none":
        return ()
    return check_peers([name.strip() for name in text.split(",")])


def workload_of(branches: int, prompt: int, new: int, temperature: float, dtype: str) -> Workload:
    """Raises: UsageError where one is out of its limits."""
    try:
        return Workload(branches=branches, prompt=prompt, new=new, temperature=temperature, dtype=dtype)
    except ValidationError as error:
        raise UsageError(explain(error)) from error


def run_bench(
    model: str | None,
    workload: Workload,
    *,
    rounds: int,
    peers: Sequence[str],
    device: str,
    gguf: Path | None,
    console: Console,
    quiet: bool,
) -> BenchResult:
    """Measure, with progress on the console."""
    with stages(console, quiet=quiet) as progress:
        return bench(model, workload, rounds=rounds, peers=peers, device=device, gguf=gguf, progress=progress)


def print_result(found: BenchResult, *, as_json: bool, as_markdown: bool, console: Console) -> None:
    """On standard output: JSON or Markdown and nothing else, or tables."""
    if as_json:
        print(found.model_dump_json(), file=console.file, flush=True)
    elif as_markdown:
        print(markdown(found), file=console.file, flush=True)
    else:
        console.print(render(found))
