"""Serving the live viewer with uvicorn until Ctrl-C; browsers' streams are ended first, as they would not end."""

from __future__ import annotations

import socket
from collections.abc import Callable

import uvicorn

from led_agent.pages.live import Board, Hub, create_app
from led_agent.serving.run import LOOPBACK_HOSTS, is_loopback

__all__ = ["serve"]

_MORE_SECONDS = 10  # for replies that are being made: a tokenizer may be loading for one


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, hub: Hub, ready: Callable[[], object] | None) -> None:
        super().__init__(config)
        self._hub, self._ready = hub, ready
        hub.failed = self._stop

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and self._ready is not None:
            self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._hub.end()
        await super().shutdown(sockets)

    def _stop(self) -> None:
        self.should_exit = True


def serve(board: Board, made: socket.socket, host: str, *, ready: Callable[[], object] | None = None) -> None:
    """Serve until Ctrl-C.

    Args:
        host: The address that ``made`` listens on: where that is this machine alone, only its own names are answered
            to.
        ready: Called when it answers.

    Raises:
        KeyboardInterrupt: it was ended by Ctrl-C.
        LedError: the journal turned out to be none, or can't be read any more.
    """
    app = create_app(board, hosts=(*LOOPBACK_HOSTS, host) if is_loopback(host) else ())
    hub: Hub = app.state.hub
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, timeout_graceful_shutdown=_MORE_SECONDS, server_header=False
    )
    _Server(config, hub, ready).run(sockets=[made])
    if hub.failure is not None:
        raise hub.failure
