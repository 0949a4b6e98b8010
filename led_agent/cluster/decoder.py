"""A cluster's decoders behind the search's ``Decoder`` protocol: strategies and search can't tell.

This file brings together a connection, a plan, a crew of actors and the dispatcher that shares out the work.
"""

from __future__ import annotations

import logging
import math
import threading
import time
import uuid
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any

from led_agent.cluster.actor import Loaded, Recipe
from led_agent.cluster.autoscaler import Wish
from led_agent.cluster.connect import connect, nodes_of
from led_agent.cluster.crew import Crew
from led_agent.cluster.dispatcher import Dispatcher
from led_agent.cluster.meters import driver_meters
from led_agent.cluster.plan import Cluster, Node, Plan, plan
from led_agent.cluster.verifiers import Place, RemoteVerifiers
from led_agent.confidence import Calibration
from led_agent.errors import LedError, MachineError, UsageError, raised
from led_agent.judging import fewest_replicas
from led_agent.models import is_embedded
from led_agent.protocols import Sink, Verifier
from led_agent.types import DecodeRequest

__all__ = ["ClusterDecoder", "asked_for"]

_log = logging.getLogger("led_agent.cluster")
_WAIT = 120.0  # seconds for the first decoder
_APPROVED = 4096  # kinds of requests that are remembered as possible
_LOOK = 5.0  # seconds between two looks at which nodes there are
_IDLE = 60.0  # seconds without work after which a decoder is let go, where their number follows the cluster


class ClusterDecoder:
    """Decoders on a Ray cluster.

    Args:
        cluster: Where, and how many.
        verifiers: To be asked on the nodes; ``judges`` holds their stand-ins.
        model, device, dtype, slots: As for ``Search``; ``slots`` is each decoder's.

    Raises:
        MachineError: the cluster can't be reached, a node has no or another led_agent, or no decoder starts in time.
        ModelError: a node hasn't got the model; the message names it.
        UsageError: accelerators or more decoders are asked for than there are.
    """

    def __init__(
        self,
        cluster: Cluster,
        *,
        model: str | None = None,
        device: str = "auto",
        dtype: str = "auto",
        slots: int = 16,
        verifiers: Sequence[Verifier] = (),
    ) -> None:
        self._cluster, self._model, self._device = cluster, model, device
        self._judging_model = fewest_replicas(verifiers) is not None
        self.judges: RemoteVerifiers | None = None
        self._disconnect = connect(cluster)
        self.run = uuid.uuid4().hex[:6]
        self._began = self._looked = time.monotonic()
        self._wish = Wish()
        self._useful: deque[int] = deque(maxlen=int(_IDLE / _LOOK))  # decoders that there was work for, of late
        self._approved: set[tuple[object, ...]] = set()
        try:
            self.nodes, self.plan = self._room()
            self.wanted = self.plan.decoders
            self._dispatcher = Dispatcher()
            recipe = Recipe(model, device, dtype, slots)
            self.crew = Crew(self._dispatcher, recipe, self.plan.share, self.run, self.state)
            self._meters = driver_meters(self.run, self._dispatcher.leases)
            self._dispatcher.tick, self._dispatcher.last = self._tick, self.crew.ask
        except BaseException:
            self._leave()
            raise
        try:
            self._first = self._start(verifiers)
        except BaseException:
            self.close()
            raise

    def _room(self) -> tuple[list[Node], Plan]:
        """The nodes and what they have room for; once there is any, where it may be waited for."""
        deadline = time.monotonic() + (self._cluster.wait or 0.0)
        while True:
            nodes = nodes_of()
            try:
                return nodes, self._plan(nodes)
            except UsageError:
                if time.monotonic() >= deadline:
                    raise
            kind = "GPU" if self._device.startswith("cuda") else "CPU"
            self._wish.make(self._cluster.decoders or 1, {kind: 1.0})
            time.sleep(1.0)

    def _plan(self, nodes: list[Node]) -> Plan:
        return plan(
            nodes,
            self._cluster.decoders,
            device=self._device,
            small=is_embedded(self._model),
            verifiers=self._cluster.verifiers,
            judging_model=self._judging_model,
        )

    def _start(self, verifiers: Sequence[Verifier]) -> Loaded:
        wait = self._cluster.wait or _WAIT
        self._dispatcher.post(lambda: self.crew.resize(self.wanted))
        if verifiers:  # while decoders load their model
            self.judges = RemoteVerifiers(verifiers, _places(self.plan), name=self.run)
        try:
            return self.crew.ready.result(wait)
        except FutureTimeoutError:
            share, there = self.plan.share, ", ".join(f"{n.host}: {n.cpus:g} CPUs, {n.gpus:g} GPUs" for n in self.nodes)
            raise MachineError(
                f"no decoder has started within {wait:g} s; each needs {share.cpus:g} CPUs and "
                f"{share.gpus:g} GPUs that nobody else holds, and the cluster has {there}; see `ray status`"
            ) from None

    # --- the Decoder protocol ----------------------------------------------------------------------------------

    @property
    def slots(self) -> int:
        """Branches that grow at a time, over all decoders that are there now."""
        return self._dispatcher.slots

    @property
    def in_flight(self) -> int:
        """Branches that grow or wait for a slot."""
        return len(self._dispatcher.leases.open)

    @property
    def n_blocks(self) -> int:
        return self._first.blocks

    @property
    def calibration(self) -> Calibration:
        return self._first.calibration

    @property
    def follows_up(self) -> bool:
        return self._first.follows_up

    def check(self, request: DecodeRequest) -> None:
        """Asked of a decoder, as the tokenizer is there: a few milliseconds. What it approved is not asked again for
        the next branch of the same prompt."""
        key = asked_for(request)
        if key in self._approved:
            return
        answer: Future[None] = Future()

        def ask() -> None:
            try:
                self.crew.check(request, answer)
            except Exception as error:  # noqa: BLE001 - Ray's own, where the connection is lost: nobody may wait for it
                answer.set_exception(MachineError(raised("the Ray cluster", error)))

        self._dispatcher.post(ask)
        answer.result()
        if len(self._approved) >= _APPROVED:
            self._approved.clear()
        self._approved.add(key)

    def submit(self, request: DecodeRequest, sink: Sink) -> None:
        self._dispatcher.submit(request, sink)

    def cancel(self, problem: str, ids: Sequence[str]) -> None:
        self._dispatcher.cancel(problem, ids)

    def limit(self, problem: str, tokens: int | None, prefill_tokens: int | None) -> None:
        """Kept by each decoder for itself, and over all of them by what they report. A problem stays on one decoder as
        long as that has a free slot, so that only a problem on several may run its budget over, by what they decode
        between two reports (1 s)."""
        self._dispatcher.limit(problem, tokens, prefill_tokens)

    def close(self) -> None:
        if self.judges is not None:
            self.judges.close()
        done: Future[None] = Future()

        def end() -> None:
            try:
                self.crew.close()
            except Exception as error:  # noqa: BLE001 - the cluster may be gone by now
                _log.info("decoders were left without a word: %s", error)
            finally:
                done.set_result(None)

        self._dispatcher.post(end)
        done.result()
        self._dispatcher.close()
        self._leave()

    def _leave(self) -> None:
        try:
            self._wish.take_back()
        except Exception as error:  # noqa: BLE001 - the cluster may be gone by now
            _log.info("the cluster was left without a word: %s", error)
        self._disconnect()

    # --- more or fewer -----------------------------------------------------------------------------------------

    def scale(self, decoders: int) -> None:
        """Have so many decoders from now on, whatever the cluster had room for; while a search runs.

        Raises:
            UsageError: none, or more than there is room for.
        """
        if decoders < 1:
            raise UsageError(f"{decoders} decoders; at least 1 is needed")
        nodes = nodes_of()
        limited = plan(nodes, decoders, device=self._device, small=is_embedded(self._model))
        if limited.share.cpus < self.plan.share.cpus:
            raise UsageError(
                f"{decoders} decoders of {self.plan.share.cpus:g} CPUs each have no room in this cluster; it holds "
                f"{sum(int(node.cpus / self.plan.share.cpus) for node in nodes)}"
            )

        def resize() -> None:
            self._cluster = self._cluster.model_copy(update={"decoders": decoders})
            self.wanted = decoders
            self.crew.resize(decoders)

        self._dispatcher.post(resize)

    def state(self) -> dict[str, Any]:
        """What the driver knows, for who watches."""
        leases = self._dispatcher.leases
        counts = leases.counts
        return {
            "run": self.run,
            "decoders": self.crew.count,
            "open": len(leases.open),
            "waiting": leases.waiting,
            "done": counts.done,
            "sent": counts.sent,
            "sent_again": counts.sent_again,
            "stolen": counts.stolen,
            "deaths": counts.deaths,
            "stalls": counts.lost_from_sight,
            "put_aside": counts.put_aside,
            "seconds": time.monotonic() - self._began,
        }

    def _tick(self) -> None:
        self.crew.tick()
        self._meters()
        now = time.monotonic()
        if now - self._looked >= _LOOK:
            self._looked = now
            self._look()

    def _look(self) -> None:
        """Follow the cluster as nodes join and leave, and the work as it comes and goes."""
        try:
            nodes = nodes_of()
        except MachineError as error:
            _log.warning("%s", error)
            return
        if {node.id for node in nodes} != {node.id for node in self.nodes}:
            self._changed(nodes)
        if self._cluster.decoders is not None:
            return
        leases, slots = self._dispatcher.leases, max(1, self.crew.recipe.slots)
        # The loop asks for a quarter more than there are slots: where that is what is open, there is more to do.
        useful = max(1, math.ceil(leases.most_open() / slots))
        self._useful.append(useful)
        room = max(0, self.plan.decoders - self.crew.given_up)
        if useful > self.crew.count and room > self.crew.count:
            self.crew.resize(min(useful, room))
        elif idle := self.crew.idle(_IDLE):
            self.crew.resize(max(1, self.crew.count - idle))
        self._hint(max(self._useful))

    def _changed(self, nodes: list[Node]) -> None:
        before, self.nodes = self.nodes, nodes
        try:
            self.plan = self._plan(nodes)
        except LedError as error:  # the last GPU is gone, say: what is running may come back
            _log.warning("%s", error)
            return
        if self.judges is not None:
            arguments = (self.judges, before, nodes, self.plan)
            threading.Thread(target=_move_judges, args=arguments, name="led-places", daemon=True).start()
        if self._cluster.decoders is None and self.plan.decoders < self.crew.count:
            self.crew.resize(max(1, self.plan.decoders - self.crew.given_up))

    def _hint(self, decoders: int) -> None:
        """Tell the autoscaler how many decoders there is work for, once that is more than there is room for; from then
        on also how many it still is, as it would take a node back that nobody has yet begun to use."""
        if self._wish.decoders or decoders > self.plan.decoders:
            share = self.plan.share
            self._wish.make(decoders, {"CPU": share.cpus, **({"GPU": share.gpus} if share.gpus else {})})


def asked_for(request: DecodeRequest) -> tuple[object, ...]:
    """All of a request that decides whether a model can do it: of the tokens that it continues, their number."""
    return (
        request.prompt, request.decoding, request.max_tokens, request.stop, request.step, request.max_step_tokens,
        request.step_tokens, request.exclude, len(request.prefix_ids),
    )  # fmt: skip


def _places(plan: Plan) -> list[Place]:
    """Where verifiers are asked. What decoders leave of a node is theirs, without a reservation."""
    own = [Place(num_gpus=1)] if plan.judging_gpu else []
    return own + [Place(node) for node, count in plan.verifiers.items() for _ in range(count)]


def _move_judges(judges: RemoteVerifiers, before: list[Node], now: list[Node], plan: Plan) -> None:
    """Ask verifiers on nodes that have joined, and no more on those that have left. It takes seconds."""
    there, were = {node.id for node in now}, {node.id for node in before}
    try:
        for node in were - there:
            judges.remove(node)
        for node in there - were:
            for _ in range(plan.verifiers.get(node, 0)):
                judges.add(Place(node))
    except LedError as error:
        _log.warning("verifiers stay where they are: %s", error)
