"""What all commands share: where they print, how results are printed, and the exit code of an interrupt."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from led_agent.errors import UsageError

if TYPE_CHECKING:
    from led_agent.problems import BadLine
    from led_agent.types import Problem

__all__ = [
    "INTERRUPTED",
    "name_bad_lines",
    "print_json",
    "print_text",
    "refuse_unfit",
    "results_only",
    "stderr",
    "stdout",
    "stopping",
]

INTERRUPTED = 130
stdout = Console()
stderr = Console(stderr=True)


def name_bad_lines(path: Path, bad: Sequence[BadLine]) -> None:
    for line in bad:
        stderr.print(Text(f"{path} line {line.number} {line.why}; passed over", style="red"), soft_wrap=True)


def print_json(row: dict[str, Any]) -> None:
    """A line of JSON on standard output."""
    print_text(json.dumps(row))


def print_text(text: str, end: str = "\n") -> None:
    """On standard output, as it is: nothing is wrapped, coloured or taken for markup. In a terminal a progress bar that
    is shown makes room for it: rich has put itself in sys.stdout's place then."""
    print(text, end=end, file=sys.stdout if stdout.file.isatty() else stdout.file, flush=True)


@contextmanager
def results_only() -> Iterator[None]:
    """Where standard output goes to a file or a program, keep it for what ``stdout``, ``print_json`` and ``print_text``
    are given. What anything else prints (verifiers, models' code, Ray) goes to standard error; rich's progress bars,
    which take what is printed while they are shown, take that, and not the results. A terminal shows all of it."""
    if stdout.file.isatty():
        yield
        return
    stdout.file = sys.stdout
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        stdout.file = None  # type: ignore[assignment]  # as it was made: wherever sys.stdout is then


def refuse_unfit(model: str | None, problems: Sequence[Problem]) -> None:
    """Stop at once where the embedded model can be asked none of the problems; one that fails alone is a result."""
    from led_agent.models import embedded_refusal, is_embedded

    refusals = [embedded_refusal(problem.text) for problem in problems] if is_embedded(model) else []
    if refusals and all(refusals):
        raise UsageError(f"none of the {len(problems)} problems can be asked; of the first: {refusals[0]}")


@contextmanager
def stopping(stop: Callable[[], None]) -> Iterator[None]:
    """The first Ctrl-C asks for an end that keeps what there is; the second is an ordinary one."""

    def ask(_signal: int, _frame: object) -> None:
        signal.signal(signal.SIGINT, before)
        stop()
        stderr.print("stopping; press Ctrl-C again to leave at once")

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
