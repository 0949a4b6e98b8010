"""What test_cut.py runs: a search whose decoders are on two other machines. It says in mid-run which of them works, so
that its cable can be cut, and at the end what came of it, as JSON lines."""

from __future__ import annotations

import json
import sys
from collections import Counter
from typing import Any

from led_agent.cluster.decoder import ClusterDecoder
from led_agent.cluster.plan import Cluster
from led_agent.cluster.watch import look
from tests.cluster.searching import Once, branches, grown, puzzles, searching, until

ASKED = puzzles(6)


def say(event: str, **facts: Any) -> None:
    print(json.dumps({"event": event, **facts}), flush=True)


def main() -> None:
    with searching() as search:
        local = grown(search.solve_many(ASKED))
    say("local", branches=len(local))

    def tell() -> None:
        busy = max(look().decoders, key=lambda status: status.busy + status.waiting)
        say("running", host=busy.host, decoders=len(look().decoders))
        sys.stdin.readline()  # the cable has been cut

    with searching(cluster=Cluster(address="auto", decoders=2), observer=Once(tell)) as search:
        search.prepare()
        assert until(lambda: len(look().decoders) == 2)
        found = list(search.solve_many(ASKED))
        decoder = search.decoder
        assert isinstance(decoder, ClusterDecoder)
        state = decoder.state()
        seen = branches(found)
        say(
            "found",
            same=grown(found) == local,
            problems=[solution.problem.key for solution in found],
            errors=[branch.error for branch in seen.values() if branch.error],
            decoders=Counter(branch.decoder for branch in seen.values()),
            attempts=max(branch.attempts for branch in seen.values()),
            state=state,
        )
    say("ended")


if __name__ == "__main__":
    main()
