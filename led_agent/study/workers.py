"""Draws in this process, or in several at a time: rows are the same, whoever draws them.

A small model on a CPU computes with one thread; the other cores are used by more processes, each with the model.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing.synchronize import Event
from typing import Protocol

from led_agent.local import LocalDecoder
from led_agent.study.arms import Arm
from led_agent.study.drawing import Drawing, Stopped
from led_agent.study.plan import Plan, Split
from led_agent.study.rows import Row
from led_agent.types import Problem

__all__ = ["Crew", "Here", "Order", "Processes", "drawing_of"]

_PART = 40  # problems that a process is given at a time


@dataclass(frozen=True)
class Order:
    """Problems to draw in an arm."""

    arm: Arm
    split: str
    problems: tuple[Problem, ...]


class Crew(Protocol):
    """Who draws."""

    def draw(self, orders: Sequence[Order]) -> Iterator[tuple[Order, list[Row], float]]:
        """Rows as they come, and the seconds that they took.

        Raises:
            Stopped: after ``stop``.
        """
        ...

    def stop(self) -> None:
        """End soon; from any thread or signal handler."""
        ...

    def close(self) -> None: ...


def drawing_of(plan: Plan, decoder: LocalDecoder, split: Split) -> Drawing:
    samples, searches = (plan.dev_samples, plan.dev_searches) if split == "dev" else (plan.samples, plan.searches)
    return Drawing(decoder, plan.model, plan.truth, samples, searches, plan.new_tokens, plan.seed)


class Here:
    """Draws with a decoder of this process."""

    def __init__(self, plan: Plan, decoder: LocalDecoder) -> None:
        self._by_split = {
            "dev": drawing_of(plan, decoder, "dev"),
            "test": drawing_of(plan, decoder, "test"),
        }

    def draw(self, orders: Sequence[Order]) -> Iterator[tuple[Order, list[Row], float]]:
        for order in orders:
            began = time.perf_counter()
            for row in self._by_split[order.split].rows(order.arm, order.problems, order.split):
                now = time.perf_counter()
                yield order, [row], now - began
                began = time.perf_counter()

    def stop(self) -> None:
        for drawing in self._by_split.values():
            drawing.stop()

    def close(self) -> None:
        """The decoder is the caller's."""


class Processes:
    """Draws in so many processes, each with a model of its own."""

    def __init__(self, plan: Plan, count: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._stopping = context.Event()
        self._pool = ProcessPoolExecutor(count, context, initializer=_start, initargs=(plan, self._stopping))

    def draw(self, orders: Sequence[Order]) -> Iterator[tuple[Order, list[Row], float]]:
        parts = [part for order in orders for part in _parts(order)]
        futures: dict[Future[tuple[list[Row], float]], Order] = {self._pool.submit(_draw, p): p for p in parts}
        try:
            for future in as_completed(futures):
                rows, seconds = future.result()
                yield futures[future], rows, seconds
                if self._stopping.is_set():
                    raise Stopped
        finally:
            for future in futures:
                future.cancel()

    def stop(self) -> None:
        self._stopping.set()

    def close(self) -> None:
        self._stopping.set()
        self._pool.shutdown(cancel_futures=True)


def _parts(order: Order) -> list[Order]:
    return [
        Order(order.arm, order.split, order.problems[first : first + _PART])
        for first in range(0, len(order.problems), _PART)
    ]


_here: list[Here] = []  # in a process of ``Processes``


def _start(plan: Plan, stopping: Event) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is the parent's: it asks for an end by the event
    here = Here(plan, LocalDecoder.load(plan.model, device=plan.device, dtype=plan.dtype, slots=plan.slots))
    _here.append(here)
    threading.Thread(target=_pass_on, args=(stopping, here), name="led-study-stop", daemon=True).start()


def _pass_on(stopping: Event, here: Here) -> None:
    stopping.wait()
    here.stop()


def _draw(order: Order) -> tuple[list[Row], float]:
    began, rows = time.perf_counter(), []
    with contextlib.suppress(Stopped):
        for _, some, _ in _here[0].draw([order]):
            rows += some
    return rows, time.perf_counter() - began
