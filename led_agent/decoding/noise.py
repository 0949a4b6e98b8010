"""Latent noise: which direction, how much of it, and what becomes of a state. Pure functions of tensors.

``LatentNoise`` names the settings. A direction is a function of (seed, counter) alone; the counter stands still
while a direction is held.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor

from led_agent.decoding.sampling import normals
from led_agent.types import LatentNoise, Sibling

__all__ = ["Frames", "directions", "next_gain", "perturb", "scale"]

_GAIN_RATE = 0.5  # of the target-entropy controller, per nat
_LEAST_GAIN = 0.01
_KEPT_FRAMES = 64


def directions(seed: Tensor, counter: Tensor, layers: int, width: int) -> Tensor:
    """Independent directions: float32 [rows, layers, width], standard normal, from int64 [rows] each."""
    return normals(seed, counter, layers * width).view(len(seed), layers, width)


class Frames:
    """Mutually orthogonal directions for the siblings of a group, each of them standard normal by itself.

    A frame is drawn from the group's seed, so that siblings on different machines agree on it. Beyond as many siblings
    as a state has dimensions there are several frames, independent of each other.
    """

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[int, int, int, int, int, int], Tensor] = OrderedDict()

    def direction(self, sibling: Sibling, counter: int, layers: int, width: int) -> Tensor:
        """float32 [layers, width], this sibling's."""
        block, row = divmod(sibling.index, width)
        size = min(width, sibling.of - block * width)
        key = (sibling.group, counter, block, size, layers, width)
        if key in self._kept:
            self._kept.move_to_end(key)
        else:
            self._kept[key] = orthogonal_frame(sibling.group, counter, block, size, layers, width)
            if len(self._kept) > _KEPT_FRAMES:
                self._kept.popitem(last=False)
        return self._kept[key][row]


def orthogonal_frame(group: int, counter: int, block: int, size: int, layers: int, width: int) -> Tensor:
    """float32 [size, layers, width]: in each layer ``size`` orthogonal vectors, size <= width.

    Gaussian vectors are made orthogonal one after another (QR), which leaves the directions uniform, and get their own
    lengths back, which don't depend on directions: so each vector alone is standard normal.
    """
    seeds = torch.full((size,), group)
    members = torch.arange(block * width, block * width + size)
    raw = normals(seeds ^ (members + 1) * 0x5851F42D4C957F2D, torch.full((size,), counter), layers * width)
    raw = raw.view(size, layers, width).transpose(0, 1).double()  # [layers, size, width]
    q, r = torch.linalg.qr(raw.transpose(1, 2))  # columns; signs so that each goes its own vector's way
    q = q * r.diagonal(dim1=-2, dim2=-1).sign()[:, None]
    lengths = raw.norm(dim=-1)  # [layers, size]
    frame: Tensor = (q.transpose(1, 2) * lengths[..., None]).transpose(0, 1).float().contiguous()
    return frame


def scale(noise: LatentNoise, doubt: Tensor, gain: Tensor) -> Tensor:
    """How much noise each row gets, float32 [rows].

    Args:
        doubt: float32 [rows], 1 - the probability of the previous step's most probable token.
        gain: float32 [rows], the controller's state.
    """
    factor = {"constant": torch.ones_like(doubt), "confidence": doubt, "entropy": gain}[noise.scale]
    return noise.sigma * factor


def next_gain(gain: Tensor, entropy: Tensor, target: float) -> Tensor:
    """The controller: an integrator on the logarithm, within [0.01, 1]. All float32 [rows]; entropy and target, nat."""
    return (gain * (_GAIN_RATE * (target - entropy)).clamp(-2, 2).exp()).clamp(_LEAST_GAIN, 1.0)


def perturb(states: Tensor, direction: Tensor, amount: Tensor, *, tangent: bool) -> Tensor:
    """h + amount · rms(h) · ε; with ``tangent`` ε without its component along h, and the result as long as h was.

    Rows of amount 0 come back to the bit.

    Args:
        states, direction: [rows, width].
        amount: float32 [rows].
    """
    h, epsilon = states.float(), direction
    if tangent:
        along = (epsilon * h).sum(-1, keepdim=True) / h.square().sum(-1, keepdim=True).clamp(min=1e-30)
        epsilon = epsilon - along * h
    moved = h + amount[:, None] * h.square().mean(-1, keepdim=True).sqrt() * epsilon
    if tangent:
        moved = moved * (h.norm(dim=-1, keepdim=True) / moved.norm(dim=-1, keepdim=True).clamp(min=1e-30))
    return torch.where(amount[:, None] > 0, moved.to(states.dtype), states)
