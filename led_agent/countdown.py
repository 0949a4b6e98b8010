"""The Countdown puzzle: reach a target from given numbers with + - * /, each number used exactly once.

Knows the puzzle's text and its arithmetic; knows no model and no search. As in TinyZero and Stream of Search
(arXiv 2404.03683).
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from fractions import Fraction

__all__ = ["AIMS", "FILLERS", "SEPARATORS", "SIGNS", "ExpressionError", "Puzzle", "Worked", "read_puzzle", "work_out"]

# How a puzzle is said in English. The embedded model's chat template is written from the same lists.
_AIMS = """
= make makes making made reach reaches reaching get gets getting equal equals equalling equaling hit hits give gives
giving obtain target goal total result value
"""
_FILLERS = """
a add all allowed an and answer any arithmetic at basic be brackets by can combine combining countdown could create
divide each equation every exactly expression find following for formula from given hello hi how i in into is it just
let me most multiply must number numbers of on once one only operation operations operators out parentheses please
problem puzzle s same show simple so solution solve subtract that the them then there these this three to use used uses
using want way we what whole with would write you your
"""
AIMS, FILLERS = tuple(_AIMS.split()), tuple(_FILLERS.split())
SEPARATORS = ("\n- ", "\n* ", *",;:!?()[]{}\"'`\n\t")  # the first two are bullets
SIGNS = tuple("+-*/x×÷−·")

_NUMBER = re.compile(r"0|[1-9][0-9]{0,8}")
_LONGEST = 400  # characters of an expression: far above any answer's, far below what exhausts a parser
_PLAIN = re.compile(r"[\d\s+*/().-]*", re.ASCII)  # nothing else reaches the parser: no names, no text, no other bases
_ASCII = str.maketrans({"×": "*", "·": "*", "∗": "*", "⋅": "*", "÷": "/", "−": "-", "–": "-", "[": "(", "]": ")"})


@dataclass(frozen=True)
class Puzzle:
    """Numbers, each to be used exactly once, and the target to reach with + - * / and brackets."""

    numbers: tuple[int, ...]
    target: int

    def __str__(self) -> str:
        *first, last = self.numbers
        return f"Use {', '.join(map(str, first))} and {last} to make {self.target}."


def read_puzzle(text: str) -> Puzzle | None:
    """The puzzle that plain English asks for, or None where the text is anything else.

    The target is the last number that follows a word like "make", "equals" or "="; the other numbers are the given
    ones. Every other word must be one that such requests are made of, so that "I get 5 apples and 3 pears" is no
    puzzle: better to miss one than to see one where there is none. Nor may a sign stand before a number, as in "What
    is the value of 3 + 4 * 5?".
    """
    for mark in SEPARATORS:
        text = text.replace(mark, " ")
    given: list[int] = []
    target: int | None = None
    aiming = signed = False
    for word in text.lower().replace("->", " = ").replace("=", " = ").split():
        word = word.rstrip(".")
        after_sign, signed = signed, word in SIGNS
        if word in AIMS:
            aiming = True
        elif _NUMBER.fullmatch(word) and not after_sign:
            if aiming:
                given += [] if target is None else [target]
                target, aiming = int(word), False
            else:
                given.append(int(word))
        elif word and word not in FILLERS and not signed:
            return None
    return Puzzle(tuple(given), target) if target is not None and len(given) >= 2 else None


class ExpressionError(ValueError):
    """Text that is no arithmetic of whole numbers; the message says why."""


@dataclass(frozen=True)
class Worked:
    """An expression's exact value, and the numbers that stand in it, in order."""

    value: Fraction
    numbers: tuple[int, ...]


def work_out(expression: str) -> Worked:
    """Compute an expression of whole numbers, + - * / (also × ÷ −) and brackets, exactly.

    Raises:
        ExpressionError: it isn't one, or divides by zero.
    """
    if len(expression) > _LONGEST:
        raise ExpressionError(f"it has {len(expression)} characters; at most {_LONGEST} are read")
    plain = expression.translate(_ASCII).strip()
    if not _PLAIN.fullmatch(plain):
        raise ExpressionError(f"{expression[:80]!r} is no arithmetic expression")
    try:
        tree = ast.parse(plain, mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise ExpressionError(f"{expression[:80]!r} is no arithmetic expression") from error
    numbers: list[int] = []
    try:
        value = _value(tree, numbers)
    except RecursionError as error:
        raise ExpressionError(f"{expression[:80]!r} is nested too deeply") from error
    return Worked(value, tuple(numbers))


def _value(node: ast.expr, numbers: list[int]) -> Fraction:
    if isinstance(node, ast.Constant) and type(node.value) is int:
        numbers.append(node.value)
        return Fraction(node.value)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value(node.operand, numbers)
    if isinstance(node, ast.BinOp):
        left, right = _value(node.left, numbers), _value(node.right, numbers)
        if isinstance(node.op, ast.Add):
            return left + right
        if isinstance(node.op, ast.Sub):
            return left - right
        if isinstance(node.op, ast.Mult):
            return left * right
        if isinstance(node.op, ast.Div):
            if right == 0:
                raise ExpressionError("it divides by zero")
            return left / right
    raise ExpressionError(f"{ast.unparse(node)[:80]!r} is not a whole number, nor + - * / of two")
