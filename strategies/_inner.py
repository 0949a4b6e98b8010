"""What a composed strategy asks of those inside it: the optional methods, with their defaults."""

from __future__ import annotations

from collections.abc import Sequence

from led_agent.errors import UsageError
from led_agent.protocols import Strategy
from led_agent.tree import Node, Tree

__all__ = ["check_inner", "chosen_by", "finished_by", "place", "pruned_by"]


def check_inner(outer: object, inner: object) -> None:
    """Refuse what is no strategy.

    Raises:
        UsageError: it is a class, or has no ``propose``.
    """
    name = type(outer).__name__
    if isinstance(inner, type):
        raise UsageError(f"{name} takes strategies, not their classes: give {inner.__name__}(…)")
    if not callable(getattr(inner, "propose", None)):
        raise UsageError(f"{name} takes strategies, objects with propose(tree, slots); found {inner!r}")


def finished_by(inner: Strategy, tree: Tree) -> bool:
    finished = getattr(inner, "finished", None)
    return bool(finished(tree)) if finished is not None else bool(tree.accepted())


def pruned_by(inner: Strategy, tree: Tree) -> list[tuple[str, str]]:
    prune = getattr(inner, "prune", None)
    found: Sequence[tuple[str, str]] = prune(tree) if prune is not None else ()
    return list(found)


def chosen_by(inner: Strategy, tree: Tree) -> str | None:
    choose = getattr(inner, "choose", None)
    chosen: str | None = choose(tree) if choose is not None else None
    return chosen


def place(node: Node) -> list[int]:
    """Where a node stands on the tree, to choose among equals by: when it was asked for may depend on the results."""
    return [int(number) for number in node.id.split(".")]
