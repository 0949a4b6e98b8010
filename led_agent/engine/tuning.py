"""Training a tuned lens: of states that were read along branches, so that each depth says what the last one will say.

The loss of a depth is KL(final posterior ‖ lens posterior) at temperature 1, mean over positions, as in Belrose et al.,
2023. They take SGD with Nesterov momentum over batches of 2^18 tokens. What one machine samples in a minute is a
hundredth of that, and with small batches one rate does not fit all depths, whose gradients differ by orders of
magnitude; Adam's steps do not depend on their size. Its rate falls to 0 linearly, as theirs does. Each depth is trained
in standardised coordinates (each entry of the state less its mean, by its deviation), in which no outlying entry of the
residual stream dominates a step; the result is written as an affine map of the state again.

This file knows tensors and a model's last two layers. It does not know branches, problems or files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from led_agent.engine.lens import TunedLens
from led_agent.engine.model import ModelParts
from led_agent.errors import ModelError

__all__ = ["Readout", "divergences", "train_lens"]

_BATCH = (32, 256)  # positions a step, for large vocabularies and depths, and for small ones
_LOGITS = 2**26  # of all depths in a step, or one of these limits
_RATE = 1e-3
_DECAY = 1e-3  # decoupled, towards the identity; as published
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


def train_lens(
    parts: ModelParts,
    states: Sequence[Tensor],
    *,
    steps: int,
    seed: int,
    told: Callable[[int], None] = lambda _done: None,
) -> TunedLens:
    """Fit a lens to pieces of states [n, positions, hidden] after 1 … n blocks; the same for the same arguments.

    Args:
        told: Told after each step how many are done.

    Raises:
        ModelError: the states or the posteriors aren't finite.
    """
    with torch.inference_mode(False), torch.enable_grad():
        return _train(parts, torch.cat(list(states), 1), steps, seed, told)


def _train(parts: ModelParts, states: Tensor, steps: int, seed: int, told: Callable[[int], None]) -> TunedLens:
    depths, positions, width = len(states) - 1, states.shape[1], states.shape[2]
    readout, device = Readout.of(parts), states.device
    scales = [_Scales.of(states[i].float()) for i in range(depths)]
    weights = [torch.zeros(width, width, device=device, requires_grad=True) for _ in range(depths)]
    biases = [torch.zeros(width, device=device, requires_grad=True) for _ in range(depths)]
    optimiser = torch.optim.AdamW([*weights, *biases], lr=_RATE, weight_decay=_DECAY)
    falling = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.0, total_iters=steps)
    generator, batch = torch.Generator().manual_seed(seed), _batch(depths, parts.vocab)
    for done in range(steps):
        picked = torch.randint(positions, (min(batch, positions),), generator=generator).to(device)
        some = states[:, picked].float()
        with torch.no_grad():
            final = readout(some[-1])
        optimiser.zero_grad(set_to_none=True)
        for i in range(depths):
            z = scales[i].standardised(some[i])
            moved = some[i] + scales[i].length * F.linear(z, weights[i], biases[i])
            _divergence(final, readout(moved)).mean().backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        falling.step()
        told(done + 1)
    with torch.no_grad():
        maps = [scales[i].affine(weights[i], biases[i]) for i in range(depths)]
        lens = TunedLens(torch.stack([a for a, _ in maps]), torch.stack([b for _, b in maps]))
    if not bool(lens.weight.isfinite().all() and lens.bias.isfinite().all()):
        raise ModelError("the lens came out with entries that aren't finite, as states or posteriors of the model were")
    return lens


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
