"""Why a run ended, in words for people: what can be told from its tree."""

from __future__ import annotations

from led_agent.tree import Tree
from led_agent.types import Confidence

__all__ = ["accepted_reason", "agreed", "nothing_left"]


def accepted_reason(tree: Tree) -> str:
    best = tree.best()
    verdict = best.verdict if best else None
    if best is None or verdict is None:
        return "accepted"
    told = f": {verdict.reason}" if verdict.reason else ""
    return f"branch {best.id} of {len(tree) - 1} accepted by {verdict.verifier or 'a verifier'}{told}"


def agreed(found: Confidence) -> str:
    """Why an answer that no verifier accepted is given all the same."""
    flat = " ".join(found.answer.split())
    shown = flat if len(flat) <= 40 else f"{flat[:39]}…"
    return f"given as the answer: {found.votes} of {found.of} that answered say {shown}"


def nothing_left(tree: Tree, judged: bool) -> str:
    leaves = tree.leaves()
    if not leaves:
        return "the strategy proposed nothing"
    if all(leaf.status == "failed" for leaf in leaves):
        return f"none of {len(leaves)} branches could be decoded: {leaves[0].reason}"
    if not judged:
        return f"{len(leaves)} branches decoded; there is no verifier"
    counts: dict[str, int] = {}
    for leaf in leaves:
        verdict = leaf.verdict
        status = "failed" if leaf.status == "failed" else verdict.status if verdict else leaf.status
        counts[status] = counts.get(status, 0) + 1
    told = ", ".join(f"{n} {status}" for status, n in sorted(counts.items()))
    if tree.accepted():
        return f"{len(leaves)} branches were judged ({told})"
    return f"none of {len(leaves)} branches was accepted ({told}); this is the best of them"
