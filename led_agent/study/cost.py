"""The study of cost: tokens and seconds to a first verified answer, by this package and by best of N over ``generate``.

Every problem is solved in each way in turn, in one process, with the same model, N and verifier; which goes first
changes from problem to problem. This file knows no torch: ``generate`` is called in ``bench.best_of``.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from led_agent.errors import ModelError, UsageError
from led_agent.judging import judge
from led_agent.local import LocalDecoder
from led_agent.models import default_model, embedded_refusal, is_embedded
from led_agent.search import Search, SearchOptions
from led_agent.strategies import BestOfN, Fallback
from led_agent.study.cost_figures import ENGINE, GENERATE, LADDER, WAYS, Costs, Spent, costs_of
from led_agent.study.plan import Plan
from led_agent.study.rows import RowFile
from led_agent.tree import summary_verdict
from led_agent.types import Branch, Decoding, Problem, Verdict
from led_agent.verifiers.named import parse_verifier

if TYPE_CHECKING:
    from led_agent.bench.best_of import BestOfGenerate

__all__ = ["CostPlan", "CostStudy"]

Tell = Callable[[str, int, int], None]
_GENERATE_KNOWS = ("temperature", "top_k", "top_p", "min_p", "typical_p", "repetition_penalty", "siblings")


@dataclass(frozen=True)
class CostPlan:
    """A study of cost. It asks the test problems of a study of exploration, and warms up on one of the others.

    Attributes:
        model, problems, test, seed, verifiers, device, dtype: As in ``Plan``.
        n: Branches of best of N, and exploring ones of the default search.
        sampling: How best of N samples, as ``--decoding`` takes it: plainly, as ``generate`` knows nothing else.
        max_tokens: New tokens a branch; None is the embedded reasoner's longest trace with its answer, else 512.
        slots: Branches that grow at a time in this engine; None is ``n``, as many as grow in ``generate``.

    Raises:
        UsageError: a number that can't be, a sampling that ``generate`` can't do, or problems with nothing that says
            whether they are solved.
    """

    model: str | None = None
    problems: Path | None = None
    test: int = 200
    n: int = 16
    sampling: str = "plain:temperature=0.6"
    max_tokens: int | None = None
    seed: int = 0
    verifiers: tuple[str, ...] = ()
    device: str = "auto"
    dtype: str = "auto"
    slots: int | None = None

    def __post_init__(self) -> None:
        for name in ("n", "new_tokens", "grown"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}; at least 1 is needed")
        law = self.law
        if law.temperature == 0 or law != Decoding(**{name: getattr(law, name) for name in _GENERATE_KNOWS}):
            raise UsageError(
                f"best of N can't sample by {self.sampling!r} over generate: allowed is plain with a temperature above "
                "0, as in plain:temperature=0.6,top_p=0.95"
            )
        self.of  # noqa: B018 - it refuses what can't be

    @property
    def law(self) -> Decoding:
        return Decoding.parse(self.sampling)

    @property
    def new_tokens(self) -> int:
        return self.of.whole_tokens

    @property
    def grown(self) -> int:
        return self.slots if self.slots is not None else self.n

    @property
    def of(self) -> Plan:
        """The plan of exploration that asks the same."""
        return Plan(
            model=self.model, problems=self.problems, dev=1, test=self.test, max_tokens=self.max_tokens,
            seed=self.seed, verifiers=self.verifiers, quick=True,
        )  # fmt: skip

    def asked(self) -> tuple[Problem, list[Problem]]:
        """What warms up, and what is measured. Where a file leaves nothing else, the first is asked twice.

        Raises:
            UsageError: the file can't be used, or the embedded model can't be asked one of its problems.
        """
        others, measured = self.of.split()
        for problem in measured if is_embedded(self.model) else ():
            refusal = embedded_refusal(problem.text)
            if refusal is not None:
                raise UsageError(f"{self.problems}, problem {problem.key!r}: {refusal}")
        return (others or measured)[0], measured

    def record(self) -> dict[str, Any]:
        """What must be the same for a study to be resumed: with what seconds depend on."""
        return {
            "study": "cost",
            "model": self.model or default_model(),
            "problems": str(self.problems) if self.problems is not None else "countdown",
            "test": self.test,
            "n": self.n,
            "sampling": self.sampling,
            "max_tokens": self.new_tokens,
            "seed": self.seed,
            "verifiers": list(self.verifiers),
            "device": self.device,
            "dtype": self.dtype,
            "slots": self.grown,
        }


class CostStudy:
    """One study.

    Args:
        plan: What it is of.
        file: Where its rows are, and go.
        decoder: The model's, with ``plan.grown`` slots.
        tell: Told what is being done, how much of it is, and of how much.
    """

    def __init__(self, plan: CostPlan, file: RowFile[Spent], decoder: LocalDecoder, tell: Tell) -> None:
        self._plan, self._file, self._decoder, self._tell = plan, file, decoder, tell
        self._load = round(os.getloadavg()[0], 2)
        self._searches: dict[str, Search] = {}
        self._stopped = False

    def stop(self) -> None:
        """End soon, from any thread or signal handler: once a call of ``generate`` has returned, where one is at work.
        What is measured is kept, and reported."""
        self._stopped = True
        for search in self._searches.values():
            search.stop()

    def run(self) -> Costs:
        """Measure what is missing, and say what came of it; after a stop, of what there is.

        Raises:
            ModelError: a search failed: not an answer, the model or the machine.
        """
        warm_up, problems = self._plan.asked()
        with ExitStack() as stack:
            self._tell("loading the model", 0, 0)
            generate = self._generate(stack)
            self._searches = self._search_by_way(stack)
            self._warm_up(generate, warm_up)
            for spent in self._solved(generate, problems):
                self._file.add(spent)
            threads = generate.threads
        missing = {(problem.key, way) for problem in problems for way in WAYS} - set(self._file.rows)
        ways = costs_of(self._file.rows.values())
        return Costs(
            settings=self._plan.record(),
            model=self._plan.model or default_model(),
            interrupted=bool(missing),
            problems=ways[0].tokens.problems if ways else 0,
            device=self._decoder.device,
            dtype=self._decoder.dtype,
            threads=threads,
            load=self._load,
            versions={name: version(name) for name in ("torch", "transformers")},
            ways=ways,
        )

    # --- the ways ----------------------------------------------------------------------------------------------

    def _generate(self, stack: ExitStack) -> BestOfGenerate:
        from led_agent.bench.best_of import BestOfGenerate

        truth = self._plan.of.truth()
        closing_truth = getattr(truth, "close", None)
        if callable(closing_truth):
            stack.callback(closing_truth)

        def judged(problem: Problem, branch: Branch) -> Verdict | None:
            return summary_verdict(judge(truth(problem), problem, branch))

        plan = self._plan
        return BestOfGenerate(plan.model, self._decoder, judged, plan.law, n=plan.n, max_tokens=plan.new_tokens)

    def _search_by_way(self, stack: ExitStack) -> dict[str, Search]:
        """Each with an engine of its own over the same weights: one that has prefilled a prompt for the other would
        take time off it."""
        from led_agent.engine import Engine

        plan = self._plan
        second = stack.enter_context(
            closing(
                LocalDecoder(Engine(self._decoder.engine.parts, slots=plan.grown), embedded=is_embedded(plan.model))
            )
        )
        own: dict[str, SearchOptions] = {
            ENGINE: {"strategy": BestOfN(plan.n), "decoding": plan.law, "decoder": self._decoder},
            LADDER: {"strategy": Fallback(BestOfN(plan.n)), "decoder": second},
        }
        found = {}
        for way, options in own.items():
            options |= {"seed": plan.seed, "max_tokens": plan.new_tokens}
            if plan.verifiers:
                options["verifiers"] = [parse_verifier(name) for name in plan.verifiers]
            found[way] = stack.enter_context(Search(plan.model, **options))
        return found

    # --- measuring ---------------------------------------------------------------------------------------------

    def _warm_up(self, generate: BestOfGenerate, problem: Problem) -> None:
        for way in WAYS:
            if not self._stopped:
                self._tell("warming up", WAYS.index(way), len(WAYS))
                self._spent(way, generate, problem, 0)

    def _solved(self, generate: BestOfGenerate, problems: Sequence[Problem]) -> Iterator[Spent]:
        """What each problem cost in each way, as it comes, but for what is in the file."""
        whole = len(problems) * len(WAYS)
        for at, problem in enumerate(problems):
            for turn in range(len(WAYS)):
                way = WAYS[(at + turn) % len(WAYS)]
                self._tell("solving", at * len(WAYS) + turn, whole)
                if (problem.key, way) in self._file.rows:
                    continue
                spent = self._spent(way, generate, problem, at) if not self._stopped else None
                if spent is None:
                    return
                yield spent
        self._tell("solving", whole, whole)

    def _spent(self, way: str, generate: BestOfGenerate, problem: Problem, at: int) -> Spent | None:
        """None where it was interrupted."""
        if way == GENERATE:
            found = generate.solve(problem, self._plan.seed + at)
            return Spent(
                way=way, problem=problem.key, verified=found.verified, tokens=found.tokens, seconds=found.seconds,
                errors=found.errors,
            )  # fmt: skip
        began = time.perf_counter()
        solution = self._searches[way].solve(problem)
        seconds = time.perf_counter() - began
        if solution.status == "interrupted":
            return None
        if solution.status == "failed":
            raise ModelError(f"{way} failed on problem {problem.key!r}: {solution.reason}")
        verdicts = [verdict for node in solution.tree.nodes() for verdict in node.verdicts]
        return Spent(
            way=way, problem=problem.key, verified=solution.verified, tokens=solution.usage.generated_tokens,
            seconds=seconds, errors=sum(verdict.status == "error" for verdict in verdicts),
        )  # fmt: skip
