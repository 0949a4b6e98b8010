"""``matches(pattern)``: whether a regular expression is found in the final text.

This file knows patterns and text, and no mathematics. The ``regex`` module does the search, as it can be told when to
give up: with ``re``, one pattern that backtracks without end would hold its thread for good.
"""

from __future__ import annotations

import importlib
import math
import time
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from led_agent.answers import after_thinking
from led_agent.errors import UsageError
from led_agent.types import Branch, Problem, Verdict

__all__ = ["Matches", "matches"]


@dataclass(frozen=True)
class Matches:
    """A verifier: accepts a branch in whose final text, after ``</think>``, the pattern is found.

    Attributes:
        pattern: A regular expression in the syntax of the ``regex`` module, which reads ``re``'s.
        flags: Flags of ``re``, e.g. ``re.IGNORECASE | re.MULTILINE``.
        seconds: Time limit of one search; at the limit the verdict's status is "error".
    """

    pattern: str
    flags: int = 0
    seconds: float = 1.0
    name: ClassVar[str] = "matches"

    def __post_init__(self) -> None:
        if not 0 < self.seconds < math.inf:
            raise UsageError(f"matches: seconds is {self.seconds}; a positive number is allowed, e.g. 1.0")
        _ = self._compiled  # now, so that a bad pattern is refused here

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.pattern, int(self.flags), self.seconds)

    @cached_property
    def _compiled(self) -> Any:
        return _compile(self.pattern, int(self.flags))

    def __call__(self, problem: Problem, branch: Branch, /) -> Verdict:
        """The verdict on one branch; may be called from many threads at once."""
        begun = time.perf_counter()
        try:
            found = self._compiled.search(after_thinking(branch.text), timeout=self.seconds)
        except TimeoutError:
            status, reason = "error", f"{self._shown} was not searched for within {self.seconds:g} s; simplify it"
        else:
            where = "in the final text (after </think>)"
            status = "accepted" if found else "rejected"
            reason = (
                f"{self._shown} finds {found[0][:80]!r} {where}" if found else f"{self._shown} is not found {where}"
            )
        return Verdict(status=status, reason=reason, verifier=self.name, seconds=time.perf_counter() - begun)

    def check(self, problem: Problem) -> str | None:
        """None: it has something to say on every problem."""
        return None

    @property
    def _shown(self) -> str:
        return f"pattern {self.pattern[:80]!r}"


def matches(pattern: str, *, flags: int = 0, seconds: float = 1.0) -> Matches:
    """A verifier that looks for a regular expression in the final text, i.e. after the last ``</think>``.

    It is a search, not a full match: anchor the pattern with ``^`` and ``$`` where that is meant.

    Args:
        pattern: The regular expression.
        flags: Flags of ``re``, e.g. ``re.IGNORECASE``.
        seconds: Time limit of one search.

    Raises:
        UsageError: a pattern that can't be compiled (with its position), or a limit that is no positive number.
    """
    return Matches(pattern, flags, seconds)


def _compile(pattern: str, flags: int) -> Any:
    if not isinstance(pattern, str):
        raise UsageError(f"matches: the pattern is {type(pattern).__name__}; a str is allowed, e.g. r'\\d+'")
    regex = importlib.import_module("regex")  # not before it is needed: importing the verifiers stays quick
    try:
        return regex.compile(pattern, flags)
    except regex.error as error:
        at = f" at position {error.pos}" if error.pos is not None else ""
        raise UsageError(f"matches: {pattern!r} is no regular expression: {error.msg}{at}; correct it there") from error
    except (TypeError, ValueError) as error:
        raise UsageError(f"matches: pattern {pattern!r} with flags {flags} can't be used: {error}") from error
