"""What test_autoscaler.py runs, with a cluster's address: a search that goes on until two decoders take part. It prints
one JSON object."""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections.abc import Iterator

from led_agent.cluster.plan import Cluster
from led_agent.types import Problem
from tests.cluster.searching import puzzles, searching

ENOUGH = 300  # seconds: two nodes start, one after the other, each in up to a minute on a busy machine


def without_end() -> Iterator[Problem]:
    """Work for as long as the second decoder takes to come."""
    for at, problem in enumerate(itertools.cycle(puzzles(500))):
        yield problem.model_copy(update={"id": f"p{at}"})


def main(address: str) -> None:
    decoders: set[str | None] = set()
    errors: list[str] = []
    deadline = time.monotonic() + ENOUGH
    with searching(cluster=Cluster(address=address, wait=ENOUGH)) as search:
        for solution in search.solve_many(without_end()):
            branches = [node.branch for node in solution.tree.nodes() if node.branch is not None]
            decoders |= {branch.decoder for branch in branches}
            errors += [branch.error for branch in branches if branch.error]
            if len(decoders) == 2 or time.monotonic() > deadline:
                break
    print(json.dumps({"decoders": len(decoders), "errors": errors}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
