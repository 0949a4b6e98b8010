"""Verifiers that compare branches: which branches of a tree they are asked about, and whether they have spoken."""

from __future__ import annotations

from collections.abc import Sequence

from led_agent.judging import verifier_name
from led_agent.protocols import Verifier
from led_agent.tree import Node, Tree

__all__ = ["COMPLETE", "complete", "unheard"]

COMPLETE = ("eos", "stop", "length")  # how a whole answer ends; steps of a longer one are not judged


def complete(tree: Tree) -> list[Node]:
    """Leaves that are whole answers and were not given up, whatever other verifiers say of them."""
    return [
        leaf
        for leaf in tree.leaves()
        if leaf.branch is not None and leaf.branch.finish in COMPLETE and leaf.status not in ("pruned", "failed")
    ]


def unheard(tree: Tree, comparers: Sequence[Verifier]) -> list[tuple[int, list[Node]]]:
    """The comparers that have not spoken of some complete branch, by their place, and those branches. In a resumed run
    they may have spoken before."""
    names = [verifier_name(comparer) for comparer in comparers]
    leaves = complete(tree) if names else []
    found = []
    for at, name in enumerate(names):
        others = names[:at].count(name)  # whose verdicts bear the same name
        nodes = [leaf for leaf in leaves if sum(v.verifier == name for v in leaf.verdicts) <= others]
        if nodes:
            found.append((at, nodes))
    return found
