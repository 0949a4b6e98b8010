r"""``math_answer()``: whether the final answer is mathematically equal to the reference.

This file turns a problem and a branch into one call of a worker process, and its reply into a verdict. It knows
neither how an answer is found nor how two are compared: that is ``math_worker``, in processes of its own, so that an
expression which never ends costs one worker. sympy and math-verify are imported only there.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from led_agent.answers import after_thinking, boxed
from led_agent.errors import UsageError
from led_agent.types import Branch, Problem, Verdict
from led_agent.verifiers.workers import WorkerDied, WorkerPool, WorkerTimeout

__all__ = ["MathAnswer", "math_answer"]

_LONGEST_TEXT = 1_000_000
_KEPT = 100_000


@dataclass(frozen=True)
class MathAnswer:
    r"""A verifier: accepts a branch whose final answer equals ``problem.answer``.

    The answer is taken after ``</think>``: the last ``\boxed{…}``, else what follows the last "answer is" or "####",
    else the last formula or number. It abstains where the problem has no answer to compare with. A time-out, a dead
    worker and an expression that math-verify chokes on are verdicts of status "error", never rejections.

    Processes start with the first call and end with ``close()`` or the interpreter; after ``close()`` a call starts
    new ones. A pickled copy starts its own.

    Attributes:
        seconds: Wall-clock limit of one comparison.
        workers: How many processes at most; None is one a processor, and 4 at most.
    """

    seconds: float = 5.0
    workers: int | None = None
    name: ClassVar[str] = "math_answer"

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
        if problem.answer is None:
            reason = "the problem has no reference answer to compare with; give Problem(answer=…)"
            return Verdict(status="abstained", reason=reason, verifier=self.name)
        # A megabyte is a runaway generation; its end is where an answer would be.
        text = branch.text if len(branch.text) <= _LONGEST_TEXT else branch.text[-_KEPT:]
        text, answer = _encodable(text), _encodable(problem.answer)
        begun = time.perf_counter()
        try:
            reply = self._pool.call({"answer": answer, "text": text}, self.seconds)
        except WorkerTimeout:
            judged = f"{_judged(text)!r} against {answer[:200]!r}"
            reply = {"status": "error", "reason": f"not compared within {self.seconds:g} s: {judged}"}
        except WorkerDied as error:
            reply = {"status": "error", "reason": f"{error} (while judging {_judged(text)!r})"}
        return Verdict(**reply, verifier=self.name, seconds=time.perf_counter() - begun)

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


def _judged(text: str) -> str:
    final = after_thinking(text)
    return (boxed(final) or final.strip()[-200:])[:200]


def _encodable(text: str) -> str:
    """Without lone surrogates, which neither a pipe nor a results file takes."""
    return text.encode("utf-8", "replace").decode("utf-8")
