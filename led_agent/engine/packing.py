"""What a model's modules compute for few rows on a CPU, the quick way: linear layers and norms.

Linear layers: weights laid out once for oneDNN, instead of anew in every product.

A decode step multiplies every weight matrix with a few rows only, and the ordinary product then spends as long
rearranging the matrix as multiplying. It costs a second copy of the weights.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["fuse_norms", "pack_linears"]

_log = logging.getLogger(__name__)
_KINDS = (torch.float32, torch.bfloat16)
_SMALLEST = 1 << 17  # weights: below, calling oneDNN costs more than the arranging that it saves


def pack_linears(model: nn.Module, *, spare_bytes: int) -> int:
    """Give a CPU model's linear layers packed weights; their parameters stay, and must not change any more.

    Args:
        spare_bytes: How much memory the copies may take; nothing is packed where they need more.

    Returns:
        How many layers were packed: large ones, and none on other devices or where torch was built without oneDNN.
    """
    layers = [m for m in model.modules() if type(m) is nn.Linear and m.weight.device.type == "cpu"]
    layers = [m for m in layers if m.weight.dtype in _KINDS and m.weight.numel() >= _SMALLEST]
    if not layers or not torch._C._has_mkldnn:
        return 0
    needed = sum(m.weight.nbytes for m in layers)
    if needed > spare_bytes:
        _log.info("linear layers stay unpacked: %d MiB are needed, %d are spare", needed >> 20, spare_bytes >> 20)
        return 0
    for layer in layers:
        packed = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), None)
        bias = layer.bias.detach() if layer.bias is not None else None
        layer.forward = partial(_product, packed, bias)  # type: ignore[method-assign]
    return len(layers)


def fuse_norms(model: nn.Module) -> int:
    """Let a float32 CPU model's RMS norms call torch's own, one call for six and the same to the bit.

    Returns:
        How many norms there are that it was done to.
    """
    norms = [m for m in model.modules() if type(m).__name__.endswith("RMSNorm") and hasattr(m, "variance_epsilon")]
    norms = [m for m in norms if m.weight.device.type == "cpu" and m.weight.dtype == torch.float32]
    for norm in norms:
        of: Any = norm
        of.forward = partial(_normed, of.weight.detach(), of.variance_epsilon)
    return len(norms)


def _normed(weight: Tensor, epsilon: float, states: Tensor) -> Tensor:
    return nn.functional.rms_norm(states, weight.shape, weight, epsilon)


def _product(packed: Tensor, bias: Tensor | None, states: Tensor) -> Tensor:
    out: Tensor = torch.ops.mkldnn._linear_pointwise(states, packed, bias, "none", [], "")
    return out
