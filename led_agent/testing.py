"""For tests of strategies and verifiers: a decoder that says what it is told, without a model."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence

from led_agent.protocols import BranchDone, BranchProgress, Sink
from led_agent.types import Branch, DecodeRequest

__all__ = ["ScriptedDecoder"]

Script = Callable[[DecodeRequest], str | Branch] | Sequence[str]


class ScriptedDecoder:
    """Answers requests from a script, in the caller's thread.

    Args:
        script: A function from a request to its text (or a whole branch), or texts that are handed out in turn, the
            last one for ever.
        slots: How many branches it claims to grow at a time.
        hold: Keep branches in flight until ``release()``; ``cancel`` ends them with the first half of their words.

    Each word counts as a token. ``requests`` holds all requests so far; ``closed`` whether it was closed.
    """

    def __init__(self, script: Script, *, slots: int = 8, hold: bool = False) -> None:
        self._script, self._slots, self.hold = script, slots, hold
        self.requests: list[DecodeRequest] = []
        self.closed = False
        self._held: dict[tuple[str, str], tuple[Branch, Sink]] = {}

    @property
    def slots(self) -> int:
        return self._slots

    def check(self, request: DecodeRequest) -> None:
        """Everything can be asked of a script."""

    def submit(self, request: DecodeRequest, sink: Sink) -> None:
        branch = self._branch(request, len(self.requests))
        self.requests.append(request)
        if self.hold:
            self._held[request.problem, request.id] = (branch, sink)
            half = len(branch.token_ids) // 2
            sink(BranchProgress(request.id, half, " ".join(branch.text.split()[:half])))
        else:
            sink(BranchDone(branch))

    def cancel(self, problem: str, ids: Sequence[str]) -> None:
        for name in ids:
            if (problem, name) in self._held:
                branch, sink = self._held.pop((problem, name))
                half = len(branch.token_ids) // 2
                text = " ".join(branch.text.split()[:half])
                cut = {"text": text, "token_ids": branch.token_ids[:half], "finish": "cancelled"}
                sink(BranchDone(branch.model_copy(update=cut)))

    def release(self, count: int | None = None) -> int:
        """Let held branches go, the oldest first; how many went."""
        names = list(self._held)[:count]
        for name in names:
            branch, sink = self._held.pop(name)
            sink(BranchDone(branch))
        return len(names)

    def close(self) -> None:
        self.closed = True

    def _branch(self, request: DecodeRequest, index: int) -> Branch:
        script = self._script
        said = script(request) if callable(script) else script[min(index, len(script) - 1)]
        if isinstance(said, Branch):
            return said.model_copy(update={"id": request.id})
        ids = tuple(zlib.crc32(word.encode()) % 50_000 for word in said.split())
        return Branch(
            id=request.id, text=said, token_ids=ids, logprobs=(0.0,) * len(ids), final_logprobs=(0.0,) * len(ids)
        )
