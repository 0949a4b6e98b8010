r"""Where the answer stands in a text: \boxed{}, "####", "answer is", the last number; and no text is too odd."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from led_agent.answers import after_thinking, boxed, final_answer


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r"\boxed{42}", "42"),
        (r"so $\boxed{ \frac{1}{2} }$.", r"\frac{1}{2}"),
        (r"\boxed{1} no, \boxed{2}", "2"),
        (r"\boxed{a{b{c}}d}} }", "a{b{c}}d"),
        (r"\boxed{\boxed{3}}", "3"),
        ("\\boxed{x\ny}", "x\ny"),
        (r"\boxed{}", ""),
        (r"\boxed{12", None),
        (r"\boxed{\frac{1}{2}", None),
        (r"\boxed 12", None),
        ("boxed{12}", None),
        ("12", None),
        ("", None),
    ],
)
def test_the_content_of_the_last_box(text: str, content: str | None) -> None:
    assert boxed(text) == content


@given(inside=st.text(alphabet="ab12 +").map(str.strip), depth=st.integers(0, 5), before=st.text(alphabet="xyz{}"))
@settings(deadline=None)
def test_a_box_is_read_to_its_own_brace(inside: str, depth: int, before: str) -> None:
    content = "{" * depth + inside + "}" * depth
    assert boxed(before + r"\boxed{" + content + "} and so on}") == content


@pytest.mark.parametrize(
    ("text", "rest"),
    [
        ("<think>a</think>b", "b"),
        ("<think>a</think>b<think>c</think>d", "d"),
        ("<think>a", "<think>a"),
        ("a", "a"),
        ("a</think>", ""),
    ],
)
def test_what_follows_the_thinking(text: str, rest: str) -> None:
    assert after_thinking(text) == rest


def test_the_closing_tag_may_be_another() -> None:
    assert after_thinking("a[/INST]b</think>", close="[/INST]") == "b</think>"


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        # a box goes before everything else
        (r"The answer is 5. \boxed{7} and 9", "7"),
        (r"\boxed{x^2+1}", "x^2+1"),
        (r"\boxed{12 … the answer is 5", "5"),
        # then a mark
        ("1 + 2 = 3\n#### 3", "3"),
        ("#### 3\n#### 4 apples", "4"),
        ("The answer is 12.", "12"),
        ("the final answer: 12\nI checked 3 times", "12"),
        ("ANSWER = -3", "-3"),
        ("Answer: 3/4", "3/4"),
        ("Answer: 3 / 4", "3 / 4"),
        ("the answer is 50%", "50%"),
        ("The answer is $1,234,567.", "1,234,567"),
        ("The answer is 1,234.50 dollars", "1,234.50"),
        ("The answer is .5", ".5"),
        ("The answer is 3 + 4 = 7", "7"),
        ("The answer is **12**", "12"),
        ("The answer is:\n\n12", "12"),
        ("The answer is blue.", "blue"),
        ("answer is A\nanswer is B", "B"),
        # then the last number
        ("I had 3, gave 1 and kept 2.", "2"),
        ("It is 1,000, I think.", "1,000"),
        ("x = -7", "-7"),
        ("about 3.14", "3.14"),
        # what was only thought does not count
        ("<think>the answer is 5</think>It is 6.", "6"),
        (r"<think>\boxed{5}</think>6", "6"),
        ("<think>5</think>", None),
        ("<think>5", "5"),
        # nothing
        ("no idea", None),
        ("the answer is", None),
        ("answer:   ", None),
        ("", None),
    ],
)
def test_the_final_answer(text: str, answer: str | None) -> None:
    assert final_answer(text) == answer


PIECES = st.sampled_from(
    [
        r"\boxed{",
        "}",
        "{",
        "####",
        "answer is",
        "Answer:",
        "final answer",
        "</think>",
        "<think>",
        "12",
        "1,2",
        "3/4",
        "-",
        ".",
        ",",
        "%",
        "=",
        "\n",
        " ",
        "$",
        "٣",
        "\x00",
        "𝟜",
        "\ud800",
    ]
)


@given(text=st.text() | st.lists(PIECES, max_size=12).map("".join))
@example(text="####; .")
@settings(deadline=None, max_examples=300)
def test_every_text_has_an_answer_or_none(text: str) -> None:
    answer = final_answer(text)
    assert answer is None or (answer == answer.strip() and answer in text)
    assert boxed(text) is None or r"\boxed{" in text
    assert text.endswith(after_thinking(text))


@given(number=st.integers(-(10**12), 10**12), words=st.text(alphabet="abc .\n", max_size=20))
@settings(deadline=None)
def test_a_number_is_found_however_it_is_announced(number: int, words: str) -> None:
    for written in (str(number), f"{number:,}"):
        for form in (r"\boxed{%s}", "#### %s", "The answer is %s.", "so it comes to %s"):
            assert final_answer(f"{words}\n" + form % written) == written


def test_an_announcement_followed_by_endless_blank_lines_is_read_in_one_go() -> None:
    """A model that runs on in newlines is common; a pattern that goes back over them is quadratic and would hang."""
    assert final_answer("it is 7, the answer is" + "\n" * 300_000) == "7"
    assert final_answer("####" + " " * 300_000) is None
