"""Linear layers for few rows: weights laid out once for oneDNN on a CPU, layers that read the same input joined.

A decode step multiplies every weight matrix with a few rows only, and the ordinary product then spends as long
rearranging the matrix as multiplying. The arranged copy costs a second copy of the weights; where it is not wanted,
joined layers share their memory with the model's own.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

__all__ = ["Linear", "packed_bytes"]

_KINDS = (torch.float32, torch.bfloat16)
_SMALLEST = 1 << 17  # weights: below, calling oneDNN costs more than the arranging that it saves


def packed_bytes(layers: Sequence[nn.Linear]) -> int:
    """How much memory packed copies of these layers take; 0 where they can't be packed."""
    return sum(layer.weight.nbytes for layer in layers if _packable(layer.weight))


def _packable(weight: Tensor) -> bool:
    if weight.device.type != "cpu" or weight.dtype not in _KINDS or not torch._C._has_mkldnn:
        return False
    # Processors without AVX-512 or its like have no such product in bfloat16: oneDNN refuses it.
    return weight.dtype != torch.bfloat16 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


class Linear:
    """The products x Wᵀ + b of one or several layers with the same input, their outputs side by side, and what often
    follows such a product, in the same call where oneDNN can do it.

    Args:
        layers: Their parameters must not change any more. Where they are joined but not packed, theirs become views
            of the joined ones.
        pack: Whether to arrange the weights for oneDNN: large ones on a CPU, in float32 or bfloat16.
    """

    def __init__(self, layers: Sequence[nn.Linear], *, pack: bool) -> None:
        joined = len(layers) > 1
        weight = torch.cat([layer.weight.detach() for layer in layers]) if joined else layers[0].weight.detach()
        self.bias = _joined_bias(layers)
        self.out_features, self.in_features = weight.shape
        self.packed = pack and weight.numel() >= _SMALLEST and _packable(weight)
        if self.packed:
            self.weight: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, None)
            return
        self.weight = weight
        if joined:
            for layer, view in zip(layers, torch.split(weight, [layer.out_features for layer in layers]), strict=True):
                layer.weight.data = view

    def __call__(self, x: Tensor) -> Tensor:
        """[rows, out] of x [rows, in]."""
        return self._packed(x, "none") if self.packed else F.linear(x, self.weight, self.bias)

    def silu(self, x: Tensor) -> Tensor:
        """The product's SiLU."""
        return self._packed(x, "swish") if self.packed else F.silu(F.linear(x, self.weight, self.bias))

    def times(self, x: Tensor, other: Tensor) -> Tensor:
        """The product times ``other`` [rows, out], entry by entry."""
        return self._with(x, other, "mul") if self.packed else F.linear(x, self.weight, self.bias).mul_(other)

    def plus(self, x: Tensor, other: Tensor) -> Tensor:
        """The product plus ``other`` [rows, out]."""
        return self._with(x, other, "add") if self.packed else F.linear(x, self.weight, self.bias).add_(other)

    def _packed(self, x: Tensor, then: str) -> Tensor:
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, then, [], "")
        return out

    def _with(self, x: Tensor, other: Tensor, what: str) -> Tensor:
        out: Tensor = torch.ops.mkldnn._linear_pointwise.binary(x, other, self.weight, self.bias, what)
        return out


def _joined_bias(layers: Sequence[nn.Linear]) -> Tensor | None:
    found = [layer.bias.detach() for layer in layers if layer.bias is not None]
    if not found:
        return None
    return torch.cat(found) if len(layers) > 1 else found[0]
