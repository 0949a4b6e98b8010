"""What all commands share: where they print, how JSON is printed, and the exit code of an interrupt."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from led_agent.problems import BadLine

__all__ = ["INTERRUPTED", "name_bad_lines", "print_json", "stderr", "stdout"]

INTERRUPTED = 130
stdout = Console()
stderr = Console(stderr=True)


def name_bad_lines(path: Path, bad: Sequence[BadLine]) -> None:
    for line in bad:
        stderr.print(Text(f"{path} line {line.number} {line.why}; passed over", style="red"), soft_wrap=True)


def print_json(row: dict[str, Any]) -> None:
    print(json.dumps(row), flush=True)
