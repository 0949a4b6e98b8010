"""Decoders with a fault each, as real actors: their classes are imported by Ray's processes."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

from led_agent.cluster.actor import DecoderActor, Loaded, Recipe
from led_agent.cluster.leases import Orders

POISON = ("poison", "2")  # problem and branch


def _poisoned(orders: Orders) -> bool:
    return any((request.problem, request.id) == POISON for request, _ in orders.requests)


class Dies(DecoderActor):
    """Its process ends as soon as it is given a certain request, as where a kernel crashes."""

    def orders(self, number: int, orders: Orders) -> None:
        if _poisoned(orders):
            os._exit(1)
        super().orders(number, orders)


class ShortOfMemory(DecoderActor):
    """It finds no memory to take a certain request in, and lives on."""

    def orders(self, number: int, orders: Orders) -> None:
        if _poisoned(orders):
            bytearray(1 << 60)
        super().orders(number, orders)


class OfAnotherVersion(DecoderActor):
    def load(self, recipe: Recipe) -> Any:
        loaded = super().load(recipe)
        assert isinstance(loaded, Loaded)
        return replace(loaded, versions=loaded.versions | {"led_agent": "0.0.1"})


class WithOtherWeights(DecoderActor):
    """Every decoder but a run's first has other files under the same name."""

    def load(self, recipe: Recipe) -> Any:
        first = self.name.split("-")[-2] == "0"
        return super().load(recipe if first else replace(recipe, model="countdown-sft"))


class NeverLoads(DecoderActor):
    def load(self, recipe: Recipe) -> Any:
        os._exit(1)
