"""A run over a problems file, kept in a folder: what is finished there is never done again.

The folder holds ``run.json`` (the settings), ``journal.jsonl`` (every event) and ``results.jsonl`` (a line for each
finished problem, derived from the journal). Both may be far larger than memory: they are read a line, and built a tree,
at a time.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from led_agent.errors import MachineError, UsageError
from led_agent.journal import Journal, drop_torn_line
from led_agent.solution import Solution
from led_agent.types import Problem

__all__ = ["RunFolder"]


class RunFolder:
    """An output folder, new or resumed.

    Args:
        path: The folder; made where it is missing.
        settings: What the run is made with, plain JSON; a resumed run must be given the same.

    Attributes:
        journal: The run's journal.
        finished: Whether it was verified, of each finished problem by its key; what else came of it is in the files.

    Raises:
        MachineError: the folder can't be written, or another process is running in it.
        UsageError: it holds a run with other settings.
    """

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise MachineError(f"can't make the folder {path}: {error.strerror}; choose another with --out") from error
        self.journal = Journal(path / "journal.jsonl")
        try:
            self._agree(settings)
            self._results = path / "results.jsonl"
            self.finished = self._catch_up()
        except BaseException:
            self.journal.close()
            raise

    def remaining(self, problems: Sequence[Problem]) -> list[Problem]:
        """Those that are not finished, the ones that were begun first."""
        left = [p for p in problems if p.key not in self.finished]
        return sorted(left, key=lambda p: p.key not in self.journal)

    def keep(self, solution: Solution) -> None:
        """Write a finished problem's result; an interrupted one stays to be resumed.

        Raises:
            MachineError: the disk is full or gone.
        """
        if solution.status != "interrupted":
            self._write(solution.row())
            self.finished[solution.problem.key] = solution.verified

    def close(self) -> None:
        self.journal.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _agree(self, settings: dict[str, Any]) -> None:
        """Write the settings, or check that they are those of the run that is here."""
        file = self.path / "run.json"
        wanted = json.loads(json.dumps(settings))
        try:
            if file.exists():
                kept = json.loads(file.read_text())
                differing = [name for name in {**kept, **wanted} if kept.get(name) != wanted.get(name)]
                if differing:
                    told = "; ".join(f"{n}: {kept.get(n)!r} there, {wanted.get(n)!r} now" for n in sorted(differing))
                    raise UsageError(
                        f"{self.path} holds a run with other settings ({told}); resume it with the same, or choose "
                        "another --out"
                    )
            else:
                temporary = file.with_suffix(".tmp")
                temporary.write_text(json.dumps(wanted, indent=2) + "\n")
                temporary.replace(file)
        except OSError as error:
            raise MachineError(f"can't write {file}: {error.strerror}; choose another folder with --out") from error
        except json.JSONDecodeError as error:
            raise UsageError(f"{file} is not a run's settings: {error}; choose another --out") from error

    def _catch_up(self) -> dict[str, bool]:
        """Whether each finished problem was verified; results that the journal has and the file lacks are written
        now."""
        if self._results.exists():
            drop_torn_line(self._results)
        found = dict(_rows(self._results))
        for key in self.journal:
            tree = self.journal.kept(key) if key not in found and self.journal.finished(key) else None
            if tree is not None and tree.ended is not None:
                solution = Solution.of(tree, tree.ended)
                self._write(solution.row())
                found[key] = solution.verified
        return found

    def _write(self, row: dict[str, Any]) -> None:
        try:
            with self._results.open("ab", buffering=0) as file:
                file.write((json.dumps(row) + "\n").encode())
                os.fsync(file.fileno())
        except OSError as error:
            raise MachineError(f"can't write {self._results}: {error.strerror}") from error


def _rows(path: Path) -> Iterator[tuple[str, bool]]:
    """Each result's problem, and whether it was verified."""
    if not path.exists():
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                row = json.loads(line)
                found = str(row["id"]), bool(row["verified"])
            except (ValueError, KeyError, TypeError) as error:
                raise UsageError(
                    f"{path} line {number} is not a result; move the file away to have it made anew"
                ) from error
            yield found
