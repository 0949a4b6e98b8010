"""The journal: an append-only JSONL file of events, from which a run resumes and any tree is rebuilt.

Each line is ``{"key": KEY, …event…}`` with the problem's key. A line is written whole by one unbuffered write, so a
killed process loses at most the line it was writing; a torn last line is dropped when the file is opened again.
"""

from __future__ import annotations

import fcntl
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

__all__ = ["Journal", "drop_torn_line", "read_events", "read_trees"]

_OPENING = b'{"key": "'  # how each line begins, and so what is left of a torn one


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
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.trees = read_trees(self.path)
            drop_torn_line(self.path)
        except BlockingIOError as error:
            self._file.close()
            raise MachineError(f"{self.path} is being written by another run; wait for it or choose another") from error
        except BaseException:
            self._file.close()
            raise
        self._running: set[str] = set()

    def record(self, problem: str, event: Event) -> None:
        """Append one event; the end of a problem is also forced to the disk.

        Raises:
            MachineError: the disk is full or gone.
        """
        line = json.dumps({"key": problem, **event.model_dump(mode="json")}, ensure_ascii=True).encode() + b"\n"
        try:
            written = self._file.write(line)
            if isinstance(event, Ended):
                os.fsync(self._file.fileno())
        except OSError as error:
            raise MachineError(f"can't write {self.path}: {error.strerror}") from error
        if written != len(line):
            raise MachineError(f"can't write {self.path}: an event went in only in part; is the disk full?")

    def kept(self, problem: str) -> Tree | None:
        """A problem's tree to take up: what the file holds of it; None where it has not begun.

        One that ran with this journal is read again: the tree in memory also has what was cut off, and its listeners.
        """
        if problem in self._running:
            self._running.discard(problem)
            self.trees[problem] = read_trees(self.path)[problem]
        return self.trees.get(problem)

    def begin(self, tree: Tree) -> None:
        """Write a tree's start, unless the file has it already."""
        self._running.add(tree.problem.key)
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
        *lines, torn = name.read_bytes().split(b"\n")
    except OSError as error:
        raise MachineError(f"can't read {name}: {error.strerror}") from error
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            key = row.pop("key")
            yield str(key), event_adapter.validate_python(row, strict=False)
        except ValidationError as error:
            raise UsageError(f"{name} line {number} is no event of a journal: {explain(error)}") from error
        except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
            raise UsageError(f"{name} line {number} is not a line of a journal; was it made by --save?") from error
    if torn[: len(_OPENING)] != _OPENING[: len(torn)]:
        raise UsageError(f"{name} line {len(lines) + 1} is not a line of a journal; was it made by --save?")


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


def drop_torn_line(path: Path) -> None:
    """Cut what follows the last newline, so that the next event begins a line of its own."""
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole != len(data):
        os.truncate(path, whole)
