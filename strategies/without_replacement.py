"""Sampling without replacement: what has been drawn is not drawn again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from led_agent.comparing import COMPLETE
from led_agent.confidence import answer_of
from led_agent.errors import UsageError
from led_agent.strategies._steps import Steps, at_least
from led_agent.strategies.race import Race, Region, purpose_of
from led_agent.tree import Node, Tree
from led_agent.types import DecodeRequest, Decoding

__all__ = ["Order", "WithoutReplacement"]

Order = Literal["outputs", "steps", "breadth"]


@dataclass(frozen=True)
class WithoutReplacement(Steps):
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
    1e-6 down, what is left of the law at a position counts as nothing; inside a branch so does, from 1e-20 down, a
    prefix. A branch without log-probabilities is not forked.

    With ``step``, ``step_tokens`` or ``max_step_tokens`` a branch ends at a step, and all that goes on from it is one
    more region. A step that a verifier rejects has no such region: nothing is gone on from it, and the next branch
    leaves it by a token not drawn yet. Rounds wait for the verdicts of steps. What is drawn is never drawn again,
    whatever ``order`` says of what comes next:

    - "outputs": what was begun is gone on from first, as the whole output whose arrival it is was due then. With
      ``batch=1`` the whole outputs, in the order in which they are complete, are exactly a sample without replacement
      from the law, given that no step of theirs is one that is rejected.
    - "steps": steps race, and no longer whole outputs. With ``batch=1`` each step drawn is the next one with a chance
      in proportion to its probability from the prompt on, among all that are not drawn yet and that begin the output
      or go on from a step that was drawn and not rejected. Where a step is improbable in itself, as one of many tokens
      is, first steps are drawn for ever.
    - "breadth": as "steps", but one behind fewer steps comes before one behind more as long as there is any.

    Which steps there are must not depend on how they were asked for: true of ids and of ``max_step_tokens``. Of a
    string of several tokens, a branch that leaves a step inside of it sees the rest only, and goes on to the next.

    Attributes:
        n: Branches to ask for, each step of one a branch of its own. There are fewer where no mass is left; those that
            fail or are cancelled count.
        batch: Branches of a round.
        distinct_answers: A rejected branch whose answer was rejected before does not count: it is rolled back to its
            most uncertain position, by recorded entropy, and the next branch is drawn from what is left there, ahead
            of its turn. Rounds then wait for verdicts. Answers that read the same, as numbers or letter by letter, are
            the same. Steps have no answers.
        rollbacks: Branches that don't count, at most; after these a repeated answer is one like any other.
        stop_at_first: Whether the search ends at the first accepted branch.
        order: Whether what races, where there are steps, is whole outputs or steps: "outputs", "steps" or "breadth".
        step, max_step_tokens, step_tokens: Where a step ends (see ``Steps``); as they come, nowhere.

    Raises:
        UsageError: n or batch is below 1, rollbacks is negative, there is no such order, or steps end nowhere, where
            ``order`` is about them.
    """

    n: int = 8
    batch: int = 4
    distinct_answers: bool = False
    rollbacks: int = 8
    stop_at_first: bool = True
    order: Order = "outputs"
    step: str | tuple[str, ...] = field(default="none", kw_only=True)
    max_step_tokens: int | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        self._check_steps()
        at_least(self, 1, "n", "batch")
        at_least(self, 0, "rollbacks")
        if self.order not in get_args(Order):
            raise UsageError(
                f"WithoutReplacement has no order {self.order!r}; {', '.join(get_args(Order))} are allowed"
            )
        if self.order != "outputs" and not any(self.step_options.values()):
            raise UsageError(
                f"WithoutReplacement: order {self.order!r} is one of steps, which end nowhere; give step, step_tokens "
                "or max_step_tokens"
            )

    def propose(self, tree: Tree, slots: int) -> Sequence[DecodeRequest]:
        decoding = _marginal(tree.started.decoding)
        wanted = self._wanted(tree)[: max(0, slots)]
        return tree.numbered(self._request(tree, region, decoding, trigger) for region, trigger in wanted)

    def finished(self, tree: Tree) -> bool:
        return self.stop_at_first and bool(tree.accepted())

    def _wanted(self, tree: Tree) -> list[tuple[Region, str]]:
        """Go through the rounds anew, up to the first that has not been asked for or is not back: what it lacks.

        A round depends on those before it only, so that it is the same however it was asked for and came back.
        """
        race = Race(tree, afresh=self.order != "outputs")
        turned: list[tuple[Region, str]] = []  # where branches are rolled back to, drawn before all others
        rejected: list[str] = []
        counted = spared = 0
        while (room := min(self.batch, self.n - counted)) > 0:
            ahead = [region for region, _ in turned]
            following = race.first(room - len(turned), besides=ahead, shallow=self.order == "breadth")
            wanted = [*turned, *((region, _told(region)) for region in following)]
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
        judged = self.distinct_answers or (node.branch is not None and node.branch.finish == "step")
        return node.branch is None or (judged and not node.settled)

    def _request(self, tree: Tree, region: Region, decoding: Decoding, trigger: str) -> DecodeRequest:
        (request,) = tree.requests(
            parent=region.parent,
            keep=region.keep,
            exclude=region.drawn,
            decoding=decoding,
            purpose=purpose_of(region.parent, region.keep),
            trigger=trigger,
            **self._step_options(region),
        )
        return request

    def _step_options(self, region: Region) -> dict[str, Any]:
        """Where the next step ends: at the same places, whether it is begun anew or left inside."""
        options = self.step_options
        limit = options["max_step_tokens"]
        return options if limit is None else {**options, "max_step_tokens": max(1, limit - region.since)}


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


def _repeats(tree: Tree, nodes: Sequence[Node], before: list[str]) -> list[tuple[Node, str]]:
    """Rejected whole outputs whose answer was rejected before, among ``before`` or an earlier one; all of their answers
    are added to ``before``."""
    from led_agent.verifiers.equivalence import same_readings

    whole = [node for node in nodes if node.branch is not None and node.branch.finish in COMPLETE]
    given = [(node, answer_of(tree, node)) for node in whole if node.status == "rejected"]
    answers = [(node, answer) for node, answer in given if answer is not None]
    known = len(before)
    before += [answer for _, answer in answers]
    again = {place for group in same_readings(before) for place in group[1:]}
    return [found for place, found in enumerate(answers, known) if place in again]
