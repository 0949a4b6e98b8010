"""A model's forward in our own words: embeddings, blocks, final norm, over the weights of a transformers model.

The covered architectures are one family: RMS norms before each half of a block, rotary positions, grouped queries,
a gated MLP. Written out flat, for n tokens at a time whoever they belong to, a decode step takes a third of the calls
that the model's own modules take, and keys and values go where the caller wants them. That it computes what the
model's modules compute is tested family by family.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from led_agent.engine.linear import Linear, packed_bytes

__all__ = ["Memory", "Perturbation", "Trunk"]

_log = logging.getLogger(__name__)

# A block's number, counted from 1, and what becomes of the residual stream [n, hidden] behind it.
Perturbation = tuple[int, Callable[[Tensor], Tensor]]


class Memory(Protocol):
    """Where the keys and values of the tokens in a forward go, and what these attend to."""

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Keep keys and values [n, kv_heads, head_dim] of a layer, and attend with queries [n, heads, head_dim], which
        are scaled already; [n, heads * head_dim]."""
        ...


class _Block:
    """One block's weights, as the forward reads them."""

    def __init__(self, layer: Any, *, pack: bool) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self.before_attention, self.before_mlp = layer.input_layernorm, layer.post_attention_layernorm
        self.qkv = Linear([attention.q_proj, attention.k_proj, attention.v_proj], pack=pack)
        self.out = Linear([attention.o_proj], pack=pack)
        self.gate, self.up, self.down = (
            Linear([part], pack=pack) for part in (mlp.gate_proj, mlp.up_proj, mlp.down_proj)
        )
        self.activation = None if "SiLU" in type(mlp.act_fn).__name__ else mlp.act_fn
        self.query_norm, self.key_norm = getattr(attention, "q_norm", None), getattr(attention, "k_norm", None)
        self.rotates = bool(getattr(attention, "use_rope", True))
        self.scaling = float(attention.scaling)

    def mlp(self, x: Tensor, residual: Tensor) -> Tensor:
        gate = self.gate.silu(x) if self.activation is None else self.activation(self.gate(x))
        return self.down.plus(self.up.times(x, gate), residual)


class Trunk:
    """Everything of a model but its head.

    Args:
        model: A transformers model of a covered architecture. Its parameters must not change any more.
        spare_bytes: How much memory packed copies of its weights may take; nothing is packed where they need more.
    """

    def __init__(self, model: Any, *, spare_bytes: int) -> None:
        linears = [m for m in model.modules() if isinstance(m, nn.Linear)]
        needed = packed_bytes(linears)
        pack = 0 < needed <= spare_bytes
        if needed > spare_bytes:
            _log.info("linear layers stay unpacked: %d MiB are needed, %d are spare", needed >> 20, spare_bytes >> 20)
        config = model.config
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self._embeddings: Tensor = model.model.embed_tokens.weight.detach()
        self._blocks = [_Block(layer, pack=pack) for layer in model.model.layers]
        self._last_norm = model.model.norm
        self._rotary = model.model.rotary_emb
        self._head = Linear([model.lm_head], pack=pack)

    def forward(
        self,
        ids: Tensor,
        positions: Tensor,
        memory: Memory,
        taps: Collection[int] = (),
        changes: Sequence[Perturbation] = (),
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """Run tokens through the blocks.

        Args:
            ids, positions: int64 [n].
            taps: After how many blocks to keep the residual stream (0 is the embeddings).
            changes: What to change in the residual stream behind blocks; taps see it changed.

        Returns:
            The final states [n, hidden], normed, and the residual streams [n, hidden] that were asked for.
        """
        x = F.embedding(ids, self._embeddings)
        turn = self._turning(x, positions)
        kept = {0: x} if 0 in taps else {}
        for layer, block in enumerate(self._blocks):
            x = self._through(block, layer, x, turn, memory)
            for behind, change in changes:
                if behind == layer + 1:
                    x = change(x)
            if layer + 1 in taps:
                kept[layer + 1] = x
        return self.norm(x), kept

    def norm(self, states: Tensor) -> Tensor:
        """The final norm."""
        return _normed(self._last_norm, states)

    def head(self, states: Tensor) -> Tensor:
        """Logits [n, columns] of states [n, hidden]."""
        return self._head(states)

    def _through(self, block: _Block, layer: int, x: Tensor, turn: tuple[Tensor, Tensor], memory: Memory) -> Tensor:
        n, both = len(x), self.heads + self.kv_heads
        qkv = block.qkv(_normed(block.before_attention, x)).view(n, both + self.kv_heads, self.head_dim)
        turned, value = qkv[:, :both], qkv[:, both:]
        if block.query_norm is not None:
            query = _normed(block.query_norm, turned[:, : self.heads])
            turned = torch.cat([query, _normed(block.key_norm, turned[:, self.heads :])], 1)
        if block.rotates:
            turned = _rotated(turned, *turn)
        seen = memory.attend(layer, turned[:, : self.heads] * block.scaling, turned[:, self.heads :], value)
        x = block.out.plus(seen, x)
        return block.mlp(_normed(block.before_mlp, x), x)

    def _turning(self, x: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines, and sines with the first half negated, [n, 1, head_dim]."""
        cos, sin = self._rotary(x, positions[None])
        half = self.head_dim // 2
        return cos[0, :, None], torch.cat([-sin[0, :, :half], sin[0, :, half:]], -1)[:, None]


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions (Su et al., 2021) on [n, heads, head_dim], halves paired as in transformers."""
    half = x.shape[-1] // 2
    return torch.addcmul(x * cos, x.roll(half, -1), sin)


def _normed(norm: Any, states: Tensor) -> Tensor:
    return F.rms_norm(states, norm.weight.shape, norm.weight, norm.variance_epsilon)
