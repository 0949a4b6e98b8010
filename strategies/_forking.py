"""Where a branch may be forked, and the request for it."""

from __future__ import annotations

from collections.abc import Sequence

from led_agent.tree import Node, Tree
from led_agent.types import DecodeRequest

__all__ = ["ENDED", "fork", "spot"]

ENDED = ("eos", "stop", "length")


def spot(node: Node, forked: Sequence[int], gap: int) -> tuple[float, int] | None:
    """The most uncertain position of a branch, at least ``gap`` tokens from those where it is ``forked`` already: its
    entropy, and where it is. None where there is none left, or the branch can't be forked."""
    branch = node.branch
    if branch is None or branch.finish not in ENDED or node.status in ("pruned", "failed"):
        return None
    free = (
        (entropy, -at)
        for at, entropy in enumerate(branch.entropies)
        if entropy > 0 and all(abs(at - other) >= gap for other in forked)
    )
    entropy, at = max(free, default=(0.0, 0))
    return (entropy, -at) if entropy > 0 else None


def fork(tree: Tree, node: Node, at: int, entropy: float) -> DecodeRequest:
    """A branch that keeps ``at`` of a node's own tokens and goes on with another than was drawn there. Where several
    are proposed at once, ``Tree.numbered`` tells them apart."""
    (made,) = tree.requests(
        1,
        parent=node.id,
        keep=at,
        exclude=_drawn(node, at),
        purpose="fork",
        trigger=f"entropy of {entropy:.2f} nat at token {at}",
    )
    return made


def _drawn(node: Node, at: int) -> tuple[int, ...]:
    """What was drawn at a position of a branch, and, where the branch is a fork that begins there, before it."""
    own = node.branch.token_ids[at : at + 1] if node.branch is not None else ()
    return own + (node.request.exclude if node.request is not None and at == 0 else ())
