"""`led-agent serve` under load, on the embedded model: python benchmarks/serving.py [--clients 200] [--seconds 60]

Clients ask one after the other, each in a stream; one in four wants progress. What each request must come to is
computed first, in this process: a reply is wrong where its text is another, lost where it doesn't come to its end. Then
50 clients leave abruptly, and it is measured how long their branches stay. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import random
import re
import socket
import statistics
import struct
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import Any

import httpx2

from led_agent import Problem, Search
from led_agent.evaluation.tasks import load_task
from led_agent.strategies import BestOfN

N, SEEDS, PUZZLES = 4, 2, 48
STRATEGY = f"best-of-n:n={N},stop_at_first=false"


@dataclass(frozen=True)
class Task:
    prompt: str
    seed: int
    expected: str


@dataclass
class Tally:
    first_event: list[float] = field(default_factory=list)  # seconds
    first_growth: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)
    wrong: int = 0
    lost: list[str] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)  # MiB, each second


def tasks() -> list[Task]:
    """Requests and what they must come to."""
    prompts = [problem.text for problem in load_task("countdown", limit=PUZZLES, seed=0).problems]
    made: list[Task] = []
    for seed in range(SEEDS):
        with Search(strategy=BestOfN(N, stop_at_first=False), seed=seed, slots=64) as search:
            solutions = search.solve_many([Problem(prompt=prompt) for prompt in prompts])
            made += [Task(solution.problem.text, seed, solution.text) for solution in solutions]
    return made


def body(task: Task, *, progress: bool = False, strategy: str = STRATEGY) -> dict[str, Any]:
    return {
        "model": "countdown",
        "messages": [{"role": "user", "content": task.prompt}],
        "seed": task.seed,
        "stream": True,
        "led": {"strategy": strategy, "progress": progress},
    }


async def client(
    http: httpx2.AsyncClient, mine: itertools.cycle[Task], until: float, progress: bool, tally: Tally
) -> None:
    while time.monotonic() < until:
        task, began = next(mine), time.monotonic()
        try:
            await ask(http, task, progress, began, tally)
        except Exception as error:  # noqa: BLE001 - whatever it is, the reply is lost
            tally.lost.append(f"{type(error).__name__}: {error}")


async def ask(http: httpx2.AsyncClient, task: Task, progress: bool, began: float, tally: Tally) -> None:
    text, first, grown, done = "", 0.0, 0.0, False
    async with http.stream("POST", "/v1/chat/completions", json=body(task, progress=progress)) as reply:
        if reply.status_code != 200:
            tally.lost.append(f"status {reply.status_code}")
            return
        async for line in reply.aiter_lines():
            if not line.startswith("data: "):
                continue
            first = first or time.monotonic() - began
            if line == "data: [DONE]":
                done = True
                continue
            piece = json.loads(line[6:])
            text += "".join(choice["delta"].get("content", "") for choice in piece["choices"])
            if not grown and piece.get("led", {}).get("event") in ("growing", "node"):
                grown = time.monotonic() - began
    tally.whole.append(time.monotonic() - began)
    tally.first_event.append(first)
    if grown:
        tally.first_growth.append(grown)
    if not done:
        tally.lost.append("the stream ended before its end")
    elif text != task.expected:
        tally.wrong += 1


async def watch(pid: int, until: float, tally: Tally) -> None:
    while time.monotonic() < until:
        with open(f"/proc/{pid}/status") as status:  # noqa: PTH123 - it is no file on a disk
            (kib,) = re.findall(r"VmRSS:\s+(\d+)", status.read())
        tally.memory.append(int(kib) / 1024)
        await asyncio.sleep(1)


async def load(url: str, pid: int, todo: list[Task], clients: int, seconds: float) -> Tally:
    tally, until = Tally(), time.monotonic() + seconds
    shuffled = random.Random(0)
    mine = [itertools.cycle(shuffled.sample(todo, len(todo))) for _ in range(clients)]
    # One for all, with a connection for each: making one takes longer than a request.
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx2.AsyncClient(base_url=url, timeout=120, limits=limits) as http:
        await asyncio.gather(
            watch(pid, until, tally),
            *(client(http, cycle, until, at % 4 == 0, tally) for at, cycle in enumerate(mine)),
        )
    return tally


def in_flight(http: httpx2.Client) -> dict[str, int]:
    text = http.get("/metrics").text
    names = ("branches_in_flight", "runs_running", "runs_waiting")
    return {name: int(float(re.findall(rf"^led_agent_{name} (\S+)$", text, re.MULTILINE)[0])) for name in names}


def leave(url: str, todo: list[Task], clients: int) -> dict[str, Any]:
    """Clients that ask for a lot and are killed: what was on, and for how long it stays."""
    host, port = url.removeprefix("http://").split(":")
    raws = []
    for at in range(clients):
        told = body(todo[at % len(todo)], strategy="best-of-n:n=256,stop_at_first=false")
        payload = json.dumps(told).encode()
        raw = socket.create_connection((host, int(port)))
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(payload)}\r\n"
        raw.sendall(f"{head}Content-Type: application/json\r\n\r\n".encode() + payload)
        raws.append(raw)
    with httpx2.Client(base_url=url, timeout=60) as http:
        while (before := in_flight(http))["runs_running"] + before["runs_waiting"] < clients:
            time.sleep(0.01)
        began = time.monotonic()
        for raw in raws:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            raw.close()
        while any(in_flight(http).values()):
            time.sleep(0.005)
        return {"before": before, "seconds_until_all_free": round(time.monotonic() - began, 3)}


def spread(values: list[float]) -> dict[str, float]:
    cut = statistics.quantiles(values, n=100)
    told = {"median": statistics.median(values), "p95": cut[94], "p99": cut[98], "largest": max(values)}
    return {name: round(value, 4) for name, value in told.items()}


def report(tally: Tally, seconds: float) -> dict[str, Any]:
    memory = tally.memory
    thirds = [statistics.median(part) for part in (memory[len(memory) // 3 : 2 * len(memory) // 3],
                                                   memory[2 * len(memory) // 3 :])]  # fmt: skip
    return {
        "replies": len(tally.whole),
        "replies_per_second": round(len(tally.whole) / seconds, 1),
        "wrong": tally.wrong,
        "lost": len(tally.lost),
        "lost_why": sorted(set(tally.lost))[:5],
        "first_event_seconds": spread(tally.first_event),
        "first_growth_seconds": spread(tally.first_growth),
        "whole_seconds": spread(tally.whole),
        "memory_mib": {"first": round(memory[0]), "second_third": round(thirds[0]), "last_third": round(thirds[1]),
                       "largest": round(max(memory))},
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--leaving", type=int, default=50)
    parser.add_argument("--slots", type=int, default=64)
    given = parser.parse_args()
    todo = tasks()
    command = [sys.executable, "-m", "led_agent", "serve", "--port", "0", "--slots", str(given.slots), "--json",
               "--kept", "64", "--max-waiting", "1000"]  # fmt: skip
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        assert server.stdout is not None
        url = json.loads(server.stdout.readline())["url"]
        asyncio.run(load(url, server.pid, todo, min(given.clients, 20), 5.0))  # everything is warm then
        tally = asyncio.run(load(url, server.pid, todo, given.clients, given.seconds))
        left = [leave(url, todo, given.leaving) for _ in range(3)]
    finally:
        server.terminate()
        server.wait(60)
    print(json.dumps({"clients": given.clients, **report(tally, given.seconds), "left": left}, indent=1))


if __name__ == "__main__":
    main()
