"""Continuous batching: admit, prefill once, fork, step, retire, refill.

The engine computes branches for requests. It does not know trees, problems, verifiers or Ray: a request is token ids
and a decoding, a result is a branch. It runs in the caller's thread; nothing happens between calls.

A branch is a function of the weights, its prefix, its decoding and its seed. On CPU in float32 it is so to the bit,
whatever else is in the batch; on a GPU, and in lower precision, batched kernels round differently with the shape of
the batch, so that there it holds up to near-ties.
"""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Self

import torch

from led_agent.decoding.guard import Finding, Watch
from led_agent.decoding.noise import Frames
from led_agent.decoding.sampling import DRAW_RESEED, uniform
from led_agent.decoding.siblings import sibling_code
from led_agent.engine.attention import prefill_mask
from led_agent.engine.cache import PrefixCache, SlotCache, round_up
from led_agent.engine.choose import Chosen, row_multiple
from led_agent.engine.memory import free_bytes
from led_agent.engine.model import ModelParts, load_parts
from led_agent.engine.plan import Plan
from led_agent.engine.scoring import CleanScorer
from led_agent.engine.state import RowState
from led_agent.engine.step import decode_step
from led_agent.engine.text import Detokenizer, find_stop
from led_agent.errors import UsageError
from led_agent.types import Branch, Decoding, Finish, Rollback, Sibling

__all__ = ["BranchEvent", "Engine", "EngineRequest"]

_CHUNK = 512  # prompt tokens prefilled at a time
_KEEP_BYTES = 256 * 2**20  # of prefixes that no waiting branch needs
_KEEP_FINISHED = 4096  # finished branches that can still be named as a parent

_OTHER_SEEDS = 0x2545F4914F6CDD1D  # of branches that were turned back, apart from those of siblings
_SMALL_MODEL = 10_000_000  # parameters


@dataclass(frozen=True)
class EngineRequest:
    """Branches to grow from one prefix.

    Attributes:
        id: Names the branch; with n > 1 the branches are "id/0" … "id/n-1", siblings of each other.
        prompt_ids: The prompt's tokens; or give ``parent``.
        decoding: How tokens are chosen.
        seed: Of branch 0; the others' are derived from it.
        max_tokens: New tokens a branch, at most; fewer where the model's context ends first.
        n: How many branches.
        parent: A branch that this engine finished lately, to continue it, instead of ``prompt_ids``.
        prefix_ids: Tokens already generated after the prompt.
        stop: Strings that end a branch and are cut from its text.
        step: Strings that end a branch and stay in its text.
        sibling: With n = 1, its place among branches that are asked for one by one, here or elsewhere.
    """

    id: str
    prompt_ids: Sequence[int] | None = None
    decoding: Decoding = field(default_factory=Decoding.led)
    seed: int = 0
    max_tokens: int = 512
    n: int = 1
    parent: str | None = None
    prefix_ids: Sequence[int] = ()
    stop: Sequence[str] = ()
    step: Sequence[str] = ()
    sibling: Sibling | None = None


@dataclass(frozen=True)
class BranchEvent:
    """A branch has grown ("progress"), or is complete ("done", with ``branch``). Tokens are those computed so far,
    rolled back ones included; text is all text so far."""

    id: str
    kind: Literal["progress", "done"]
    tokens: int
    text: str
    branch: Branch | None = None


@dataclass(frozen=True)
class _Prefix:
    """A token sequence in two parts; prefilled part by part, so that what is computed does not depend on what
    happened to be there already."""

    prompt: tuple[int, ...]
    generated: tuple[int, ...]

    @property
    def ids(self) -> tuple[int, ...]:
        return self.prompt + self.generated


@dataclass
class _Growing:
    """A branch on its way, on the host."""

    id: str
    prefix: _Prefix
    decoding: Decoding
    span: Literal["think", "all", "none"]
    seed: int
    max_tokens: int
    stop: tuple[str, ...]
    step: tuple[str, ...]
    detokenizer: Detokenizer
    sibling: Sibling | None = None
    watch: Watch | None = None
    scorer: CleanScorer | None = None
    began: float = 0.0
    prefill_tokens: int = 0
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    final_logprobs: list[float] = field(default_factory=list)
    entropies: list[float] = field(default_factory=list)
    explored: list[bool] = field(default_factory=list)
    rollbacks: list[Rollback] = field(default_factory=list)
    discarded: int = 0

    @property
    def position(self) -> int:
        """Where its next forward writes."""
        return len(self.prefix.prompt) + len(self.prefix.generated) + len(self.token_ids) - 1

    @property
    def wary(self) -> bool:
        """Whether the guard has it go on conservatively."""
        return self.watch is not None and self.watch.wary != "no"

    @property
    def noisy(self) -> bool:
        """Whether its steps' posteriors are not the model's own."""
        return self.decoding.noisy and self.span != "none"

    @property
    def reads_boundaries(self) -> bool:
        """Whether the text must be followed for where steps of thought end."""
        noise = self.decoding.latent_noise
        return self.watch is not None or (self.noisy and noise is not None and noise.hold == "step")

    @property
    def tokens(self) -> int:
        """Computed so far, rolled back ones included."""
        return len(self.token_ids) + self.discarded

    def so_far(self) -> _Prefix:
        return _Prefix(self.prefix.prompt, self.prefix.generated + tuple(self.token_ids))

    def cut(self, length: int) -> None:
        """Drop the tokens behind that many, and all that was noted of them."""
        self.discarded += len(self.token_ids) - length
        for kept in (self.token_ids, self.logprobs, self.final_logprobs, self.entropies, self.explored):
            del kept[length:]
        self.detokenizer = self.detokenizer.begun_with(self.token_ids)
        if self.scorer is not None:
            self.scorer.roll_back(length)


class Engine:
    """Grows many branches at a time over one unmodified transformers model.

    Args:
        parts: The model (``Engine.load`` makes them).
        slots: Branches that grow at a time.
    """

    def __init__(self, parts: ModelParts, *, slots: int = 16) -> None:
        if slots < 1:
            raise UsageError(f"slots is {slots}; at least 1 is needed")
        self.parts, self.slots = parts, slots
        rows = round_up(slots, row_multiple(parts.device))
        self._cache = SlotCache(parts.kv_shape, rows, dtype=parts.dtype, device=parts.device)
        self._state = RowState(rows, parts.thinking, parts.device)
        self._telling = True  # whether this step reports progress
        self._live: list[_Growing] = []  # row i of the cache grows _live[i]
        self._waiting: deque[_Growing] = deque()
        self._prefixes: OrderedDict[tuple[int, ...], PrefixCache] = OrderedDict()
        self._finished: OrderedDict[str, _Prefix] = OrderedDict()
        self._frames = Frames()
        self._plan: Plan | None = None
        self.slot_steps = self.busy_slot_steps = self.steps = 0

    @classmethod
    def load(cls, model: str | Path, device: str = "auto", dtype: str = "auto", *, slots: int = 16) -> Self:
        """Load a model by alias, folder or hub id.

        Raises:
            ModelError: it can't be found, or isn't covered.
            UsageError: no such device or dtype.
        """
        from led_agent.models import locate

        return cls(load_parts(locate(str(model)), device=device, dtype=dtype), slots=slots)

    # --- requests ----------------------------------------------------------------------------------------------

    def check(self, request: EngineRequest) -> None:
        """Refuse what can't be carried out.

        Raises:
            UsageError: naming what was found and what is allowed.
        """
        self._prefix_of(request)
        request.decoding.check_model(self.parts.n_blocks, self.parts.vocab)
        for name, value in (("max_tokens", request.max_tokens), ("n", request.n)):
            if value < 1:
                raise UsageError(f"request {request.id!r}: {name} is {value}; at least 1 is needed")
        if not 0 <= request.seed < 2**63:
            raise UsageError(f"request {request.id!r}: seed is {request.seed}; allowed are 0 to 2**63 - 1")
        if (request.stop or request.step) and self.parts.tokenizer is None:
            raise UsageError(
                f"request {request.id!r} has stop strings, but the engine has no tokenizer to read text with"
            )

    def submit(self, request: EngineRequest) -> list[str]:
        """Queue a request; the ids of its branches.

        Raises:
            UsageError: it can't be carried out, or an id is taken.
        """
        self.check(request)
        names = [request.id] if request.n == 1 else [f"{request.id}/{i}" for i in range(request.n)]
        taken = {growing.id for growing in (*self._live, *self._waiting)} & set(names)
        if taken:
            raise UsageError(f"a branch {sorted(taken)[0]!r} is already being decoded; give each request its own id")
        prefix = self._prefix_of(request)
        room = self.parts.context - len(prefix.ids)
        for index, name in enumerate(names):
            self._waiting.append(
                _Growing(
                    id=name,
                    prefix=prefix,
                    decoding=request.decoding,
                    span=self.span(request.decoding),
                    seed=_derived(request.seed, index),
                    max_tokens=min(request.max_tokens, room),
                    stop=tuple(request.stop),
                    step=tuple(request.step),
                    detokenizer=Detokenizer(self.parts.tokenizer),
                    sibling=Sibling(group=request.seed, index=index, of=request.n)
                    if request.n > 1
                    else request.sibling,
                    watch=Watch(request.decoding.guard) if request.decoding.guard is not None else None,
                )
            )
        return names

    def span(self, decoding: Decoding) -> Literal["think", "all", "none"]:
        """What a decoding's span comes to on this model: "auto" is "think" where the model has thinking tags, else
        "all"; greedy and plain decodings have none."""
        if not decoding.has_methods:
            return "none"
        if decoding.span == "auto":
            return "think" if self.parts.thinking else "all"
        return decoding.span

    def generate(self, requests: Iterable[EngineRequest]) -> Iterator[BranchEvent]:
        """Grow all branches of these requests; events as they come, the branches in the order in which they end."""
        mine = {name for request in requests for name in self.submit(request)}
        try:
            while mine:
                for event in self.step():
                    if event.kind == "done":
                        mine.discard(event.id)
                    yield event
        finally:  # the caller stopped listening
            self.cancel(mine)

    @torch.inference_mode()
    def cancel(self, ids: Iterable[str]) -> list[BranchEvent]:
        """End branches now; each one's final event, with what it had."""
        doomed = set(ids)
        events = [self._retire(row, "cancelled") for row in self._rows_of(doomed)]
        for growing in [g for g in self._waiting if g.id in doomed]:
            self._waiting.remove(growing)
            events.append(_done(growing, "cancelled"))
        return events

    @property
    def busy(self) -> bool:
        """Whether anything is being decoded or waits to be."""
        return bool(self._live or self._waiting)

    # --- the loop ----------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Call once in a thread of its own that will step this engine: where the model is small and on a CPU, that
        thread computes alone from now on. Its products take microseconds, and helpers that must be waited for after
        each take longer than they save, most of all where other threads keep the cores busy."""
        small = sum(p.numel() for p in self.parts.model.parameters()) < _SMALL_MODEL
        if small and self.parts.device.type == "cpu":
            torch.set_num_threads(1)

    @torch.inference_mode()
    def step(self, *, progress: bool = True) -> list[BranchEvent]:
        """Fill free slots, decode one token for every live branch, and report: those that ended, and with
        ``progress`` how far the others are. Without it the text of branches that look for no string is put off."""
        self._telling = progress
        events = self._admit()
        if not self._live:
            return events
        if self._plan is None:
            self._plan = self._make_plan()
        longest = max(growing.position for growing in self._live)
        chosen = decode_step(self.parts, self._cache, self._state, self._plan, longest, self._frames)
        self.steps += 1
        self.slot_steps += self.slots
        self.busy_slot_steps += len(self._live)
        return events + self._take(chosen)

    def _make_plan(self) -> Plan:
        return Plan.of(
            [g.decoding.conservative if g.wary else g.decoding for g in self._live],
            ["none" if g.wary else g.span for g in self._live],
            self.parts,
            [g.sibling for g in self._live],
        )

    def _admit(self) -> list[BranchEvent]:
        """Move waiting branches into free slots, prefilling what is new to the engine."""
        events = []
        while self._waiting and len(self._live) < self.slots:
            growing = self._waiting.popleft()
            growing.began = time.perf_counter()
            if growing.max_tokens < 1:
                events.append(_done(growing, "length"))
                continue
            refusal = self._make_room(len(growing.prefix.ids) + growing.max_tokens)
            if refusal is not None:
                events.append(_done(growing, "error", refusal))
                continue
            self._place(growing)
        self._forget_prefixes()
        return events

    def _make_room(self, capacity: int) -> str | None:
        """Grow the cache to that many positions; why not, where memory is short."""
        if capacity <= self._cache.capacity:
            return None
        needed, free = self._cache.nbytes_for(capacity), free_bytes(self.parts.device)
        if needed > 0.9 * free:
            return (
                f"{self.slots} slots of {capacity} positions need {needed / 2**30:.1f} GiB of keys and values, and "
                f"{free / 2**30:.1f} GiB are free; use fewer slots, a lower max_tokens or a shorter prompt"
            )
        self._cache.reserve(capacity)
        return None

    def _place(self, growing: _Growing) -> None:
        """Fork a prefix into the next row. The prefix's last token is left to the first step, which gives every
        branch the same start, whether its prefix was new or not."""
        row, ids = len(self._live), growing.prefix.ids
        if len(ids) > 1:
            cached, growing.prefill_tokens = self._prefill(growing.prefix)
            self._cache.load(row, cached)
        self._live.append(growing)
        coded = growing.sibling if growing.decoding.siblings == "stratified" else None
        code = sibling_code(coded.group, coded.index, coded.of) if coded is not None and coded.of > 1 else None
        self._set_state(row, growing, growing.seed, code)
        distiller = growing.decoding.distiller
        if distiller is not None and growing.span != "none":
            self._state.clear_distiller(row, distiller.rank, self.parts.width)

    def _set_state(self, row: int, growing: _Growing, seed: int, code: float | None = None) -> None:
        """Let a row go on from where its branch stands."""
        so_far, noise = growing.so_far(), growing.decoding.latent_noise
        first = len(growing.prefix.prompt) - (1 if noise is not None and noise.prompt_end else 0)
        self._state.place(
            row,
            so_far.ids[-1],
            growing.position,
            seed,
            thinking=self._thinking(so_far),
            recent=so_far.generated,
            begins=first,
            steps=len(growing.watch.boundaries) - 1 if growing.watch is not None else 0,
            code=code,
        )
        if growing.decoding.repetition_penalty != 1.0:
            self._state.remember(row, so_far.ids, self.parts.vocab)
        self._plan = None

    def _prefill(self, prefix: _Prefix) -> tuple[PrefixCache, int]:
        """Keys and values of all but the prefix's last token, and how many had to be computed."""
        wanted = prefix.ids[:-1]
        found = self._prefixes.get(wanted)
        if found is not None:
            self._prefixes.move_to_end(wanted)
            return found, 0
        base, computed = None, 0
        if prefix.generated and len(prefix.prompt) > 1:
            base, computed = self._prefill(_Prefix(prefix.prompt, ()))
        cache = PrefixCache(
            self.parts.kv_shape, len(wanted), dtype=self.parts.dtype, device=self.parts.device, base=base
        )
        ids = torch.tensor(wanted, device=self.parts.device)[None]
        for start in range(cache.filled, len(wanted), _CHUNK):
            stop = min(start + _CHUNK, len(wanted))
            positions = torch.arange(start, stop, device=self.parts.device)[None]
            self.parts.hidden(ids[:, start:stop], positions, prefill_mask(start, stop, self.parts.device), cache)
            cache.advance(stop - start)
        self._prefixes[wanted] = cache
        return cache, computed + len(wanted) - (base.filled if base is not None else 0)

    def _forget_prefixes(self) -> None:
        """Drop the least recently used prefixes that nobody waits for, beyond what may be kept."""
        needed = {growing.prefix.ids[:-1] for growing in self._waiting}
        needed |= {growing.prefix.prompt[:-1] for growing in self._waiting}
        total = sum(cache.nbytes for cache in self._prefixes.values())
        for ids in [ids for ids in self._prefixes if ids not in needed]:
            if total <= _KEEP_BYTES:
                return
            total -= self._prefixes.pop(ids).nbytes

    def _take(self, chosen: Chosen) -> list[BranchEvent]:
        """Give each live branch its token; retire those that end, turn back those that degrade."""
        columns = zip(
            chosen.token.tolist(),
            chosen.logprob.tolist(),
            chosen.final_logprob.tolist(),
            chosen.entropy.tolist(),
            chosen.explored.tolist(),
            chosen.sound.tolist(),
            strict=True,
        )
        events: list[BranchEvent] = []
        ended: list[tuple[int, Finish, str | None]] = []
        for row, (growing, values) in enumerate(zip(self._live, columns, strict=True)):
            finish, error = self._grow(row, growing, *values)
            if finish is not None:
                ended.append((row, finish, error))
            elif self._telling:
                events.append(BranchEvent(growing.id, "progress", growing.tokens, growing.detokenizer.text))
        # From the last row down, so that moving the last live row into a gap never moves one that is to end.
        return events + [self._retire(row, finish, error) for row, finish, error in reversed(ended)]

    def _grow(
        self,
        row: int,
        growing: _Growing,
        token: int,
        logprob: float,
        final: float,
        entropy: float,
        explored: bool,
        sound: bool,
    ) -> tuple[Finish | None, str | None]:
        """Append a token, and let the guard look at the branch; how the branch has ended, if it has."""
        if not sound:
            if growing.watch is not None and growing.watch.wary != "rest":
                self._turn_back(row, growing, Finding("nonfinite", 0.0, 0.0, len(growing.token_ids)))
                return None, None
            at = len(growing.prefix.ids) + len(growing.token_ids)
            return "error", f"the model's logits at position {at} are not finite"
        growing.token_ids.append(token)
        growing.logprobs.append(logprob)
        growing.final_logprobs.append(final)
        growing.entropies.append(entropy)
        growing.explored.append(explored)
        finish, fresh = self._ends(growing, token)
        if growing.reads_boundaries and self._follow_steps(row, growing, fresh, ending=finish is not None):
            return None, None  # turned back: what it ended with is gone
        return finish, None

    def _ends(self, growing: _Growing, token: int) -> tuple[Finish | None, str]:
        """How the branch ends with its newest token, if it does, and the text that is new by it."""
        if token in self.parts.eos:
            return "eos", ""
        fresh = ""
        if self._telling or growing.stop or growing.step or growing.reads_boundaries:
            fresh = growing.detokenizer.append(token)
        else:
            growing.detokenizer.hold(token)
        if fresh and find_stop(growing.detokenizer, fresh, growing.stop, cut=True):
            return "stop", fresh
        if fresh and find_stop(growing.detokenizer, fresh, growing.step, cut=False):
            return "step", fresh
        return ("length" if len(growing.token_ids) >= growing.max_tokens else None), fresh

    def _follow_steps(self, row: int, growing: _Growing, fresh: str, *, ending: bool) -> bool:
        """Note where a step of thought ends, and turn the branch back where its guard finds it degraded; whether it
        was turned back."""
        watch, at = growing.watch, len(growing.token_ids)
        ends = bool(fresh) and find_stop(growing.detokenizer, fresh, growing.decoding.boundaries, cut=False)
        if watch is None:
            self._state.steps[row] += ends
            return False
        if growing.noisy and (ending or at % watch.guard.every == 0):
            self._score(growing)
        known = growing.scorer.scored if growing.scorer is not None else 0 if growing.noisy else at
        logprobs, entropies = growing.final_logprobs[:known], growing.entropies[:known]
        finding = watch.look(growing.token_ids, logprobs, entropies, ending=ending)
        if finding is not None:
            self._turn_back(row, growing, finding)
            return True
        if ends or watch.step_is_long(at):
            if watch.boundary(at):
                self._plan = None  # it may explore again
            self._state.steps[row] = len(watch.boundaries) - 1
        return False

    def _turn_back(self, row: int, growing: _Growing, finding: Finding) -> None:
        """Cut a branch back to its last sound boundary, from where it goes on conservatively, by other numbers."""
        if growing.watch is None:
            return
        at = len(growing.token_ids)
        back, lasting = growing.watch.turn_back(finding)
        growing.cut(back)
        growing.rollbacks.append(
            Rollback(
                cause=finding.cause,
                measured=finding.measured,
                threshold=finding.threshold,
                at=at,
                back_to=back,
                lasting=lasting,
            )
        )
        if finding.cause == "nonfinite":
            self._cache.clear(row, growing.position)
        self._set_state(row, growing, _derived(growing.seed ^ _OTHER_SEEDS, len(growing.rollbacks)))

    def _score(self, growing: _Growing) -> None:
        """Put the unperturbed posterior's figures in the place of the noisy one's."""
        if growing.scorer is None:
            ids = growing.prefix.ids
            base = self._prefill(growing.prefix)[0] if len(ids) > 1 else None
            # Without a guard it is scored once, at its end: room for what it has is enough.
            room = growing.max_tokens if growing.watch is not None else len(growing.token_ids)
            growing.scorer = CleanScorer(self.parts, ids, base, room)
        known = growing.scorer.scored
        logprobs, entropies = growing.scorer.score(growing.token_ids)
        growing.final_logprobs[known:] = logprobs
        growing.entropies[known:] = entropies

    def _retire(self, row: int, finish: Finish, error: str | None = None) -> BranchEvent:
        """Free a row: the last live one moves into it, so that live rows stay together."""
        growing = self._live[row]
        if growing.noisy and growing.token_ids:
            self._score(growing)
        growing.scorer = None
        if finish == "error":
            self._cache.clear(row, 0)
        last = len(self._live) - 1
        if row != last:
            self._cache.move(last, row, self._live[last].position)
            self._state.move(last, row)
            self._live[row] = self._live[last]
        self._live.pop()
        self._plan = None
        self._finished[growing.id] = growing.so_far()
        while len(self._finished) > _KEEP_FINISHED:
            self._finished.popitem(last=False)
        return _done(growing, finish, error)

    def _rows_of(self, ids: set[str]) -> Iterator[int]:
        """Rows of these branches, the last first; safe while they are being retired."""
        for row in range(len(self._live) - 1, -1, -1):
            if self._live[row].id in ids:
                yield row

    # --- prefixes ----------------------------------------------------------------------------------------------

    def _prefix_of(self, request: EngineRequest) -> _Prefix:
        if (request.prompt_ids is None) == (request.parent is None):
            raise UsageError(f"request {request.id!r} needs either prompt_ids or a parent, and not both")
        if request.parent is not None:
            if request.parent not in self._finished:
                raise UsageError(f"request {request.id!r}: the engine has finished no branch {request.parent!r}")
            above = self._finished[request.parent]
            prefix = _Prefix(above.prompt, above.generated + tuple(request.prefix_ids))
        else:
            prefix = _Prefix(tuple(request.prompt_ids or ()), tuple(request.prefix_ids))
        if not prefix.prompt:
            raise UsageError(f"request {request.id!r} has an empty prompt; at least one token is needed")
        if len(prefix.ids) >= self.parts.context:
            raise UsageError(
                f"the prompt has {len(prefix.ids)} tokens, and the model's context of {self.parts.context} leaves no "
                "room for an answer; shorten it or choose a model with a longer context"
            )
        wrong = [t for t in prefix.ids if not 0 <= t < self.parts.vocab]
        if wrong:
            raise UsageError(
                f"request {request.id!r}: token {wrong[0]} is outside the vocabulary of {self.parts.vocab}"
            )
        return prefix

    def _thinking(self, prefix: _Prefix) -> bool:
        """Whether a branch begins inside its thinking: the prompt ends by opening it (white space may follow), or
        what was generated has opened it and not closed it. A tag that the user merely mentions does not count."""
        tags = self.parts.thinking
        if not tags:
            return False
        opened = _rfind(prefix.generated, tags.open)
        closed = _rfind(prefix.generated, tags.close)
        if opened >= 0 or closed >= 0:
            return opened > closed
        at = _rfind(prefix.prompt, tags.open)
        if at < 0:
            return False
        rest = list(prefix.prompt[at + len(tags.open) :])
        return not rest or (len(rest) <= 2 and not self.parts.tokenizer.decode(rest).strip())


def _done(growing: _Growing, finish: Finish, error: str | None = None) -> BranchEvent:
    seconds = time.perf_counter() - growing.began if growing.began else 0.0
    branch = Branch(
        id=growing.id,
        text=growing.detokenizer.finish(),
        finish=finish,
        token_ids=tuple(growing.token_ids),
        logprobs=tuple(growing.logprobs),
        final_logprobs=tuple(growing.final_logprobs),
        entropies=tuple(growing.entropies),
        explored=tuple(growing.explored),
        span=growing.span,
        rollbacks=tuple(growing.rollbacks),
        discarded=growing.discarded,
        prefill_tokens=growing.prefill_tokens,
        error=error,
        seconds=seconds,
    )
    return BranchEvent(growing.id, "done", growing.tokens, branch.text, branch)


def _derived(seed: int, index: int) -> int:
    """Index 0 is the seed itself; the others are hashed from it."""
    if index == 0:
        return seed
    u = uniform(torch.tensor([seed]), torch.tensor([index]), DRAW_RESEED)
    return int(u.item() * 2**53)


def _rfind(ids: Sequence[int], wanted: Sequence[int]) -> int:
    """Where ``wanted`` last begins in ``ids``; -1 where it doesn't."""
    width = len(wanted)
    return next((at for at in range(len(ids) - width, -1, -1) if tuple(ids[at : at + width]) == tuple(wanted)), -1)
