"""A model behind an OpenAI-compatible HTTP interface: one question, one reply.

This file knows HTTP, keys and limits. It does not know what is asked. A key is sent, and appears nowhere else: neither
in reprs and pickles nor in the messages of errors.
"""

from __future__ import annotations

import contextlib
import email.utils
import json
import os
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from led_agent.errors import MachineError, UsageError

if TYPE_CHECKING:
    import httpx2

__all__ = ["CLOSED", "KEYS", "Endpoint", "Reply"]

CLOSED = "the judge was closed before it had replied"
KEYS = ("LED_AGENT_JUDGE_API_KEY", "OPENAI_API_KEY")  # environment variables, the first that is set counts
_OPENAI = "api.openai.com"  # the second is for this host alone: a key is not shown to whoever speaks its language
_LONGEST_REPLY = 4 * 2**20  # bytes
_AGAIN_AFTER = 1.0  # seconds, where the server doesn't say
_LONGEST_WAIT = 30.0
_wait, _clock = time.sleep, time.monotonic


@dataclass(frozen=True)
class Reply:
    """A model's reply, and whether it was cut at the limit of tokens."""

    text: str
    cut: bool = False


class _Again(Exception):  # noqa: N818 - not an error yet
    """Worth a second try, after so many seconds. Never leaves this file."""

    def __init__(self, message: str, seconds: float = _AGAIN_AFTER) -> None:
        super().__init__(message)
        self.seconds = seconds


@dataclass
class Endpoint:
    """Where to ask.

    Args:
        url: Of the interface, e.g. http://localhost:8000/v1; ``/chat/completions`` is added where it lacks.
        model: The model's name there.
        key: Sent as a bearer token; None takes it from the environment (``KEYS``), and without one none is sent.
        seconds: Wall-clock limit of one try.

    Raises:
        UsageError: the url isn't an http one, or holds a password.
    """

    url: str
    model: str
    key: str | None = field(default=None, repr=False)
    seconds: float = 60.0
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)
    _client: httpx2.Client | None = field(default=None, init=False, repr=False)
    _closed: bool = field(default=False, init=False, repr=False)

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.url)
            parts.port  # noqa: B018 - raises where it is no number
        except ValueError as error:
            raise UsageError(f"judge: url isn't one ({error}); give e.g. http://localhost:8000/v1") from error
        if parts.username is not None or parts.password is not None:
            raise UsageError(f"judge: the url of {parts.hostname} holds a name or password; set {KEYS[0]} instead")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(f"judge: url is {self.url!r}; give an http or https one, e.g. http://localhost:8000/v1")
        path = parts.path.rstrip("/")
        path = path if path.endswith("/chat/completions") else f"{path}/chat/completions"
        self._target = parts._replace(path=path, fragment="").geturl()
        self.shown = parts._replace(path=path, query="", fragment="").geturl()  # a query may hold a secret

    def ask(self, prompt: str, *, temperature: float, max_tokens: int) -> Reply:
        """The reply to one user message. What is worth it is tried once more: a connection that failed, 429, 5xx.

        Raises:
            MachineError: no usable reply; the message names the URL and what it did. Or this was closed.
        """
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": prompt.encode("utf-8", "replace").decode()}],
            "temperature": temperature,
            "max_tokens": max_tokens,
        }
        try:
            try:
                return self._ask_once(body)
            except _Again as first:
                _wait(min(first.seconds, _LONGEST_WAIT))
                return self._ask_once(body)
        except _Again as error:
            raise MachineError(f"{self.shown} {error}, twice in a row") from error

    def close(self) -> None:
        """Let go of its connections, for good: a request that goes on must open none that nobody closes. Idempotent."""
        with self._lock:
            self._closed = True
            client, self._client = self._client, None
        if client is not None:
            client.close()

    def _ask_once(self, body: dict[str, Any]) -> Reply:
        try:
            return self._ask_open(body)
        except Exception as error:
            if self._closed:  # under way or before: a client that is closed says so in many ways
                raise MachineError(CLOSED) from error
            raise

    def _ask_open(self, body: dict[str, Any]) -> Reply:
        import httpx2

        try:
            status, headers, content = self._post(body)
        except httpx2.TimeoutException as error:
            raise MachineError(f"{self.shown} did not answer within {self.seconds:g} s") from error
        except httpx2.TransportError as error:
            raise _Again(f"could not be reached ({type(error).__name__}: {self._masked(str(error))})") from error
        except httpx2.HTTPError as error:
            raise MachineError(f"{self.shown} gave no reply ({type(error).__name__})") from error
        if status == 429 or status >= 500:
            raise _Again(self._refused(status, content), _retry_after(headers.get("retry-after")))
        if status != 200:
            raise MachineError(f"{self.shown} {self._refused(status, content)}")
        return self._read(content)

    def _post(self, body: dict[str, Any]) -> tuple[int, Any, bytes]:
        """Status, headers and content, within the limits of time and size as a whole: a reply that drips is as late as
        one that doesn't come."""
        import httpx2

        deadline = _clock() + self.seconds
        key = self._key()
        headers = {"authorization": f"Bearer {key}"} if key else {}
        content = bytearray()
        with self._connected().stream("POST", self._target, json=body, headers=headers) as response:
            for chunk in response.iter_bytes():
                content += chunk
                if _clock() > deadline:
                    raise httpx2.ReadTimeout("dripping")
                if len(content) > _LONGEST_REPLY:
                    raise MachineError(f"{self.shown} replied with more than {_LONGEST_REPLY >> 20} MiB")
            return response.status_code, response.headers, bytes(content)

    def _connected(self) -> httpx2.Client:
        import httpx2

        with self._lock:
            if self._closed:
                raise MachineError(CLOSED)
            if self._client is None:
                # Redirects aren't followed: a key is for the host that the user named.
                self._client = httpx2.Client(timeout=self.seconds, follow_redirects=False)
            return self._client

    def _read(self, content: bytes) -> Reply:
        try:
            choice = json.loads(content)["choices"][0]
            text, cut = choice["message"]["content"], choice.get("finish_reason") == "length"
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            found = f"{self._snippet(content)!r}, which is no chat completion ({type(error).__name__})"
            raise MachineError(f"{self.shown} replied with {found}") from error
        if not isinstance(text, str):
            raise MachineError(f"{self.shown} replied with a message whose content is {type(text).__name__}, no text")
        return Reply(text, cut)

    def _refused(self, status: int, content: bytes) -> str:
        hint = f"; set {KEYS[0]}" if status in (401, 403) and not self._key() else ""
        return f"answered {status}: {self._snippet(content)!r}{hint}"

    def _snippet(self, content: bytes) -> str:
        return self._masked(content[: _LONGEST_REPLY >> 8].decode("utf-8", "replace"))[:200]

    def _masked(self, text: str) -> str:
        key = self._key()
        return text.replace(key, "…") if key else text

    def _key(self) -> str | None:
        names = KEYS if urlsplit(self.url).hostname == _OPENAI else KEYS[:1]
        found = self.key or next(filter(None, map(os.environ.get, names)), None)
        return found.strip() if found else None


def _retry_after(told: str | None) -> float:
    """Seconds that a server asks to wait: a number, or a date."""
    if not told:
        return _AGAIN_AFTER
    with contextlib.suppress(ValueError):
        return max(0.0, float(told))
    with contextlib.suppress(ValueError, TypeError):
        return max(0.0, email.utils.parsedate_to_datetime(told).timestamp() - time.time())
    return _AGAIN_AFTER
