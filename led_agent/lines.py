"""The lines of a journal's file: whose each is, where it begins, and what it says.

A file of many gigabytes is indexed in one pass that parses only the head of each line; what a line says is parsed when
it is asked for. This file knows bytes and events, and no tree.
"""

from __future__ import annotations

import codecs
import contextlib
import itertools
import json
import os
import re
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

from pydantic import ValidationError
from pydantic_core import PydanticSerializationError

from led_agent.errors import MachineError, UsageError, explain
from led_agent.events import Ended, Event, RunStatus, Started, event_adapter

__all__ = ["Index", "Tail", "drop_torn_line", "line_of", "number_at", "read_events", "read_lines"]

_OPENING = b'{"key": "'  # how each line begins, and so what is left of a torn one
_HEAD = re.compile(rb'\{"key": ("(?:[^"\\]|\\.)*"), "event": "(\w+)"[,}]')
_EVENTS = frozenset(kind.model_fields["event"].default for kind in get_args(Event))
_BLOCK = 1 << 20
_NO_LINE = (ValueError, KeyError, AttributeError, TypeError, RecursionError)  # a ValidationError is a ValueError


@dataclass(slots=True)
class _Known:
    """One problem: where its lines begin, eight bytes each, and how its search has ended, if it has."""

    starts: array[int] = field(default_factory=lambda: array("Q"))
    ended: RunStatus | None = None


class Index:
    """Where each problem's events stand in a journal's file, in the order in which the problems began.

    Args:
        path: The file; it is read once, line by line.

    Raises:
        MachineError: the file can't be read.
        UsageError: a line isn't one of a journal, or an event comes before its problem's start.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.size = path, 0  # the size of the whole lines
        self.problems: dict[str, _Known] = {}
        for number, line in _whole_lines(path):
            try:
                key, name = _head(line)
                event = _parse(line)[1] if name == "ended" else None  # short, and it says how
            except _NO_LINE as error:
                raise _refusal(path, number, error) from error
            self.check(key, name)
            self.add(key, self.size, event if isinstance(event, Ended) else None)
            self.size += len(line)

    def check(self, problem: str, event: str) -> None:
        """Refuse what can't be a problem's next event, by the event's name.

        Raises:
            UsageError: a second start, or anything else before the first.
        """
        if event == "started" and problem in self.problems:
            raise UsageError(f"{self.path} starts the problem {problem!r} twice; it is not one run's journal")
        if event != "started" and problem not in self.problems:
            raise UsageError(f"{self.path} has an event of the problem {problem!r} before its start")

    def add(self, problem: str, start: int, ended: Ended | None) -> None:
        """Note a problem's next line, and its end where the line says so."""
        known = self.problems.setdefault(problem, _Known())
        known.starts.append(start)
        if ended is not None:
            known.ended = ended.status


class Tail:
    """The lines of a journal that another process may be writing: those that are there, then those that are added.

    Attributes:
        position: Where the first line begins that has not been read; a line that isn't whole yet waits.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.position = path, 0
        self._file: tuple[int, int] | None = None

    def read(self, most: int = 1000) -> list[tuple[int, str, Event]]:
        """(where it begins, problem key, event) of the next whole lines, at most so many; empty where the file isn't
        there, or has no more.

        Raises:
            MachineError: the file can't be read.
            UsageError: a line isn't an event, or the file is no longer the one that was read before.
        """
        found: list[tuple[int, str, Event]] = []
        try:
            with self.path.open("rb", buffering=_BLOCK) as file:
                self._same(os.fstat(file.fileno()))
                file.seek(self.position)
                for line in itertools.islice(file, most):
                    if not line.endswith(b"\n"):
                        self._torn(line)
                        break
                    try:
                        key, event = _parse(line)
                    except _NO_LINE as error:
                        raise _refusal(self.path, number_at(self.path, self.position), error) from error
                    found.append((self.position, key, event))
                    self.position += len(line)
        except (FileNotFoundError, IsADirectoryError):  # a run's folder may just have been made
            return []
        except OSError as error:
            raise MachineError(f"can't read {self.path}: {error.strerror}") from error
        return found

    def _same(self, now: os.stat_result) -> None:
        before, self._file = self._file, (now.st_dev, now.st_ino)
        if (before is not None and before != self._file) or now.st_size < self.position:
            raise UsageError(f"{self.path} was replaced by another file while it was read; start again")

    def _torn(self, line: bytes) -> None:
        if line[: len(_OPENING)] != _OPENING[: len(line)]:
            raise _refusal(self.path, number_at(self.path, self.position), None)


def read_events(path: str | os.PathLike[str]) -> Iterator[tuple[str, Event]]:
    """(problem key, event) of every line of a journal; a torn last line is passed over.

    Raises:
        MachineError: the file can't be read.
        UsageError: a line isn't an event; the message names it.
    """
    name = Path(path)
    for number, line in _whole_lines(name):
        try:
            found = _parse(line)
        except _NO_LINE as error:
            raise _refusal(name, number, error) from error
        yield found


def read_lines(path: Path, starts: Sequence[int]) -> Iterator[tuple[int, Event]]:
    """(where it begins, event) of the lines that begin at these places.

    Raises:
        MachineError: the file can't be read.
        UsageError: a line isn't an event; the message names it.
    """
    try:
        with path.open("rb", buffering=1 << 16) as file:
            for start in starts:
                file.seek(start)
                line = file.readline()
                try:
                    event = _parse(line)[1]
                except _NO_LINE as error:
                    raise _refusal(path, number_at(path, start), error) from error
                yield start, event
    except OSError as error:
        raise MachineError(f"can't read {path}: {error.strerror}") from error


def number_at(path: Path, start: int) -> int:
    """The number of the line that begins at this place: counted only where it is to be told."""
    number = 1
    with path.open("rb") as file:
        while start > 0 and (block := file.read(min(start, _BLOCK))):
            number += block.count(b"\n")
            start -= len(block)
    return number


def line_of(problem: str, event: Event) -> bytes:
    """An event as a line, in ASCII: key and event's name first, so that the head alone says whose line it is."""
    head = f'{{"key": {json.dumps(problem)}, "event": "{event.event}"'
    body = _body(event).removeprefix(f'{{"event":"{event.event}"')
    return f"{head}{body}\n".encode("ascii", "led_agent.json")


def drop_torn_line(path: Path) -> None:
    """Cut what follows the last newline, so that the next line begins as one of its own."""
    with path.open("rb") as file:
        size = whole = file.seek(0, os.SEEK_END)
        while whole > 0:
            block = file.seek(max(0, whole - _BLOCK))
            found = file.read(whole - block).rfind(b"\n")
            if found >= 0:
                whole = block + found + 1
                break
            whole = block
    if whole != size:
        os.truncate(path, whole)


def _body(event: Event) -> str:
    """An event as JSON. Branches hold thousands of numbers, which pydantic writes ten times as fast as json;
    json is for what pydantic can't write: a problem's metadata may be anything, a text may end in half a character."""
    if not isinstance(event, Started):
        with contextlib.suppress(PydanticSerializationError):
            return event.model_dump_json()
    return json.dumps(event.model_dump(mode="json"), separators=(",", ":"))


def _escaped(error: UnicodeError) -> tuple[str, int]:
    """What ASCII lacks, as JSON spells it: it stands within strings, and nowhere else."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return json.dumps(error.object[error.start : error.end])[1:-1], error.end


codecs.register_error("led_agent.json", _escaped)


def _whole_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines with their numbers, but for a torn last one."""
    try:
        with path.open("rb", buffering=_BLOCK) as file:
            for number, line in enumerate(file, 1):
                if line.endswith(b"\n"):
                    yield number, line
                elif line[: len(_OPENING)] != _OPENING[: len(line)]:
                    raise _refusal(path, number, None)
    except OSError as error:
        raise MachineError(f"can't read {path}: {error.strerror}") from error


def _head(line: bytes) -> tuple[str, str]:
    """Whose line it is, and the name of its event."""
    found = _HEAD.match(line)
    if found is not None:
        key, name = json.loads(found[1]), found[2].decode()
    else:  # what another program has written anew may have its parts in another order
        row = json.loads(line)
        key, name = str(row["key"]), row["event"]
    if name not in _EVENTS:
        event_adapter.validate_python({"event": name})  # raises, and says which events there are
    return key, name


def _parse(line: bytes) -> tuple[str, Event]:
    row = json.loads(line)
    key = row.pop("key")
    return str(key), event_adapter.validate_python(row, strict=False)


def _refusal(path: Path, number: int, error: Exception | None) -> UsageError:
    if isinstance(error, ValidationError):
        return UsageError(f"{path} line {number} is no event of a journal: {explain(error)}")
    return UsageError(f"{path} line {number} is not a line of a journal; was it made by --save?")
