"""Tests in Python source, as people and models write them, against right and wrong programs in the sandbox."""

# ruff: noqa: ISC004 - rows of programs, which would be two lines longer each in parentheses

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from typing import Any

import pytest

from led_agent.types import Branch, Problem, Verdict
from led_agent.verifiers import UnitTests, unit_tests
from led_agent.verifiers.sandbox import pool

ADD = "def add(a, b): return a + b"
SUB = "def add(a, b): return a - b"
STACK = """
    class EmptyStack(IndexError): pass
    class Stack:
        LIMIT = 9
        def __init__(self, items=()): self.items = list(items)
        def push(self, x): self.items.append(x)
        def pop(self):
            if not self.items: raise EmptyStack("empty")
            return self.items.pop()
        def __len__(self): return len(self.items)
        def __getitem__(self, at): return self.items[at]
        def __iter__(self): return iter(self.items)
        def __eq__(self, other): return True
        def __lt__(self, other): return True
        @classmethod
        def of(cls, *items): return cls(items)
"""
QUIET = "def f(x):\n    if x < 0: raise ValueError('below 0')\n    return x"
LOUD = "def f(x): return x"


@pytest.fixture(scope="module", params=[False, True], ids=["whole", "partial"])
def verifier(request: pytest.FixtureRequest) -> Iterator[UnitTests]:
    # Time is not what these are about, and cores may be short.
    verifier = unit_tests(workers=1, partial=request.param, timeout=60.0)
    yield verifier
    verifier.close()


def judge(verifier: UnitTests, code: str, tests: str, entry: str | None = None, **more: Any) -> Verdict:
    problem = Problem(prompt=more.pop("prompt", "?"), tests=textwrap.dedent(tests), entry_point=entry, **more)
    return verifier(problem, Branch(text=f"```python\n{textwrap.dedent(code)}\n```"))


# Right program, wrong program, tests.
PAIRS = [
    (ADD, SUB, "assert add(1, 2) == 3"),
    (ADD, SUB, "def check(candidate):\n    for n in range(9):\n        assert candidate(n, 1) == n + 1\ncheck(add)"),
    (ADD, SUB, "from solution import add\ndef test_add():\n    assert add(1, 2) == 3"),
    (ADD, SUB, "import solution\nassert solution.add(1, 2) == 3"),
    (ADD, SUB, "import random\nfor _ in range(9):\n    a = random.random()\n    assert add(a, 1) == a + 1"),
    (ADD, SUB, "def close(a, b): return abs(a - b) < 1e-6\nassert close(add(0.1, 0.2), 0.3), 'not close'"),
    (ADD, SUB, "assert 2 < add(1, 2) <= 3"),
    (ADD, SUB, "assert add(1, 2) in (3, 4)"),
    (ADD, SUB, "assert not add(1, -1)"),
    (ADD, SUB, "assert (got := add(1, 2)) == 3, f'got {got}'"),
    (ADD, SUB, "assert add(*[1], **{'b': 2}) is not None and add(a=1, b=2) == 3"),
    (ADD, SUB, "if __name__ == '__main__':\n    assert add(1, 2) == 3"),
    (ADD, SUB, "class TestAdd:\n    def setup_method(self): self.x = 1\n"
     "    def test_one(self): assert add(self.x, 2) == 3"),
    (ADD, SUB, "import pytest\n@pytest.mark.parametrize('a, b, c', [(1, 2, 3), (0, 0, 0)], ids=['x', 'y'])\n"
     "def test(a, b, c):\n    assert add(a, b) == c"),
    (ADD, SUB, "import pytest\ndef test():\n    assert add(0.1, 0.2) == pytest.approx(0.3)"),
    (ADD, SUB, "import sys, pytest\ndef test(): assert add(1, 2) == 3\n"
     "if __name__ == '__main__':\n    sys.exit(pytest.main([__file__]) if 0 else pytest.main())"),
    (ADD, SUB, """
    import unittest
    class TestAdd(unittest.TestCase):
        @classmethod
        def setUpClass(cls): cls.one = 1
        def setUp(self): self.two = 2
        def test_sub(self):
            for n in range(3):
                with self.subTest(n=n):
                    self.assertEqual(add(n, self.two), n + 2)
        def test_assert(self): assert add(self.one, 2) == 3
        @unittest.skip("not now")
        def test_skipped(self): self.fail()
    unittest.main()
    """),
    (QUIET, LOUD, "try:\n    f(-1)\n    assert False, 'no error'\nexcept ValueError:\n    pass"),
    (QUIET, LOUD, "import pytest\nwith pytest.raises(ValueError, match='below'):\n    f(-1)"),
    (QUIET, LOUD, "import unittest\nclass T(unittest.TestCase):\n    def test(self):\n"
     "        with self.assertRaises(ValueError): f(-1)"),
    ("class Bad(ValueError): pass\ndef f(x): raise Bad('no')", LOUD, "import pytest\npytest.raises(ValueError, f, 1)"),
    ("class Bad(Exception): pass\ndef f(x): raise Bad('no')", "class Bad(Exception): pass\ndef f(x): return 1",
     "from solution import Bad, f\ntry:\n    f(1)\nexcept Bad as error:\n    assert str(error) == 'no'\n"
     "else:\n    assert False"),
    ("def f(x): x.sort()", "def f(x): pass", "x = [2, 1]\nassert f(x) is None\nassert x == [1, 2]"),
    ("def f(x): return {k: 1 for k in x}", "def f(x): return {k: 1 for k in sorted(x)}",
     "assert list(f('ba')) == ['b', 'a']"),
    ("def f(x):\n    yield from range(x)", "def f(x):\n    yield x", "assert list(f(3)) == [0, 1, 2]"),
    ("def f(x): return -0.0", "def f(x): return 0.0", "assert str(f(1)) == '-0.0'"),
    ("import datetime\ndef f(d): return d + datetime.timedelta(1)", "def f(d): return d",
     "from datetime import date\nassert f(date(2024, 2, 28)) == date(2024, 2, 29)"),
    ("class Solution:\n    def two(self, x): return x * 2", "class Solution:\n    def two(self, x): return x",
     "assert Solution().two(2) == 4"),
    ("class Solution:\n    def two(self, x): return x * 2", "class Solution:\n    def two(self, x): return x",
     "assert two(2) == 4"),
    (STACK, STACK.replace("append(x)", "append(0)"), """
    s = Stack()
    s.push(1); s.push(2)
    assert len(s) == 2 and s[0] == 1 and list(s) == [1, 2] and s.items == [1, 2]
    assert Stack.LIMIT == 9
    t = Stack.of(1, 2)
    assert t.pop() == 2
    """),
    (STACK, STACK.replace("raise", "return"), "import pytest\nfrom solution import Stack, EmptyStack\n"
     "with pytest.raises(EmptyStack):\n    Stack().pop()"),
    ("def sum(x): return x + 1", "def sum(x): return x", "assert sum(1) == 2"),
    ("def f(x): return [n for n in x]", "def f(x): return []", "x = list(range(100_000))\nassert f(x) == x"),
]  # fmt: skip


@pytest.mark.parametrize(("right", "wrong", "tests"), PAIRS, ids=range(len(PAIRS)))
def test_the_right_program_is_accepted_and_the_wrong_one_rejected(verifier, right, wrong, tests):
    good, bad = judge(verifier, right, tests), judge(verifier, wrong, tests)
    assert (good.status, bad.status) == ("accepted", "rejected"), f"{good.reason}\n{bad.reason}"


# What has a name in the verdict: program, tests, status, part of the reason.
TOLD = [
    (SUB, "assert add(1, 2) == 3, 'sum'", "rejected", "assert add(1, 2) == 3 (sum): got -1, expected 3 (0 of 1"),
    (SUB, "assert sorted([add(1, 2)]) != [-1]", "rejected", "got [-1], expected != [-1]"),
    ("def add(a, b): return a / 0", "assert add(1, 2) == 3", "rejected", "raised ZeroDivisionError: division by zero"),
    ("x = 1", "assert add(1, 2) == 3", "rejected", "the program defines no function add"),
    ("import os\ndef add(a, b): os._exit(0)", "try:\n    add(1, 2)\nexcept:\n    pass", "rejected", "during test 1"),
    ("def f(g): return g(1)", "assert f(lambda x: x) == 1", "abstained", "the tests pass a function to f"),
    ("def f(g): return g(1)\ndef h(x): return x", "assert f(h) == 1", "abstained", "a function of the program's"),
    (STACK, "assert Stack() == Stack()", "abstained", "compare two objects"),
    (STACK, "assert Stack() < 3", "abstained", "order objects"),
    (STACK, "assert isinstance(Stack(), Stack)", "abstained", "ask for instances of Stack"),
    (STACK, "try:\n    assert Stack() == Stack()\nexcept:\n    pass", "abstained", "compare two objects"),
    (STACK, "import unittest\nclass T(unittest.TestCase):\n    def test(self): self.assertEqual(Stack(), Stack())",
     "abstained", "compare two objects"),
    (ADD, "def test_add(tmp_path): assert add(1, 2) == 3", "abstained", "asks for the fixtures tmp_path"),
    (ADD, "import pytest\n@pytest.fixture\ndef one(): return 1", "abstained", "pytest.fixture"),
    (ADD, "import pytest\n@pytest.mark.slow\ndef test(): assert add(1, 2) == 3", "abstained", "pytest.mark.slow"),
    (ADD, "assert 1 + 2 == 3\ndef helper(): return add(1, 2)", "error", "test nothing"),
    ("def f(): return []", "for x in f():\n    assert x == 1", "rejected", "none of the 1 asserts was reached"),
    (ADD, "import unittest\nclass T(unittest.TestCase):\n    def test(self): self.assertEqual([add(1, 2)], [4])",
     "rejected", "T.test: AssertionError: Lists differ: [3] != [4]"),
    ("def f(x): return 'x' * (1 << 21)", "assert f(1) == 1", "rejected", "returned a value of more than 1048576 bytes"),
]  # fmt: skip


@pytest.mark.parametrize(("code", "tests", "status", "told"), TOLD, ids=range(len(TOLD)))
def test_what_the_verdict_says(verifier, code, tests, status, told):
    verdict = judge(verifier, code, tests)
    assert (verdict.status, told in verdict.reason) == (status, True), verdict.reason


def test_an_assert_that_the_tests_catch_is_theirs(verifier):
    tests = (
        "try:\n    assert add(1, 2) == 4\nexcept AssertionError:\n    caught = True\nassert caught and add(1, 1) == 2"
    )
    assert judge(verifier, ADD, tests).status == "accepted"
    again = "try:\n    assert add(1, 2) == 4\nexcept AssertionError:\n    raise"
    verdict = judge(verifier, ADD, again)
    assert (verdict.status, "got 3, expected 4" in verdict.reason) == ("rejected", True)


HUMAN_EVAL = '''from typing import List

def encode(text: str) -> str:
    """A helper of the prompt's."""
    return text[::-1]

def decode(text: str) -> str:
    """The inverse of encode."""
'''


def test_a_prompt_gives_its_imports_and_helpers_to_program_and_tests(verifier):
    tests = "def check(candidate):\n    for text in ('ab', 'c'):\n        assert candidate(encode(text)) == text"
    for text, status in {
        "    return text[::-1]\n": "accepted",
        "return text[::-1]": "accepted",
        "    return text\n": "rejected",
        "```python\ndef decode(text):\n    return encode(text)\n```": "accepted",
        "```python\ndef decode(x: List[str] = List[str]):\n    return encode(x)\n```": "accepted",
        "```python\n    return text[::-1]\n```": "accepted",
        "```python\ndef encode(text): return text\ndef decode(text): return text\n```": "rejected",
    }.items():
        verdict = verifier(Problem(prompt=HUMAN_EVAL, tests=tests, entry_point="decode"), Branch(text=text))
        assert verdict.status == status, (text, verdict.reason)


def test_the_stub_in_a_prompt_is_not_what_is_tested(verifier):
    prompt = 'Complete this:\n```python\ndef add(a, b):\n    """The sum."""\n    pass\n```'
    for code, status in ((ADD, "accepted"), (SUB, "rejected")):
        assert judge(verifier, code, "assert add(1, 2) == 3", prompt=prompt).status == status


def test_only_the_tests_own_account_counts():
    nonce = "0123456789abcdef" * 2
    told = json.dumps({"nonce": nonce, "passed": 1}).encode() + b"\n"
    assert pool._account(told, nonce) == {"nonce": nonce, "passed": 1}
    forged = [b"", told[:-1], told + told, b'{"passed": 1}\n', b"1\n", b"no JSON\n", told + b"{}\n"]
    for result in [*forged, told.replace(nonce.encode(), b"f" * 32), told.replace(b"012", b"\xff\xff\xff")]:
        assert pool._account(result, nonce) is None, result
