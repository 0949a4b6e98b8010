"""Clusters that nodes join and leave, and clusters that are reached through a Ray Client server."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.heads import ROOT, environment, free_port, head
from tests.cluster.searching import puzzles

HERE = Path(__file__).parent
LONG = 400  # seconds; a cluster's nodes take half a minute to start on a busy machine
pytestmark = pytest.mark.slow


def test_a_node_leaves_in_mid_run_and_another_one_joins() -> None:
    command = [sys.executable, str(HERE / "nodes_driver.py")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=LONG, env=environment(), cwd=ROOT)
    assert ended.returncode == 0, ended.stderr[-4000:]
    found = json.loads(ended.stdout.splitlines()[-1])
    assert found["same"], found
    assert found["problems"] == [f"p{at}" for at in range(8)]
    assert found["errors"] == []
    assert found["attempts"] >= 2, found
    assert found["newcomers"] >= 1, found  # a decoder that came later has done some of it
    assert found["followed"]
    assert found["runs"]
    assert (found["open"], found["put_aside"]) == (0, 0)


# --- ray:// --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def client_address() -> Iterator[str]:
    """A cluster in processes of its own, with a server for clients."""
    client_port = free_port()
    with head(free_port(), f"--ray-client-server-port={client_port}", "--num-cpus=2", "--node-ip-address=127.0.0.1"):
        yield f"ray://127.0.0.1:{client_port}"


def results(command: list[str], folder: Path) -> dict[str, Any]:
    path = folder / "problems.jsonl"
    path.write_text("".join(json.dumps({"id": p.id, "prompt": p.prompt}) + "\n" for p in puzzles(4)))
    call = [sys.executable, "-m", "led_agent", "run", str(path), "--out", str(folder / "run"), "--json", "--n", "4"]
    options = ["--all", "--device", "cpu", "--dtype", "float32", "--slots", "4", *command]
    ended = subprocess.run([*call, *options], capture_output=True, text=True, timeout=LONG, env=environment(), cwd=ROOT)
    assert ended.returncode in (0, 1), ended.stderr[-4000:]
    rows = [json.loads(line) for line in ended.stdout.splitlines()]
    return {row["id"]: (row["text"], row["answer"], row["status"], row["usage"]["generated_tokens"]) for row in rows}


def test_a_run_through_a_client_server_gives_what_a_local_one_gives(client_address: str, tmp_path: Path) -> None:
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    here = results([], tmp_path / "here")
    assert results(["--cluster", client_address], tmp_path / "there") == here
    assert len(here) == 4


def test_top_looks_through_a_client_server(client_address: str) -> None:
    command = [sys.executable, "-m", "led_agent", "top", client_address, "--once"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=LONG, env=environment(), cwd=ROOT)
    assert (ended.returncode, ended.stdout) == (0, "no search runs on this cluster\n"), ended.stderr[-4000:]
