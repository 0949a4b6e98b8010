"""Saved trees, whatever they were saved as: a run's folder, a journal, or what `led-agent show --format` printed.

This file knows which kind of file it has before it. It reads a tree at a time, and does not know what is done with it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from led_agent.errors import MachineError, UsageError
from led_agent.journal import each_tree
from led_agent.tree import Tree

__all__ = ["journal_of", "read_saved"]

_JOURNAL = b'{"key":'
_KINDS = "a journal (--save, or a run's folder), or a tree as JSON, node-link JSON or GraphML (led-agent show --format)"


def journal_of(run: Path) -> Path:
    """The journal that a run is written to: the file itself, or the one in a run's folder."""
    return run / "journal.jsonl" if run.is_dir() else run


def read_saved(run: Path, problem: str | None = None) -> Iterator[Tree]:
    """The trees in a file or folder, or that of one problem, one at a time.

    Raises:
        MachineError: it can't be read.
        UsageError: it holds something else, nothing, or not this problem.
    """
    path = journal_of(run)
    start = _start(path)
    if not start:
        raise UsageError(f"{run} holds no run yet")
    if start.startswith(b"<"):
        yield from _wanted(iter([Tree.from_graphml(_text(path))]), problem, run)
    elif start.startswith(_JOURNAL):
        yield from _some(each_tree(path, problem), run)
    elif start.startswith(b"{"):
        yield from _wanted(_from_json(path), problem, run)
    else:
        raise UsageError(f"{run} is nothing that can be shown; allowed are {_KINDS}")


def _start(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(64).lstrip()
    except OSError as error:
        raise MachineError(f"can't read {path}: {error.strerror}") from error


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 text: {error}") from error


def _from_json(path: Path) -> Iterator[Tree]:
    """One document over several lines, or one a line."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                document = json.loads(line)
            except (ValueError, RecursionError):
                break  # then it is one document over several lines, or none
            yield _from_document(document, f"{path} line {number}")
        else:
            return
    try:
        document = json.loads(_text(path))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not valid JSON ({error}); allowed are {_KINDS}") from error
    yield _from_document(document, str(path))


def _from_document(document: object, place: str) -> Tree:
    try:
        if isinstance(document, dict) and isinstance(document.get("graph"), dict):
            return Tree.from_node_link(document)
        return Tree.from_json(json.dumps(document))
    except UsageError as error:
        raise UsageError(f"{place} is not a line of a journal, and {error}; allowed are {_KINDS}") from error


def _some(trees: Iterator[Tree], run: Path) -> Iterator[Tree]:
    empty = True
    for tree in trees:
        empty = False
        yield tree
    if empty:
        raise UsageError(f"{run} holds no run yet")


def _wanted(trees: Iterator[Tree], problem: str | None, run: Path) -> Iterator[Tree]:
    keys = []
    for tree in trees:
        keys.append(tree.problem.key)
        if problem in (None, tree.problem.key):
            yield tree
    if problem is not None and problem not in keys:
        raise UsageError(f"{run} has no problem {problem!r}; it has {', '.join(keys[:20])}")
