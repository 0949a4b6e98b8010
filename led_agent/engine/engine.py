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
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, Self

import torch

from led_agent.decoding.guard import Finding, Watch
from led_agent.decoding.noise import Frames
from led_agent.decoding.siblings import sibling_code
from led_agent.engine.ahead import Ahead, Ticket
from led_agent.engine.cache import PrefixCache, Sharing, SlotCache, round_up
from led_agent.engine.choose import Chosen, row_multiple
from led_agent.engine.growing import Growing, Prefix, derived
from led_agent.engine.intake import begins_thinking, prefix_of, span_of
from led_agent.engine.intake import check as check_request
from led_agent.engine.memory import MemoryPlan, free_bytes
from led_agent.engine.model import ModelParts, load_parts
from led_agent.engine.plan import Plan
from led_agent.engine.prefixes import CHUNK, Prefixes
from led_agent.engine.replay import first_ready, replay_of, replays
from led_agent.engine.requests import BranchEvent, EngineRequest
from led_agent.engine.scoring import CleanScorer
from led_agent.engine.state import RowState
from led_agent.engine.static import StaticPlan
from led_agent.engine.step import decode_step
from led_agent.engine.text import Detokenizer, find_stop
from led_agent.errors import UsageError
from led_agent.types import Decoding, Finish, Rollback, Sibling

__all__ = ["Engine"]

_KEEP_FINISHED = 4096  # finished branches that can still be named as a parent
_MACRO_TOKENS = 8  # tokens between two looks at who wants what
_AHEAD = 16  # steps that a GPU takes between two looks of the host
_MACRO_SECONDS = 0.2  # the same where steps are slow
_MAX_WAITING = 65_536  # branches
_SHARING_PAYS = 2048  # positions of a prefix times siblings, from where on they had better share it

_OTHER_SEEDS = 0x2545F4914F6CDD1D  # of branches that were turned back, apart from those of siblings
_SMALL_MODEL = 10_000_000  # parameters


class Engine:
    """Grows many branches at a time over the weights of one transformers model.

    Args:
        parts: The model (``Engine.load`` makes them).
        slots: Branches that grow at a time.
        capacity: Positions that a branch may have, its prompt included; None is the model's context, or what fits into
            memory with all slots in use.
        share_prefixes: Whether siblings attend to one copy of a long prompt: "auto" where the prompt's length times the
            number of siblings promises that it pays, which a branch's own request decides, or always, or never.
        max_waiting: Branches that may wait for a slot; more are refused.
        ahead: How many steps the device takes between two looks of the host, which then lags as many behind; None is 16
            on CUDA and 0 elsewhere, where the host takes every step with it. Batches with guards, noise, DoLa or ESamp
            are stepped one by one anyhow.

    Raises:
        UsageError: no slots, or no memory for them.
    """

    def __init__(
        self,
        parts: ModelParts,
        *,
        slots: int = 16,
        capacity: int | None = None,
        share_prefixes: Literal["auto", "always", "never"] = "auto",
        max_waiting: int = _MAX_WAITING,
        ahead: int | None = None,
    ) -> None:
        if slots < 1:
            raise UsageError(f"slots is {slots}; at least 1 is needed")
        if share_prefixes not in ("auto", "always", "never"):
            raise UsageError(f"share_prefixes is {share_prefixes!r}; allowed are auto, always and never")
        if max_waiting < 1 or (ahead is not None and ahead < 0):
            raise UsageError(
                f"max_waiting is {max_waiting} and ahead {ahead}; at least one branch has to be let wait, and steps "
                "ahead are 0 or more"
            )
        self.parts, self.slots, self.max_waiting = parts, slots, max_waiting
        self._sharing_pays = {"auto": _SHARING_PAYS, "always": 0, "never": None}[share_prefixes]
        rows = round_up(slots, row_multiple(parts.device))
        layers, heads, dim = parts.kv_shape
        bytes_each = 2 * layers * heads * dim * parts.dtype.itemsize
        self.memory = MemoryPlan.of(rows, bytes_each, parts.context, capacity, parts.device)
        self._cache = SlotCache(parts.kv_shape, rows, dtype=parts.dtype, device=parts.device)
        self._state = RowState(rows, parts.thinking, parts.device)
        self._live: list[Growing] = []  # row i of the cache grows _live[i]
        self._waiting: deque[Growing] = deque()
        self._prefixes = Prefixes(parts)
        self._finished: OrderedDict[str, tuple[Prefix, int]] = OrderedDict()  # and how many tokens were its own
        self._frames = Frames()
        self._spoilt: set[int] = set()  # rows behind the live ones that may hold what is not finite
        self._plan: Plan | None = None
        self._static: StaticPlan | None = None
        # There a token's keys and values are the same to the bit only where they come from a step of its own.
        self._exact = parts.device.type == "cpu" and parts.dtype == torch.float32
        cuda = parts.device.type == "cuda"
        steps = ahead if ahead is not None else _AHEAD if cuda else 0
        self._ahead = Ahead(parts, self._cache, self._state, steps, capture=cuda) if steps else None
        self._flying: deque[tuple[Ticket, list[Growing]]] = deque()  # launched, and not looked at yet
        self.slot_steps = self.busy_slot_steps = self.steps = 0
        self.generated_tokens = self.prefill_tokens = 0  # computed so far, rolled back ones included

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
        check_request(request, self._prefix_of(request), self.parts, self.memory)

    def submit(self, request: EngineRequest) -> list[str]:
        """Queue a request; the ids of its branches.

        Raises:
            UsageError: it can't be carried out, or an id is taken.
        """
        self.check(request)
        names = [request.id] if request.n == 1 else [f"{request.id}/{i}" for i in range(request.n)]
        if len(self._waiting) + request.n > self.max_waiting:
            raise UsageError(
                f"{len(self._waiting)} branches wait already and {self.max_waiting} may; step the engine, or let "
                "generate() take requests as slots come free"
            )
        taken = {growing.id for growing in (*self._live, *self._waiting)} & set(names)
        if taken:
            raise UsageError(f"a branch {sorted(taken)[0]!r} is already being decoded; give each request its own id")
        prefix = self._copied(request, self._prefix_of(request))
        self._waiting.extend(self._branch(request, prefix, i, name) for i, name in enumerate(names))
        return names

    def _branch(self, request: EngineRequest, prefix: Prefix, index: int, name: str) -> Growing:
        decoding, room = request.decoding, self.parts.context - len(prefix.ids)
        siblings = Sibling(group=request.seed, index=index, of=request.n)
        return Growing(
            id=name,
            prefix=prefix,
            decoding=decoding,
            span=self.span(decoding),
            seed=derived(request.seed, index),
            max_tokens=min(request.max_tokens, room),
            stop=tuple(request.stop),
            step=tuple(request.step),
            max_step_tokens=request.max_step_tokens,
            exclude=tuple(request.exclude),
            step_tokens=frozenset(request.step_tokens),
            detokenizer=Detokenizer(self.parts.tokenizer, prefix.generated),
            sibling=siblings if request.n > 1 else request.sibling,
            watch=Watch(decoding.guard) if decoding.guard is not None else None,
        )

    def span(self, decoding: Decoding) -> Literal["think", "all", "none"]:
        """What a decoding's span comes to on this model: "auto" is "think" where the model has thinking tags, else
        "all"; greedy and plain decodings have none."""
        return span_of(decoding, self.parts)

    def generate(self, requests: Iterable[EngineRequest]) -> Iterator[BranchEvent]:
        """Grow all branches of these requests; events as they come, the branches in the order in which they end. The
        requests are taken as slots come free, so there may be any number of them."""
        if isinstance(requests, Sequence):
            for request in requests:
                self.check(request)
        coming, mine = iter(requests), set[str]()
        held: EngineRequest | None = None  # taken, and too large for the queue as it is
        wanted, more = min(self.slots, self.max_waiting), True
        try:
            while True:
                while more and len(self._waiting) < wanted:
                    held = held or next(coming, None)
                    more = held is not None
                    if held is None or (self._waiting and len(self._waiting) + held.n > self.max_waiting):
                        break
                    mine.update(self.submit(held))
                    held = None
                if not mine and not more:
                    return
                for event in self.step(tokens=_MACRO_TOKENS):
                    if event.kind == "done":
                        mine.discard(event.id)
                    yield event
        finally:  # the caller stopped listening
            self.cancel(mine)

    @torch.inference_mode()
    def cancel(self, ids: Iterable[str]) -> list[BranchEvent]:
        """End branches now; each one's final event, with what it had."""
        doomed = set(ids)
        events = [event for row in self._rows_of(doomed) for event in self._retire(row, "cancelled")]
        for growing in [g for g in self._waiting if g.id in doomed]:
            self._waiting.remove(growing)
            events.append(growing.done("cancelled"))
        self._retire_idle_replays()
        if not self._live:
            self._flying.clear()
        return events

    def growing(self) -> list[tuple[str, int, int]]:
        """Branches that grow or wait: id, tokens computed so far, and tokens prefilled."""
        return [(g.id, g.tokens, g.prefill_tokens) for g in (*self._live, *self._waiting) if g.replay is None]

    @property
    def busy(self) -> bool:
        """Whether anything is being decoded or waits to be."""
        return bool(self._live or self._waiting or self._flying)

    # --- the loop ----------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Call once in a thread of its own that will step this engine: where the model is small and on a CPU, that
        thread computes alone from now on. Its products take microseconds, and helpers that must be waited for after
        each take longer than they save, most of all where other threads keep the cores busy."""
        small = sum(p.numel() for p in self.parts.model.parameters()) < _SMALL_MODEL
        if small and self.parts.device.type == "cpu":
            torch.set_num_threads(1)

    @contextmanager
    def settled(self) -> Iterator[None]:
        """``settle`` for a while, in a thread that goes on to other things."""
        threads = torch.get_num_threads()
        self.settle()
        try:
            yield
        finally:
            torch.set_num_threads(threads)

    @torch.inference_mode()
    def step(self, *, tokens: int = 1, progress: bool = True, until_done: bool = False) -> list[BranchEvent]:
        """One macro-step: fill free slots and decode, up to so many tokens for every live branch, fewer where steps are
        slow. Slots that come free on the way are filled on the way.

        Args:
            until_done: Return as soon as a branch has ended, for a caller who waits for it.

        Returns:
            The branches that ended, and with ``progress`` how far the others are.
        """
        events: list[BranchEvent] = []
        began = time.perf_counter()
        done = 0
        while done < tokens and self.busy and (not done or time.perf_counter() - began <= _MACRO_SECONDS):
            events += self._admit()
            flew = self._fly()
            if flew is not None:
                events += flew
                done += self._ahead.steps if self._ahead is not None else 1
                continue
            if self._live:
                events += self._take(self._live, self._decode())
            done += 1
            if until_done and events:
                break
        if progress:
            events += [g.progress() for g in self._live if g.token_ids and g.replay is None]
        return events

    def _fly(self) -> list[BranchEvent] | None:
        """Launch steps, and look at those launched before; None where the batch has to be stepped one by one."""
        if self._ahead is None:
            return None
        if self._plan is None:
            self._plan, self._static = self._make_plan(), self._make_static_plan()
        static = self._static if self._live else None
        if static is None and not self._flying:
            return None
        if static is not None:
            longest = max(growing.place for growing in self._live) + self._lead
            self._flying.append((self._ahead.launch(static, longest), list(self._live)))
            if len(self._flying) < 2:  # the host lags one launch behind
                return []
        ticket, growings = self._flying[0]  # counted in the lead until its last step is taken in
        events: list[BranchEvent] = []
        for chosen, taken in ticket.columns():
            self.steps += 1
            self.slot_steps += self.slots
            self.busy_slot_steps += sum(not growing.ended for growing in growings)
            events += self._take(growings, chosen, taken.tolist())
        self._flying.popleft()
        return events

    @property
    def _lead(self) -> int:
        """How many steps the device may be ahead of what the host has seen."""
        return sum(ticket.steps for ticket, _ in self._flying)

    def _make_static_plan(self) -> StaticPlan | None:
        if any(g.reads_boundaries or g.excludes or g.replay is not None for g in self._live):
            return None
        rows = 1 << (len(self._live) - 1).bit_length()  # few different numbers, for each has its graph
        return StaticPlan.of(
            [g.decoding for g in self._live],
            [g.span for g in self._live],
            self.parts,
            [g.sibling for g in self._live],
            self._sharing(),
            min(round_up(rows, row_multiple(self.parts.device)), len(self._state.token)),
        )

    def _decode(self) -> Chosen:
        """One token for every live branch."""
        if self._plan is None:
            self._plan = self._make_plan()
        longest = max(growing.place for growing in self._live)
        chosen = decode_step(self.parts, self._cache, self._state, self._plan, longest, self._frames)
        self.steps += 1
        self.slot_steps += self.slots
        self.busy_slot_steps += len(self._live)
        return chosen

    def _make_plan(self) -> Plan:
        return Plan.of(
            [g.decoding.conservative if g.wary else g.decoding for g in self._live],
            ["none" if g.wary else g.span for g in self._live],
            self.parts,
            [g.sibling for g in self._live],
            sharing=self._sharing(),
            excluded=[g.exclude if g.excludes else () for g in self._live],
        )

    def _sharing(self) -> list[Sharing]:
        """Which rows attend to which prefix where it is."""
        rows_of: dict[int, list[int]] = {}
        for row, growing in enumerate(self._live):
            if growing.shared is not None:
                rows_of.setdefault(id(growing.shared), []).append(row)
        found = []
        for rows in rows_of.values():
            prefix = self._live[rows[0]].shared
            assert prefix is not None
            # Filled up with the first row, for a product's rounding depends on whether its rows are a multiple of 4.
            missing = -len(rows) % row_multiple(self.parts.device)
            padded = torch.tensor(rows + rows[:1] * missing, device=self.parts.device)
            found.append(Sharing(prefix, None if len(rows) == len(self._live) else padded))
        return found

    def _admit(self) -> list[BranchEvent]:
        """Move waiting branches into free slots. Of long prompts one chunk is prefilled at a time, so that branches
        that are growing don't stand still for long; those behind it wait in turn."""
        events: list[BranchEvent] = []
        computed = 0
        while len(self._live) < self.slots and computed < CHUNK:
            growing = first_ready(self._waiting, self._live)
            if growing is None:
                break
            growing.began = growing.began or time.perf_counter()
            replay = self._replay_for(growing)
            refusal = self._make_room(replay or growing) if growing.max_tokens >= 1 else None
            if growing.max_tokens < 1 or refusal is not None:
                self._waiting.remove(growing)
                events.append(growing.done("error" if refusal is not None else "length", refusal))
                continue
            cache, prefix = None, (replay or growing).prefix
            if len(prefix.ids) > 1:
                cache, new = self._prefixes.advance(prefix)
                computed += new
                growing.prefill_tokens += new
                self.prefill_tokens += new
                if cache is None:
                    continue
            if replay is None:
                self._waiting.remove(growing)
            self._place(replay or growing, cache)
        self._prefixes.forget(growing.prefix for growing in self._waiting)
        return events

    def _replay_for(self, growing: Growing) -> Growing | None:
        """What has to be decoded again before a branch can go on from its prefix: what other branches left behind is
        not there, or no longer."""
        if not self._exact or growing.max_tokens < 1:
            return None
        known = self._prefixes.known(growing.prefix)
        return replay_of(growing, known) if known < len(growing.prefix.generated) else None

    def _retire_idle_replays(self) -> None:
        """Stop replays of prefixes that nobody waits for."""
        wanted = {(g.prefix.prompt, g.prefix.generated) for g in self._waiting}
        idle = {g.id for g in self._live if g.replay is not None and (g.prefix.prompt, g.replay) not in wanted}
        for row in self._rows_of(idle):
            self._retire(row, "cancelled")

    def _shares(self, growing: Growing) -> bool:
        """Whether a branch attends to its prefix where that is. Its request alone decides, so that its tokens do not
        depend on who else is there."""
        length, of = len(growing.prefix.ids) - 1, growing.sibling.of if growing.sibling is not None else 1
        return self._sharing_pays is not None and of > 1 and length * of >= max(1, self._sharing_pays)

    def _make_room(self, growing: Growing) -> str | None:
        """Let a branch's slot hold it; why not, where memory has become short."""
        capacity = len(growing.prefix.ids) + growing.max_tokens
        if self._shares(growing):
            capacity -= len(growing.prefix.ids) - 1
        if capacity <= self._cache.capacity:
            return None
        # Twice what there was, so that a cache that grows bit by bit is not copied over and over.
        free = free_bytes(self.parts.device)
        ample = max(capacity, min(2 * self._cache.capacity, self.memory.capacity))
        if self._cache.nbytes_for(ample) <= 0.9 * free:
            capacity = ample
        needed = self._cache.nbytes_for(capacity)
        if needed > 0.9 * free:
            return (
                f"{self.slots} slots of {capacity} positions need {needed / 2**30:.1f} GiB of keys and values, and "
                f"{free / 2**30:.1f} GiB are free; use fewer slots, a lower max_tokens or a shorter prompt"
            )
        self._cache.reserve(capacity)
        return None

    def _place(self, growing: Growing, prefix: PrefixCache | None) -> None:
        """Fork a prefix into the next row. The prefix's last token is left to the first step, which gives every
        branch the same start, whether its prefix was new or not."""
        row = len(self._live)
        if row in self._spoilt:
            self._cache.clear(row, 0)
            self._spoilt.discard(row)
        if prefix is not None and self._shares(growing):
            growing.shared = prefix
            self._cache.share(row, prefix)
        elif prefix is not None:
            self._cache.load(row, prefix)
        else:
            self._cache.empty(row)
        self._live.append(growing)
        coded = growing.sibling if growing.decoding.siblings == "stratified" else None
        code = sibling_code(coded.group, coded.index, coded.of) if coded is not None and coded.of > 1 else None
        self._set_state(row, growing, growing.seed, code)
        distiller = growing.decoding.distiller
        if distiller is not None and growing.span != "none":
            self._state.clear_distiller(row, distiller.rank, self.parts.width)

    def _set_state(self, row: int, growing: Growing, seed: int, code: float | None = None) -> None:
        """Let a row go on from where its branch stands."""
        so_far, noise = growing.so_far(), growing.decoding.latent_noise
        first = len(growing.prefix.prompt) - (1 if noise is not None and noise.prompt_end else 0)
        self._state.place(
            row,
            so_far.ids[-1],
            growing.position,
            seed,
            thinking=begins_thinking(so_far, self.parts),
            recent=so_far.generated,
            begins=first,
            steps=len(growing.watch.boundaries) - 1 if growing.watch is not None else 0,
            code=code,
        )
        if growing.decoding.repetition_penalty != 1.0:
            self._state.remember(row, so_far.ids, self.parts.vocab)
        self._plan = None

    def _take(self, growings: Sequence[Growing], chosen: Chosen, taken: Sequence[bool] = ()) -> list[BranchEvent]:
        """Give each branch its token, where it counts; retire those that end, turn back those that degrade."""
        columns = zip(
            chosen.token.tolist(),
            chosen.logprob.tolist(),
            chosen.final_logprob.tolist(),
            chosen.entropy.tolist(),
            chosen.explored.tolist(),
            chosen.sound.tolist(),
            chosen.noise.tolist() if chosen.noise is not None else [0.0] * len(chosen.token),
            strict=True,
        )
        ended: dict[str, tuple[Finish, str | None]] = {}
        rows = list(self._live)
        for index, (growing, values) in enumerate(zip(growings, columns, strict=False)):  # rows for nobody come last
            if growing.ended or (taken and not taken[index]):
                continue
            finish, error = self._grow(rows.index(growing) if growings is not self._live else index, growing, *values)
            if finish is not None:
                ended[growing.id] = finish, error
        # From the last row down, so that moving the last live row into a gap never moves one that is to end.
        return [event for row in self._rows_of(set(ended)) for event in self._retire(row, *ended[self._live[row].id])]

    def _grow(
        self,
        row: int,
        growing: Growing,
        token: int,
        logprob: float,
        final: float,
        entropy: float,
        explored: bool,
        sound: bool,
        noise: float,
    ) -> tuple[Finish | None, str | None]:
        """Append a token, and let the guard look at the branch; how the branch has ended, if it has."""
        if not sound:
            if growing.watch is not None and growing.watch.wary != "rest":
                self._turn_back(row, growing, Finding("nonfinite", 0.0, 0.0, len(growing.token_ids)))
                return None, None
            at = len(growing.prefix.ids) + len(growing.token_ids)
            if growing.excludes:
                told = f"nothing can be drawn at position {at} without the {len(growing.exclude)} excluded tokens"
                return "error", told
            return "error", f"the model's logits at position {at} are not finite"
        if growing.replay is not None:
            self.prefill_tokens += 1
            self._state.token[row] = growing.follow_replay(self._waiting)
            return ("step" if growing.so_far().generated == growing.replay else None), None
        if growing.excludes:
            self._plan = None
        growing.token_ids.append(token)
        self.generated_tokens += 1
        growing.logprobs.append(logprob)
        growing.final_logprobs.append(final)
        growing.entropies.append(entropy)
        growing.explored.append(explored)
        if growing.noisy:
            growing.noise_scales.append(noise)
        finish, fresh = self._ends(growing, token)
        if growing.reads_boundaries and self._follow_steps(row, growing, fresh, ending=finish is not None):
            return None, None  # turned back: what it ended with is gone
        return finish, None

    def _ends(self, growing: Growing, token: int) -> tuple[Finish | None, str]:
        """How the branch ends with its newest token, if it does, and the text that is new by it."""
        if token in self.parts.eos:
            return "eos", ""
        fresh = ""
        if growing.stop or growing.step or growing.reads_boundaries:
            fresh = growing.detokenizer.append(token)
        else:
            growing.detokenizer.hold(token)
        if fresh and find_stop(growing.detokenizer, fresh, growing.stop, cut=True):
            return "stop", fresh
        if fresh and find_stop(growing.detokenizer, fresh, growing.step, cut=False):
            return "step", fresh
        if len(growing.token_ids) >= growing.max_tokens:
            return "length", fresh
        limit = growing.max_step_tokens
        ends_step = token in growing.step_tokens or (limit is not None and len(growing.token_ids) >= limit)
        return ("step" if ends_step else None), fresh

    def _follow_steps(self, row: int, growing: Growing, fresh: str, *, ending: bool) -> bool:
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

    def _turn_back(self, row: int, growing: Growing, finding: Finding) -> None:
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
        self._set_state(row, growing, derived(growing.seed ^ _OTHER_SEEDS, len(growing.rollbacks)))

    def _score(self, growing: Growing) -> None:
        """Put the unperturbed posterior's figures in the place of the noisy one's."""
        if growing.scorer is None:
            ids = growing.prefix.ids
            base = self._prefixes.complete(growing.prefix)[0] if len(ids) > 1 else None
            # Without a guard it is scored once, at its end: room for what it has is enough.
            room = growing.max_tokens if growing.watch is not None else len(growing.token_ids)
            growing.scorer = CleanScorer(self.parts, ids, base, room)
        known = growing.scorer.scored
        logprobs, entropies = growing.scorer.score(growing.token_ids)
        growing.final_logprobs[known:] = logprobs
        growing.entropies[known:] = entropies

    def _retire(self, row: int, finish: Finish, error: str | None = None) -> list[BranchEvent]:
        """Free a row: the last live one moves into it, so that live rows stay together."""
        growing = self._live[row]
        if growing.noisy and growing.token_ids:
            self._score(growing)
        growing.scorer = None
        if finish == "error":
            self._cache.clear(row, 0)
        elif finish != "cancelled" and not growing.noisy:
            self._prefixes.leave(growing.so_far(), self._cache, row, growing.shared)
        last = len(self._live) - 1
        if row == last and finish == "error":
            # Computed on as a row for nobody, from the same state, it may become what it was.
            self._spoilt.add(row)
        if row != last:
            self._cache.move(last, row, self._live[last].position + self._lead)
            self._state.move(last, row)
            self._live[row] = self._live[last]
        self._live.pop()
        self._plan = None
        if growing.replay is not None:
            return self._end_replay(growing, finish, error)
        self._finished[growing.id] = growing.so_far(), len(growing.token_ids)
        while len(self._finished) > _KEEP_FINISHED:
            self._finished.popitem(last=False)
        growing.shared = None
        return [growing.done(finish, error)]

    def _end_replay(self, replay: Growing, finish: Finish, error: str | None) -> list[BranchEvent]:
        """Branches that waited for it are admitted next; where it failed, they fail."""
        if finish == "cancelled":
            return []
        if error is None:
            # Kept at once as what somebody waits for: what is only left behind could be displaced before the next
            # step, and would have to be replayed again.
            self._prefixes.advance(Prefix(replay.prefix.prompt, replay.replay or ()))
            return []
        failed = [g for g in self._waiting if replays(replay, g.prefix)]
        for growing in failed:
            self._waiting.remove(growing)
        return [growing.done("error", error) for growing in failed]

    def _rows_of(self, ids: set[str]) -> Iterator[int]:
        """Rows of these branches, the last first; safe while they are being retired."""
        for row in range(len(self._live) - 1, -1, -1):
            if self._live[row].id in ids:
                yield row

    # --- prefixes ----------------------------------------------------------------------------------------------

    def _prefix_of(self, request: EngineRequest) -> Prefix:
        growing = next((growing for growing in self._live if growing.id == request.parent), None)
        if growing is not None:
            return prefix_of(request, (growing.so_far(), len(growing.token_ids)))
        return prefix_of(request, self._finished.get(request.parent) if request.parent is not None else None)

    @torch.inference_mode()
    def _copied(self, request: EngineRequest, prefix: Prefix) -> Prefix:
        """The same with keys and values as they were decoded, where it is the beginning of a branch that is growing and
        whose own are clean."""
        row = next((row for row, growing in enumerate(self._live) if growing.id == request.parent), None)
        if row is None or self._live[row].noisy or request.prefix_ids or len(prefix.ids) < 2:
            return prefix
        copied = self._prefixes.new(len(prefix.ids) - 1, self._live[row].shared)
        self._cache.store(row, copied, copied.length)
        return Prefix(prefix.prompt, prefix.generated, copied)
