"""How a server ends: runs may come to theirs, and none is waited for that never would."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest

from led_agent.errors import MachineError
from led_agent.journal import Journal, read_trees
from led_agent.local import LocalDecoder
from led_agent.loop import Loop
from led_agent.serving.app import Setup
from led_agent.serving.limits import Limits
from led_agent.serving.run import is_loopback, listen
from tests.serving.servers import PATIENCE, Running, asked, running, setup_of, until


def reply_to(server: Running, body: dict[str, Any], replies: list[httpx2.Response]) -> threading.Thread:
    thread = threading.Thread(
        target=lambda: replies.append(server.ask("POST", "/v1/chat/completions", json=body)), daemon=True
    )
    thread.start()
    return thread


def test_what_is_on_is_finished_before_it_ends(countdown: Setup):
    with running(replace(countdown, limits=Limits(shutdown_seconds=60))) as server:
        replies: list[httpx2.Response] = []
        threads = [reply_to(server, asked(seed=seed), replies) for seed in range(6)]
        assert until(lambda: len(server.service.runs("")) == 6)
        server.stop()
        for thread in threads:
            thread.join(60)
        assert [reply.status_code for reply in replies] == [200] * 6
        assert all(reply.json()["led"]["status"] != "interrupted" for reply in replies)


def test_what_takes_too_long_is_answered_with_what_there_is(slow: LocalDecoder):
    limits = Limits(shutdown_seconds=2.0, max_tokens=100_000)
    with running(setup_of(slow, slow.tokens, limits=limits)) as server:
        replies: list[httpx2.Response] = []
        thread = reply_to(server, {**asked("w1 w2", model="tiny"), "max_tokens": 50_000}, replies)
        assert until(lambda: slow.in_flight > 0)
        server.stop()
        thread.join(60)
        (reply,) = replies
        assert reply.status_code == 200
        assert reply.json()["led"]["status"] == "interrupted"
        assert reply.json()["choices"][0]["message"]["content"]
        assert until(lambda: slow.in_flight == 0)


def test_a_search_that_fails_answers_everybody_and_says_so(
    slow: LocalDecoder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    with running(setup_of(slow, slow.tokens, limits=Limits(max_tokens=100_000))) as server:
        replies: list[httpx2.Response] = []
        thread = reply_to(server, {**asked("w1 w2", model="tiny"), "max_tokens": 50_000}, replies)
        assert until(lambda: slow.in_flight > 0)

        def fail(_loop: Loop) -> None:
            raise ZeroDivisionError("a bug")

        monkeypatch.setattr(Loop, "propose", fail)
        thread.join(60)
        (reply,) = replies
        assert reply.json()["led"]["status"] == "failed"
        assert "ZeroDivisionError: a bug" in reply.json()["led"]["reason"]
        assert server.ask("GET", "/healthz").status_code == 503
        again = server.ask("POST", "/v1/chat/completions", json=asked("w1 w2", model="tiny"))
        assert again.status_code == 503
        assert "can't go on" in again.json()["error"]["message"]
        assert "the search has failed" in caplog.text
        assert until(lambda: slow.in_flight == 0)


@pytest.mark.parametrize("late", [False, True])
def test_who_reads_a_run_as_the_search_fails_is_answered(
    slow: LocalDecoder, monkeypatch: pytest.MonkeyPatch, late: bool
):
    """The question comes between the last look at what was asked and the thread's end, or after that."""
    with running(setup_of(slow, slow.tokens, limits=Limits(max_tokens=100_000))) as server:
        body = {"messages": [{"role": "user", "content": "w1 w2"}], "max_tokens": 50_000}
        run = server.ask("POST", "/v1/runs", json=body).json()["id"]
        assert until(lambda: slow.in_flight > 0)
        failing, asked_it, real = threading.Event(), threading.Event(), Loop.post

        def fail(_loop: Loop) -> None:
            failing.set()
            asked_it.wait(PATIENCE)
            raise ZeroDivisionError("a bug")

        def post(loop: Loop, order: Callable[[], None]) -> None:
            if late:
                asked_it.set()
                server.service._thread.join(PATIENCE)
            real(loop, order)
            asked_it.set()

        monkeypatch.setattr(Loop, "propose", fail)
        assert failing.wait(PATIENCE)
        monkeypatch.setattr(Loop, "post", post)
        assert server.ask("GET", f"/v1/runs/{run}").json()["status"] == "done"


def test_every_run_can_be_kept_in_a_journal(countdown: Setup, tmp_path: Path):
    with Journal(tmp_path / "runs.jsonl") as journal, running(replace(countdown, journal=journal)) as server:
        replies = [server.ask("POST", "/v1/chat/completions", json=asked(seed=seed)).json() for seed in range(3)]
    trees = read_trees(tmp_path / "runs.jsonl")
    assert list(trees) == [reply["led"]["run"] for reply in replies]
    for reply, tree in zip(replies, trees.values(), strict=True):
        assert tree.text(tree.best().id) == reply["choices"][0]["message"]["content"]


def test_a_port_that_is_taken_is_named():
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(MachineError, match=f"port {port}: Address already in use; choose another --port"):
            listen("127.0.0.1", port)
    with pytest.raises(MachineError, match=r"can't listen on 'no\.such\.host\.invalid'"):
        listen("no.such.host.invalid", 0)


@pytest.mark.parametrize(
    ("host", "so"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("example.org", False)],
)
def test_which_addresses_are_this_machines_own(host: str, so: bool):
    assert is_loopback(host) is so
