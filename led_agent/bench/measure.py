"""``bench``: a model's engine against its peers, in one interleaved run. No torch here; the arms are in ``peers``."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Sequence
from pathlib import Path

from led_agent.bench.harness import Comparison, Progress, compare
from led_agent.bench.workload import Workload
from led_agent.errors import ModelError, UsageError
from led_agent.models import default_model, locate
from led_agent.record import Record

__all__ = ["PEERS", "Absent", "BenchResult", "bench", "check_peers"]

PEERS = ("generate", "static", "continuous", "llama.cpp")
_DTYPES = ("auto", "float32", "bfloat16", "float16")
_VERSIONS = ("torch", "transformers", "llama-cpp-python")


class Absent(Record):
    """A peer that was asked for and can't be run here, and why."""

    name: str
    reason: str


class BenchResult(Record):
    """What was measured, on what, and what could not be.

    Attributes:
        workload: With the dtype that was used.
        threads: That every arm computes with, on a CPU.
        load: The machine's load of the minute before: processes that wanted a processor. Where others keep one busy,
            what waits for all of its threads after each product is slowed down the most, up to ten times.
        versions: Of the libraries that are installed.
    """

    model: str
    device: str
    threads: int
    load: float
    versions: dict[str, str]
    workload: Workload
    comparison: Comparison
    absent: tuple[Absent, ...]


def bench(
    model: str | None = None,
    workload: Workload | None = None,
    *,
    rounds: int = 5,
    peers: Sequence[str] = PEERS,
    device: str = "auto",
    gguf: Path | None = None,
    progress: Progress | None = None,
) -> BenchResult:
    """Time the engine, the engine with LED and the peers on one workload, interleaved.

    A peer that isn't installed is in the result with what to install; one that fails, with its error. Ctrl-C keeps the
    rounds that are complete.

    Args:
        model: Embedded name, local path, hub id or alias; None is "countdown".
        peers: Of ``PEERS``.
        gguf: The model as a GGUF file, for llama.cpp.
        progress: Told what is being done and how far it is.

    Raises:
        UsageError: an option is out of its limits, or the workload doesn't fit the model.
        ModelError: the model is missing or not supported, or no arm could be run.
    """
    work, load = workload or Workload(), os.getloadavg()[0]
    chosen = check_peers(peers)
    _check(work, rounds, gguf)
    if progress is not None:
        progress("loading the engine", 0, 0)
    path = locate(model)
    from led_agent.bench.peers import ENGINE, LED, Peers

    made = Peers(path, work, device=device, gguf=gguf)
    arms, absent = [made.plain(), made.led()], []
    for peer in chosen:
        arm = made.arm(peer)
        if isinstance(arm, str):
            absent.append(Absent(name=peer, reason=arm))
        else:
            arms.append(arm)
    ratios = [(LED, ENGINE), *((ENGINE, arm.name) for arm in arms[2:])]
    found = compare(arms, rounds=rounds, ratios=ratios, progress=progress)
    if all(arm.error for arm in found.arms):
        raise ModelError(f"no arm could be run; of the first: {found.arms[0].error}")
    return BenchResult(
        model=model or default_model(),
        device=str(made.device),
        threads=made.threads,
        load=round(load, 2),
        versions={name: version for name in _VERSIONS if (version := _version(name)) is not None},
        workload=made.workload,
        comparison=found,
        absent=tuple(absent),
    )


def check_peers(names: Sequence[str]) -> tuple[str, ...]:
    """The peers named, each once, in the order of ``PEERS``.

    Raises:
        UsageError: there is no such peer.
    """
    unknown = [name for name in names if name not in PEERS]
    if unknown:
        raise UsageError(f"there is no peer {unknown[0]!r}; there are {', '.join(PEERS)}")
    return tuple(name for name in PEERS if name in names)


def _check(work: Workload, rounds: int, gguf: Path | None) -> None:
    """What can be said before anything is loaded."""
    if work.dtype not in _DTYPES:
        raise UsageError(f"no dtype is called {work.dtype!r}; use {', '.join(_DTYPES)}")
    if rounds < 1:
        raise UsageError(f"rounds is {rounds}; at least 1 is needed")
    if gguf is not None and not gguf.is_file():
        raise UsageError(f"there is no file {gguf}")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
