"""A training log: JSON lines in a file, and now and then a line on the terminal."""

from __future__ import annotations

import json
import sys
from pathlib import Path


class Log:
    """Starts ``path`` anew, appends records to it and shows them on standard error."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
        self._path = path

    def add(self, **record: float) -> None:
        """Keep one record and show it."""
        with self._path.open("a") as file:
            file.write(json.dumps(record) + "\n")
        shown = "  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in record.items())
        print(shown, file=sys.stderr, flush=True)
