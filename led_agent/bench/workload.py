"""What is run: so many branches of one prompt, so many new tokens each. No torch here."""

from __future__ import annotations

import random
from typing import Annotated

from pydantic import Field

from led_agent.record import Record

__all__ = ["Workload"]


class Workload(Record):
    """Branches grown from one prompt.

    No branch ends early: every arm is told to look for no end of text, and to make ``new`` tokens.

    Attributes:
        branches: How many grow from the prompt, at a time.
        prompt: Its tokens.
        new: Tokens a branch.
        temperature: All sample by it alone, without top-k or top-p.
        dtype: Of the weights: "float32", "bfloat16" or "float16", or "auto" for what the engine would choose.
    """

    branches: Annotated[int, Field(ge=1)] = 16
    prompt: Annotated[int, Field(ge=1)] = 1024
    new: Annotated[int, Field(ge=1)] = 256
    temperature: Annotated[float, Field(gt=0, le=10)] = 0.8
    dtype: str = "auto"

    @property
    def tokens(self) -> int:
        """That come of it, the prompt's not counted."""
        return self.branches * self.new

    def prompt_ids(self, number: int, vocab: int, use: str = "") -> list[int]:
        """The prompt of a round: other tokens in each, so that nothing is left cached from the one before.

        Args:
            use: Tells apart what shares a cache within a round.
        """
        rng = random.Random(f"{number} {use}")  # text, since numbers of opposite sign seed the same
        first = min(100, vocab // 4)  # before are a vocabulary's special tokens, mostly
        return [rng.randrange(first, vocab) for _ in range(self.prompt)]

    def shortened(self, new: int) -> Workload:
        """The same with no more than this many new tokens."""
        return self.model_copy(update={"new": min(self.new, new)})
