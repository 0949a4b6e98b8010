"""Runs that nobody waits for, their trees and their events; whose they are, and how many are kept."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx2
import pytest

from led_agent.local import LocalDecoder
from led_agent.serving.app import Setup
from led_agent.serving.limits import Keys, Limits
from tests.serving.servers import PATIENCE, PUZZLE, Running, asked, running, setup_of, until


def told_by(server: Running, run: str, **headers: str) -> Iterator[tuple[str, Any]]:
    """A run's events."""
    with httpx2.stream("GET", f"{server.url}/v1/runs/{run}/events", headers=headers, timeout=PATIENCE) as stream:
        name = ""
        for line in stream.iter_lines():
            if line.startswith("event: "):
                name = line.removeprefix("event: ")
            elif line.startswith("data: "):
                yield name, json.loads(line.removeprefix("data: "))


def begin(server: Running, prompt: str = PUZZLE, headers: dict[str, str] | None = None, **rest: Any) -> str:
    body = {"messages": [{"role": "user", "content": prompt}], "seed": 0, **rest}
    reply = server.ask("POST", "/v1/runs", json=body, headers=headers or {})
    assert reply.status_code == 202, reply.text
    return str(reply.json()["id"])


def status(server: Running, run: str) -> str:
    return str(server.ask("GET", f"/v1/runs/{run}").json()["status"])


def test_events_add_up_to_the_tree(server: Running):
    run = begin(server, led={"n": 6})
    shown: dict[str, Any] = {}
    head: dict[str, Any] = {}
    names = []
    for name, data in told_by(server, run):
        names.append(name)
        if name == "index":
            (head,) = data["problems"]
            shown = {node["id"]: node for node in head.pop("nodes")}
        elif name == "problem":
            head = data
        elif name == "node":
            assert data["problem"] == run
            shown[data["node"]["id"]] = data["node"]
    assert names[0] == "index"
    assert names[-1] == "done"
    (row,) = server.ask("GET", f"/v1/runs/{run}").json()["problems"]
    assert [*shown.values()] == row.pop("nodes")
    assert head == row
    assert row["ended"]["verified"]
    result = server.ask("GET", f"/v1/runs/{run}/result").json()
    assert (result["answer"], result["state"]) == (row["ended"]["answer"], "done")


def test_a_run_that_has_ended_tells_its_index_and_that_it_is_done(server: Running):
    run = begin(server)
    assert until(lambda: status(server, run) == "done")
    events = list(told_by(server, run))
    assert [name for name, _ in events] == ["index", "done"]
    assert not events[0][1]["live"]


def test_a_branch_is_shown_whole(server: Running, countdown: Setup):
    run = begin(server)
    assert until(lambda: status(server, run) == "done")
    best = server.ask("GET", f"/v1/runs/{run}").json()["problems"][0]["ended"]["best"]
    told = server.ask("GET", f"/v1/runs/{run}/node", params={"id": best, "problem": run}).json()
    assert "".join(told["pieces"]) == told["text"]
    assert told["verdicts"][0]["status"] == "accepted"
    for params, fault in (({"id": "nonsense"}, "no node"), ({"id": best, "problem": "x"}, "no problem")):
        reply = server.ask("GET", f"/v1/runs/{run}/node", params=params)
        assert reply.status_code == 404
        assert fault in reply.json()["error"]["message"]


def test_a_run_goes_on_without_its_client_and_is_stopped_when_told(slow: LocalDecoder):
    with running(setup_of(slow, slow.tokens)) as server:
        run = begin(server, "w1 w2", max_tokens=8000)
        events = told_by(server, run)
        assert next(events)[0] == "index"
        assert next(name for name, data in events if name == "growing" and data["tokens"] > 8) == "growing"
        assert server.ask("DELETE", f"/v1/runs/{run}").json()["id"] == run
        assert list(events)[-1][0] == "done"
        ended = server.ask("GET", f"/v1/runs/{run}").json()["problems"][0]["ended"]
        assert (ended["status"], ended["reason"]) == ("interrupted", "stopped; this is the best so far")
        assert ended["usage"]["generated_tokens"] > 8
        assert until(lambda: slow.in_flight == 0)
        assert server.ask("DELETE", f"/v1/runs/{run}").json()["status"] == "done"  # again: nothing happens


def test_what_waits_is_stopped_before_it_is_begun(slow: LocalDecoder):
    with running(setup_of(slow, slow.tokens)) as server:
        runs = [begin(server, "w1 w2", max_tokens=8000) for _ in range(10)]
        assert until(lambda: status(server, runs[0]) == "running")
        waiting = next(run for run in runs if status(server, run) == "queued")
        server.ask("DELETE", f"/v1/runs/{waiting}")
        assert until(lambda: status(server, waiting) == "done")
        ended = server.ask("GET", f"/v1/runs/{waiting}/result").json()
        assert (ended["status"], ended["reason"]) == ("interrupted", "stopped before it was begun")
        listed = server.ask("GET", "/v1/runs").json()["data"]
        assert {row["status"] for row in listed} == {"queued", "running", "done"}
        assert [row["id"] for row in listed] == list(reversed(runs))
        for run in runs:
            server.ask("DELETE", f"/v1/runs/{run}")


def test_the_oldest_runs_are_forgotten(countdown: Setup):
    with running(replace(countdown, limits=Limits(kept=2))) as server:
        replies = [server.ask("POST", "/v1/chat/completions", json=asked()).json() for _ in range(4)]
        runs = [reply["led"]["run"] for reply in replies]
        found = [server.ask("GET", f"/v1/runs/{run}").status_code for run in runs]
        assert found == [404, 404, 200, 200]


def test_runs_are_seen_by_their_owner_only(countdown: Setup):
    with running(replace(countdown, keys=Keys(["mine", "yours"]))) as server:
        mine, yours = ({"Authorization": f"Bearer {key}"} for key in ("mine", "yours"))
        run = begin(server, headers=mine)
        for path in ("", "/events", "/result", "/node?id=1"):
            assert server.ask("GET", f"/v1/runs/{run}{path}", headers=yours).status_code == 404
        assert server.ask("DELETE", f"/v1/runs/{run}", headers=yours).status_code == 404
        assert server.ask("GET", f"/v1/runs/{run}", headers=mine).status_code == 200
        assert [row["id"] for row in server.ask("GET", "/v1/runs", headers=mine).json()["data"]] == [run]
        assert server.ask("GET", "/v1/runs", headers=yours).json()["data"] == []


@pytest.mark.parametrize("path", ["", "/events", "/node?id=1", "/result"])
def test_a_run_that_there_is_not(server: Running, path: str):
    reply = server.ask("GET", f"/v1/runs/run-0{path}")
    assert reply.status_code == 404
    assert reply.json()["error"]["code"] == "run_not_found"
