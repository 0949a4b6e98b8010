"""Problems of reasoning-gym's generators, and the judge that asks each generator's own ``score_answer``.

Procedural problems with verifiable answers: Stojanovski et al., "Reasoning Gym", 2025 (arXiv 2505.24760). The package
is imported here only, and only when a task of it is named.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import inspect
import re
import threading
from dataclasses import dataclass, field
from typing import Any

from led_agent.answers import marked_answer
from led_agent.errors import UsageError
from led_agent.naming import convert, hints_of, meant, settings
from led_agent.types import Branch, Problem, Verdict

__all__ = ["INSTRUCTION", "GymJudge", "gym_task"]

INSTRUCTION = "Write the final answer alone on the last line, after ####, like this: #### answer"
_SIZE = 50
# What a model wrote is not run outside of a sandbox; these judges would do it.
_RUNS_ANSWERS = re.compile(r"\b(?:eval|exec|parse_expr|sympify)\(")


@dataclass(frozen=True)
class GymJudge:
    """A verifier: accepts an answer that the generator scores with 1, and rejects others with their score.

    The answer is what follows the last "####", else as ``led_agent.answers`` reads it. It abstains on problems that are
    not of this generator.
    """

    generator: str
    dataset: Any = field(repr=False, compare=False)
    _one: Any = field(default_factory=threading.Lock, repr=False, compare=False)

    @property
    def name(self) -> str:
        return f"reasoning-gym:{self.generator}"

    def check(self, problem: Problem) -> str | None:
        """Why there is nothing to say on a problem; None where there is."""
        return None if self._index(problem) is not None else f"the problem is not one of {self.name}"

    def __call__(self, problem: Problem, branch: Branch, /) -> Verdict:
        at = self._index(problem)
        if at is None:
            return Verdict(status="abstained", reason=f"the problem is not one of {self.name}")
        answer = marked_answer(branch.text)
        if answer is None:
            return Verdict(status="rejected", reason="no answer found in the text")
        with self._one:  # generators are not written for threads
            score = float(self.dataset.score_answer(answer, self.dataset[at]))
        status, shown = "accepted" if score >= 1.0 else "rejected", answer[:80]
        reason = f"{shown!r} scores {score:g}"
        return Verdict.model_validate(
            {"status": status, "score": min(1.0, max(0.0, score)), "reason": reason, "answer": answer}
        )

    def _index(self, problem: Problem) -> int | None:
        at = problem.metadata.get("gym_index")
        mine = problem.metadata.get("gym") == self.generator and isinstance(at, int) and 0 <= at < len(self.dataset)
        return at if mine else None


def gym_task(text: str, *, limit: int | None, seed: int) -> tuple[list[Problem], GymJudge]:
    """Problems of ``NAME`` or ``NAME:key=value,…``, and their judge.

    Raises:
        UsageError: the package is not installed, there is no such generator or setting, a value is not allowed, or the
            generator's judge would run answers as code.
    """
    name, _, rest = text.partition(":")
    dataset_class, config_class = _generator(name)
    fields = {f.name: f for f in dataclasses.fields(config_class)}
    hints = hints_of(config_class)
    given = settings(name, rest, fields)
    values = {key: convert(name, key, value, hints.get(key), fields[key].default) for key, value in given.items()}
    values = {"seed": seed, "size": limit or _SIZE} | values
    try:
        config = config_class(**values)
        config.validate()
        dataset = dataset_class(config=config)
        count = min(len(dataset), limit or len(dataset))
        problems = [_problem(name, at, dataset[at]["question"]) for at in range(count)]
    except (AssertionError, ValueError, TypeError) as error:
        raise UsageError(
            f"reasoning-gym {name}: {error or type(error).__name__}; see the generator's settings"
        ) from error
    return problems, GymJudge(name, dataset)


def _problem(name: str, at: int, question: str) -> Problem:
    return Problem(
        prompt=f"{question.strip()}\n\n{INSTRUCTION}", id=f"{name}-{at}", metadata={"gym": name, "gym_index": at}
    )


def _generator(name: str) -> tuple[Any, Any]:
    """A generator's class, and that of its settings."""
    if importlib.util.find_spec("reasoning_gym") is None:
        raise UsageError("reasoning-gym isn't installed: pip install 'led-agent[eval]'")
    there = importlib.import_module("reasoning_gym.factory")
    importlib.import_module("reasoning_gym")  # which registers them all
    if name not in there.DATASETS:
        close = meant(name, list(there.DATASETS)) or f"; there are {', '.join(sorted(there.DATASETS))}"
        raise UsageError(f"reasoning-gym has no generator {name!r}{close}")
    dataset_class, config_class = there.DATASETS[name]
    if _RUNS_ANSWERS.search(inspect.getsource(dataset_class.score_answer)):
        raise UsageError(
            f"reasoning-gym's judge of {name} runs what the model wrote as Python code, outside of any sandbox; take "
            "another generator"
        )
    return dataset_class, config_class
