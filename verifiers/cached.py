"""``cached(verifier)``: the same question is answered once, in this process or, with a file, ever.

This file knows keys, verdicts and one SQLite file. It does not know what is judged. Errors are never kept: what failed
may work the next time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sqlite3
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

import led_agent
from led_agent.errors import MachineError, UsageError
from led_agent.judging import batch_limit, compares, read, read_all, replica_limit, unable, verifier_name
from led_agent.protocols import Verifier
from led_agent.types import Branch, Problem, Verdict

__all__ = ["Cached", "cached"]

Pairs = Sequence[tuple[Problem, Branch]]
_MARK = 0x4C454456  # "LEDV", the file's application id
_WAIT = 30.0  # seconds for another process to have written


@dataclass(frozen=True)
class Cached:
    """A verifier that remembers what another one said of a problem and a text.

    Two questions are the same where prompt, answer, tests, entry point and metadata of the problem and the text of the
    branch are. (So it is for verifiers that look at nothing else of a branch.) The same question asked from several
    threads at a time is worked out once. Errors are not kept.

    Attributes:
        verifier: The one that is asked.
        path: An SQLite file for what it said, for later runs and for other processes at the same time; None keeps it in
            memory only. What led_agent's version or the verifier's settings change is asked anew; where a verifier is a
            function of your own, delete the file when you change it.
        size: How many verdicts are kept in memory, the latest used; the file keeps all.
    """

    verifier: Verifier
    path: str | None = None
    size: int = 10_000

    def __post_init__(self) -> None:
        if not callable(self.verifier) or isinstance(self.verifier, type):
            raise UsageError(f"cached: a verifier is a callable (problem, branch); found {self.verifier!r}")
        if compares(self.verifier):
            told = verifier_name(self.verifier)
            raise UsageError(f"cached: {told} compares branches, and what it says of one depends on the others")
        if isinstance(self.size, bool) or not isinstance(self.size, int) or self.size < 1:
            raise UsageError(f"cached: size is {self.size!r}; a whole number from 1 on is allowed")
        batch_limit(self.verifier)
        asker = _identity(self.verifier) if self.path is not None else ""
        object.__setattr__(self, "_store", _Store(self.path, asker, self.size))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.verifier, self.path, self.size)

    @property
    def name(self) -> str:
        return f"cached({verifier_name(self.verifier)})"

    def __call__(self, problem: Problem, branch: Branch, /) -> Verdict:
        """The verdict on one branch; may be called from many threads at once.

        Raises:
            MachineError: the file can't be used.
            Exception: whatever the verifier raises.
        """
        inner = verifier_name(self.verifier)
        return self._answers([(problem, branch)], lambda pairs: [read(self.verifier(*pairs[0]), inner)])[0]

    @property
    def batch(self) -> Callable[[Pairs], list[Verdict]]:
        """Verdicts on many branches at a time. There only where the verifier has it."""
        if batch_limit(self.verifier) is None:
            raise AttributeError(f"{verifier_name(self.verifier)} takes no batches")
        inner, ask = verifier_name(self.verifier), self.verifier.batch  # type: ignore[attr-defined]
        return lambda asked: self._answers(asked, lambda pairs: read_all(ask(pairs), len(pairs), inner))

    @property
    def batch_size(self) -> int:
        return batch_limit(self.verifier) or 1

    @property
    def replicas(self) -> int | None:
        return replica_limit(self.verifier)

    def check(self, problem: Problem) -> str | None:
        """What the verifier says before anything is decoded.

        Raises:
            MachineError: the file can't be used.
        """
        self._kept.open()
        return unable(self.verifier, problem)

    def close(self) -> None:
        """Close the file and the verifier. Idempotent; a later call opens them again."""
        self._kept.close()
        close = getattr(self.verifier, "close", None)
        if callable(close):
            close()

    @property
    def _kept(self) -> _Store:
        store: _Store = self._store  # type: ignore[attr-defined]
        return store

    def _answers(self, pairs: Pairs, compute: Callable[[Pairs], list[Verdict]]) -> list[Verdict]:
        keys = [_key(problem, branch) for problem, branch in pairs]
        known, mine = self._kept.claim(keys)
        if mine:
            try:
                said = compute([pairs[keys.index(key)] for key in mine])
            except BaseException as error:
                self._kept.fail(mine, error)
                raise
            self._kept.keep(dict(zip(mine, said, strict=True)))
        return [known[key].result().model_copy(update={"verifier": self.name}) for key in keys]


def cached(verifier: Verifier, path: str | os.PathLike[str] | None = None, size: int = 10_000) -> Cached:
    """A verifier that asks another one each thing once: see ``Cached``.

    Args:
        verifier: The one to ask; not one that compares branches.
        path: A file to keep verdicts in, safe for several processes; by default in memory only.
        size: How many verdicts are kept in memory.

    Raises:
        UsageError: no verifier, a size below 1, or a file for a verifier that can't be told from others (a lambda).
    """
    return Cached(verifier, None if path is None else os.fspath(path), size)


class _Store:
    """Verdicts by key: the latest used in memory, all in the file, and those that are being worked out as futures."""

    def __init__(self, path: str | None, asker: str, size: int) -> None:
        self._path, self._asker, self._size = path, asker, size
        self._lock = threading.Lock()
        self._latest: OrderedDict[str, Verdict] = OrderedDict()
        self._coming: dict[str, Future[Verdict]] = {}
        self._file: _File | None = None

    def claim(self, keys: Sequence[str]) -> tuple[dict[str, Future[Verdict]], list[str]]:
        """What is known or coming, for each key; and the keys that the caller is now to work out."""
        known: dict[str, Future[Verdict]] = {}
        mine: list[str] = []
        with self._lock:
            file = self._opened()
            for key in dict.fromkeys(keys):
                verdict = self._latest.get(key) or (file.get(self._named(key)) if file else None)
                if verdict is not None:
                    self._remember(key, verdict)
                    known[key] = Future()
                    known[key].set_result(verdict)
                elif key in self._coming:
                    known[key] = self._coming[key]
                else:
                    known[key] = self._coming[key] = Future()
                    mine.append(key)
        return known, mine

    def keep(self, said: dict[str, Verdict]) -> None:
        """Publish what was worked out, and keep what is no error. A file that fails must not hold up who waits."""
        sound = {key: verdict.model_copy(update={"seconds": 0.0}) for key, verdict in said.items()}
        sound = {key: verdict for key, verdict in sound.items() if verdict.status != "error"}
        with self._lock:
            coming = {key: self._coming.pop(key) for key in said}
            try:
                for key, verdict in sound.items():
                    self._remember(key, verdict)
                file = self._opened()
                if file and sound:
                    file.put({self._named(key): verdict for key, verdict in sound.items()})
            finally:
                for key, future in coming.items():
                    future.set_result(said[key])

    def fail(self, keys: Sequence[str], error: BaseException) -> None:
        with self._lock:
            coming = [self._coming.pop(key) for key in keys]
        for future in coming:
            future.set_exception(error)

    def open(self) -> None:
        with self._lock:
            self._opened()

    def close(self) -> None:
        with self._lock:
            if self._file is not None:
                self._file.close()
            self._file = None

    def _opened(self) -> _File | None:
        if self._path is None:
            return None
        if self._file is None or self._file.process != os.getpid():  # a connection must not cross a fork
            self._file = _File(self._path)
        return self._file

    def _remember(self, key: str, verdict: Verdict) -> None:
        self._latest[key] = verdict
        self._latest.move_to_end(key)
        if len(self._latest) > self._size:
            self._latest.popitem(last=False)

    def _named(self, key: str) -> str:
        return hashlib.blake2b(f"{led_agent.__version__}\n{self._asker}\n{key}".encode(), digest_size=20).hexdigest()


class _File:
    """Verdicts in an SQLite file, which takes care of several processes. Not for several threads at a time."""

    def __init__(self, path: str) -> None:
        self.process = os.getpid()
        self._path = path
        with self._explained():
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(path, timeout=_WAIT, check_same_thread=False, isolation_level=None)
        self._end = weakref.finalize(self, self._connection.close)
        with self._explained():
            self._begin()

    def _begin(self) -> None:
        # The tables first: another process may be making the file, and does both in one go.
        (tables,) = self._connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        (mark,) = self._connection.execute("PRAGMA application_id").fetchone()
        if tables and mark == _MARK:
            return
        if tables:
            self._end()
            raise MachineError(f"{self._path} is a database of something else; give cached another path")
        with self._transaction():
            self._connection.execute(f"PRAGMA application_id = {_MARK}")
            self._connection.execute(
                "CREATE TABLE IF NOT EXISTS verdicts (key TEXT PRIMARY KEY, verdict TEXT NOT NULL) WITHOUT ROWID"
            )

    def get(self, key: str) -> Verdict | None:
        with self._explained():
            row = self._connection.execute("SELECT verdict FROM verdicts WHERE key = ?", (key,)).fetchone()
            return Verdict.model_validate_json(row[0]) if row else None

    def put(self, said: dict[str, Verdict]) -> None:
        rows = [(key, verdict.model_dump_json()) for key, verdict in said.items()]
        with self._explained(), self._transaction():
            self._connection.executemany("INSERT OR REPLACE INTO verdicts VALUES (?, ?)", rows)

    def close(self) -> None:
        if self.process == os.getpid():
            self._end()

    @contextlib.contextmanager
    def _transaction(self) -> Any:
        self._connection.execute("BEGIN IMMEDIATE")  # waits for other writers here, where waiting is allowed
        try:
            yield
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")

    @contextlib.contextmanager
    def _explained(self) -> Any:
        """Say which file failed and what to do; a damaged one is neither mended nor passed over in silence."""
        try:
            yield
        except (sqlite3.OperationalError, OSError) as error:
            raise MachineError(
                f"cached: can't use {self._path}: {error}; free the file or give another path"
            ) from error
        except (sqlite3.DatabaseError, ValidationError, UnicodeDecodeError) as error:
            told = str(error).splitlines()[0]
            raise MachineError(
                f"cached: {self._path} is damaged or no cache of verdicts ({told}); delete it"
            ) from error


def _key(problem: Problem, branch: Branch) -> str:
    """A digest of all that a verdict may depend on."""
    metadata = json.dumps(problem.metadata, sort_keys=True, default=repr)
    tests = problem.tests if problem.tests is None or isinstance(problem.tests, str) else [*problem.tests]
    asked = [problem.digest, problem.answer, tests, problem.entry_point, metadata, branch.text]
    return hashlib.blake2b(json.dumps(asked, sort_keys=True, default=repr).encode(), digest_size=20).hexdigest()


def _identity(thing: object) -> str:
    """What tells a verifier from others in every process: its class and settings, or where a function stands.

    Raises:
        UsageError: nothing does, as with a lambda.
    """
    if is_dataclass(thing) and not isinstance(thing, type):
        settings = [f"{field.name}={_identity(getattr(thing, field.name))}" for field in fields(thing)]
        return f"{type(thing).__module__}.{type(thing).__qualname__}({', '.join(settings)})"
    if isinstance(thing, tuple | list):
        return f"[{', '.join(map(_identity, thing))}]"
    place = getattr(thing, "__qualname__", None)
    if isinstance(place, str) and "<" not in place:
        return f"{getattr(thing, '__module__', '')}.{place}"
    shown = repr(thing)
    if place is not None or " at 0x" in shown:
        raise UsageError(
            f"cached: {shown[:80]} can't be told from others in a file; give a function of a module or a dataclass, "
            "or no path"
        )
    return shown
