"""Tests as they are given: what is taken, and what is refused with which words."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from led_agent.errors import UsageError
from led_agent.types import Problem
from led_agent.verifiers import cases
from led_agent.verifiers.cases import CallCase, Cases, StdinCase, read_tests


def read(tests: Any, entry: str | None = "f") -> Cases | cases.TestSource | None:
    return read_tests(Problem(prompt="?", tests=tests, entry_point=entry))


def case(**fields: Any) -> CallCase:
    found = read([fields])
    assert isinstance(found, Cases)
    assert isinstance(found.cases[0], CallCase)
    return found.cases[0]


@pytest.mark.parametrize("tests", [None, "", "  \n", [], ()])
def test_no_tests_are_none(tests):
    assert read(tests) is None


REFUSED = [
    ([{"args": [1], "expect": 1}, {"stdin": "", "stdout": ""}], "f", "mix calls and inputs.*all cases are"),
    ([{"args": [1], "expect": 1}], None, "no entry_point says of which function; give Problem"),
    ([{"args": [1]}], "f", "test 1: give either expect.*or raises"),
    ([{"expect": 1}, {"expect": 1, "raises": "ValueError"}], "f", "test 2: give either expect"),
    ([{"args": [1], "expected": 1}], "f", r"test 1: 'expected' is no part of a case; allowed are \['args'"),
    ([{"stdin": "", "stdout": "", "args": []}], "f", "test 1: 'args' is no part of a case; allowed are .*'stdin'"),
    ([{"args": 1, "expect": 1}], "f", "args is a list and kwargs an object; found 1"),
    ([{"args": "ab", "expect": 1}], "f", "args is a list .*found 'ab'"),
    ([{"args": b"ab", "expect": 1}], "f", "args is a list"),
    ([{"kwargs": [1], "expect": 1}], "f", "kwargs an object"),
    ([{"raises": ValueError}], "f", "the name of an exception is allowed, e.g. 'ValueError'"),
    ([{"expect": object()}], "f", "test 1: expect holds <object: <object .*plain values are allowed"),
    ([{"expect": [{"a": print}]}], "f", "expect holds"),
    ([{"expect": iter([1])}], "f", "expect holds <1>"),
    ([{"args": [lambda: 1], "expect": 1}], "f", "args holds <function"),
    ([{"kwargs": {"x": [object]}, "expect": 1}], "f", "kwargs holds"),
    ([{"expect": 1, "tolerance": -1}], "f", "test 1: tolerance is -1; a number of at least 0 is allowed, e.g. 1e-6"),
    ([{"expect": 1, "tolerance": "x"}], "f", "tolerance is 'x'"),
    ([{"expect": 1, "tolerance": True}], "f", "tolerance is True"),
    ([{"expect": 1, "tolerance": float("nan")}], "f", "tolerance is nan"),
    ([{"stdin": 1, "stdout": ""}], None, "stdin and stdout are strings; found 1 and ''"),
    ([{"stdin": "1"}], None, "stdin and stdout are strings; found '1' and None"),
    ("assert f(1) ==\nassert f(", "f", "tests are no Python, line 1: invalid syntax"),
    ("x = 1\n  y = 2", "f", "tests are no Python, line 2: unexpected indent"),
    ("assert f(1)\0", "f", "tests are no Python.*null bytes"),
    ("def check(candidate):\n    assert candidate(1)", None, "no entry_point says which function that is"),
]  # fmt: skip


@pytest.mark.parametrize(("tests", "entry", "told"), REFUSED, ids=range(len(REFUSED)))
def test_what_cannot_be_run_is_refused_in_words(tests, entry, told):
    with pytest.raises(UsageError, match=told):
        read(tests, entry)


def test_a_value_too_deep_is_refused():
    value: object = 1
    for _ in range(31):
        value = [value]
    with pytest.raises(UsageError, match="test 1: a value nested deeper than 30"):
        read([{"expect": value}])


def test_calls_are_read_with_the_types_of_the_python_api():
    found = case(args=((1, 2), {3}), kwargs={"x": b"4"}, expect=Decimal("1.5"), tolerance=1)
    assert found.shown == "f((1, 2), {3}, x=b'4')"
    assert found.expect == ["n", "1.5"]
    assert (found.raises, found.tolerance) == (None, 1.0)
    assert case(raises="ValueError").raises == "ValueError"
    assert case(raises="IOError").raises == "OSError"
    assert case(raises="MyError").raises == "MyError"
    assert case(expect=None).expect is None
    assert len(case(args=["x" * 500] * 100, expect=1).shown) < 900


def test_inputs_are_read():
    found = read([{"stdin": "1\n", "stdout": "2"}, {"stdout": "", "tolerance": 0}], None)
    assert found == Cases((StdinCase("1\n", "2", None), StdinCase("", "", 0.0)))


@pytest.mark.parametrize(
    ("source", "entry", "names"),
    [
        ("assert f(1) == 2", None, ("f",)),
        ("assert sorted(f(1)) == [2]", None, ("f",)),
        ("from math import isclose\nassert isclose(f(1), 2)", None, ("f",)),
        ("from solution import f, g as h\nassert f(h(1))", None, ("f", "g")),
        ("def help(x): return x\nx = help(f(1))\nassert x", None, ("f",)),
        ("s = Stack()\nassert Stack.of(1)", None, ("Stack",)),
        ("def check(candidate):\n    assert candidate(1)", "f", ("f",)),
        ("def check(candidate):\n    assert candidate(1)\ncheck(f)", None, ("f",)),
        ("assert Solution().f(1)", "Solution.f", ("Solution", "Solution.f")),
    ],
)
def test_source_is_read_for_the_names_that_the_answer_must_define(source, entry, names):
    assert read(source, entry) == cases.TestSource(source, names)
