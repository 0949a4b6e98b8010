r"""Each kind of answer: how it may be written, and what looks like it and is another one."""

from __future__ import annotations

import pytest

from led_agent.types import Branch, Problem
from led_agent.verifiers import math_answer

# Kind: reference, what equals it, what doesn't. All of it stands in \boxed{…}.
KINDS: dict[str, list[tuple[str, list[str], list[str]]]] = {
    "numbers": [
        ("-7", ["-7", "−7", "-7.0", r"-\frac{14}{2}", "{-7}", "-7."], ["7", "-7.1", "-70", "--7"]),
        (
            "1234567",
            ["1,234,567", "1 234 567", r"1{,}234{,}567", r"1\,234\,567", "1.234567e6"],
            ["1,234,568", "123456"],
        ),
        ("0.25", ["1/4", ".25", "0.250", r"2.5 \times 10^{-1}", r"\frac14"], ["0.26", "25", "0.025", "1/5"]),
        ("10^{20}", ["100000000000000000000", "1e20"], ["10^{21}", "1020"]),
    ],
    "fractions and mixed numbers": [
        (
            r"\frac{14}{3}",
            ["14/3", r"\dfrac{28}{6}", r"4\frac{2}{3}", "4 2/3", "4⅔", r"4+\frac23"],
            ["3/14", "4.67", "4 1/3"],
        ),
        (r"-\frac{1}{2}", [r"\frac{-1}{2}", r"\frac{1}{-2}", "-0.5", "-½"], [r"\frac12", "-2", "-1/3"]),
        (r"\frac{\sqrt{3}}{2}", [r"\sqrt{3}/2", r"\sqrt{\frac{3}{4}}", "√3/2"], [r"\frac{3}{2}", r"\frac{\sqrt 2}{2}"]),
    ],
    "percentages": [
        (r"50\%", [r"50\%", "50%", "50 percent", "50"], ["5%", "51%", r"500\%"]),
        ("12.5\\%", ["12.5%", r"\frac{25}{2}\%", "12.50 percent"], ["12%", "125%"]),
    ],
    "units": [
        (
            "18",
            [r"18\text{ cm}", "18 cm", r"18~\text{meters}", r"18\ \mathrm{km/h}", "18 square feet", r"\$18"],
            ["81 cm", "1.8 cm"],
        ),
        (r"5\text{ cm}^2", ["5", r"5\text{ cm}^2", r"5\,\mathrm{cm}^2"], ["6", "25"]),
        (r"\$3.50", ["3.5", "$3.50", "3.50 dollars"], ["35", "3.05"]),
    ],
    "degrees": [
        (r"30^\circ", ["30°", "30", r"30^{\circ}", r"30\text{ degrees}"], ["60°", "3", r"31^\circ"]),
    ],
    "tuples": [
        (
            "(1,-2)",
            ["( 1, -2 )", r"\left(1,-2\right)", "(1.0, -2)", r"(\frac22,-2)"],
            ["(-2,1)", "(1,2)", "(1,-2,0)", "1"],
        ),
        (r"(\frac12, \pi, 0)", [r"(0.5, \pi, 0)", "(1/2, π, 0)"], [r"(\frac12, 0, \pi)", r"(\frac12, \pi)"]),
    ],
    "intervals": [
        ("[0,1)", [r"\left[0,1\right)", "[0, 1)", r"x \in [0,1)"], ["(0,1]", "[0,1]", "(0,1)", "[0,2)"]),
        (
            r"(-\infty,2)\cup(3,\infty)",
            [r"(3,\infty)\cup(-\infty,2)", "(-∞,2) ∪ (3,∞)"],
            [r"(-\infty,2]\cup(3,\infty)", r"(-\infty,3)"],
        ),
        (r"[-2,7]", [r"-2 \le x \le 7", r"x\in[-2,7]"], [r"-2 < x < 7", "[-2,8]", "(-2,7)"]),
    ],
    "sets": [
        (
            r"\{1,2,3\}",
            [r"\{3,1,2\}", r"\left\{1, 2, 3\right\}"],
            [r"\{1,2\}", r"\{1,2,4\}", r"\{1,2,3,4\}", "(1,2,3)"],
        ),
        (r"\emptyset", ["∅", r"\emptyset", r"\varnothing", r"\{\}"], [r"\{0\}", "0"]),
    ],
    "several answers": [
        ("1,-2", ["-2, 1", "1 and -2", r"x=1, x=-2", r"1 \text{ or } -2", r"\{1,-2\}"], ["1,2", "1", "-2", "1,-2,3"]),
        ("3, 5, 7", ["3,5,7", "7, 5, 3", "3, 5, and 7"], ["3, 5", "3, 5, 8"]),
    ],
    "plus or minus": [
        (
            r"1 \pm \sqrt{19}",
            [r"1\pm\sqrt{19}", r"1+\sqrt{19}, 1-\sqrt{19}"],
            [r"1+\sqrt{19}", r"1\pm\sqrt{17}", r"\pm\sqrt{19}"],
        ),
        (r"\pm 3", ["3,-3", r"\pm3", "-3, 3"], ["3", "-3", r"\pm 4"]),
    ],
    "matrices": [
        (
            r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}",
            [r"\begin{bmatrix}1&2\\3&4\end{bmatrix}", r"\begin{pmatrix} 1.0 & \frac{4}{2} \\ 3 & 4 \end{pmatrix}"],
            [
                r"\begin{pmatrix} 1 & 3 \\ 2 & 4 \end{pmatrix}",
                r"\begin{pmatrix} 1 & 2 & 3 & 4 \end{pmatrix}",
                "1,2,3,4",
            ],
        ),
        (
            r"\begin{pmatrix} 1/5 \\ -18/5 \end{pmatrix}",
            [r"\begin{pmatrix} 0.2 \\ -3.6 \end{pmatrix}", r"\begin{pmatrix}\frac15\\-\frac{18}5\end{pmatrix}"],
            [r"\begin{pmatrix} -18/5 \\ 1/5 \end{pmatrix}", r"\begin{pmatrix} 1/5 \\ 18/5 \end{pmatrix}"],
        ),
    ],
    "expressions": [
        ("x^2-1", ["(x-1)(x+1)", "-1+x^2", "x^2 - 1", "x**2-1"], ["x^2+1", "1-x^2", "y^2-1", "x^2"]),
        (r"11\sqrt2", [r"11\sqrt{2}", r"\sqrt{242}"], [r"11\sqrt3", "11", r"2\sqrt{11}"]),
        (r"e^{2\pi}", [r"e^{2 \pi}", r"(e^{\pi})^2"], [r"e^{\pi}", r"2e^\pi"]),
        (r"\log_2 3", [r"\log_{2}{3}", r"\frac{\ln 3}{\ln 2}"], [r"\log_3 2", r"\log 3"]),
    ],
    "equations": [
        ("x = 5", ["5", "x=5", r"x = \frac{10}{2}"], ["x=6", "x=-5", "50"]),
        ("y = 2x + 3", ["y=2x+3", "y = 3 + 2x", "2x+3"], ["y=2x-3", "y=3x+2", "y = 2x"]),
        ("x^2 + y^2 = 4", ["y^2 + x^2 = 4", "x^2+y^2-4=0"], ["x^2 + y^2 = 2", "x^2 - y^2 = 4"]),
    ],
    "inequalities": [
        (r"(2,\infty)", ["x > 2", "2 < x"], [r"x \ge 2", "x < 2", "x > 3"]),
        ("x > 2", [r"x>2", r"2 < x", r"x \gt 2", r"(2,\infty)"], [r"x < 2", r"x \ge 2", "x > 3"]),
    ],
    "complex numbers": [
        ("6+9i", ["9i+6", "6 + 9i", "3(2+3i)"], ["6-9i", "9+6i", "6", "9i"]),
        ("-i", ["-i", "−i", "0-i"], ["i", "1", "-1"]),
    ],
    "other bases": [
        ("2516_8", ["2516_8", "2516_{8}", "2516"], ["2516_7", "2517_8", "1358"]),
        ("101_2", ["101_{2}"], ["101_3", "100_2", "5_2"]),
    ],
    "words": [
        (
            "Evelyn",
            ["Evelyn", r"\text{Evelyn}", "evelyn", r"\textbf{Evelyn}", '"Evelyn"'],
            ["Evelyne", "Angela", "Eve"],
        ),
        (r"\text{even}", ["even", "Even", r"\text{ even }"], ["odd", "uneven", r"\text{odd}"]),
        (r"\text{(C)}", ["C", "(C)", r"\textbf{(C)}", r"\text{C}"], ["B", "(D)", "CC"]),
        ("yes", ["Yes", r"\text{yes}"], ["no", "eyes"]),
    ],
    "times and ratios": [
        ("12:30", ["12:30", r"12\!:\!30"], ["12:31", "30:12", "1230"]),
        ("3:2", ["3:2", "3 : 2"], ["2:3", "3:4"]),
    ],
}

RIGHT = [(kind, gold, text) for kind, rows in KINDS.items() for gold, right, _ in rows for text in right]
WRONG = [(kind, gold, text) for kind, rows in KINDS.items() for gold, _, wrong in rows for text in wrong]


@pytest.fixture(scope="module")
def verdicts():
    """Every pair's verdict, judged together."""
    verifier = math_answer(seconds=30.0, workers=2)
    pairs = [(gold, text) for _, gold, text in RIGHT + WRONG]
    asked = [(Problem(prompt="?", answer=gold), Branch(text=rf"So \boxed{{{text}}}.")) for gold, text in pairs]
    judged = dict(zip(pairs, verifier.batch(asked), strict=True))
    verifier.close()
    return judged


@pytest.mark.parametrize(("kind", "gold", "text"), RIGHT)
def test_an_equal_answer_of_each_kind_is_accepted(verdicts, kind, gold, text):
    assert verdicts[gold, text].status == "accepted", (kind, verdicts[gold, text].reason)


@pytest.mark.parametrize(("kind", "gold", "text"), WRONG)
def test_another_answer_of_each_kind_is_rejected(verdicts, kind, gold, text):
    assert verdicts[gold, text].status == "rejected", (kind, verdicts[gold, text].reason)
