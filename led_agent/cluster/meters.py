"""What a cluster shows of itself to Prometheus, through ``ray.util.metrics``.

This file knows names and tags of metrics. All begin with ``led_agent_``; Ray exports them, on each node, as
``ray_led_agent_…``.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from ray.util.metrics import Counter, Gauge

if TYPE_CHECKING:
    from led_agent.cluster.actor import Status
    from led_agent.cluster.leases import Leases

__all__ = ["decoder_meters", "driver_meters"]

_EVERY = 1.0  # seconds


def decoder_meters(status: Callable[[], Status | None]) -> Callable[[], None]:
    """A function that brings a decoder's metrics up to date, once a second at most."""
    tags = ("decoder", "model", "host")
    tokens = Counter("led_agent_tokens", "Tokens generated, rolled back ones included.", tags)
    prefill = Counter("led_agent_prefill_tokens", "Prompt tokens computed.", tags)
    explored = Counter("led_agent_explored_tokens", "Tokens drawn from a shallower posterior.", tags)
    branches = Counter("led_agent_branches", "Branches that have ended.", tags)
    busy = Gauge("led_agent_slots_busy", "Slots in which a branch grows.", tags)
    slots = Gauge("led_agent_slots", "Slots that there are.", tags)
    share = Gauge("led_agent_exploration_rate", "Share of the tokens that were drawn from a shallower posterior.", tags)
    counters = (tokens, prefill, explored, branches)
    told = [0, 0, 0, 0]
    lock = threading.Lock()
    last = 0.0

    def update() -> None:
        nonlocal last
        with lock:
            if time.monotonic() - last < _EVERY:
                return
            last = time.monotonic()
            now = status()
            if now is None:
                return
            named = {"decoder": now.name, "model": now.model, "host": now.host}
            values = (now.tokens, now.prefill_tokens, now.explored, now.branches)
            for at, (counter, value) in enumerate(zip(counters, values, strict=True)):
                if value > told[at]:
                    counter.inc(value - told[at], named)
                told[at] = value
            busy.set(now.busy, named)
            slots.set(now.slots, named)
            share.set(now.explored / now.tokens if now.tokens else 0.0, named)

    return update


def driver_meters(run: str, leases: Leases) -> Callable[[], None]:
    """A function that brings a driver's metrics up to date: what waits, what is open, deaths and retries."""
    tags = ("run",)
    waiting = Gauge("led_agent_requests_waiting", "Requests that no decoder has yet.", tags)
    is_open = Gauge("led_agent_requests_open", "Requests that are not answered yet.", tags)
    counters = {
        "sent_again": Counter("led_agent_retries", "Requests sent again after a death or a silence.", tags),
        "deaths": Counter("led_agent_decoder_deaths", "Decoders that died.", tags),
        "lost_from_sight": Counter("led_agent_stalls", "Times that a decoder was not heard of for a while.", tags),
        "stolen": Counter("led_agent_requests_stolen", "Requests taken over by a decoder that idled.", tags),
        "put_aside": Counter("led_agent_requests_put_aside", "Requests over which three decoders died.", tags),
    }
    told = dict.fromkeys(counters, 0)

    def update() -> None:
        named = {"run": run}
        waiting.set(leases.waiting, named)
        is_open.set(len(leases.open), named)
        for name, counter in counters.items():
            value = getattr(leases.counts, name)
            if value > told[name]:
                counter.inc(value - told[name], named)
            told[name] = value

    return update
