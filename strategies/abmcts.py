"""AB-MCTS: whether to answer afresh or to refine an answer, by Thompson sampling."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from led_agent.errors import UsageError
from led_agent.strategies._asking import ask_again
from led_agent.strategies._forking import ENDED, fork, spot
from led_agent.strategies._posteriors import BetaMean, NormalMean, Posterior
from led_agent.strategies._values import value
from led_agent.tree import ROOT, Node, Tree, derive_seed
from led_agent.types import DecodeRequest

__all__ = ["ABMCTS"]

_PURPOSES = ("explore", "repair", "fork")


@dataclass(frozen=True)
class ABMCTS:
    """A tree that grows wider or deeper, as rewards have it: AB-MCTS-A of Inoue et al., "Wider or Deeper? Scaling LLM
    Inference-Time Compute with Adaptive Branching Tree Search", 2025 (arXiv 2503.04412).

    At the root a branch is a fresh answer; below a node it is a refinement of that node's answer. Down from the root,
    each node draws a mean reward of its new children (from the rewards of those it has) and one of going deeper (from
    the rewards of all that came of its children). If the first is the higher one, the new branch is its child; else it
    goes on to the child that draws the highest mean, from the child's own reward and those of all below it. Every draw
    starts from the same prior. A reward is the verdict's score, else the model's own confidence.

    Branches are asked for in rounds. A round is drawn from what earlier rounds have given alone: its branches know
    nothing of each other, as Thompson sampling spreads them by itself. So the tree depends on the search's seed, and
    not on how many branches are decoded at a time or in which order they come back.

    Attributes:
        n: Branches in all.
        model: Of rewards: Gaussian, or Beta (parts of a success).
        batch: Branches of a round.
        deepen: How an answer is refined. "repair" asks again, as a chat with the answer and what the verifier told;
            "fork" forks it where the model was least sure; "auto" is "repair" with models that can be asked again.
        stop_at_first: The search ends at the first accepted branch. Accepted branches are never refined.
        mean, kappa, nu, tau2: The Gaussian model's prior: around which mean, worth how many rewards; which variance,
            worth how many. The defaults are those of the authors' implementation, for both models.
        a, b: The Beta model's prior.
        gap: Tokens between two forks of one branch, at least.

    Raises:
        UsageError: a setting that isn't allowed.
    """

    n: int = 16
    model: Literal["gaussian", "beta"] = "gaussian"
    batch: int = 4
    deepen: Literal["auto", "repair", "fork"] = "auto"
    stop_at_first: bool = True
    mean: float = 0.0
    kappa: float = 1.0
    nu: float = 1.0
    tau2: float = 0.1
    a: float = 0.5
    b: float = 0.5
    gap: int = 4

    def __post_init__(self) -> None:
        for name in ("n", "batch", "gap"):
            if getattr(self, name) < 1:
                raise UsageError(f"ABMCTS needs {name} of at least 1, found {getattr(self, name)}")
        for name in ("kappa", "nu", "tau2", "a", "b"):
            if not 0 < getattr(self, name) < math.inf:
                raise UsageError(f"ABMCTS needs {name} above 0, found {getattr(self, name)}")
        if not math.isfinite(self.mean):
            raise UsageError(f"ABMCTS needs a finite mean, found {self.mean}")
        if self.model not in ("gaussian", "beta"):
            raise UsageError(f"ABMCTS: model is {self.model!r}; 'gaussian' and 'beta' are allowed")
        if self.deepen not in ("auto", "repair", "fork"):
            raise UsageError(f"ABMCTS: deepen is {self.deepen!r}; 'auto', 'repair' and 'fork' are allowed")

    def propose(self, tree: Tree, slots: int) -> Sequence[DecodeRequest]:
        grown = _Grown(self, tree)
        begun = grown.asked - grown.asked % self.batch  # branches of earlier rounds
        if slots < 1 or not grown.settled(begun):
            return []
        grown.learn(begun)
        requests = []
        for at in range(grown.asked, min(grown.asked + slots, begun + self.batch, self.n)):
            rng = random.Random(derive_seed(tree.started.seed, tree.problem, f"abmcts {at}"))
            requests.append(grown.request(*grown.select(rng)))
        return tree.numbered(requests)

    def finished(self, tree: Tree) -> bool:
        return self.stop_at_first and bool(tree.accepted())

    @property
    def prior(self) -> Posterior:
        """What is believed of any mean reward before there is one."""
        if self.model == "beta":
            return BetaMean(self.a, self.b)
        return NormalMean(self.mean, self.kappa, self.nu, self.tau2)


class _Grown:
    """The strategy's branches on a tree, in the order in which they were asked for, and what is known of them."""

    def __init__(self, strategy: ABMCTS, tree: Tree) -> None:
        self.strategy, self.tree = strategy, tree
        repairs = strategy.deepen == "repair" or (strategy.deepen == "auto" and tree.started.follow_up)
        self.deepen = "repair" if repairs else "fork"
        self.nodes: dict[str, Node] = {}
        self.forked: dict[str, list[int]] = {}
        for node in tree.nodes():
            if node.purpose in _PURPOSES and (node.parent == ROOT or node.parent in self.nodes):
                self.nodes[node.id] = node
                if node.request is not None and node.request.keep is not None:
                    self.forked.setdefault(node.request.parent, []).append(node.request.keep)
        self.children: dict[str, list[str]] = {ROOT: []}
        self.own: dict[str, float] = {}
        self.below: dict[str, list[float]] = {ROOT: []}

    @property
    def asked(self) -> int:
        return len(self.nodes)

    def settled(self, first: int) -> bool:
        """Whether the first so many branches are decoded and judged."""
        return all(node.settled for node in list(self.nodes.values())[:first])

    def learn(self, first: int) -> None:
        """Take in the rewards of the first so many branches."""
        for node in list(self.nodes.values())[:first]:
            self.children[node.id], self.below[node.id] = [], []
            self.children[node.parent or ROOT].append(node.id)
            self.own[node.id] = value(self.tree, node)
            above = node.parent
            while above is not None:
                self.below[above].append(self.own[node.id])
                above = self.nodes[above].parent if above in self.nodes else None

    def posteriors(self, node: str) -> tuple[Posterior, Posterior, dict[str, Posterior]]:
        """Of the mean rewards of a node's new children, of going deeper than them, and of going on to each child."""
        prior, children = self.strategy.prior, self.children[node]
        wider = prior.after([self.own[child] for child in children])
        deeper = prior.after([reward for child in children for reward in self.below[child]])
        return wider, deeper, {child: prior.after([self.own[child], *self.below[child]]) for child in children}

    def select(self, rng: random.Random) -> tuple[str, str]:
        """The node that is to have another child, and why."""
        alive = self._alive()
        at, why = ROOT, "nothing to refine yet"
        while True:
            wider, deeper, into = self.posteriors(at)
            into = {child: belief for child, belief in into.items() if child in alive}
            if not into:
                return at, why
            drawn = wider.draw(rng), deeper.draw(rng)
            why = f"drew {drawn[0]:.2f} for wider, {drawn[1]:.2f} for deeper"
            if drawn[0] >= drawn[1] and self._open(at):
                return at, why
            means = {child: belief.draw(rng) for child, belief in into.items()}
            at = max(means, key=lambda child: means[child])

    def request(self, parent: str, why: str) -> DecodeRequest:
        """A child for a node: a fresh answer, or a refinement of its answer."""
        if parent == ROOT:
            (made,) = self.tree.requests(1, purpose="explore", trigger=why)
        elif self.deepen == "repair":
            chat = ask_again(self.tree, self.nodes[parent])
            (made,) = self.tree.requests(1, parent=parent, prompt=chat, purpose="repair", trigger=why)
        else:
            found = self._spot(parent)
            assert found is not None  # it is open
            made = fork(self.tree, self.nodes[parent], found[1], found[0])
            self.forked.setdefault(parent, []).append(found[1])
        return made

    def _alive(self) -> set[str]:
        """Nodes that may have another child, and those above them."""
        alive: set[str] = set()
        for name in reversed(self.own):
            if name in alive or self._open(name):
                alive.update((name, self.nodes[name].parent or ROOT))
        return alive

    def _open(self, name: str) -> bool:
        if name == ROOT:
            return True
        node = self.nodes[name]
        if node.branch is None or node.branch.finish not in ENDED or node.status in ("accepted", "pruned", "failed"):
            return False
        return self.deepen == "repair" or self._spot(name) is not None

    def _spot(self, name: str) -> tuple[float, int] | None:
        return spot(self.nodes[name], self.forked.get(name, ()), self.strategy.gap)
