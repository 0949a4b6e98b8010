"""What an autoscaler is told that a search has use for: so many decoders, of so many processors each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ray
from ray.autoscaler.sdk import request_resources
from ray.util.client import ray as client

__all__ = ["Wish"]

_LEAVE = 10.0  # seconds for a wish to be taken back in


class Wish:
    """Ray keeps one wish a cluster, the last that anybody made, until it is taken back.

    Attributes:
        decoders: How many are wished for; 0 before the first.
    """

    def __init__(self) -> None:
        self.decoders = 0

    def make(self, decoders: int, each: Mapping[str, float]) -> None:
        """Wish for room for so many; nothing is said where that was the last wish. Waits for nothing."""
        if decoders != self.decoders:
            self.decoders = decoders
            _tell([dict(each)] * decoders)

    def take_back(self) -> None:
        """No nodes are needed any more for this search's sake."""
        if self.decoders:
            self.decoders = 0
            told = _tell([])
            if told is not None:
                ray.get(told, timeout=_LEAVE)


def _tell(bundles: list[dict[str, float]]) -> Any:
    """What Ray has for this speaks to the head, which a Ray Client can't: a task does it there, and is given back."""
    if client.is_connected():
        return ray.remote(num_cpus=0)(request_resources).remote(bundles=bundles)
    request_resources(bundles=bundles)
    return None
