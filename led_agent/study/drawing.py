"""Draws the branches of an arm, problem by problem, and has them judged: rows.

This file knows decoders, searches and verifiers. It does not know figures, nor which arms there are.
"""

from __future__ import annotations

import hashlib
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial

from led_agent.judging import judge
from led_agent.protocols import BranchDone, BranchProgress, Decoder, Strategy, Verifier
from led_agent.search import Search
from led_agent.strategies.named import parse_strategy
from led_agent.study.arms import Arm
from led_agent.study.rows import Row
from led_agent.tree import ROOT, Tree, derive_seed, summary_verdict
from led_agent.types import Branch, DecodeRequest, Problem, Sibling, Verdict
from led_agent.verifiers.named import parse_verifier

__all__ = ["Drawing", "Stopped"]

_READERS = 4  # threads that judge: most of what they do is waiting for worker processes
_AT_A_TIME = 4096  # branches that are asked for before any of the next problem's


class Stopped(Exception):  # noqa: N818 - nothing has failed
    """Somebody asked for an end."""


@dataclass
class Drawing:
    """Draws with one decoder and one model.

    Attributes:
        model: Its name, for searches.
        truth: Makes the verifiers that say what is right; called once for each arm, and closed after it.
        samples, searches: Branches a problem of an arm that samples, and searches of one that searches.
        max_tokens: New tokens a branch, at most, of arms that say nothing of it.
        stopping: Whether somebody wants an end.
    """

    decoder: Decoder
    model: str | None
    truth: Callable[[], Callable[[Problem], Sequence[Verifier]]]
    samples: int
    searches: int
    max_tokens: int
    seed: int
    stopping: threading.Event = field(default_factory=threading.Event)
    _search: Search | None = None

    def stop(self) -> None:
        """End soon, from any thread or signal handler."""
        self.stopping.set()
        if self._search is not None:
            self._search.stop()

    def check(self, arm: Arm, problem: Problem) -> None:
        """Refuse an arm that the model can't do.

        Raises:
            UsageError: say, more depths than it has blocks.
        """
        self.decoder.check(self._requests(arm, problem, "check")[0])

    def rows(self, arm: Arm, problems: Sequence[Problem], split: str) -> Iterator[Row]:
        """A row for each problem, of a search one for each repeat, in the order in which they are done.

        Raises:
            Stopped: ``stopping`` was set; what was done is out.
        """
        draw = self._searched if arm.draw == "search" else self._sampled
        with ExitStack() as stack:
            chosen = self._truth(stack)
            yield from draw(arm, problems, split, chosen)

    def _truth(self, stack: ExitStack) -> Callable[[Problem], Sequence[Verifier]]:
        chosen = self.truth()
        closing = getattr(chosen, "close", None)
        if callable(closing):
            stack.callback(closing)
        return chosen

    # --- samples -----------------------------------------------------------------------------------------------

    def _sampled(
        self, arm: Arm, problems: Sequence[Problem], split: str, truth: Callable[[Problem], Sequence[Verifier]]
    ) -> Iterator[Row]:
        done: queue.SimpleQueue[Branch] = queue.SimpleQueue()

        def sink(event: BranchProgress | BranchDone) -> None:
            if isinstance(event, BranchDone):
                done.put(event.branch)

        at_a_time = max(1, _AT_A_TIME // self.samples)
        with ThreadPoolExecutor(_READERS) as readers:
            for first in range(0, len(problems), at_a_time):
                some = {p.key: p for p in problems[first : first + at_a_time]}
                requests = [r for problem in some.values() for r in self._requests(arm, problem, split)]
                for request in requests:
                    self.decoder.submit(request, sink)
                grown: dict[str, Branch] = {}
                while len(grown) < len(requests):
                    branch = self._next(done, requests)
                    grown[branch.id] = branch
                asked = list(some.values())
                branches = [self._of(grown, problem) for problem in asked]
                yield from readers.map(partial(self._row, arm, split, truth), asked, branches)

    def _next(self, done: queue.SimpleQueue[Branch], requests: Sequence[DecodeRequest]) -> Branch:
        while True:
            if self.stopping.is_set():
                for problem in {request.problem for request in requests}:
                    self.decoder.cancel(problem, [r.id for r in requests if r.problem == problem])
                raise Stopped
            try:
                return done.get(timeout=0.2)
            except queue.Empty:
                continue

    def _requests(self, arm: Arm, problem: Problem, split: str) -> list[DecodeRequest]:
        """A problem's; branch i's seed doesn't depend on how many there are."""
        law, found = arm.law, []
        for at in range(self.samples):
            seed = derive_seed(self.seed, problem, f"{split} {arm.decoding} {arm.group} {at}")
            sibling = None
            if arm.draw == "together":
                group = derive_seed(self.seed, problem, f"{split} {arm.decoding} {arm.group} of {at // arm.group}")
                sibling = Sibling(group=group, index=at % arm.group, of=arm.group)
            found.append(
                DecodeRequest(
                    id=_name(problem, at),
                    parent=ROOT,
                    problem=problem.key,
                    prompt=problem.prompt,
                    decoding=law,
                    seed=seed,
                    sibling=sibling,
                    max_tokens=arm.max_tokens or self.max_tokens,
                )
            )
        return found

    def _of(self, grown: dict[str, Branch], problem: Problem) -> list[Branch]:
        return [grown[_name(problem, at)] for at in range(self.samples)]

    def _row(
        self,
        arm: Arm,
        split: str,
        truth: Callable[[Problem], Sequence[Verifier]],
        problem: Problem,
        branches: Sequence[Branch],
    ) -> Row:
        verdicts = [_judged(truth(problem), problem, branch) for branch in branches]
        return _row(arm, split, problem, branches, verdicts)

    # --- searches ----------------------------------------------------------------------------------------------

    def _searched(
        self, arm: Arm, problems: Sequence[Problem], split: str, truth: Callable[[Problem], Sequence[Verifier]]
    ) -> Iterator[Row]:
        assert arm.strategy is not None  # as the arm has checked
        by_key = {problem.key: problem for problem in problems}
        named = [parse_verifier(name) for name in arm.verifiers]
        for repeat in range(self.searches):
            search = Search(
                self.model,
                strategy=UntilAccepted(parse_strategy(arm.strategy)),
                verifiers=named or list({id(v): v for problem in problems for v in truth(problem)}.values()),
                decoding=arm.law,
                seed=_seed(self.seed, repeat, arm),
                max_tokens=arm.max_tokens or self.max_tokens,
                decoder=self.decoder,
            )
            self._search = search
            for solution in search.solve_many(self._until_stopped(problems), ordered=False):
                if solution.status != "interrupted":
                    yield _searched_row(arm, split, repeat, by_key[solution.problem.key], solution.tree)
            self._search = None
            if self.stopping.is_set():
                raise Stopped

    def _until_stopped(self, problems: Sequence[Problem]) -> Iterator[Problem]:
        """A stop that came before the search began is not forgotten."""
        for problem in problems:
            if self.stopping.is_set():
                return
            yield problem


@dataclass(frozen=True)
class UntilAccepted:
    """A strategy that begins nothing more once an answer was accepted, and lets what is under way come to its end: what
    was asked for up to the first right branch is then the same, whichever was back first."""

    inner: Strategy

    def propose(self, tree: Tree, slots: int) -> Sequence[DecodeRequest]:
        return [] if tree.accepted() else self.inner.propose(tree, slots)

    def prune(self, tree: Tree) -> Sequence[tuple[str, str]]:
        prune = getattr(self.inner, "prune", None)
        found: Sequence[tuple[str, str]] = prune(tree) if prune is not None else ()
        return found

    def finished(self, tree: Tree) -> bool:
        return False


def _seed(seed: int, repeat: int, arm: Arm) -> int:
    """A search's: arms that differ draw anew, as samples do."""
    told = f"{seed} {repeat} {arm.name}".encode()
    return int.from_bytes(hashlib.blake2b(told, digest_size=6, person=b"study").digest(), "big")


def _name(problem: Problem, at: int) -> str:
    return f"{problem.key}/{at}"


def _judged(verifiers: Sequence[Verifier], problem: Problem, branch: Branch) -> Verdict | None:
    if branch.finish not in ("eos", "stop"):
        return None
    return summary_verdict(judge(verifiers, problem, branch))


def _row(arm: Arm, split: str, problem: Problem, branches: Sequence[Branch], verdicts: Sequence[Verdict | None]) -> Row:
    known: dict[str, int] = {}
    given = [verdict.answer if verdict is not None else None for verdict in verdicts]
    return Row(
        arm=arm.name,
        group=arm.group,
        split=split,
        problem=problem.key,
        right=tuple(verdict is not None and verdict.status == "accepted" for verdict in verdicts),
        answers=tuple(known.setdefault(answer, len(known)) if answer is not None else None for answer in given),
        tokens=tuple(len(branch.token_ids) + branch.discarded for branch in branches),
        errors=sum(verdict is not None and verdict.status == "error" for verdict in verdicts),
    )


def _searched_row(arm: Arm, split: str, repeat: int, problem: Problem, tree: Tree) -> Row:
    """Of the branches in the order in which they were asked for, up to the first right one."""
    nodes = [node for node in tree.nodes() if node.branch is not None]
    ends = [at + 1 for at, node in enumerate(nodes) if node.status == "accepted"]
    nodes = nodes[: min(ends, default=len(nodes))]
    branches = [node.branch for node in nodes if node.branch is not None]
    verdicts = [node.verdict if node.status in ("accepted", "rejected", "open") else None for node in nodes]
    return _row(arm, split, problem, branches, verdicts).model_copy(update={"repeat": repeat})
