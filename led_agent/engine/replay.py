"""Decoding a known prefix again, where its keys and values are gone or were never here.

A step and a prefill of several tokens round differently. Where results are promised to the bit, a branch that goes on
from tokens that another has generated gets keys and values that came from steps: those which that other has left
behind, or else those of a replay, which takes the same steps in a row of the batch and draws nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from led_agent.engine.growing import Growing, Prefix
from led_agent.engine.text import Detokenizer
from led_agent.types import Decoding

__all__ = ["first_ready", "replay_of", "replays"]


def replay_of(growing: Growing, known: int) -> Growing:
    """What decodes the generated tokens of a branch's prefix again, the ``known`` first of them being there."""
    prefix = growing.prefix
    return Growing(
        id=f"replay for {growing.id}",
        prefix=Prefix(prefix.prompt, prefix.generated[:known]),
        decoding=Decoding.greedy(),
        span="none",
        seed=0,
        max_tokens=len(prefix.generated) - known,
        stop=(),
        step=(),
        max_step_tokens=None,
        exclude=(),
        step_tokens=frozenset(),
        detokenizer=Detokenizer(None),
        replay=prefix.generated,
    )


def replays(growing: Growing, prefix: Prefix) -> bool:
    """Whether it decodes that prefix again."""
    return growing.replay == prefix.generated and growing.prefix.prompt == prefix.prompt


def first_ready(waiting: Iterable[Growing], live: Sequence[Growing]) -> Growing | None:
    """The first that waits for a slot, and not for a replay that is under way."""
    replaying = [growing for growing in live if growing.replay is not None]
    return next((g for g in waiting if not any(replays(r, g.prefix) for r in replaying)), None)
