"""Ray clusters in processes of their own, started as users start them."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]


def environment() -> dict[str, str]:
    """Without what this machine says of other Ray clusters."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    paths = [str(ROOT), *filter(None, [kept.get("PYTHONPATH")])]
    return kept | {"PYTHONPATH": os.pathsep.join(paths), "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}


def free_port() -> int:
    """One of those that neither the system gives to whoever asks for any, as Ray does, nor Ray's servers for clients
    choose: nobody takes it before it is used."""
    while True:
        port = random.SystemRandom().randint(24_100, 32_000)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


@contextlib.contextmanager
def head(port: int, *options: str, variables: dict[str, str] | None = None) -> Iterator[Path]:
    """``ray start --head``, ended in the end with all that it has started; gives its folder."""
    # A short name: it is that of sockets.
    with tempfile.TemporaryDirectory(prefix="led-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        command = [
            *(str(Path(sys.prefix) / "bin" / "ray"), "start", "--head", "--block", f"--port={port}", *options),
            *("--include-dashboard=false", f"--temp-dir={folder}", "--object-store-memory=80000000"),
        ]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT, start_new_session=True,
            env=environment() | (variables or {}),
        ) as started:  # fmt: skip
            assert started.stdout is not None
            try:
                said = []
                for line in started.stdout:
                    said.append(line)
                    if "Ray runtime started" in line:
                        break
                else:
                    raise AssertionError("".join(said))
                yield Path(folder)
            finally:
                # Asked to end, it takes half a minute. What is without these two ends by itself.
                for pid in (started.pid, *processes(folder)):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)


def processes(word: str) -> list[int]:
    """Those whose command line holds this word."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                if word.encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
    return found
