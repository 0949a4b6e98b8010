"""The viewer, live: a journal that another process is writing is read as it grows, and browsers are told what changes.

Of problems that have ended only what the index says is kept in memory; their trees are built from the journal when a
branch of them is opened. This file knows the journal and HTTP. It decodes nothing, and writes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import threading
from array import array
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Response
from fastapi.responses import HTMLResponse, StreamingResponse

from led_agent.errors import LedError, UsageError
from led_agent.events import Ended, Event
from led_agent.journal import tree_at
from led_agent.lines import Tail, number_at
from led_agent.pages.data import FORMAT, changes, problem_row
from led_agent.pages.export import as_json, page
from led_agent.pages.saved import journal_of
from led_agent.pages.shading import Shading
from led_agent.serving.guarding import PAGE_HEADERS, HostCheck, error_body
from led_agent.tree import Tree

__all__ = ["Board", "Hub", "create_app"]

_AT_ONCE = 200  # lines
_LOOK_SECONDS = 0.2  # between two looks at the file
_LOOKS = 10  # that find nothing before one asks whether the run is over
_QUIET_SECONDS = 15.0  # after which a comment keeps a connection open
_BEHIND = 10_000  # events that a browser may be behind before it is cut off; it connects again

Told = tuple[str, dict[str, Any]]


@dataclass
class _Problem:
    """A problem: where its lines begin, its tree while it is on, and its row of the index once it has ended."""

    starts: array[int] = field(default_factory=lambda: array("Q"))
    tree: Tree | None = None
    row: dict[str, Any] | None = None


class Board:
    """What a run has come to so far, as pages see it.

    Args:
        run: A journal, or a run's folder; it may not be there yet.
    """

    def __init__(self, run: Path, shading: Shading | None = None) -> None:
        self.run = run
        self._shading = shading or Shading()
        self._tail = Tail(journal_of(run))
        self._problems: dict[str, _Problem] = {}
        self._opened: tuple[str, Tree] | None = None  # the last ended problem that was asked about
        self._lock = threading.Lock()  # one thread reads, others ask

    def read(self) -> list[Told] | None:
        """Take in what has been written since; what it changes on a page, in order; None where there was no more.

        Raises:
            LedError: the file is no journal, or can't be read.
        """
        if not self.begun:
            self._tail.path = journal_of(self.run)  # a folder may have come into being
        lines = self._tail.read(_AT_ONCE)
        if not lines:
            return None
        with self._lock:
            return [told for start, key, event in lines for told in self._take(start, key, event)]

    def _take(self, start: int, key: str, event: Event) -> list[Told]:
        known = self._problems.setdefault(key, _Problem())
        if known.tree is None:
            known.tree = tree_at(self._tail.path, [*known.starts, start])  # new, or ended once and resumed
        else:
            try:
                known.tree.apply(event)
            except UsageError as error:
                place = f"{self._tail.path} line {number_at(self._tail.path, start)}"
                raise UsageError(f"{place}: {error}") from error
        if self._opened is not None and self._opened[0] == key:
            self._opened = None
        known.starts.append(start)
        known.row = None
        told = changes(known.tree, event)
        if isinstance(event, Ended):
            known.row, known.tree = problem_row(known.tree), None
        return told

    def index(self) -> dict[str, Any]:
        """All that there is so far."""
        live = not self.over()
        with self._lock:
            rows = [_row(known) for known in self._problems.values()]
        return {"format": FORMAT, "title": self.run.resolve().name, "live": live, "problems": rows}

    def detail(self, problem: str, node: str) -> dict[str, Any]:
        """All there is of one branch.

        Raises:
            UsageError: there is no such problem or branch.
        """
        with self._lock:
            known = self._problems.get(problem)
            if known is None:
                raise UsageError(f"this run has no problem {problem[:80]!r}")
            tree = known.tree or self._rebuilt(problem, known)
        self._shading.pieces(tree)  # loading a tokenizer takes seconds, in which others want to go on
        with self._lock:
            return self._shading.detail(tree, node)

    @property
    def begun(self) -> bool:
        """Whether any problem has."""
        return bool(self._problems)

    def warm(self) -> None:
        """Load the tokenizer that the first problem needs, before someone waits for it."""
        with self._lock:
            first = next(iter(self._problems.values()), None)
            tree = (first.tree or tree_at(self._tail.path, first.starts[:1])) if first is not None else None
        if tree is not None:
            self._shading.pieces(tree)

    def over(self) -> bool:
        """Whether all that was begun has ended, and no one is writing the journal any more."""
        with self._lock:
            rows = [known.row for known in self._problems.values()]
        ended = [row is not None and row["ended"]["status"] != "interrupted" for row in rows]
        return bool(ended) and all(ended) and not _written(self._tail.path)

    def _rebuilt(self, problem: str, known: _Problem) -> Tree:
        if self._opened is None or self._opened[0] != problem:
            self._opened = problem, tree_at(self._tail.path, known.starts)
        return self._opened[1]


def _row(known: _Problem) -> dict[str, Any]:
    if known.row is not None:
        return known.row
    assert known.tree is not None  # a problem has one of the two
    return problem_row(known.tree)


def _written(path: Path) -> bool:
    """Whether a process holds the journal's lock. It is asked for only when nothing is left to be done, and is let go
    at once: a run that would go on finds it free."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


class Hub:
    """Reads the journal in the background, and tells every browser that listens."""

    def __init__(self, board: Board) -> None:
        self.board = board
        self.failure: LedError | None = None
        self.failed: Callable[[], None] = lambda: None  # called when the file turns out to be no journal
        self._listeners: set[asyncio.Queue[str | None]] = set()
        self._ended = False

    async def follow(self) -> None:
        """Until it is cancelled, or fails."""
        looks, over = 0, False  # looks since the last line
        warming = self._warm() if self.board.begun else None  # a run that is there may have nothing more to tell
        try:
            while True:
                told = await asyncio.to_thread(self.board.read)
                if told is not None:
                    looks, over = 0, False
                    for name, data in told:
                        self._tell(sse(name, data))
                    warming = warming or self._warm()
                    continue
                looks += 1
                if not over and looks % _LOOKS == 0 and await asyncio.to_thread(self.board.over):
                    over = True
                    self._tell(sse("done", {}))
                await asyncio.sleep(_LOOK_SECONDS)
        except LedError as error:
            self.failure = error
            self.end()
            self.failed()

    def _warm(self) -> asyncio.Task[None]:
        return asyncio.create_task(asyncio.to_thread(self.board.warm))

    def end(self) -> None:
        """End every browser's stream, and those that were asked for and have not begun."""
        self._ended = True
        for queue in self._listeners:
            queue.put_nowait(None)

    def _tell(self, text: str) -> None:
        for queue in list(self._listeners):
            if queue.qsize() < _BEHIND:
                queue.put_nowait(text)
            else:  # it is told everything anew when it connects again
                self._listeners.discard(queue)
                queue.put_nowait(None)

    async def listen(self) -> AsyncIterator[str]:
        """The index, and then what changes. What changes while the index is made is told after it, too: an event told
        twice does no harm."""
        if self._ended:  # no one would end this one
            return
        queue: asyncio.Queue[str | None] = asyncio.Queue()
        self._listeners.add(queue)
        try:
            index = await asyncio.to_thread(self.board.index)
            yield sse("index", index)
            if not index["live"]:
                yield sse("done", {})
                return
            while True:
                try:
                    text = await asyncio.wait_for(queue.get(), _QUIET_SECONDS)
                except TimeoutError:
                    yield ": still here\n\n"
                    continue
                if text is None:
                    return
                yield text
        finally:
            self._listeners.discard(queue)


def sse(name: str, data: object) -> str:
    """One server-sent event."""
    return f"event: {name}\ndata: {as_json(data)}\n\n"


def create_app(board: Board, *, hosts: Sequence[str] = ()) -> FastAPI:
    """The application; it follows the journal from start-up to shutdown.

    Args:
        hosts: Host names that it answers to; empty is any.
    """
    hub = Hub(board)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        following = asyncio.create_task(hub.follow())
        yield
        following.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await following

    app = FastAPI(title="led-agent view", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.state.hub = hub
    viewer = page("viewer.html")

    @app.get("/")
    async def home() -> HTMLResponse:
        return HTMLResponse(viewer, headers=PAGE_HEADERS)

    @app.get("/api")
    async def index() -> Response:
        return _json(await asyncio.to_thread(board.index))

    @app.get("/api/node")
    async def node(problem: str, id: str) -> Response:  # noqa: A002 - the page's name for it
        try:
            return _json(await asyncio.to_thread(board.detail, problem, id))
        except UsageError as error:
            return _json(error_body(str(error), 404), 404)
        except asyncio.CancelledError:  # the server ends while a tokenizer is being loaded
            return _json(error_body("the server is ending", 503), 503)

    @app.get("/api/events")
    async def events() -> StreamingResponse:
        return StreamingResponse(hub.listen(), media_type="text/event-stream", headers=PAGE_HEADERS)

    if hosts:
        app.add_middleware(HostCheck, hosts=hosts)
    return app


def _json(data: object, status: int = 200) -> Response:
    return Response(as_json(data), status, media_type="application/json", headers=PAGE_HEADERS)
