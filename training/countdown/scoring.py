"""What a trace is worth: whether its answer is right, its arithmetic is, and its form is the one it was taught."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from led_agent.countdown import ExpressionError, Puzzle, work_out

from .problems import CLOSE, END

_STEP = r"\d+ [-+*/] \d+ = \d+ "
_FORM = re.compile(rf"(?:{_STEP}{_STEP}no )*(?:{_STEP}{_STEP}yes {CLOSE} [-+*/() \d]+|{CLOSE} none) {END}")


@dataclass(frozen=True)
class Score:
    """Of one trace: the answer; lines of arithmetic and how many are right; verdicts of its own, and how many hold.

    A line that the end of the budget cuts off behind its "=" counts as a wrong one.
    """

    correct: bool
    gave_up: bool
    finished: bool
    well_formed: bool
    steps: int
    right_steps: int
    claims: int
    right_claims: int
    answer: str

    @property
    def honest(self) -> bool:
        """Every line of arithmetic and every yes and no holds."""
        return self.right_steps == self.steps and self.right_claims == self.claims


def score(puzzle: Puzzle, words: Sequence[str]) -> Score:
    """Score what a model wrote after the prompt, up to and with ``<eos>`` where it got there."""
    finished = END in words
    body = list(words[: words.index(END) + 1] if finished else words)
    split = body.index(CLOSE) if CLOSE in body else len(body)
    answer = [word for word in body[split + 1 :] if word != END]
    lines, right, claims, held = _arithmetic(puzzle.target, body[:split])
    return Score(
        correct=finished and is_solution(puzzle, " ".join(answer)),
        gave_up=finished and answer == ["none"],
        finished=finished,
        well_formed=_FORM.fullmatch(" ".join(body)) is not None,
        steps=lines,
        right_steps=right,
        claims=claims,
        right_claims=held,
        answer=" ".join(answer) if finished else "",
    )


def is_solution(puzzle: Puzzle, expression: str) -> bool:
    try:
        worked = work_out(expression)
    except ExpressionError:
        return False
    return worked.value == puzzle.target and sorted(worked.numbers) == sorted(puzzle.numbers)


def _arithmetic(target: int, words: Sequence[str]) -> tuple[int, int, int, int]:
    """Lines of arithmetic and how many are right, then claims (yes, no) and how many hold."""
    lines = right = claims = held = 0
    for at, word in enumerate(words):
        if word == "=":
            lines += 1
            right += _is_right(words[max(0, at - 3) : at + 2])
        elif word in ("yes", "no"):
            claims += 1
            held += at > 0 and (words[at - 1] == str(target)) == (word == "yes")
    return lines, right, claims, held


def _is_right(line: Sequence[str]) -> bool:
    if len(line) != 5:
        return False
    try:
        return work_out(" ".join(line[:3])).value == int(line[4])
    except ValueError:  # a ExpressionError too: a line that is no arithmetic
        return False
