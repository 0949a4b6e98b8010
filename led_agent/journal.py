"""The journal: an append-only JSONL file of events, from which a run resumes and any tree is rebuilt.

Each line is ``{"key": KEY, …event…}`` with the problem's key. A line is written whole by one unbuffered write, so a
killed process loses at most the line it was writing; a torn last line is dropped when the file is opened again.

What is kept in memory is where each problem's lines are, and no tree: a tree is built from its lines when it is asked
for. So a run over ten thousand problems needs no more memory than one over ten.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
import time
from collections.abc import Iterator, Sequence
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Self

from led_agent.errors import MachineError, UsageError
from led_agent.events import Ended, Event, RunStatus
from led_agent.lines import Index, drop_torn_line, line_of, number_at, read_events, read_lines
from led_agent.tree import Tree

__all__ = ["Journal", "drop_torn_line", "each_tree", "read_events", "read_trees", "tree_at"]

_TRIES, _PAUSE = 25, 0.02  # for the lock, and seconds between two


class Journal:
    """Runs on one or more problems, kept in a file as they happen. Iterating gives the problems' keys, in the order in
    which they began.

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
            _lock(self._file)
            self._index = Index(self.path)
            if self.path.stat().st_size != self._index.size:
                self._file.truncate(self._index.size)  # a torn line
        except BlockingIOError as error:
            self._file.close()
            raise MachineError(f"{self.path} is being written by another run; wait for it or choose another") from error
        except BaseException:
            self._file.close()
            raise
        self._writing = threading.Lock()  # searches in several threads may share a journal

    def __len__(self) -> int:
        return len(self._index.problems)

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._index.problems))

    def __contains__(self, problem: object) -> bool:
        return problem in self._index.problems

    def record(self, problem: str, event: Event) -> None:
        """Append one event; the end of a problem is also forced to the disk.

        Raises:
            MachineError: the disk is full or gone.
            UsageError: the problem has not begun, or begins twice.
        """
        line, ended = line_of(problem, event), event if isinstance(event, Ended) else None
        with self._writing:
            self._index.check(problem, event.event)
            self._write(line)
            self._index.add(problem, self._index.size, ended)
            self._index.size += len(line)
        if ended is not None:
            try:
                os.fsync(self._file.fileno())
            except OSError as error:
                raise MachineError(f"can't write {self.path}: {error.strerror}") from error

    def ended(self, problem: str) -> RunStatus | None:
        """How the search on a problem has ended; None where it has not, or has not begun."""
        known = self._index.problems.get(problem)
        return known.ended if known is not None else None

    def finished(self, problem: str) -> bool:
        """Whether the search on a problem is over: it has ended, and not by an interruption."""
        return self.ended(problem) not in (None, "interrupted")

    def kept(self, problem: str) -> Tree | None:
        """A problem's tree to take up: what the file holds of it, built anew each time; None where it has not begun.

        Raises:
            MachineError: the file can't be read.
            UsageError: a line is no event, or can't follow those before it; the message names it.
        """
        known = self._index.problems.get(problem)
        return tree_at(self.path, known.starts) if known is not None else None

    def begin(self, tree: Tree) -> None:
        """Write a tree's start, unless the file has it already."""
        if tree.problem.key not in self:
            self.record(tree.problem.key, tree.started)

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _write(self, line: bytes) -> None:
        """Append a line; what went in of one that doesn't fit is taken back, so that all lines stay whole."""
        try:
            written = self._file.write(line)
        except OSError as error:
            raise MachineError(f"can't write {self.path}: {error.strerror}") from error
        if written != len(line):
            with contextlib.suppress(OSError):  # then it is a torn line, and dropped when the file is opened again
                self._file.truncate(self._index.size)
            raise MachineError(f"can't write {self.path}: an event went in only in part; is the disk full?")


def _lock(file: FileIO) -> None:
    """Take the lock of a journal's file. Another run keeps it; who looks whether one does lets it go at once."""
    for left in reversed(range(_TRIES)):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not left:
                raise
            time.sleep(_PAUSE)
        else:
            return


def read_trees(path: str | os.PathLike[str]) -> dict[str, Tree]:
    """Every problem's tree from a journal, by problem key, in the order in which they began.

    Raises:
        MachineError, UsageError: as ``read_events``.
    """
    return {tree.problem.key: tree for tree in each_tree(path)}


def each_tree(path: str | os.PathLike[str], problem: str | None = None) -> Iterator[Tree]:
    """Every problem's tree from a journal, or that of one problem, built when it is asked for: a run over more problems
    than memory holds is read one at a time.

    Raises:
        MachineError: the file can't be read.
        UsageError: a line isn't an event, or there is no such problem; the message names it.
    """
    index = Index(Path(path))
    if problem is not None and problem not in index.problems:
        there = ", ".join(list(index.problems)[:20]) or "none yet"
        raise UsageError(f"{path} has no problem {problem!r}; it has {there}")
    for key, known in index.problems.items():
        if problem in (None, key):
            yield tree_at(index.path, known.starts)


def tree_at(path: Path, starts: Sequence[int]) -> Tree:
    """The tree that the events in these lines add up to."""
    tree: Tree | None = None
    for start, event in read_lines(path, starts):
        try:
            if tree is None:
                tree = Tree.replay([event])
            else:
                tree.apply(event)
        except UsageError as error:
            raise UsageError(f"{path} line {number_at(path, start)}: {error}") from error
    if tree is None:
        raise UsageError(f"{path} holds no line of this problem")
    return tree
