"""A branch on its way, as the host knows it: what it grows from, what it has, how it may end."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

import torch

from led_agent.decoding.guard import Watch
from led_agent.decoding.sampling import DRAW_RESEED, uniform
from led_agent.engine.cache import PrefixCache
from led_agent.engine.requests import BranchEvent
from led_agent.engine.scoring import CleanScorer
from led_agent.engine.text import Detokenizer
from led_agent.types import Branch, Decoding, Finish, Rollback, Sibling

__all__ = ["Growing", "Prefix", "derived"]


@dataclass(frozen=True)
class Prefix:
    """A token sequence in two parts; prefilled part by part, so that what is computed does not depend on what
    happened to be there already.

    Attributes:
        copied: Keys and values of all but the last token, where they were copied from a branch that was growing.
    """

    prompt: tuple[int, ...]
    generated: tuple[int, ...]
    copied: PrefixCache | None = field(default=None, compare=False)

    @property
    def ids(self) -> tuple[int, ...]:
        return self.prompt + self.generated


@dataclass(eq=False)
class Growing:
    """A branch on its way."""

    id: str
    prefix: Prefix
    decoding: Decoding
    span: Literal["think", "all", "none"]
    seed: int
    max_tokens: int
    stop: tuple[str, ...]
    step: tuple[str, ...]
    max_step_tokens: int | None
    exclude: tuple[int, ...]
    step_tokens: frozenset[int]
    detokenizer: Detokenizer
    sibling: Sibling | None = None
    watch: Watch | None = None
    scorer: CleanScorer | None = None
    shared: PrefixCache | None = None
    began: float = 0.0
    prefill_tokens: int = 0
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    final_logprobs: list[float] = field(default_factory=list)
    entropies: list[float] = field(default_factory=list)
    explored: list[bool] = field(default_factory=list)
    noise_scales: list[float] = field(default_factory=list)
    rollbacks: list[Rollback] = field(default_factory=list)
    discarded: int = 0
    ended: bool = False
    replay: tuple[int, ...] | None = None  # the whole of what it decodes again, for others; no branch of its own

    @property
    def position(self) -> int:
        """Where its next forward writes."""
        return len(self.prefix.prompt) + len(self.prefix.generated) + len(self.token_ids) - 1

    @property
    def place(self) -> int:
        """The same, counted from where its slot begins."""
        return self.position - (self.shared.length if self.shared is not None else 0)

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
    def excludes(self) -> bool:
        """Whether its next token must not be some."""
        return bool(self.exclude) and not self.token_ids

    @property
    def tokens(self) -> int:
        """Computed so far, rolled back ones included."""
        return len(self.token_ids) + self.discarded

    def so_far(self) -> Prefix:
        return Prefix(self.prefix.prompt, self.prefix.generated + tuple(self.token_ids))

    def cut(self, length: int) -> None:
        """Drop the tokens behind that many, and all that was noted of them."""
        self.discarded += len(self.token_ids) - length
        kept_lists = (self.token_ids, self.logprobs, self.final_logprobs, self.entropies, self.explored)
        for kept in (*kept_lists, self.noise_scales):
            del kept[length:]
        self.detokenizer = self.detokenizer.again(self.token_ids)
        if self.scorer is not None:
            self.scorer.roll_back(length)

    def follow_replay(self, waiting: Iterable[Growing]) -> int:
        """The next token of what is decoded again; the first that waits for it is charged."""
        token = (self.replay or ())[len(self.prefix.generated) + len(self.token_ids)]
        self.token_ids.append(token)
        for other in waiting:
            if other.prefix.prompt == self.prefix.prompt and other.prefix.generated == self.replay:
                other.prefill_tokens += 1
                break
        return token

    def progress(self) -> BranchEvent:
        """How far it is."""
        self.detokenizer.catch_up()
        return BranchEvent(self.id, "progress", self.tokens, self.detokenizer.text)

    def done(self, finish: Finish, error: str | None = None) -> BranchEvent:
        """That it has ended."""
        self.ended = True
        branch = Branch(
            id=self.id,
            text=self.detokenizer.finish(),
            finish=finish,
            token_ids=tuple(self.token_ids),
            logprobs=tuple(self.logprobs),
            final_logprobs=tuple(self.final_logprobs),
            entropies=tuple(self.entropies),
            explored=tuple(self.explored),
            noise_scales=tuple(self.noise_scales),
            span=self.span,
            rollbacks=tuple(self.rollbacks),
            discarded=self.discarded,
            prefill_tokens=self.prefill_tokens,
            error=error,
            seconds=time.perf_counter() - self.began if self.began else 0.0,
        )
        return BranchEvent(self.id, "done", self.tokens, branch.text, branch)


def derived(seed: int, index: int) -> int:
    """Index 0 is the seed itself; the others are hashed from it."""
    if index == 0:
        return seed
    u = uniform(torch.tensor([seed]), torch.tensor([index]), DRAW_RESEED)
    return int(u.item() * 2**53)
