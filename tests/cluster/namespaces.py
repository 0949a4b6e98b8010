"""Several machines on one, and a knife for the cable between them: network namespaces, one a node, joined by a bridge.

The bridge lives in a namespace too. So nothing is set up in the machine's own network, two runs at a time cannot meet
even with the same addresses and ports, and what is in the namespaces goes when they go. Needs root on Linux and the
command ip; `supported` says what is missing.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import random
import secrets
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RAY = Path(sys.prefix) / "bin" / "ray"
GCS_PORT = 6379  # each head is alone in its namespace
STORE_BYTES = 80_000_000  # Ray takes no fewer than 75 MB
STARTING = 120.0  # seconds a node may take on a busy machine
ENDING = 20.0
CAP_NET_ADMIN, CAP_SYS_ADMIN = 12, 21  # numbers of bits in CapEff


@dataclass(frozen=True)
class Node:
    """One machine: its namespace, its address there, and its port on the bridge."""

    name: str
    namespace: str
    address: str
    port: str


@dataclass(frozen=True)
class Health:
    """How soon Ray takes a silent node for dead."""

    period_ms: int = 1000
    timeout_ms: int = 1000
    failures: int = 5

    @property
    def seconds(self) -> float:
        """The longest until it does."""
        return self.failures * (self.period_ms + self.timeout_ms) / 1000

    def environment(self) -> dict[str, str]:
        return {
            "RAY_health_check_initial_delay_ms": str(self.period_ms),
            "RAY_health_check_period_ms": str(self.period_ms),
            "RAY_health_check_timeout_ms": str(self.timeout_ms),
            "RAY_health_check_failure_threshold": str(self.failures),
        }


def supported() -> str | None:
    """Why this machine cannot do it, or None where it can: found by doing it, without any Ray."""
    if shutil.which("ip") is None:
        return "the command ip (Debian package iproute2) is not installed"
    if os.geteuid() != 0:
        return "network namespaces are for root"
    held = int(Path("/proc/self/status").read_text().split("CapEff:")[1].split()[0], 16)
    for name, bit in (("CAP_NET_ADMIN", CAP_NET_ADMIN), ("CAP_SYS_ADMIN", CAP_SYS_ADMIN)):
        if not held >> bit & 1:
            return f"root lacks {name} here"
    try:
        with network(["probe"]) as found:
            found.cut("probe")
            found.mend("probe")
    except subprocess.CalledProcessError as error:
        return f"{' '.join(error.cmd)}: {error.stderr.strip()}"
    return None


@contextlib.contextmanager
def network(names: Sequence[str]) -> Iterator[Network]:
    """Namespaces of these names, each joined to the bridge; all of it is gone afterwards, with every process in it."""
    made = Network()
    try:
        made.build(names)
        yield made
    finally:
        made.close()


@contextlib.contextmanager
def ray_cluster(workers: int = 2, *, cpus: int = 1, health: Health | None = None) -> Iterator[Cluster]:
    """A Ray head without CPUs of its own and so many workers, as the nodes "head", "worker-1", …, all running."""
    names = ["head", *(f"worker-{i}" for i in range(1, workers + 1))]
    with network(names) as net:
        cluster = Cluster(net, health or Health())
        cluster.start_node("head", 0)
        starting = [cluster.launch_node(name, cpus) for name in names[1:]]
        for program in starting:
            program.until(_started, STARTING)
        yield cluster


class Network:
    """The namespaces, their cables, and the programs that were started in them."""

    def __init__(self) -> None:
        self.tag = secrets.token_hex(3)
        self.nodes: dict[str, Node] = {}
        self.folder = Path(tempfile.mkdtemp(prefix="led-", dir="/tmp"))  # short: Ray's sockets lie in it
        self._switch = f"led-{self.tag}-switch"
        self._namespaces: list[str] = []
        self._programs: list[Program] = []

    def build(self, names: Sequence[str]) -> None:
        self._add_namespace(self._switch)
        ip("-n", self._switch, "link", "add", "bridge", "type", "bridge")
        ip("-n", self._switch, "link", "set", "bridge", "up")
        # Addresses that are set aside for tests of networks, so that none is a real machine's.
        net = f"198.{random.choice((18, 19))}.{random.randrange(256)}"
        for number, name in enumerate(names, start=1):
            self._add_node(Node(name, f"led-{self.tag}-{name}", f"{net}.{number}", f"port{number}"))

    def _add_namespace(self, name: str) -> None:
        ip("netns", "add", name)
        self._namespaces.append(name)
        ip("-n", name, "link", "set", "lo", "up")

    def _add_node(self, node: Node) -> None:
        self._add_namespace(node.namespace)
        ends = ("link", "add", node.port, "netns", self._switch, "type", "veth")
        ip(*ends, "peer", "name", "eth0", "netns", node.namespace)
        ip("-n", node.namespace, "address", "add", f"{node.address}/24", "dev", "eth0")
        ip("-n", node.namespace, "link", "set", "eth0", "up")
        ip("-n", self._switch, "link", "set", node.port, "master", "bridge")
        ip("-n", self._switch, "link", "set", node.port, "up")
        self.nodes[node.name] = node

    def cut(self, name: str) -> None:
        """Lose every packet to and from the node. Its link stays up: nobody is told, as with a dead switch."""
        ip("-n", self._switch, "link", "set", self.nodes[name].port, "nomaster")

    def mend(self, name: str) -> None:
        ip("-n", self._switch, "link", "set", self.nodes[name].port, "master", "bridge")

    def run(self, name: str, command: Sequence[str], environment: dict[str, str]) -> Program:
        """Start a program on a node. It is ended with the network at the latest."""
        log = self.folder / f"{len(self._programs)}-{name}.log"
        inside = ["ip", "netns", "exec", self.nodes[name].namespace, *command]
        self._programs.append(Program(inside, environment, log))
        return self._programs[-1]

    def processes(self) -> set[int]:
        """All that runs in the namespaces, whoever started it."""
        return {pid for namespace in self._namespaces for pid in _pids(namespace)}

    def close(self) -> None:
        """End the programs, last started first, then whatever they left, and remove all that was made.

        Nothing is asked to end in order: a node that is cut off would try for long to tell the others.
        """
        with contextlib.ExitStack() as last:  # runs in the reverse order, and each even where another failed
            last.callback(shutil.rmtree, self.folder)
            for namespace in self._namespaces:
                last.callback(_remove_namespace, namespace)
            for program in self._programs:
                last.callback(program.end)


@dataclass
class Cluster:
    """A Ray cluster on a network, and drivers for it."""

    network: Network
    health: Health
    token: str = field(default_factory=lambda: secrets.token_hex(16))

    def __post_init__(self) -> None:
        self.token_file = self.network.folder / "token"
        self.token_file.write_text(self.token)

    @property
    def address(self) -> str:
        return f"{self.network.nodes['head'].address}:{GCS_PORT}"

    def cut(self, name: str) -> None:
        self.network.cut(name)

    def mend(self, name: str) -> None:
        self.network.mend(name)

    def environment(self) -> dict[str, str]:
        """Of every process of the cluster; what this machine says of other Ray clusters is left out."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        paths = [str(ROOT), *filter(None, [kept.get("PYTHONPATH")])]
        ours = {
            "PYTHONPATH": os.pathsep.join(paths),
            "LED_NAMESPACES": self.network.tag,  # by which a test finds a process that got away
            "RAY_ADDRESS": self.address,
            "RAY_AUTH_MODE": "token",  # Ray's default; its own token, so that the user's is neither needed nor made
            "RAY_AUTH_TOKEN_PATH": str(self.token_file),
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        return kept | ours | self.health.environment()

    def start_node(self, name: str, cpus: int) -> Program:
        program = self.launch_node(name, cpus)
        program.until(_started, STARTING)
        return program

    def launch_node(self, name: str, cpus: int) -> Program:
        """Without waiting for it."""
        role = ["--head", f"--port={GCS_PORT}", "--include-dashboard=false"]
        if name != "head":
            role = [f"--address={self.address}"]
        options = [
            f"--node-ip-address={self.network.nodes[name].address}",
            f"--num-cpus={cpus}",
            "--num-gpus=0",
            "--include-log-monitor=false",  # a process fewer a node; drivers see no prints of their actors
            f'--resources={{"{name}": 1}}',  # by which an actor is put on this node
            f"--object-store-memory={STORE_BYTES}",
            f"--temp-dir={self.network.folder / name}",
        ]
        environment = self.environment()
        if name != "head":
            del environment["RAY_ADDRESS"]  # ray start takes it for an attempt to start a node twice
        return self.network.run(name, [str(RAY), "start", "--block", *role, *options], environment)

    def driver(self, script: Path, *arguments: str, node: str = "head") -> Program:
        """Run a Python program on a node, for which `ray.init("auto")` is this cluster."""
        return self.network.run(node, [sys.executable, str(script), *arguments], self.environment())


class Program:
    """A process whose lines are waited for, each wait with an end; what it says on standard error is kept in a file."""

    def __init__(self, command: Sequence[str], environment: dict[str, str], log: Path):
        self._command, self._log = list(command), log
        self.lines: list[str] = []  # all that it has printed so far
        self._new: queue.Queue[str | None] = queue.Queue()
        with log.open("w") as errors:
            self.process = subprocess.Popen(
                self._command,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,  # an interrupt of the tests is for the tests, which then end this in order
            )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))
            self._new.put(self.lines[-1])
        self._new.put(None)

    def until(self, wanted: Callable[[str], bool], seconds: float) -> str:
        """The next line that is wanted; those before it are passed over."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                line = self._new.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise AssertionError(self._told(f"did not say it within {seconds:.0f} s")) from None
            if line is None:
                self._new.put(None)  # for who asks again
                raise AssertionError(self._told("ended without saying it"))
            if wanted(line):
                return line

    def event(self, name: str, seconds: float) -> dict[str, Any]:
        """The next JSON object with this "event" among the lines."""
        return _event(self.until(lambda line: _event(line).get("event") == name, seconds))

    def tell(self, line: str) -> None:
        """One line to its standard input."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise AssertionError(self._told(f"ended before it was told {line!r}")) from None

    def wait(self, seconds: float) -> int:
        """Its exit code."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(self._told(f"did not end within {seconds:.0f} s")) from None

    def end(self) -> None:
        """Kill it, as the kernel does when memory is short. What it has started lives on, until the network is gone."""
        self.process.kill()  # does nothing where it has ended
        self.process.wait()
        self._close()

    def _close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        # What it has started may hold its standard output open, and is ended later: until then the reader reads.
        threading.Thread(target=self._close_when_read, daemon=True).start()

    def _close_when_read(self) -> None:
        assert self.process.stdout is not None
        self._reader.join()
        self.process.stdout.close()

    def _told(self, what: str) -> str:
        said = "\n".join(self.lines[-30:])
        errors = "\n".join(self._log.read_text().splitlines()[-30:])
        return f"{' '.join(self._command)} {what}\nstandard output:\n{said}\nstandard error:\n{errors}"


def _started(line: str) -> bool:
    return "Ray runtime started." in line


def _event(line: str) -> dict[str, Any]:
    """The object on a line; a line that is none, as a library may print one, is an empty one."""
    try:
        found = json.loads(line)
    except json.JSONDecodeError:
        return {}
    return found if isinstance(found, dict) else {}


def ip(*arguments: str) -> str:
    """What the command says; with what it complains of in the exception."""
    return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True).stdout


def _pids(namespace: str) -> list[int]:
    return [int(pid) for pid in ip("netns", "pids", namespace).split()]


def _remove_namespace(namespace: str) -> None:
    deadline = time.monotonic() + ENDING
    while pids := _pids(namespace):  # again, for what was started while these were ended
        for pid in pids:
            _kill(pid, namespace, deadline)
    ip("netns", "delete", namespace)


def _kill(pid: int, namespace: str, deadline: float) -> None:
    """Kill the process and wait for its end, unless the number has become that of another outside."""
    try:
        process = os.pidfd_open(pid)  # stays this process's, as its number does not
    except ProcessLookupError:
        return
    try:
        if Path(f"/proc/{pid}/ns/net").stat().st_ino != Path(f"/run/netns/{namespace}").stat().st_ino:
            return
        signal.pidfd_send_signal(process, signal.SIGKILL)
        ended, _, _ = select.select([process], [], [], max(0.0, deadline - time.monotonic()))
        if not ended:
            raise AssertionError(f"process {pid} in {namespace} does not end")
    except (ProcessLookupError, FileNotFoundError):
        return  # it ended meanwhile
    finally:
        os.close(process)
