"""What can happen to a tree, as records. The tree is what these add up to; the journal is these, a line each."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from led_agent.types import Branch, Confidence, DecodeRequest, Decoding, Problem, Record, Usage, Verdict

__all__ = [
    "Decoded",
    "Ended",
    "Event",
    "Judged",
    "Noted",
    "Pruned",
    "Requested",
    "RunStatus",
    "Started",
    "event_adapter",
]

RunStatus = Literal["verified", "exhausted", "budget", "interrupted", "failed"]


class Started(Record):
    """A search began on a problem, with these defaults for its requests. ``follow_up``: whether the model can be asked
    about what it has said, as a chat. ``model``: its alias, folder or hub id; empty where it isn't known."""

    event: Literal["started"] = "started"
    problem: Problem
    decoding: Decoding
    seed: int = Field(default=0, ge=0, lt=2**63)
    max_tokens: int = Field(default=512, ge=1)
    stop: tuple[str, ...] = ()
    follow_up: bool = True
    model: str = ""


class Requested(Record):
    """A branch was asked for."""

    event: Literal["requested"] = "requested"
    request: DecodeRequest


class Decoded(Record):
    """A branch came back."""

    event: Literal["decoded"] = "decoded"
    branch: Branch


class Judged(Record):
    """Verifiers spoke of a branch; without verdicts, none of them will before the end."""

    event: Literal["judged"] = "judged"
    id: str
    verdicts: tuple[Verdict, ...]


class Pruned(Record):
    """A node and what hangs below it was given up."""

    event: Literal["pruned"] = "pruned"
    id: str
    reason: str


class Noted(Record):
    """Something worth keeping on a node, such as what a plug-in raised."""

    event: Literal["noted"] = "noted"
    id: str
    text: str


class Ended(Record):
    """The search on this problem is over. ``best`` is the node that gives the answer, where that was decided by more
    than the tree's own order; ``confidence`` says how the branches agree on it where no verifier accepted it."""

    event: Literal["ended"] = "ended"
    status: RunStatus
    reason: str
    usage: Usage = Usage()
    best: str | None = None
    confidence: Confidence | None = None


Event = Started | Requested | Decoded | Judged | Pruned | Noted | Ended
event_adapter: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="event")])
