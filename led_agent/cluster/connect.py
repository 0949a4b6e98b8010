"""Reaching a Ray cluster, or starting a private one on this machine.

This file knows addresses and what can be wrong with them. It does not know what the cluster is used for.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import ray

from led_agent.cluster.plan import Cluster, Node
from led_agent.errors import LedError, MachineError, raised

__all__ = ["NAMESPACE", "connect", "nodes_of"]

_log = logging.getLogger("led_agent.cluster")
NAMESPACE = "led_agent"
_PROBE = 5.0  # seconds in which an address must take a connection
_SECONDS = 60.0  # in which a cluster that answers at all must have let this process in
_TRIES = 6  # at a Ray Client server that answers and then fails; of three, all failed 1 time in 100
_HTTP2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5)  # the preface, and empty settings
_STORE = 200 << 20  # bytes; results are small and travel without it


def connect(cluster: Cluster) -> Callable[[], None]:
    """Connect this process; returns what ends the connection, where it was made here.

    Raises:
        MachineError: nobody answers at the address, or the one who does runs another version of Ray or Python.
    """
    if ray.is_initialized():
        _same(cluster)
        return lambda: None
    address = cluster.address or os.environ.get("RAY_ADDRESS") or "local"
    if address == "local":
        _start_local()
    elif address == "auto":
        _join(
            "auto", "no Ray cluster runs on this machine; `ray start --head` starts one, cluster='local' a private one"
        )
    else:
        _probe(address)
        _join(address, f"no Ray cluster answers at {address}")
    return ray.shutdown


def nodes_of() -> list[Node]:
    """The nodes that are alive and not about to go.

    Raises:
        MachineError: the cluster doesn't answer.
    """
    try:
        found = ray.nodes()
    except Exception as error:
        raise MachineError(raised("the Ray cluster", error)) from error
    return [
        Node(
            id=str(node["NodeID"]),
            host=str(node["NodeManagerAddress"]),
            cpus=float(node["Resources"].get("CPU", 0.0)),
            gpus=float(node["Resources"].get("GPU", 0.0)),
        )
        for node in found
        if node["Alive"]
    ]


def _same(cluster: Cluster) -> None:
    """This process is connected already: that has to be what is asked for."""
    address = cluster.address
    if address is None or address in ("local", "auto") or address.startswith("ray://"):
        return
    there = str(ray.get_runtime_context().gcs_address)
    if there != address:
        raise MachineError(
            f"this process is connected to the Ray cluster at {there} already, and cluster is {address!r}; call "
            "ray.shutdown() first, or give cluster='auto'"
        )


def _start_local() -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a private Ray of ours reports to nobody
    with _quietly():
        try:
            ray.init(
                address="local",
                include_dashboard=False,
                object_store_memory=_STORE,
                namespace=NAMESPACE,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        except Exception as error:
            raise MachineError(f"{raised('Ray', error)}, when it was started on this machine") from error


def _join(address: str, failed: str) -> None:
    """``ray.init``, once more where a Ray Client server doesn't get a process for this client going.

    In Ray 2.60 that forks while other threads talk, and the new process died at its birth in 3 of 14 tries.
    """
    for left in reversed(range(_TRIES)):
        problem = _init(address, failed)
        if problem is None:
            return
        if not (left and address.startswith("ray://") and isinstance(problem, ConnectionAbortedError)):
            raise _told(problem, address, failed) from problem
        _log.warning("%s; trying again", _told(problem, address, f"the Ray Client server at {address} failed"))
        ray.shutdown()


def _init(address: str, failed: str) -> BaseException | None:
    """What ``ray.init`` raises. It may wait for ever for one that takes a connection and says nothing."""
    problem: list[BaseException] = []

    def init() -> None:
        try:
            with _quietly():
                ray.init(address=address, namespace=NAMESPACE, log_to_driver=False, logging_level=logging.ERROR)
        except BaseException as error:  # noqa: BLE001 - it is told in the thread that waits
            problem.append(error)

    thread = threading.Thread(target=init, name="led-connect", daemon=True)
    thread.start()
    thread.join(_SECONDS)
    if thread.is_alive():
        raise MachineError(
            f"{failed}: somebody is there, and has not let this process in within {_SECONDS:g} s; does the cluster ask "
            "for a token (RAY_AUTH_MODE=token here, too), or run another version of Ray?"
        )
    return problem[0] if problem else None


def _told(error: BaseException, address: str, failed: str) -> LedError:
    text = str(error)
    if "version mismatch" in text.lower():
        lines = " ".join(line.strip() for line in text.splitlines() if line.strip())
        return MachineError(
            f"the cluster at {address} runs other versions than this process: {lines}; install the same ones on both"
        )
    if isinstance(error, ImportError) and address.startswith("ray://"):
        return MachineError(f"{address} needs Ray's client: pip install 'led-agent[cluster]' ({text.splitlines()[0]})")
    if isinstance(error, ConnectionAbortedError):  # a whole traceback of the server's, whose last line is the reason
        return MachineError(f"{failed} ({type(error).__name__}: {' … '.join(_ends(text))})")
    return MachineError(f"{failed} ({raised('Ray', error)})")


def _ends(text: str) -> list[str]:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return list(dict.fromkeys([*lines[:1], *lines[-1:]]))


def _probe(address: str) -> None:
    """Say within seconds that nobody is there, or somebody else, which Ray itself takes half a minute for, or for ever.

    A cluster's servers speak gRPC, so that they answer the first words of HTTP/2 at once.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    deadline = time.monotonic() + _PROBE
    while True:
        try:
            with socket.create_connection((host.strip("[]"), int(port)), timeout=_PROBE) as connection:
                _greet(connection, address)
        except OSError as error:
            if isinstance(error, ConnectionRefusedError) and time.monotonic() + 0.5 < deadline:
                time.sleep(0.5)  # it may be just starting
                continue
            why = "no answer" if isinstance(error, TimeoutError) else error.strerror or str(error)
            raise MachineError(
                f"no Ray cluster answers at {address}: {why}; is its head running (`ray start --head`), is the port "
                "right (ray:// is 10001 unless told otherwise, host:port is 6379), and may this machine reach it?"
            ) from error
        return


def _greet(connection: socket.socket, address: str) -> None:
    if os.environ.get("RAY_USE_TLS", "0") not in ("", "0"):
        return  # there the first words are others
    try:
        connection.sendall(_HTTP2)
        answered = bool(connection.recv(1))
    except TimeoutError:
        answered = False
    if not answered:
        raise MachineError(
            f"no Ray cluster answers at {address}: somebody takes the connection there, and says nothing that Ray "
            "would; is the port right (ray:// is 10001 unless told otherwise, host:port is 6379)?"
        )


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without what Ray says at its start to whoever reads standard error."""
    logger: Any = logging.getLogger("ray")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
