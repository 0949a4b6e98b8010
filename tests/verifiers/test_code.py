"""Where the program stands in an answer: shapes that models write, and texts that are written to keep a reader busy."""

from __future__ import annotations

import time

import pytest

from led_agent.verifiers.code import prelude_of, programs_in

F = "def f(x):\n    return x\n"
PROMPT = 'import math\n\ndef g(x):\n    return x + 1\n\ndef f(x):\n    """Twice x."""\n'


def first(text: str, names: tuple[str, ...] = ("f",), prompt: str = "") -> str:
    """The first reading that is Python, as the sandbox takes it."""
    for reading in programs_in(text, names, prompt):
        try:
            compile(reading, "<answer>", "exec")
        except (SyntaxError, ValueError):
            continue
        return reading.strip("\n") + "\n"
    return ""


SHAPES = {
    "fence": f"Sure!\n```python\n{F}```\nDone.",
    "bare fence": f"```\n{F}```",
    "tildes": f"~~~py\n{F}~~~",
    "info string": f'```python title="f.py" {{linenos}}\n{F}```',
    "capitals": f"```Python\n{F}```",
    "four ticks": f"````python\n{F}````",
    "unclosed": f"```python\n{F}",
    "list item": "1. So:\n\n   ```python\n   def f(x):\n       return x\n   ```\n",
    "windows": f"```python\n{F}```\n".replace("\n", "\r\n"),
    "usage after": f"```python\n{F}```\nFor example:\n```python\nprint(f(3))\n```",
    "output after": f"```python\n{F}```\nIt prints\n```\n3\n```",
    "other languages": f"```json\n{{}}\n```\n```python\n{F}```\n```bash\nf = 1\n```\n```text\ndef f(x): no\n```",
    "another language, for want of better": f"```text\n{F}```",
    "draft before": f"```python\ndef f(x):\n    return 0\n```\nBetter:\n```python\n{F}```",
    "thinking": f"<think>```python\ndef f(x): return 0\n```\n``` ```</think>```python\n{F}```",
    "no fence": F,
    "prose around": f"Here is the function:\n\n{F}\nThis returns its argument.\n",
    "example in a fence, code outside": f"{F}\n\n```\nf(3)\n```",
    "transcript": "```pycon\n>>> def f(x):\n...     return x\n...\n>>> f(1)\n1\n```",
    "loose transcript": ">>> def f(x):\n...     return x\n>>> f(1)\n1",
}


@pytest.mark.parametrize("shape", SHAPES)
def test_the_program_is_found_in_answers_of_every_shape(shape):
    found: dict[str, object] = {"__name__": "solution"}
    exec(first(SHAPES[shape]), found)
    assert found["f"](7) == 7  # type: ignore[operator]


def test_a_program_is_taken_as_it_is():
    for code in (
        "def f(x):\n\treturn x\n",
        'def f(x):\n    """As in\n\n    ```\n    f(1)\n    ```\n    """\n    return x\n',
        'f = lambda x: x\ntext = """\n```\n"""\n',
        "class Solution:\n    def f(self, x):\n        return x\n",
        "async def f(x):\n    return x\n",
        "f: object = print\n",
    ):
        assert first(f"So:\n```python\n{code}```\nDone.") == code


def test_helpers_in_blocks_before_come_along_and_usage_behind_does_not():
    answer = f"```python\nfrom math import gcd\ndef help(x): return gcd(x, 2)\n```\n```python\n{F}    help(x)\n```"
    assert first(answer).startswith("from math import gcd\ndef help")
    unneeded = f"```python\nprint(input())\n```\n```python\n{F}```\n```python\nf(1)\n```"
    assert first(unneeded) == F
    blocks = ("import math", "def a(): math.pi", "x = 0", "def f(): a()")
    chain = "\n".join(f"```python\n{block}\n```" for block in blocks)
    assert first(chain) == "import math\n\ndef a(): math.pi\n\ndef f(): a()\n"


def test_all_blocks_in_one_are_the_last_resort():
    answer = "```python\ndef f(x):\n```\nand its body:\n```python\n    return x\n```"
    assert first(answer) == "def f(x):\n\n    return x\n"


def test_a_script_is_the_block_that_reads():
    answer = "```python\nprint(int(input()))\n```\n```python\nassert True\n```\n```\n3\n```"
    assert first(answer, ()) == "print(int(input()))\n"
    assert first("print(int(input()))", ()) == "print(int(input()))\n"


@pytest.mark.parametrize(
    "answer",
    [
        "    return 2 * x",
        "return 2 * x",
        "\n    y = x\n    return y + x",
        "y = x\n    return y + x",
        "    return 2 * x\n\nThis doubles it.",
        "```python\n    return 2 * x\n```",
        "```python\nreturn 2 * x\n```",
        "```python\ndef f(x):\n    return 2 * x\n```",
    ],
)
@pytest.mark.parametrize("prompt", [PROMPT, f"Complete this:\n\n```python\n{PROMPT}```\n"])
def test_a_prompt_that_is_code_may_be_continued(prompt, answer):
    found: dict[str, object] = {}
    exec(first(answer, prompt=prompt), found)
    assert found["f"](4) == 8  # type: ignore[operator]


def test_a_prompt_gives_what_it_defines_and_not_what_it_asks_for():
    assert prelude_of(PROMPT, "f") == "import math\ndef g(x):\n    return x + 1" == prelude_of(PROMPT, None)
    assert prelude_of("class A:\n\n    def f(self):\n        ...\n", None) == ""
    assert prelude_of("What is f?", "f") == ""


@pytest.mark.parametrize("text", ["I can't.", "", "  \n", "```json\n```", "<think>def f(x): pass</think>No."])
def test_words_are_no_program(text):
    assert programs_in(text, ["f"]) == ()


def test_readings_are_few_and_short():
    text = "".join(f"```python\ndef f(x): return {n}\n```\n" for n in range(300)) + "x = 1\n" * 100_000
    readings = programs_in(text, ["f"])
    assert "299" in readings[0]
    assert len(readings) <= 8
    assert max(map(len, readings)) <= 200_000
    assert "\0" in programs_in("```python\nf = '\0'\n```", ["f"])[0]


BUSY = {
    "ticks": "`", "newlines": "\n", "spaces": " ", "fences": "```\n```\n", "blank lines": "\n ", "async": "async ",
    "from": "from a.a.", "prose": "\n\nA", "marks": ">>> ", "code": "f\n", "annotations": "\nf:", "words": "é_",
    "tabs": "\t\n", "definitions": "```\ndef f(): 1\n```\n", "think": "</think>", "imports": "import a,",
    "tildes": "~~~\n", "returns": "\r\n", "equals": "\nf ", "openings": "```python\n",
}  # fmt: skip


@pytest.mark.parametrize("unit", BUSY.values(), ids=BUSY)
def test_no_text_takes_more_than_linear_time(unit):
    """A quadratic pattern takes minutes of processor time here, a linear one much less than a second."""
    text = "```python\n" + unit * ((1 << 18) // len(unit))
    begun = time.process_time()
    for names, prompt in (((), ""), (("f",), ""), (("f",), PROMPT)):
        programs_in(text, names, prompt)
        programs_in(text[10:], names, prompt)
    assert time.process_time() - begun < 20
