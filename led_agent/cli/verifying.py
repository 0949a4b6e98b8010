"""What `led-agent verify` does. Apart from its options, so that these are known without all that judging imports."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from led_agent.bulk import Answer, Bulk, Row, count_lines, read_answers, wilson
from led_agent.cli.base import INTERRUPTED, name_bad_lines, print_json, stderr, stdout, stopping
from led_agent.errors import MachineError, UsageError
from led_agent.journal import drop_torn_line
from led_agent.problems import BadLine, read_problems
from led_agent.protocols import Verifier
from led_agent.search import DefaultVerifiers
from led_agent.types import Branch, Problem, Verdict
from led_agent.verifiers.named import parse_verifier

__all__ = ["verify_file"]

_STATUSES = ("accepted", "rejected", "abstained", "error")


def verify_file(
    problems: Path,
    answers: Path,
    verifiers: Sequence[str],
    out: Path | None,
    *,
    concurrency: int | None,
    as_json: bool,
    quiet: bool,
) -> int:
    """Judge the answers of a file, print the verdicts, and return the exit code."""
    asked, bad = read_problems(problems)
    name_bad_lines(problems, bad)
    known = {problem.key: problem for problem in asked}
    total = count_lines(answers)
    if total == 0:
        raise UsageError(f'{answers} holds no answer; a line is {{"id": …, "text": …}}')
    named = [parse_verifier(name) for name in verifiers]
    _refuse_same_names(named)
    with ExitStack() as stack:
        tally = _Tally.of(out)
        default = _Default()
        for one in (*named, *default.all):
            close = getattr(one, "close", None)
            if callable(close):
                stack.callback(close)
        bulk = Bulk(
            known,
            (lambda _problem: named) if named else default,
            concurrency=concurrency or 2 * (os.cpu_count() or 1),
            done=tally.done,
        )
        source = _Source(answers, known, bool(bad))
        file = stack.enter_context(out.open("ab")) if out is not None else None
        with stopping(bulk.stop):
            _judge(bulk, source, tally, file, total=total, as_json=as_json, quiet=quiet)
    if not as_json:
        stdout.print(tally.table())
        stdout.print(f"{tally.fresh} verdicts in {tally.seconds:.1f} s, {tally.fresh / tally.seconds:.0f} a second")
    if bulk.stopped:
        return INTERRUPTED
    return 2 if source.bad else int(not tally.all_accepted)


def _judge(
    bulk: Bulk,
    source: _Source,
    tally: _Tally,
    file: IO[bytes] | None,
    *,
    total: int,
    as_json: bool,
    quiet: bool,
) -> None:
    progress = Progress(
        TextColumn("answers"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[told]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=stderr,
        disable=quiet,
    )
    began = time.perf_counter()
    with progress:
        task = progress.add_task("", total=total, told="")
        for row in bulk.rows(source.answers(lambda: progress.advance(task))):
            _keep(row, file)
            tally.add(row)
            if as_json:
                print_json(row)
            tally.seconds = max(1e-9, time.perf_counter() - began)
            progress.update(task, told=f"{tally.fresh / tally.seconds:.0f} verdicts/s")


def _keep(row: Row, file: IO[bytes] | None) -> None:
    if file is None:
        return
    try:
        file.write((json.dumps(row) + "\n").encode())
        file.flush()
    except OSError as error:
        raise MachineError(f"can't write {file.name}: {error.strerror}") from error


def _refuse_same_names(verifiers: Sequence[Verifier]) -> None:
    """Rows name their verifier: two of one name couldn't be told apart."""
    from led_agent.judging import verifier_name

    twice = [name for name, count in Counter(map(verifier_name, verifiers)).items() if count > 1]
    if twice:
        raise UsageError(f"two verifiers are called {twice[0]}, and rows couldn't be told apart; ask them one by one")


class _Source:
    """The answers of a file that belong to a problem; others are named. ``bad`` is whether there was one."""

    def __init__(self, path: Path, known: Mapping[str, Problem], bad: bool) -> None:
        self._path, self._known, self.bad = path, known, bad

    def answers(self, advance: Callable[[], object]) -> Iterator[Answer]:
        for found in read_answers(self._path):
            if isinstance(found, Answer) and found.id not in self._known:
                found = BadLine(found.line, f"answers {found.id!r}, which is no problem of the file")
            if isinstance(found, BadLine):
                self.bad = True
                name_bad_lines(self._path, [found])
            else:
                yield found
            advance()


class _Default:
    """What each problem calls for, and where that is nothing, a verdict that says so."""

    def __init__(self) -> None:
        self._chosen = DefaultVerifiers()
        self.all = self._chosen.all

    def __call__(self, problem: Problem) -> Sequence[Verifier]:
        return self._chosen(problem) or (_Nothing(),)


class _Nothing:
    name = "none"

    def __call__(self, problem: Problem, branch: Branch, /) -> Verdict:
        reason = "the problem calls for no verifier: it has no answer and is no puzzle; name one with --verifier"
        return Verdict(status="abstained", reason=reason)


@dataclass
class _Tally:
    """How many verdicts of each kind there are, in the file of an earlier run and now."""

    done: Counter[tuple[str, str]] = field(default_factory=Counter)
    statuses: dict[str, Counter[str]] = field(default_factory=dict)
    fresh: int = 0
    seconds: float = 1e-9

    @classmethod
    def of(cls, path: Path | None) -> _Tally:
        """Of what a file holds.

        Raises:
            MachineError: it can't be read or written.
            UsageError: a line is no verdict.
        """
        tally = cls()
        if path is None or not path.exists():
            return tally
        drop_torn_line(path)
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    row = json.loads(line)
                    tally.done[row["id"], row["verifier"]] += 1
                    tally.statuses.setdefault(row["verifier"], Counter())[row["status"]] += 1
                except (ValueError, LookupError, TypeError) as error:
                    raise UsageError(f"{path} line {number} is no verdict; give --out another file") from error
        return tally

    def add(self, row: Row) -> None:
        self.fresh += 1
        self.statuses.setdefault(row["verifier"], Counter())[row["status"]] += 1

    @property
    def all_accepted(self) -> bool:
        return all(set(counts) <= {"accepted"} for counts in self.statuses.values())

    def table(self) -> Table:
        table = Table(show_edge=False)
        table.add_column("verifier", no_wrap=True)
        for column in (*_STATUSES, "accepted of all (95 %)"):
            table.add_column(column, justify="right")
        for name, counts in self.statuses.items():
            accepted, total = counts["accepted"], counts.total()
            low, high = wilson(accepted, total)
            share = f"{accepted / total:.1%} ({100 * low:.1f}–{100 * high:.1f})"
            table.add_row(name, *(str(counts[status]) for status in _STATUSES), share)
        return table
