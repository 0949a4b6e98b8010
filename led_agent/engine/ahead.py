"""Steps ahead of the host: a device decodes on while the host still reads what came before.

Each launch is a fixed number of ``static_step``s whose outcomes go into a ring on the device. On CUDA the step is
recorded as a graph once for each shape of batch and length of cache, and replayed; the ring is copied back behind the
last step, and the host waits for that copy only when it has launched the next steps. Elsewhere the same steps run one
after the other, so that this can be tested without a GPU.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from led_agent.engine.cache import BUCKET, SlotCache, round_up
from led_agent.engine.choose import Chosen
from led_agent.engine.model import ModelParts
from led_agent.engine.state import RowState
from led_agent.engine.static import Rows, StaticPlan, static_step

__all__ = ["Ahead", "Ticket", "reach_for"]

_KEEP_GRAPHS = 32
_COLUMNS = 8  # of a row of the ring, float64: what Chosen has, and whether it counts
_FINE, _COARSE = 512, 512  # caches are read in powers of two up to the one, then in multiples of the other


def reach_for(places: int, capacity: int) -> int:
    """How far to read a cache of which so many places are in use: few different lengths, for each has its graph."""
    reach = BUCKET
    while reach < min(places, _FINE):
        reach *= 2
    return min(reach if places <= reach else round_up(places, _COARSE), capacity)


@dataclass
class Ticket:
    """Steps that were launched; ``columns`` waits for them."""

    steps: int
    outcome: Tensor  # float64 [steps, columns, rows], on the host, or on its way there
    done: Any = None  # the CUDA event behind the copy

    def columns(self) -> list[tuple[Chosen, Tensor]]:
        """Of each step what was chosen, and which rows it counts for; on the host."""
        if self.done is not None:
            self.done.synchronize()
        return [_unpacked(step) for step in self.outcome]


@dataclass
class _Graph:
    """A recorded step, and the tensors that it reads its rows' wishes from."""

    graph: Any
    rows: Rows
    plan: StaticPlan  # keeps the prefix that was recorded where it is


class Ahead:
    """Launches steps.

    Args:
        steps: How many a launch takes.
        capture: Whether to record graphs; CUDA only.
    """

    def __init__(self, parts: ModelParts, cache: SlotCache, state: RowState, steps: int, *, capture: bool) -> None:
        self._parts, self._cache, self._state = parts, cache, state
        self.steps, self._capture = steps, capture
        device, rows = parts.device, len(state.token)
        self._ring = torch.zeros(2 * steps, _COLUMNS, rows, dtype=torch.float64, device=device)
        self._at = torch.zeros(1, dtype=torch.long, device=device)
        self._launched = 0
        self._graphs: OrderedDict[Any, _Graph] = OrderedDict()
        pinned = device.type == "cuda"
        self._host = [torch.zeros(steps, _COLUMNS, rows, dtype=torch.float64, pin_memory=pinned) for _ in range(2)]

    def launch(self, plan: StaticPlan, longest: int) -> Ticket:
        """Start the steps. At most two launches may be under way.

        Args:
            longest: The furthest place in its slot that a live row writes in the first of them.
        """
        reach = reach_for(longest + self.steps, self._cache.capacity)
        if self._capture:
            recorded = self._recorded(plan, reach)
            recorded.rows.load(plan.rows)
            for _ in range(self.steps):
                recorded.graph.replay()
        else:
            for _ in range(self.steps):
                self._step(plan, reach)
        half = self._launched % 2
        self._launched += 1
        rows = slice(half * self.steps, (half + 1) * self.steps)
        host = self._host[half][:, :, : plan.shape.rows]
        host.copy_(self._ring[rows, :, : plan.shape.rows], non_blocking=True)
        if self._parts.device.type != "cuda":
            return Ticket(self.steps, host)
        done = torch.cuda.Event()  # type: ignore[no-untyped-call]
        done.record()
        return Ticket(self.steps, host, done)

    def _step(self, plan: StaticPlan, reach: int) -> None:
        chosen, taken = static_step(self._parts, self._cache, self._state, plan, reach)
        self._ring[:, :, : plan.shape.rows].index_copy_(0, self._at, _packed(chosen, taken)[None])
        self._at.add_(1).remainder_(2 * self.steps)

    def _recorded(self, plan: StaticPlan, reach: int) -> _Graph:
        """The graph for a shape of batch; recorded where there is none yet, or the cache has moved since."""
        key = (plan.shape, reach, self._cache.keys.data_ptr())
        if key in self._graphs:
            self._graphs.move_to_end(key)
            return self._graphs[key]
        own = StaticPlan(plan.shape, plan.rows.copied(), plan.sharing)
        kept = [(tensor, tensor.clone()) for tensor in (*self._state.tensors(), self._at)]
        # Once outside the recording, for what libraries set up at their first call. It moves the rows on, and what it
        # writes into the cache will be written again.
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            self._step(own, reach)
        torch.cuda.current_stream().wait_stream(side)
        for tensor, value in kept:
            tensor.copy_(value)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._step(own, reach)
        self._graphs[key] = _Graph(graph, own.rows, own)
        if len(self._graphs) > _KEEP_GRAPHS:
            self._graphs.popitem(last=False)
        return self._graphs[key]


def _packed(chosen: Chosen, taken: Tensor) -> Tensor:
    """float64 [columns, rows]; a token's number fits."""
    columns = (
        chosen.token,
        chosen.logprob,
        chosen.final_logprob,
        chosen.entropy,
        chosen.top,
        chosen.explored,
        chosen.sound,
        taken,
    )
    return torch.stack([column.double() for column in columns])


def _unpacked(step: Tensor) -> tuple[Chosen, Tensor]:
    token, logprob, final, entropy, top, explored, sound, taken = step
    return Chosen(token.long(), logprob, final, entropy, top, explored.bool(), sound.bool()), taken.bool()
