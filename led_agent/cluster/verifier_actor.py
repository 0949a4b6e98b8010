"""The process that verifies on a node: what runs there, as an actor.

This file knows verifiers, and what they said. It does not know who asks, or what becomes of the process: that is
``verifiers``. What goes wrong is a part of the reply and never raised, as exceptions don't survive every border.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

import ray
from ray.util import metrics

import led_agent
from led_agent.cluster.crossing import Packed, pack, unpickled
from led_agent.judging import read, read_all, signed, unable, verifier_name
from led_agent.protocols import Verifier
from led_agent.types import Branch, Problem, Verdict

__all__ = ["Asked", "How", "Info", "Said", "VerifierActor"]

How = Literal["one", "batch", "together", "step", "check"]
Asked = tuple[tuple[Problem, ...], tuple[Branch, ...]]  # one problem for all branches, or one for each


class Info(TypedDict):
    """What a process says of itself. A plain dict: another version of led_agent must be able to read it.

    ``tier`` is the sandbox's where ``unit_tests`` is among the verifiers, "none" where no tier holds on this node.
    ``fault`` is what kept the verifiers from being loaded.
    """

    version: str
    node: str
    node_ip: str
    pid: int
    tier: str | None
    fault: Packed | None


@dataclass(frozen=True)
class Said:
    """A reply: verdicts, one for each branch; or why ``check`` refused; or what was raised. ``seconds`` are those that
    the verifier took."""

    verdicts: tuple[Verdict, ...] = ()
    refusal: str | None = None
    fault: Packed | None = None
    seconds: float = 0.0


class VerifierActor:
    """Holds verifiers and asks them. Several threads call it at once, as they call verifiers anywhere.

    Verifiers make their sandboxes and worker processes at their first call, so that each process has its own.
    """

    def __init__(self) -> None:
        self._held: dict[int, Verifier] = {}
        self._tier: str | None = None
        self._lock = threading.Lock()
        self._verdicts: dict[str, Counter[str]] = {}
        self._calls: Counter[str] = Counter()
        self._seconds: Counter[str] = Counter()
        self._node = ray.get_runtime_context().get_node_id()
        self._counter = metrics.Counter(
            "led_agent_verdicts",
            description="Verdicts, by verifier, status and node.",
            tag_keys=("verifier", "status", "node"),
        )

    def load(self, pickled: bytes) -> Info:
        """Take verifiers up, pickled as a dict from their numbers; those that are there already are replaced."""
        fault: Packed | None = None
        tier: str | None = None
        try:
            self._held.update(unpickled(pickled))
            tier = self._tier = _tier(self._held.values())
        except BaseException as error:  # noqa: BLE001 - unpickling runs the user's code, which may do anything
            fault = pack(error, "unpickling the verifiers")
        return Info(
            version=led_agent.__version__,
            node=self._node,
            node_ip=ray.util.get_node_ip_address(),
            pid=os.getpid(),
            tier=tier,
            fault=fault,
        )

    def call(self, at: int, how: How, pickled: bytes) -> Said:
        """Ask the verifier with the number ``at``.

        Args:
            how: "one" calls it, the others its method of that name.
            pickled: An ``Asked``.
        """
        verifier = self._held[at]
        name = verifier_name(verifier)
        owed = 0
        began = time.perf_counter()
        try:
            problems, branches = unpickled(pickled)
            owed = len(branches)
            said = self._ask(verifier, name, how, problems, branches)
        except BaseException as error:  # noqa: BLE001 - whatever it raises, sys.exit() included, is told and not done
            said = Said(fault=pack(error, f"verifier {name}"))
        return self._noted(said, name, owed, time.perf_counter() - began)

    @ray.method(concurrency_group="watch")
    def ping(self) -> None:
        """Answered at once, in a thread of its own, while the process is well."""

    def stats(self) -> dict[str, dict[str, Any]]:
        """What each verifier did in this process, by its name: verdicts by status, calls, seconds."""
        with self._lock:
            return {
                name: {"verdicts": dict(self._verdicts[name]), "calls": calls, "seconds": self._seconds[name]}
                for name, calls in self._calls.items()
            }

    @ray.method(concurrency_group="watch")
    def status(self) -> dict[str, Any]:
        """What this process is and did, for who watches."""
        return {
            "name": ray.get_runtime_context().get_actor_name(),
            "host": ray.util.get_node_ip_address(),
            "pid": os.getpid(),
            "tier": self._tier,
            "verifiers": self.stats(),
        }

    @ray.method(concurrency_group="watch")
    def close(self) -> None:
        """Close the verifiers. What one of them raises doesn't keep the others from being closed."""
        for verifier in self._held.values():
            close = getattr(verifier, "close", None)
            if callable(close):
                try:
                    close()
                except BaseException:  # noqa: BLE001 - this process ends now, and nobody is left to hear it
                    continue

    def _ask(self, verifier: Any, name: str, how: How, problems: Sequence[Problem], branches: Sequence[Branch]) -> Said:
        if how == "check":
            return Said(refusal=unable(verifier, problems[0]))
        if how == "batch":
            verdicts = read_all(verifier.batch(list(zip(problems, branches, strict=True))), len(branches), name)
        elif how == "together":
            verdicts = read_all(verifier.together(problems[0], branches), len(branches), name)
        elif how == "step":
            verdicts = [read(verifier.step(problems[0], branches[0]), name)]
        else:
            verdicts = [read(verifier(problems[0], branches[0]), name)]
        return Said(verdicts=tuple(verdicts))

    def _noted(self, said: Said, name: str, owed: int, seconds: float) -> Said:
        """The reply, counted, with the verifier's name and the time that it took. What was raised is an error on each
        of the branches ``owed``."""
        share = seconds / max(1, len(said.verdicts))
        verdicts = tuple(signed(verdict, name, share) for verdict in said.verdicts)
        found = Counter(["error"] * owed if said.fault is not None else [verdict.status for verdict in verdicts])
        with self._lock:
            self._verdicts.setdefault(name, Counter()).update(found)
            self._calls[name] += 1
            self._seconds[name] += seconds  # type: ignore[assignment]  # a Counter adds floats as well
        for status, count in found.items():
            self._counter.inc(count, tags={"verifier": name, "status": status, "node": self._node})
        return Said(verdicts, said.refusal, said.fault, seconds)


def _tier(verifiers: Iterable[Verifier]) -> str | None:
    """The tier of the sandbox on this node, as ``unit_tests`` has it; None where it isn't among the verifiers."""
    from led_agent.verifiers.sandbox import chosen
    from led_agent.verifiers.unit_tests import UnitTests

    for part in (part for verifier in verifiers for part in _parts(verifier)):
        if isinstance(part, UnitTests):
            return chosen(part.tier) or "none"  # type: ignore[arg-type]
    return None


def _parts(verifier: Any) -> Iterator[Any]:
    """A verifier and those that it is made of."""
    yield verifier
    inner = [getattr(verifier, "verifier", None), getattr(verifier, "weight", None), *getattr(verifier, "members", ())]
    for part in inner:
        if callable(part):
            yield from _parts(part)
