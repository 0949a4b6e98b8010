"""What all commands share: where they print, how JSON is printed, and the exit code of an interrupt."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from led_agent.errors import UsageError

if TYPE_CHECKING:
    from led_agent.problems import BadLine
    from led_agent.types import Problem

__all__ = ["INTERRUPTED", "name_bad_lines", "print_json", "refuse_unfit", "stderr", "stdout", "stopping"]

INTERRUPTED = 130
stdout = Console()
stderr = Console(stderr=True)


def name_bad_lines(path: Path, bad: Sequence[BadLine]) -> None:
    for line in bad:
        stderr.print(Text(f"{path} line {line.number} {line.why}; passed over", style="red"), soft_wrap=True)


def print_json(row: dict[str, Any]) -> None:
    print(json.dumps(row), flush=True)


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
