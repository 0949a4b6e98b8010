"""Particle filtering over steps: many chains, and those that the reward favours are copied."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from led_agent.strategies._steps import Steps, at_least, is_step
from led_agent.strategies._values import worth
from led_agent.tree import ROOT, Node, Tree, derive_seed
from led_agent.types import DecodeRequest

__all__ = ["ParticleFilter"]


@dataclass(frozen=True)
class _Particle:
    """A chain by the node that it ends in (None before the first step), and its weight since it was last resampled."""

    node: Node | None
    weight: float

    @property
    def name(self) -> str:
        return self.node.id if self.node is not None else ROOT


@dataclass(frozen=True)
class ParticleFilter(Steps):
    """``n`` chains grow a step at a time and are weighted by the step's value; when the weights have become uneven, the
    chains are drawn anew from them: good ones are continued several times, bad ones no more.

    Puri et al., "A Probabilistic Inference Approach to Inference-Time Scaling of LLMs using Particle-Based Monte Carlo
    Methods", 2025; systematic resampling: Kitagawa, 1996. A generation is weighed when it is complete, so that the tree
    does not depend on the order of results. Chains that have come to an answer keep their weight and their places.

    Attributes:
        n: Particles.
        ess: They are drawn anew when the effective sample size falls below this share of n; 1 is after each step.
        sharpness: The power of the value that weighs; 0 leaves all alike.
        max_depth: Branches of a chain, at most; the last one goes on to its end.
        stop_at_first: End at the first accepted answer.

    Raises:
        UsageError: a number is below its limit.
    """

    n: int = 8
    ess: float = 0.5
    sharpness: float = 4.0
    max_depth: int = 64
    stop_at_first: bool = True

    def __post_init__(self) -> None:
        self._check_steps()
        at_least(self, 1, "n", "max_depth")
        at_least(self, 0, "ess", "sharpness")

    def propose(self, tree: Tree, slots: int) -> Sequence[DecodeRequest]:
        particles = [_Particle(None, 1.0)] * self.n
        for generation in range(self.max_depth):
            growing = Counter(p.name for p in particles if p.node is None or is_step(tree, p.node))
            children = {name: tree.children(name, purpose="explore")[:of] for name, of in growing.items()}
            requests: list[DecodeRequest] = []
            for name, of in growing.items():
                room = min(of - len(children[name]), slots - len(requests))
                if room > 0:
                    options = self.step_options if generation < self.max_depth - 1 else {}
                    requests += tree.requests(room, parent=name, siblings=of, **options)
            short = any(len(children[name]) < of for name, of in growing.items())
            if short or not growing or any(not child.settled for found in children.values() for child in found):
                return requests
            particles = self._resampled(tree, self._grown(tree, particles, children), generation)
            if not particles:
                return []
        return []

    def finished(self, tree: Tree) -> bool:
        return self.stop_at_first and bool(tree.accepted())

    def _grown(self, tree: Tree, particles: list[_Particle], children: dict[str, list[Node]]) -> list[_Particle]:
        """Each particle a step further, with the step's value in its weight."""
        left = {name: iter(found) for name, found in children.items()}
        grown = []
        for particle in particles:
            if particle.name not in left:
                grown.append(particle)
                continue
            child = next(left[particle.name])
            weight = 0.0 if _dead(tree, child) else particle.weight * worth(tree, child) ** self.sharpness
            grown.append(_Particle(child, weight))
        return grown

    def _resampled(self, tree: Tree, particles: list[_Particle], generation: int) -> list[_Particle]:
        """The particles, drawn anew where their weights have become uneven; none where all are dead."""
        total = sum(p.weight for p in particles)
        if total <= 0:  # nothing tells those apart that are alive
            particles = [_Particle(p.node, float(p.node is not None and not _dead(tree, p.node))) for p in particles]
            total = sum(p.weight for p in particles)
        if total <= 0:
            return []
        effective = total**2 / sum(p.weight**2 for p in particles)
        if effective >= self.ess * self.n:
            return particles
        seed = derive_seed(tree.started.seed, tree.problem, f"particles of generation {generation}")
        at = random.Random(seed).random()
        drawn: list[_Particle] = []
        reached = 0.0
        for particle in particles:
            reached += particle.weight * self.n / total
            while len(drawn) < self.n and at + len(drawn) < reached:
                drawn.append(_Particle(particle.node, 1.0))
        last = next(p for p in reversed(particles) if p.weight > 0)
        return drawn + [_Particle(last.node, 1.0)] * (self.n - len(drawn))  # where rounding left the last one out


def _dead(tree: Tree, node: Node) -> bool:
    """Whether a chain ends here in vain. A step that was given up after it had been gone on from was alive when its
    generation was weighed, and what was drawn then stays as it was."""
    if node.status == "pruned":
        return not tree.children(node.id, purpose="explore")
    return node.status in ("rejected", "failed")
