"""Monte Carlo tree search over steps of a chain of thought."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from led_agent.strategies._steps import Steps, at_least, is_step
from led_agent.strategies._values import likelihood, reward, value
from led_agent.tree import ROOT, Node, Tree
from led_agent.types import DecodeRequest

__all__ = ["MCTS"]

_STEP, _ROLLOUT = "explore", "rollout"


@dataclass(frozen=True)
class MCTS(Steps):
    """Simulations that go down the tree of steps by PUCT, add a step, and back its value up.

    Going down, the child with the highest Q + c·P·√N / (1 + N_child) is taken: Q the mean value of the simulations
    that went through it, P its likelihood among its siblings; at a node with fewer than min(width, ⌈√N⌉) children a new
    step is drawn instead (progressive widening, as steps can't be listed). A new step is worth its verdict's score (a
    process reward) or, without one, what a rollout from it to an answer is worth. PUCT: Rosin, 2011, and Silver et al.,
    2017; widening: Couëtoux et al., 2011; on steps of reasoning: Hao et al., "Reasoning with Language Model is Planning
    with World Model", 2023.

    Simulations go in rounds of ``batch``. Within a round each counts as a visit that was worth nothing (virtual loss),
    so that the next goes elsewhere; what it was worth counts from the next round on, when all of the round are settled.
    So the tree depends neither on slots nor on the order of results.

    Attributes:
        simulations: Steps that are added, at most.
        width: Children of a node, at most.
        c: Weight of the prior: the larger, the broader. The usual 1.25 is for thousands of simulations and values in
            [-1, 1]; with it a few dozen seldom come down to an answer.
        batch: Simulations of a round.
        max_depth: Steps of a path, at most; the last one goes on to its end.
        stop_at_first: End at the first accepted answer.

    Raises:
        UsageError: a number is below its limit.
    """

    simulations: int = 32
    width: int = 4
    c: float = 0.4
    batch: int = 4
    max_depth: int = 32
    stop_at_first: bool = True

    def __post_init__(self) -> None:
        self._check_steps()
        at_least(self, 1, "simulations", "width", "batch", "max_depth")
        at_least(self, 0, "c")

    def propose(self, tree: Tree, slots: int) -> Sequence[DecodeRequest]:
        if slots < 1:
            return []
        steps = [node for node in tree.nodes() if node.purpose == _STEP]
        requests = [self._rollout(tree, node) for node in steps if self._wants_rollout(tree, node)][:slots]
        begun = len(steps) // self.batch * self.batch  # steps of the rounds before this one
        if requests or (begun == len(steps) and tree.unsettled()):
            return requests
        lookout = _Lookout(self, tree, steps, begun)
        chosen = list(self._selected(lookout, len(steps), slots))
        if not chosen and not tree.unsettled():
            # This round can't be filled: all that is known counts for the next step.
            chosen = list(self._selected(_Lookout(self, tree, steps, len(steps)), len(steps), 1))
        return tree.numbered(self._step(tree, parent) for parent in chosen)

    def finished(self, tree: Tree) -> bool:
        return self.stop_at_first and bool(tree.accepted())

    def _selected(self, lookout: _Lookout, asked: int, slots: int) -> Iterator[str]:
        """The parents of the next steps, no further than to the end of the round."""
        left = min(slots, self.simulations - asked, self.batch - asked % self.batch)
        for _ in range(left):
            parent = lookout.select(ROOT, 0)
            if parent is None:
                return
            lookout.add_virtual(parent)
            yield parent

    def _step(self, tree: Tree, parent: str) -> DecodeRequest:
        options = self.step_options if tree.depth(parent) < self.max_depth - 1 else {}
        return tree.requests(1, parent=parent, **options)[0]

    def _wants_rollout(self, tree: Tree, node: Node) -> bool:
        """Whether a step's value is not known, and nobody finds it out yet."""
        if not node.settled or reward(node) is not None or not is_step(tree, node):
            return False
        return not tree.children(node.id, purpose=_ROLLOUT)

    def _rollout(self, tree: Tree, node: Node) -> DecodeRequest:
        return tree.requests(1, parent=node.id, purpose=_ROLLOUT, trigger=f"what step {node.id} comes to")[0]


@dataclass
class _Lookout:
    """Visits and values as they stood when a round began, with those of the round as visits worth nothing."""

    rules: MCTS
    tree: Tree
    steps: list[Node]
    begun: int
    visits: Counter[str] = field(default_factory=Counter)
    total: dict[str, float] = field(default_factory=dict)
    known: dict[str, list[Node]] = field(default_factory=dict)  # children of earlier rounds
    virtual: Counter[str] = field(default_factory=Counter)  # children of this round, by their parents

    def __post_init__(self) -> None:
        for at, step in enumerate(self.steps):
            parent = step.parent or ROOT
            if at < self.begun:
                self.known.setdefault(parent, []).append(step)
                self._back_up([*self.tree.path(parent), step.id], self._worth(step))
            else:
                self.add_virtual(parent)

    def add_virtual(self, parent: str) -> None:
        self.virtual[parent] += 1
        self._back_up(self.tree.path(parent), 0.0)

    def select(self, node: str, depth: int) -> str | None:
        """The node below this one that gets the next child; None where there is none."""
        if depth >= self.rules.max_depth:
            return None
        children = self.known.get(node, [])
        count = len(children) + self.virtual[node]
        wide = min(self.rules.width, math.ceil(math.sqrt(self.visits[node] + 1)))
        if count < wide:
            return node
        for child in self._ranked(node, [c for c in children if is_step(self.tree, c)]):
            found = self.select(child.id, depth + 1)
            if found is not None:
                return found
        return node if count < self.rules.width else None  # nothing below can be gone on from

    def _ranked(self, node: str, children: list[Node]) -> list[Node]:
        likely = {child.id: likelihood(self.tree, child) for child in children}
        mass = sum(likely.values())

        def score(child: Node) -> tuple[float, int]:
            seen = self.visits[child.id]
            mean = self.total.get(child.id, 0.0) / seen if seen else 0.0
            prior = likely[child.id] / mass if mass > 0 else 1 / len(children)
            return mean + self.rules.c * prior * math.sqrt(self.visits[node]) / (1 + seen), -child.order

        return sorted(children, key=score, reverse=True)

    def _worth(self, step: Node) -> float:
        rollouts = self.tree.children(step.id, purpose=_ROLLOUT)
        return value(self.tree, rollouts[0] if rollouts else step)

    def _back_up(self, path: list[str], worth: float) -> None:
        for name in path:
            self.visits[name] += 1
            self.total[name] = self.total.get(name, 0.0) + worth
