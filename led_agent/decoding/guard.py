"""The quality guard: what is wrong with a growing branch, and how far back it was sound.

Plain Python over lists of numbers: it does not know how they are computed, nor what rolling back takes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from led_agent.types import QualityGuard

__all__ = ["Finding", "Watch"]

_SHORTEST = 8  # tokens that a mean is taken over


@dataclass(frozen=True)
class Finding:
    """A branch degrades: what was measured, and the first token that the trouble may have begun at."""

    cause: Literal["logprob", "entropy", "repetition", "length", "nonfinite"]
    measured: float
    threshold: float
    began: int


class Watch:
    """Watches one branch.

    Args:
        guard: Its thresholds.

    Attributes:
        boundaries: How many tokens the branch had when its steps ended; 0 is always one.
        turned: How often it was turned back.
        wary: Whether it goes on conservatively now: not at all, to the end of the step, or for good.
    """

    def __init__(self, guard: QualityGuard) -> None:
        self.guard = guard
        self.boundaries = [0]
        self.turned = 0
        self.wary: Literal["no", "step", "rest"] = "no"
        self._since = 0  # running means look no further back
        self._ngrams: dict[tuple[int, ...], list[int]] = {}
        self._read = 0  # n-grams that end before it are noted

    def boundary(self, at: int) -> bool:
        """A step has ended with that many tokens; whether a conservative step ended with it."""
        if at <= self.boundaries[-1]:
            return False
        self.boundaries.append(at)
        if self.wary == "step":
            self.wary, self._since = "no", at
            return True
        return False

    def step_is_long(self, at: int) -> bool:
        """Whether it is time for a boundary although none has come."""
        return at - self.boundaries[-1] >= self.guard.longest_step

    def look(
        self, tokens: Sequence[int], logprobs: Sequence[float], entropies: Sequence[float], *, ending: bool = False
    ) -> Finding | None:
        """Judge a branch by its tokens, and by their log-probabilities under the unperturbed final posterior and its
        entropies (nat) as far as these are known; None where nothing is wrong, or it is conservative already. A
        branch that is ``ending`` is judged by a shorter window, if there is no whole one."""
        repeated = self._repetition(tokens)
        if self.wary != "no":
            return None
        least = min(_SHORTEST, self.guard.window) if ending else self.guard.window
        return repeated or self._mean(logprobs, entropies, least) or self._length(tokens)

    def turn_back(self, finding: Finding) -> tuple[int, bool]:
        """Decide how far back to go: to how many tokens, and whether the branch is conservative for good from there."""
        back = max(at for at in self.boundaries if at <= finding.began)
        self.boundaries = [at for at in self.boundaries if at <= back]
        self.turned += 1
        self.wary = "rest" if self.turned > 1 or finding.cause == "length" else "step"
        self._ngrams, self._read = {}, 0
        return back, self.wary == "rest"

    def _repetition(self, tokens: Sequence[int]) -> Finding | None:
        """The n-gram that has come too often, where there is one; trouble began with its second coming."""
        if self.guard.repeats is None:
            return None
        n, worst = self.guard.ngram, None
        for end in range(max(self._read, n - 1), len(tokens)):
            found = self._ngrams.setdefault(tuple(tokens[end + 1 - n : end + 1]), [])
            found.append(end + 1 - n)
            if len(found) >= self.guard.repeats and (worst is None or len(found) > len(worst)):
                worst = found
        self._read = len(tokens)
        return Finding("repetition", len(worst), self.guard.repeats, worst[1]) if worst else None

    def _mean(self, logprobs: Sequence[float], entropies: Sequence[float], least: int) -> Finding | None:
        """A running mean over the window that is past its threshold; trouble began where the window does."""
        start = max(len(logprobs) - self.guard.window, self._since)
        window = len(logprobs) - start
        if window < least:
            return None
        likely, unsure = sum(logprobs[start:]) / window, sum(entropies[start:]) / window
        if self.guard.min_logprob is not None and not likely >= self.guard.min_logprob:
            return Finding("logprob", likely, self.guard.min_logprob, start)
        if self.guard.max_entropy is not None and not unsure <= self.guard.max_entropy:
            return Finding("entropy", unsure, self.guard.max_entropy, start)
        return None

    def _length(self, tokens: Sequence[int]) -> Finding | None:
        limit = self.guard.max_tokens
        if limit is None or len(tokens) <= limit:
            return None
        return Finding("length", len(tokens), limit, len(tokens))
