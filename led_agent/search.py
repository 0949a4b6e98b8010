"""Search, solve and solve_many: what a search is made with, and its results. The work itself is in ``loop.py``.

This file does not know torch; a model is loaded at the first use.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self, TypedDict, Unpack

from led_agent.cluster.plan import Cluster, as_cluster
from led_agent.errors import UsageError
from led_agent.events import Ended
from led_agent.journal import Journal
from led_agent.judging import batch_limit, refuse
from led_agent.loop import Loop, Means, Observer, Terms
from led_agent.models import EMBEDDED_EXAMPLE, default_model, embedded_refusal, is_embedded
from led_agent.problems import Asked, as_problem
from led_agent.protocols import Decoder, Strategy, Verifier
from led_agent.solution import Solution
from led_agent.tree import Tree
from led_agent.types import Budget, Decoding, Problem
from led_agent.verifier_pool import VerifierPool, VerifierStats

__all__ = ["DefaultVerifiers", "Observer", "Search", "SearchOptions", "as_problem", "solve", "solve_many"]


class SearchOptions(TypedDict, total=False):
    """The keyword arguments of ``Search``, for ``solve`` and ``solve_many``."""

    strategy: Strategy | None
    verifiers: Sequence[Verifier] | None
    decoding: Decoding | None
    budget: Budget | None
    seed: int
    cluster: str | int | Cluster | None
    max_tokens: int
    stop: Sequence[str]
    device: str
    dtype: str
    slots: int
    decoder: Decoder | None
    journal: Journal | None
    observer: Observer | None
    verifier_concurrency: int | None
    verifier_seconds: float | None


class Search:
    """Holds a model, a strategy and verifiers, and solves problems with them.

    Args:
        model: Embedded name, local path, hub id or alias; loaded at the first problem. None is "countdown", the
            embedded reasoner, which plays Countdown and nothing else.
        strategy: What to try; by default ``Fallback(BestOfN(8))``: explore, then fall back.
        verifiers: Each a callable ``(problem, branch) -> Verdict | bool | float``. A branch is accepted when none
            rejects or fails and at least one accepts. None is what each problem calls for: ``countdown()`` where it
            is a Countdown puzzle, else ``unit_tests()`` where it has tests, else ``math_answer()`` where it has a
            reference answer, else none.
        decoding: How tokens are chosen; by default LED with the paper's settings over the last quarter of the
            model's blocks, the paper's 8 posteriors at most, the gate drawn first (``DepthExploration.gate_first``).
        budget: What each problem may spend.
        seed: Of everything random.
        cluster: None decodes in this process. "local" starts a private Ray on this machine, "auto" takes the cluster
            that this machine belongs to, "ray://host:port" or "host:port" another one, and a number is that many
            decoders on whichever this process is connected to, else on this machine. A
            ``led_agent.cluster.plan.Cluster`` says more. ``slots`` is each decoder's then, and verifiers run in
            processes of the nodes.
        max_tokens: New tokens a branch, at most.
        stop: Strings that end an answer.
        device, dtype, slots: For loading the model; ``slots`` branches grow at a time.
        decoder: A decoder to use instead of loading ``model``; not closed with the search.
        journal: Keeps every event; a problem that it holds unfinished is resumed, a finished one is not run again.
        observer: Called with each event, from the thread that runs the loop.
        verifier_concurrency: Calls of verifiers at a time; by default two a processor, and 32 at most.
        verifier_seconds: Wall-clock limit of one call of a verifier; None is no limit. What takes longer is a verdict
            of status "error".

    Raises:
        UsageError: something given is not usable.
    """

    def __init__(
        self,
        model: str | None = None,
        *,
        strategy: Strategy | None = None,
        verifiers: Sequence[Verifier] | None = None,
        decoding: Decoding | None = None,
        budget: Budget | None = None,
        seed: int = 0,
        cluster: str | int | Cluster | None = None,
        max_tokens: int = 512,
        stop: Sequence[str] = (),
        device: str = "auto",
        dtype: str = "auto",
        slots: int = 16,
        decoder: Decoder | None = None,
        journal: Journal | None = None,
        observer: Observer | None = None,
        verifier_concurrency: int | None = None,
        verifier_seconds: float | None = None,
    ) -> None:
        if cluster is not None and decoder is not None:
            raise UsageError(f"cluster is {cluster!r}, and a decoder is given, too; leave one of them out")
        if not 0 <= seed < 2**63:
            raise UsageError(f"seed is {seed}; allowed are 0 to 2**63 - 1")
        for name, value in (("max_tokens", max_tokens), ("slots", slots)):
            if value < 1:
                raise UsageError(f"{name} is {value}; it must be at least 1")
        for name, given, kind in (
            ("decoding", decoding, Decoding),
            ("budget", budget, Budget),
            ("journal", journal, Journal),
        ):
            if given is not None and not isinstance(given, kind):
                raise UsageError(f"{name} is a {kind.__name__}; found {given!r}")
        self.model, self.cluster = model, as_cluster(cluster) if cluster is not None else None
        self.strategy = _checked_strategy(strategy if strategy is not None else _default_strategy())
        self._default = DefaultVerifiers() if verifiers is None else None
        self.verifiers = self._default.all if self._default else _checked_verifiers(verifiers or ())
        self.decoding = decoding
        self.budget = budget if budget is not None else Budget()
        self.seed, self.max_tokens = seed, max_tokens
        self.stop_strings = (stop,) if isinstance(stop, str) else tuple(stop)
        self._load = {"device": device, "dtype": dtype, "slots": slots}
        self._decoder, self._own_decoder = decoder, decoder is None
        self._stand_ins: dict[int, Verifier] = {}
        self._journal, self._observer = journal, observer
        self._stopping = threading.Event()
        self._pool = VerifierPool(verifier_concurrency, verifier_seconds)

    @property
    def decoder(self) -> Decoder:
        """The decoder; the model is loaded at the first use.

        Raises:
            ModelError: the model is missing or not supported.
        """
        if self._decoder is None:
            self._decoder = self._local() if self.cluster is None else self._clustered(self.cluster)
        return self._decoder

    def _local(self) -> Decoder:
        from led_agent.local import LocalDecoder

        return LocalDecoder.load(self.model, **self._load)  # type: ignore[arg-type]

    def _clustered(self, cluster: Cluster) -> Decoder:
        from led_agent.cluster.decoder import ClusterDecoder

        decoder = ClusterDecoder(cluster, model=self.model, verifiers=self.verifiers, **self._load)  # type: ignore[arg-type]
        far = decoder.judges.proxies if decoder.judges is not None else ()
        self._pool.raise_concurrency(2 * sum(decoder.plan.verifiers.values()))
        self._stand_ins = {id(verifier): far[at] for at, verifier in enumerate(self.verifiers)}
        return decoder

    def scale(self, decoders: int) -> None:
        """Have so many decoders from now on, while a search runs: new ones begin as soon as they have loaded the model,
        and those that are too many end what they have begun.

        Raises:
            UsageError: this search runs in one process, or the cluster has no room for so many.
        """
        scale = getattr(self.decoder, "scale", None)
        if scale is None:
            raise UsageError("scale() is for a search on a cluster; give Search a cluster")
        scale(decoders)

    def prepare(self) -> None:
        """Load the model now, and check the settings that only it can check.

        Raises:
            ModelError: the model is missing or not supported.
            UsageError: the decoding asks for more depths or candidates than the model has.
        """
        probe = Tree(EMBEDDED_EXAMPLE if is_embedded(self.model) else "?", decoding=self.chosen_decoding, max_tokens=1)
        self.decoder.check(probe.requests(1)[0])

    @property
    def verifier_stats(self) -> dict[str, VerifierStats]:
        """What each verifier was asked and said in this search so far, by its name."""
        return self._pool.stats

    def solve(self, problem: Asked) -> Solution:
        """Search on one problem.

        Raises:
            UsageError: the problem can't be posed to this model, or no verifier can judge it.
            MachineError: what a verifier needs is not on this machine.
            PluginError: a verifier's ``check`` failed.
        """
        self._stopping.clear()
        asked = as_problem(problem)
        self._refuse_unfit(asked)
        self._refuse_unjudged(asked)
        tree = self._tree(asked)
        self.decoder.check(tree.requests(1)[0])
        solution = next(self._run([asked], checked=True), None)
        if solution is None:  # stopped while the model was being loaded
            return Solution.of(tree, Ended(status="interrupted", reason="interrupted before it began"))
        return solution

    def solve_many(self, problems: Iterable[Asked], *, ordered: bool = True) -> Iterator[Solution]:
        """Search on many problems, sharing the decoder: when one needs fewer slots than there are, the next begins.

        Solutions come in the order of the problems, or with ``ordered=False`` as they are done; in order, no problem is
        begun while more than 256 are done and held back for an earlier one that is not. A problem that the model can't
        be asked, or no verifier can judge, is a solution with status "failed"; the others go on.

        Raises:
            UsageError: two problems have the same key, or this is one problem and not many.
        """
        if isinstance(problems, str | Problem):
            raise UsageError("solve_many takes a list of problems, found one; give it to solve")
        self._stopping.clear()
        if not ordered:
            return self._run(problems)
        noted = _Noted(problems)
        return _in_order(self._run(noted, crowded=noted.crowded), noted)

    def stop(self) -> None:
        """End all running problems soon, from any thread or signal handler: each gives what it has, with status
        "interrupted". Problems not yet begun are not begun."""
        self._stopping.set()

    @property
    def stopped(self) -> bool:
        """Whether ``stop`` was called since the last call of ``solve`` or ``solve_many``."""
        return self._stopping.is_set()

    def close(self) -> None:
        """Close verifiers, and the decoder where the search loaded it."""
        self._pool.close()
        self._stand_ins = {}
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

    def _refuse_unfit(self, problem: Problem) -> None:
        """Say at once, before anything is loaded, what the embedded model can't be asked."""
        if self._decoder is None and is_embedded(self.model):
            refusal = embedded_refusal(problem.text)
            if refusal is not None:
                raise UsageError(refusal)

    def _refuse_unjudged(self, problem: Problem) -> None:
        refuse(self._verifiers_of(problem), problem)

    def _verifiers_of(self, problem: Problem) -> tuple[Verifier, ...]:
        chosen = self._default(problem) if self._default else self.verifiers
        return tuple(self._stand_ins.get(id(verifier), verifier) for verifier in chosen)

    def _run(
        self, problems: Iterable[Asked], *, checked: bool = False, crowded: Callable[[], bool] = lambda: False
    ) -> Generator[Solution, None, None]:
        terms = Terms(
            strategy=self.strategy,
            verifiers=self._verifiers_of,
            budget=self.budget,
            journal=self._journal,
            observer=self._observer,
            plant=self._tree,
            check=(lambda _problem: None) if checked else self._refuse_unjudged,
        )
        means = Means(decoder=self.decoder, pool=self._pool, stopping=self._stopping)
        return Loop(means).solutions(problems, terms, crowded)

    def _tree(self, problem: Problem) -> Tree:
        kept = self._journal.kept(problem.key) if self._journal is not None else None
        if kept is not None:
            self._check_resumable(kept, problem)
            return kept
        return self._fresh_tree(problem)

    def _fresh_tree(self, problem: Problem) -> Tree:
        return Tree(
            problem,
            decoding=self.chosen_decoding,
            seed=self.seed,
            max_tokens=self.max_tokens,
            stop=self.stop_strings,
            follow_up=bool(getattr(self.decoder, "follows_up", True)),
            model=self.model or (default_model() if self._own_decoder else ""),
        )

    def _check_resumable(self, kept: Tree, problem: Problem) -> None:
        fresh = self._fresh_tree(problem)
        old, new = (tree.started.model_dump(mode="json") for tree in (kept, fresh))  # JSON made lists of tuples
        if not (kept.started.model and fresh.started.model):
            old["model"] = new["model"]  # a journal from before it was noted, or a decoder that was given
        differing = [name for name in old if old[name] != new[name]]
        if differing:
            raise UsageError(
                f"the journal holds a run of {problem.key!r} with another {' and '.join(differing)}; "
                "give the same settings to resume it, or another file"
            )

    @property
    def chosen_decoding(self) -> Decoding:
        """What branches are decoded with where a strategy doesn't say otherwise; the model is loaded for it."""
        if self.decoding is not None:
            return self.decoding
        blocks = getattr(self.decoder, "n_blocks", None)
        # A search ranks branches by the model's own posterior: LED's own log-probabilities would be paid for in vain.
        return Decoding.led("paper", depths=default_depths(blocks) if blocks else None, gate_first=True)


def _checked_strategy(given: Strategy) -> Strategy:
    if isinstance(given, type):
        raise UsageError(f"a strategy is an object, not its class: give {given.__name__}(…)")
    if not callable(getattr(given, "propose", None)):
        raise UsageError(f"a strategy has propose(tree, slots); found {given!r}")
    return given


def _checked_verifiers(given: Sequence[Verifier]) -> tuple[Verifier, ...]:
    if not isinstance(given, Sequence) or isinstance(given, str):
        raise UsageError(f"verifiers is a list of verifiers; found {given!r}")
    for verifier in given:
        if not callable(verifier):
            raise UsageError(f"a verifier is a callable (problem, branch); found {verifier!r}")
        batch_limit(verifier)
    return tuple(given)


def default_depths(blocks: int) -> int:
    """How many posteriors LED explores unless told: the final one and those of the last quarter of the blocks, and 8
    at most, as in the paper, whose models have 36 blocks and more. Shallower states of a shallow model are still at
    work on the token itself."""
    return min(8, max(2, blocks // 4 + 1), blocks)


class DefaultVerifiers:
    """The verifiers that a problem calls for where none are named."""

    def __init__(self) -> None:
        from led_agent.verifiers import countdown, math_answer, unit_tests

        self._countdown, self._math, self._tests = countdown(), math_answer(), unit_tests()
        self.all: tuple[Verifier, ...] = (self._countdown, self._math, self._tests)

    def __call__(self, problem: Problem) -> tuple[Verifier, ...]:
        from led_agent.verifiers import is_puzzle

        if is_puzzle(problem):
            return (self._countdown,)
        if problem.tests:
            return (self._tests,)
        return (self._math,) if problem.answer is not None else ()


def _default_strategy() -> Strategy:
    from led_agent.strategies import Fallback

    return Fallback()


_HELD_BACK = 256  # solutions, with all they hold: one of 16 branches of 512 tokens takes a megabyte


@dataclass
class _Noted:
    """Problems, the keys of those that were taken and not given back yet, and the solutions held back."""

    problems: Iterable[Asked]
    taken: deque[str] = field(default_factory=deque)
    held: dict[str, Solution] = field(default_factory=dict)

    def crowded(self) -> bool:
        """Whether so many are held back that no more should be begun. The one that all wait for has been: it ends."""
        return len(self.held) > _HELD_BACK

    def __iter__(self) -> Iterator[Problem]:
        for asked in self.problems:
            problem = as_problem(asked)
            self.taken.append(problem.key)
            yield problem


def _in_order(solutions: Generator[Solution, None, None], noted: _Noted) -> Iterator[Solution]:
    """Hold back what is done until all that were taken before it are."""
    taken, held = noted.taken, noted.held
    with contextlib.closing(solutions):  # a caller who leaves early ends what runs
        for solution in solutions:
            held[solution.problem.key] = solution
            del solution  # the caller may be done with it long before the next comes
            while taken and taken[0] in held:
                yield held.pop(taken.popleft())


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
