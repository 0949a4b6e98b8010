"""A right expression is accepted however it is written, a wrong one never, and no text takes the verifier down."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from led_agent.types import Branch, Message, Problem, Verdict
from led_agent.verifiers import Countdown, CountdownSteps, countdown, is_puzzle
from led_agent.verifiers.countdown import expression_in

PROMPT = "Use 3, 7 and 5 to make 50."


def verdict(text: str, prompt: str = PROMPT, **metadata: object) -> Verdict:
    return countdown()(Problem(prompt=prompt, metadata=metadata), Branch(text=text))


RIGHT = [
    "(3+7)*5",
    "(3 + 7) * 5",
    "5*(7+3)",
    "((3 + 7)) * 5",
    "[3 + 7] * 5",
    "[(3 + 7) * 5]",
    "(3 + 7) * 5.",
    "(3 + 7) * 5 = 50",
    "(3 + 7) * 5 = 50.",
    "50 = (3 + 7) * 5",
    "50=(3+7)*5",
    "= (3 + 7) * 5",
    "(3 + 7) × 5 = 50",
    "(3 + 7) · 5",
    "(3 + 7) ⋅ 5",
    "(3 + 7) ∗ 5",
    "(3 + 7) x 5 = 50",
    "(3+7)x5",
    "5x(3+7)",
    "5 X (3 + 7)",
    "5 * -(-3 - 7)",
    "-5 * (-3 - 7)",
    "−5 × (−3 − 7)",
    "(7 - -3) * 5",
    "The answer is (3 + 7) * 5.",
    "The answer is: (3 + 7) * 5 = 50!",
    "Answer:(3+7)*5",
    "I add 3 and 7, then multiply: (3 + 7) * 5 equals 50.",
    "(3 + 7) * 5 (which equals 50)",
    "(3 + 7) * 5 - as required",
    "**(3 + 7) * 5 = 50**",
    "*(3 + 7) * 5*",
    "`(3 + 7) * 5`",
    "```\n(3 + 7) * 5\n```",
    "$(3 + 7) * 5 = 50$",
    "$$(3 + 7) \\times 5 = 50$$",
    r"\((3 + 7) \times 5\)",
    r"\( 5 \cdot (3+7) = 50 \)",
    r"\[ (3 + 7) \times 5 = 50 \]",
    r"\left(3 + 7\right) \times 5",
    r"\left[3 + 7\right]\cdot5",
    r"(3\,+\,7)\;\times\;5",
    r"\boxed{(3 + 7) * 5}",
    r"\boxed{(3 + 7) \times 5 = 50}",
    r"\boxed{50 = 5 \times (3 + 7)}",
    r"First I had \boxed{3 + 7 * 5}, no: \boxed{(3 + 7) * 5}. I used 1 + 2 numbers.",
    "<answer>(3 + 7) * 5</answer>",
    "<answer> (3 + 7) * 5 = 50 </answer> I used 1 + 2 numbers.",
    "<ANSWER>\n(3 + 7) * 5\n</ANSWER>",
    r"<answer>\boxed{(3 + 7) * 5}</answer>",
    "<answer>3 + 7 * 5</answer> No: <answer>(3 + 7) * 5</answer>",
    "It goes between <answer> tags: 1 + 2. <answer>(3 + 7) * 5</answer>",
    "<think>3 + 7 * 5 = 38, no</think>(3 + 7) * 5",
    "<think>a</think>3 + 7 * 5</think>(3 + 7) * 5",
    "3 + 7 * 5 = 38. That is not it. (3 + 7) * 5 = 50. That is it.",
    "3 + 7 = 10\n10 * 5 = 50\nSo (3 + 7) * 5 = 50",
    "1. 3 + 7 = 10\n2. 10 * 5 = 50\n3. (3 + 7) * 5 = 50",
    "1) (3 + 7) * 5",
    "1. (3 + 7) * 5",
    "Try:\n  2) (3 + 7) * 5 = 50",
    "- 3 + 7 = 10\n- (3 + 7) * 5",
    "- 5 * (3 + 7)",
    "* 5 * (3 + 7)",
    "+ 5 * (3 + 7)",
    "• 5 * (3 + 7)",
    "(3 + 7) * 5 = 50\nNumbers used: 3, 7, 5 - all of them.",
    "(3 + 7) * 5 = 50\n\nEach of\n- 3\n- 7\n- 5\nis used 1 time.",
]

# What is wrong is named: the part of the reason that says so.
WRONG = [
    ("", "no expression"),
    ("50", "no expression"),
    ("-50", "no expression"),
    ("I can't do it.", "no expression"),
    ("none", "no expression"),
    ("(3 + 7) * 5 </think>", "no expression"),
    ("<think>(3 + 7) * 5</think>50", "no expression"),
    ("<answer>50</answer>", "no expression"),
    ("3 + 7 * 5", "comes to 38, not 50"),
    ("3 + 7 - 5", "comes to 5, not 50"),
    ("3 / 7 + 5", "comes to 38/7, not 50"),
    ("3 + 7 * 5 = 50", "comes to 38, not 50"),
    ("-(3 + 7) * 5", "comes to -50, not 50"),
    ("−(3 + 7) * 5", "comes to -50, not 50"),
    ("–(3 + 7) * 5", "comes to -50, not 50"),
    ("The answer is -(3 + 7) * 5.", "comes to -50, not 50"),
    ("The answer is -5 * (3 + 7).", "comes to -50, not 50"),
    ("10 * 5", "uses 5, 10; given are 3, 5, 7"),
    ("7 * 5 + 5 * 3", "uses 3, 5, 5, 7; given are 3, 5, 7"),
    ("(3 + 7) * 5 * 7 / 7", "uses 3, 5, 7, 7, 7; given are 3, 5, 7"),
    ("7 * 5", "uses 5, 7; given are 3, 5, 7"),
    ("49 + 1", "uses 1, 49; given are 3, 5, 7"),
    ("3 + 7 = 10, 10 * 5 = 50", "uses 5, 10; given are 3, 5, 7"),
    ("37 + 5 + 8", "uses 5, 8, 37; given are 3, 5, 7"),
    ("(3 + 7) * 5. No: 3 + 7 * 5", "comes to 38, not 50"),
    ("(3 + 7) * 5, or 3 + 7 * 5 = 38", "comes to 38, not 50"),
    (r"\boxed{(3 + 7) * 5}, no: \boxed{3 + 7 * 5}", "comes to 38, not 50"),
    ("<answer>(3 + 7) * 5</answer> No: <answer>3 + 7 * 5</answer>", "comes to 38, not 50"),
    ("(3 + 7) * 5 <answer>3 + 7 * 5</answer> (3 + 7) * 5", "comes to 38, not 50"),
    ("<think>(3 + 7) * 5</think>3 + 7 * 5", "comes to 38, not 50"),
    ("((3 + 7) * 5", "is no arithmetic expression"),
    ("(3 + 7) * 5)", "is no arithmetic expression"),
    ("(3 + 7] * 5)", "is no arithmetic expression"),
    ("(3 + 7) 5 + 0", "is no arithmetic expression"),
    ("(3 + 7)5 + 0", "is no arithmetic expression"),
    ("5(3 + 7)", "not a whole number"),
    ("(3 + 7) ** 5", "is no arithmetic expression"),
    ("(3 + 7) // 5", "not a whole number"),
    ("(3 + 7)^5", "is no arithmetic expression"),
    ("1.3 + 7 * 5", "not a whole number"),
    (".3 + 7 * 5", "not a whole number"),
    ("5 * (3 + 7.0)", "not a whole number"),
    ("5 / (3 + 7 - 10)", "divides by zero"),
    ("3 + 7 / (5 - 5)", "divides by zero"),
    ("٥ * (٣ + ٧)", "is no arithmetic expression"),
    ("(" * 300 + "3 + 7" + ")" * 300 + " * 5", "at most 400"),
    ("3 // " + "-" * 380 + "7", "nested too deeply"),
]


@pytest.mark.parametrize("text", RIGHT)
def test_a_right_expression_is_accepted_however_it_is_written(text):
    judged = verdict(text)
    assert (judged.status, judged.score, judged.verifier) == ("accepted", 1.0, "countdown"), judged.reason
    assert "50" in judged.reason
    assert judged.seconds >= 0.0
    assert judged.answer


@pytest.mark.parametrize(("text", "reason"), WRONG)
def test_a_wrong_one_is_rejected_and_the_fault_is_named(text, reason):
    judged = verdict(text)
    assert (judged.status, judged.score, judged.verifier) == ("rejected", 0.0, "countdown")
    assert reason in judged.reason
    assert (judged.answer is None) == (reason == "no expression")


@pytest.mark.parametrize(
    "text",
    [
        "8/(3-8/3)",
        "8 ÷ (3 − 8 ÷ 3) = 24",
        r"\boxed{\frac{8}{3-\frac{8}{3}}}",
        r"$\dfrac{8}{3 - \dfrac{8}{3}} = 24$",
        r"\tfrac {8} {(3 - 8/3)}",
        r"8 \div \left(3 - \frac{8}{3}\right) = 24",
    ],
)
def test_fractions_on_the_way_are_exact(text):
    judged = verdict(text, "?", numbers=[3, 3, 8, 8], target=24)
    assert judged.status == "accepted", judged.reason


def test_a_fraction_is_a_unit_among_other_signs():
    r"""\frac{12}{4} under a sign of division is 12/4 in brackets."""
    numbers = {"numbers": [24, 12, 4], "target": 8}
    assert verdict(r"24 \div \frac{12}{4}", "?", **numbers).status == "accepted"
    assert verdict("24 / 12 / 4", "?", **numbers).status == "rejected"


def test_almost_is_not_right():
    big = 10**17
    assert verdict(f"({big} + 1) / 1", "?", numbers=[big, 1, 1], target=big).status == "rejected"
    assert verdict("1 / 3 * 3 * 1", "?", numbers=[1, 1, 3, 3], target=1).status == "accepted"


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("(3 + 7) * 5 = 50", "(3 + 7) * 5"),
        ("50 = (3 + 7) * 5.", "(3 + 7) * 5"),
        ("1) 3+7 = 10\n2) 10*5 = 50", "10*5"),
        (r"\boxed{3 \times 7}", "3 * 7"),
        ("- 3 + 7", "3 + 7"),
        ("-3 + 7", "-3 + 7"),
        ("1.5+3", "1.5+3"),
        ("3 4 5", None),
        ("-5", None),
        ("", None),
        ("<think>1 + 2", "1 + 2"),
        ("1 + 2</think>", None),
    ],
)
def test_the_final_expression_is_found_as_it_stands(text, answer):
    assert expression_in(text) == answer
    assert verdict(text).answer == answer


def test_an_answer_stands_at_the_end_of_a_long_text():
    assert verdict("3 + 7 * 5 is 38. " * 60_000 + "(3 + 7) * 5").status == "accepted"


# --- where the puzzle comes from -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["numbers", "nums"])
@pytest.mark.parametrize("kind", [list, tuple])
def test_metadata_say_the_puzzle_and_beat_the_prompt(name, kind):
    metadata = {name: kind([2, 4]), "target": 8}
    for prompt in (PROMPT, "What is it?"):
        assert verdict("2 * 4", prompt, **metadata).status == "accepted"
        assert verdict("(3 + 7) * 5", prompt, **metadata).status == "rejected"


def test_numbers_go_before_nums():
    assert verdict("2 * 4", numbers=[2, 4], nums=[1, 2, 3], target=8).status == "accepted"


@pytest.mark.parametrize("metadata", [{"target": 8}, {"numbers": [2, 4]}, {"numbers": None, "target": 8}, {"other": 1}])
def test_metadata_without_a_puzzle_leave_it_to_the_prompt(metadata):
    assert verdict("(3 + 7) * 5", **metadata).status == "accepted"
    assert verdict("(3 + 7) * 5", "What is it?", **metadata).status == "abstained"


def test_metadata_may_hold_negative_numbers_and_targets():
    assert verdict("2 - 4", "?", numbers=[2, 4], target=-2).status == "accepted"
    assert verdict("4 - 2", "?", numbers=[2, 4], target=-2).status == "rejected"


@pytest.mark.parametrize(
    "metadata",
    [
        {"numbers": "3 7 5", "target": 50},
        {"numbers": 3, "target": 50},
        {"numbers": [], "target": 50},
        {"numbers": {"3": 7}, "target": 50},
        {"numbers": [3, "7", 5], "target": 50},
        {"numbers": [3, 7.0, 5], "target": 50},
        {"numbers": [3, None, 5], "target": 50},
        {"numbers": [True, 7, 5], "target": 50},
        {"numbers": [[3], 7, 5], "target": 50},
        {"nums": [3, 7, 5], "target": "50"},
        {"nums": [3, 7, 5], "target": 50.0},
        {"nums": [3, 7, 5], "target": True},
        {"nums": [3, 7, 5], "target": [50]},
        {"nums": [3, 7, 5], "target": Fraction(50)},
    ],
)
def test_malformed_metadata_are_an_error_and_no_rejection(metadata):
    """A dataset's fault must not look like a model's."""
    judged = verdict("(3 + 7) * 5", **metadata)
    assert (judged.status, judged.score, judged.answer) == ("error", 0.0, None)
    assert repr(metadata["target"]) in judged.reason
    assert "whole number" in judged.reason
    assert is_puzzle(Problem(prompt=PROMPT, metadata=metadata))


@pytest.mark.parametrize(
    "prompt", ["What is 3 + 7?", "I get 5 apples and 3 pears", "Hello!", "What is the value of 3 + 4 * 5?"]
)
def test_what_is_no_puzzle_is_left_alone(prompt):
    judged = verdict("3 + 7", prompt)
    assert (judged.status, judged.score, judged.answer) == ("abstained", 0.0, None)
    assert "no Countdown puzzle" in judged.reason
    assert not is_puzzle(Problem(prompt=prompt))


def test_a_chat_is_judged_by_its_last_question():
    chat = (
        Message(role="user", content="Use 1 and 2 to make 3."),
        Message(role="assistant", content="1 + 2"),
        Message(role="user", content=PROMPT),
    )
    problem = Problem(prompt=chat)
    assert is_puzzle(problem)
    assert countdown()(problem, Branch(text="(3 + 7) * 5")).status == "accepted"
    assert countdown()(problem, Branch(text="1 + 2")).status == "rejected"


def test_a_pickled_copy_is_equal_and_works():
    other = pickle.loads(pickle.dumps(countdown()))
    assert other == countdown() == Countdown()
    assert other.name == "countdown"
    assert other(Problem(prompt=PROMPT), Branch(text="(3 + 7) * 5")).status == "accepted"


def test_many_threads_may_ask_at_once():
    texts = ["(3 + 7) * 5", "3 + 7 * 5"] * 20
    with ThreadPoolExecutor(4) as pool:
        statuses = [judged.status for judged in pool.map(verdict, texts)]
    assert statuses == ["accepted", "rejected"] * 20


# --- any puzzle, any text --------------------------------------------------------------------------------------------


@st.composite
def solved(draw: st.DrawFn) -> tuple[list[int], str, Fraction]:
    """Numbers in some order, an expression of each of them once, and what it comes to."""
    numbers = draw(st.lists(st.integers(1, 100), min_size=2, max_size=6))
    parts = [(Fraction(n), str(n)) for n in draw(st.permutations(numbers))]
    while len(parts) > 1:
        right = parts.pop(draw(st.integers(0, len(parts) - 1)))
        left = parts.pop(draw(st.integers(0, len(parts) - 1)))
        sign = draw(st.sampled_from("+-*/" if right[0] else "+-*"))
        value = {"+": left[0].__add__, "-": left[0].__sub__, "*": left[0].__mul__, "/": left[0].__truediv__}[sign](
            right[0]
        )
        space = draw(st.sampled_from(["", " "]))
        parts.append((value, f"({left[1]}{space}{sign}{space}{right[1]})"))
    return numbers, parts[0][1], parts[0][0]


def in_latex(expression: str) -> str:
    return expression.replace("*", r" \times ").replace("/", r" \div ").replace("(", r"\left(").replace(")", r"\right)")


WRAPPERS = [
    str,
    lambda e: e[1:-1],
    lambda e: e.replace("*", "×").replace("/", "÷").replace("-", "−"),
    lambda e: e.replace("*", "x"),
    lambda e: f"The answer is {e}.",
    lambda e: f"<think>1 + 1 = 3</think>\n\n**{e}**",
    lambda e: f"Steps:\n1. 2 + 2 = 4\n2) {e}",
    lambda e: f"- `{e}`",
    lambda e: f"<answer>{e}</answer>",
    lambda e: rf"So \boxed{{{e}}}",
    lambda e: f"${in_latex(e)}$",
    lambda e: rf"\[ {in_latex(e)} \]",
]


@settings(max_examples=150)
@given(solved(), st.sampled_from(WRAPPERS), st.integers(-10, 10).filter(bool))
def test_a_solution_of_any_puzzle_is_accepted_and_only_for_its_target(solution, wrap, off):
    numbers, expression, value = solution
    assume(value.denominator == 1)
    target = int(value)
    judged = verdict(wrap(expression), "?", numbers=numbers, target=target)
    assert (judged.status, judged.score) == ("accepted", 1.0), judged.reason
    judged = verdict(wrap(expression), "?", numbers=numbers, target=target + off)
    assert (judged.status, judged.score) == ("rejected", 0.0)
    assert judged.reason == f"it comes to {target}, not {target + off}"
    judged = verdict(f"{wrap(expression)} = {target}", "?", numbers=numbers, target=target)
    assert judged.status == "accepted", judged.reason


@settings(max_examples=100)
@given(solved(), st.data())
def test_numbers_that_are_not_the_given_ones_are_rejected_whatever_they_come_to(solution, data):
    numbers, expression, value = solution
    assume(value.denominator == 1)
    other = list(numbers)
    at = data.draw(st.integers(0, len(numbers) - 1))
    change = data.draw(st.sampled_from(["more", "less", "another"]))
    if change == "more":
        other.append(numbers[at])
    elif change == "less":
        assume(len(numbers) > 2)
        other.pop(at)
    else:
        other[at] += 1
    judged = verdict(expression, "?", numbers=other, target=int(value))
    assert judged.status == "rejected"
    assert judged.reason.startswith("it uses ")
    assert judged.reason.endswith(f"given are {', '.join(map(str, sorted(other)))}")


@settings(max_examples=50)
@given(solved())
def test_a_puzzle_in_english_is_judged_as_one_in_metadata(solution):
    numbers, expression, value = solution
    assume(value.denominator == 1 and 0 <= value < 10**9)
    prompt = f"Using the numbers {numbers}, create an equation that equals {value}."
    assert verdict(expression, prompt).status == "accepted"
    assert verdict(f"{expression} + 0", prompt).status == "rejected"


LIKELY_PARTS = [
    "3", "7", "5", "50", "+", "-", "*", "/", "(", ")", "[", "]", "{", "}", "=", ".", " ", "\n", "x", "^", "−", "–",
    r"\frac{", r"\boxed{", r"\left(", r"\(", r"\\", "<answer>", "</answer>", "</think>", "**", "`", "$", "1) ",
]  # fmt: skip
LIKELY = st.lists(st.sampled_from(LIKELY_PARTS), max_size=40).map("".join)


@settings(max_examples=200)
@given(st.text(max_size=80) | LIKELY)
def test_any_text_gets_a_verdict(text):
    judged = verdict(text)
    assert judged.status in ("accepted", "rejected")
    assert judged.score == (judged.status == "accepted")
    assert judged.reason
    assert judged.answer == expression_in(text)
    assert judged.answer is not None or judged.status == "rejected"


@settings(max_examples=100)
@given(st.text(min_size=1, max_size=80).filter(str.strip))
def test_any_prompt_gets_a_verdict(prompt):
    status = verdict("(3 + 7) * 5", prompt).status
    assert (status == "abstained") == (not is_puzzle(Problem(prompt=prompt)))


# A megabyte each of what makes a careless pattern go back and forth; the failure is a run that never ends.
PIECES = [
    r"\frac{", r"\frac{1}", r"\frac{1}{", r"\frac ", "\\", "\\[", r"\boxed{", r"\left(", "{", "}", "{}", "(", ")", "()",
    "[(", "<answer>", "</answer>", "<answer></answer>", "<", "</think>", "1", "1 ", "1 + ", "1+", "1)", "1) \n", "-",
    "- ", "-(", "x", "1x", " x ", "*", "** ", "=", "= 1 ", ".", "1.", ". 1", "^", " ", "\t", "\n", "\r\n", "\x00", "é",
]  # fmt: skip


@pytest.mark.parametrize("piece", PIECES, ids=ascii)
def test_a_megabyte_of_anything_gets_a_verdict(piece):
    text = piece * (1_000_000 // len(piece))
    assert verdict(text).status == "rejected"
    assert verdict(r"\frac{1}" + text + "!").status == "rejected"
    assert verdict("<answer>" + text + "</answer>").status == "rejected"


@settings(max_examples=30)
@given(st.lists(st.sampled_from(PIECES), min_size=1, max_size=4).map("".join), st.sampled_from(PIECES))
def test_long_mixtures_get_a_verdict(piece, end):
    assert verdict(piece * (20_000 // len(piece)) + end).status == "rejected"


# --- steps -----------------------------------------------------------------------------------------------------------

STEPS = countdown(steps=True)


def step_verdict(text: str, prompt: str = PROMPT, **metadata: object) -> Verdict:
    assert isinstance(STEPS, CountdownSteps)
    return STEPS.step(Problem(prompt=prompt, metadata=metadata), Branch(text=text, finish="step"))


def test_it_judges_steps_only_where_it_is_told_to() -> None:
    assert not hasattr(countdown(), "step")
    assert countdown(steps=True) == STEPS
    assert countdown() != STEPS
    problem, branch = Problem(prompt=PROMPT), Branch(text="(3 + 7) * 5")
    said = STEPS(problem, branch)
    assert (said.status, said.answer, said.verifier) == ("accepted", "(3 + 7) * 5", "countdown")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("7 - 3 = 4 5 * 4 = 20 no", "the attempt comes to 20, not 50"),
        ("7 - 3 = 4 5 * 4 = 20 no 7 + 5 = 12 12 * 3 = 36 no", "the attempt comes to 36, not 50"),
        ("7 + 3 = 10 10 * 5 = 50 no 7 - 3 = 4, 5 × 4 = 20: No.\n", "the attempt comes to 20, not 50"),
        ("Try (3 + 7) × 4 = 40, no", "the attempt comes to 40, not 50"),
        ("7 - 5 = 2 3 - 2 = 1 no\n", "the attempt comes to 1, not 50"),
        ("7 + 3 = 11 11 * 5 = 55", "7 + 3 comes to 10, not 11"),
        ("7 - 3 = 4 5 * 4 = 20 no 7 + 3 = 10 10 * 5 = 40", "10 * 5 comes to 50, not 40"),
        ("7 / 3 = 2 2 * 5 = 10 no", "7 / 3 comes to 7/3, not 2"),
        ("7 + 3 = 11 11 * 5 = 50 no", "7 + 3 comes to 10, not 11"),
    ],
)
def test_an_attempt_that_failed_is_rejected_and_says_why(text: str, reason: str) -> None:
    said = step_verdict(text)
    assert (said.status, said.reason, said.verifier) == ("rejected", reason, "countdown")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no",
        "7 + 3 = 10",
        "7 - 3 = 4 5 * 4 = 20",  # it may yet go on
        "7 + 3 = 10 10 * 5 = 50 no",  # whatever the model says of it
        "7 + 3 = 10 10 * 5 = 50 yes",
        "7 + 3 = 11 11 * 5 = 55 no 7 + 3 = 10",  # the attempt before is another step's
        "Let me see if there is a way or no",
        "I know: 7 - 3 = 4",
        "7 / 3 = 2.33",
        "3 * 7 + 5 = 21 + 5 = 26",
        "10 / 3 = 10/3",
        "7 / 0 = 7 no way to go on",
        "three + 7 = 99",
        "10000000 + 1 = 10,000,001",
    ],
)
def test_of_any_other_step_it_says_nothing(text: str) -> None:
    assert step_verdict(text).status == "abstained"


def test_steps_of_no_puzzle_are_left_alone_and_malformed_metadata_are_an_error() -> None:
    assert step_verdict("1 + 1 = 3 no", prompt="How are you?").status == "abstained"
    assert step_verdict("1 + 1 = 3 no", numbers="1, 2", target=3).status == "error"
    assert step_verdict("1 + 2 = 3 no", prompt="x", numbers=[1, 2], target=4).status == "rejected"


@given(st.text(alphabet="0123456789 +-*/=()[]no.,×÷^", max_size=300))
@settings(deadline=None)
def test_no_step_takes_it_down(text: str) -> None:
    assert step_verdict(text).status in ("abstained", "rejected")


@pytest.mark.parametrize(
    "text", ["1" * 50_000, "1 + " * 20_000, "= " * 20_000, "1 + 1 = " + "9" * 30_000, "(" * 40_000]
)
def test_no_length_of_a_step_takes_it_down(text: str) -> None:
    assert step_verdict(text + " no").status in ("abstained", "rejected")
