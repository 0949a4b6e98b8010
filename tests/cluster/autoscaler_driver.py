"""What test_autoscaler.py runs, with a cluster's address: a search that goes on until two decoders take part. It prints
one JSON object."""

from __future__ import annotations

import json
import sys
import time

from led_agent.cluster.plan import Cluster
from tests.cluster.searching import SOON, puzzles, searching


def main(address: str) -> None:
    decoders: set[str | None] = set()
    errors: list[str] = []
    deadline = time.monotonic() + SOON
    with searching(cluster=Cluster(address=address, wait=SOON)) as search:
        for solution in search.solve_many(puzzles(2500)):
            branches = [node.branch for node in solution.tree.nodes() if node.branch is not None]
            decoders |= {branch.decoder for branch in branches}
            errors += [branch.error for branch in branches if branch.error]
            if len(decoders) == 2 or time.monotonic() > deadline:
                break
    print(json.dumps({"decoders": len(decoders), "errors": errors}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
