"""What a node is worth to a search: what the verifiers say of it, else how likely the model finds it."""

from __future__ import annotations

import math

from led_agent.tree import Node, Tree

__all__ = ["likelihood", "reward", "value", "worth"]


def reward(node: Node) -> float | None:
    """The deciding verdict's score, in [0, 1]. None where there is no verdict, or one that says nothing: an error, or
    an abstention that scores 0 (can't judge)."""
    verdict = node.verdict
    if verdict is None or verdict.status == "error" or (verdict.status == "abstained" and verdict.score == 0):
        return None
    return 1.0 if verdict.status == "accepted" else verdict.score


def likelihood(tree: Tree, node: Node) -> float:
    """Geometric mean of the probabilities, under the model's own posterior, of the tokens of the output that ends in a
    node; 0 where they aren't known."""
    if node.branch is None:
        return 0.0
    logprob = tree.mean_logprob(node.id)
    return math.exp(min(0.0, logprob)) if logprob is not None else 0.0


def value(tree: Tree, node: Node) -> float:
    """The reward, else the likelihood; 0 for what failed or was given up."""
    return 0.0 if node.status in ("failed", "pruned") else worth(tree, node)


def worth(tree: Tree, node: Node) -> float:
    """The same of a node as it was before it was given up."""
    judged = reward(node)
    return judged if judged is not None else likelihood(tree, node)
