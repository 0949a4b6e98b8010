"""What a branch is worth to a strategy that searches by rewards: by its verdict, else by the model's own confidence."""

from __future__ import annotations

import math

from led_agent.tree import Node, Tree

__all__ = ["reward", "value"]


def reward(node: Node) -> float | None:
    """What the verifiers give for a branch, in [0, 1]; None where they have not judged it.

    An abstention with a score ranks (a reward model's, a judge's); without one it is "can't judge", as an error is.
    """
    verdict = node.verdict
    if verdict is None or verdict.status == "error":
        return None
    if verdict.status == "accepted":
        return 1.0
    return verdict.score if verdict.status == "rejected" or verdict.score > 0 else None


def value(tree: Tree, node: Node) -> float:
    """A branch's worth in [0, 1]: its reward, else the geometric mean of its tokens' probabilities under the model's
    own posterior, else 0. What failed or was given up is worth nothing."""
    if node.status in ("failed", "pruned"):
        return 0.0
    given = reward(node)
    if given is not None:
        return given
    likely = node.branch.mean_logprob if node.branch is not None else None
    return math.exp(min(0.0, likely)) if likely is not None else 0.0
