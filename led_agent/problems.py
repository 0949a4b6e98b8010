"""Problems as they come in: from a caller's words, or from a JSONL file, where a bad line is named and passed over."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from led_agent.errors import MachineError, UsageError, explain
from led_agent.types import Message, Problem

__all__ = ["Asked", "BadLine", "Shard", "as_problem", "read_problems"]

Asked = Problem | str | Sequence[Message | dict[str, Any]]


@dataclass(frozen=True)
class BadLine:
    """A line that isn't a problem, and why."""

    number: int
    why: str


@dataclass(frozen=True)
class Shard:
    """Part ``at`` of ``of`` of a file's problems, from 1 on. A problem's key alone decides which part it falls into, so
    that it stays there whatever else the file holds, on any machine."""

    at: int
    of: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """From "2/8".

        Raises:
            UsageError: it isn't I/N with 1 ≤ I ≤ N.
        """
        at, slash, of = text.strip().partition("/")
        if not (slash and at.isdecimal() and of.isdecimal() and 1 <= int(at) <= int(of)):
            raise UsageError(f"shard is {text!r}; allowed is I/N, part I of N, from 1/N to N/N, as 2/8")
        return cls(int(at), int(of))

    def __str__(self) -> str:
        return f"{self.at}/{self.of}"

    def holds(self, problem: Problem) -> bool:
        """Whether a problem falls into this part."""
        digest = hashlib.blake2b(problem.key.encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") % self.of == self.at - 1


def read_problems(path: Path) -> tuple[list[Problem], list[BadLine]]:
    """The problems of a file, and its bad lines. Blank lines count for nothing.

    Raises:
        MachineError: the file can't be read.
        UsageError: there is no problem in it.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise MachineError(f"can't read {path}: {error.strerror}") from error
    problems: list[Problem] = []
    bad: list[BadLine] = []
    first_seen: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            problem = _read_line(line)
        except UsageError as error:
            bad.append(BadLine(number, str(error)))
            continue
        first = first_seen.setdefault(problem.key, number)
        if first != number:
            bad.append(BadLine(number, f"has the id {problem.key!r} of line {first}; ids must differ"))
            continue
        problems.append(problem)
    if not problems:
        told = f"; line {bad[0].number}: {bad[0].why}" if bad else ", the file is empty"
        raise UsageError(f"{path} holds no problem{told}")
    return problems, bad


def _read_line(line: bytes) -> Problem:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise UsageError(f"is not valid JSON ({error})") from error
    if not isinstance(row, dict):
        raise UsageError(f"is not a JSON object but {type(row).__name__}")
    return Problem.from_row(row)


def as_problem(asked: Asked) -> Problem:
    """A problem from a problem, a string or chat messages.

    Raises:
        UsageError: the prompt is empty or not a prompt.
    """
    if isinstance(asked, Problem):
        return asked
    prompt = asked if isinstance(asked, str) else tuple(asked)
    try:
        return Problem.model_validate({"prompt": prompt})
    except ValidationError as error:
        raise UsageError(f"not a problem: {explain(error)}") from error
