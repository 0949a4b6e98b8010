"""The race in which outputs arrive: how much of the law's probability is left where, and when the next of it comes.

Where branches end at steps, what goes on from a step is a region like any other. This file knows a tree and the
log-probabilities on it. It does not know how many branches are wanted, or why.
"""

from __future__ import annotations

import heapq
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from led_agent.tree import ROOT, Node, Tree, derive_seed
from led_agent.types import Branch, DecodeRequest

__all__ = ["Race", "Region", "purpose_of"]

_ROUNDING = 1e-6  # what is left of a position's law counts as nothing up to here: it is 1 less a sum of float32 figures
_UNLIKELY = math.log(1e-20)  # prefixes below that have no part in the race: no number would ever let them win it


@dataclass(eq=False)
class Region:
    """All outputs that go as ``parent`` does up to its own token ``at``, and there take one that was not drawn yet.

    ``prefix`` is the log-probability (nat) of what they share, ``left`` what of the law at that position is not drawn,
    ``due`` the logarithm of the time at which the next of them arrives; ``asked`` counts requests. ``goes_on`` says
    that they go on from the step in which ``parent`` ends; ``since`` is how many tokens they share of their next step,
    and ``depth`` how many whole steps.
    """

    parent: str
    at: int
    prefix: float
    drawn: tuple[int, ...] = ()
    left: float = 1.0
    due: float = -math.inf
    asked: int = 0
    goes_on: bool = False
    since: int = 0
    depth: int = 0

    @property
    def has_mass(self) -> bool:
        return self.left > _ROUNDING

    @property
    def key(self) -> tuple[str, int]:
        return self.parent, self.at

    @property
    def keep(self) -> int | None:
        """How many of the parent's own tokens a request for the next of them keeps; None where it goes on from all."""
        return None if self.parent == ROOT or self.goes_on else self.at


class Race:
    """The regions of a tree, as branches are taken from them one by one.

    Args:
        afresh: Whether what goes on from a step runs on from the step's arrival at its own mass, so that steps race;
            else it is due at once, as the output that arrived is one of those, so that whole outputs do.
    """

    def __init__(self, tree: Tree, *, afresh: bool = False) -> None:
        self._tree, self._afresh = tree, afresh
        self._asked: dict[tuple[str, int], list[Node]] = defaultdict(list)
        self._given_up: set[str] = set()  # inside which nothing more can be asked for
        for node in tree.nodes():
            if node.request is not None and node.purpose == purpose_of(node.request.parent, node.request.keep):
                self._asked[self._place(node.request)].append(node)
            if node.status in ("pruned", "failed"):
                self._given_up.add(node.id)
        self._regions: dict[tuple[str, int], Region] = {}
        self._origins: dict[str, tuple[Region, float]] = {}  # which region a branch is from, and when it arrived
        self._open(Region(ROOT, 0, prefix=0.0), -math.inf)

    def first(self, count: int, *, besides: Sequence[Region] = (), shallow: bool = False) -> list[Region]:
        """Those whose next arrivals come first; with ``shallow``, of the fewest whole steps before anything else."""
        running = (region for region in self._regions.values() if self._runs(region) and region not in besides)
        return heapq.nsmallest(count, running, key=lambda region: (region.depth * shallow, region.due))

    def node(self, region: Region) -> Node | None:
        """The node by which a region's next arrival was asked for, if it was."""
        asked = self._asked.get(region.key, [])
        return asked[region.asked] if region.asked < len(asked) else None

    def take(self, region: Region, node: Node) -> None:
        """Take a branch out of its region, which leaves one at each of its tokens: the race has no memory, so that all
        of them run on from its arrival, each at its own mass."""
        region.asked += 1
        branch = node.branch
        if branch is None or branch.finish == "cancelled":
            return  # whatever it had, nothing was drawn
        if branch.finish == "error" or not branch.token_ids:
            region.left = 0.0  # nothing is left to draw
            return
        goes_on = self._may_go_on(node, branch)
        if len(branch.logprobs) != len(branch.token_ids):
            region.left = 0.0  # how much is left can't be known, but what was begun can be ended
            if goes_on:
                self._behind(region, node.id, branch, region.prefix)
            return
        self._origins[node.id] = region, region.due
        prefix = region.prefix
        for at, logprob in enumerate(branch.logprobs[:-1], 1):
            prefix += logprob
            if prefix < _UNLIKELY:
                break
            self._inside(node.id, branch, at, prefix)
        if goes_on:
            self._behind(region, node.id, branch, region.prefix + sum(branch.logprobs))
        region.drawn += branch.token_ids[:1]
        region.left -= math.exp(min(0.0, branch.logprobs[0]))
        self._open(region, region.due)

    def most_uncertain(self, node: Node) -> tuple[Region, int] | None:
        """Which of a branch's own positions had the highest entropy, of those where mass is left, and the region
        there."""
        branch = node.branch
        if branch is None or node.id not in self._origins:
            return None
        region, _ = self._origins[node.id]
        for at in sorted(range(len(branch.entropies)), key=lambda at: -branch.entropies[at]):
            prefix = region.prefix + sum(branch.logprobs[:at])
            found = (self._regions.get((node.id, at)) or self._inside(node.id, branch, at, prefix)) if at else region
            if self._runs(found):
                return found, at
        return None

    def _runs(self, region: Region) -> bool:
        """Whether anything is to be drawn there. What was asked for before the branch above was given up still counts:
        else that would change the rounds behind us."""
        return region.has_mass and (region.parent not in self._given_up or self.node(region) is not None)

    def _inside(self, name: str, branch: Branch, at: int, prefix: float) -> Region:
        """The region that a new branch leaves at one of its own tokens, behind the first."""
        origin, arrived = self._origins[name]
        left = -math.expm1(min(0.0, branch.logprobs[at]))
        region = Region(name, at, prefix, branch.token_ids[at : at + 1], left)
        region.since, region.depth = origin.since + at, origin.depth
        return self._open(region, arrived)

    def _behind(self, origin: Region, name: str, branch: Branch, prefix: float) -> None:
        """The region of all that goes on from the step in which a new branch ends, of which nothing is drawn yet."""
        region = Region(name, len(branch.token_ids), prefix, goes_on=True, depth=origin.depth + 1)
        if self._afresh:
            self._open(region, origin.due)
        else:
            region.due = origin.due
            self._regions[region.key] = region

    def _may_go_on(self, node: Node, branch: Branch) -> bool:
        """Whether it ended at a step that no verifier rejected, with room for more. A node that was given up is left to
        ``_runs``: when that was must not change the rounds behind us."""
        judged = node.status in ("accepted", "rejected")
        return branch.finish == "step" and not judged and self._tree.room(node.id) > 0

    def _place(self, request: DecodeRequest) -> tuple[str, int]:
        """The key of the region that a request of the race was made for."""
        if request.keep is not None or request.parent == ROOT:
            return request.parent, request.keep or 0
        above = self._tree[request.parent].branch
        return request.parent, len(above.token_ids) if above is not None else 0

    def _open(self, region: Region, arrived: float) -> Region:
        """Let a region run on from the last arrival."""
        self._regions[region.key] = region
        if region.has_mass:
            name = f"race {region.parent} {region.at} {len(region.drawn)}"
            number = derive_seed(self._tree.started.seed, self._tree.problem, name) >> 11
            patience = -math.log1p(-(number + 0.5) * 2.0**-52)  # exponential, of rate 1
            region.due = _log_sum(arrived, math.log(patience) - region.prefix - math.log(region.left))
        return region


def purpose_of(parent: str, keep: int | None) -> str:
    """What a branch is asked for below a node: by this the race knows its own."""
    return "explore" if parent == ROOT or keep is None else "fork"


def _log_sum(a: float, b: float) -> float:
    """log(exp(a) + exp(b)), where b is finite."""
    high, low = max(a, b), min(a, b)
    return high + math.log1p(math.exp(low - high))
