"""Sampling without replacement: what has been drawn is not drawn again."""

from __future__ import annotations

import heapq
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from led_agent.confidence import answer_of
from led_agent.errors import UsageError
from led_agent.tree import ROOT, Node, Tree, derive_seed
from led_agent.types import DecodeRequest, Decoding

__all__ = ["WithoutReplacement"]

_ROUNDING = 1e-6  # what is left of a position's law counts as nothing up to here: it is 1 less a sum of float32 figures
_UNLIKELY = math.log(1e-20)  # prefixes below that have no part in the race: no number would ever let them win it


@dataclass(frozen=True)
class WithoutReplacement:
    """Branches that are each new by construction: a fork leaves what was drawn before by a token not yet drawn there,
    and decodes its own tail only.

    Every whole output s of probability P(s) arrives once, after an exponential time of rate P(s); in the order of
    arrival they are a sample without replacement. Nothing is enumerated: what shares a prefix with what was drawn and
    leaves it at one position is a region; its mass is known from the recorded log-probabilities, hence when the first
    of it arrives, and decoding says which one that is. This is the race behind Kool et al., "Stochastic Beams and Where
    to Find Them", ICML 2019, run on the tree of what is left of Shi, Bieber and Sutton, "Incremental Sampling Without
    Replacement for Sequence Models" (UniqueRandomizer), ICML 2020.

    A round decodes the ``batch`` regions whose first arrivals come next; the first round has one, the whole. With
    ``batch=1`` the branches, in their order, are exactly a sample without replacement. With more, each is still new,
    and still the first arrival of its region; those that arrive before all that is left are the beginning of such a
    sample, the others are ahead of their turn. How many slots there are, and which branch is back first, changes
    nothing.

    The law must be a function of the tokens before: ``DepthExploration.gate_first``, which records other
    probabilities, is turned off; noise, ESamp and the guard are refused. Siblings share no random numbers here. From
    1e-6 down, what is left of the law at a position counts as nothing, and so, from 1e-20 down, does a prefix. A branch
    without log-probabilities is not forked.

    Attributes:
        n: Branches to ask for. There are fewer where no mass is left; those that fail or are cancelled count.
        batch: Branches of a round.
        distinct_answers: A rejected branch whose answer was rejected before does not count: it is rolled back to its
            most uncertain position, by recorded entropy, and the next branch is drawn from what is left there, ahead
            of its turn. Rounds then wait for verdicts. Answers that read the same, as numbers or letter by letter, are
            the same.
        rollbacks: Branches that don't count, at most; after these a repeated answer is one like any other.
        stop_at_first: Whether the search ends at the first accepted branch.

    Raises:
        UsageError: n or batch is below 1, or rollbacks is negative.
    """

    n: int = 8
    batch: int = 4
    distinct_answers: bool = False
    rollbacks: int = 8
    stop_at_first: bool = True

    def __post_init__(self) -> None:
        for name, least in (("n", 1), ("batch", 1), ("rollbacks", 0)):
            if getattr(self, name) < least:
                raise UsageError(f"WithoutReplacement needs {name} of at least {least}, found {getattr(self, name)}")

    def propose(self, tree: Tree, slots: int) -> Sequence[DecodeRequest]:
        decoding = _marginal(tree.started.decoding)
        wanted = self._wanted(tree)[: max(0, slots)]
        return tree.numbered(_request(tree, region, decoding, trigger) for region, trigger in wanted)

    def finished(self, tree: Tree) -> bool:
        return self.stop_at_first and bool(tree.accepted())

    def _wanted(self, tree: Tree) -> list[tuple[_Region, str]]:
        """Go through the rounds anew, up to the first that has not been asked for or is not back: what it lacks.

        A round depends on those before it only, so that it is the same however it was asked for and came back.
        """
        race = _Race(tree)
        turned: list[tuple[_Region, str]] = []  # where branches are rolled back to, drawn before all others
        rejected: list[str] = []
        counted = spared = 0
        while (room := min(self.batch, self.n - counted)) > 0:
            ahead = [region for region, _ in turned]
            wanted = [*turned, *((r, _told(r)) for r in race.first(room - len(turned), besides=ahead))]
            nodes = [race.node(region) for region, _ in wanted]
            back = [node for node in nodes if node is not None and not self._awaited(node)]
            if not wanted or len(back) < len(nodes):
                return [found for found, node in zip(wanted, nodes, strict=True) if node is None]
            for (region, _), node in zip(wanted, back, strict=True):
                race.take(region, node)
            repeats = _repeats(tree, back, rejected)[: self.rollbacks - spared] if self.distinct_answers else []
            spared += len(repeats)
            counted += len(back) - len(repeats)
            turned = [found for node, answer in repeats if (found := race.turn_back(node, answer)) is not None]
        return []

    def _awaited(self, node: Node) -> bool:
        return node.branch is None or (self.distinct_answers and not node.settled)


@dataclass(eq=False)
class _Region:
    """All outputs that go as ``parent`` does up to its own token ``at``, and there take one that was not drawn yet.

    ``prefix`` is the log-probability (nat) of what they share, ``left`` what of the law at that position is not drawn,
    ``due`` the logarithm of the time at which the next of them arrives; ``asked`` counts requests.
    """

    parent: str
    at: int
    prefix: float
    drawn: tuple[int, ...] = ()
    left: float = 1.0
    due: float = -math.inf
    asked: int = 0

    @property
    def has_mass(self) -> bool:
        return self.left > _ROUNDING

    @property
    def key(self) -> tuple[str, int]:
        return self.parent, self.at


class _Race:
    """The regions of a tree, as branches are taken from them one by one."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._asked: dict[tuple[str, int], list[Node]] = defaultdict(list)
        self._given_up: set[str] = set()  # inside which nothing more can be asked for
        for node in tree.nodes():
            if node.request is not None and node.purpose == _purpose(node.request.parent):
                self._asked[node.request.parent, node.request.keep or 0].append(node)
            if node.status in ("pruned", "failed"):
                self._given_up.add(node.id)
        self._regions: dict[tuple[str, int], _Region] = {}
        self._origins: dict[str, tuple[_Region, float]] = {}  # which region a branch is from, and when it arrived
        self._open(_Region(ROOT, 0, prefix=0.0), -math.inf)

    def first(self, count: int, *, besides: Sequence[_Region] = ()) -> list[_Region]:
        """Those whose next arrivals come first."""
        running = (region for region in self._regions.values() if self._runs(region) and region not in besides)
        return heapq.nsmallest(count, running, key=lambda region: region.due)

    def node(self, region: _Region) -> Node | None:
        """The node by which a region's next arrival was asked for, if it was."""
        asked = self._asked.get(region.key, [])
        return asked[region.asked] if region.asked < len(asked) else None

    def take(self, region: _Region, node: Node) -> None:
        """Take a branch out of its region, which may leave others on either side of each of its tokens."""
        region.asked += 1
        branch = node.branch
        if branch is None or branch.finish == "cancelled":
            return  # whatever it had, nothing was drawn
        if branch.finish == "error" or not branch.token_ids or len(branch.logprobs) != len(branch.token_ids):
            region.left = 0.0  # nothing is left to draw, or how much is left can't be known
            return
        self._origins[node.id] = region, region.due
        prefix = region.prefix
        for at, logprob in enumerate(branch.logprobs[:-1], 1):
            prefix += logprob
            if prefix < _UNLIKELY:
                break
            self._inside(node, at, prefix)
        region.drawn += branch.token_ids[:1]
        region.left -= math.exp(min(0.0, branch.logprobs[0]))
        self._open(region, region.due)

    def turn_back(self, node: Node, answer: str) -> tuple[_Region, str] | None:
        """The region at a branch's most uncertain position that has mass left, and what to say of it."""
        region, _ = self._origins.get(node.id, (None, 0.0))
        branch = node.branch
        if region is None or branch is None:
            return None
        for at in sorted(range(len(branch.entropies)), key=lambda at: -branch.entropies[at]):
            if at > 0:
                prefix = region.prefix + sum(branch.logprobs[:at])
                found = self._regions.get((node.id, at)) or self._inside(node, at, prefix)
            else:
                found = region
            if self._runs(found):
                return found, f"{answer!r} was rejected before; entropy of {branch.entropies[at]:.2f} nat at token {at}"
        return None

    def _runs(self, region: _Region) -> bool:
        """Whether anything is to be drawn there. What was asked for before the branch above was given up still counts:
        else that would change the rounds behind us."""
        return region.has_mass and (region.parent not in self._given_up or self.node(region) is not None)

    def _inside(self, node: Node, at: int, prefix: float) -> _Region:
        """The region that a new branch leaves at one of its own tokens, behind the first."""
        assert node.branch is not None
        left = -math.expm1(min(0.0, node.branch.logprobs[at]))
        region = _Region(node.id, at, prefix, node.branch.token_ids[at : at + 1], left)
        _, arrived = self._origins[node.id]
        return self._open(region, arrived)

    def _open(self, region: _Region, arrived: float) -> _Region:
        """Let a region run on from the last arrival, which has told nothing of what is still to come."""
        self._regions[region.key] = region
        if region.has_mass:
            name = f"race {region.parent} {region.at} {len(region.drawn)}"
            number = derive_seed(self._tree.started.seed, self._tree.problem, name) >> 11
            patience = -math.log1p(-(number + 0.5) * 2.0**-52)  # exponential, of rate 1
            region.due = _log_sum(arrived, math.log(patience) - region.prefix - math.log(region.left))
        return region


def _log_sum(a: float, b: float) -> float:
    """log(exp(a) + exp(b)), where b is finite."""
    high, low = max(a, b), min(a, b)
    return high + math.log1p(math.exp(low - high))


def _marginal(decoding: Decoding) -> Decoding:
    """The decoding with its recorded log-probabilities being those of a law of the next token given those before."""
    refused = {"latent noise": decoding.noisy, "esamp": decoding.distiller, "the quality guard": decoding.guard}
    found = [name for name, on in refused.items() if on]
    if found:
        raise UsageError(
            f"WithoutReplacement can't draw with {' and '.join(found)}: how much probability is left can only be known "
            "where the law of the next token depends on the tokens before it and on nothing else"
        )
    if decoding.exploration is None or not decoding.exploration.gate_first:
        return decoding
    return decoding.replace(exploration=decoding.exploration.model_copy(update={"gate_first": False}))


def _purpose(parent: str) -> str:
    return "explore" if parent == ROOT else "fork"


def _told(region: _Region) -> str:
    share = math.exp(region.prefix) * region.left
    return f"{share:.2g} of all probability is left at token {region.at}" if region.drawn else ""


def _request(tree: Tree, region: _Region, decoding: Decoding, trigger: str) -> DecodeRequest:
    (request,) = tree.requests(
        parent=region.parent,
        keep=None if region.parent == ROOT else region.at,
        exclude=region.drawn,
        decoding=decoding,
        purpose=_purpose(region.parent),
        trigger=trigger,
    )
    return request


def _repeats(tree: Tree, nodes: Sequence[Node], before: list[str]) -> list[tuple[Node, str]]:
    """Rejected nodes whose answer was rejected before, among ``before`` or an earlier one; the answers of all of them
    are added to ``before``."""
    from led_agent.verifiers.equivalence import same_readings

    given = [(node, answer_of(tree, node)) for node in nodes if node.status == "rejected"]
    answers = [(node, answer) for node, answer in given if answer is not None]
    known = len(before)
    before += [answer for _, answer in answers]
    again = {place for group in same_readings(before) for place in group[1:]}
    return [found for place, found in enumerate(answers, known) if place in again]
