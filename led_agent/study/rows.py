"""A study's raw rows, and the files that hold them; a row of the study of exploration is a problem in an arm."""

from __future__ import annotations

import gzip
import json
from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import ValidationError

from led_agent.errors import MachineError, UsageError, explain
from led_agent.record import Record

__all__ = ["Key", "Keyed", "Row", "RowFile"]

Key = tuple[str, int, int, str, str]
_PLAIN, _PACKED, _SETTINGS = "rows.jsonl", "rows.jsonl.gz", "settings.json"


class Keyed(Record):
    """A row: what came of a problem, in one of the ways that a study compares."""

    @property
    @abstractmethod
    def key(self) -> tuple[Any, ...]:
        """What no other row of the study has; rows are packed in its order."""


R = TypeVar("R", bound=Keyed)


class Row(Keyed):
    """The branches of one problem in one arm, in the order in which they were asked for; each list has one entry a
    branch. Nothing in it differs from run to run: seconds are kept apart.

    Attributes:
        arm, group: The arm's name, and how many of its siblings were drawn together.
        repeat: Which of the problem's searches it is, from 0; samples are one row.
        split: "dev" or "test".
        problem: The problem's key.
        right: Whether the truth accepted it.
        answers: Which of the problem's answers it gives, by number; None where it gives none.
        tokens: Generated tokens that it cost, rolled back ones included.
        errors: Branches on which a verifier failed; they count as not right.
    """

    arm: str
    group: int
    repeat: int = 0
    split: str
    problem: str
    right: tuple[bool, ...]
    answers: tuple[int | None, ...]
    tokens: tuple[int, ...]
    errors: int = 0

    @property
    def key(self) -> Key:
        return self.arm, self.group, self.repeat, self.split, self.problem


class RowFile(Generic[R]):
    """A study's folder: rows are appended as they come, and packed at the end.

    Args:
        folder: Made where it is missing.
        settings: What the study is made with, plain JSON; one that is resumed must be given the same.
        kind: Of rows.

    Attributes:
        rows: What is there, by key.

    Raises:
        MachineError: the folder can't be written.
        UsageError: it holds a study with other settings, or a line that is no row.
    """

    def __init__(self, folder: Path, settings: dict[str, Any], kind: type[R]) -> None:
        self.folder, self._kind = folder, kind
        self.rows: dict[tuple[Any, ...], R] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._agree(json.loads(json.dumps(settings)))
            for row in self._read():
                self.rows[row.key] = row
            # What a cut-off run left unpacked, and torn perhaps, is written anew.
            self._file = (folder / _PLAIN).open("w", encoding="utf-8")
            self._file.writelines(_line(row) for row in self.rows.values())
            self._file.flush()
        except OSError as error:
            raise MachineError(f"can't write into {folder}: {error.strerror}; choose another with --out") from error

    def add(self, row: R) -> None:
        """Keep a row.

        Raises:
            MachineError: the disk is full or gone.
        """
        try:
            self._file.write(_line(row))
            self._file.flush()
        except OSError as error:
            raise MachineError(f"can't write {self.folder / _PLAIN}: {error.strerror}") from error
        self.rows[row.key] = row

    def pack(self) -> None:
        """Put all rows, in a fixed order, into one compressed file; the same rows give the same bytes."""
        self._file.close()
        lines = "".join(_line(self.rows[key]) for key in sorted(self.rows))
        try:
            with (self.folder / _PACKED).open("wb") as raw, gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as file:
                file.write(lines.encode())
            (self.folder / _PLAIN).unlink()
        except OSError as error:
            raise MachineError(f"can't write {self.folder / _PACKED}: {error.strerror}") from error

    def close(self) -> None:
        """Leave the rows unpacked, as after an interruption."""
        self._file.close()

    def _agree(self, wanted: dict[str, Any]) -> None:
        file = self.folder / _SETTINGS
        if file.exists():
            try:
                kept = json.loads(file.read_text())
            except ValueError as error:
                raise UsageError(f"{file} is not a study's settings: {error}; choose another --out") from error
            differing = [name for name in {**kept, **wanted} if kept.get(name) != wanted.get(name)]
            if differing:
                told = "; ".join(f"{n}: {kept.get(n)!r} there, {wanted.get(n)!r} now" for n in sorted(differing))
                raise UsageError(
                    f"{self.folder} holds a study with other settings ({told}); resume it with the same, or choose "
                    "another --out"
                )
        else:
            temporary = file.with_suffix(".tmp")
            temporary.write_text(json.dumps(wanted, indent=2) + "\n")
            temporary.replace(file)

    def _read(self) -> Iterator[R]:
        packed, plain = self.folder / _PACKED, self.folder / _PLAIN
        if packed.exists():
            try:
                with gzip.open(packed, "rt", encoding="utf-8") as file:
                    yield from (_row(self._kind, packed, line) for line in file)
            except (OSError, EOFError, UnicodeDecodeError) as error:
                raise UsageError(f"{packed} can't be read ({error}); remove it, or choose another --out") from error
        if plain.exists():
            with plain.open(encoding="utf-8", errors="replace") as file:
                yield from (
                    _row(self._kind, plain, line) for line in file if line.endswith("\n")
                )  # a torn line is made again


def _line(row: Keyed) -> str:
    return json.dumps(row.model_dump(mode="json"), separators=(",", ":")) + "\n"


def _row(kind: type[R], path: Path, line: str) -> R:
    try:
        return kind.model_validate_json(line)
    except ValidationError as error:
        raise UsageError(f"{path} has a line that is no row: {explain(error)}; remove it, or choose another") from error
