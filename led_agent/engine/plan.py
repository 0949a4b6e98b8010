"""How the rows of a batch choose their tokens, by method. Made anew when the batch changes, not at every step."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from led_agent.decoding.processors import Filters
from led_agent.decoding.sampling import PlainSettings
from led_agent.engine.cache import Sharing
from led_agent.engine.model import ModelParts
from led_agent.types import Decoding, DepthExploration, LatentDistiller, LatentNoise, LayerContrast, Sibling

__all__ = ["Contrast", "Distilled", "Group", "Noisy", "Plan", "Typical"]


@dataclass(frozen=True)
class _Rows:
    """Rows of one method and setting. ``everywhere`` is off where it is used inside their thinking only."""

    rows: Tensor  # int64 [m]
    everywhere: bool


@dataclass(frozen=True)
class Group(_Rows):
    """Rows that explore in the same way."""

    exploration: DepthExploration
    blocks: tuple[int, ...]  # after how many blocks each shallower slot is read


@dataclass(frozen=True)
class Noisy(_Rows):
    """Rows with the same noise."""

    noise: LatentNoise
    after: tuple[int, ...]  # behind which blocks it is added
    siblings: tuple[Sibling | None, ...]


@dataclass(frozen=True)
class Contrast(_Rows):
    """Rows that contrast the same layers."""

    contrast: LayerContrast
    blocks: tuple[int, ...]


@dataclass(frozen=True)
class Distilled(_Rows):
    """Rows with distillers of the same kind and the same filters."""

    distiller: LatentDistiller
    filters: Filters


@dataclass(frozen=True)
class Typical(_Rows):
    """Rows whose filters go through transformers' processors."""

    filters: Filters


@dataclass(frozen=True)
class Plan:
    """The rows of a batch by method; a row is in one group of each kind at most."""

    rows: int
    plain: PlainSettings
    needs_plain: bool
    groups: tuple[Group, ...]
    noisy: tuple[Noisy, ...]
    contrasts: tuple[Contrast, ...]
    distilled: tuple[Distilled, ...]
    typical: tuple[Typical, ...]
    penalty: Tensor | None  # float32 [rows], where a row has one
    excluded: tuple[tuple[int, Tensor], ...] = ()  # rows that must not draw some tokens now, int64 [few]
    sharing: tuple[Sharing, ...] = ()

    @property
    def taps(self) -> frozenset[int]:
        """After how many blocks the residual stream is read."""
        explored = {block for group in self.groups for block in group.blocks}
        contrasted = {block for group in self.contrasts for block in group.blocks}
        return frozenset(explored | contrasted | ({1} if self.distilled else set()))

    @classmethod
    def of(
        cls,
        decodings: Sequence[Decoding],
        spans: Sequence[str],
        parts: ModelParts,
        siblings: Sequence[Sibling | None] = (),
        sharing: Sequence[Sharing] = (),
        excluded: Sequence[Sequence[int]] = (),
    ) -> Plan:
        """Args: one decoding and resolved span ("think", "all", "none") for each row, each row's siblings, which rows
        share prefixes, and which tokens each row must not draw now."""
        device = parts.device
        family = siblings or [None] * len(decodings)
        stratified = [_stratified(d, s) for d, s in zip(decodings, family, strict=True)]
        settings = [(d.temperature, d.top_k, d.top_p, d.min_p) for d in decodings]
        plain = PlainSettings.of(settings, parts.vocab, device, stratified=stratified)
        on = [(row, d, span) for row, (d, span) in enumerate(zip(decodings, spans, strict=True)) if span != "none"]
        drawn = [item for item in on if not item[1].is_greedy]

        def rows(members: Sequence[int]) -> Tensor:
            return torch.tensor(members, device=device)

        groups = tuple(
            Group(rows(m), span == "all", e, e.blocks(parts.n_blocks))
            for (e, span), m in _by((row, (d.exploration, span)) for row, d, span in drawn if d.exploration)
        )
        noisy = tuple(
            Noisy(rows(m), span == "all", n, n.after(parts.n_blocks), tuple(family[row] for row in m))
            for (n, span), m in _by((row, (d.latent_noise, span)) for row, d, span in on if d.noisy and d.latent_noise)
        )
        contrasts = tuple(
            Contrast(rows(m), span == "all", c, c.blocks(parts.n_blocks, tied=parts.tied))
            for (c, span), m in _by((row, (d.contrast, span)) for row, d, span in on if d.contrast)
        )
        distilled = tuple(
            Distilled(rows(m), span == "all", d, filters)
            for (d, filters, span), m in _by(
                (row, (d.distiller, _filters(d), span)) for row, d, span in drawn if d.distiller
            )
        )
        typical = tuple(
            Typical(rows(m), True, filters)
            for filters, m in _by((r, _filters(d)) for r, d in enumerate(decodings) if _is_typical(d))
        )
        penalised = any(d.repetition_penalty != 1.0 for d in decodings)
        everywhere = sum(len(group.rows) for group in groups if group.everywhere)
        return cls(
            rows=len(decodings),
            plain=plain,
            needs_plain=everywhere < len(decodings),
            groups=groups,
            noisy=noisy,
            contrasts=contrasts,
            distilled=distilled,
            typical=typical,
            penalty=torch.tensor([d.repetition_penalty for d in decodings], device=device) if penalised else None,
            excluded=tuple((row, torch.tensor(list(ids), device=device)) for row, ids in enumerate(excluded) if ids),
            sharing=tuple(sharing),
        )


_Key = TypeVar("_Key")


def _by(pairs: Iterable[tuple[int, _Key]]) -> Iterable[tuple[_Key, list[int]]]:
    """Rows by what they have in common, in the order of their first."""
    members: dict[_Key, list[int]] = {}
    for row, key in pairs:
        members.setdefault(key, []).append(row)
    return members.items()


def _stratified(decoding: Decoding, sibling: Sibling | None) -> bool:
    return decoding.siblings == "stratified" and sibling is not None and sibling.of > 1


def _filters(decoding: Decoding) -> Filters:
    return decoding.temperature, decoding.top_k, decoding.top_p, decoding.min_p, decoding.typical_p


def _is_typical(decoding: Decoding) -> bool:
    return decoding.typical_p < 1.0 and not decoding.is_greedy
