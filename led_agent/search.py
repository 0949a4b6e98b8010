"""The loop: propose, decode, verify, write to the tree. Until done, and always with an answer.

This file knows strategies, decoders and verifiers by their protocols only. It does not know torch, models or how
anything is computed. One thread runs the loop; decoders and verifiers report to it through one queue, so nothing
here needs a lock.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self, TypedDict, Unpack

from pydantic import ValidationError

from led_agent.errors import PluginError, UsageError, boundary, explain
from led_agent.events import Decoded, Ended, Event, RunStatus
from led_agent.journal import Journal
from led_agent.judging import judge
from led_agent.protocols import BranchDone, BranchProgress, DecodeEvent, Decoder, Strategy, Verifier
from led_agent.solution import Solution
from led_agent.tree import ROOT, Tree
from led_agent.types import Branch, Budget, DecodeRequest, Decoding, Message, Problem, Verdict

__all__ = ["Observer", "Search", "SearchOptions", "as_problem", "solve", "solve_many"]

Observer = Callable[[Tree, Event | BranchProgress], None]
Asked = Problem | str | Sequence[Message | dict[str, Any]]


class SearchOptions(TypedDict, total=False):
    """The keyword arguments of ``Search``, for ``solve`` and ``solve_many``."""

    strategy: Strategy | None
    verifiers: Sequence[Verifier]
    decoding: Decoding | None
    budget: Budget | None
    seed: int
    cluster: str | int | None
    max_tokens: int
    stop: Sequence[str]
    device: str
    dtype: str
    slots: int
    decoder: Decoder | None
    journal: Journal | None
    observer: Observer | None


# Asked for ahead of free slots, so that a slot that comes free is filled before the loop has turned.
_AHEAD = 1.25


@dataclass(frozen=True)
class _JudgedBranch:
    id: str
    verdicts: tuple[Verdict, ...]


class Search:
    """Holds a model, a strategy and verifiers, and solves problems with them.

    Args:
        model: Embedded name, local path, hub id or alias; loaded at the first problem. None is the default model.
        strategy: What to try; by default ``Fallback(BestOfN(8))``: explore, then fall back.
        verifiers: Each a callable ``(problem, branch) -> Verdict | bool | float``. A branch is accepted when none
            rejects or fails and at least one accepts.
        decoding: How tokens are chosen; by default LED with the paper's settings, and no deeper than the model.
        budget: What each problem may spend.
        seed: Of everything random.
        cluster: None runs in this process.
        max_tokens: New tokens a branch, at most.
        stop: Strings that end an answer.
        device, dtype, slots: For loading the model; ``slots`` branches grow at a time.
        decoder: A decoder to use instead of loading ``model``; not closed with the search.
        journal: Keeps every event; a problem that it holds unfinished is resumed, a finished one is not run again.
        observer: Called with each event, from the thread that runs the loop.

    Raises:
        UsageError: something given is not usable.
    """

    def __init__(
        self,
        model: str | None = None,
        *,
        strategy: Strategy | None = None,
        verifiers: Sequence[Verifier] = (),
        decoding: Decoding | None = None,
        budget: Budget | None = None,
        seed: int = 0,
        cluster: str | int | None = None,
        max_tokens: int = 512,
        stop: Sequence[str] = (),
        device: str = "auto",
        dtype: str = "auto",
        slots: int = 16,
        decoder: Decoder | None = None,
        journal: Journal | None = None,
        observer: Observer | None = None,
    ) -> None:
        if cluster is not None:
            raise UsageError(f"cluster={cluster!r}: this version decodes in this process only; leave cluster at None")
        if not 0 <= seed < 2**63:
            raise UsageError(f"seed is {seed}; allowed are 0 to 2**63 - 1")
        for name, value in (("max_tokens", max_tokens), ("slots", slots)):
            if value < 1:
                raise UsageError(f"{name} is {value}; it must be at least 1")
        not_callable = [v for v in verifiers if not callable(v)]
        if not_callable:
            raise UsageError(f"a verifier is a callable (problem, branch); found {not_callable[0]!r}")
        self.model = model
        self.strategy: Strategy = strategy if strategy is not None else _default_strategy()
        if not callable(getattr(self.strategy, "propose", None)):
            raise UsageError(f"a strategy has propose(tree, slots); found {self.strategy!r}")
        self.verifiers = tuple(verifiers)
        self.decoding = decoding
        self.budget = budget if budget is not None else Budget()
        self.seed, self.max_tokens, self.stop_strings = seed, max_tokens, tuple(stop)
        self._load = {"device": device, "dtype": dtype, "slots": slots}
        self._decoder, self._own_decoder = decoder, decoder is None
        self._journal, self._observer = journal, observer
        self._stopping = threading.Event()
        self._pool: ThreadPoolExecutor | None = None

    @property
    def decoder(self) -> Decoder:
        """The decoder; the model is loaded at the first use.

        Raises:
            ModelError: the model is missing or not supported.
        """
        if self._decoder is None:
            from led_agent.local import LocalDecoder

            self._decoder = LocalDecoder.load(self.model, **self._load)  # type: ignore[arg-type]
        return self._decoder

    def solve(self, problem: Asked) -> Solution:
        """Search on one problem.

        Raises:
            UsageError: the problem can't be posed to this model.
        """
        asked = as_problem(problem)
        tree = self._tree(asked)
        self.decoder.check(tree.requests(1)[0])
        return next(self._run([asked]))

    def solve_many(self, problems: Iterable[Asked], *, ordered: bool = True) -> Iterator[Solution]:
        """Search on many problems, sharing the decoder: when one needs fewer slots than there are, the next begins.

        Solutions come in the order of the problems, or with ``ordered=False`` as they are done. A problem that the
        model can't be asked is a solution with status "failed"; the others go on.

        Raises:
            UsageError: two problems have the same key.
        """
        solutions = self._run(problems)
        return _in_order(solutions, problems) if ordered and isinstance(problems, Sequence) else solutions

    def stop(self) -> None:
        """End all running problems soon, from any thread or signal handler: each gives what it has, with status
        "interrupted". Problems not yet begun are not begun."""
        self._stopping.set()

    def close(self) -> None:
        """Close verifiers, and the decoder where the search loaded it."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None
        for verifier in self.verifiers:
            close = getattr(verifier, "close", None)
            if callable(close):
                close()
        if self._own_decoder and self._decoder is not None:
            self._decoder.close()
            self._decoder = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- inside ------------------------------------------------------------------------------------------------

    def _run(self, problems: Iterable[Asked]) -> Iterator[Solution]:
        self._stopping.clear()
        if self._pool is None:
            workers = min(32, 2 * (os.cpu_count() or 1))
            self._pool = ThreadPoolExecutor(max_workers=workers, thread_name_prefix="led-verify")
        loop = _Loop(self, self._pool)
        return loop.solutions(problems)

    def _tree(self, problem: Problem) -> Tree:
        kept = self._journal.trees.get(problem.key) if self._journal is not None else None
        if kept is not None:
            self._check_resumable(kept, problem)
            return kept
        return Tree(
            problem,
            decoding=self._decoding(),
            seed=self.seed,
            max_tokens=self.max_tokens,
            stop=self.stop_strings,
        )

    def _check_resumable(self, kept: Tree, problem: Problem) -> None:
        fresh = Tree(
            problem, decoding=self._decoding(), seed=self.seed, max_tokens=self.max_tokens, stop=self.stop_strings
        )
        if kept.started != fresh.started:
            pairs = zip(kept.started, fresh.started, strict=True)
            differing = [name for (name, old), (_, new) in pairs if old != new]
            raise UsageError(
                f"the journal holds a run of {problem.key!r} with another {' and '.join(differing)}; "
                "give the same settings to resume it, or another file"
            )

    def _decoding(self) -> Decoding:
        if self.decoding is not None:
            return self.decoding
        depth = getattr(self.decoder, "n_blocks", None)
        return Decoding.led("paper", depths=min(8, depth) if depth else None)


@dataclass
class _Run:
    """One problem on its way: what is in flight, and why it is ending once it is."""

    tree: Tree
    deadline: float | None
    began: float = field(default_factory=time.monotonic)
    decoding: dict[str, int] = field(default_factory=dict)  # request id -> tokens so far
    judging: set[str] = field(default_factory=set)
    generated: int = 0
    branches: int = 0
    verifier_calls: int = 0
    ending: tuple[RunStatus, str] | None = None

    @property
    def key(self) -> str:
        return self.tree.problem.key


class _Loop:
    """One call of solve or solve_many: the runs that are on, and the queue on which everything arrives."""

    def __init__(self, search: Search, pool: ThreadPoolExecutor) -> None:
        self.search, self.pool = search, pool
        self.decoder = search.decoder
        self.inbox: queue.SimpleQueue[tuple[_Run, DecodeEvent | _JudgedBranch]] = queue.SimpleQueue()
        self.runs: dict[str, _Run] = {}
        self.seen: set[str] = set()
        self.done: deque[Solution] = deque()

    def solutions(self, problems: Iterable[Asked]) -> Iterator[Solution]:
        """Yield each problem's solution when its run has ended."""
        source = iter(problems)
        more = True
        try:
            while more or self.runs:
                more = self._fill(source, more)
                yield from self._take_done()
                if self.runs:
                    self._receive()
                yield from self._take_done()
        finally:  # the caller left early, or Ctrl-C: nobody waits for what is still being decoded
            for run in self.runs.values():
                self.decoder.cancel(run.key, list(run.decoding))

    def _take_done(self) -> Iterator[Solution]:
        while self.done:
            yield self.done.popleft()

    # --- propose -----------------------------------------------------------------------------------------------

    def _fill(self, source: Iterator[Asked], more: bool) -> bool:
        """Ask the strategies of all runs, oldest first, then begin new problems, while there is room."""
        if self.search._stopping.is_set():
            for run in list(self.runs.values()):
                self._end(run, "interrupted", "interrupted; this is the best so far")
            more = False
        for run in list(self.runs.values()):
            self._propose(run)
        while more and self._room() > 0:
            asked = next(source, None)
            if asked is None:
                return False
            self._begin(asked)
        return more

    def _room(self) -> int:
        in_flight = sum(len(run.decoding) for run in self.runs.values())
        return int(self.decoder.slots * _AHEAD + 0.5) - in_flight

    def _begin(self, asked: Asked) -> None:
        problem = as_problem(asked)
        if problem.key in self.seen:
            raise UsageError(f"two problems have the key {problem.key!r}; give each its own id")
        self.seen.add(problem.key)
        tree = self.search._tree(problem)
        if tree.ended is not None and tree.ended.status != "interrupted":
            self.done.append(Solution.of(tree, tree.ended))
            return
        seconds = self.search.budget.seconds
        run = _Run(tree, time.monotonic() + seconds if seconds is not None else None)
        self._follow(run)
        self.runs[run.key] = run
        try:
            self.decoder.check(tree.requests(1)[0])
        except UsageError as error:
            self._end(run, "failed", str(error))
        else:
            self._resume(run)
            self._propose(run)

    def _follow(self, run: _Run) -> None:
        """Let journal and observer see the tree's events. Branches cut off by an interruption stay out of the
        journal, so that resuming decodes them whole."""
        journal, observer = self.search._journal, self.search._observer
        if journal is not None:
            journal.begin(run.tree)

            def keep(event: Event) -> None:
                interrupted = run.ending is not None and run.ending[0] == "interrupted"
                if not (interrupted and isinstance(event, Decoded) and event.branch.finish == "cancelled"):
                    journal.record(run.key, event)

            run.tree.listen(keep)
        if observer is not None:
            run.tree.listen(lambda event: observer(run.tree, event))
            observer(run.tree, run.tree.started)

    def _resume(self, run: _Run) -> None:
        """Take up what the tree already holds: send what was in flight again, judge what was not judged."""
        spent = run.tree.usage()
        run.generated, run.branches, run.verifier_calls = spent.generated_tokens, spent.branches, spent.verifier_calls
        for node in run.tree.nodes():
            if node.pending and node.request is not None:
                self._submit(run, node.request)
            elif node.branch is not None and node.status == "open" and not node.verdicts:
                self._judge(run, node.branch)

    def _propose(self, run: _Run) -> None:
        if run.ending is not None or self._over(run):
            return
        room = self._room()
        limit = self.search.budget.branches
        if limit is not None:
            room = min(room, limit - run.branches)
        if room <= 0:
            return
        try:
            with boundary(f"strategy {type(self.search.strategy).__name__}"):
                wanted = list(self.search.strategy.propose(run.tree, room))
            for request in wanted[: room if limit is not None else None]:
                self._accept(run, request)
        except PluginError as error:
            run.tree.note(ROOT, str(error))
            self._end(run, "failed", str(error))
            return
        if not run.decoding and not run.judging:
            self._end(run, "exhausted", _nothing_left(run.tree, bool(self.search.verifiers)))

    def _accept(self, run: _Run, request: object) -> None:
        """Put a proposed request on the tree and send it; what can't be is the strategy's fault."""
        name = type(self.search.strategy).__name__
        if not isinstance(request, DecodeRequest):
            raise PluginError(
                f"strategy {name} proposed {type(request).__name__}; allowed are requests made by tree.requests"
            )
        try:
            self.decoder.check(request)
            run.tree.add(request)
        except UsageError as error:
            raise PluginError(f"strategy {name}: {error}") from error
        run.branches += 1
        self._submit(run, request)

    def _submit(self, run: _Run, request: DecodeRequest) -> None:
        run.decoding[request.id] = 0
        self.decoder.submit(request, lambda event: self.inbox.put((run, event)))

    # --- receive -----------------------------------------------------------------------------------------------

    def _receive(self) -> None:
        """Wait for what comes next, no longer than to the nearest deadline, and take in all that has come."""
        try:
            self._handle(*self.inbox.get(timeout=self._patience()))
            while True:
                self._handle(*self.inbox.get_nowait())
        except queue.Empty:
            pass
        for run in list(self.runs.values()):
            self._over(run)
            self._finish(run)

    def _patience(self) -> float:
        now = time.monotonic()
        deadlines = [run.deadline - now for run in self.runs.values() if run.deadline is not None and not run.ending]
        return max(0.0, min([0.2, *deadlines]))  # 0.2 s: how soon stop() is noticed

    def _handle(self, run: _Run, event: DecodeEvent | _JudgedBranch) -> None:
        if isinstance(event, BranchProgress):
            run.generated += event.tokens - run.decoding.get(event.id, event.tokens)
            if event.id in run.decoding:
                run.decoding[event.id] = event.tokens
            if self.search._observer is not None:
                self.search._observer(run.tree, event)
        elif isinstance(event, BranchDone):
            self._decoded(run, event.branch)
        else:
            run.judging.discard(event.id)
            run.tree.judge(event.id, event.verdicts)

    def _decoded(self, run: _Run, branch: Branch) -> None:
        counted = run.decoding.pop(branch.id, None)
        if counted is None:
            return  # another result for the same request came first
        run.generated += len(branch.token_ids) - counted
        run.tree.attach(branch)
        whole = branch.finish in ("eos", "stop", "length")
        if whole and run.ending is None:
            self._judge(run, branch)

    def _judge(self, run: _Run, branch: Branch) -> None:
        """Send a complete branch to the verifiers. Steps of a longer answer are not judged."""
        verifiers = self.search.verifiers
        if not verifiers or branch.finish not in ("eos", "stop", "length"):
            return
        limit = self.search.budget.verifier_calls
        if limit is not None and run.verifier_calls + len(verifiers) > limit:
            self._end(run, "budget", f"the budget of {limit} verifier calls is spent")
            return
        run.verifier_calls += len(verifiers)
        run.judging.add(branch.id)
        whole, problem = run.tree.branch(branch.id), run.tree.problem

        def work() -> None:
            self.inbox.put((run, _JudgedBranch(branch.id, judge(verifiers, problem, whole))))

        self.pool.submit(work)

    # --- end ---------------------------------------------------------------------------------------------------

    def _over(self, run: _Run) -> bool:
        """End a run whose strategy is content or whose budget is spent; whether it is ending."""
        if run.ending is not None:
            return True
        budget = self.search.budget
        if self._content(run):
            first = run.tree.accepted()
            told = _accepted_reason(run.tree) if first else "the strategy is content"
            self._end(run, "verified" if first else "exhausted", told)
        elif budget.tokens is not None and run.generated >= budget.tokens:
            self._end(run, "budget", f"the budget of {budget.tokens} tokens is spent")
        elif run.deadline is not None and time.monotonic() >= run.deadline:
            self._end(run, "budget", f"the budget of {budget.seconds:g} seconds is spent")
        elif budget.branches is not None and run.branches >= budget.branches and not run.decoding and not run.judging:
            self._end(run, "budget", f"the budget of {budget.branches} branches is spent")
        return run.ending is not None

    def _content(self, run: _Run) -> bool:
        finished = getattr(self.search.strategy, "finished", None)
        if finished is None:
            return bool(run.tree.accepted())
        try:
            with boundary(f"strategy {type(self.search.strategy).__name__}"):
                return bool(finished(run.tree))
        except PluginError as error:
            run.tree.note(ROOT, str(error))
            self._end(run, "failed", str(error))
            return False

    def _end(self, run: _Run, status: RunStatus, reason: str) -> None:
        """Begin to end: cancel what is in flight. The run is finished when all of it has come back."""
        if run.ending is None:
            run.ending = (status, reason)
            self.decoder.cancel(run.key, list(run.decoding))
        self._finish(run)

    def _finish(self, run: _Run) -> None:
        if run.ending is None or run.decoding or run.key not in self.runs:
            return
        status, reason = run.ending
        if run.judging and status == "budget" and (run.deadline is None or time.monotonic() < run.deadline):
            return  # what was decoded within the budget deserves its verdict
        if run.tree.accepted() and status not in ("verified", "interrupted"):
            status, reason = "verified", f"{_accepted_reason(run.tree)}; {reason}"
        ended = Ended(status=status, reason=reason, usage=run.tree.usage(time.monotonic() - run.began))
        run.tree.end(ended)
        del self.runs[run.key]
        self.done.append(Solution.of(run.tree, ended))


def _default_strategy() -> Strategy:
    from led_agent.strategies import Fallback

    return Fallback()


def _accepted_reason(tree: Tree) -> str:
    best = tree.best()
    verdict = best.verdict if best else None
    if best is None or verdict is None:
        return "accepted"
    told = f": {verdict.reason}" if verdict.reason else ""
    return f"branch {best.id} of {len(tree) - 1} accepted by {verdict.verifier or 'a verifier'}{told}"


def _nothing_left(tree: Tree, judged: bool) -> str:
    leaves = tree.leaves()
    if not leaves:
        return "the strategy proposed nothing"
    if not judged:
        return f"{len(leaves)} branches decoded; there is no verifier, so the best is the most probable"
    counts: dict[str, int] = {}
    for leaf in leaves:
        verdict = leaf.verdict
        status = "failed" if leaf.status == "failed" else verdict.status if verdict else leaf.status
        counts[status] = counts.get(status, 0) + 1
    told = ", ".join(f"{n} {status}" for status, n in sorted(counts.items()))
    return f"none of {len(leaves)} branches was accepted ({told}); this is the best of them"


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


def _in_order(solutions: Iterator[Solution], problems: Sequence[Asked]) -> Iterator[Solution]:
    """Hold back what is done until all before it are."""
    held: dict[str, Solution] = {}
    for asked in problems:
        key = as_problem(asked).key
        while key not in held:
            solution = next(solutions, None)
            if solution is None:
                return  # stopped: what was not begun has no solution
            held[solution.problem.key] = solution
        yield held.pop(key)


def solve(problem: Asked, model: str | None = None, **options: Unpack[SearchOptions]) -> Solution:
    """Solve one problem: ``Search(model, **options).solve(problem)``, closed afterwards.

    Raises:
        UsageError: an option or the problem is not usable.
        ModelError: the model is missing or not supported.
    """
    with Search(model, **options) as search:
        return search.solve(problem)


def solve_many(
    problems: Iterable[Asked], model: str | None = None, **options: Unpack[SearchOptions]
) -> Iterator[Solution]:
    """Solve many problems with one loaded model: ``Search(model, **options).solve_many(problems)``."""
    with Search(model, **options) as search:
        yield from search.solve_many(problems)
