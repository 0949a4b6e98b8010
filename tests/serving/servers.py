"""Real servers for the tests: the application, behind uvicorn, in a thread of its own."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import httpx2
import openai
import uvicorn

from led_agent.engine.tokens import Tokens
from led_agent.local import LocalDecoder
from led_agent.protocols import Decoder
from led_agent.serving.app import Loaded, Setup, create_app
from led_agent.serving.asking import Defaults
from led_agent.serving.plan import Plan
from led_agent.serving.run import LOOPBACK_HOSTS, _Server, listen
from led_agent.serving.service import Service
from led_agent.settings import Decoding
from tests.engine.reference import make_engine
from tests.tiny import tiny_model, tiny_tokenizer

PUZZLE = "Use 3, 20 and 5 to make 35."
PATIENCE = 60.0  # seconds after which a test fails instead of hanging


def asked(prompt: str = PUZZLE, **rest: Any) -> dict[str, Any]:
    """The body of a request for a chat completion."""
    return {"model": "countdown", "messages": [{"role": "user", "content": prompt}], "seed": 0, **rest}


@dataclass
class Running:
    """A server that answers."""

    setup: Setup
    server: _Server
    socket: socket.socket
    service: Service
    thread: threading.Thread

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.socket.getsockname()[1]}"

    def client(self, key: str = "none") -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=PATIENCE)

    def ask(self, method: str, path: str, **rest: Any) -> httpx2.Response:
        """One request, and nothing left open behind it."""
        return httpx2.request(method, f"{self.url}{path}", timeout=PATIENCE, **rest)

    def stop(self) -> None:
        """As SIGTERM does."""
        self.server.should_exit = True


@contextmanager
def running(setup: Setup, wrap: Callable[[Any], Any] = lambda app: app) -> Iterator[Running]:
    """A server on a free port, ended at the end; what it serves is put into ``wrap``."""
    app = create_app(setup)
    made = listen("127.0.0.1", 0)
    ready = threading.Event()
    config = uvicorn.Config(
        wrap(app),
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=30,
        timeout_keep_alive=int(PATIENCE),  # a client may use a connection again just as it is closed
    )
    server = _Server(config, app, ready.set)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [made]})
    thread.start()
    try:
        assert ready.wait(PATIENCE)
        yield Running(setup, server, made, app.state.led.service, thread)
    finally:
        server.should_exit = True
        thread.join(PATIENCE)
        assert not thread.is_alive()


def endless(slots: int = 4) -> LocalDecoder:
    """A real engine over a tiny random model whose branches end at their token limit only."""
    tokenizer = tiny_tokenizer()
    model = tiny_model(vocab_size=len(tokenizer), max_position_embeddings=200_000)
    engine = make_engine(model, tokenizer, slots=slots)
    engine.parts.eos = frozenset()
    return LocalDecoder(engine)


@contextmanager
def embedded() -> Iterator[Setup]:
    """What a server with the embedded model is made with; the model is loaded once."""
    plan = Plan(slots=32, hosts=LOOPBACK_HOSTS)
    loaded = plan.load()
    try:
        yield replace(plan.setup(), load=lambda: replace(loaded, close=lambda: None))
    finally:
        loaded.close()


def setup_of(decoder: Decoder, tokens: Tokens, **changes: Any) -> Setup:
    made = Setup(
        model="tiny",
        load=lambda: Loaded(decoder, tokens, Decoding.plain(1.0)),
        defaults=Defaults(verifiers={}, max_tokens=64),
    )
    return replace(made, **changes)


def until(condition: Callable[[], bool]) -> bool:
    """Whether something came true within the tests' patience."""
    pause = threading.Event()
    for _ in range(int(PATIENCE / 0.01)):
        if condition():
            return True
        pause.wait(0.01)
    return condition()
