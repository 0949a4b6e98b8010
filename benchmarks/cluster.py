"""Two decoders on a cluster against two bare processes, the same requests, side by side.

    python -m benchmarks.cluster --model smollm2 --tokens 64
    python -m benchmarks.cluster --model countdown

A bare process steps an engine over its half of the requests, and does nothing else: no search, no Ray, no messages.
The cluster has the same number of decoders with as many threads; requests are submitted as the search does, 1.25 a slot
open at a time. Both load once; then they take turns. What is told: the ratio of tokens a second in each pair; the
driver's processor time for a request; and messages, counted by who sends them, against tokens.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import queue
import random
import statistics
import time
from multiprocessing.connection import Connection
from typing import Any

import ray

from led_agent import Decoding
from led_agent.cluster.decoder import ClusterDecoder
from led_agent.cluster.plan import Cluster
from led_agent.protocols import BranchDone, DecodeEvent
from led_agent.types import DecodeRequest

_WORDS = ("why", "how", "count", "three", "red", "boxes", "tell", "me", "what", "is", "before", "noon", "rainy", "day")


def requests(model: str, count: int, tokens: int, seed: int) -> list[DecodeRequest]:
    """Problems of four branches each. Those of a general model go on to their last token; the embedded one ends."""
    chance = random.Random(seed)
    made: list[DecodeRequest] = []
    for at in range(count // 4):
        a, b, c = chance.randint(2, 20), chance.randint(2, 9), chance.randint(2, 8)
        puzzle = f"Use {a}, {b} and {c} to make {min(99, a + b * c)}."
        prompt = puzzle if model.startswith("countdown") else " ".join(chance.choices(_WORDS, k=24))
        made += [
            DecodeRequest(
                id=f"n{branch}", parent="root", problem=f"r{seed}p{at}", prompt=prompt, seed=chance.getrandbits(62),
                decoding=Decoding.plain(temperature=1.0), max_tokens=tokens,
            )
            for branch in range(4)
        ]  # fmt: skip
    return made


def bare(pipe: Connection, model: str, slots: int, dtype: str) -> None:
    """A process with an engine: gets requests, gives the number of tokens and when it was done."""
    from led_agent.local import LocalDecoder

    decoder = LocalDecoder.load(model, slots=slots, dtype=dtype, device="cpu")
    decoder._orders.close.set()  # its thread is not wanted: the engine is stepped here
    decoder._orders.wake.set()
    pipe.send("ready")
    while (wanted := pipe.recv()) is not None:
        translated = [decoder._translate(request) for request in wanted]
        tokens = sum(len(e.branch.token_ids) for e in decoder.engine.generate(translated) if e.branch is not None)
        pipe.send((tokens, time.time()))


class Processes:
    """So many bare processes."""

    def __init__(self, count: int, model: str, slots: int, dtype: str) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipes: list[Connection] = []
        for _ in range(count):
            here, there = context.Pipe()
            context.Process(target=bare, args=(there, model, slots, dtype), daemon=True).start()
            self.pipes.append(here)
        for pipe in self.pipes:
            pipe.recv()

    def rate(self, wanted: list[DecodeRequest]) -> float:
        """Tokens a second."""
        parts: list[list[DecodeRequest]] = [[] for _ in self.pipes]
        for at in range(0, len(wanted), 4):  # problems in turn, as whole ones: their prompts are prefilled once
            parts[at // 4 % len(parts)] += wanted[at : at + 4]
        began = time.time()
        for pipe, part in zip(self.pipes, parts, strict=True):
            pipe.send(part)
        told = [pipe.recv() for pipe in self.pipes]
        return float(sum(tokens for tokens, _ in told) / (max(done for _, done in told) - began))

    def close(self) -> None:
        for pipe in self.pipes:
            pipe.send(None)


def clustered(decoder: ClusterDecoder, wanted: list[DecodeRequest]) -> tuple[float, float]:
    """Tokens a second, and the driver's processor milliseconds for a request."""
    inbox: queue.SimpleQueue[DecodeEvent] = queue.SimpleQueue()
    ahead = int(decoder.slots * 1.25)
    began, cpu, tokens, left = time.time(), time.process_time(), 0, len(wanted)
    for request in wanted[:ahead]:
        decoder.submit(request, inbox.put)
    coming = iter(wanted[ahead:])
    while left:
        event = inbox.get()
        if not isinstance(event, BranchDone):
            continue
        assert event.branch.finish != "error", event.branch.error
        left -= 1
        tokens += len(event.branch.token_ids)
        following = next(coming, None)
        if following is not None:
            decoder.submit(following, inbox.put)
    return tokens / (time.time() - began), 1000 * (time.process_time() - cpu) / len(wanted)


def messages(decoder: ClusterDecoder) -> tuple[int, int]:
    """Replies so far, and tokens."""
    handles: list[Any] = [seat.actor for seat in decoder.crew.seats]
    replies = ray.get([handle.messages.remote() for handle in handles], timeout=30)
    tokens = ray.get([handle.status.remote() for handle in handles], timeout=30)
    return sum(replies), sum(status.tokens for status in tokens)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--decoders", type=int, default=2)
    parser.add_argument("--slots", type=int, default=16)
    parser.add_argument("--requests", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--dtype", default="float32")
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    processes = Processes(given.decoders, given.model, given.slots, given.dtype)
    decoder = ClusterDecoder(
        Cluster(address="local", decoders=given.decoders), model=given.model, slots=given.slots, dtype=given.dtype
    )
    ratios, costs, rates = [], [], []
    replies_before, tokens_before = messages(decoder)
    for pair in range(given.pairs + 1):
        wanted = requests(given.model, given.requests, given.tokens, seed=pair)
        if pair % 2:
            ours, cost = clustered(decoder, wanted)
            theirs = processes.rate(wanted)
        else:
            theirs = processes.rate(wanted)
            ours, cost = clustered(decoder, wanted)
        if pair:  # the first one warms up
            ratios.append(ours / theirs)
            costs.append(cost)
            rates.append(ours)
        print(f"pair {pair}: {ours:.0f} against {theirs:.0f} tokens/s, {cost:.2f} ms a request", flush=True)
    replies, tokens = (now - then for now, then in zip(messages(decoder), (replies_before, tokens_before), strict=True))
    decoder.close()
    processes.close()
    print(f"{given.decoders} decoders ÷ {given.decoders} bare processes, {given.model}, {given.dtype}")
    print(f"{given.slots} slots, {len(ratios)} pairs of {given.requests} requests of {given.tokens} tokens at most")
    print(
        f"ratio: median {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f}), at "
        f"{statistics.median(rates):.0f} tokens/s"
    )
    print(
        f"driver: {statistics.median(costs):.2f} ms of processor time a request; {replies} replies for {tokens} "
        f"tokens, one for {tokens / max(1, replies):.0f}"
    )


if __name__ == "__main__":
    main()
