"""A pattern is looked for in the final text only, and one that never ends is an error."""

from __future__ import annotations

import pickle
import re
from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from led_agent.errors import UsageError
from led_agent.types import Branch, Problem, Verdict
from led_agent.verifiers import Matches, matches


def verdict(verifier: Matches, text: str) -> Verdict:
    return verifier(Problem(prompt="?"), Branch(text=text))


@pytest.mark.parametrize(
    ("pattern", "flags", "text", "status"),
    [
        (r"\d+", 0, "I see 12 of them", "accepted"),
        (r"^\d+$", 0, "I see 12 of them", "rejected"),
        (r"^\d+$", re.MULTILINE, "I see\n12\nof them", "accepted"),
        ("yes", 0, "YES", "rejected"),
        ("yes", re.IGNORECASE, "YES", "accepted"),
        ("yes", 0, "<think>yes</think>no", "rejected"),
        ("yes", 0, "<think>no</think>yes", "accepted"),
        ("yes", 0, "", "rejected"),
    ],
)
def test_the_final_text_is_searched(pattern, flags, text, status):
    judged = verdict(matches(pattern, flags=flags), text)
    assert (judged.status, judged.verifier) == (status, "matches")
    assert pattern in judged.reason.replace("\\\\", "\\")
    assert "final text" in judged.reason


@given(st.text(max_size=30), st.text(max_size=10))
def test_it_finds_what_is_there_and_nothing_else(text, part):
    expected = "accepted" if part in text.rpartition("</think>")[2] else "rejected"
    assert verdict(matches(re.escape(part)), text).status == expected


def test_a_search_without_end_is_an_error_and_the_next_verdict_is_right():
    verifier = matches(r"(x+x+)+y", seconds=0.5)
    judged = verdict(verifier, "x" * 5_000)
    assert (judged.status, judged.score) == ("error", 0.0)
    assert "0.5 s" in judged.reason
    assert verdict(verifier, "xxy").status == "accepted"


@pytest.mark.parametrize(("pattern", "position"), [("(", 1), ("[z-a]", 4), ("a\n(b", 4), ("*", 0)])
def test_a_bad_pattern_is_refused_with_its_position(pattern, position):
    with pytest.raises(UsageError, match=f"position {position}") as caught:
        matches(pattern)
    assert repr(pattern) in str(caught.value)


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf")])
def test_a_time_limit_without_sense_is_refused(seconds):
    with pytest.raises(UsageError, match="seconds"):
        matches("x", seconds=seconds)


def test_only_text_is_a_pattern():
    with pytest.raises(UsageError, match="bytes"):
        matches(b"x")


def test_a_pickled_copy_is_equal_and_works():
    verifier = matches("YES$", flags=re.IGNORECASE | re.MULTILINE, seconds=2.0)
    other = pickle.loads(pickle.dumps(verifier))
    assert other == verifier
    assert asdict(other) == {"pattern": "YES$", "flags": re.IGNORECASE | re.MULTILINE, "seconds": 2.0}
    assert verdict(other, "yes\nno").status == "accepted"
