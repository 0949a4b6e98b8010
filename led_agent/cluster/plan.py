"""How many decoders a cluster can hold, and what each of them takes of a node.

This file knows nodes as numbers of processors and accelerators. It does not know Ray.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import Field

from led_agent.errors import UsageError
from led_agent.record import Record

__all__ = ["Cluster", "Node", "Plan", "Share", "as_cluster", "plan"]

_CPUS = 4.0  # a decoder, on nodes without accelerators; products of a small model gain little from more
_SHARES = (64.0, 32.0, 16.0, 8.0, 4.0, 3.0, 2.0, 1.0, 0.5, 0.25, 0.125)
_MOST_VERIFIERS = 8  # a node


class Cluster(Record):
    """Where a search decodes, where that is more than a word.

    Attributes:
        address: "local" starts a private Ray on this machine; "auto" takes the cluster that this machine belongs to;
            "ray://host:port" goes through a Ray Client server, "host:port" to a cluster's head, of whose network this
            machine has to be a part; None is the Ray that this process is connected to already, or $RAY_ADDRESS, else
            "local".
        decoders: How many; None is one on each accelerator, and where there is none, one on each few processors. With
            None their number follows the cluster as nodes join and leave.
        wait: Seconds to wait for room and for the first decoder, where an autoscaler has to start nodes first. With
            None it is an error at once where there is no room, and after 120 s where no decoder has started.
        verifiers: Processes for verifiers on each node; None is one for each processor that decoders leave, 1 at least
            and 8 at most.
    """

    address: str | None = None
    decoders: int | None = Field(default=None, ge=1)
    wait: float | None = Field(default=None, ge=0)
    verifiers: int | None = Field(default=None, ge=1)


@dataclass(frozen=True)
class Node:
    """A machine of the cluster, and what it has in all."""

    id: str
    host: str
    cpus: float
    gpus: float


@dataclass(frozen=True)
class Share:
    """What one decoder takes. ``devices`` beyond 1 must be on one node (STRICT_PACK); for a model split over several
    accelerators."""

    cpus: float
    gpus: float = 0.0
    devices: int = 1


@dataclass(frozen=True)
class Plan:
    """How many decoders of which size, how many processes for verifiers on which node, and whether one of these has a
    GPU of its own."""

    share: Share
    decoders: int
    verifiers: dict[str, int]
    judging_gpu: bool = False


def as_cluster(given: str | int | Cluster, *, wait: float | None = None) -> Cluster:
    """What ``cluster=`` means. ``wait`` goes into what is made of a word or a number.

    Raises:
        UsageError: it is nothing that is allowed.
    """
    allowed = "None, 'local', 'auto', 'ray://host:port', 'host:port', or how many decoders"
    if isinstance(given, Cluster):
        made = given
    elif isinstance(given, bool) or not isinstance(given, str | int):
        raise UsageError(f"cluster is {given!r}; allowed are {allowed}")
    elif isinstance(given, int) or given.strip().lstrip("-").isdecimal():
        if int(given) < 1:
            raise UsageError(f"cluster is {int(given)} decoders; at least 1 is needed")
        made = Cluster(decoders=int(given), wait=wait)
    else:
        made = Cluster(address=given.strip(), wait=wait)
    address = made.address
    if address is not None and address not in ("local", "auto"):
        host, _, port = address.removeprefix("ray://").rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 65536 or "/" in host:
            raise UsageError(f"cluster is {address!r}; allowed are {allowed}")
    return made


def plan(
    nodes: Sequence[Node],
    wanted: int | None,
    *,
    device: str,
    small: bool,
    verifiers: int | None = None,
    judging_model: bool = False,
) -> Plan:
    """Share a cluster out.

    Args:
        nodes: Those that are alive.
        wanted: How many decoders; None is as many as there is room for.
        device: As for ``Search``: "auto" takes accelerators where there are any.
        small: The model is too small to gain from more than one processor.
        verifiers: Processes for verifiers on each node; None as ``Cluster`` says.
        judging_model: A verifier holds a model of its own, for which a GPU is left where there are several.

    Raises:
        UsageError: accelerators or more decoders are asked for than there are; the message says what there is.
    """
    gpus = sum(int(node.gpus) for node in nodes)
    there = ", ".join(f"{node.host}: {node.cpus:g} CPUs, {node.gpus:g} GPUs" for node in nodes) or "no node"
    if device.startswith("cuda") and not gpus:
        raise UsageError(
            f"device is {device!r}, and no node of the cluster has a GPU ({there}); start nodes that have, or give "
            "device='cpu'"
        )
    if gpus and device != "cpu":
        if wanted is not None and wanted > gpus:
            raise UsageError(
                f"{wanted} decoders are asked for, one on each GPU, and the cluster has {gpus} GPUs ({there}); ask for "
                "fewer, start more nodes, or give device='cpu'"
            )
        spare = judging_model and gpus > 1 and (wanted is None or wanted < gpus)
        share, count = Share(_beside_a_gpu(nodes), gpus=1.0), wanted or gpus - spare
    else:
        spare = False
        share, count = _cpu_share(nodes, wanted, small, there)
    return Plan(share, count, {node.id: _verifiers(node, share, verifiers) for node in nodes}, spare)


def _cpu_share(nodes: Sequence[Node], wanted: int | None, small: bool, there: str) -> tuple[Share, int]:
    if wanted is None:
        least = min((node.cpus for node in nodes if node.cpus >= 1), default=0.0)
        if not least:
            raise UsageError(f"the cluster has no processor to decode on ({there}); start nodes that have")
        share = 1.0 if small else min(_CPUS, least)
        return Share(share), sum(_fit(node, share) for node in nodes)
    for share in _SHARES:
        if small and share > 1.0:
            continue  # what it would gain nothing from is left to other searches
        if sum(_fit(node, share) for node in nodes) >= wanted:
            return Share(share), wanted
    raise UsageError(f"{wanted} decoders are asked for, and the cluster has room for fewer ({there}); ask for fewer")


def _beside_a_gpu(nodes: Sequence[Node]) -> float:
    """Processors for each decoder on a GPU: one, or less where a node has fewer of them than GPUs."""
    shares = [math.floor(1000 * node.cpus / int(node.gpus)) / 1000 for node in nodes if node.gpus >= 1]
    return min(1.0, *shares)  # Ray knows no finer shares than 1/10000


def _fit(node: Node, share: float) -> int:
    return int(node.cpus / share)


def _verifiers(node: Node, share: Share, given: int | None) -> int:
    if given is not None:
        return given
    spare = int(node.cpus - int(node.gpus)) if share.gpus else 1
    return max(1, min(_MOST_VERIFIERS, spare))
