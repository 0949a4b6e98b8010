"""Best of N: branches from the prompt, the best by the verifiers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from led_agent.errors import UsageError
from led_agent.tree import Tree
from led_agent.types import DecodeRequest

__all__ = ["BestOfN"]


@dataclass(frozen=True)
class BestOfN:
    """N sibling branches from the prompt; with ``stop_at_first`` the search ends at the first accepted one.

    Repeated sampling with a verifier: Cobbe et al., "Training Verifiers to Solve Math Word Problems", 2021; Brown et
    al., "Large Language Monkeys", 2024.

    Raises:
        UsageError: n is below 1.
    """

    n: int = 8
    stop_at_first: bool = True

    def __post_init__(self) -> None:
        if self.n < 1:
            raise UsageError(f"BestOfN needs n of at least 1, found {self.n}")

    def propose(self, tree: Tree, slots: int) -> Sequence[DecodeRequest]:
        missing = self.n - len(tree.children(purpose="explore"))
        return tree.requests(min(missing, slots), siblings=self.n) if missing > 0 and slots > 0 else []

    def finished(self, tree: Tree) -> bool:
        return self.stop_at_first and bool(tree.accepted())
