"""Clusters that can't be reached, in processes of their own: this one is connected already, or never will be."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

WITHIN = 45  # seconds that it may take to say that nobody answers, on a busy machine too
REACH = f"""
import json, os, sys, threading
import torch, transformers, ray
from led_agent import Search
from led_agent.cluster.decoder import ClusterDecoder
threading.Timer({WITHIN}, lambda: os._exit(9)).start()
try:
    Search(cluster=sys.argv[1]).prepare()
except Exception as error:
    print(json.dumps([type(error).__name__, str(error)]), flush=True)
os._exit(0)  # without waiting for what Ray still tries
"""


def reach(address: str) -> tuple[str, str]:
    """What a search there raises; the process fails where it takes too long to say so."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    ended = subprocess.run(
        [sys.executable, "-c", REACH, address], capture_output=True, text=True, timeout=300, env=environment
    )
    assert ended.returncode == 0, f"nothing within {WITHIN} s (exit code {ended.returncode})\n{ended.stderr[-2000:]}"
    kind, message = json.loads(ended.stdout.splitlines()[-1])
    return kind, message


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of a service that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1"])
def test_an_address_where_nobody_listens_is_named(address: str) -> None:
    kind, message = reach(address)
    assert kind == "MachineError"
    assert f"no Ray cluster answers at {address}: Connection refused; is its head running" in message


def test_a_name_that_is_no_machine_s_is_named() -> None:
    kind, message = reach("no-such-host.invalid:6379")
    assert kind == "MachineError"
    assert "no Ray cluster answers at no-such-host.invalid:6379" in message


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_another_service_than_ray_is_told_from_it(scheme: str, silent: str) -> None:
    kind, message = reach(scheme + silent)
    assert kind == "MachineError"
    assert f"no Ray cluster answers at {scheme}{silent}" in message


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_the_command_ends_with_its_exit_code_though_ray_still_tries(scheme: str, silent: str) -> None:
    command = [sys.executable, "-m", "led_agent", "solve", "Use 4, 7 and 12 to make 40.", "--cluster", scheme + silent]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 3
    assert "says nothing that Ray would" in " ".join(ended.stderr.split())
    assert "Traceback" not in ended.stderr
