"""What goes on in a cluster, for who looks on: every decoder and verifier process of every search, asked one by one.

This file knows how they are named and what they tell. Nothing is kept: a search that has ended is not seen any more.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError

from led_agent.cluster.actor import Status
from led_agent.cluster.connect import NAMESPACE

__all__ = ["Board", "Silent", "look"]

_DECODER, _VERIFIER = "led-decoder-", "led-verifier-"
_PATIENCE = 3.0  # seconds for all of them to answer


@dataclass(frozen=True)
class Silent:
    """A process that did not answer: loading its model, overloaded, or about to be found dead."""

    name: str
    why: str


@dataclass(frozen=True)
class Board:
    """What there is to see at a moment. ``verifiers`` holds what each process of verifiers tells of itself."""

    decoders: tuple[Status, ...]
    verifiers: tuple[dict[str, Any], ...]
    silent: tuple[Silent, ...]

    @property
    def runs(self) -> dict[str, dict[str, Any]]:
        """The state of each search's driver, by its name: the newest that one of its decoders was told, which is a
        second old at most."""
        told = sorted((status.driver for status in self.decoders if status.driver), key=lambda state: state["seconds"])
        return {str(state["run"]): state for state in told}

    def row(self) -> dict[str, Any]:
        """As plain JSON."""
        return {
            "runs": self.runs,
            "decoders": [{**asdict(status), "driver": status.driver.get("run")} for status in self.decoders],
            "verifiers": list(self.verifiers),
            "silent": [asdict(silent) for silent in self.silent],
        }


def look() -> Board:
    """Ask everybody in the cluster that this process is connected to."""
    named = ray.util.list_named_actors(all_namespaces=True)
    names = sorted(actor["name"] for actor in named if actor["namespace"] == NAMESPACE)
    asked: list[tuple[str, Any]] = []
    silent: list[Silent] = []
    for name in names:
        if name.startswith((_DECODER, _VERIFIER)):
            try:
                asked.append((name, ray.get_actor(name, namespace=NAMESPACE).status.remote()))
            except ValueError:  # it has ended since
                continue
    ray.wait([reference for _, reference in asked], num_returns=len(asked), timeout=_PATIENCE) if asked else None
    decoders: list[Status] = []
    verifiers: list[dict[str, Any]] = []
    for name, reference in asked:
        try:
            told = ray.get(reference, timeout=0.01)
        except GetTimeoutError:
            silent.append(Silent(name, f"no answer within {_PATIENCE:g} s"))
        except RayError as error:
            silent.append(Silent(name, type(error).__name__))
        else:
            if isinstance(told, Status):
                decoders.append(told)
            elif told is None:
                silent.append(Silent(name, "loading"))
            else:
                verifiers.append(told)
    return Board(tuple(decoders), tuple(verifiers), tuple(silent))
