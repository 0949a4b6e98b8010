"""The journal: an append-only JSONL file of events, from which a run resumes and any tree is rebuilt.

Each line is ``{"problem": KEY, …event…}``. A line is written whole by one unbuffered write, so a killed process loses
at most the line it was writing; a torn last line is dropped when the file is opened again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from pydantic import ValidationError

from led_agent.errors import MachineError, UsageError, explain
from led_agent.events import Ended, Event, Started, event_adapter
from led_agent.tree import Tree

__all__ = ["Journal", "read_events", "read_trees"]


class Journal:
    """Runs on one or more problems, kept in a file as they happen.

    Args:
        path: The file; made where it is missing, continued where it holds a journal.

    Raises:
        MachineError: the file can't be opened or written.
        UsageError: the file holds something else than a journal.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("ab", buffering=0)
        except OSError as error:
            raise MachineError(f"can't write {self.path}: {error.strerror}; choose another place") from error
        try:
            self.trees = dict(read_trees(self.path))
            _drop_torn_line(self.path)
        except BaseException:
            self._file.close()
            raise

    def record(self, problem: str, event: Event) -> None:
        """Append one event; the end of a problem is also forced to the disk.

        Raises:
            MachineError: the disk is full or gone.
        """
        line = json.dumps({"problem": problem, **event.model_dump(mode="json")}, ensure_ascii=True) + "\n"
        try:
            self._file.write(line.encode())
            if isinstance(event, Ended):
                os.fsync(self._file.fileno())
        except OSError as error:
            raise MachineError(f"can't write {self.path}: {error.strerror}") from error

    def begin(self, tree: Tree) -> None:
        """Write a tree's start, unless the file has it already."""
        if tree.problem.key not in self.trees:
            self.record(tree.problem.key, tree.started)
            self.trees[tree.problem.key] = tree

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_events(path: str | os.PathLike[str]) -> Iterator[tuple[str, Event]]:
    """(problem key, event) of every line of a journal; a torn last line is passed over.

    Raises:
        MachineError: the file can't be read.
        UsageError: a line isn't an event; the message names it.
    """
    name = Path(path)
    try:
        lines = name.read_bytes().splitlines(keepends=True)
    except OSError as error:
        raise MachineError(f"can't read {name}: {error.strerror}") from error
    for number, line in enumerate(lines, 1):
        if not line.endswith(b"\n"):
            return
        try:
            row = json.loads(line)
            key = row.pop("problem")
            yield str(key), event_adapter.validate_python(row, strict=False)
        except ValidationError as error:
            raise UsageError(f"{name} line {number} is no event of a journal: {explain(error)}") from error
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise UsageError(f"{name} line {number} is not a line of a journal; was it made by --save?") from error


def read_trees(path: str | os.PathLike[str]) -> dict[str, Tree]:
    """Every problem's tree from a journal, by problem key, in the order in which they began.

    Raises:
        MachineError, UsageError: as ``read_events``.
    """
    trees: dict[str, Tree] = {}
    for key, event in read_events(path):
        if isinstance(event, Started):
            if key in trees:
                raise UsageError(f"{path} starts the problem {key!r} twice; it is not one run's journal")
            trees[key] = Tree.replay([event])
        elif key not in trees:
            raise UsageError(f"{path} has an event of the problem {key!r} before its start")
        else:
            trees[key].apply(event)
    return trees


def _drop_torn_line(path: Path) -> None:
    """Cut what follows the last newline, so that the next event begins a line of its own."""
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole != len(data):
        os.truncate(path, whole)
