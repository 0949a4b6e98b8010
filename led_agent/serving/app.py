"""The HTTP interface: OpenAI's chat completions, runs and their trees, a page, and what operators ask.

Routes only; what a request comes to is in ``asking``, what runs it in ``service``, what is replied in ``replies``.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import HTMLResponse, JSONResponse, StreamingResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.exceptions import HTTPException

import led_agent
from led_agent.engine.tokens import Tokens
from led_agent.errors import UsageError
from led_agent.journal import Journal
from led_agent.models import EMBEDDED_EXAMPLE, is_embedded
from led_agent.pages.export import as_json, page
from led_agent.protocols import Decoder
from led_agent.serving.asking import Defaults, Order, order_of
from led_agent.serving.guarding import PAGE_HEADERS, BodyLimit, Counted, HostCheck, error_body
from led_agent.serving.limits import BusyError, Keys, Limits, RefusedError
from led_agent.serving.metrics import CONTENT_TYPE, Metrics
from led_agent.serving.replies import completion, led_result, summary
from led_agent.serving.schemas import (
    ChatCompletion,
    ChatRequest,
    ErrorReply,
    Index,
    ModelCard,
    ModelList,
    RunAccepted,
    RunList,
    RunRequest,
    Settings,
)
from led_agent.serving.service import Served, Service, new_name
from led_agent.serving.streaming import chat_stream, run_stream, solution_of, until_left
from led_agent.solution import Solution
from led_agent.strategies.named import strategy_name, strategy_names
from led_agent.tree import Tree
from led_agent.types import Decoding
from led_agent.verifier_pool import VerifierPool

__all__ = ["Loaded", "Setup", "create_app"]


@dataclass(frozen=True)
class Loaded:
    """A model, ready to decode.

    Attributes:
        decoder: Grows branches.
        tokens: The model's tokenizer.
        decoding: What it decodes with where nobody says otherwise.
        close: Called when the application ends.
    """

    decoder: Decoder
    tokens: Tokens
    decoding: Decoding
    close: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Setup:
    """What a server is made with.

    Attributes:
        model: Its name, which requests give.
        load: Gives the model; called when the application starts, in a thread of its own.
        hosts: Host names that it answers to; empty is any.
        origins: Web pages of other hosts that may ask it (CORS).
        journal: Keeps every event of every run; not closed with the application.
        verifier_seconds: Wall-clock limit of one call of a verifier.
    """

    model: str
    load: Callable[[], Loaded]
    defaults: Defaults
    limits: Limits = field(default_factory=Limits)
    keys: Keys = field(default_factory=Keys)
    hosts: Sequence[str] = ()
    origins: Sequence[str] = ()
    journal: Journal | None = None
    verifier_seconds: float | None = 60.0


class _State:
    """What the routes share, while the application is up."""

    def __init__(self, setup: Setup, loaded: Loaded) -> None:
        self.setup, self.loaded, self.began = setup, loaded, int(time.time())
        pool = VerifierPool(seconds=setup.verifier_seconds)
        pool.raise_concurrency(8)
        self.service = Service(
            loaded.decoder,
            model=setup.model,
            limits=setup.limits,
            pool=pool,
            pieces=loaded.tokens.pieces,
            journal=setup.journal,
        )
        self.metrics = Metrics(self.service)

    async def submit(self, asked: RunRequest, owner: str) -> Served:
        """Check a request, and queue it."""
        setup = self.setup
        order = order_of(
            asked,
            new_name(),
            model=setup.model,
            decoding=self.loaded.decoding,
            defaults=setup.defaults,
            limits=setup.limits,
        )
        order, tree = await asyncio.to_thread(self._plant, order)  # a prompt may be long, and a cluster is asked
        run = self.service.submit(order, tree, owner)
        run.finished.add_done_callback(functools.partial(self._note, run))
        return run

    def _plant(self, order: Order) -> tuple[Order, Tree]:
        """An order that knows its prompt's length, and its tree."""
        tree = self.service.plant(order)
        try:
            prompt = len(self.loaded.tokens.render(order.problem.prompt))
        except UsageError as error:
            raise RefusedError(str(error), param="messages") from error
        return dataclasses.replace(order, prompt_tokens=prompt), tree

    def first_event(self, run: Served) -> None:
        self.metrics.first_event.observe(time.monotonic() - run.asked)

    def _note(self, run: Served, finished: asyncio.Future[Solution]) -> None:
        if not finished.cancelled():
            self.metrics.run_seconds.labels(finished.result().status).observe(time.monotonic() - run.asked)


def create_app(setup: Setup) -> FastAPI:
    """The application. Its search runs from start-up to shutdown, which lets runs end for a while."""

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        loaded = await asyncio.to_thread(setup.load)
        app.state.led = state = _State(setup, loaded)
        try:
            yield
        finally:
            await state.service.close()
            await asyncio.to_thread(loaded.close)

    app = FastAPI(
        title="led_agent",
        version=led_agent.__version__,
        summary="Multi-path search in latent space, behind OpenAI's chat completions.",
        lifespan=lifespan,
        docs_url=None,  # these pages would load scripts from elsewhere
        redoc_url=None,
        separate_input_output_schemas=False,
    )
    _add_operators(app)
    _add_chat(app)
    _add_runs(app)
    _add_pages(app)
    _add_handlers(app)
    _add_guards(app, setup)
    return app


# --- what all routes take ------------------------------------------------------------------------------------------

_bearer = HTTPBearer(auto_error=False, description="An API key, where the server was started with one.")


async def _state(request: Request) -> _State:
    state: _State = request.app.state.led
    return state


async def _owner(
    request: Request, given: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)] = None
) -> str:
    return (await _state(request)).setup.keys.owner(given.credentials if given is not None else None)


Owner = Annotated[str, Depends(_owner)]
State = Annotated[_State, Depends(_state)]
_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorReply, "description": about}
    for status, about in (
        (400, "The request is at fault."),
        (401, "No API key, or an unknown one."),
        (403, "Verifiers that run code are switched off."),
        (404, "No such model, run or branch."),
        (408, "The body took too long to come."),
        (413, "The body is too large."),
        (421, "The server isn't known by this host name."),
        (429, "Too many requests wait already; Retry-After says when to try again."),
        (503, "The server is ending, or its search has failed."),
    )
}
_FEW: dict[int | str, dict[str, Any]] = {status: _ERRORS[status] for status in (401, 421)}
_FINDING: dict[int | str, dict[str, Any]] = {status: _ERRORS[status] for status in (401, 404, 421)}


# --- operators -----------------------------------------------------------------------------------------------------


def _add_operators(app: FastAPI) -> None:
    @app.get("/healthz", responses={503: _ERRORS[503]}, tags=["operators"])
    async def health(state: State) -> dict[str, str]:
        """Whether it takes requests."""
        service = state.service
        if service.broken is not None or service.draining:
            told = f"the search has failed: {service.broken}" if service.broken else "the server is ending"
            raise RefusedError(told, status=503, code="unavailable")
        return {"status": "ok", "model": state.setup.model, "version": led_agent.__version__}

    @app.get("/metrics", response_class=Response, tags=["operators"])
    async def metrics(state: State) -> Response:
        """For Prometheus."""
        return Response(state.metrics.text(), media_type=CONTENT_TYPE)

    @app.get("/v1/models", responses=_FEW, tags=["OpenAI"])
    async def models(state: State, owner: Owner) -> ModelList:
        """The model that is served."""
        return ModelList(object="list", data=[ModelCard(id=state.setup.model, created=state.began)])

    @app.get("/v1/models/{model:path}", responses=_FINDING, tags=["OpenAI"])
    async def model(model: str, state: State, owner: Owner) -> ModelCard:
        """The model that is served, by its name."""
        if model != state.setup.model:
            told = f"the model {model[:80]!r} is not served here; there is {state.setup.model!r}"
            raise RefusedError(told, status=404, param="model", code="model_not_found")
        return ModelCard(id=model, created=state.began)

    @app.get("/v1/settings", responses=_FEW, tags=["search"])
    async def settings(state: State, owner: Owner) -> Settings:
        """What can be asked for."""
        return _settings(state.setup, state.loaded.decoding)


def _settings(setup: Setup, decoding: Decoding) -> Settings:
    embedded, limits = is_embedded(setup.model), setup.limits
    default = setup.defaults.strategy
    return Settings(
        model=setup.model,
        embedded=embedded,
        example=EMBEDDED_EXAMPLE if embedded else None,
        strategies=strategy_names(),
        decodings=list(Decoding.names()),
        verifiers=setup.defaults.names,
        default={
            "strategy": strategy_name(default) if default is not None else "fallback(best-of-n)",
            "decoding": decoding.label,
        },
        limits={"max_tokens": limits.max_tokens, "seconds": limits.seconds, "branches": limits.branches,
                "tokens": limits.tokens},
        key_needed=setup.keys.needed,
    )  # fmt: skip


# --- chat completions ----------------------------------------------------------------------------------------------


def _add_chat(app: FastAPI) -> None:
    stream = {"text/event-stream": {"schema": {"type": "string"}}}

    @app.post(
        "/v1/chat/completions",
        response_model=ChatCompletion,
        responses={**_ERRORS, 200: {"model": ChatCompletion, "content": stream}},
        tags=["OpenAI"],
    )
    async def chat(asked: ChatRequest, request: Request, state: State, owner: Owner) -> Response:
        """Search, and reply with the best answer, or the ``n`` best."""
        run = await state.submit(asked, owner)
        headers = {"X-Run-Id": run.id}
        pieces = state.loaded.tokens.pieces if asked.logprobs else None
        if asked.stream:
            return StreamingResponse(
                until_left(
                    request, state.service, run, chat_stream(state.service, run, asked, pieces, state.first_event)
                ),
                media_type="text/event-stream",
                headers={**headers, "Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
            )
        solution = await solution_of(request, state.service, run)
        found = await asyncio.to_thread(completion, run, solution, state.setup.model, pieces)
        return JSONResponse(found.model_dump(), headers=headers)


# --- runs and their trees ------------------------------------------------------------------------------------------


def _add_runs(app: FastAPI) -> None:
    @app.post("/v1/runs", status_code=202, responses=_ERRORS, tags=["search"])
    async def begin(asked: RunRequest, state: State, owner: Owner) -> RunAccepted:
        """Begin a search, and don't wait for it: it goes on when the client leaves."""
        run = await state.submit(asked, owner)
        return RunAccepted(id=run.id, status=run.status)

    @app.get("/v1/runs", responses=_FEW, tags=["search"])
    async def runs(state: State, owner: Owner) -> RunList:
        """Runs that wait, are on, or have ended not long ago; the newest first."""
        return RunList(data=[summary(run) for run in state.service.runs(owner)])

    @app.get("/v1/runs/{run}", response_model=Index, responses=_FINDING, tags=["search"])
    async def tree(run: str, state: State, owner: Owner) -> Response:
        """A run's tree, without texts."""
        return _json(await state.service.index(state.service.find(run, owner)))

    @app.get(
        "/v1/runs/{run}/node",
        response_model=dict[str, Any],
        responses={**_FINDING, 400: _ERRORS[400]},
        tags=["search"],
    )
    async def node(
        run: str, node: Annotated[str, Query(alias="id")], state: State, owner: Owner, problem: str | None = None
    ) -> Response:
        """All there is of one branch: its text, and figures of each token. A run has one problem, so that ``problem``
        need not be given."""
        found = state.service.find(run, owner)
        if problem is not None and problem != found.id:
            raise RefusedError(f"the run {run[:80]!r} has no problem {problem[:80]!r}", status=404, param="problem")
        return _json(await state.service.detail(found, node))

    @app.get("/v1/runs/{run}/result", responses=_FINDING, tags=["search"])
    async def result(run: str, state: State, owner: Owner) -> dict[str, Any]:
        """What a run has come to: as in ``led`` of a completion; its status alone while it is on."""
        found = state.service.find(run, owner)
        told = led_result(found, found.solution).model_dump() if found.solution is not None else {}
        return {"run": found.id, **told, "state": found.status}

    @app.get(
        "/v1/runs/{run}/events",
        response_class=Response,
        responses={**_FINDING, 200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}},
        tags=["search"],
    )
    async def events(run: str, request: Request, state: State, owner: Owner) -> StreamingResponse:
        """What happens on a run's tree, as server-sent events: the index first, then problem, node, growing, done."""
        found = state.service.find(run, owner)
        return StreamingResponse(
            run_stream(state.service, found),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
        )

    @app.delete("/v1/runs/{run}", responses=_FINDING, tags=["search"])
    async def stop(run: str, state: State, owner: Owner) -> RunAccepted:
        """End a run with what it has."""
        found = state.service.find(run, owner)
        state.service.stop(found)
        return RunAccepted(id=found.id, status=found.status)


# --- pages, errors, guards -----------------------------------------------------------------------------------------


def _add_pages(app: FastAPI) -> None:
    shown = page("page.html")

    @app.get("/", response_class=HTMLResponse, tags=["page"])
    async def home() -> HTMLResponse:
        """A page to search with."""
        return HTMLResponse(shown, headers=PAGE_HEADERS)


def _add_handlers(app: FastAPI) -> None:
    @app.exception_handler(RefusedError)
    async def refused(_request: Request, error: RefusedError) -> JSONResponse:
        headers = {"WWW-Authenticate": "Bearer"} if error.status == 401 else {}
        if isinstance(error, BusyError):
            headers["Retry-After"] = str(error.retry_after)
        return JSONResponse(
            error_body(str(error), error.status, param=error.param, code=error.code), error.status, headers
        )

    @app.exception_handler(RequestValidationError)
    async def invalid(_request: Request, error: RequestValidationError) -> JSONResponse:
        faults = [f"{_where(fault)}: {fault['msg']}" for fault in error.errors()[:5]]
        param = _where(error.errors()[0])
        return JSONResponse(error_body("; ".join(faults).encode("utf-8", "replace").decode(), 400, param=param), 400)

    @app.exception_handler(HTTPException)
    async def other(_request: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse(error_body(str(error.detail), error.status_code), error.status_code, error.headers)


def _json(data: object) -> Response:
    return Response(as_json(data), media_type="application/json", headers=PAGE_HEADERS)


def _where(fault: Any) -> str:
    steps = [str(step) for step in fault["loc"] if step not in ("body", "query", "path")]
    return ".".join(steps).encode("utf-8", "replace").decode() or "body"


def _add_guards(app: FastAPI, setup: Setup) -> None:
    """The last that is added is the first that a request meets."""
    app.add_middleware(Counted, tell=lambda route, status: app.state.led.metrics.requests.labels(route, status).inc())

    app.add_middleware(BodyLimit, largest=setup.limits.body_bytes, seconds=setup.limits.body_seconds)
    if setup.origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=list(setup.origins), allow_methods=["*"], allow_headers=["*"],
            expose_headers=["X-Run-Id", "Retry-After"],
        )  # fmt: skip
    if setup.hosts:
        app.add_middleware(HostCheck, hosts=setup.hosts)
