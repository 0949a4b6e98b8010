"""The scheduler against a plain model of it: whatever is asked for, forked and cancelled, and whenever."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from led_agent.engine import BranchEvent, Engine, EngineRequest
from led_agent.engine.growing import derived
from led_agent.engine.model import ModelParts
from led_agent.types import Branch, Decoding, DepthExploration, Sibling
from tests.tiny import tiny_model

PARTS = ModelParts.of(tiny_model("llama", initializer_range=0.15, num_hidden_layers=3))
PROMPTS = ((5,), (3, 14), (3, 14, 15, 92, 65, 35), tuple((7 * i) % 97 for i in range(66)))
DECODINGS = {
    "plain": Decoding.plain(1.1, top_p=0.9),
    "independent": Decoding.plain(1.0).replace(siblings="independent"),
    "greedy": Decoding.greedy(),
    "led": Decoding(temperature=0.9, exploration=DepthExploration(depths=3, top_k=12), span="all"),
    "noise": Decoding.noise(0.3, temperature=1.0, span="all"),
}
LONGEST = 14
QUEUE = 6  # branches that wait, from where on no more come but forks
ROOM = 150  # tokens of a prefix that may still be continued


@dataclass(frozen=True)
class Wanted:
    """A branch as its request asks for it, but for what it continues."""

    decoding: str
    seed: int
    index: int
    of: int
    max_tokens: int

    def request(self, prompt: tuple[int, ...], generated: tuple[int, ...]) -> EngineRequest:
        """For this branch alone."""
        return EngineRequest(
            "alone",
            prompt,
            DECODINGS[self.decoding],
            prefix_ids=generated,
            seed=derived(self.seed, self.index),
            max_tokens=self.max_tokens,
            sibling=Sibling(group=self.seed, index=self.index, of=self.of) if self.of > 1 else None,
        )


def engine_of(slots: int, sharing: str, replaying: bool) -> Engine:
    """One that decodes known tokens again where it must, as on this processor it does by itself, or one that never
    does, as on all others."""
    engine = Engine(PARTS, slots=slots, share_prefixes=sharing)  # type: ignore[arg-type]
    assert engine._exact
    engine._exact = replaying
    return engine


@functools.cache
def alone(sharing: str, replaying: bool, wanted: Wanted, prompt: tuple[int, ...], generated: tuple[int, ...]) -> Branch:
    """What a fresh engine of one slot grows."""
    engine = engine_of(1, sharing, replaying)
    done = [e.branch for e in engine.generate([wanted.request(prompt, generated)]) if e.branch is not None]
    return done[0]


@dataclass
class Modelled:
    """A branch as the model knows it.

    Attributes:
        parent: Whose tokens it continues, and how many of them; None where it begins at its prompt.
        extra: Tokens given with the request, behind the parent's.
        exact: Whether it begins at its prompt, whose keys and values are always computed in the same way.
        before: How many tokens stand before its own.
    """

    wanted: Wanted
    prompt: tuple[int, ...]
    parent: tuple[str, int] | None
    extra: tuple[int, ...]
    exact: bool
    before: int
    tokens: int = 0


@dataclass
class Model:
    """First come, first served; a token for each at every step; who has all its tokens goes."""

    slots: int
    live: list[str] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)
    steps: int = 0
    busy: int = 0

    def step(self, branches: dict[str, Modelled], tokens: int) -> set[str]:
        """Those that end."""
        ended: set[str] = set()
        for _ in range(tokens):
            free = self.slots - len(self.live)
            self.live, self.waiting = self.live + self.waiting[:free], self.waiting[free:]
            if not self.live:
                break
            self.steps += 1
            self.busy += len(self.live)
            for name in self.live:
                branches[name].tokens += 1
            ended |= {name for name in self.live if branches[name].tokens == branches[name].wanted.max_tokens}
            self.live = [name for name in self.live if name not in ended]
        return ended


# How a branch is continued, and how much of it.
FORK: dict[str, Any] = {
    "decoding": st.sampled_from(sorted(DECODINGS)),
    "n": st.integers(1, 3),
    "max_tokens": st.integers(1, LONGEST),
    "kept": st.none() | st.integers(0, LONGEST),
    "extra": st.sampled_from([(), (), (8, 9)]),
}


class Scheduler(RuleBasedStateMachine):
    """Drives an engine and the model of it side by side."""

    replaying = False

    def __init__(self) -> None:
        super().__init__()
        self.branches: dict[str, Modelled] = {}
        self.done: dict[str, Branch] = {}
        self.reported: dict[str, int] = {}

    @initialize(slots=st.integers(1, 5), sharing=st.sampled_from(["auto", "always", "never"]))
    def begin(self, slots: int, sharing: str) -> None:
        self.sharing = sharing
        self.engine = engine_of(slots, sharing, self.replaying)
        self.model = Model(slots)

    # --- what may happen ---------------------------------------------------------------------------------------

    @precondition(lambda self: len(self.engine._waiting) < QUEUE)
    @rule(
        prompt=st.sampled_from(PROMPTS),
        decoding=st.sampled_from(sorted(DECODINGS)),
        seed=st.integers(0, 2),
        n=st.integers(1, 3),
        max_tokens=st.integers(1, LONGEST),
    )
    def arrives(self, prompt: tuple[int, ...], decoding: str, seed: int, n: int, max_tokens: int) -> None:
        request = EngineRequest(
            f"r{len(self.branches)}", prompt, DECODINGS[decoding], seed=seed, max_tokens=max_tokens, n=n
        )
        self.submitted(request, decoding, prompt, None, (), exact=True, before=len(prompt))

    @precondition(lambda self: self.growing)
    @rule(data=st.data(), **FORK)
    def is_forked_while_it_grows(self, data: st.DataObject, **asked: Any) -> None:
        self.forked(data.draw(st.sampled_from(self.growing)), **asked)

    @precondition(lambda self: self.finished)
    @rule(data=st.data(), **FORK)
    def is_forked_when_it_has_ended(self, data: st.DataObject, **asked: Any) -> None:
        self.forked(data.draw(st.sampled_from(self.finished)), **asked)

    def forked(
        self, name: str, decoding: str, n: int, max_tokens: int, kept: int | None, extra: tuple[int, ...]
    ) -> None:
        above = self.branches[name]
        if kept is not None:
            kept = min(kept, above.tokens)
        request = EngineRequest(
            f"r{len(self.branches)}",
            parent=name,
            parent_tokens=kept,
            prefix_ids=extra,
            decoding=DECODINGS[decoding],
            seed=3,
            max_tokens=max_tokens,
            n=n,
        )
        own = above.tokens if kept is None else kept
        exact = own == 0 and not extra and above.exact
        self.submitted(
            request, decoding, above.prompt, (name, own), extra, exact=exact, before=above.before + own + len(extra)
        )

    @rule(data=st.data())
    def is_cancelled(self, data: st.DataObject) -> None:
        names = data.draw(st.lists(st.sampled_from(["nobody", *self.branches]), max_size=2))
        doomed = {name for name in names if name in self.branches and name not in self.done}
        events = self.engine.cancel(names)
        self.model.live = [name for name in self.model.live if name not in doomed]
        self.model.waiting = [name for name in self.model.waiting if name not in doomed]
        self.ended(events, doomed)
        assert all(event.branch is not None and event.branch.finish == "cancelled" for event in events)

    @rule(tokens=st.sampled_from([1, 2, 3, 5, 8]))
    def goes_on(self, tokens: int) -> None:
        events = self.engine.step(tokens=tokens)
        ended, live = self.expected(events, tokens)
        done = [event for event in events if event.kind == "done"]
        self.ended(done, ended)
        assert all(event.branch is not None and event.branch.finish == "length" for event in done)
        told = [event for event in events if event.kind == "progress"]
        assert sorted(event.id for event in told) == sorted(live)
        for event in told:
            assert event.id not in self.done
            assert self.reported.get(event.id, 0) < event.tokens == self.branches[event.id].tokens
            self.reported[event.id] = event.tokens

    def expected(self, events: list[BranchEvent], tokens: int) -> tuple[set[str], list[str]]:
        """Who has ended in so many steps, and who is growing."""
        return self.model.step(self.branches, tokens), self.model.live

    def submitted(
        self,
        request: EngineRequest,
        decoding: str,
        prompt: tuple[int, ...],
        parent: tuple[str, int] | None,
        extra: tuple[int, ...],
        *,
        exact: bool,
        before: int,
    ) -> None:
        names = self.engine.submit(request)
        assert names == ([request.id] if request.n == 1 else [f"{request.id}/{i}" for i in range(request.n)])
        for i, name in enumerate(names):
            wanted = Wanted(decoding, request.seed, i, request.n, request.max_tokens)
            self.branches[name] = Modelled(wanted, prompt, parent, extra, exact, before)
            self.model.waiting.append(name)

    def ended(self, events: list[BranchEvent], names: set[str]) -> None:
        """These and no others, each once, with the tokens that they have."""
        assert sorted(event.id for event in events) == sorted(names)
        for event in events:
            assert event.id not in self.done
            assert event.branch is not None
            assert event.kind == "done"
            assert event.tokens == len(event.branch.token_ids) == self.branches[event.id].tokens
            self.done[event.id] = event.branch

    @property
    def growing(self) -> list[str]:
        """What can be continued while it grows, the newest first."""
        live = {growing.id for growing in self.engine._live}
        return [name for name in self.continued if name in live]

    @property
    def finished(self) -> list[str]:
        """What can be continued when it has had a slot, the newest first."""
        return [name for name in self.continued if name in self.done]

    @property
    def continued(self) -> list[str]:
        return [n for n, b in reversed(self.branches.items()) if b.tokens and b.before + b.tokens < ROOM]

    # --- what must hold ----------------------------------------------------------------------------------------

    @invariant()
    def is_where_the_model_is(self) -> None:
        engine, live = self.engine, self.engine._live
        assert [growing.id for growing in engine._waiting] == self.model.waiting  # first come, first served
        assert sorted(growing.id for growing in live) == sorted(self.model.live)
        assert len(live) <= engine.slots
        assert engine.busy == bool(self.model.live or self.model.waiting)
        assert engine.steps == self.model.steps
        assert engine.slot_steps == engine.slots * engine.steps
        assert engine.busy_slot_steps == self.model.busy

    @invariant()
    def has_its_live_branches_in_the_first_rows(self) -> None:
        state, live = self.engine._state, self.engine._live
        rows = slice(0, len(live))
        assert state.token[rows].tolist() == [growing.token_ids[-1] for growing in live]
        assert state.seed[rows].tolist() == [growing.seed for growing in live]
        places = [self.branches[g.id].before + self.branches[g.id].tokens - 1 for g in live]
        assert state.position[rows].tolist() == places
        starts = [growing.shared.length if growing.shared is not None else 0 for growing in live]
        assert self.engine._cache.starts[rows].tolist() == starts

    def teardown(self) -> None:
        if not hasattr(self, "engine"):
            return
        for _ in range(1000):
            if not self.engine.busy:
                break
            self.goes_on(8)
        self.is_where_the_model_is()
        assert self.done.keys() == self.branches.keys()
        assert self.engine.generated_tokens == sum(len(branch.token_ids) for branch in self.done.values())
        assert self.engine.prefill_tokens == sum(branch.prefill_tokens for branch in self.done.values())
        # Two roundings of one law draw different tokens where a random number falls between them: hardly ever.
        assert sum(not self.is_what_it_is_alone(name) for name in self.branches) <= 1

    def is_what_it_is_alone(self, name: str) -> bool:
        """Whether a branch has the tokens that it has alone. Its figures must be those that it has alone, up to where
        it was cancelled, and to the bit where it begins at its prompt, and wherever known tokens are decoded again."""
        modelled, branch = self.branches[name], self.done[name]
        generated = self.before(name)
        expected = alone(self.sharing, self.replaying, modelled.wanted, modelled.prompt, generated)
        exact = modelled.exact or (self.replaying and self.sharing != "always")
        count = len(branch.token_ids)
        parted = next((i for i in range(count) if branch.token_ids[i] != expected.token_ids[i]), count)
        # A noisy branch is scored at its end, many tokens at a time, which rounds differently with their number.
        rounded = {"final_logprobs", "entropies"} if modelled.wanted.decoding == "noise" else set()
        for column in ("logprobs", "final_logprobs", "entropies"):
            ours, theirs = getattr(branch, column), getattr(expected, column)
            if exact and not (column in rounded and branch.finish == "cancelled"):
                assert ours == theirs[:count], f"{name}: {column}"
            else:
                assert ours[:parted] == pytest.approx(theirs[:parted], abs=1e-4), f"{name}: {column}"
        if exact:
            assert branch.token_ids == expected.token_ids[:count], name
        # A sibling's code tells finer and finer differences, by as much as its tokens were improbable.
        coded = modelled.wanted.of > 1 and modelled.wanted.decoding != "independent"
        return parted == count or (coded and parted >= 2)

    def before(self, name: str) -> tuple[int, ...]:
        """The tokens between a branch's prompt and its own."""
        modelled = self.branches[name]
        if modelled.parent is None:
            return modelled.extra
        parent, kept = modelled.parent
        return self.before(parent) + self.done[parent].token_ids[:kept] + modelled.extra


class Replaying(Scheduler):
    """Drives an engine that decodes known tokens again. When a branch gets its slot then depends on what others have
    left behind, so the model does not say; what each branch gets does not depend on it, to the bit."""

    replaying = True

    def expected(self, events: list[BranchEvent], tokens: int) -> tuple[set[str], list[str]]:
        ended = {event.id for event in events if event.kind == "done"}
        for event in events:
            modelled = self.branches[event.id]
            assert modelled.tokens <= event.tokens <= modelled.tokens + tokens
            modelled.tokens = event.tokens
            assert (event.id in ended) == (event.tokens == modelled.wanted.max_tokens)
        return ended, [name for name, grown, _ in self.engine.growing() if grown]

    @invariant()
    def is_where_the_model_is(self) -> None:
        on = {name for name, _, _ in self.engine.growing()}
        assert on == self.branches.keys() - self.done.keys()
        assert len(self.engine._live) <= self.engine.slots
        assert self.engine.slot_steps == self.engine.slots * self.engine.steps

    @invariant()
    def has_its_live_branches_in_the_first_rows(self) -> None:
        state, live = self.engine._state, self.engine._live
        rows = slice(0, len(live))
        assert state.token[rows].tolist() == [growing.so_far().ids[-1] for growing in live]
        assert state.position[rows].tolist() == [growing.position for growing in live]


@pytest.fixture(autouse=True)
def _steps_never_end_early(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """However slow the machine is."""
    monkeypatch.setattr("led_agent.engine.engine._MACRO_SECONDS", float("inf"))
    alone.cache_clear()
    yield
    alone.cache_clear()


def test_the_scheduler_does_what_a_plain_model_of_it_does():
    run_state_machine_as_test(
        Scheduler,
        settings=settings(max_examples=60, stateful_step_count=25, deadline=None, derandomize=True),
    )


def test_what_is_decoded_again_changes_no_branch():
    run_state_machine_as_test(
        Replaying,
        settings=settings(max_examples=40, stateful_step_count=25, deadline=None, derandomize=True),
    )


@torch.inference_mode()
def test_rows_behind_the_live_ones_are_never_read():
    """Whatever stands there: here numbers that no product survives."""
    engine, expected = Engine(PARTS, slots=5), {}
    for i in range(5):
        wanted = Wanted("plain", i, 0, 1, 4 + 2 * i)
        expected[f"r{i}"] = alone("auto", True, wanted, PROMPTS[2], ())
        engine.submit(EngineRequest(f"r{i}", PROMPTS[2], DECODINGS["plain"], seed=i, max_tokens=4 + 2 * i))
    while engine.busy:
        for event in engine.step():
            if event.branch is not None:
                assert event.branch.logprobs == expected[event.id].logprobs
        behind = len(engine._live)
        engine._cache.keys[:, behind:] = 1e30
        engine._cache.values[:, behind:] = 1e30
