"""``countdown()``: whether the final expression uses each given number exactly once and comes to the target.

This file finds the puzzle in a problem, the expression in an output, and attempts in a chain of thought; what an
expression comes to is ``led_agent.countdown``'s to say, exactly, in fractions.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from led_agent.answers import after_thinking, boxed
from led_agent.countdown import ExpressionError, Puzzle, read_puzzle, work_out
from led_agent.errors import UsageError
from led_agent.types import Branch, Problem, Verdict, VerdictStatus

__all__ = ["Countdown", "CountdownSteps", "countdown", "expression_in", "is_puzzle"]

_FRACTION = re.compile(r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}")
_NESTED = 8  # fractions inside fractions: four numbers can't nest deeper than three
_SPELLINGS = (
    (re.compile(r"\\times|\\cdot|\\ast"), "*"),
    (re.compile(r"\\div"), "/"),
    (re.compile(r"(?<=[\d)\s])[xX](?=[\d(\s])"), "*"),
    (re.compile(r"^[ \t]*\d{1,2}\)(?=[ \t])", re.MULTILINE), " "),  # "1) " numbers a line
    (re.compile(r"(?<=[\d)\]])\s*\*\*\s*(?=[-\d(\[])"), "^"),  # a power, which no answer has; other pairs are bold
    (re.compile(r"\\left|\\right|(?<!\\)\\[,;!()\[\]]|\$|`|\*\*"), " "),
)
_TAGGED = re.compile(r"<answer>((?:(?!<answer>).)*?)</answer>", re.DOTALL | re.IGNORECASE)
# Digits, signs and brackets; "- 5" may be a bullet, "-5" is not. Decimal points, powers, remainders, factorials (not
# the end of a sentence) and letters that touch belong to no answer, but to the run: without them, what remains of
# "1.5+3" or "sqrt(16)+4" would be another expression.
_RUN = re.compile(
    r"(?:(?<!\w)(?=\w*[^\W_])\w+(?=[(\[])|(?<!\w)(?=\w*(?:[^\W\d_]|\d_))\w*\d(?=\s*[+*/×÷·∗⋅−–^-])"
    r"|(?:[-−–](?=[\d(\[])|\.(?=\d))?[\d(\[])"
    r"(?:[\d\s+*/×÷·∗⋅−–()\[\]^%⁰¹²³⁴-⁹-]|\.(?=\d)|!(?=!*\s*[-+*/×÷·∗⋅−–=)\]^]))*"
)
_LOOSE = "+-*/×÷·∗⋅−–([ \t"  # at the end of a run: a dash or a bracket of the sentence
_SIGNED = re.compile(r"[+*/×÷·∗⋅−–-]")
# Of an equation in a step: what stands before "=", and the whole number after it, no beginning of more.
_LEFT = re.compile(r"(?<![\d\s+*/×÷·∗⋅−–()\[\]-])[\d\s+*/×÷·∗⋅−–()\[\]-]*\Z")
_RIGHT = re.compile(r"\s*(-?\d{1,100})(?![\d!%]|[.,]\d|\s*[-+*/×÷·∗⋅−–^])")
_LONG = 200  # characters of a step's expression
_FAILED = re.compile(r"\bno\b[\s.,;:!]*\Z", re.IGNORECASE)
_ATTEMPT = re.compile(r"\bno\b", re.IGNORECASE)
_NO_PUZZLE = "the problem is no Countdown puzzle: no target and numbers are found in it"
_TOLD = 200  # characters of one value in a reason
_LARGEST = 10**100  # far above any puzzle's number, and a size that every reason can name
_READ = 20_000  # characters from the end: an answer is not longer


@dataclass(frozen=True)
class Countdown:
    """A verifier: accepts a branch whose final expression solves the problem's Countdown puzzle.

    The puzzle is ``metadata["numbers"]`` (or ``"nums"``) and ``metadata["target"]`` where they are, else what the
    prompt says in plain English. The expression is taken after ``</think>``: the last ``<answer>…</answer>`` or
    ``\\boxed{…}``, else the last run of numbers and signs; "= 40" beside it may stand. Every number must be used
    exactly once, in any order, with + - * / and brackets; fractions on the way are allowed.

    It abstains where the problem is no puzzle.
    """

    name: ClassVar[str] = "countdown"

    def __call__(self, problem: Problem, branch: Branch, /) -> Verdict:
        """The verdict on one branch; may be called from many threads at once."""
        begun = time.perf_counter()
        status, reason, answer = _judge(problem, branch.text)
        seconds = time.perf_counter() - begun
        return Verdict(status=status, reason=reason, verifier=self.name, seconds=seconds, answer=answer)

    def check(self, problem: Problem) -> str | None:
        """Why there is nothing to say on this problem, i.e. the reason of an abstention; None where there is.

        Raises:
            UsageError: metadata that are meant to be a puzzle, and are none.
        """
        try:
            return _NO_PUZZLE if _puzzle(problem) is None else None
        except ValueError as error:
            raise UsageError(f"countdown, problem {problem.key}: {error}; correct them") from error


@dataclass(frozen=True)
class CountdownSteps(Countdown):
    """The same, and a judge of steps: a search on steps goes on from none that it rejects.

    A step is rejected where an equation of its last attempt is wrong, or where the attempt ends with the word "no" and
    its last equation does not come to the target, as the embedded models say of an attempt that failed. An attempt
    begins after the "no" of the one before. Of any other step it says nothing.
    """

    def step(self, problem: Problem, branch: Branch, /) -> Verdict:
        """The verdict on the step in which a branch ends."""
        begun = time.perf_counter()
        status, reason = _judge_step(problem, branch.text)
        return Verdict(status=status, reason=reason, verifier=self.name, seconds=time.perf_counter() - begun)


def countdown(steps: bool = False) -> Countdown:
    """A verifier of Countdown puzzles: each given number exactly once, + - * / and brackets, exactly the target.

    Args:
        steps: Whether steps are judged, too: attempts that failed are rejected (see ``CountdownSteps``).
    """
    return CountdownSteps() if steps else Countdown()


def is_puzzle(problem: Problem) -> bool:
    """Whether ``countdown()`` has something to say on a problem: a verdict, or what is wrong with its metadata."""
    try:
        return _puzzle(problem) is not None
    except ValueError:
        return True


def expression_in(text: str) -> str | None:
    """The expression that an output ends in, as it stands there; None where there is none."""
    final = after_thinking(text)[-_READ:]
    tagged = _TAGGED.findall(final)
    region = tagged[-1] if tagged else boxed(final) or final
    for _ in range(_NESTED):
        region = _FRACTION.sub(r"((\1)/(\2))", region)
    for pattern, plain in _SPELLINGS:
        region = pattern.sub(plain, region)
    sides = [run.strip().rstrip(_LOOSE) for line in region.splitlines() for run in _RUN.findall(line)]
    found = [side for side in sides if _SIGNED.search(side.lstrip("-−–"))]
    return found[-1] if found else None


def _judge(problem: Problem, text: str) -> tuple[VerdictStatus, str, str | None]:
    try:
        puzzle = _puzzle(problem)
    except ValueError as error:
        return "error", str(error), None
    if puzzle is None:
        return "abstained", _NO_PUZZLE, None
    answer = expression_in(text)
    if answer is None:
        final = after_thinking(text).strip()
        return "rejected", f"no expression in {final[-40:]!r}", None
    try:
        worked = work_out(answer)
    except ExpressionError as error:
        return "rejected", str(error), answer
    if Counter(worked.numbers) != Counter(puzzle.numbers):
        return "rejected", f"it uses {_listed(worked.numbers)}; given are {_listed(puzzle.numbers)}", answer
    if worked.value != puzzle.target:
        return "rejected", f"it comes to {worked.value}, not {puzzle.target}", answer
    return "accepted", f"it comes to {puzzle.target}", answer


def _judge_step(problem: Problem, text: str) -> tuple[VerdictStatus, str]:
    try:
        puzzle = _puzzle(problem)
    except ValueError as error:
        return "error", str(error)
    if puzzle is None:
        return "abstained", _NO_PUZZLE
    read = text[-_READ:].rstrip()
    failed = _FAILED.search(read)
    attempt = _ATTEMPT.split(read[: failed.start()] if failed else read)[-1]
    result: int | None = None
    for expression, result in _equations(attempt):
        wrong = _wrong(expression, result)
        if wrong is not None:
            return "rejected", wrong
    if failed is None or result is None:
        return "abstained", "no attempt that ended"
    if result == puzzle.target:
        return "abstained", f"the attempt comes to {puzzle.target}"
    return "rejected", f"the attempt comes to {result}, not {puzzle.target}"


def _equations(text: str) -> Iterator[tuple[str, int | None]]:
    """What stands before each "=", and the whole number that it is said to come to; None where none stands there."""
    before, *sides = text.split("=")
    for side in sides:
        right = _RIGHT.match(side)
        yield _expression_at_end(before), int(right.group(1)) if right else None
        before = side[right.end() :] if right else side


def _expression_at_end(text: str) -> str:
    """The arithmetic in which a text ends, all of it; empty where there is none, or not all of it would be read."""
    read = text[-_LONG:]
    found = _LEFT.search(read)
    run = found.group() if found else ""
    touches = found is not None and found.start() > 0 and not run[:1].isspace()
    if touches or len(run) == _LONG or run.lstrip()[:1] not in (*"0123456789([",):
        return ""
    return run.strip()


def _wrong(expression: str, result: int | None) -> str | None:
    """What is wrong with an equation; None where nothing is, or it is no arithmetic that can be read."""
    try:
        value = work_out(expression).value
    except ExpressionError:
        return None
    return f"{expression} comes to {value}, not {result}" if result is not None and value != result else None


def _puzzle(problem: Problem) -> Puzzle | None:
    """The problem's puzzle: from its metadata, else from its prompt.

    Raises:
        ValueError: metadata that is neither absent nor a puzzle.
    """
    numbers: Any = problem.metadata.get("numbers", problem.metadata.get("nums"))
    target: Any = problem.metadata.get("target")
    if numbers is None or target is None:
        return read_puzzle(problem.text)
    whole = isinstance(numbers, list | tuple) and all(type(n) is int and abs(n) < _LARGEST for n in (*numbers, target))
    if not whole or not numbers:
        raise ValueError(
            f"metadata has numbers {_told(numbers)} and target {_told(target)}; a list of whole numbers and a whole "
            "number are allowed, of at most 100 digits each"
        )
    return Puzzle(tuple(numbers), target)


def _listed(numbers: tuple[int, ...]) -> str:
    listed = ", ".join(map(str, sorted(numbers)))
    return listed if len(listed) <= _TOLD else f"{listed[:_TOLD]}… ({len(numbers)} numbers)"


def _told(value: object) -> str:
    """What a record may hold, in a line of limited length."""
    try:
        told = repr(value)
    except ValueError:  # Python writes no whole number of more than 4300 digits
        told = f"a {type(value).__name__} with too many digits to be written"
    return told if len(told) <= _TOLD else f"{told[:_TOLD]}…"
