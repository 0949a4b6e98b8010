"""What a study of exploration is of: a model, problems in two splits, how much is drawn of each.

The development split chooses settings; the test split is asked once, with what was chosen.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from led_agent.countdown_puzzles import sample_puzzles
from led_agent.errors import UsageError
from led_agent.models import default_model, is_embedded
from led_agent.problems import read_problems
from led_agent.protocols import Verifier
from led_agent.search import DefaultVerifiers
from led_agent.types import Problem
from led_agent.verifiers.named import parse_verifier

__all__ = ["Plan", "Split", "Truths"]

Split = str
_DEV_SHARE = 4  # one of so many problems of a file goes into the development split
_TWO_TRIES = 31  # tokens of the embedded model's trace of two tries, answer included
_WHOLE = 75  # of its longest trace
_BUDGETS = (0.5, 0.75, 1, 1.5, 2, 3, 4, 6, 8, 12, 16)  # tokens a problem, in whole branches
_STEP = "step=none,step_tokens=13,max_step_tokens=none"  # an attempt of the embedded model's trace, which ends at "no"


@dataclass(frozen=True)
class Plan:
    """A study.

    Attributes:
        model: None is the embedded reasoner.
        before: A model from before reinforcement learning, whose depths are compared; None where there is none.
        problems: A file; None are Countdown puzzles that the embedded models were not trained on.
        dev, test: Problems of each split, at most.
        samples: Branches a problem of the test split; of the development split, ``dev_samples``.
        searches, dev_searches: Searches a problem, of arms that search: one has few branches, so that several are
            needed for figures as narrow as those of many samples.
        max_tokens: New tokens a branch; None is two tries and an answer of the embedded reasoner, else 512.
        search_tokens: New tokens a branch where arms are compared at equal tokens a problem; None is the embedded
            reasoner's whole trace, else ``max_tokens``.
        lens: Whether LED through the model's tuned lens is studied, too.
        verifiers: Names of what says what is right; none leaves it to what each problem calls for.
        quick: A few minutes on two cores: fewer arms, nothing tuned.

    Raises:
        UsageError: a number that can't be, or problems with nothing that says whether they are solved.
    """

    TUNED_AT: ClassVar[int] = 3  # which of the budgets searches are tuned for
    MATCHED_AT: ClassVar[int] = 5  # at which the tokens are told that others need to solve as much

    model: str | None = None
    before: str | None = None
    problems: Path | None = None
    dev: int = 200
    test: int = 400
    samples: int = 64
    dev_samples: int = 16
    searches: int = 8
    dev_searches: int = 4
    max_tokens: int | None = None
    search_tokens: int | None = None
    seed: int = 0
    verifiers: tuple[str, ...] = ()
    lens: bool = False
    quick: bool = False
    device: str = "auto"
    dtype: str = "auto"
    slots: int = 64

    def __post_init__(self) -> None:
        for name, least in (
            ("dev", 0 if self.quick else 2),
            ("test", 2),
            ("samples", 2),
            ("dev_samples", 2),
            ("searches", 1),
        ):
            if getattr(self, name) < least:
                raise UsageError(f"{name} is {getattr(self, name)}; at least {least} are needed")
        if self.problems is None and not is_embedded(self.model):
            raise UsageError(
                f"the model {self.model} needs problems of its own: give --problems FILE, a JSON object a line with "
                "prompt and answer (or tests)"
            )

    @property
    def puzzles(self) -> bool:
        """Whether it is of the embedded reasoner on its puzzles, whose traces are known."""
        return is_embedded(self.model) and self.problems is None

    @property
    def new_tokens(self) -> int:
        return self.max_tokens if self.max_tokens is not None else _TWO_TRIES if self.puzzles else 512

    @property
    def whole_tokens(self) -> int:
        """New tokens a branch where arms are compared at equal tokens a problem."""
        if self.search_tokens is not None:
            return self.search_tokens
        return _WHOLE if self.puzzles and self.max_tokens is None else self.new_tokens

    @property
    def budgets(self) -> tuple[int, ...]:
        """Tokens a problem within which it is asked how many are solved."""
        return tuple(max(1, round(share * self.whole_tokens)) for share in _BUDGETS)

    @property
    def matched_at(self) -> int:
        """The budget of the base that others' tokens are compared with."""
        return self.budgets[self.MATCHED_AT]

    @property
    def step(self) -> tuple[str, str] | None:
        """Where a step ends, as a strategy's settings, and the verifier of steps; None where neither is known."""
        return (_STEP, "countdown:steps=true") if self.puzzles else None

    def split(self) -> tuple[list[Problem], list[Problem]]:
        """The development and the test problems, which don't overlap.

        Raises:
            UsageError: the file can't be used, holds too few, or nothing says whether a problem is solved.
        """
        if self.problems is None:
            return _puzzles("dev", self.dev, self.seed), _puzzles("test", self.test, self.seed)
        found, _ = read_problems(self.problems)
        self._refuse_untold(found)
        dev = [problem for problem in found if _bucket(problem) == 0]
        test = [problem for problem in found if _bucket(problem) != 0]
        if len(test) < 2 or (len(dev) < 2 and not self.quick):
            raise UsageError(
                f"{self.problems} holds {len(found)} problems, of which {len(dev)} fall into the development split and "
                f"{len(test)} into the test split; at least 2 each are needed, and intervals mean little below 100"
            )
        return dev[: self.dev], test[: self.test]

    def _refuse_untold(self, problems: Sequence[Problem]) -> None:
        if self.verifiers:
            return
        chosen = DefaultVerifiers()
        untold = [problem for problem in problems if not chosen(problem)]
        if untold:
            raise UsageError(
                f"nothing says whether {len(untold)} of {len(problems)} problems are solved, the first "
                f"{untold[0].key!r}: give them an answer or tests, or name a verifier with --verifier"
            )

    def truth(self) -> Callable[[Problem], Sequence[Verifier]]:
        """What says what is right, made anew."""
        return Truths(self.verifiers)

    def record(self) -> dict[str, Any]:
        """What must be the same for a study to be resumed; where it is computed may differ."""
        return {
            "model": self.model or default_model(),
            "before": self.before,
            "problems": str(self.problems) if self.problems is not None else "countdown",
            "dev": self.dev,
            "test": self.test,
            "samples": self.samples,
            "dev_samples": self.dev_samples,
            "searches": self.searches,
            "dev_searches": self.dev_searches,
            "max_tokens": self.new_tokens,
            "search_tokens": self.whole_tokens,
            "seed": self.seed,
            "verifiers": list(self.verifiers),
            "lens": self.lens,
            "quick": self.quick,
        }


class Truths:
    """The verifiers named, else those that a problem calls for."""

    def __init__(self, names: Sequence[str]) -> None:
        self._named = tuple(parse_verifier(name) for name in names)
        self._default = None if self._named else DefaultVerifiers()

    def __call__(self, problem: Problem) -> tuple[Verifier, ...]:
        return self._default(problem) if self._default is not None else self._named

    def close(self) -> None:
        for one in self._default.all if self._default is not None else self._named:
            close = getattr(one, "close", None)
            if callable(close):
                close()


def _puzzles(split: str, count: int, seed: int) -> list[Problem]:
    found = sample_puzzles("dev" if split == "dev" else "test", count, seed) if count else []
    return [
        Problem(prompt=str(puzzle), id=f"{'-'.join(map(str, puzzle.numbers))}-to-{puzzle.target}") for puzzle in found
    ]


def _bucket(problem: Problem) -> int:
    digest = hashlib.blake2b(problem.digest.encode(), digest_size=8, person=b"study").digest()
    return int.from_bytes(digest, "big") % _DEV_SHARE
