"""How many requests a second the dispatcher alone shares out, with decoders that answer at once.

    python -m benchmarks.dispatcher

Real threads, real leases, real records; only the decoders are missing, and the network. Requests are submitted by one
thread while 1.25 a slot are open, as the search does; each answer is heard by that thread before it submits another.
"""

from __future__ import annotations

import argparse
import queue
import statistics
import time
from functools import partial

from led_agent import Decoding
from led_agent.cluster.dispatcher import Dispatcher
from led_agent.cluster.leases import Orders, Worker
from led_agent.protocols import DecodeEvent
from led_agent.types import Branch, DecodeRequest

_DECODING = Decoding.plain(temperature=1.0)


def answering(dispatcher: Dispatcher, worker: Worker, orders: Orders) -> None:
    """A decoder that has done what it is told before the call comes back; its reply is one message, as a real one's."""
    done = [((r.problem, r.id, attempt), Branch(id=r.id, text="done")) for r, attempt in orders.requests]

    def hear() -> None:
        for attempt, branch in done:
            dispatcher.leases.done(worker, attempt, branch)

    dispatcher.post(hear)


def measure(decoders: int, slots: int, units: int) -> float:
    """Requests a second."""
    dispatcher = Dispatcher()
    for at in range(decoders):
        worker = Worker(f"d{at}", slots)
        dispatcher.post(partial(dispatcher.join, worker, partial(answering, dispatcher, worker)))
    inbox: queue.SimpleQueue[DecodeEvent] = queue.SimpleQueue()
    requests = [
        DecodeRequest(
            id=f"n{at}", parent="root", problem=f"p{at // 16}", prompt="?", decoding=_DECODING, seed=at, max_tokens=512
        )
        for at in range(units)
    ]
    began = time.perf_counter()
    ahead = int(decoders * slots * 1.25)
    for request in requests[:ahead]:
        dispatcher.submit(request, inbox.put)
    for request in requests[ahead:]:
        inbox.get()
        dispatcher.submit(request, inbox.put)
    for _ in range(min(ahead, units)):
        inbox.get()
    seconds = time.perf_counter() - began
    dispatcher.close()
    return units / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--decoders", type=int, nargs="+", default=[2, 8, 64, 512])
    parser.add_argument("--slots", type=int, default=16)
    parser.add_argument("--units", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    for decoders in given.decoders:
        rates = sorted(measure(decoders, given.slots, given.units) for _ in range(given.repeats))
        print(
            f"{decoders:4d} decoders of {given.slots} slots: {statistics.median(rates):7.0f} requests/s "
            f"(lowest {rates[0]:.0f}, highest {rates[-1]:.0f}, {given.repeats} runs of {given.units})"
        )


if __name__ == "__main__":
    main()
