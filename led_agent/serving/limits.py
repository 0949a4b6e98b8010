"""What a server allows, and what it refuses with. No HTTP here but its status codes."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence

from pydantic import Field

from led_agent.record import Record

__all__ = ["BusyError", "Keys", "Limits", "RefusedError", "UnavailableError"]


class Limits(Record):
    """What one server allows.

    Attributes:
        body_bytes: Size of a request's body.
        body_seconds: How long a client may take to send it.
        max_tokens: New tokens a branch.
        tokens: Generated tokens a run, over all branches; None is no limit.
        seconds: Wall-clock time of a run from when it is begun; it ends then with what it has.
        branches: Branches a run, and the largest number in a strategy's settings.
        choices: ``n`` of a request.
        waiting: Runs that wait to be begun; one more is refused with status 429.
        kept: Finished runs whose trees can be asked for; older ones are forgotten.
        shutdown_seconds: How long runs may go on once the server is to end.
    """

    body_bytes: int = Field(default=1_000_000, ge=1)
    body_seconds: float = Field(default=30.0, gt=0)
    max_tokens: int = Field(default=8192, ge=1)
    tokens: int | None = Field(default=None, ge=1)
    seconds: float = Field(default=300.0, gt=0)
    branches: int = Field(default=256, ge=1)
    choices: int = Field(default=16, ge=1)
    waiting: int = Field(default=256, ge=1)
    kept: int = Field(default=128, ge=1)
    shutdown_seconds: float = Field(default=10.0, ge=0)


class RefusedError(Exception):
    """A request that is not answered as it asks. ``param`` names what of it, ``code`` is for programs."""

    def __init__(self, message: str, *, status: int = 400, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.param, self.code = status, param, code


class BusyError(RefusedError):
    """Too much waits already; ``retry_after`` seconds from now there may be room."""

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message, status=429, code="queue_full")
        self.retry_after = retry_after


class UnavailableError(RefusedError):
    """The server is ending, or broken."""

    def __init__(self, message: str) -> None:
        super().__init__(message, status=503, code="unavailable")


class Keys:
    """Who may ask. Without any key everybody may. Keys are compared in constant time, and kept as digests only."""

    def __init__(self, keys: Sequence[str] = ()) -> None:
        self._digests = [_digest(key) for key in keys]

    @property
    def needed(self) -> bool:
        return bool(self._digests)

    def owner(self, given: str | None) -> str:
        """Whose key this is, as a name that gives nothing away: each sees its own runs.

        Raises:
            RefusedError: with status 401, where a key is needed and this is none.
        """
        if not self._digests:
            return ""
        offered = _digest(given or "")
        if sum(hmac.compare_digest(offered, known) for known in self._digests) == 0:  # all are compared, whichever fits
            told = "no API key was given" if given is None else "this API key is not known here"
            raise RefusedError(f"{told}; send it as Authorization: Bearer KEY", status=401, code="invalid_api_key")
        return offered


def _digest(key: str) -> str:
    return hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
