"""`led-agent verify`: rows, order, resuming, bad lines, interruption, and what its parts compute."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from led_agent.bulk import Answer, Bulk, read_answers, wilson
from led_agent.cli import main
from led_agent.errors import ModelError, UsageError
from led_agent.types import Branch, Problem

Tool = Any


@pytest.fixture
def tool(capsys: pytest.CaptureFixture[str]) -> Tool:
    """Run a command in this process: (exit code, standard output, standard error)."""

    def call(*arguments: str | Path) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main([str(a) for a in arguments])
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, " ".join(err.split())

    return call


def write(path: Path, rows: Sequence[Any]) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def problems(tmp_path: Path) -> Path:
    return write(
        tmp_path / "problems.jsonl",
        [
            {"id": "sum", "prompt": "2 + 2?", "answer": "4"},
            {"id": "game", "prompt": "Use 4, 7 and 12 to make 40."},
            {"id": "open", "prompt": "Why?"},
            {"id": 7, "prompt": "3 + 4?", "answer": 7},
        ],
    )


ANSWERS = [
    {"id": "sum", "text": "It is 4."},
    {"id": "sum", "text": "It is 5."},
    {"id": "game", "text": "4 * 7 + 12 = 40"},
    {"id": 7, "text": "7", "verified": True, "usage": {}},
]


def test_each_answer_is_judged_by_what_its_problem_calls_for(tool: Tool, problems: Path, tmp_path: Path):
    answers = write(tmp_path / "answers.jsonl", [*ANSWERS, "", {"id": "open", "text": "Because."}])
    code, out, _ = tool("verify", "--problems", problems, "--answers", answers, "--json")
    found = lines(out)
    assert code == 1
    assert [(r["id"], r["verifier"], r["status"]) for r in found] == [
        ("sum", "math_answer", "accepted"),
        ("sum", "math_answer", "rejected"),
        ("game", "countdown", "accepted"),
        ("7", "math_answer", "accepted"),
        ("open", "none", "abstained"),
    ]
    assert all(set(row) == {"id", "verifier", "status", "score", "reason", "seconds"} for row in found)
    good = write(tmp_path / "good.jsonl", [ANSWERS[0], ANSWERS[2]])
    code, out, _ = tool("verify", "--problems", problems, "--answers", good)
    assert code == 0
    assert "math_answer" in out
    assert "100.0%" in out
    assert "2 verdicts in" in out


def test_several_verifiers_each_say_their_word(tool: Tool, problems: Path, tmp_path: Path):
    answers = write(tmp_path / "answers.jsonl", ANSWERS)
    names = ("--verifier", "matches:4", "--verifier", "countdown")
    code, out, _ = tool("verify", "--problems", problems, "--answers", answers, *names, "--json")
    assert code == 1
    assert [(r["verifier"], r["status"]) for r in lines(out)] == [
        ("matches", "accepted"), ("countdown", "abstained"),
        ("matches", "rejected"), ("countdown", "abstained"),
        ("matches", "accepted"), ("countdown", "accepted"),
        ("matches", "rejected"), ("countdown", "abstained"),
    ]  # fmt: skip
    code, _, err = tool("verify", "--problems", problems, "--answers", answers, "-v", "matches:4", "-v", "matches:5")
    assert (code, "two verifiers are called matches" in err) == (2, True)


def test_what_is_judged_is_kept_and_not_judged_again(tool: Tool, problems: Path, tmp_path: Path):
    answers, kept = write(tmp_path / "answers.jsonl", ANSWERS[:2]), tmp_path / "verdicts.jsonl"
    options = ("verify", "--problems", problems, "--answers", answers, "--verifier", "matches:4", "--out", kept)
    code, out, _ = tool(*options, "--json")
    assert (code, lines(out)) == (1, lines(kept.read_text()))
    before = kept.read_bytes()
    kept.write_bytes(before + b'{"id": "sum", "verif')  # killed in the middle of a line
    write(answers, [*ANSWERS, ANSWERS[0]])
    code, out, _ = tool(*options, "--json")
    assert [r["id"] for r in lines(out)] == ["game", "7", "sum"]
    assert kept.read_bytes().startswith(before)
    assert [r["id"] for r in lines(kept.read_text())] == ["sum", "sum", "game", "7", "sum"]
    code, out, _ = tool(*options, "--json")
    assert (code, out) == (1, "")
    code, out, _ = tool(*options)
    assert "0 verdicts" in out
    assert "60.0%" in out  # of all five
    code, _, err = tool(*options[:-1], answers)
    assert (code, "line 1 is no verdict" in err) == (2, True)


def test_bad_lines_are_named_and_the_others_judged(tool: Tool, problems: Path, tmp_path: Path):
    bad = ["", "{broken", "[1]", {"id": "sum"}, {"text": "4"}, {"id": "nobody", "text": "4"}, {"id": True, "text": "4"}]
    answers = write(tmp_path / "answers.jsonl", [*bad, ANSWERS[0]])
    code, out, err = tool("verify", "--problems", problems, "--answers", answers, "--json")
    assert (code, [r["status"] for r in lines(out)]) == (2, ["accepted"])
    for said in (
        "line 2 is not valid JSON",
        "line 3 is not a JSON object but list",
        "line 4 has the text 'None'",
        "line 5 has the id None",
        "line 6 answers 'nobody', which is no problem of the file",
        "line 7 has the id True",
    ):
        assert said in err


def test_files_that_can_not_be_used_are_one_line(tool: Tool, problems: Path, tmp_path: Path):
    empty = write(tmp_path / "empty.jsonl", [""])
    for arguments, code, says in (
        (("--problems", problems, "--answers", tmp_path / "none"), 3, "can't read"),
        (("--problems", problems, "--answers", empty), 2, "holds no answer"),
        (("--problems", empty, "--answers", problems), 2, "holds no problem"),
        (("--problems", problems, "--answers", problems, "--verifier", "maths"), 2, "did you mean"),
        (("--problems", problems, "--answers", problems, "--out", tmp_path / "a" / "b"), 3, "No such file"),
    ):
        got, out, err = tool("verify", *arguments)
        assert (got, out, says in err) == (code, "", True), err


def test_ctrl_c_keeps_what_is_judged_in_order(problems: Path, tmp_path: Path, tool: Tool):
    """The verifier waits on a pipe that nobody writes to, from the fourth answer on."""
    os.mkfifo(tmp_path / "gate")
    (tmp_path / "own.py").write_text(
        "import pathlib, threading\n"
        "def slow(problem, branch):\n"
        "    if branch.text == 'wait':\n"
        f"        pathlib.Path({str(tmp_path / 'waiting')!r}).touch()\n"
        f"        pathlib.Path({str(tmp_path / 'gate')!r}).read_text()\n"
        "    return True\n"
    )
    texts = ["a", "b", "c", "wait", *"defgh"]
    answers = write(tmp_path / "answers.jsonl", [{"id": "sum", "text": text} for text in texts])
    kept = tmp_path / "verdicts.jsonl"
    arguments = ("verify", "--problems", problems, "--answers", answers, "--verifier", f"{tmp_path}/own.py:slow")
    options = (*arguments, "--out", kept, "--concurrency", 1, "--json")
    process = subprocess.Popen(
        [sys.executable, "-m", "led_agent", *map(str, options)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    for _ in range(3):
        assert process.stdout.readline()
    while not (tmp_path / "waiting").exists():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    told = process.stderr.readline()
    assert "stopping" in told
    (tmp_path / "gate").write_text("")  # the one under way ends, and is kept
    out, err = process.communicate()
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert len(lines(kept.read_text())) == 4
    assert len(lines(out)) == 1
    (tmp_path / "own.py").write_text("def slow(problem, branch):\n    return True\n")
    code, out, _ = tool(*options)
    assert (code, len(lines(out)), len(lines(kept.read_text()))) == (0, 5, 9)


# --- the parts -----------------------------------------------------------------------------------------------------

PROBLEMS = {key: Problem(prompt=f"p {key}", id=key) for key in "ab"}


class Batched:
    """A verifier that takes batches, and notes them."""

    name, batch_size = "batched", 4

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.before = threading.Event()  # what the first batch waits for
        self.before.set()

    def __call__(self, problem: Problem, branch: Branch, /) -> bool:
        raise AssertionError("asked alone")

    def batch(self, asked: Sequence[tuple[Problem, Branch]]) -> list[Any]:
        assert self.before.wait(30)
        self.sizes.append(len(asked))
        return [float(branch.text) for _, branch in asked]


def judged(verifiers: list[Any], answers: Iterable[Answer], **options: Any) -> list[Any]:
    bulk = Bulk(PROBLEMS, lambda _: verifiers, concurrency=3, **options)
    return [(r["id"], r["verifier"], r["status"], r["score"]) for r in bulk.rows(iter(answers))]


def test_batches_are_asked_as_batches_and_rows_keep_the_order():
    verifier = Batched()
    verifier.before.clear()

    def plain(problem: Problem, branch: Branch) -> bool:
        return True

    answers = [Answer("ab"[i % 2], f"0.{i}") for i in range(1, 11)]

    def read() -> Iterator[Answer]:
        """Batches grow while others are asked: none is done before some wait."""
        for at, answer in enumerate(answers):
            if at == 4:
                verifier.before.set()
            yield answer

    found = judged([plain, verifier], read())
    assert sum(verifier.sizes) == len(answers)
    assert len(verifier.sizes) < len(answers)
    assert max(verifier.sizes) <= 4
    assert [row for row in found if row[1] == "batched"] == [
        (a.id, "batched", "abstained", float(a.text)) for a in answers
    ]
    assert [row[:3] for row in found[::2]] == [(a.id, "plain", "accepted") for a in answers]


@pytest.mark.parametrize("said", [[], [0.5] * 9, RuntimeError("boom"), ["nonsense"] * 2])
def test_a_batch_that_fails_is_each_ones_error(said: Any):
    class Bad(Batched):
        def batch(self, asked: Sequence[tuple[Problem, Branch]]) -> list[Any]:
            if isinstance(said, Exception):
                raise said
            return list(said)

    found = judged([Bad()], [Answer("a", "x"), Answer("b", "y")])
    assert [row[2] for row in found] == ["error", "error"]


def test_those_that_compare_answers_are_asked_once_a_problem():
    calls: list[tuple[str, list[str]]] = []

    class Vote:
        name = "vote"

        def __call__(self, problem: Problem, branch: Branch, /) -> bool:
            raise AssertionError("asked alone")

        def together(self, problem: Problem, branches: Sequence[Branch]) -> list[bool]:
            calls.append((problem.key, [b.text for b in branches]))
            return [b.text == "yes" for b in branches]

    answers = [Answer("a", "yes"), Answer("b", "no"), Answer("a", "no")]
    assert [row[:3] for row in judged([Vote()], answers)] == [
        ("a", "vote", "accepted"), ("a", "vote", "rejected"), ("b", "vote", "rejected"),
    ]  # fmt: skip
    assert calls == [("a", ["yes", "no"]), ("b", ["no"])]
    assert [row[:3] for row in judged([Vote()], answers, done={("a", "vote"): 1, ("b", "vote"): 1})] == [
        ("a", "vote", "rejected")
    ]


def test_checks_are_asked_once_a_problem_and_faults_told_apart():
    asked: list[str] = []

    class Checked:
        name = "checked"

        def check(self, problem: Problem) -> None:
            asked.append(problem.key)
            if problem.key == "b":
                raise UsageError("b is at fault")

        def __call__(self, problem: Problem, branch: Branch, /) -> bool:
            return True

    found = judged([Checked()], [Answer("a", ""), Answer("b", ""), Answer("a", ""), Answer("b", "")])
    assert [row[2] for row in found] == ["accepted", "error", "accepted", "error"]
    assert asked == ["a", "b"]

    class Broken(Checked):
        def check(self, problem: Problem) -> None:
            raise ModelError("no model")

    with pytest.raises(ModelError):
        judged([Broken()], [Answer("a", "")])


def test_answers_are_read_no_further_ahead_than_the_threads_need():
    taken = 0
    gate = threading.Event()

    def waits(problem: Problem, branch: Branch) -> bool:
        return gate.wait()

    def source() -> Any:
        nonlocal taken
        for _ in range(1000):
            taken += 1
            if taken > 20:
                gate.set()  # without a bound, all would be taken before the first verdict
            yield Answer("a", "")

    rows = Bulk(PROBLEMS, lambda _: [waits], concurrency=2).rows(source())
    threading.Thread(target=lambda: next(rows, None)).start()
    while taken < 9:
        pass
    assert taken <= 10
    gate.set()


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [(0, 0, 0, 1), (0, 10, 0, 0.2775), (10, 10, 0.7225, 1), (5, 10, 0.2366, 0.7634), (81, 263, 0.2553, 0.3662)],
)
def test_the_interval_is_wilsons(successes: int, trials: int, low: float, high: float):
    assert wilson(successes, trials) == pytest.approx((low, high), abs=5e-5)  # the last: Newcombe 1998


def test_lines_are_numbered_as_in_the_file(tmp_path: Path):
    path = write(tmp_path / "a.jsonl", ["", {"id": 1, "text": "x"}, "", {"id": 2.5, "text": "y"}])
    assert list(read_answers(path)) == [Answer("1", "x", 2), Answer("2.5", "y", 4)]
