"""A Ray Client server that fails now and then, as real ones do. Those are in test_nodes.py and test_addresses.py."""

from __future__ import annotations

import logging

import pytest
import ray

from led_agent.cluster import connect
from led_agent.cluster.plan import Cluster
from led_agent.errors import MachineError

FAILED = ConnectionAbortedError(
    "Initialization failure from server:\nTraceback (most recent call last):\n  File proxier.py\n"
    "RuntimeError: Starting Ray client server failed. See ray_client_server_23000.err for detailed logs.\n"
)


class Server:
    """In place of Ray: it fails so many times, and then lets the process in."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *failures: Exception) -> None:
        self.failures, self.said = list(failures), []
        monkeypatch.setattr(ray, "is_initialized", lambda: False)
        monkeypatch.setattr(ray, "init", self._init)
        monkeypatch.setattr(ray, "shutdown", lambda: self.said.append("shutdown"))
        monkeypatch.setattr(connect, "_probe", lambda address: None)

    said: list[str]

    def _init(self, **options: object) -> None:
        self.said.append("init")
        if self.failures:
            raise self.failures.pop(0)


def test_a_client_server_that_fails_is_asked_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    server = Server(monkeypatch, FAILED, FAILED)
    with caplog.at_level(logging.WARNING, logger="led_agent.cluster"):
        connect.connect(Cluster(address="ray://head:10001"))
    assert server.said == ["init", "shutdown", "init", "shutdown", "init"]
    assert "Starting Ray client server failed" in caplog.text
    assert "trying again" in caplog.text


def test_one_that_fails_always_is_an_error_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server(monkeypatch, *[FAILED] * 9)
    with pytest.raises(MachineError, match=r"ray://head:10001 .*Starting Ray client server failed"):
        connect.connect(Cluster(address="ray://head:10001"))
    assert server.said.count("init") == 6


@pytest.mark.parametrize(
    ("address", "failure"), [("ray://head:10001", ConnectionError("refused")), ("head:6379", FAILED)]
)
def test_other_failures_are_told_at_once(monkeypatch: pytest.MonkeyPatch, address: str, failure: Exception) -> None:
    server = Server(monkeypatch, failure)
    with pytest.raises(MachineError, match=address):
        connect.connect(Cluster(address=address))
    assert server.said == ["init"]
