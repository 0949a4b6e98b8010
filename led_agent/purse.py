"""How many more branches a budget of tokens can pay.

Branches that grow side by side spend a budget side by side, and where it runs out first, none of them comes to an
answer: 64 branches of 60 tokens from a budget of 300 are 64 beginnings. So a branch is begun only while the budget
could pay it whole, beside those under way. This file knows lengths, and nothing of trees or decoders.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["Purse"]


@dataclass
class Purse:
    """What branches of one problem may cost.

    Attributes:
        most: Tokens that a branch may have.
        longest: Those of the longest that has come to an end so far; 0 before the first.
    """

    most: int
    longest: int = 0

    def ended(self, tokens: int) -> None:
        self.longest = max(self.longest, tokens)

    def affordable(self, left: int, growing: Iterable[int]) -> int:
        """How many branches can be begun with so many tokens left, beside those that have grown to these lengths; one
        at least where none grows, so that a budget is spent to its end."""
        under_way = list(growing)
        aside = self.set_aside(under_way)
        free = left - sum(max(1, aside - tokens) for tokens in under_way)
        return max(free // aside, 0 if under_way else 1)

    def set_aside(self, growing: Iterable[int] = ()) -> int:
        """Tokens that a branch is taken to need: as many as it may have; once one has ended, twice the longest seen,
        for those that end first are the short ones."""
        if not self.longest:
            return self.most
        return min(self.most, 2 * max(self.longest, *growing, 1))
