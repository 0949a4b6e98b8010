"""One turn after another: propose, decode, verify, write to the tree, for all the problems that are on.

This file knows strategies, decoders and verifiers by their protocols only. It does not know torch, models or how
anything is computed. One thread runs the loop; decoders and verifiers report to it through one queue, so nothing
here needs a lock.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial

from led_agent.comparing import COMPLETE, complete, unheard
from led_agent.confidence import SHARE
from led_agent.counting import Count, Counted, decide
from led_agent.errors import LedError, PluginError, UsageError, boundary
from led_agent.events import Decoded, Ended, Event, RunStatus
from led_agent.judging import compares, verifier_name
from led_agent.problems import Asked, as_problem
from led_agent.protocols import BranchDone, BranchProgress, DecodeEvent, Decoder
from led_agent.purse import Purse
from led_agent.reasons import accepted_reason, agreed, nothing_left
from led_agent.running import Comparison, Judgement, Observer, Run, Terms
from led_agent.solution import Solution
from led_agent.steps import step_judges
from led_agent.tree import ROOT
from led_agent.types import Branch, DecodeRequest, Problem, Verdict
from led_agent.verifier_pool import VerifierPool

__all__ = ["Loop", "Means", "Observer", "Terms"]

_Arrival = tuple[Run, DecodeEvent | Judgement | Comparison | Counted] | Callable[[], None]

# Asked for ahead of free slots, so that a slot that comes free is filled before the loop has turned.
_AHEAD = 1.25

# Problems that are on at a time, a slot: those whose verdicts or votes are waited for hold none, and might pile up.
_RUNS = 2

_GRACE = 5.0  # seconds that branches may still be compared in when the budget of seconds is spent


@dataclass(frozen=True)
class Means:
    """What a loop works with, whatever it is asked; ``stopping`` is set to end it all."""

    decoder: Decoder
    pool: VerifierPool
    stopping: threading.Event


class Loop:
    """The runs that are on, and the queue on which everything arrives.

    One call of solve or solve_many is ``solutions``. Who brings problems as they come calls the rest: ``begin`` while
    there ``has_place``, then ``propose`` and ``receive`` in turn, from one thread, and ``take_done`` for what has
    ended; ``post`` is for the others.
    """

    def __init__(self, means: Means) -> None:
        self.means, self.decoder = means, means.decoder
        self.inbox: queue.SimpleQueue[_Arrival] = queue.SimpleQueue()
        self.runs: dict[str, Run] = {}
        self.done: deque[Solution] = deque()

    def solutions(
        self, problems: Iterable[Asked], terms: Terms, crowded: Callable[[], bool] = lambda: False
    ) -> Generator[Solution, None, None]:
        """Yield each problem's solution when its run has ended. No problem is begun while ``crowded`` says that too
        many solutions wait for one that is on."""
        source = _distinct(problems)
        more = True
        try:
            while more or self.runs:
                more = yield from self._fill(source, terms, crowded, more)
                if self.runs:
                    self.receive()
                yield from self.take_done()
        finally:  # the caller left early, or Ctrl-C: nobody waits for what is still being decoded
            self.abandon()

    def take_done(self) -> Iterator[Solution]:
        """Solutions of runs that have ended since."""
        while self.done:
            yield self.done.popleft()

    def abandon(self) -> None:
        """Cancel all there is; nobody waits for what comes of it."""
        for run in self.runs.values():
            self.decoder.cancel(run.key, list(run.decoding))
            self._lift_limit(run)
            self.means.pool.forget(run.key)

    def post(self, order: Callable[[], None]) -> None:
        """Have something done by the loop's thread, soon; from any thread."""
        self.inbox.put(order)

    def stop(self, key: str, reason: str = "interrupted; this is the best so far") -> None:
        """End the run on a problem, if it is on, with what it has."""
        run = self.runs.get(key)
        if run is not None:
            self._end(run, "interrupted", reason)

    # --- propose -----------------------------------------------------------------------------------------------

    def _fill(
        self, source: Iterator[Problem], terms: Terms, crowded: Callable[[], bool], more: bool
    ) -> Generator[Solution, None, bool]:
        """Ask the strategies of all runs, then begin new problems, while there is room. What is done is yielded before
        the next is begun: a journal may hold ten thousand that are done as soon as they are taken."""
        if self.means.stopping.is_set():
            for key in list(self.runs):
                self.stop(key)
            more = False
        self.propose()
        yield from self.take_done()
        while more and self.has_place() and not crowded():
            problem = next(source, None)
            if problem is None:
                return False
            self.begin(problem, terms)
            yield from self.take_done()
        return more

    def propose(self) -> None:
        """Ask the strategies of all runs, oldest first."""
        for run in list(self.runs.values()):
            self._propose(run)

    def has_place(self) -> bool:
        """Whether another problem may be begun."""
        full = self._room() <= 0 or len(self.runs) >= _RUNS * self.decoder.slots
        return not (full or self.means.stopping.is_set())

    def _room(self) -> int:
        in_flight = sum(len(run.decoding) for run in self.runs.values())
        return int(self.decoder.slots * _AHEAD + 0.5) - in_flight

    def begin(self, problem: Problem, terms: Terms) -> None:
        """Begin a run, or take it up; no other run on a problem of this key may be on."""
        tree = terms.plant(problem)
        if tree.ended is not None and tree.ended.status != "interrupted":
            self.done.append(Solution.of(tree, tree.ended))
            return
        seconds = terms.budget.seconds
        verifiers = terms.verifiers(problem)
        run = Run(
            tree,
            terms,
            judges=tuple(v for v in verifiers if not compares(v)),
            comparers=tuple(v for v in verifiers if compares(v)),
            step_judges=step_judges(verifiers),
            deadline=time.monotonic() + seconds if seconds is not None else None,
            purse=Purse(tree.started.max_tokens),
        )
        run.tree.listen(run.stir)
        self._follow(run)
        self.runs[run.key] = run
        try:
            terms.check(problem)
            self.decoder.check(tree.requests(1)[0])
        except LedError as error:
            self._end(run, "failed", str(error))
        else:
            self._resume(run)
            self._propose(run)

    def _follow(self, run: Run) -> None:
        """Let journal and observer see the tree's events. Branches cut off by an interruption stay out of the
        journal, so that resuming decodes them whole."""
        journal, observer = run.terms.journal, run.terms.observer
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

    def _resume(self, run: Run) -> None:
        """Take up what the tree already holds: send what was in flight again, judge what was not judged."""
        spent = run.tree.usage()
        run.generated, run.branches, run.verifier_calls = spent.generated_tokens, spent.branches, spent.verifier_calls
        run.prefilled = spent.prefill_tokens
        self._limit(run)
        self._prune(run)
        # As _judge set them aside; it does so again for what it is asked about here.
        run.verifier_calls += sum(
            bool(node.verdicts) for _, nodes in unheard(run.tree, run.comparers) for node in nodes
        )
        run.reserved = {node.id for node in run.tree.nodes() if node.verdicts}
        for node in run.tree.nodes():
            if run.ending is not None:
                return
            if node.pending and node.request is not None:
                self._submit(run, node.request)
            elif node.branch is not None and (not node.settled or (node.status == "open" and not node.verdicts)):
                self._judge(run, node.branch)

    def _limit(self, run: Run) -> None:
        """Tell a decoder that can stop by itself what is left: it sees each step, and this loop only reports."""
        budget, limit = run.terms.budget, getattr(self.decoder, "limit", None)
        if limit is not None and (budget.tokens is not None or budget.prefill_tokens is not None):
            tokens = budget.tokens - run.generated if budget.tokens is not None else None
            prefill = budget.prefill_tokens - run.prefilled if budget.prefill_tokens is not None else None
            limit(run.key, tokens, prefill)

    def _lift_limit(self, run: Run) -> None:
        """Another search with this decoder may have the same problem."""
        limit = getattr(self.decoder, "limit", None)
        if limit is not None:
            limit(run.key, None, None)

    def _propose(self, run: Run) -> None:
        if run.ending is not None or self._over(run) or not run.stirred:
            return
        budget, room = run.terms.budget, self._room()
        limited = budget.branches is not None or budget.tokens is not None
        if budget.branches is not None:
            room = min(room, budget.branches - run.branches)
        if budget.tokens is not None:
            room = min(room, run.purse.affordable(budget.tokens - run.generated, run.decoding.values()))
        if room <= 0:
            return
        try:
            with boundary(f"strategy {type(run.terms.strategy).__name__}"):
                wanted = list(run.terms.strategy.propose(run.tree, room))
            for request in wanted[: room if limited else None]:
                self._accept(run, request)
            run.stirred = bool(wanted)  # it wants nothing more of the same tree
        except PluginError as error:
            run.tree.note(ROOT, str(error))
            self._end(run, "failed", str(error))
            return
        if not wanted and not run.decoding and not run.judging:
            broken = run.tree.leaves() and all(leaf.status == "failed" for leaf in run.tree.leaves())
            self._end(run, "failed" if broken else "exhausted", "")

    def _accept(self, run: Run, request: object) -> None:
        """Put a proposed request on the tree and send it; what can't be is the strategy's fault."""
        name = type(run.terms.strategy).__name__
        if not isinstance(request, DecodeRequest):
            raise PluginError(
                f"strategy {name} proposed {type(request).__name__}; allowed are requests made by tree.requests"
            )
        asks_otherwise, refusal = request.prompt != run.tree.problem.prompt, None
        try:
            try:
                self.decoder.check(request)
            except UsageError as error:
                if not asks_otherwise:
                    raise
                refusal = str(error)
            run.tree.add(request)
        except UsageError as error:
            raise PluginError(f"strategy {name}: {error}") from error
        run.branches += 1
        if refusal is None:
            self._submit(run, request)
        else:  # a chat that has grown beyond the model's context, say: that branch fails, and not the search
            run.tree.attach(Branch(id=request.id, text="", finish="error", error=refusal))

    def _submit(self, run: Run, request: DecodeRequest) -> None:
        run.decoding[request.id] = 0
        self.decoder.submit(request, lambda event: self.inbox.put((run, event)))

    # --- receive -----------------------------------------------------------------------------------------------

    def receive(self, longest: float | None = None) -> None:
        """Wait for what comes next, no longer than to the nearest deadline nor than ``longest`` seconds, and take in
        all that has come. With neither it waits until something is posted."""
        try:
            waits = [seconds for seconds in (self._patience(), longest) if seconds is not None]
            self._handle(self.inbox.get(timeout=min(waits, default=None)))
            while True:
                self._handle(self.inbox.get_nowait())
        except queue.Empty:
            pass
        for run in list(self.runs.values()):
            self._over(run)
            self._finish(run)

    def last_orders(self) -> None:
        """Carry out what was posted and has not been; for who receives nothing any more."""
        with contextlib.suppress(queue.Empty):
            while True:
                arrival = self.inbox.get_nowait()
                if not isinstance(arrival, tuple):
                    arrival()

    def _patience(self) -> float | None:
        if not self.runs:
            return None
        now = time.monotonic()
        deadlines = [run.deadline - now for run in self.runs.values() if run.deadline is not None and not run.ending]
        return max(0.0, min([0.2, *deadlines]))  # 0.2 s: how soon stop() is noticed

    def _handle(self, arrival: _Arrival) -> None:
        if isinstance(arrival, tuple):
            self._take(*arrival)
        else:
            arrival()

    def _take(self, run: Run, event: DecodeEvent | Judgement | Comparison | Counted) -> None:
        if isinstance(event, BranchProgress):
            run.generated += event.tokens - run.decoding.get(event.id, event.tokens)
            if event.id in run.decoding:
                run.decoding[event.id] = event.tokens
            if run.terms.observer is not None:
                run.terms.observer(run.tree, event)
        elif isinstance(event, BranchDone):
            self._decoded(run, event.branch)
        elif self.runs.get(run.key) is not run:
            pass  # a verdict that comes after the end changes nothing
        elif isinstance(event, Judgement):
            run.judging.discard(event.id)
            run.stir()  # that nothing is waited for any more may be news, whatever the verdict changes
            run.verifier_calls += len(event.verdicts) - event.asked  # those not asked cost nothing
            if run.tree[event.id].status != "pruned":
                run.tree.judge(event.id, event.verdicts)
                self._prune(run)
        elif isinstance(event, Counted):
            self._counted(run, event)
        else:
            (run.comparing or set()).discard(event.at)
            for name, verdict in event.verdicts.items():
                run.tree.judge(name, [verdict])

    def _counted(self, run: Run, counted: Counted) -> None:
        if run.count is not None:
            run.count.take(counted)
        if counted.fault:
            run.tree.note(ROOT, counted.fault)

    def _decoded(self, run: Run, branch: Branch) -> None:
        counted = run.decoding.pop(branch.id, None)
        if counted is None:
            return  # another result for the same request came first
        run.generated += len(branch.token_ids) + branch.discarded - counted
        run.prefilled += branch.prefill_tokens
        if branch.finish in (*COMPLETE, "step"):
            run.purse.ended(len(branch.token_ids) + branch.discarded)
        run.tree.attach(branch)
        self._prune(run)
        if run.ending is None and run.tree[branch.id].status != "pruned":
            self._judge(run, branch)

    def _judge(self, run: Run, branch: Branch) -> None:
        """Send a complete branch to the verifiers. One that compares branches is asked at the end, but what that
        costs is set aside now."""
        whole = branch.finish in COMPLETE
        judges = run.judges if whole else run.step_judges if branch.finish == "step" else ()
        limit = run.terms.budget.verifier_calls
        cost = len(judges) + (len(run.comparers) if whole else 0)
        if not judges and not run.tree[branch.id].settled:
            run.tree.judge(branch.id, ())
        if not cost:
            return
        if limit is not None and run.verifier_calls + cost > limit:
            self._end(run, "budget", f"the budget of {limit} verifier calls is spent")
            return
        run.verifier_calls += cost
        if whole:
            run.reserved.add(branch.id)
        if judges:
            run.judging.add(branch.id)
            asked = self.means.pool.submit(judges, run.tree.problem, run.tree.branch(branch.id))
            put = partial(self._put_verdicts, run, branch.id, len(judges))
            asked.add_done_callback(put)

    def _put_verdicts(self, run: Run, name: str, asked: int, said: Future[tuple[Verdict, ...]]) -> None:
        self.inbox.put((run, Judgement(name, _verdicts(said, 1), asked)))

    def _prune(self, run: Run) -> None:
        """Give up what the strategy gives up, and cancel it where it is being decoded."""
        prune = getattr(run.terms.strategy, "prune", None)
        if prune is None or run.ending is not None:
            return
        tree = run.tree
        try:
            with boundary(f"strategy {type(run.terms.strategy).__name__}"):
                for name, reason in prune(tree):
                    if name in tree and tree[name].status == "pruned":
                        continue
                    tree.prune(name, reason)
        except (PluginError, UsageError) as error:
            tree.note(ROOT, str(error))
            self._end(run, "failed", str(error))
            return
        doomed = [name for name in run.decoding if tree[name].status == "pruned"]
        if doomed:
            self.decoder.cancel(run.key, doomed)

    def _compare(self, run: Run) -> None:
        """Ask the verifiers that compare branches about all that are complete, but for those whose verdict on each of
        them is there."""
        run.comparing = set()
        if run.deadline is not None:
            run.patience = max(run.deadline, time.monotonic() + _GRACE)
        limited = run.terms.budget.verifier_calls is not None
        names = [leaf.id for leaf in complete(run.tree) if leaf.id in run.reserved or not limited]
        branches = [run.tree.branch(name) for name in names]
        for at, nodes in unheard(run.tree, run.comparers):
            wanted = {node.id for node in nodes}.intersection(names)
            if wanted:
                run.comparing.add(at)
                self._hear(run, at, names, branches, wanted)

    def _hear(self, run: Run, at: int, names: list[str], branches: list[Branch], wanted: set[str]) -> None:
        """Let the verdicts on the ``wanted`` branches come into the inbox."""

        def put(said: Future[tuple[Verdict, ...]]) -> None:
            verdicts = dict(zip(names, _verdicts(said, len(names)), strict=True))
            self.inbox.put((run, Comparison(at, {name: v for name, v in verdicts.items() if name in wanted})))

        self.means.pool.compare(run.comparers[at], run.tree.problem, branches).add_done_callback(put)

    # --- end ---------------------------------------------------------------------------------------------------

    def _over(self, run: Run) -> bool:
        """End a run whose strategy is content or whose budget is spent; whether it is ending."""
        if run.ending is not None:
            return True
        budget = run.terms.budget
        if self._content(run):
            first = run.tree.accepted()
            told = accepted_reason(run.tree) if first else "the strategy is content"
            self._end(run, "verified" if first else "exhausted", told)
        elif budget.tokens is not None and run.generated >= budget.tokens:
            self._end(run, "budget", f"the budget of {budget.tokens} tokens is spent")
        elif budget.prefill_tokens is not None and run.prefilled >= budget.prefill_tokens:
            self._end(run, "budget", f"the budget of {budget.prefill_tokens} prefill tokens is spent")
        elif run.deadline is not None and time.monotonic() >= run.deadline:
            self._end(run, "budget", f"the budget of {budget.seconds:g} seconds is spent")
        elif budget.branches is not None and run.branches >= budget.branches and not run.decoding and not run.judging:
            self._end(run, "budget", f"the budget of {budget.branches} branches is spent")
        return run.ending is not None

    def _content(self, run: Run) -> bool:
        if not run.doubtful:
            return False
        run.doubtful = False
        finished = getattr(run.terms.strategy, "finished", None)
        if finished is None:
            return bool(run.tree.accepted())
        try:
            with boundary(f"strategy {type(run.terms.strategy).__name__}"):
                return bool(finished(run.tree))
        except PluginError as error:
            run.tree.note(ROOT, str(error))
            self._end(run, "failed", str(error))
            return False

    def _end(self, run: Run, status: RunStatus, reason: str) -> None:
        """Begin to end: cancel what is in flight. The run is finished when all of it has come back."""
        if run.ending is None:
            run.ending = (status, reason)
            self.decoder.cancel(run.key, list(run.decoding))
        elif status == "interrupted" and run.comparers and not run.tree.accepted():
            run.ending = (status, reason)  # resumed, it asks those that compare, as it does not now
        self._finish(run)

    def _finish(self, run: Run) -> None:
        if run.ending is None or run.decoding or run.key not in self.runs or self._waits(run, run.ending[0]):
            return
        status, reason = run.ending
        if self._counts(run, hurry=status == "interrupted"):
            return
        reason = reason or nothing_left(run.tree, bool(run.judges or run.comparers))
        if run.comparing and status != "interrupted":
            late = ", ".join(verifier_name(run.comparers[at]) for at in sorted(run.comparing))
            reason += f"; {late} had not answered when time was up"
        if run.tree.accepted() and status not in ("verified", "interrupted"):
            status, reason = "verified", f"{accepted_reason(run.tree)}; {reason}"
        calibration = getattr(self.decoder, "calibration", SHARE)
        found = decide(run.tree, run.terms.strategy, run.count, calibration)
        if found is not None and found.confidence is not None and status != "interrupted":
            run.tree.note(found.best, agreed(found.confidence))
        ended = Ended(
            status=status,
            reason=reason,
            usage=run.tree.usage(time.monotonic() - run.began),
            best=found.best if found is not None else None,
            confidence=found.confidence if found is not None else None,
        )
        run.tree.end(ended)
        del self.runs[run.key]
        self.means.pool.forget(run.key)
        self._lift_limit(run)
        run.tree.hush()
        run.count = None  # it leads back to the run
        self.done.append(Solution.of(run.tree, ended))

    def _waits(self, run: Run, status: RunStatus) -> bool:
        """Whether verdicts that belong to the end are still to come. Once all else is in, it asks for those of the
        verifiers that compare branches, unless there is an accepted branch already."""
        if status in ("verified", "interrupted"):
            return False
        due = bool(run.comparers) and run.comparing is None
        in_time = run.deadline is None or time.monotonic() < run.deadline
        if run.judging and in_time and (status == "budget" or due):
            return True  # what was decoded within the budget deserves its verdict
        if due and not run.tree.accepted():
            self._compare(run)
        return bool(run.comparing) and (run.patience is None or time.monotonic() < run.patience)

    def _counts(self, run: Run, hurry: bool) -> bool:
        """Whether it is still being found out which branches agree, where none was accepted."""
        if run.count is None:
            run.count = Count(run.tree, lambda counted: self.inbox.put((run, counted)), hurry=hurry)
        return not run.count.done(hurry=hurry)


def _distinct(problems: Iterable[Asked]) -> Iterator[Problem]:
    """Problems, each with a key of its own."""
    seen: set[str] = set()
    for asked in problems:
        problem = as_problem(asked)
        if problem.key in seen:
            raise UsageError(f"two problems have the key {problem.key!r}; give each its own id")
        seen.add(problem.key)
        yield problem


def _verdicts(said: Future[tuple[Verdict, ...]], wanted: int) -> tuple[Verdict, ...]:
    """What verifiers said of so many branches; errors where they were closed before."""
    if said.cancelled():
        return (Verdict(status="error", reason="the search was closed before its verifiers had answered"),) * wanted
    return said.result()
