"""A decoder in this process: the engine in a thread of its own, and a tokenizer in front of it.

It turns requests (messages, text) into the engine's (token ids), and the engine's events into the search's. It does
not know trees, strategies or verifiers.
"""

from __future__ import annotations

import contextlib
import gc
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Self

from led_agent.confidence import EMBEDDED, SHARE, Calibration
from led_agent.errors import LedError, UsageError
from led_agent.models import embedded_refusal, is_embedded, locate
from led_agent.protocols import BranchDone, BranchProgress, Sink
from led_agent.threads import ask_at_exit, start_thread
from led_agent.types import Branch, DecodeRequest, Message, Problem

if TYPE_CHECKING:
    from led_agent.engine import BranchEvent, Engine, EngineRequest
    from led_agent.engine.tokens import Tokens

__all__ = ["LocalDecoder"]

_PROGRESS_SECONDS = 0.05
_MACRO_TOKENS = 8  # between two looks at what was submitted and cancelled
_KEEP_RENDERED = 1024  # prompts


@dataclass
class _Job:
    request: DecodeRequest
    sink: Sink


@dataclass
class _Limit:
    """What a problem may still cost, and what its branches that have ended since have cost."""

    tokens: float
    prefill: float
    generated: int = 0
    prefilled: int = 0


@dataclass
class _Orders:
    """What other threads want of the engine's; carried out between steps, in the order in which it was asked for: an
    end is the end of what was submitted before it, whatever bears the same name later."""

    given: queue.SimpleQueue[Callable[[], None]] = field(default_factory=queue.SimpleQueue)
    wake: threading.Event = field(default_factory=threading.Event)
    close: threading.Event = field(default_factory=threading.Event)

    def give(self, order: Callable[[], None]) -> None:
        self.given.put(order)
        self.wake.set()

    def carry_out(self) -> None:
        """Those that are there now: what is asked for meanwhile waits for a step."""
        for _ in range(self.given.qsize()):
            self.given.get()()


class _Counter:
    """Counts up and down, from any thread."""

    def __init__(self) -> None:
        self.value, self._lock = 0, threading.Lock()

    def add(self, change: int) -> None:
        with self._lock:
            self.value += change


class LocalDecoder:
    """An engine that is stepped by its own thread, behind the ``Decoder`` protocol."""

    def __init__(self, engine: Engine, *, embedded: bool = False) -> None:
        self.engine = engine
        self._embedded = embedded
        self._jobs: dict[str, _Job] = {}
        self._in_flight = _Counter()
        self._rendered: dict[str | tuple[Message, ...], list[int]] = {}
        self._rendering = threading.Lock()
        self._limits: dict[str, _Limit] = {}
        self._told = 0.0  # when growth was last reported
        self._orders = _Orders()
        self._thread = start_thread("led-engine", self._work)
        ask_at_exit(self._ask_to_end)

    @classmethod
    def load(cls, model: str | None = None, *, device: str = "auto", dtype: str = "auto", slots: int = 16) -> Self:
        """Load a model by alias, folder or hub id; None is the default model.

        Raises:
            ModelError: it can't be found, or isn't covered.
            UsageError: no such device or dtype.
        """
        found = locate(model)
        with _no_collection():
            from led_agent.engine import Engine
            from led_agent.engine.model import load_parts

            engine = Engine(load_parts(found, device=device, dtype=dtype), slots=slots)
        return cls(engine, embedded=is_embedded(model))

    @property
    def slots(self) -> int:
        return self.engine.slots

    @property
    def in_flight(self) -> int:
        """Branches that grow or wait for a slot."""
        return self._in_flight.value

    @property
    def n_blocks(self) -> int:
        """The model's depth: as many posteriors can be explored."""
        return self.engine.parts.n_blocks

    @property
    def device(self) -> str:
        """Where it computes: "cpu", "cuda:0"."""
        return str(self.engine.parts.device)

    @property
    def dtype(self) -> str:
        """What it computes in: "float32", "bfloat16"."""
        return str(self.engine.parts.dtype).removeprefix("torch.")

    @property
    def fingerprint(self) -> str:
        """The same for the same weights in the same dtype, wherever they were loaded."""
        return self.engine.parts.fingerprint()

    @property
    def calibration(self) -> Calibration:
        """What makes a probability of how branches agree: fitted to the embedded models, and to no others."""
        return EMBEDDED if self._embedded else SHARE

    @property
    def follows_up(self) -> bool:
        """Whether the model can be asked about what it has said: it has a chat template, and knows more than a game."""
        return not self._embedded and self.tokens.chats

    @property
    def tokens(self) -> Tokens:
        """Between the model's text and its tokens."""
        from led_agent.engine.tokens import Tokens

        return Tokens(self.engine.parts.tokenizer)

    def check(self, request: DecodeRequest) -> None:
        self.engine.check(self._translate(request))

    def submit(self, request: DecodeRequest, sink: Sink) -> None:
        self._in_flight.add(1)
        self._orders.give(partial(self._start, _Job(request, sink)))

    def cancel(self, problem: str, ids: Sequence[str]) -> None:
        self._orders.give(partial(self._cancel, [_key(problem, name) for name in ids]))

    def limit(self, problem: str, tokens: int | None, prefill_tokens: int | None) -> None:
        self._orders.give(partial(self._set_limit, problem, tokens, prefill_tokens))

    def close(self) -> None:
        self._ask_to_end()
        self._thread.join()

    def _ask_to_end(self) -> None:
        self._orders.close.set()
        self._orders.wake.set()

    def render(self, prompt: str | Sequence[Message]) -> list[int]:
        """Token ids of a prompt: through the model's chat template, or as it is where the model has none.

        Raises:
            UsageError: chat messages for a model without a chat template, or a template that refuses them.
        """
        key = prompt if isinstance(prompt, str) else tuple(prompt)
        with self._rendering:  # the search's thread asks, and the engine's, for each branch of a prompt anew
            found = self._rendered.get(key)
            if found is None:
                found = self._render(prompt)
                if len(self._rendered) >= _KEEP_RENDERED:
                    self._rendered.clear()
                self._rendered[key] = found
        return list(found)

    def _render(self, prompt: str | Sequence[Message]) -> list[int]:
        if self._embedded:
            refusal = embedded_refusal(Problem(prompt=prompt).text)
            if refusal is not None:
                raise UsageError(refusal)
        return self.tokens.render(prompt)

    # --- the engine's thread -----------------------------------------------------------------------------------

    def _work(self) -> None:
        self.engine.settle()
        while not self._orders.close.is_set():
            self._orders.carry_out()
            if not self.engine.busy:
                self._orders.wake.wait()
                self._orders.wake.clear()
                continue
            try:
                tokens = self._keep_limits() if self._limits else _MACRO_TOKENS
                events = self.engine.step(tokens=tokens, progress=self._progress_due(), until_done=True)
            except Exception as error:  # noqa: BLE001  (out of memory, say: it costs these branches, not the process)
                self._fail_all(f"{type(error).__name__}: {error}")
                continue
            for event in events:
                self._report(event)

    def _progress_due(self) -> bool:
        """Whether to report growth: now and then, as each report makes the loop's thread take the interpreter from
        this one, and small models take steps faster than anyone reads."""
        now = time.monotonic()
        due = now - self._told >= _PROGRESS_SECONDS
        if due:
            self._told = now
        return due

    def _keep_limits(self) -> int:
        """Cancel what is beyond its problem's limit; how many tokens the next macro-step may take."""
        growing: dict[str, list[tuple[str, int, int]]] = {}
        for key, tokens, prefill in self.engine.growing():
            growing.setdefault(self._jobs[key].request.problem, []).append((key, tokens, prefill))
        most = _MACRO_TOKENS
        for problem, branches in growing.items():
            limit = self._limits.get(problem)
            if limit is None:
                continue
            left = limit.tokens - limit.generated - sum(tokens for _, tokens, _ in branches)
            room = limit.prefill - limit.prefilled - sum(prefill for _, _, prefill in branches)
            if left <= 0 or room <= 0:
                self._cancel([key for key, _, _ in branches])
            else:
                most = int(min(most, max(1, left // len(branches))))
        return most

    def _set_limit(self, problem: str, tokens: int | None, prefill: int | None) -> None:
        if tokens is None and prefill is None:
            self._limits.pop(problem, None)
        else:
            self._limits[problem] = _Limit(
                tokens if tokens is not None else float("inf"), prefill if prefill is not None else float("inf")
            )

    def _start(self, job: _Job) -> None:
        try:
            translated = self._translate(job.request)
            self.engine.submit(translated)
        except LedError as error:
            self._in_flight.add(-1)
            job.sink(BranchDone(Branch(id=job.request.id, text="", finish="error", error=str(error))))
        else:
            self._jobs[translated.id] = job

    def _cancel(self, keys: Sequence[str]) -> None:
        for event in self.engine.cancel(keys):
            self._report(event)

    def _report(self, event: BranchEvent) -> None:
        job = self._jobs.get(event.id)
        if job is None:
            return
        if event.branch is None:
            job.sink(BranchProgress(job.request.id, event.tokens, event.text))
        else:
            del self._jobs[event.id]
            self._in_flight.add(-1)
            limit = self._limits.get(job.request.problem)
            if limit is not None:
                limit.generated += event.tokens
                limit.prefilled += event.branch.prefill_tokens
            kept = self._kept_text(job.request)
            job.sink(BranchDone(event.branch.model_copy(update={"id": job.request.id, "kept_text": kept})))

    def _fail_all(self, reason: str) -> None:
        for event in self.engine.cancel(list(self._jobs)):
            if event.branch is not None:
                failed = event.branch.model_copy(update={"finish": "error", "error": reason})
                self._report(replace(event, branch=failed))

    def _translate(self, request: DecodeRequest) -> EngineRequest:
        from led_agent.engine import EngineRequest

        return EngineRequest(
            id=_key(request.problem, request.id),
            prompt_ids=self.render(request.prompt),
            prefix_ids=request.prefix_ids,
            decoding=request.decoding,
            seed=request.seed,
            max_tokens=request.max_tokens,
            stop=request.stop,
            step=request.step,
            sibling=request.sibling,
            max_step_tokens=request.max_step_tokens,
            exclude=request.exclude,
            step_tokens=request.step_tokens,
        )

    def _kept_text(self, request: DecodeRequest) -> str:
        """What a fork keeps of its parent, as text."""
        from led_agent.engine.text import Detokenizer

        if not request.keep:
            return ""
        at = len(request.prefix_ids) - request.keep
        text = Detokenizer(self.engine.parts.tokenizer, request.prefix_ids[:at])
        for token in request.prefix_ids[at:]:
            text.append(token)  # one by one: what a character lacks at the end is left to the branch
        return text.text


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Without the garbage collector, which goes through a million new objects again and again while torch and
    transformers are imported, finds nothing, and takes a sixth of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _key(problem: str, name: str) -> str:
    return f"{problem}#{name}"
