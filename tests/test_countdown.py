"""Arithmetic is worked out exactly and nothing else is; puzzles are read in many words, and other questions are not."""

from __future__ import annotations

import os
import sys
import warnings
from fractions import Fraction

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from led_agent.countdown import AIMS, FILLERS, SEPARATORS, SIGNS, ExpressionError, Puzzle, read_puzzle, work_out

# Value, text and numbers of an expression; None as the value where it divides by zero.
Tree = tuple[Fraction | None, str, list[int]]

WRITTEN = {"+": ["+"], "-": ["-", "−", "–"], "*": ["*", "×", "·", "⋅", "∗"], "/": ["/", "÷"]}
SPACES = st.sampled_from(["", "", " ", "  "])


@st.composite
def joined(draw: st.DrawFn, parts: st.SearchStrategy[Tree]) -> Tree:
    left, right = draw(parts), draw(parts)
    sign = draw(st.sampled_from("+-*/"))
    opening, closing = draw(st.sampled_from(["()", "[]"]))
    spaced = draw(SPACES) + draw(st.sampled_from(WRITTEN[sign])) + draw(SPACES)
    text = f"{opening}{draw(SPACES)}{left[1]}{spaced}{right[1]}{closing}"
    return _value(sign, left[0], right[0]), text, left[2] + right[2]


@st.composite
def negated(draw: st.DrawFn, parts: st.SearchStrategy[Tree]) -> Tree:
    value, text, numbers = draw(parts)
    return None if value is None else -value, f"({draw(st.sampled_from('-−'))}{draw(SPACES)}{text})", numbers


def _value(sign: str, left: Fraction | None, right: Fraction | None) -> Fraction | None:
    if left is None or right is None or (sign == "/" and right == 0):
        return None
    return {"+": left.__add__, "-": left.__sub__, "*": left.__mul__, "/": left.__truediv__}[sign](right)


LEAVES = st.integers(0, 10**6).map(lambda n: (Fraction(n), str(n), [n]))
TREES = st.recursive(LEAVES, lambda parts: joined(parts) | negated(parts), max_leaves=8)


@settings(max_examples=200)
@given(TREES, st.sampled_from(["", " ", "\t", "\n"]))
def test_an_expression_comes_to_its_value_and_its_numbers_stand_in_order(tree, space):
    value, text, numbers = tree
    assume(len(text) <= 390)
    if value is None:
        with pytest.raises(ExpressionError, match="divides by zero"):
            work_out(text)
        return
    worked = work_out(space + text + space)
    assert (worked.value, worked.numbers) == (value, tuple(numbers))


@settings(max_examples=100)
@given(st.lists(st.tuples(st.sampled_from("+-*/"), st.integers(1, 99)), min_size=1, max_size=8), st.integers(0, 99))
def test_times_and_divided_by_bind_tighter_and_equals_go_from_the_left(rest, first):
    total, term = Fraction(0), Fraction(first)
    for sign, number in rest:
        if sign == "*":
            term *= number
        elif sign == "/":
            term /= number
        else:
            total, term = total + term, Fraction(number if sign == "+" else -number)
    text = str(first) + "".join(f"{sign}{number}" for sign, number in rest)
    assert work_out(text).value == total + term


@pytest.mark.parametrize(
    ("text", "value", "numbers"),
    [
        ("7", Fraction(7), (7,)),
        ("0", Fraction(0), (0,)),
        ("-5 + 10", Fraction(5), (5, 10)),
        ("10 - -5", Fraction(15), (10, 5)),
        ("10 - 5 - 3", Fraction(2), (10, 5, 3)),
        ("100 / 10 / 5", Fraction(2), (100, 10, 5)),
        ("8/(3-8/3)", Fraction(24), (8, 3, 8, 3)),
        ("1/3 + 1/3 + 1/3", Fraction(1), (1, 3, 1, 3, 1, 3)),
        ("1/10 + 2/10", Fraction(3, 10), (1, 10, 2, 10)),
        ("0/5", Fraction(0), (0, 5)),
        ("[(3 + 7)] × 5 ÷ 2 − 1", Fraction(24), (3, 7, 5, 2, 1)),
        ("9" * 100 + "*" + "9" * 100, Fraction((10**100 - 1) ** 2), (10**100 - 1,) * 2),
    ],
)
def test_exact_values(text, value, numbers):
    worked = work_out(text)
    assert (worked.value, worked.numbers) == (value, numbers)


@pytest.mark.parametrize("text", ["1/0", "1/(2-2)", "0/0", "5 ÷ (3 − 3)", "1/(1/3 + 1/3 + 1/3 - 1)", "1/-0"])
def test_to_divide_by_zero_is_refused(text):
    with pytest.raises(ExpressionError, match="divides by zero"):
        work_out(text)


HOSTILE = [
    "", " ", "\n", "()", "[]", "(", ")", "(1+2", "1+2)", "1+", "*2", "1 2", "1,2", "(1,2)", "...", ".",
    "(" * 400, "(" * 200 + "1" + ")" * 200, "[" * 199 + "1" + ")" * 198, "1+" * 200 + "1", " " * 401 + "1", "1" * 401,
    "9" * 5_000, "9" * 5_000 + "+1", "(" * 100_000, "-" * 100_000 + "1",
    "x", "pi", "os", "x + 1", "True", "False + 1", "None", "1 if 2 else 3", "1 and 2", "1or 2", "not 1", "~1", "+1",
    "1 < 2", "1 == 1", "1 = 1", "1 is 1", "1; 2", "lambda: 1", "await x", "(yield)", "*a", "1 +* 2",
    "print(1)", "__import__('os').getcwd()", "(1)(2)", "1(2)", "(1)[0]", "[1][0]", "(1).real", "1 .real", "a.b",
    "2**99999", "9**9**9**9", "2 ** 3", "7//2", "7 % 2", "1 << 99999", "1 | 2", "1 ^ 2", "1 @ 2",
    "1.5", "1.", ".5", "1e5", "1 + 2.0", "1j", "0x10", "0b1", "0o7", "1_000", "007", "1,000",
    "'1'", '"a" * 3', "'a' * 99999999", "b'1'", "f'{1}'", "'\\d'", "{1}", "{1: 2}",
    "[x for x in [1]]", "sum(n for n in (1, 2))", "(x := 5)",
    "1\x00", "\x00", "1 + \x00 2", "\ufeff1+2", "1 # + 2", "(1 # a\n+2)", "1 \\\n+ 2", "1\n2", "1\n+2",
    "١ + ٢", "１ + ２", "²", "½", "1 + Ⅷ", "\ud800", "1 + 2 # \ud800", "💥", "1\xa0+ 2",
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: ascii(text)[:30])
def test_anything_else_is_refused(text):
    with pytest.raises(ExpressionError) as caught:
        work_out(text)
    assert len(str(caught.value)) < 450  # one line for people, however long the text was


# Trees that are refused late and deep: what is said about them must not be as deep.
@pytest.mark.parametrize("text", ["1//" + "-" * 390 + "1", "1**" + "-" * 390 + "1", "+" + "-" * 390 + "1"])
def test_what_is_deep_and_refused_is_still_a_bad_expression(text):
    with pytest.raises(ExpressionError):
        work_out(text)


def test_a_recursion_limit_that_is_near_is_no_crash():
    """The caller's stack may be nearly full: that is a refusal, not a RecursionError."""
    limit = sys.getrecursionlimit()
    depth = len([*_frames()])
    try:
        sys.setrecursionlimit(depth + 150)
        with pytest.raises(ExpressionError):
            work_out("-" * 390 + "1")
    finally:
        sys.setrecursionlimit(limit)
    assert work_out("-" * 380 + "1").value == 1


def _frames():
    frame = sys._getframe()
    while frame is not None:
        yield frame
        frame = frame.f_back


def test_nothing_is_evaluated(monkeypatch):
    ran: list[object] = []
    monkeypatch.setattr(os, "getcwd", lambda: ran.append("getcwd"))
    monkeypatch.setattr("builtins.print", lambda *args: ran.append(args))
    monkeypatch.setattr("builtins.eval", lambda *args: ran.append(args))
    for text in ("print(1)", "__import__('os').getcwd()", "(1, print(2))", "1 + 2"):
        try:
            work_out(text)
        except ExpressionError:
            continue
    assert ran == []


def test_python_does_not_comment_on_the_text():
    """Python's parser warns of "1or 2" and "'\\d'"; a warning about a model's output is nobody's business."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for text in ("1or 2", "'\\d'", "0x1for x in y", "1(2)", "1 is 1"):
            with pytest.raises(ExpressionError):
                work_out(text)
    assert not caught


@settings(max_examples=200)
@given(st.text(max_size=60) | st.text("0123456789+-*/().[]×÷− _exj%\\#'\n", max_size=60))
def test_any_text_is_worked_out_or_refused(text):
    try:
        worked = work_out(text)
    except ExpressionError:
        return
    assert type(worked.value) is Fraction
    assert all(type(number) is int and number >= 0 for number in worked.numbers)
    assert worked.numbers


# --- puzzles ---------------------------------------------------------------------------------------------------------

PUZZLES = [
    "Use 3, 7 and 5 to make 50.",
    "use 3 7 5 to make 50",
    "Make 50 from 3, 7 and 5.",
    "Make 50 using the numbers 3, 7, 5!",
    "Using the numbers [3, 7, 5], create an equation that equals 50.",
    "Using the numbers 3, 7 and 5, reach the target 50. Use each number exactly once.",
    "Numbers: 3, 7, 5. Target: 50.",
    "Numbers: 3 7 5\nTarget: 50",
    "Target: 50\nNumbers: 3, 7, 5\n",
    "Numbers:\n- 3\n- 7\n- 5\nTarget: 50",
    "3, 7, 5 = 50",
    "3 7 5 -> 50",
    "3,7,5=50",
    "[3, 7, 5] -> 50?",
    "{3; 7; 5} make 50",
    "How can I get 50 from 3, 7 and 5?",
    "Hello! Please show me how to combine 3, 7 and 5 to get 50.",
    "Find an expression with 3, 7 and 5 that gives 50; use + - * / and parentheses.",
    "Solve this Countdown puzzle: 3, 7, 5, target 50. Allowed operations: +, -, *, /",
    "COUNTDOWN: NUMBERS 3, 7, 5; GOAL = 50",
    "Write an equation for me: 3, 7, 5 must make 50, with × ÷ + −.",
    "Obtain 50 out of 3, 7 and 5.",
    "With '3', \"7\" and `5` hit 50",
]


@pytest.mark.parametrize("text", PUZZLES)
def test_a_puzzle_is_read_in_many_words(text):
    assert read_puzzle(text) == Puzzle((3, 7, 5), 50)


@pytest.mark.parametrize(
    ("text", "puzzle"),
    [
        ("Use 5, 3, 5 and 3 to make 16", Puzzle((5, 3, 5, 3), 16)),
        ("Use 75, 50, 2, 3, 8, 7 to make 812", Puzzle((75, 50, 2, 3, 8, 7), 812)),
        ("Use 25, 100 and 3 to make 0", Puzzle((25, 100, 3), 0)),
        ("Use 1 and 2 to make 3", Puzzle((1, 2), 3)),
        ("make 3 from 1, 2", Puzzle((1, 2), 3)),
        ("Use 999999999 and 1 to make 999999998.", Puzzle((999999999, 1), 999999998)),
    ],
)
def test_numbers_keep_their_order(text, puzzle):
    assert read_puzzle(text) == puzzle


NO_PUZZLES = [
    "",
    " \n",
    "Hello!",
    "50",
    "Use 3, 7 and 5.",
    "Use 3, 7 and 5 to make something.",
    "Make 50.",
    "Make 50 from 3.",
    "I get 5 apples and 3 pears",
    "I get 5 apples and 3 pears. How many do I get in total?",
    "Janet makes 16 eggs and sells 7. What is her total?",
    "Use -3, 7 and 5 to make 50.",
    "Use 3, 7 and 5 to make -50.",
    "Use 3, 7 and 5 to make 5.5.",
    "Use 3.5, 7 and 5 to make 50.",
    "Use .5 and 3 to make 8",
    "Use 3 and 4 to make 1,000",
    "Use 3e1, 7 and 5 to make 50.",
    "Use 3rd, 7 and 5 to make 50.",
    "Use 1/2, 7 and 5 to make 50.",
    "Use 3%, 7 and 5 to make 50.",
    "Use ٣, ٧ and ٥ to make ٥٠.",
    "Use ３, ７ and ５ to make ５０.",
    "Use ², ³ and 5 to make 50.",
    "Use 1000000000 and 2 to make 3.",
    "Use x, 7 and 5 to make 50 dollars.",
    "What is 3 + 7?",
    "What is the value of 3 + 4 * 5?",
    "What is the result of (3 + 4) * 5?",
    "Solve the equation 2 x + 3 = 7",
    "Solve 3 x - 5 = 10",
    "1 + 2 = 3",
    "If x = 5 and y = 7, what is x times y?",
    "The sum of 3 and 7 equals 10.",
    "Find the greatest common divisor of 12, 18 and 24; what is the result?",
    "What is the capital of France?",
    "def f(x): return x + 1",
]


@pytest.mark.parametrize("text", NO_PUZZLES)
def test_another_question_is_no_puzzle(text):
    assert read_puzzle(text) is None


WHOLE = st.integers(0, 999_999_999)
RANDOM_PUZZLES = st.builds(Puzzle, st.lists(WHOLE, min_size=2, max_size=8).map(tuple), WHOLE)


@settings(max_examples=100)
@given(RANDOM_PUZZLES)
def test_a_puzzle_as_it_is_said_reads_back(puzzle):
    assert read_puzzle(str(puzzle)) == puzzle


@settings(max_examples=100)
@given(RANDOM_PUZZLES, st.data())
def test_polite_words_around_the_numbers_change_nothing(puzzle, data):
    whole = [word for word in FILLERS if not set(word) & set(SEPARATORS)]  # "let's" is two words by then
    fillers = st.lists(st.sampled_from(whole), max_size=3).map(" ".join)
    aim = data.draw(st.sampled_from(AIMS))
    words = [data.draw(fillers)]
    for number in puzzle.numbers:
        words += [str(number) + data.draw(st.sampled_from([*SEPARATORS, "."])), data.draw(fillers)]
    words += [aim, data.draw(fillers), f"{puzzle.target}."]
    text = " ".join(words)
    assert read_puzzle(data.draw(st.sampled_from([text, text.upper(), text.title()]))) == puzzle


@settings(max_examples=50)
@given(RANDOM_PUZZLES, st.text("bcdfghjklmnpqrstvw", min_size=6, max_size=9))
def test_one_strange_word_makes_it_another_question(puzzle, word):
    assume(word not in AIMS + FILLERS)
    assert read_puzzle(f"{puzzle} {word}") is None


MIXED = st.lists(st.sampled_from([*AIMS, *FILLERS, *SIGNS, *SEPARATORS, "3", "7", "50", "."]), max_size=30)


@settings(max_examples=200)
@given(st.text(max_size=80) | MIXED.map(" ".join))
def test_any_text_is_a_puzzle_or_none(text):
    puzzle = read_puzzle(text)
    if puzzle is not None:
        assert len(puzzle.numbers) >= 2
        assert read_puzzle(str(puzzle)) == puzzle
