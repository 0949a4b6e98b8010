"""What the server refuses: strangers, too much, too slow, other hosts, and code."""

from __future__ import annotations

import json
import socket
from dataclasses import replace
from typing import Any

import openai
import pytest

from led_agent.local import LocalDecoder
from led_agent.serving.app import Setup
from led_agent.serving.asking import Defaults
from led_agent.serving.limits import BusyError, Keys, Limits, RefusedError
from led_agent.verifiers import matches
from tests.serving.servers import PATIENCE, Running, asked, running, setup_of, until

PATHS = ("/v1/chat/completions", "/v1/models", "/v1/runs", "/v1/settings", "/v1/runs/x/events")


def test_without_a_key_everything_but_health_is_401(countdown: Setup):
    with running(replace(countdown, keys=Keys(["right"]))) as server:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic cmlnaHQ="}):
            for path in PATHS:
                method = "POST" if path.endswith("completions") else "GET"
                reply = server.ask(method, path, headers=headers, **({"json": asked()} if method == "POST" else {}))
                assert reply.status_code == 401, path
                assert reply.headers["www-authenticate"] == "Bearer"
                assert reply.json()["error"]["type"] == "authentication_error"
        with server.client("wrong") as client, pytest.raises(openai.AuthenticationError, match="not known here"):
            client.models.list()
        with server.client("right") as client:
            assert client.chat.completions.create(**asked()).choices[0].message.content
        assert server.ask("GET", "/healthz").status_code == 200
        assert server.ask("GET", "/metrics").status_code == 200


def test_a_key_is_its_owners_name_and_gives_nothing_away():
    keys = Keys(["one", "two", "ключ"])
    assert keys.needed
    owners = {keys.owner(key) for key in ("one", "two", "ключ")}
    assert len(owners) == 3
    assert not any(key in owner for key in ("one", "two") for owner in owners)
    assert Keys().owner("anything") == Keys().owner(None) == ""
    for given in (None, "", "three", "one "):
        with pytest.raises(RefusedError):
            keys.owner(given)


def test_a_large_body_is_refused_before_it_is_read(countdown: Setup):
    with running(replace(countdown, limits=Limits(body_bytes=1000))) as server:
        reply = server.ask("POST", "/v1/chat/completions", json=asked("x" * 2000))
        assert reply.status_code == 413
        assert "larger than the 1000 bytes" in reply.json()["error"]["message"]
        with socket.create_connection(server.socket.getsockname(), timeout=PATIENCE) as raw:  # without a length
            raw.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
            for _ in range(3):
                raw.sendall(b"200\r\n" + b"x" * 512 + b"\r\n")
            assert raw.recv(100).startswith(b"HTTP/1.1 413")
        assert server.ask("POST", "/v1/chat/completions", json=asked()).status_code == 200


def test_a_slow_body_is_refused(countdown: Setup):
    with (
        running(replace(countdown, limits=Limits(body_seconds=0.05))) as server,
        socket.create_connection(server.socket.getsockname(), timeout=PATIENCE) as raw,
    ):
        raw.sendall(b"POST /v1/runs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
        assert raw.recv(100).startswith(b"HTTP/1.1 408")


def test_other_hosts_are_refused(server: Running):
    """A page of another name that leads here must not search, nor read what was found."""
    for host, status in (("evil.example", 421), ("localhost:80", 200), ("[::1]:9", 200), ("", 421)):
        assert server.ask("GET", "/healthz", headers={"Host": host}).status_code == status
    reply = server.ask("POST", "/v1/runs", content=json.dumps(asked()), headers={"Content-Type": "text/plain"})
    assert reply.status_code == 400  # what a page may send without being asked first


def test_other_origins_are_let_in_when_they_are_named(countdown: Setup):
    preflight = {"Origin": "http://a.example", "Access-Control-Request-Method": "POST"}
    with running(replace(countdown, origins=["http://a.example"])) as server:
        allowed = server.ask("OPTIONS", "/v1/chat/completions", headers=preflight)
        assert allowed.headers["access-control-allow-origin"] == "http://a.example"
        refused = server.ask("OPTIONS", "/v1/chat/completions", headers={**preflight, "Origin": "http://b.example"})
        assert "access-control-allow-origin" not in refused.headers


def test_a_full_queue_is_429_and_says_when_to_come_back(slow: LocalDecoder):
    with running(setup_of(slow, slow.tokens, limits=Limits(waiting=2, max_tokens=100_000))) as server:
        body = {"messages": [{"role": "user", "content": "w1 w2"}], "max_tokens": 50_000}
        runs, refused = [], None
        for _ in range(16):
            reply = server.ask("POST", "/v1/runs", json=body)
            if reply.status_code == 429:
                refused = reply
                break
            runs.append(reply.json()["id"])
            # Each is begun where there is room; there is none once more is asked for than there are slots.
            assert until(lambda: server.service.waiting == 0 or slow.in_flight > slow.slots)
        assert refused is not None
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        assert "wait already" in refused.json()["error"]["message"]
        with server.client() as client, pytest.raises(openai.RateLimitError):
            client.post("/runs", body=body, cast_to=object)
        for run in runs:
            server.ask("DELETE", f"/v1/runs/{run}")
        assert until(lambda: server.service.running == 0)
        assert server.ask("POST", "/v1/runs", json=body).status_code == 202  # there is room again
        assert "led_agent_runs_refused_total 2.0" in server.ask("GET", "/metrics").text


def test_a_run_ends_with_its_time(slow: LocalDecoder):
    with running(setup_of(slow, slow.tokens, limits=Limits(seconds=2.5, max_tokens=100_000))) as server:
        body = {**asked("w1 w2", model="tiny"), "max_tokens": 50_000, "led": {"budget": {"seconds": 1000}}}
        reply = server.ask("POST", "/v1/chat/completions", json=body).json()
        assert reply["led"]["status"] == "budget"
        assert "2.5 seconds" in reply["led"]["reason"]
        assert reply["choices"][0]["finish_reason"] == "length"
        assert reply["choices"][0]["message"]["content"]


def test_code_runs_only_where_it_is_switched_on(countdown: Setup):
    led = {"tests": "assert answer() == 42", "verifiers": ["unit_tests"], "n": 1}
    with running(replace(countdown, defaults=Defaults(code=True))) as server:
        assert "unit_tests" in server.ask("GET", "/v1/settings").json()["verifiers"]
        reply = server.ask("POST", "/v1/chat/completions", json=asked(led=led)).json()
        (verdict,) = reply["choices"][0]["led"]["verdicts"][:1]
        assert verdict["verifier"] == "unit_tests"
        assert verdict["status"] == "rejected"  # what the model says is no program


def test_the_owners_verifiers_judge_unless_others_are_named(countdown: Setup):
    own = {"brackets": matches(r"\(")}
    with running(replace(countdown, defaults=Defaults(verifiers=own))) as server:
        assert server.ask("GET", "/v1/settings").json()["verifiers"][0] == "brackets"

        def judged(**led: Any) -> set[str]:
            reply = server.ask("POST", "/v1/chat/completions", json=asked(led={"n": 2, **led})).json()
            return {verdict["verifier"] for verdict in reply["choices"][0]["led"]["verdicts"]}

        assert judged() == judged(verifiers=["brackets"]) == {"matches"}
        assert judged(verifiers=["countdown"]) == {"countdown"}


def test_an_error_says_what_waits():
    error = BusyError("full", 7)
    assert (error.status, error.retry_after, str(error)) == (429, 7, "full")


def test_unknown_paths_and_methods_are_told_as_openai_tells_them(server: Running):
    for method, path, status in (("GET", "/v2", 404), ("GET", "/v1/chat/completions", 405), ("PUT", "/v1/runs", 405)):
        reply = server.ask(method, path)
        assert reply.status_code == status
        assert reply.json()["error"]["message"]
