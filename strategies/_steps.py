"""Steps of a chain of thought, as strategies ask for them: where they end, and which can be gone on from."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Any

from led_agent.errors import UsageError
from led_agent.tree import Node, Tree

__all__ = ["BOUNDARIES", "Steps", "at_least", "is_step"]

BOUNDARIES: dict[str, tuple[str, ...]] = {
    "blank line": ("\n\n",),
    "line": ("\n",),
    "sentence": (". ", "! ", "? ", ".\n", "!\n", "?\n"),
    "none": (),
}


@dataclass(frozen=True)
class Steps:
    """Where a step ends; a base of strategies that search on steps.

    Attributes:
        step: "blank line", "line", "sentence", "none", or the strings themselves.
        max_step_tokens: After so many tokens at the latest; None is no such limit.
        step_tokens: Token ids that end a step, besides.
    """

    _: KW_ONLY
    step: str | tuple[str, ...] = "blank line"
    max_step_tokens: int | None = 64
    step_tokens: tuple[int, ...] = ()

    @property
    def step_options(self) -> dict[str, Any]:
        """The keyword arguments of ``tree.requests`` for a step."""
        given = self.step
        strings = BOUNDARIES.get(given, (given,)) if isinstance(given, str) else given
        return {"step": strings, "max_step_tokens": self.max_step_tokens, "step_tokens": self.step_tokens}

    def _check_steps(self) -> None:
        if isinstance(self.step, str) and not self.step:
            raise UsageError(f"{type(self).__name__}: step is empty; give strings, or one of {', '.join(BOUNDARIES)}")
        if self.max_step_tokens is not None and self.max_step_tokens < 1:
            raise UsageError(
                f"{type(self).__name__} needs max_step_tokens of at least 1 or None, found {self.max_step_tokens}"
            )


def at_least(strategy: object, least: float, *names: str) -> None:
    """Refuse fields of a strategy that are below a limit.

    Raises:
        UsageError: naming the first of them.
    """
    for name in names:
        found = getattr(strategy, name)
        if not found >= least:
            raise UsageError(f"{type(strategy).__name__} needs {name} of at least {least:g}, found {found}")


def is_step(tree: Tree, node: Node) -> bool:
    """Whether a node ends at a step that can be gone on from: it was not given up, and there is room for more."""
    ended = node.branch is not None and node.branch.finish == "step"
    return ended and node.status in ("open", "expanded") and tree.room(node.id) > 0
