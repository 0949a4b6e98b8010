"""What test_namespaces.py runs: an actor on each worker node, asked at what the test says on standard input.

It says what happens as JSON lines, and each line of input is "ask NODE SECONDS", "state NODE ALIVE SECONDS" or "end".
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import ray


@ray.remote(num_cpus=1)
class Counter:
    def __init__(self) -> None:
        self.asked = 0

    def ask(self) -> int:
        self.asked += 1
        return self.asked


def say(event: str, **facts: Any) -> None:
    print(json.dumps({"event": event, **facts}), flush=True)


def ask(actor: Any, seconds: float) -> dict[str, Any]:
    try:
        return {"answer": ray.get(actor.ask.remote(), timeout=seconds)}
    except (ray.exceptions.RayActorError, ray.exceptions.GetTimeoutError) as error:
        return {"error": type(error).__name__, "dead": isinstance(error, ray.exceptions.RayActorError)}


def reached(name: str, alive: bool, seconds: float) -> bool:
    """Whether Ray comes to say so of the node."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for node in ray.nodes():
            # The resources of a node go with it, its address stays.
            if node["NodeManagerAddress"] == ADDRESSES[name] and node["Alive"] == alive:
                return True
        time.sleep(0.05)  # Ray has nothing to wait on for this
    return False


def main() -> None:
    ray.init("auto", log_to_driver=False)
    actors = {name: Counter.options(resources={name: 1}).remote() for name in ADDRESSES}
    say("ready", asked={name: ask(actor, 60) for name, actor in actors.items()})
    for line in sys.stdin:
        order, *words = line.split()
        if order == "ask":
            say("asked", **ask(actors[words[0]], float(words[1])))
        elif order == "state":
            say("state", reached=reached(words[0], words[1] == "alive", float(words[2])))
        else:
            break
    say("ended")


if __name__ == "__main__":
    ADDRESSES: dict[str, str] = json.loads(sys.argv[1])
    main()
