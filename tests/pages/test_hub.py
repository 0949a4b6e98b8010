"""What follows a run for its viewers. These tests run loops of their own: a module with a browser has one already."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

from led_agent.journal import Journal
from led_agent.pages.live import Board, Hub
from led_agent.pages.shading import Shading
from led_agent.tree import Tree
from tests.pages.trees import tree_of, write_events

ROWS = [("text 0", "rejected", "0")]


def test_the_tokenizer_of_a_run_that_is_there_is_loaded_before_it_is_asked_for(tmp_path: Path):
    loaded = threading.Event()

    class Told(Shading):
        def pieces(self, tree: Tree) -> None:
            loaded.set()

    with Journal(tmp_path / "run.jsonl") as journal:
        write_events(journal, tree_of("p", ROWS))
    board = Board(tmp_path / "run.jsonl", Told())
    while board.read() is not None:  # as it is before it is followed; then no more is told
        pass

    async def followed() -> bool:
        following = asyncio.create_task(Hub(board).follow())
        try:
            return await asyncio.to_thread(loaded.wait, 60)
        finally:
            following.cancel()

    assert asyncio.run(followed())


def test_a_stream_that_begins_after_the_end_has_ended(tmp_path: Path):
    async def begun() -> str | None:
        hub = Hub(Board(tmp_path / "run.jsonl"))
        hub.end()
        return await anext(hub.listen(), None)

    assert asyncio.run(begun()) is None
