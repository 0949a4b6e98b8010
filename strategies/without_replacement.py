"""Sampling without replacement: what has been drawn is not drawn again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from led_agent.confidence import answer_of
from led_agent.errors import UsageError
from led_agent.strategies.race import Race, Region, purpose_under
from led_agent.tree import ROOT, Node, Tree
from led_agent.types import DecodeRequest, Decoding

__all__ = ["WithoutReplacement"]


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

    def _wanted(self, tree: Tree) -> list[tuple[Region, str]]:
        """Go through the rounds anew, up to the first that has not been asked for or is not back: what it lacks.

        A round depends on those before it only, so that it is the same however it was asked for and came back.
        """
        race = Race(tree)
        turned: list[tuple[Region, str]] = []  # where branches are rolled back to, drawn before all others
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
            turned = [turn for node, answer in repeats for turn in _turned_back(race, node, answer)]
        return []

    def _awaited(self, node: Node) -> bool:
        return node.branch is None or (self.distinct_answers and not node.settled)


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


def _told(region: Region) -> str:
    share = math.exp(region.prefix) * region.left
    return f"{share:.2g} of all probability is left at token {region.at}" if region.drawn else ""


def _turned_back(race: Race, node: Node, answer: str) -> list[tuple[Region, str]]:
    """Where a branch that repeats an answer is rolled back to, if there is anywhere."""
    found = race.most_uncertain(node)
    if found is None or node.branch is None:
        return []
    region, at = found
    return [(region, f"{answer!r} was rejected before; entropy of {node.branch.entropies[at]:.2f} nat at token {at}")]


def _request(tree: Tree, region: Region, decoding: Decoding, trigger: str) -> DecodeRequest:
    (request,) = tree.requests(
        parent=region.parent,
        keep=None if region.parent == ROOT else region.at,
        exclude=region.drawn,
        decoding=decoding,
        purpose=purpose_under(region.parent),
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
