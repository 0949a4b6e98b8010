"""Verdicts on many answers that exist already: read as a stream, judged by a verifier pool, given out in their order.

This file knows answers, verifiers and order. It does not print.
"""

from __future__ import annotations

import json
import math
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from led_agent.errors import MachineError, UsageError
from led_agent.judging import batch_limit, compares, verifier_name
from led_agent.problems import BadLine
from led_agent.protocols import Verifier
from led_agent.threads import start_thread
from led_agent.types import Branch, Problem, Verdict
from led_agent.verifier_pool import VerifierPool

__all__ = ["Answer", "Bulk", "Row", "count_lines", "read_answers", "wilson"]

Row = dict[str, Any]
_AHEAD = 4  # times as many verdicts as calls at a time are asked for before the first is waited for
_Z = 1.959963984540054  # 95 %


@dataclass(frozen=True)
class Answer:
    """A line of an answers file, or of a run's ``results.jsonl``: whose problem it answers, its text, and the line."""

    id: str
    text: str
    line: int = 0


def count_lines(path: Path) -> int:
    """Lines of a file, without keeping them.

    Raises:
        MachineError: it can't be read.
    """
    try:
        with path.open("rb") as file:
            return sum(1 for line in file if line.strip())
    except OSError as error:
        raise MachineError(f"can't read {path}: {error.strerror}") from error


def read_answers(path: Path) -> Iterator[Answer | BadLine]:
    """The answers of a file in their order, and lines that are none. Blank lines count for nothing.

    Raises:
        MachineError: it can't be read.
    """
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield _answer(number, line)
    except OSError as error:
        raise MachineError(f"can't read {path}: {error.strerror}") from error


def _answer(number: int, line: bytes) -> Answer | BadLine:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        return BadLine(number, f"is not valid JSON ({error})")
    if not isinstance(row, dict):
        return BadLine(number, f"is not a JSON object but {type(row).__name__}")
    name, text = row.get("id"), row.get("text")
    if isinstance(name, bool) or not isinstance(name, str | int | float):
        return BadLine(number, f"has the id {name!r}; the problem's id is needed, a text or a number")
    if not isinstance(text, str):
        return BadLine(number, f"has the text {str(text)[:40]!r} of type {type(text).__name__}; a string is needed")
    return Answer(str(name), text, number)


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """The 95 % score interval of a share (E. B. Wilson 1927); (0, 1) without trials."""
    if trials == 0:
        return 0.0, 1.0
    share, weight = successes / trials, _Z**2 / trials
    centre = (share + weight / 2) / (1 + weight)
    half = _Z * math.sqrt(share * (1 - share) / trials + weight / (4 * trials)) / (1 + weight)
    return max(0.0, centre - half), min(1.0, centre + half)


@dataclass
class _Asked:
    """One answer to one verifier, and the verdict that is under way."""

    problem: str
    verifier: str
    verdict: Future[tuple[Verdict, ...]]


class Bulk:
    """Judges answers by verifiers, through a verifier pool.

    Args:
        problems: By their keys.
        verifiers: Those to ask about a problem.
        concurrency: Calls of verifiers under way at a time.
        seconds: Wall-clock limit of one call; None is none.
        done: How often each (problem's key, verifier's name) has been judged before: so many answers are passed over,
            the first ones. As verdicts are given out in the answers' order, these are the ones that were judged.

    Raises:
        UsageError: a concurrency below 1, or a limit that is no positive number.
    """

    def __init__(
        self,
        problems: Mapping[str, Problem],
        verifiers: Callable[[Problem], Sequence[Verifier]],
        *,
        concurrency: int,
        seconds: float | None = None,
        done: Mapping[tuple[str, str], int] | None = None,
    ) -> None:
        self._problems, self._verifiers = problems, verifiers
        self._pool = VerifierPool(concurrency, seconds)
        self._done = Counter(dict(done or {}))
        self._checked: dict[tuple[int, str], str | None] = {}
        self._together: dict[int, tuple[Verifier, dict[str, list[Branch]]]] = {}
        self._window: deque[_Asked] = deque()  # under way, in the answers' order
        self._under_way: Counter[str] = Counter()  # by problem
        self._most = _AHEAD * concurrency  # of the window
        self._stopping = threading.Event()

    def stop(self) -> None:
        """Judge no more answers; those under way are still given out. From any thread or signal handler."""
        self._stopping.set()
        # In a thread, as a handler may have interrupted this one while it held the pool's lock.
        start_thread("led-close", self._pool.close).join(timeout=1)

    @property
    def stopped(self) -> bool:
        return self._stopping.is_set()

    def rows(self, answers: Iterator[Answer]) -> Iterator[Row]:
        """{id, verifier, status, score, reason, seconds} for each answer and verifier, in the answers' order; last
        those of verifiers that compare a problem's answers with each other, which are kept in memory for it.

        Raises:
            MachineError, ModelError: a verifier can't be used at all.
        """
        try:
            for answer in answers:
                if self.stopped:
                    break
                self._begin(answer)
                while len(self._window) > self._most:
                    yield from self._finish()
            while self._window:
                yield from self._finish()
            if not self.stopped:
                yield from self._compare()
        finally:
            self._pool.close()

    def _begin(self, answer: Answer) -> None:
        problem = self._problems[answer.id]
        branch = Branch(id=str(answer.line), text=answer.text)
        for verifier in self._verifiers(problem):
            name = verifier_name(verifier)
            if compares(verifier):
                groups = self._together.setdefault(id(verifier), (verifier, {}))[1]
                groups.setdefault(problem.key, []).append(branch)
            elif self._done[problem.key, name]:
                self._done[problem.key, name] -= 1
            else:
                self._window.append(_Asked(problem.key, name, self._ask(verifier, problem, branch)))
                self._under_way[problem.key] += 1
                self._most = max(self._most, 2 * (batch_limit(verifier) or 1))

    def _ask(self, verifier: Verifier, problem: Problem, branch: Branch) -> Future[tuple[Verdict, ...]]:
        fault = self._fault(verifier, problem)
        if fault is None:
            return self._pool.submit([verifier], problem, branch)
        refused: Future[tuple[Verdict, ...]] = Future()
        refused.set_result((Verdict(status="error", reason=fault, verifier=verifier_name(verifier)),))
        return refused

    def _finish(self) -> Iterator[Row]:
        """The first of the window. After a stop what had not begun is dropped, and all behind it, for the order."""
        one = self._window.popleft()
        try:
            verdict = one.verdict.result()[0]
        except CancelledError:
            self._window.clear()
            return
        self._under_way[one.problem] -= 1
        if not self._under_way[one.problem]:  # nobody asks again: so that a big file takes no more than a small one
            del self._under_way[one.problem]
            self._pool.forget(one.problem)
        yield _row(one.problem, one.verifier, verdict)

    def _fault(self, verifier: Verifier, problem: Problem) -> str | None:
        """What is wrong with a problem in a verifier's eyes, asked once. What is wrong with the verifier is raised."""
        key = (id(verifier), problem.key)
        if key not in self._checked:
            check = getattr(verifier, "check", None)
            fault = None
            try:
                if callable(check):
                    check(problem)  # what it has nothing to say on, it says itself
            except UsageError as error:
                fault = str(error)
            self._checked[key] = fault
        return self._checked[key]

    def _compare(self) -> Iterator[Row]:
        for verifier, groups in self._together.values():
            name = verifier_name(verifier)
            for key, branches in groups.items():
                seen = self._done[key, name]
                if seen >= len(branches):
                    continue
                if self.stopped:
                    return
                try:
                    verdicts = self._pool.compare(verifier, self._problems[key], branches).result()
                except CancelledError:
                    return
                self._pool.forget(key)
                yield from (_row(key, name, verdict) for verdict in verdicts[seen:])


def _row(problem: str, verifier: str, verdict: Verdict) -> Row:
    kept = ("status", "score", "reason", "seconds")
    return {"id": problem, "verifier": verifier, **{name: getattr(verdict, name) for name in kept}}
