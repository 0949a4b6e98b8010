"""What the engine is asked for, and what it reports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from led_agent.types import Branch, Decoding, Sibling

__all__ = ["BranchEvent", "EngineRequest"]


@dataclass(frozen=True)
class EngineRequest:
    """Branches to grow from one prefix.

    Attributes:
        id: Names the branch; with n > 1 the branches are "id/0" … "id/n-1", siblings of each other.
        prompt_ids: The prompt's tokens; or give ``parent``.
        decoding: How tokens are chosen.
        seed: Of branch 0; the others' are derived from it.
        max_tokens: New tokens a branch, at most; fewer where the model's context ends first.
        n: How many branches.
        parent: A branch that is growing, or that this engine finished lately, to continue it instead of
            ``prompt_ids``. While it grows, its keys and values are copied as they were decoded; later they are
            computed again, which rounds differently.
        parent_tokens: How many of the parent's tokens are kept; None keeps all that it has when this is submitted.
        prefix_ids: Tokens already generated after the prompt, or after those of the parent.
        stop: Strings that end a branch and are cut from its text.
        step: Strings that end a branch and stay in its text.
        step_tokens: Token ids that do the same.
        max_step_tokens: End a branch after so many new tokens as a step; None is no such limit.
        exclude: Tokens that a branch's first one must not be: it is drawn from what its law leaves without them.
        sibling: With n = 1, its place among branches that are asked for one by one, here or elsewhere.
    """

    id: str
    prompt_ids: Sequence[int] | None = None
    decoding: Decoding = field(default_factory=Decoding.led)
    seed: int = 0
    max_tokens: int = 512
    n: int = 1
    parent: str | None = None
    prefix_ids: Sequence[int] = ()
    stop: Sequence[str] = ()
    step: Sequence[str] = ()
    sibling: Sibling | None = None
    parent_tokens: int | None = None
    max_step_tokens: int | None = None
    exclude: Sequence[int] = ()
    step_tokens: Sequence[int] = ()


@dataclass(frozen=True)
class BranchEvent:
    """A branch has grown ("progress"), or is complete ("done", with ``branch``). Tokens are those computed so far,
    rolled back ones included; text is all text so far."""

    id: str
    kind: Literal["progress", "done"]
    tokens: int
    text: str
    branch: Branch | None = None
