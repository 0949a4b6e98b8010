"""Clients that leave: their runs end, and their slots are free again."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
from typing import Any

import pytest

from led_agent.local import LocalDecoder
from led_agent.serving.limits import Limits
from tests.serving.servers import PATIENCE, Running, asked, running, setup_of, until


def connect(server: Running, **rest: object) -> socket.socket:
    """A client that has asked and reads nothing."""
    body = json.dumps({**asked("w1 w2", model="tiny", max_tokens=50_000), **rest}).encode()
    raw = socket.create_connection(server.socket.getsockname(), timeout=PATIENCE)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
    raw.sendall(f"{head}Content-Type: application/json\r\n\r\n".encode() + body)
    return raw


def leave(raw: socket.socket, *, abruptly: bool) -> None:
    if abruptly:  # a reset, as of a process that was killed
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    raw.close()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("abruptly", [False, True])
def test_a_client_that_leaves_frees_its_slots(slow: LocalDecoder, stream: bool, abruptly: bool):
    with running(setup_of(slow, slow.tokens, limits=Limits(max_tokens=100_000))) as server:
        raw = connect(server, stream=stream)
        assert until(lambda: slow.in_flight > 0)
        leave(raw, abruptly=abruptly)
        assert until(lambda: slow.in_flight == 0)
        assert until(lambda: server.service.running == 0)  # its slots are free before its end is written down
        (run,) = server.ask("GET", "/v1/runs").json()["data"]
        assert run["status"] == "done"
        assert run["reason"].startswith("stopped")
        assert "led_agent_runs_stopped_total 1.0" in server.ask("GET", "/metrics").text


def test_a_stream_is_left_also_where_the_server_speaks_a_newer_asgi(slow: LocalDecoder):
    """There nobody else watches for it, and what is sent to who has left is passed over."""

    def newer(app: Any) -> Any:
        async def served(scope: Any, receive: Any, send: Any) -> None:
            await app({**scope, "asgi": {"version": "3.0", "spec_version": "2.4"}}, receive, send)

        return served

    with running(setup_of(slow, slow.tokens, limits=Limits(max_tokens=100_000)), newer) as server:
        raw = connect(server, stream=True)
        assert until(lambda: slow.in_flight > 0)
        leave(raw, abruptly=True)
        assert until(lambda: slow.in_flight == 0)


def test_many_that_leave_at_once_leave_nothing_behind(slow: LocalDecoder):
    with running(setup_of(slow, slow.tokens, limits=Limits(max_tokens=100_000))) as server:
        clients = [connect(server, stream=at % 2 == 0) for at in range(50)]
        assert until(lambda: server.service.running + server.service.waiting == 50)
        assert until(lambda: slow.in_flight > 0)
        for at, raw in enumerate(clients):
            leave(raw, abruptly=at % 3 != 0)
        assert until(lambda: server.service.running + server.service.waiting == 0)
        assert until(lambda: slow.in_flight == 0)
        short = {**asked("w1 w2", model="tiny"), "max_tokens": 3}
        assert server.ask("POST", "/v1/chat/completions", json=short).status_code == 200  # and it goes on


def test_who_listens_to_a_run_may_leave_without_ending_it(slow: LocalDecoder):
    with running(setup_of(slow, slow.tokens, limits=Limits(max_tokens=100_000))) as server:
        body = {"messages": [{"role": "user", "content": "w1 w2"}], "max_tokens": 50_000}
        run = server.ask("POST", "/v1/runs", json=body).json()["id"]
        with contextlib.closing(socket.create_connection(server.socket.getsockname(), timeout=PATIENCE)) as raw:
            raw.sendall(f"GET /v1/runs/{run}/events HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            assert b"event: index" in raw.recv(65536) + raw.recv(65536)
        assert until(lambda: not server.service.find(run, "").feeds)
        assert server.ask("GET", f"/v1/runs/{run}").json()["status"] == "running"
        server.ask("DELETE", f"/v1/runs/{run}")
