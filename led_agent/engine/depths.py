"""What every depth of a model would say: posteriors read off each block's state along sequences that are given.

This file knows tensors and a model's parts. It does not know problems, statistics, or what its figures are good for.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from led_agent.decoding.exploration import explored_law, hold
from led_agent.engine.cache import PrefixCache
from led_agent.engine.model import ModelParts
from led_agent.errors import ModelError
from led_agent.types import DepthExploration

__all__ = ["NORMS", "DepthReader", "Readings", "closing_tokens", "inside_thinking"]

NORMS: tuple[Literal["final", "none"], ...] = ("final", "none")
_CHUNK = 512  # tokens forwarded at a time
_TILE_BYTES = 24 * 2**20  # of logits held at a time
_FURTHEST = -80.0  # logits below the largest; e^-80 counts for nothing, and 0 · -inf would be NaN


@dataclass(frozen=True)
class Readings:
    """Figures of single positions, in their order; n is the model's number of blocks.

    Attributes:
        entropy: float64 [2, n, positions], nat at temperature 1, after 1 … n blocks; first with the final norm, then
            without (``NORMS``).
        agrees: bool, likewise: whether the most probable token is the final layer's.
        doubt: float64 [temperatures, positions], 1 - the final layer's largest probability.
    """

    entropy: NDArray[np.float64]
    agrees: NDArray[np.bool_]
    doubt: NDArray[np.float64]


class DepthReader:
    """Reads branches of one prompt; the prompt's keys and values are computed once.

    Args:
        prompt_ids: At least one token.
    """

    @torch.inference_mode()
    def __init__(self, parts: ModelParts, prompt_ids: Sequence[int]) -> None:
        self._parts = parts
        self._last = prompt_ids[-1]
        self._prompt = PrefixCache(parts.kv_shape, len(prompt_ids) - 1, dtype=parts.dtype, device=parts.device)
        for _ in self._forward(self._prompt, prompt_ids[:-1], ()):
            pass

    @torch.inference_mode()
    def states(self, token_ids: Sequence[int], at: Sequence[int]) -> Tensor:
        """[n, len(at), hidden]: the residual stream after 1 … n blocks, not normed, where these of a branch's tokens
        (ascending) were about to be chosen."""
        parts, filled = self._parts, self._prompt.filled
        cache = PrefixCache(
            parts.kv_shape, filled + len(token_ids), dtype=parts.dtype, device=parts.device, base=self._prompt
        )
        found: list[Tensor] = []
        depths = range(1, parts.n_blocks + 1)
        for start, stop, taps in self._forward(cache, [self._last, *token_ids[:-1]], depths):
            picked = torch.tensor([i - start for i in at if start <= i < stop], dtype=torch.long, device=parts.device)
            found.append(torch.stack([taps[depth][picked] for depth in depths]))
        return torch.cat(found, 1)

    def along(self, branches: Sequence[Sequence[int]], places: Sequence[tuple[int, int]]) -> Tensor:
        """``states`` of several branches: [n, len(places), hidden] at places (which branch, which of its tokens),
        ascending, at least one."""
        by_branch: dict[int, list[int]] = {}
        for which, at in places:
            by_branch.setdefault(which, []).append(at)
        return torch.cat([self.states(branches[which], chosen) for which, chosen in by_branch.items()], 1)

    def _forward(
        self, cache: PrefixCache, ids: Sequence[int], depths: Collection[int]
    ) -> Iterator[tuple[int, int, dict[int, Tensor]]]:
        """Forward tokens behind what the cache holds; after each part, which of them it was, and its states [n, hidden]
        after these numbers of blocks."""
        every = torch.tensor(ids, dtype=torch.long, device=self._parts.device)
        for start in range(0, len(ids), _CHUNK):
            stop = min(start + _CHUNK, len(ids))
            _, taps = self._parts.forward(every[start:stop], cache.begin(stop - start), cache, depths)
            cache.advance(stop - start)
            yield start, stop, taps

    @torch.inference_mode()
    def read(self, states: Tensor, temperatures: Sequence[float]) -> Readings:
        """Read the posteriors off states [n, positions, hidden], each with the norm and without.

        Raises:
            ModelError: logits aren't finite.
        """
        parts = self._parts
        tops, doubt = self._final(states[-1], temperatures)
        read = [
            [_entropy_and_top(parts, s) for s in (map(parts.norm, states) if n == "final" else states)] for n in NORMS
        ]
        return Readings(
            entropy=torch.stack([torch.stack([entropy for entropy, _ in rows]) for rows in read]).numpy(),
            agrees=torch.stack([torch.stack([top == tops for _, top in rows]) for rows in read]).numpy(),
            doubt=doubt.numpy(),
        )

    def _final(self, states: Tensor, temperatures: Sequence[float]) -> tuple[Tensor, Tensor]:
        """Of the final posteriors: the most probable tokens, int64 [positions], and what is left to the others, float64
        [temperatures, positions]."""
        tops, doubts = [], []
        for logits in _tiles(self._parts, self._parts.norm(states)):
            sums = [_below_largest(logits / t).exp().sum(-1, dtype=torch.float64) for t in temperatures]
            others = torch.stack(sums) - 1.0  # the largest has exp(0)
            tops.append(logits.argmax(-1).cpu())
            doubts.append((others / (1.0 + others)).cpu())
        return torch.cat(tops), torch.cat(doubts, 1)

    @torch.inference_mode()
    def moved(
        self,
        states: Tensor,
        depths: Sequence[int],
        temperatures: Sequence[float],
        *,
        top_k: int,
        held: Sequence[int] | None = None,
    ) -> NDArray[np.float64]:
        """How far exploration moves the sampler: total variation between LED's exact law (``exploration_law`` with the
        paper's states) and plain top-k sampling.

        Args:
            states: [n, positions, hidden].
            depths: Numbers of posteriors, each 2 … n.
            held: For each position the token that exploration must not touch.

        Returns:
            float64 [2, temperatures, depths, positions]; the first axis is ``NORMS``.

        Raises:
            ModelError: logits aren't finite.
        """
        rows = _rows_at_a_time(self._parts)
        kept = torch.tensor(held if held is not None else [-1] * states.shape[1], device=states.device)
        tiles = []
        for at in range(0, states.shape[1], rows):
            by_norm = self._candidates(states[:, at : at + rows], max(depths), temperatures, top_k)
            own = kept[at : at + rows]
            tiles.append(torch.stack([_distances(ids, p, depths, own) for ids, p in by_norm]))
        return torch.cat(tiles, -1).cpu().numpy()

    def _candidates(
        self, states: Tensor, deepest: int, temperatures: Sequence[float], top_k: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """With the norm, then without: the final layer's most probable tokens, int64 [rows, k], and what each posterior
        gives them, float64 [temperatures, rows, deepest, k], of states [n, rows, hidden]."""
        parts = self._parts
        final = _logits(parts, parts.norm(states[-1]))
        ids = final.topk(top_k).indices
        first = _probabilities(final, ids, temperatures)
        del final
        blocks = DepthExploration(depths=deepest).blocks(parts.n_blocks)
        for norm in NORMS:
            slots = (parts.norm(states[i - 1]) if norm == "final" else states[i - 1] for i in blocks)
            others = [_probabilities(_logits(parts, slot), ids, temperatures) for slot in slots]
            yield ids, torch.stack([first, *others], 2)


def _rows_at_a_time(parts: ModelParts) -> int:
    """Of logits: all at once, of all depths and positions, they may take more memory than the model."""
    return max(1, _TILE_BYTES // (4 * parts.vocab))


def _tiles(parts: ModelParts, states: Tensor) -> Iterator[Tensor]:
    """float32 logits [rows, vocab] of states [positions, hidden], a few rows at a time."""
    rows = _rows_at_a_time(parts)
    for at in range(0, len(states), rows):
        yield _logits(parts, states[at : at + rows])


def _logits(parts: ModelParts, states: Tensor) -> Tensor:
    logits = parts.head(states).float()
    if not bool(logits.amax(-1).isfinite().all()):  # NaN is passed on by amax
        raise ModelError(
            f"a posterior read off a state has logits that aren't finite in {str(parts.dtype).removeprefix('torch.')}; "
            "try another --dtype, bfloat16 or float32"
        )
    return logits


def _below_largest(logits: Tensor) -> Tensor:
    """Logits less the largest of their row. States without the norm have logits in the thousands."""
    return (logits - logits.amax(-1, keepdim=True)).clamp_(min=_FURTHEST)


def _entropy_and_top(parts: ModelParts, states: Tensor) -> tuple[Tensor, Tensor]:
    """Entropy, float64 [positions] (nat), and most probable token, int64 [positions], of states [positions, hidden]."""
    entropies, tops = [], []
    for logits in _tiles(parts, states):
        z = _below_largest(logits)
        weights = z.exp()
        total = weights.sum(-1).double()
        entropies.append((total.log() - weights.mul_(z).sum(-1).double() / total).clamp(min=0.0).cpu())
        tops.append(logits.argmax(-1).cpu())
    return torch.cat(entropies), torch.cat(tops)


def _probabilities(logits: Tensor, ids: Tensor, temperatures: Sequence[float]) -> Tensor:
    """float64 [temperatures, rows, k]: probabilities, over the whole vocabulary, of these tokens [rows, k]."""
    z = logits - logits.amax(-1, keepdim=True)
    wanted = z.gather(1, ids).double()
    totals = [(z / t).exp_().sum(-1, keepdim=True).double() for t in temperatures]
    return torch.stack([(wanted / t).exp() / total for t, total in zip(temperatures, totals, strict=True)])


def _distances(ids: Tensor, p: Tensor, depths: Sequence[int], held: Tensor) -> Tensor:
    """float64 [temperatures, depths, rows]: total variation of the law over each of these numbers of posteriors from
    plain top-k sampling. Both keep a share p0(most probable) of the latter, so that they differ in the rest only."""
    kept, allowed = ids == held[:, None], torch.ones_like(ids, dtype=torch.bool)  # [rows, k]
    moved = []
    for posteriors in p:  # [rows, deepest, k]
        plain = posteriors[:, 0] / posteriors[:, 0].sum(-1, keepdim=True)
        explores = 1.0 - posteriors[:, 0, 0]
        explored = [hold(explored_law(posteriors[:, :d], allowed)[0], plain, kept) for d in depths]
        moved.append(torch.stack([explores * (q - plain).abs().sum(-1) / 2 for q in explored]))
    return torch.stack(moved)


# --- thinking tags -------------------------------------------------------------------------------------------------


def inside_thinking(parts: ModelParts, prompt_ids: Sequence[int], token_ids: Sequence[int]) -> list[bool]:
    """For each generated token, whether it was chosen inside the thinking span, by the engine's rule: opened at the end
    of the prompt (white space may follow) or by the branch, closed by the branch; the closing tag is still inside."""
    tags = parts.thinking
    if not tags:
        return [False] * len(token_ids)
    inside, flags = _opened_by(parts, prompt_ids), []
    for stop in range(1, len(token_ids) + 1):
        flags.append(inside)
        opened, closed = _ends_at(stop, token_ids, tags.open), _ends_at(stop, token_ids, tags.close)
        inside = (inside or opened) and not closed
    return flags


def _opened_by(parts: ModelParts, prompt_ids: Sequence[int]) -> bool:
    tag = parts.thinking.open
    for spare in range(3):  # tokens of white space behind the tag
        stop = len(prompt_ids) - spare
        if _ends_at(stop, prompt_ids, tag):
            return not parts.tokenizer.decode(list(prompt_ids[stop:])).strip()
    return False


def closing_tokens(close: Sequence[int], token_ids: Sequence[int]) -> list[int]:
    """For each generated token, the one that would have come next in ``</think>`` there: its first one where none of
    the tag stands yet. Exploration leaves that token alone."""
    found = []
    for at in range(len(token_ids)):
        begun = next((n for n in range(len(close) - 1, 0, -1) if _ends_at(at, token_ids, close[:n])), 0)
        found.append(close[begun])
    return found


def _ends_at(stop: int, ids: Sequence[int], tag: Sequence[int]) -> bool:
    """Whether the first ``stop`` of these tokens end with the tag."""
    return stop >= len(tag) and tuple(ids[stop - len(tag) : stop]) == tuple(tag)
