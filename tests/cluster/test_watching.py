"""What is seen of a search from outside: `led-agent top`, and the metrics that Ray exports."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator

import httpx2
import pytest
import ray

from led_agent.cluster.decoder import ClusterDecoder
from led_agent.cluster.plan import Cluster
from tests.cluster.searching import SOON, puzzles, searching, until

pytestmark = pytest.mark.usefixtures("ray_session")


def top(*options: str) -> str:
    """What the command prints of this session's cluster, in a process of its own."""
    address = ray.get_runtime_context().gcs_address
    command = [sys.executable, "-m", "led_agent", "top", address, "--once", *options]
    wide = os.environ | {"COLUMNS": "160"}
    ended = subprocess.run(command, capture_output=True, text=True, timeout=SOON, check=False, env=wide)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_a_cluster_without_searches_says_so() -> None:
    assert top() == "no search runs on this cluster\n"
    assert json.loads(top("--json")) == {"runs": {}, "decoders": [], "verifiers": [], "silent": []}


@pytest.fixture(scope="module")
def run(ray_session: None) -> Iterator[str]:
    """A search on a cluster, which has solved two problems and is not closed yet; its name."""
    with searching(cluster=Cluster(decoders=1, verifiers=1)) as search:
        assert len(list(search.solve_many(puzzles(2)))) == 2
        assert isinstance(search.decoder, ClusterDecoder)
        yield search.decoder.run


def test_top_as_json_tells_of_runs_decoders_and_verifiers(run: str) -> None:
    board = json.loads(top("--json"))
    assert board["silent"] == []
    state = board["runs"][run]
    assert (state["decoders"], state["done"], state["open"], state["deaths"]) == (1, 8, 0, 0)
    (decoder,) = board["decoders"]
    assert decoder["name"] == f"led-decoder-{run}-0-1"
    assert (decoder["driver"], decoder["model"], decoder["device"], decoder["slots"]) == (run, "countdown", "cpu", 4)
    assert (decoder["busy"], decoder["waiting"], decoder["branches"]) == (0, 0, 8)
    assert decoder["tokens"] > decoder["explored"] > 0
    (verifier,) = board["verifiers"]
    assert sum(verifier["verifiers"]["countdown"]["verdicts"].values()) == 8


def test_top_shows_them_as_tables(run: str) -> None:
    shown = top()
    assert re.search(rf"run {run} .*1 decoders, 8 branches done, 0 open", " ".join(shown.split()))
    assert f"{run}-0-1" in shown
    assert "0/4" in shown
    assert "tokens/s" in shown
    assert re.search(r"countdown \d", shown)


@pytest.mark.skipif(
    importlib.util.find_spec("aiohttp_cors") is None or importlib.util.find_spec("opencensus") is None,
    reason="Ray exports metrics where ray[default] is installed: pip install 'ray[default]'",
)
def test_metrics_are_exported_on_the_node(run: str) -> None:
    (node,) = ray.nodes()
    address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    wanted = {
        *("tokens_total", "prefill_tokens_total", "explored_tokens_total", "branches_total"),
        *("slots", "slots_busy", "exploration_rate", "requests_waiting", "requests_open"),
    }
    ours: list[str] = []

    def exported() -> bool:
        try:
            lines = httpx2.get(address, timeout=10).text.splitlines()
        except httpx2.HTTPError:  # it is slow, or not there yet
            return False
        ours[:] = [line for line in lines if re.match(r"ray_led_agent_\w+\{", line) and run in line]
        told = {line.partition("{")[0].removeprefix("ray_led_agent_"): float(line.split()[-1]) for line in ours}
        return wanted <= set(told) and told["branches_total"] == 8

    assert until(exported), ours  # Ray exports every few seconds, and what there was then
    (branches,) = [line for line in ours if line.startswith("ray_led_agent_branches_total{")]
    assert f'decoder="led-decoder-{run}-0-1"'.lower() in branches.lower()
