"""Replies that wait for a run, or tell of it as it goes on; a client that leaves ends its run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from fastapi import Request

from led_agent.pages.data import Pieces
from led_agent.pages.export import as_json
from led_agent.serving.feed import Feed
from led_agent.serving.replies import chunk, final_chunks
from led_agent.serving.schemas import ChatRequest, ChunkChoice, Delta
from led_agent.serving.service import Served, Service
from led_agent.solution import Solution

__all__ = ["chat_stream", "run_stream", "solution_of", "until_left"]

_ALIVE = 10.0  # seconds between two signs of life in a stream


async def solution_of(request: Request, service: Service, run: Served) -> Solution:
    """Wait for a run; a client that leaves meanwhile stops it."""
    leaving = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait((leaving, run.finished), return_when=asyncio.FIRST_COMPLETED)
        if not run.finished.done():
            service.stop(run)
        return await asyncio.shield(run.finished)
    except asyncio.CancelledError:
        service.stop(run)
        raise
    finally:
        leaving.cancel()


async def _left(request: Request) -> None:
    """Until the client has left."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def until_left(request: Request, service: Service, run: Served, events: AsyncIterator[str]) -> AsyncIterator[str]:
    """A stream's events; a client that leaves stops the run at once, and not when there is next something to say.

    It is watched for here: Starlette does so below version 2.4 of ASGI only; from there on it waits until something is
    sent.
    """
    leaving = asyncio.ensure_future(_left(request))
    leaving.add_done_callback(lambda done: None if done.cancelled() else service.stop(run))
    try:
        async for event in events:
            yield event
    finally:
        leaving.cancel()
        if not run.finished.done():
            service.stop(run)


async def chat_stream(
    service: Service, run: Served, asked: ChatRequest, pieces: Pieces | None, begun: Callable[[Served], None]
) -> AsyncIterator[str]:
    """A streamed completion. The answer is known at the end, so that its text comes then; where there is one branch
    only, as it grows.

    Args:
        pieces: The tokenizer's, where log-probabilities are wanted.
        begun: Told when the first of the search's own events has been sent.
    """
    model, options = service.model, asked.stream_options
    progress = asked.led is not None and asked.led.progress
    whole, live = "", run.order.single and run.order.choices == 1 and not asked.logprobs
    feed = Feed(growth=progress, texts=live and not progress)
    yield _data(chunk(run, model, [ChunkChoice(index=0, delta=Delta(role="assistant", content=""))]))
    index = await service.follow(run, feed)
    try:
        if progress:
            yield _data(chunk(run, model, [], led={"event": "index", "data": index}))
        begun(run)
        while (told := await feed.next(_ALIVE)) is not None:
            if not told:
                yield ": still searching\n\n"
            for name, data in told:
                if name == "text":
                    text = _safe(data.text, run.order.stop)
                    if len(text) > len(whole):
                        delta = Delta(content=text[len(whole) :])
                        yield _data(chunk(run, model, [ChunkChoice(index=0, delta=delta)]))
                        whole = text
                elif progress:
                    yield _data(chunk(run, model, [], led={"event": name, "data": data}))
    finally:
        service.unfollow(run, feed)
    solution = await asyncio.shield(run.finished)
    usage = options is not None and options.include_usage
    for last in await asyncio.to_thread(final_chunks, run, solution, model, pieces, told=whole, usage=usage):
        yield _data(last)
    yield "data: [DONE]\n\n"


def _safe(text: str, stops: Sequence[str]) -> str:
    """What of a growing text will stay: a stop string that has begun may take the end away."""
    held = max((len(stop) - 1 for stop in stops), default=0)
    return text[: len(text) - held] if held else text


def _data(told: Any) -> str:
    return f"data: {told.model_dump_json(exclude_none=True)}\n\n"


async def run_stream(service: Service, run: Served) -> AsyncIterator[str]:
    """What happens on a run's tree; a listener that leaves changes nothing."""
    feed = Feed(growth=True)
    try:
        yield _event("index", await service.follow(run, feed))
        while (told := await feed.next(_ALIVE)) is not None:
            if not told:
                yield ": still searching\n\n"
            for name, data in told:
                yield _event(name, data)
        yield _event("done", {})
    finally:
        service.unfollow(run, feed)


def _event(name: str, data: Any) -> str:
    return f"event: {name}\ndata: {as_json(data)}\n\n"
