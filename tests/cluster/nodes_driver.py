"""What test_nodes.py runs: a search on a Ray cluster of several nodes on this machine, of which one leaves in mid-run
and another one joins. It prints one JSON object."""

from __future__ import annotations

import json
import os
import signal
from typing import Any

import ray
from ray.cluster_utils import Cluster as RayCluster

from led_agent.cluster.decoder import ClusterDecoder
from led_agent.cluster.watch import look
from tests.cluster.searching import Once, branches, grown, puzzles, searching, until

ASKED = puzzles(8)


def main() -> None:
    with searching() as search:
        local = grown(search.solve_many(ASKED))
    cluster = RayCluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        first = cluster.add_node(num_cpus=1)
        cluster.add_node(num_cpus=1)
        print(json.dumps(play(cluster, first, local)), flush=True)
    finally:
        ray.shutdown()
        cluster.shutdown()


def play(cluster: RayCluster, first: Any, local: Any) -> dict[str, Any]:
    def leave() -> None:
        assert isinstance(search.decoder, ClusterDecoder)
        (pid,) = [s.loaded.pid for s in search.decoder.crew.seats if s.node == first.node_id and s.loaded is not None]
        os.kill(pid, signal.SIGSTOP)  # it takes seconds to remove a node, in which it would end what it holds
        cluster.remove_node(first, allow_graceful=False)
        os.kill(pid, signal.SIGKILL)
        cluster.add_node(num_cpus=1, wait=False)

    with searching(cluster=cluster.address, observer=Once(leave)) as search:
        search.prepare()
        both = until(lambda: len(look().decoders) == 2)
        earlier = {status.name for status in look().decoders}
        found = list(search.solve_many(ASKED))
        replaced = until(lambda: len(look().decoders) == 2)
        again = list(search.solve_many(puzzles(6, seed=11)))  # the new node's decoder has work to take
        decoder = search.decoder
        assert isinstance(decoder, ClusterDecoder)
        followed = until(lambda: len(decoder.nodes) == 3 and first.node_id not in {node.id for node in decoder.nodes})
        runs = look().runs
        state = decoder.state()
    everything = [*branches(found).items(), *branches(again).items()]
    return {
        "same": grown(found) == local,
        "problems": [solution.problem.key for solution in found],
        "errors": [branch.error for _, branch in everything if branch.error],
        "attempts": max(branch.attempts for _, branch in everything),
        "newcomers": len({branch.decoder for _, branch in everything} - earlier),
        "followed": both and replaced and followed,
        "runs": list(runs) == [decoder.run],
        "open": state["open"],
        "put_aside": state["put_aside"],
    }


if __name__ == "__main__":
    main()
