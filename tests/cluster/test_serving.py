"""The server on a cluster: Ray Serve starts it, and starts it again."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest

from led_agent import solve
from led_agent.cli.serve import serve
from led_agent.errors import UsageError
from led_agent.strategies import BestOfN
from tests.cluster.heads import environment, free_port

PUZZLE = "Use 3, 20 and 5 to make 35."
PATIENCE = 120.0


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Its address and its process. Ended as a user ends it."""
    command = [sys.executable, "-m", "led_agent", "serve", "--cluster", "local", "--port", str(free_port())]
    with subprocess.Popen(
        [*command, "--json", "--quiet"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
    ) as started:
        try:
            assert started.stdout is not None
            # Ray may have said something before.
            first = next((line for line in started.stdout if line.startswith("{")), None)
            assert first is not None, started.communicate()[1][-3000:]
            yield json.loads(first)["url"], started
            started.send_signal(signal.SIGTERM)
            assert started.wait(PATIENCE) == 0
        finally:
            started.kill()


def asked(**rest: Any) -> dict[str, Any]:
    return {"model": "countdown", "messages": [{"role": "user", "content": PUZZLE}], "seed": 0, **rest}


def ask(url: str, **rest: Any) -> httpx2.Response:
    return httpx2.post(f"{url}/v1/chat/completions", json=asked(**rest), timeout=PATIENCE)


def connection(url: str) -> socket.socket:
    """One that can be left at any moment."""
    address = urlsplit(url)
    return socket.create_connection((address.hostname, address.port), timeout=PATIENCE)


def post(url: str, path: str, body: dict[str, Any]) -> bytes:
    told = json.dumps(body).encode()
    fields = (f"Host: {urlsplit(url).netloc}", "Content-Type: application/json", f"Content-Length: {len(told)}")
    return "\r\n".join((f"POST {path} HTTP/1.1", *fields, "", "")).encode() + told


def figure(url: str, name: str) -> int:
    lines = httpx2.get(f"{url}/metrics", timeout=PATIENCE).text.splitlines()
    return next(int(float(line.split()[1])) for line in lines if line.startswith(f"led_agent_{name} "))


def until(condition: Any) -> bool:
    pause = threading.Event()
    for _ in range(int(PATIENCE / 0.1)):
        if condition():
            return True
        pause.wait(0.1)
    return False


def test_it_answers_as_a_server_in_one_process_does(server: tuple[str, subprocess.Popen[str]]):
    url, _ = server
    whole = {"strategy": "best-of-n:n=3,stop_at_first=false"}
    reply = ask(url, led=whole).json()
    same = solve(PUZZLE, strategy=BestOfN(3, stop_at_first=False))
    assert reply["choices"][0]["message"]["content"] == same.text
    streamed = ask(url, led={**whole, "progress": True}, stream=True).text.splitlines()
    pieces = [json.loads(line[6:]) for line in streamed if line.startswith("data: {")]
    said = "".join(choice["delta"].get("content", "") for piece in pieces for choice in piece["choices"])
    assert said == same.text
    assert streamed[-2:] == ["data: [DONE]", ""]
    nodes = {piece["led"]["data"]["node"]["id"] for piece in pieces if piece.get("led", {}).get("event") == "node"}
    assert nodes == {"1", "2", "3"}


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_ends_its_run(server: tuple[str, subprocess.Popen[str]], stream: bool):
    url, _ = server
    long = asked(stream=stream, led={"strategy": "best-of-n:n=256,stop_at_first=false"})
    stopped = figure(url, "runs_stopped_total")
    with connection(url) as client:
        client.sendall(post(url, "/v1/chat/completions", long))
        assert until(lambda: figure(url, "branches_in_flight") > 0)  # it leaves while the search is on
    assert until(lambda: figure(url, "branches_in_flight") == 0)
    assert until(lambda: figure(url, "runs_stopped_total") == stopped + 1)


def test_it_is_started_again_when_it_dies(server: tuple[str, subprocess.Popen[str]]):
    url, started = server
    (replica,) = descendants(started.pid, "ray::ServeReplica:led_agent")
    before = ask(url, temperature=0).json()["choices"][0]["message"]["content"]
    os.kill(replica, signal.SIGKILL)
    assert until(lambda: alive(url) and descendants(started.pid, "ray::ServeReplica:led_agent") != [replica])
    assert ask(url, temperature=0).json()["choices"][0]["message"]["content"] == before


def alive(url: str) -> bool:
    try:
        return httpx2.get(f"{url}/healthz", timeout=5).status_code == 200
    except httpx2.HTTPError:
        return False


def descendants(pid: int, title: str) -> list[int]:
    """Processes of that title that a process has started, or those that it started."""
    parents: dict[int, int] = {}
    titled = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                if (folder / "cmdline").read_text().startswith(title):
                    titled.append(int(folder.name))
            except OSError:  # it has ended
                continue
    found = []
    for one in titled:
        above = one
        while above in parents and above != pid:
            above = parents[above]
        if above == pid:
            found.append(one)
    return found


def test_what_can_not_be_had_there_is_refused(tmp_path: Path):
    with pytest.raises(UsageError, match="--save writes where the search runs"):
        serve(cluster="local", save=tmp_path / "x", port=1)
    with pytest.raises(UsageError, match="--port 0 can't be had on a cluster"):
        serve(cluster="local", port=0)
    with pytest.raises(UsageError, match="--cluster-wait is for a server on a cluster"):
        serve(cluster_wait=3.0)
