"""Raise exploration as rejections pile up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from led_agent.protocols import Strategy
from led_agent.strategies._inner import check_inner, chosen_by, finished_by, pruned_by
from led_agent.strategies._steps import at_least
from led_agent.strategies.best_of_n import BestOfN
from led_agent.tree import Tree
from led_agent.types import DecodeRequest, Decoding, LatentNoise

__all__ = ["Escalate"]


@dataclass(frozen=True)
class Escalate:
    """Run ``inner``, and decode what it asks for the more boldly, the more has been rejected: each ``every`` rejected
    or failed branches raise the temperature by ``heat``, up to ``hottest``, and the latent noise by ``noise``, up to
    ``noisiest``.

    The opposite of ``Fallback``, which goes back to conservative decoding; together they fit the decoding to the
    problem: ``Fallback(Escalate(BestOfN(16)))``. Zhang et al., "EDT: Improving Large Language Models' Generation by
    Entropy-based Dynamic Temperature Sampling", 2024, adapt the temperature token by token, to the entropy; here it is
    branch by branch, to the verifier.

    How bold a branch is depends on the branches that were asked for before it, ``every`` at a time, and these are
    waited for: so the tree does not depend on the order of results where ``inner`` asks for its branches in one order,
    as most do (DVTS does not, nor does MCTS with rollouts).

    Attributes:
        inner: The strategy whose requests are changed.
        every: Rejections a level.
        heat, hottest: Temperature a level adds, and its limit.
        noise, noisiest: Relative scale of latent noise (σ) a level adds, and its limit.

    Raises:
        UsageError: a number is below its limit.
    """

    inner: Strategy = field(default_factory=lambda: BestOfN(16))
    every: int = 4
    heat: float = 0.2
    hottest: float = 1.4
    noise: float = 0.0
    noisiest: float = 0.1

    def __post_init__(self) -> None:
        at_least(self, 1, "every")
        at_least(self, 0, "heat", "hottest", "noise", "noisiest")
        check_inner(self, self.inner)

    def propose(self, tree: Tree, slots: int) -> Sequence[DecodeRequest]:
        nodes = tree.nodes()
        begun = len(nodes) // self.every * self.every
        earlier = nodes[:begun]
        room = min(slots, self.every - len(nodes) % self.every)
        if any(not node.settled for node in earlier):
            return []
        failed = sum(node.status in ("rejected", "failed") for node in earlier)
        level = failed // self.every
        wanted = list(self.inner.propose(tree, room))[: max(0, room)]
        return [self._bolder(request, level, failed) for request in wanted] if level else wanted

    def prune(self, tree: Tree) -> Sequence[tuple[str, str]]:
        return pruned_by(self.inner, tree)

    def choose(self, tree: Tree) -> str | None:
        return chosen_by(self.inner, tree)

    def finished(self, tree: Tree) -> bool:
        return finished_by(self.inner, tree)

    def _bolder(self, request: DecodeRequest, level: int, failed: int) -> DecodeRequest:
        decoding = self._raised(request.decoding, level)
        told = f"level {level}: {failed} branches were rejected"
        return request.model_copy(
            update={"decoding": decoding, "trigger": f"{request.trigger}; {told}" if request.trigger else told}
        )

    def _raised(self, decoding: Decoding, level: int) -> Decoding:
        changes: dict[str, object] = {}
        if decoding.temperature < self.hottest:
            changes["temperature"] = min(self.hottest, decoding.temperature + level * self.heat)
        quiet = decoding.latent_noise or LatentNoise(sigma=0.0)
        if self.noise > 0 and quiet.sigma < self.noisiest:
            sigma = min(self.noisiest, quiet.sigma + level * self.noise)
            changes["latent_noise"] = quiet.model_copy(update={"sigma": sigma})
        return decoding.replace(**changes)
