"""Training a tuned lens: of states that were read along branches, so that each depth says what the last one will say.

The loss of a depth is KL(final posterior ‖ lens posterior) at temperature 1, mean over positions, as in Belrose et al.,
2023. They take SGD with Nesterov momentum over batches of 2^18 tokens. What one machine samples in a minute is a
hundredth of that, and with small batches one rate does not fit all depths, whose gradients differ by orders of
magnitude; Adam's steps do not depend on their size. Its rate falls to 0 linearly, as theirs does. Each depth is trained
in standardised coordinates (each entry of the state less its mean, by its deviation), in which no outlying entry of the
residual stream dominates a step; the result is written as an affine map of the state again. Of each depth the map is
kept that did best on states of problems that were not trained on.

This file knows tensors and a model's last two layers. It does not know branches, problems or files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from led_agent.engine.lens import TunedLens
from led_agent.engine.model import ModelParts
from led_agent.errors import ModelError

__all__ = ["Readout", "divergences", "train_lens"]

_BATCH = (32, 256)  # positions a step, for large vocabularies and depths, and for small ones
_LOGITS = 2**26  # of all depths in a step, or one of these limits
_RATE = 1e-3  # where a depth is a nat or more away
_SAMPLED = 512  # positions to tell how far it is
_DECAY = 1e-3  # decoupled, towards the identity; as published
_LOOKS = 8  # at states that are not trained on
_TILE_BYTES = 24 * 2**20  # of logits, where nothing is trained


@dataclass(frozen=True)
class Readout:
    """A model's final norm and head in float32, in operations that gradients pass; the engine's own may be packed."""

    norm: Tensor  # [hidden]
    epsilon: float
    head: Tensor  # [vocab, hidden]
    bias: Tensor | None  # [vocab]

    @classmethod
    def of(cls, parts: ModelParts) -> Readout:
        norm, head = parts.model.model.norm, parts.model.lm_head
        bias = getattr(head, "bias", None)
        return cls(
            norm.weight.detach().float(),
            float(norm.variance_epsilon),
            head.weight.detach()[: parts.vocab].float(),
            bias.detach()[: parts.vocab].float() if bias is not None else None,
        )

    def __call__(self, states: Tensor) -> Tensor:
        """Log-probabilities float32 [positions, vocab] of states float32 [positions, hidden]."""
        normed = F.rms_norm(states, self.norm.shape, self.norm, self.epsilon)
        return F.linear(normed, self.head, self.bias).log_softmax(-1)


@dataclass(frozen=True)
class _Scales:
    """A depth's states, standardised: less ``mean``, by ``deviation``; and the length by which what is learnt there is
    brought back."""

    mean: Tensor  # [hidden]
    deviation: Tensor  # [hidden]
    length: Tensor  # []

    @classmethod
    def of(cls, states: Tensor) -> _Scales:
        length = states.square().mean().sqrt()
        deviation = states.std(0, correction=0).clamp(
            min=1e-3 * float(length)
        )  # an entry that never moves says nothing
        return cls(states.mean(0), deviation, length)

    def standardised(self, states: Tensor) -> Tensor:
        return (states - self.mean) / self.deviation

    def affine(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """A and b of the states themselves."""
        a = self.length * weight / self.deviation
        return a, self.length * bias - a @ self.mean


@dataclass
class _Maps:
    """What is trained, a depth each: weights and biases over standardised states."""

    scales: list[_Scales]
    weights: list[Tensor]
    biases: list[Tensor]

    @classmethod
    def of(cls, states: Tensor) -> _Maps:
        """Zeros for states [n, positions, hidden]."""
        width, below = states.shape[2], states[:-1]
        weights = [torch.zeros(width, width, device=states.device, requires_grad=True) for _ in below]
        biases = [torch.zeros(width, device=states.device, requires_grad=True) for _ in below]
        return cls([_Scales.of(one.float()) for one in below], weights, biases)

    def losses(self, readout: Readout, states: Tensor) -> Iterator[Tensor]:
        """Each depth's mean divergence, []."""
        states = states.float()
        with torch.no_grad():
            final = readout(states[-1])
        for scales, weight, bias, below in zip(self.scales, self.weights, self.biases, states, strict=False):
            moved = below + scales.length * F.linear(scales.standardised(below), weight, bias)
            yield _divergence(final, readout(moved)).mean()

    @torch.no_grad()
    def lens(self) -> TunedLens:
        maps = [s.affine(w, b) for s, w, b in zip(self.scales, self.weights, self.biases, strict=True)]
        return TunedLens(torch.stack([a for a, _ in maps]), torch.stack([b for _, b in maps]))


class _Best:
    """Of each depth, the map that did best on states that are not trained on; at first zeros. Where there are none, the
    last one."""

    def __init__(self, maps: _Maps, readout: Readout, watched: Tensor | None) -> None:
        self._maps, self._readout, self._watched = maps, readout, watched
        self._losses = [float("inf")] * len(maps.weights)
        self.lens = maps.lens()
        self.look()

    @torch.no_grad()
    def look(self) -> None:
        now = self._maps.lens()
        if self._watched is None:
            self.lens = now
            return
        for i, loss in enumerate(self._maps.losses(self._readout, self._watched)):
            if float(loss) < self._losses[i]:
                self._losses[i] = float(loss)
                self.lens.weight[i], self.lens.bias[i] = now.weight[i], now.bias[i]


def train_lens(
    parts: ModelParts,
    states: Sequence[Tensor],
    *,
    steps: int,
    seed: int,
    watched: Sequence[Tensor] = (),
    told: Callable[[int], None] = lambda _done: None,
) -> TunedLens:
    """Fit a lens to pieces of states [n, positions, hidden] after 1 … n blocks; the same for the same arguments.

    Args:
        watched: States of other problems: a few times on the way each depth is measured on them, and its best map kept,
            the one that it began with included. Few positions are soon learnt by heart.
        told: Told after each step how many are done.

    Raises:
        ModelError: the states or the posteriors aren't finite.
    """
    with torch.inference_mode(False), torch.enable_grad():
        every = torch.cat(list(states), 1)
        maps, readout, device = _Maps.of(every), Readout.of(parts), every.device
        best = _Best(maps, readout, torch.cat(list(watched), 1) if watched else None)
        optimiser = torch.optim.AdamW(_groups(maps, readout, every), weight_decay=_DECAY)
        falling = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.0, total_iters=steps)
        generator, batch = torch.Generator().manual_seed(seed), _batch(len(maps.weights), parts.vocab)
        for done in range(1, steps + 1):
            picked = torch.randint(every.shape[1], (min(batch, every.shape[1]),), generator=generator)
            optimiser.zero_grad(set_to_none=True)
            for loss in maps.losses(readout, every[:, picked.to(device)]):
                loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            falling.step()
            told(done)
            if done % max(1, steps // _LOOKS) == 0 or done == steps:
                best.look()
    if not bool(best.lens.weight.isfinite().all() and best.lens.bias.isfinite().all()):
        raise ModelError("the lens came out with entries that aren't finite, as states or posteriors of the model were")
    return best.lens


def _groups(maps: _Maps, readout: Readout, states: Tensor) -> list[dict[str, Any]]:
    """Parameters with their rates. Near its least a divergence grows with the square of the distance from there, so its
    root says how far a depth has to go: one that agrees already would be thrown about by steps that another needs."""
    with torch.no_grad():
        some = states[:, :: max(1, states.shape[1] // _SAMPLED)]
        far = [float(loss) for loss in maps.losses(readout, some)]
    pairs = zip(maps.weights, maps.biases, far, strict=True)
    return [{"params": [w, b], "lr": _RATE * min(1.0, max(kl, 0.0) ** 0.5)} for w, b, kl in pairs]


def _batch(depths: int, vocab: int) -> int:
    low, high = _BATCH
    return max(low, min(high, _LOGITS // (max(1, depths) * vocab)))


def _divergence(final: Tensor, other: Tensor) -> Tensor:
    """KL(final ‖ other), nat, [positions], of log-probabilities [positions, vocab]."""
    return F.kl_div(other, final, reduction="none", log_target=True).sum(-1)


@torch.inference_mode()
def divergences(parts: ModelParts, states: Tensor, lens: TunedLens | None) -> Tensor:
    """KL(final posterior ‖ posterior of each depth), nat, float64 [n-1, positions], of states [n, positions, hidden];
    through the lens, or without one (the logit lens).

    Raises:
        ModelError: one isn't finite.
    """
    readout, depths = Readout.of(parts), len(states) - 1
    rows = max(1, _TILE_BYTES // (4 * parts.vocab))
    found = []
    for at in range(0, states.shape[1], rows):
        tile = states[:, at : at + rows].float()
        final = readout(tile[-1])
        below = tile[:-1].transpose(0, 1)  # [rows, n-1, hidden]
        moved = below if lens is None else lens.translate(below, range(1, depths + 1))
        found.append(torch.stack([_divergence(final, readout(moved[:, i])) for i in range(depths)]))
    every = torch.cat(found, 1).double().cpu()
    if not bool(every.isfinite().all()):
        raise ModelError(
            f"a posterior read off a state isn't finite in {str(parts.dtype).removeprefix('torch.')}; "
            "try another --dtype, bfloat16 or float32"
        )
    return every.clamp(min=0.0)
