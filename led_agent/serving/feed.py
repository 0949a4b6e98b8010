"""What one listener hears of a run: put in by the search's thread, taken out by the server's event loop."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from typing import Any

from led_agent.pages.data import changes
from led_agent.protocols import BranchProgress
from led_agent.tree import Tree

__all__ = ["Feed", "Told"]

Told = tuple[str, Any]
_GROWTH_SECONDS = 0.1  # between two reports of growth


class Feed:
    """Events of a run, in order. Of growth only the newest of each branch is kept, so that a slow listener does not
    pile it up; of the rest there is no more than the tree holds.

    Args:
        growth: Whether growth is of interest, as ("growing", …).
        texts: Whether whole texts are, as ("text", BranchProgress).
    """

    def __init__(self, *, growth: bool = False, texts: bool = False) -> None:
        self._aio = asyncio.get_running_loop()
        self._growth, self._texts = growth, texts
        self._lock = threading.Lock()
        self._told: deque[Told] = deque()
        self._grown: dict[str, BranchProgress] = {}
        self._tree: Tree | None = None
        self._ready = asyncio.Event()
        self._next_growth = 0.0
        self._ended = False

    def hear(self, tree: Tree, event: Any) -> None:
        """Take an event in; from the search's thread."""
        if isinstance(event, BranchProgress):
            if not (self._growth or self._texts):
                return
            with self._lock:
                self._tree, self._grown[event.id] = tree, event
        else:
            told = changes(tree, event)
            with self._lock:
                self._told.extend(told)
        self._wake()

    def put(self, name: str, data: Any) -> None:
        """Take something else in; from the search's thread."""
        with self._lock:
            self._told.append((name, data))
        self._wake()

    def end(self) -> None:
        """Nothing more will come; from the search's thread."""
        with self._lock:
            self._ended = True
        self._wake()

    async def next(self, patience: float) -> list[Told] | None:
        """What has come since; empty where nothing has within so many seconds, None once all was heard."""
        try:
            async with asyncio.timeout(patience):
                await self._ready.wait()
        except TimeoutError:
            return []
        if self._grown:
            await asyncio.sleep(max(0.0, self._next_growth - self._aio.time()))
            self._next_growth = self._aio.time() + _GROWTH_SECONDS
        self._ready.clear()
        with self._lock:
            grown, self._grown = self._grown, {}
            told = [*self._growth_told(grown), *self._told]
            self._told.clear()
            ended = self._ended
        if ended:
            self._ready.set()  # the next call is not to wait
        return told or (None if ended else [])

    def _growth_told(self, grown: dict[str, BranchProgress]) -> list[Told]:
        if self._texts:
            return [("text", progress) for progress in grown.values()]
        tree = self._tree
        return [told for progress in grown.values() for told in changes(tree, progress)] if tree is not None else []

    def _wake(self) -> None:
        try:
            self._aio.call_soon_threadsafe(self._ready.set)
        except RuntimeError:  # the event loop is closed: nobody listens any more
            return
