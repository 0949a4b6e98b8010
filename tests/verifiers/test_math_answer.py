"""Right answers are accepted however they are written, wrong ones never, and no expression takes the verifier down."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from led_agent.errors import UsageError
from led_agent.types import Branch, Problem, Verdict
from led_agent.verifiers import MathAnswer, math_answer

# As references stand in GSM8K, MATH-500 and AIME.
GOLDS = [
    "18", "-10", "073", "p - q", r"\frac{14}{3}", r"\frac43", r"\text{Evelyn}", "Evelyn", r"\text{(E)}", "2516_8",
    r"\left( 3, \frac{\pi}{2} \right)", "(3, \\pi/2)", "1,-2", r"11\sqrt2", "6+9i", "(3,4]", r"(-\infty, 0]",
    r"(0,9) \cup (9,36)", r"x \in [-2,7]", "x=5", "y = -2x", r"1 \pm \sqrt{19}", r"\{1\pm\sqrt{5},-2\}", r"30^\circ",
    ".0000672", r"10,\!080", r"11,\! 111,\! 111,\! 100", r"\$32,\!348", "58,500", "x^5 - x^4 + x^3 - x^2 + x - 1",
    r"\begin{pmatrix} 1/5 \\ -18/5 \end{pmatrix}", "50\\%", "12:30", r"\frac{1}{0}", "no", "a proof by induction",
]  # fmt: skip

RIGHT = [
    ("18", "The total is $18."),
    ("18", "#### 18"),
    ("18", "#### 18\nThat took 5 steps."),
    ("1234", "#### $1,234.00"),
    ("18", "#### Step 1: costs\nThey are 9.\n#### Step 2: total\nIt is 2 * 9 = 18."),
    ("Evelyn", "Briana came second.\n#### Evelyn"),
    ("1,234", "He pays $1,234 in all."),
    ("1234", r"\boxed{1 234}"),
    ("18", "**Answer:** 18 dollars"),
    ("18", "The answer is 18, since she had 20 and gave 2."),
    ("18", "The answer is 18. We checked it 3 times."),
    ("18", "The answer is 9 * 2 = 18."),
    ("18", "The answer is:\n\n\\[\n18\n\\]\n\nDone in 3 steps."),
    ("18", "I think the answer is 17. Wait, the answer is 18."),
    ("18", "<answer>18</answer>"),
    ("18", "She makes 9 * 2 = $18 every day at the farmer's market."),
    ("18", r"\boxed{18 dollars}"),
    ("18", r"\boxed{18\text{ square meters}}"),
    ("18 dollars", r"\boxed{18}"),
    ("50", r"\boxed{50\%}"),
    ("50%", "The answer is 50 percent."),
    ("0.15", r"\boxed{15\%}"),
    ("-10", "The answer is −10."),
    (r"\frac{14}{3}", "The answer is 14/3."),
    (r"\frac{14}{3}", r"Thus it is \frac{14}{3}."),
    ("5/2", r"\boxed{2 1/2}"),
    ("5/2", r"\boxed{2½}"),
    ("1/3", r"\boxed{0.333333}"),
    ("100000", r"\boxed{1e5}"),
    (r"(3, \pi/2)", r"Answer: (3, \frac{\pi}{2})"),
    ("x=5", r"\boxed{5}"),
    ("5", "Therefore x = 5."),
    ("2x+3", "So the line is y = 2x + 3 for all x in it"),
    ("1,-2", r"\boxed{x=1 \text{ or } x=-2}"),
    (r"(0,9) \cup (9,36)", "The answer is (0,9) ∪ (9,36)."),
    ("2516_8", r"\boxed{2516}"),
    (r"\text{(B)}", "The answer is B) 12 apples"),
    ("B", r"\boxed{\textbf{(B)}\ 12}"),
    ("Evelyn", "The answer is **Evelyn**."),
    ("Evelyn", "Evelyn"),
    ("Janet has 16 - 7 = 9 left.\n#### 9", r"\boxed{9}"),
    (r"So it is \boxed{9}.", "9"),
    ("18", "<think>17, so \\boxed{17}</think>It is 18."),
    ("18", r"First \boxed{17}, no: \boxed{18}"),
]

WRONG = [
    ("18", "the answer is 19"),
    ("3", "13"),
    ("3", r"\boxed{13}"),
    ("18", "She has 18 ducks and sells 9. So 9 remain."),
    ("18", "To answer this, take the 18 ducks. Half of them are 9."),
    ("18", "The answer is not 18. It is 19."),
    ("20", "The answer is 18, since she had 20 and gave 2."),
    ("2", "The answer is 18, since she had 20 and gave 2."),
    ("3", "The answer is 18. We checked it 3 times."),
    ("17", "I think the answer is 17. Wait, the answer is 18."),
    ("2", "#### 1. Costs\nThey are 9.\n#### 2. Total\nIt is 18."),
    ("2", "#### Step 1: costs\nThey are 9.\n#### Step 2: total\nIt is 18."),
    ("5", "He gave 5 for a total of (18)"),
    ("9", r"\boxed{1 8}"),
    ("5", r"\boxed{5 thousand}"),
    ("5", r"\boxed{5xy}"),
    ("5", r"\boxed{5 or 6}"),
    ("1", "x^2 + 1"),
    ("3", "The answer is 2x + 3 dollars."),
    ("3", "So the line is y = 2x + 3 for all x in it"),
    ("2", "Hence it is sqrt(2)."),
    ("3", "The answer is 3.21."),
    ("4", "3/4"),
    ("10", "The answer is -10."),
    ("50", r"\boxed{0.5}"),
    ("Evelyn", r"\boxed{nylevE}"),
    ("Evelyn", "Evelyn came second. The answer is Briana."),
    ("no", r"\boxed{on}"),
    (r"\text{(B)}", r"\boxed{(C)}"),
    ("A", r"\boxed{A and B}"),
    ("2516_8", r"\boxed{2516_7}"),
    (".0000672", r"\boxed{.0000671}"),
    (r"\frac{2}{1005}", r"\boxed{0.00199}"),
    ("1/3", r"\boxed{0.33}"),
    ("(3,4]", r"\boxed{[3,4)}"),
    ("(3,4)", r"\boxed{\{3,4\}}"),
    ("(3,4)", r"\boxed{(4,3)}"),
    ("y=-2x", r"\boxed{y=2x}"),
    ("p - q", r"\boxed{q - p}"),
    ("18", "<think>18</think>It is 17."),
    ("18", r"First \boxed{18}, no: \boxed{19}"),
    ("18", r"There are 18, so \boxed{1"),
]

NEVER_ENDING = [
    r"\boxed{10^{10^{10}}}",
    r"\boxed{9^{9^{9^9}}}",
    r"\boxed{\sum_{k=1}^{10000000} \frac{1}{k}}",
    r"\boxed{10^{" + " " * 400 + "10^{10}}}",
]

STRANGE = [
    "9**9**9**9",
    r"\boxed{" + "{" * 100_000 + "18" + "}" * 100_000 + "}",
    r"\boxed{" * 100_000,
    r"\boxed{18",
    r"\boxed{" + "9" * 5_000 + "}",
    "9" * 1_000_000,
    "x " * 500_000,
    "$" * 1_000_000,
    "\\[ " * 300_000,
    "(1+" * 1_000 + "1" + ")" * 1_000,
    "\x00" * 1_000,
    "\\boxed{\x00}",
    "\\boxed{\ud800}",
]


@pytest.fixture(scope="module")
def verifier():
    verifier = math_answer(seconds=20.0, workers=2)
    yield verifier
    verifier.close()


def verdict(verifier: MathAnswer, answer: str | None, text: str) -> Verdict:
    # model_construct, as a model may well write what the record would not take.
    return verifier(Problem(prompt="How many?", answer=answer), Branch.model_construct(text=text))


@pytest.mark.parametrize("gold", GOLDS)
def test_a_reference_answer_verifies_against_itself(verifier, gold):
    judged = verdict(verifier, gold, rf"<think>Hm, \boxed{{0}}.</think>So it is \boxed{{{gold}}}.")
    assert (judged.status, judged.score, judged.answer) == ("accepted", 1.0, gold)
    assert judged.reason.endswith(" matches")


@pytest.mark.parametrize(("gold", "text"), RIGHT)
def test_a_right_answer_is_accepted_however_it_is_written(verifier, gold, text):
    assert verdict(verifier, gold, text).status == "accepted"


@pytest.mark.parametrize(("gold", "text"), WRONG)
def test_a_wrong_answer_is_rejected(verifier, gold, text):
    judged = verdict(verifier, gold, text)
    assert (judged.status, judged.score) == ("rejected", 0.0)


def test_a_rejection_says_what_was_found_and_what_was_expected(verifier):
    judged = verdict(verifier, "18", "The answer is 19.")
    assert judged.answer == "19"
    assert judged.reason == "found 19, expected 18"
    assert judged.verifier == verifier.name == "math_answer"
    assert judged.seconds > 0


@pytest.mark.parametrize("text", ["", "No idea at all.", r"\boxed{}", r"<think>\boxed{18}</think>"])
def test_a_text_without_an_answer_is_rejected(verifier, text):
    judged = verdict(verifier, "18", text)
    assert (judged.status, judged.reason, judged.answer) == ("rejected", "no answer found in the text", None)


@pytest.mark.parametrize("answer", [None, "", "   "])
def test_without_a_reference_it_abstains(verifier, answer):
    judged = verdict(verifier, answer, r"\boxed{18}")
    assert judged.status == "abstained"
    assert "reference answer" in judged.reason


def test_without_a_reference_no_process_starts():
    verifier = math_answer()
    assert verdict(verifier, None, "18").status == "abstained"
    assert verifier._pool.pids() == ()


numbers = st.integers(-(10**12), 10**12)
forms = st.sampled_from(
    ["{}", r"\boxed{{{}}}", "#### {}", "The answer is {}.", "7 and 11 make {}", "so ${}$.", "<think>7 {} 8</think>{}"]
)


@settings(max_examples=60, deadline=None)
@given(gold=numbers, form=forms, style=st.sampled_from(["d", ",d", ".2f"]))
def test_a_number_is_accepted_in_every_form(verifier, gold, form, style):
    written = format(gold, style)
    assert verdict(verifier, str(gold), form.format(written, written)).status == "accepted"


@settings(max_examples=60, deadline=None)
@given(gold=numbers, other=numbers | st.integers(-20, 20), form=forms)
def test_another_number_is_never_accepted(verifier, gold, other, form):
    accepted = verdict(verifier, str(gold), f"{gold} is close, but " + form.format(other, other)).status == "accepted"
    assert accepted == (gold == other)


fractions = st.fractions(min_value=-100, max_value=100, max_denominator=60)


@settings(max_examples=40, deadline=None)
@given(gold=fractions, given_answer=fractions)
def test_fractions_are_equal_when_their_values_are(verifier, gold, given_answer):
    def latex(value: Fraction, by: int) -> str:
        sign = "-" if value < 0 else ""
        return rf"{sign}\frac{{{abs(value.numerator) * by}}}{{{value.denominator * by}}}"

    assert verdict(verifier, str(gold), rf"\boxed{{{latex(gold, 3)}}}").status == "accepted"
    expected = "accepted" if gold == given_answer else "rejected"
    assert verdict(verifier, latex(gold, 1), rf"\boxed{{{latex(given_answer, 2)}}}").status == expected


@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=200) | st.text(alphabet=r"\{}[]()$^_+-*/=., boxedansweri0123", max_size=60))
def test_any_text_gives_a_verdict(verifier, text):
    judged = verdict(verifier, "271828182", text)
    assert judged.status in ("rejected", "error")
    assert judged.reason
    judged.model_dump_json()


@pytest.mark.parametrize("text", STRANGE)
def test_a_strange_text_is_no_crash_and_leaves_the_next_verdict_right(verifier, text):
    assert verdict(verifier, "18", text).status in ("rejected", "error")
    assert verdict(verifier, "18", "18").status == "accepted"
    assert verdict(verifier, "18", "19").status == "rejected"


@pytest.mark.parametrize("text", NEVER_ENDING)
def test_an_expression_without_end_is_an_error_that_costs_one_worker(text):
    verifier = math_answer(seconds=4.0, workers=1)  # which the right answers have, too
    try:
        assert verdict(verifier, "18", "18").status == "accepted"
        judged = verdict(verifier, "18", text)
        assert judged.status == "error"
        assert judged.reason.startswith("not compared within 4 s: ")
        assert text[len(r"\boxed{") : -1][:12] in judged.reason.replace("\\\\", "\\")
        assert len(judged.reason) < 300
        assert verifier._pool.pids() == ()
        assert verdict(verifier, "18", "18").status == "accepted"
    finally:
        verifier.close()


@pytest.mark.parametrize("form", [r"\boxed{{{}}}", "The answer is ${}$.", "So the whole of it is ${}$"])
def test_what_math_verify_swallows_is_an_error_and_no_rejection(verifier, form):
    nested = r"\frac{1}{" * 300 + "2" + "}" * 300
    for _ in range(3):
        judged = verdict(verifier, "18", form.format(nested))
        assert judged.status == "error"
        assert "RecursionError" in judged.reason


def test_a_dead_worker_is_no_rejection(monkeypatch):
    verifier = math_answer(workers=1)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    judged = verdict(verifier, "18", "the answer is 18")
    assert judged.status == "error"
    assert "two workers failed" in judged.reason


def test_of_a_runaway_text_the_end_is_judged(verifier):
    noise = "so x " * 210_000
    assert verdict(verifier, "18", noise + r"\boxed{18}").status == "accepted"
    assert verdict(verifier, "18", r"\boxed{18}" + noise).status == "rejected"
    assert verdict(verifier, "18", r"\boxed{18}" + noise[:500_000]).status == "accepted"


def test_many_threads_get_the_verdicts_of_their_own_texts(verifier):
    texts = [f"The answer is {n % 7}." for n in range(80)]
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda text: verdict(verifier, "3", text), texts))
    assert [judged.answer for judged in found] == [str(n % 7) for n in range(80)]
    assert [judged.status == "accepted" for judged in found] == [n % 7 == 3 for n in range(80)]


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_a_copy_has_the_settings_and_workers_of_its_own(verifier, copied):
    verdict(verifier, "18", "18")
    other = copied(verifier)
    try:
        assert other == verifier
        assert asdict(other) == {"seconds": 20.0, "workers": 2}
        assert other._pool is not verifier._pool
        assert other._pool.pids() == ()
        assert verdict(other, "18", "18").status == "accepted"
    finally:
        other.close()


def test_after_close_no_process_is_left_and_a_call_starts_a_new_one():
    verifier = math_answer(workers=1)
    verdict(verifier, "18", "18")
    (pid,) = verifier._pool.pids()
    verifier.close()
    verifier.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert verdict(verifier, "18", "18").status == "accepted"
    verifier.close()


@pytest.mark.parametrize("settings", [{"seconds": 0}, {"seconds": float("inf")}, {"workers": 0}])
def test_limits_without_sense_are_refused(settings):
    with pytest.raises(UsageError):
        math_answer(**settings)


def test_a_script_without_a_main_guard_runs_once(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from led_agent.types import Branch, Problem\n"
        "from led_agent.verifiers import math_answer\n"
        "print('begun')\n"
        "print(math_answer()(Problem(prompt='1+1', answer='2'), Branch(text='2')).status)\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=100)
    assert (done.stdout, done.stderr) == ("begun\naccepted\n", "")


def test_importing_the_verifiers_is_light():
    heavy = "{'torch', 'ray', 'sympy', 'math_verify', 'regex'}"
    code = f"import led_agent.verifiers, sys; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=True)
    assert done.stdout == "[]\n"


def test_feedback_says_what_was_found_and_never_what_was_expected(verifier):
    wrong = verifier(Problem(prompt="?", answer="18"), Branch(text="The answer is 19."))
    assert wrong.feedback == "the final answer reads 19, and that is wrong"
    nested = "(" * 300 + "18" + ")" * 300
    choked = verifier(Problem(prompt="?", answer=nested), Branch(text=r"\boxed{19}"))
    assert (choked.status, choked.feedback) == ("error", "the final answer was not compared")
