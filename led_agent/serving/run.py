"""Running the application with uvicorn: the socket, and an end that lets what is on come to its own."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Callable

import uvicorn
from fastapi import FastAPI

from led_agent.errors import MachineError

__all__ = ["LOOPBACK_HOSTS", "is_loopback", "listen", "run"]

LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "[::1]")
_MORE_SECONDS = 5.0  # for replies to be sent, once runs have ended or were stopped


def is_loopback(host: str) -> bool:
    """Whether an address can be reached from this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there; port 0 is a free one.

    Raises:
        MachineError: the address or the port can't be had.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        made = socket.socket(family, kind, protocol)
    except OSError as error:
        raise MachineError(f"can't listen on {host!r}: {error.strerror or error}; choose another --host") from error
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
        made.listen(2048)
    except OSError as error:
        made.close()
        told = f"can't listen on {host} port {port}: {error.strerror}; choose another --port, or 0 for a free one"
        raise MachineError(told) from error
    return made


class _Server(uvicorn.Server):
    """Closes the search first: replies that wait for runs can end only then."""

    def __init__(self, config: uvicorn.Config, app: FastAPI, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._app, self._ready = app, ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        state = getattr(self._app.state, "led", None)
        closing = asyncio.ensure_future(state.service.close()) if state is not None else None
        await super().shutdown(sockets)
        if closing is not None:
            await closing


def run(app: FastAPI, made: socket.socket, *, shutdown_seconds: float, ready: Callable[[], None]) -> None:
    """Serve until SIGINT or SIGTERM; a second one ends it at once.

    Args:
        ready: Called when it answers.
    """
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=int(shutdown_seconds + _MORE_SECONDS),
        server_header=False,
    )
    _Server(config, app, ready).run(sockets=[made])
