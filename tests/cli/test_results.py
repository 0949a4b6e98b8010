"""Standard output has a command's results and nothing else, whatever is shown or printed beside them."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

PUZZLES = ("Use 3, 20 and 5 to make 35.", "Use 3, 7 and 5 to make 26.", "Use 3, 7 and 9 to make 30.")
TALKATIVE = """
def talks(problem, branch):
    print("a verifier's own words")
    return True
"""


def run(arguments: Sequence[str | Path], *, to_terminal: bool = False) -> tuple[str, str]:
    """A command whose standard error is a terminal, and its standard output as well or else a pipe: both texts."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "led_agent", *map(str, arguments)]
    shown: list[bytes] = []

    def read() -> None:
        while True:
            try:
                shown.append(os.read(ours, 65536))
            except OSError:  # the other side is closed
                return

    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "1000"}
    out = theirs if to_terminal else subprocess.PIPE
    with subprocess.Popen(command, stdout=out, stderr=theirs, stdin=theirs, text=True, env=environment) as process:
        os.close(theirs)
        reader = threading.Thread(target=read)
        reader.start()
        said = process.stdout.read() if process.stdout is not None else ""
        process.wait()
        reader.join()
    os.close(ours)
    assert process.returncode in (0, 1), b"".join(shown).decode()
    return said, b"".join(shown).decode()


@pytest.fixture
def problems(tmp_path: Path) -> Path:
    path = tmp_path / "problems.jsonl"
    path.write_text("".join(json.dumps({"id": str(i), "prompt": p}) + "\n" for i, p in enumerate(PUZZLES)))
    return path


def rows(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("to_terminal", [False, True])
def test_rows_go_where_standard_output_goes_while_a_progress_bar_is_shown(
    problems: Path, tmp_path: Path, to_terminal: bool
):
    said, shown = run(["run", problems, "--out", tmp_path / "run", "--json"], to_terminal=to_terminal)
    assert "3/3" in shown
    lines = [line for line in shown.splitlines() if '"verified"' in line]
    assert {row["id"] for row in rows(said)} == (set() if to_terminal else {"0", "1", "2"})
    assert len(lines) == (3 if to_terminal else 0)


def test_verdicts_go_where_standard_output_goes_while_a_progress_bar_is_shown(tmp_path: Path):
    problem = {"id": "0", "prompt": PUZZLES[0]}
    (tmp_path / "problems.jsonl").write_text(json.dumps(problem) + "\n")
    answers = [{"id": "0", "text": "</think> 20 + ( 5 * 3 )"}, {"id": "0", "text": "</think> 20 + 5"}]
    (tmp_path / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in answers))
    said, shown = run(
        ["verify", "--problems", tmp_path / "problems.jsonl", "--answers", tmp_path / "answers.jsonl", "--json"]
    )
    assert [row["status"] for row in rows(said)] == ["accepted", "rejected"]
    assert "2/2" in shown


@pytest.mark.parametrize("quiet", [[], ["--quiet"]])
def test_what_a_verifier_prints_is_no_result(tmp_path: Path, quiet: list[str]):
    (tmp_path / "talkative.py").write_text(TALKATIVE)
    said, shown = run(["solve", PUZZLES[0], "--verifier", f"{tmp_path / 'talkative.py'}:talks", "--json", *quiet])
    (row,) = rows(said)
    assert row["verified"] is True
    assert "a verifier's own words" in shown
