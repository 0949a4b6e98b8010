"""A tree's nodes as they are read, and what is computed from one or from a path of them. No graph here."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

from pydantic import model_validator

from led_agent.types import Branch, DecodeRequest, Problem, Record, Verdict

__all__ = ["RANK", "ROOT", "Entry", "Node", "NodeStatus", "blank", "derive_seed", "summary_verdict", "trimmed"]

ROOT = "root"
NodeStatus = Literal["open", "expanded", "accepted", "rejected", "pruned", "failed"]
RANK: dict[NodeStatus, int] = {"accepted": 4, "open": 3, "expanded": 2, "rejected": 1, "pruned": 0, "failed": -1}


def derive_seed(seed: int, problem: Problem, node: str) -> int:
    """63-bit seed of a node: a digest of the search's seed, the prompt and the node's id, so that the order in which
    branches are asked for does not matter."""
    text = f"{seed}\n{problem.digest}\n{node}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1


def summary_verdict(verdicts: Sequence[Verdict]) -> Verdict | None:
    """The one that decides: a rejection over an error over an acceptance over an abstention; None without any.

    An error among acceptances leaves the branch unverified: a verifier that did not work has not agreed. Of several
    abstentions it is the one with the highest score: "can't judge" scores 0, and must not hide one that ranks.
    """
    order = ("rejected", "error", "accepted", "abstained")
    return min(verdicts, key=lambda v: (order.index(v.status), -v.score * (v.status == "abstained")), default=None)


@dataclass(frozen=True)
class Node:
    """A view of one node.

    ``request`` is None for the root only, ``branch`` while it is still being decoded; ``settled`` says that neither a
    branch nor a verdict is waited for.
    """

    id: str
    parent: str | None
    request: DecodeRequest | None
    branch: Branch | None
    verdicts: tuple[Verdict, ...]
    status: NodeStatus
    reason: str
    notes: tuple[str, ...]
    order: int
    settled: bool

    @property
    def pending(self) -> bool:
        """Asked for, not yet back."""
        return self.request is not None and self.branch is None and self.status == "open"

    @property
    def purpose(self) -> str:
        return self.request.purpose if self.request else ""

    @property
    def verdict(self) -> Verdict | None:
        return summary_verdict(self.verdicts)


class Entry(Record):
    """A node as the exports have it. ``parent`` is for people: the request says it too."""

    id: str
    parent: str | None
    status: NodeStatus
    reason: str
    notes: tuple[str, ...]
    settled: bool
    verdicts: tuple[Verdict, ...]
    request: DecodeRequest | None
    branch: Branch | None

    @model_validator(mode="after")
    def _one_node(self) -> Self:
        if self.request is None:
            if self.id != ROOT or self.branch is not None or self.verdicts:
                raise ValueError(f"node {self.id!r} has no request; only the root has none, and the root holds nothing")
        elif self.request.id != self.id or self.parent not in (None, self.request.parent):
            raise ValueError(f"node {self.id!r} holds the request of another")
        elif self.branch is not None and self.branch.id != self.id:
            raise ValueError(f"node {self.id!r} holds the branch of another")
        return self


def blank(request: DecodeRequest | None, *, order: int) -> dict[str, Any]:
    """The attributes of a node that has just been asked for; of the root without a request."""
    return {
        "request": request,
        "branch": None,
        "verdicts": (),
        "status": "open",
        "decoding": request.decoding if request else None,
        "seed": request.seed if request else None,
        "reason": "",
        "notes": (),
        "order": order,
        "settled": request is None,
    }


def trimmed(parts: Sequence[Branch], below: Sequence[DecodeRequest | None]) -> list[Branch]:
    """Branches, each cut to what the one that follows it keeps of it."""
    cut = []
    for part, request, after in zip(parts, below, parts[1:], strict=False):
        keep = request.keep if request is not None else None
        if keep is None or keep >= len(part.token_ids):
            cut.append(part)
            continue
        names = ("token_ids", "logprobs", "final_logprobs", "entropies", "explored", "noise_scales")
        kept: dict[str, Any] = {name: getattr(part, name)[:keep] for name in names}
        rollbacks = tuple(r for r in part.rollbacks if r.at <= keep)
        cut.append(part.model_copy(update={**kept, "text": after.kept_text, "rollbacks": rollbacks}))
    return [*cut, parts[-1]]
