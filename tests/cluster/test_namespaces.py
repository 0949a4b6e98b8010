"""The harness itself: packets are lost while a node is cut off, Ray then notices, and nothing is left behind.

The tests need root on Linux and the command ip. Where a machine does not allow them, they are skipped and say why.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from tests.cluster import namespaces
from tests.cluster.namespaces import Cluster, Health, Network, network, ray_cluster

HERE = Path(__file__).parent
SOON = 30.0  # seconds; nothing here takes so long unless it is broken
NEVER = 0.5  # seconds in which a packet would have come
RECEIVE = """
import socket
bound = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
bound.bind(("0.0.0.0", 9))
print("bound", flush=True)
while True:
    print(bound.recv(99).decode(), flush=True)
"""
SEND = """
import socket, sys
out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for line in sys.stdin:
    out.sendto(line.strip().encode(), (sys.argv[1], 9))
    print("sent", flush=True)
"""


@pytest.fixture(autouse=True, scope="module")
def _possible() -> None:
    reason = namespaces.supported()
    if reason is not None:
        pytest.skip(reason)


def left_behind(tag: str) -> dict[str, list[str]]:
    """What there still is of a run: namespaces and processes."""
    marked = f"LED_NAMESPACES={tag}".encode()
    return {
        "namespaces": [line for line in namespaces.ip("netns", "list").splitlines() if tag in line],
        "processes": [str(pid) for pid in Path("/proc").glob("[0-9]*") if marked in environment(pid)],
    }


def environment(process: Path) -> list[bytes]:
    try:
        return (process / "environ").read_bytes().split(b"\0")
    except OSError:  # it has just ended
        return []


def test_packets_are_lost_while_a_node_is_cut_off():
    with network(["a", "b"]) as net:
        receiver = net.run("b", [sys.executable, "-c", RECEIVE], dict(os.environ))
        receiver.until(lambda line: line == "bound", SOON)
        sender = net.run("a", [sys.executable, "-c", SEND, net.nodes["b"].address], dict(os.environ))
        for word in ("first", "second"):
            sender.tell(word)
            receiver.until(lambda line, word=word: line == word, SOON)
            net.cut("b")
            sender.tell("lost")
            sender.until(lambda line: line == "sent", SOON)
            with pytest.raises(AssertionError, match="did not say it"):
                receiver.until(lambda line: line == "lost", NEVER)
            net.mend("b")


def test_a_failure_leaves_nothing_behind():
    kept: list[Network] = []

    def fail(net: Network) -> None:
        mark = dict(os.environ) | {"LED_NAMESPACES": net.tag}
        parent = "import subprocess, sys; subprocess.Popen(['sleep', '600'], start_new_session=True); print('ok')"
        program = net.run("a", [sys.executable, "-c", parent], mark)
        assert program.wait(SOON) == 0  # its child lives on in a session of its own
        assert len(left_behind(net.tag)["processes"]) == len(net.processes()) == 1
        kept.append(net)
        raise RuntimeError("as a test fails")

    with pytest.raises(RuntimeError, match="as a test fails"), network(["a"]) as net:
        fail(net)
    assert not any(left_behind(kept[0].tag).values())
    assert not kept[0].folder.exists()


def test_a_program_that_ends_or_is_silent_is_told_with_what_it_said():
    with network(["a"]) as net:
        says = "import sys; print('well'); print('because', file=sys.stderr)"
        program = net.run("a", [sys.executable, "-c", says], dict(os.environ))
        with pytest.raises(AssertionError, match=r"(?s)ended without saying it.*well.*because"):
            program.event("ready", SOON)
        silent = net.run("a", [sys.executable, "-c", "input()"], dict(os.environ))
        with pytest.raises(AssertionError, match="did not say it within 0 s"):
            silent.event("ready", 0.1)


@pytest.mark.slow
def test_ray_notices_a_cut_and_nothing_is_left_behind():
    with ray_cluster(2, health=Health(period_ms=1000, timeout_ms=1000, failures=5)) as cluster:
        play(cluster)
        assert len(left_behind(cluster.network.tag)["processes"]) > 3  # so that none is seen below because none is left
    assert not any(left_behind(cluster.network.tag).values())
    assert not cluster.network.folder.exists()


def play(cluster: Cluster) -> None:
    """A short cut, which is survived, and a long one, of which the node dies; the other node answers all along."""
    addresses = {name: node.address for name, node in cluster.network.nodes.items() if name != "head"}
    driver = cluster.driver(HERE / "cut_driver.py", json.dumps(addresses))
    ready = driver.event("ready", 120)
    assert ready["asked"] == {"worker-1": {"answer": 1}, "worker-2": {"answer": 1}}

    cluster.cut("worker-1")
    driver.tell("ask worker-1 1")
    assert driver.event("asked", SOON)["error"] == "GetTimeoutError"
    cluster.mend("worker-1")
    driver.tell("ask worker-1 20")
    assert driver.event("asked", SOON)["answer"] == 3  # the question asked in vain arrived after all, and first

    cluster.cut("worker-1")
    driver.tell(f"state worker-1 dead {cluster.health.seconds + 5}")
    assert driver.event("state", SOON)["reached"]
    driver.tell("ask worker-1 10")
    assert driver.event("asked", SOON)["dead"]
    driver.tell("ask worker-2 10")
    assert driver.event("asked", SOON)["answer"] == 2
    driver.tell("end")
    assert driver.wait(SOON) == 0
