r"""``math_answer()``: whether the final answer is mathematically equal to the reference.

This file turns a problem and a branch into one call of a worker process, and its reply into a verdict. It knows
neither how an answer is found nor how two are compared: that is ``math_worker``, in processes of its own, so that an
expression which never ends costs one worker. sympy and math-verify are imported only there.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from led_agent.answers import after_thinking, boxed
from led_agent.errors import UsageError
from led_agent.types import Branch, Problem, Verdict
from led_agent.verifiers.workers import Outcome, WorkerPool, WorkerTimeout

__all__ = ["MathAnswer", "math_answer"]

_LONGEST_TEXT = 1_000_000
_KEPT = 100_000


@dataclass(frozen=True)
class MathAnswer:
    r"""A verifier: accepts a branch whose final answer equals ``problem.answer``.

    The answer is taken after ``</think>``: the last ``\boxed{…}``, else what follows the last "answer is" or "####",
    else the last formula or number. It abstains where the problem has no answer to compare with. A time-out, a dead
    worker and an expression that math-verify chokes on are verdicts of status "error", never rejections. Where a
    verdict's reason names the reference, its feedback does not.

    Processes start with the first call and end with ``close()`` or the interpreter; after ``close()`` a call starts
    new ones. A pickled copy starts its own.

    Attributes:
        seconds: Wall-clock limit of one comparison.
        workers: How many processes at most; None is one a processor, and 4 at most.
    """

    seconds: float = 5.0
    workers: int | None = None
    name: ClassVar[str] = "math_answer"
    batch_size: ClassVar[int] = 64

    def __post_init__(self) -> None:
        if not 0 < self.seconds < math.inf:
            raise UsageError(f"math_answer: seconds is {self.seconds}; a positive number is allowed, e.g. 5.0")
        _ = self._pool  # now, so that a bad number of workers is refused here; no process starts before the first call

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.seconds, self.workers)

    @cached_property
    def _pool(self) -> WorkerPool:
        return WorkerPool("led_agent.verifiers.math_worker", self.workers)

    def __call__(self, problem: Problem, branch: Branch, /) -> Verdict:
        """The verdict on one branch; may be called from many threads at once."""
        return self.batch([(problem, branch)])[0]

    def batch(self, asked: Sequence[tuple[Problem, Branch]]) -> list[Verdict]:
        """The verdicts on many branches, in order, spread over the workers. Each has the whole limit to itself."""
        verdicts: dict[int, Verdict] = {}
        payloads: dict[int, dict[str, str]] = {}
        for at, (problem, branch) in enumerate(asked):
            idle = self.check(problem)
            if idle is None:
                payloads[at] = _payload(problem, branch)
            else:
                verdicts[at] = Verdict(status="abstained", reason=idle, verifier=self.name)
        outcomes = self._pool.batch(list(payloads.values()), self.seconds)
        for at, outcome in zip(payloads, outcomes, strict=True):
            verdicts[at] = self._verdict(payloads[at], outcome)
        return [verdicts[at] for at in range(len(asked))]

    async def judge(self, problem: Problem, branch: Branch) -> Verdict:
        """The verdict on one branch, for an event loop, which goes on meanwhile; as many may wait as like.

        Cancelled before a worker begins with it, it costs nothing; cancelled later, that worker is free again when
        the comparison is done or its limit reached.
        """
        idle = self.check(problem)
        if idle is not None:
            return Verdict(status="abstained", reason=idle, verifier=self.name)
        payload = _payload(problem, branch)
        return self._verdict(payload, await asyncio.wrap_future(self._pool.submit(payload, self.seconds)))

    def check(self, problem: Problem) -> str | None:
        """Why there is nothing to say on this problem, i.e. the reason of an abstention; None where there is."""
        if problem.answer is None:
            return "the problem has no reference answer to compare with; give Problem(answer=…)"
        return None if reference(problem.answer) else "the reference answer is empty; give Problem(answer=…)"

    def _verdict(self, payload: dict[str, str], outcome: Outcome) -> Verdict:
        reply = outcome.reply
        if isinstance(outcome.error, WorkerTimeout):
            judged = f"{_judged(payload['text'])!r} against {payload['answer'][:200]!r}"
            reply = {"status": "error", "reason": f"not compared within {self.seconds:g} s: {judged}"}
        elif reply is None:
            reply = {"status": "error", "reason": f"{outcome.error} (while judging {_judged(payload['text'])!r})"}
        if reply["status"] == "error":  # what failed may be the reading of the reference
            reply = {**reply, "feedback": "the final answer was not compared"}
        return Verdict(**reply, verifier=self.name, seconds=outcome.seconds)

    def close(self) -> None:
        """End the worker processes. Idempotent."""
        self._pool.close()


def math_answer(seconds: float = 5.0, workers: int | None = None) -> MathAnswer:
    """A verifier that compares final answers mathematically with the problem's ``answer``.

    Args:
        seconds: Wall-clock limit of one comparison; what takes longer is a verdict of status "error".
        workers: How many worker processes at most; None is one a processor, and 4 at most.

    Raises:
        UsageError: a limit that is no positive number, or fewer than one worker.
    """
    return MathAnswer(seconds, workers)


def reference(answer: str) -> str:
    """The reference itself, also where the whole worked solution of GSM8K or MATH was given."""
    inside = boxed(answer)
    return (answer.rpartition("####")[2] if inside is None else inside).strip()


def _payload(problem: Problem, branch: Branch) -> dict[str, str]:
    # A megabyte is a runaway generation; its end is where an answer would be.
    text = branch.text if len(branch.text) <= _LONGEST_TEXT else branch.text[-_KEPT:]
    return {"answer": _encodable(reference(problem.answer or "")), "text": _encodable(text)}


def _judged(text: str) -> str:
    final = after_thinking(text)
    return (boxed(final) or final.strip()[-200:])[:200]


def _encodable(text: str) -> str:
    """Without lone surrogates, which neither a pipe nor a results file takes."""
    return text.encode("utf-8", "replace").decode("utf-8")
