"""What stands before the application: how large a request may be, how long it may take to come, and for which host.

Plain ASGI: these see bytes and headers, and know no routes.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

__all__ = ["PAGE_HEADERS", "BodyLimit", "Counted", "HostCheck", "error_body"]

PAGE_HEADERS = {
    "Content-Security-Policy": "frame-ancestors 'none'",  # the rest of the policy is in the page
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]


def error_body(message: str, status: int, *, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    """As OpenAI's clients expect an error."""
    kinds = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
    kind = kinds.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


class BodyLimit:
    """Refuses bodies that are too large or too slow, with 413 and 408, before anything is made of them.

    A body is read whole here: so the application never waits for a client.
    """

    def __init__(self, app: App, largest: int, seconds: float) -> None:
        self._app, self._largest, self._seconds = app, largest, seconds

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        too_large = f"the request's body is larger than the {self._largest} bytes that are allowed"
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        if announced.isdigit() and int(announced[:20]) > self._largest:
            await refuse(send, 413, too_large)
            return
        body, more = bytearray(), True
        try:
            async with asyncio.timeout(self._seconds):
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return
                    body += message.get("body", b"")
                    more = message.get("more_body", False)
                    if len(body) > self._largest:
                        await refuse(send, 413, too_large)
                        return
        except TimeoutError:
            await refuse(send, 408, f"the request's body took longer than {self._seconds:g} s")
            return
        await self._app(scope, _replayed(bytes(body), receive), send)


class Counted:
    """Tells of each request which route it took, and with what status it was answered."""

    def __init__(self, app: App, tell: Callable[[str, str], None]) -> None:
        self._app, self._tell = app, tell

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def noted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._tell(getattr(scope.get("route"), "path", "other"), str(message["status"]))
            await send(message)

        await self._app(scope, receive, noted)


class HostCheck:
    """Answers only for the hosts that it is known by: a page elsewhere that has its own name lead here (DNS rebinding)
    gets nothing."""

    def __init__(self, app: App, hosts: Sequence[str]) -> None:
        self._app, self._hosts = app, {host.lower() for host in hosts}

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            given = dict(scope["headers"]).get(b"host", b"").decode("latin-1").lower()
            name = given.rpartition(":")[0] if not given.endswith("]") and ":" in given else given
            if name not in self._hosts:
                await refuse(send, 421, f"this server is not {given[:80]!r}; it answers as {', '.join(self._hosts)}")
                return
        await self._app(scope, receive, send)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """The body that was read, and then what comes, such as that the client has left."""
    given = False

    async def next_message() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return next_message


async def refuse(send: Send, status: int, message: str) -> None:
    body = json.dumps(error_body(message, status)).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    headers.append((b"connection", b"close"))  # the rest of the body is not read
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
