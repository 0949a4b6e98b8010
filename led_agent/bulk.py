"""Verdicts on many answers that exist already: read as a stream, judged in threads, given out in their order.

This file knows answers, verifiers and order. It does not print.
"""

from __future__ import annotations

import functools
import json
import math
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from led_agent.errors import MachineError, PluginError, UsageError, boundary
from led_agent.judging import judge, verifier_name
from led_agent.problems import BadLine
from led_agent.protocols import Verifier
from led_agent.types import Branch, Problem, Verdict

__all__ = ["Answer", "Bulk", "Row", "count_lines", "read_answers", "wilson"]

Pair = tuple[Problem, Branch]
Row = dict[str, Any]
_AHEAD = 4  # times as many verdicts as threads are asked for before the first is waited for
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
    """One answer to one verifier, and the verdict that is under way; None where it waits for its siblings."""

    pair: Pair
    verifier: Verifier
    verdict: Future[Verdict] | None


class Bulk:
    """Judges answers by verifiers.

    Args:
        problems: By their keys.
        verifiers: Those to ask about a problem.
        concurrency: Threads.
        done: How often each (problem's key, verifier's name) has been judged before: so many answers are passed over,
            the first ones. As verdicts are given out in the answers' order, these are the ones that were judged.
    """

    def __init__(
        self,
        problems: Mapping[str, Problem],
        verifiers: Callable[[Problem], Sequence[Verifier]],
        *,
        concurrency: int,
        done: Mapping[tuple[str, str], int] | None = None,
    ) -> None:
        if concurrency < 1:
            raise UsageError(f"concurrency is {concurrency}; at least 1 is needed")
        self._problems, self._verifiers, self._concurrency = problems, verifiers, concurrency
        self._done = Counter(dict(done or {}))
        self._checked: dict[tuple[int, str], str | None] = {}
        self._together: dict[int, tuple[Verifier, dict[str, list[Pair]]]] = {}
        self._window: deque[_Asked] = deque()  # under way, in the answers' order
        self._stopping = threading.Event()

    def stop(self) -> None:
        """Judge no more answers; those under way are still given out. From any thread or signal handler."""
        self._stopping.set()
        for one in list(self._window):  # now: a thread that comes free would begin with the next
            if one.verdict is not None:
                one.verdict.cancel()

    @property
    def stopped(self) -> bool:
        return self._stopping.is_set()

    def rows(self, answers: Iterator[Answer]) -> Iterator[Row]:
        """{id, verifier, status, score, reason, seconds} for each answer and verifier, in the answers' order; last
        those of verifiers that compare a problem's answers with each other, which are kept in memory for it.

        Raises:
            MachineError, ModelError: a verifier can't be used at all.
        """
        pool = ThreadPoolExecutor(max_workers=self._concurrency, thread_name_prefix="led-verify")
        try:
            for chunk in self._chunks(answers):
                self._window.extend(self._begin(pool, chunk))
                while len(self._window) > _AHEAD * self._concurrency:
                    yield from self._finish()
            while self._window:
                yield from self._finish()
            if not self.stopped:
                yield from self._compare()
        finally:
            pool.shutdown(wait=not self.stopped, cancel_futures=True)

    def _chunks(self, answers: Iterator[Answer]) -> Iterator[list[tuple[Pair, Verifier]]]:
        """What to ask next: of a batch's size where a verifier takes batches."""
        chunk: list[tuple[Pair, Verifier]] = []
        count = largest = 0
        for answer in answers:
            if self.stopped:
                return
            problem = self._problems[answer.id]
            for verifier in self._verifiers(problem):
                key = (problem.key, verifier_name(verifier))
                if callable(getattr(verifier, "together", None)):
                    groups = self._together.setdefault(id(verifier), (verifier, {}))[1]
                    groups.setdefault(problem.key, []).append((problem, Branch(text=answer.text)))
                elif self._done[key]:
                    self._done[key] -= 1
                else:
                    chunk.append(((problem, Branch(text=answer.text)), verifier))
                    largest = max(largest, _batch_size(verifier))
            count += 1
            if chunk and count >= largest:
                yield chunk
                chunk, count, largest = [], 0, 0
        if chunk and not self.stopped:
            yield chunk

    def _begin(self, pool: ThreadPoolExecutor, chunk: list[tuple[Pair, Verifier]]) -> list[_Asked]:
        asked = [_Asked(pair, verifier, None) for pair, verifier in chunk]
        waiting: dict[int, list[_Asked]] = {}
        for one in asked:
            fault = self._fault(one.verifier, one.pair[0])
            if fault is not None:
                one.verdict = Future()
                one.verdict.set_result(Verdict(status="error", reason=fault, verifier=verifier_name(one.verifier)))
            else:
                waiting.setdefault(id(one.verifier), []).append(one)
        for group in waiting.values():
            size = _batch_size(group[0].verifier)
            for at in range(0, len(group), size):
                part = group[at : at + size]
                futures = submit(pool, part[0].verifier, [one.pair for one in part])
                for one, future in zip(part, futures, strict=True):
                    one.verdict = future
        return asked

    def _finish(self) -> Iterator[Row]:
        """The first of the window. After a stop what had not begun is dropped, and all behind it, for the order."""
        one = self._window.popleft()
        assert one.verdict is not None
        try:
            verdict = one.verdict.result()
        except CancelledError:
            self._window.clear()
        else:
            yield _row(one.pair[0].key, verifier_name(one.verifier), verdict)

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
            for key, pairs in groups.items():
                seen = self._done[key, name]
                if seen >= len(pairs):
                    continue
                if self.stopped:
                    return
                compare = functools.partial(verifier.together, pairs[0][0])  # type: ignore[attr-defined]
                verdicts = _several(name, compare, [branch for _, branch in pairs], pairs)
                yield from (_row(key, name, verdict) for verdict in verdicts[seen:])


def submit(pool: ThreadPoolExecutor, verifier: Verifier, pairs: Sequence[Pair]) -> list[Future[Verdict]]:
    """A verdict to come for each pair: of one call of ``batch`` where the verifier has it, else of a call each."""
    batch = getattr(verifier, "batch", None)
    if not callable(batch):
        return [pool.submit(_one, verifier, pair) for pair in pairs]
    futures: list[Future[Verdict]] = [Future() for _ in pairs]

    def work() -> None:
        # Those that were cancelled meanwhile are computed with the others, and dropped.
        wanted = [future.set_running_or_notify_cancel() for future in futures]
        if any(wanted):
            verdicts = _several(verifier_name(verifier), batch, list(pairs), pairs)
            for future, verdict, alive in zip(futures, verdicts, wanted, strict=True):
                if alive:
                    future.set_result(verdict)

    pool.submit(work)
    return futures


def _one(verifier: Verifier, pair: Pair) -> Verdict:
    return judge([verifier], *pair)[0]


class _Said:
    """A verifier that has spoken already, so that what it said is read as any verifier's word is."""

    def __init__(self, name: str, said: Any) -> None:
        self.name, self._said = name, said

    def __call__(self, problem: Problem, branch: Branch, /) -> Any:
        return self._said


def _several(
    name: str, call: Callable[[Sequence[Any]], Any], given: Sequence[Any], pairs: Sequence[Pair]
) -> list[Verdict]:
    """The verdicts of one call on all pairs; what it raises is each one's error."""
    try:
        with boundary(f"verifier {name}"):
            said = list(call(given))
        fault = (
            f"verifier {name} returned {len(said)} verdicts on {len(pairs)} answers" if len(said) != len(pairs) else ""
        )
    except PluginError as error:
        said, fault = [], str(error)
    if fault:
        said = [Verdict(status="error", reason=fault)] * len(pairs)
    return [judge([_Said(name, value)], *pair)[0] for value, pair in zip(said, pairs, strict=True)]


def _batch_size(verifier: Verifier) -> int:
    size = getattr(verifier, "batch_size", 1)
    return size if isinstance(size, int) and size > 0 and callable(getattr(verifier, "batch", None)) else 1


def _row(problem: str, verifier: str, verdict: Verdict) -> Row:
    kept = ("status", "score", "reason", "seconds")
    return {"id": problem, "verifier": verifier, **{name: getattr(verdict, name) for name in kept}}
