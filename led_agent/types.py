"""The records that travel between the rooms: frozen, strict, JSON-serialisable.

This file knows what a problem, a decoding, a branch and a verdict are. It does not know how any of them comes
about: no torch, no tree, no model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from led_agent.errors import UsageError, explain

__all__ = [
    "Branch",
    "Budget",
    "DecodeRequest",
    "Decoding",
    "DepthExploration",
    "Message",
    "Problem",
    "Usage",
    "Verdict",
]

VerdictStatus = Literal["accepted", "rejected", "abstained", "error"]
Finish = Literal["eos", "stop", "step", "length", "cancelled", "error"]
Span = Literal["auto", "think", "all", "none"]


class Record(BaseModel):
    """Base of all records: immutable, and unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Message(Record):
    """One chat message."""

    role: Literal["system", "user", "assistant"]
    content: str


class Problem(Record):
    """A problem to solve.

    Attributes:
        prompt: The question, or chat messages. A string is sent as one user message where the model has a chat
            template, and as it is where the model has none.
        id: The name under which results are filed; by default a digest of the prompt (see ``key``).
        answer: The reference answer, where there is one. Numbers are taken and kept as text.
        tests: Python source (asserts, or HumanEval's ``check(candidate)``), or a list of cases.
        entry_point: The function that the tests call.
        metadata: Anything else.
    """

    prompt: str | tuple[Message, ...]
    id: str | None = None
    answer: str | None = None
    tests: str | tuple[dict[str, Any], ...] | None = None
    entry_point: str | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)

    @field_validator("id", "answer", mode="before")
    @classmethod
    def _as_text(cls, value: object) -> object:
        return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value

    @model_validator(mode="after")
    def _not_empty(self) -> Self:
        if not self.text.strip():
            raise ValueError("the prompt is empty; give a question or at least one user message with text")
        return self

    @property
    def text(self) -> str:
        """The question itself: the prompt, or the last user message of a chat."""
        if isinstance(self.prompt, str):
            return self.prompt
        return next((m.content for m in reversed(self.prompt) if m.role == "user"), "")

    @property
    def key(self) -> str:
        """``id``, or a digest of the prompt: stable from run to run."""
        return self.id if self.id is not None else f"p-{self.digest[:12]}"

    @property
    def digest(self) -> str:
        """Hex digest of the prompt alone, whatever the problem is called."""
        messages = [(m.role, m.content) for m in self.prompt] if not isinstance(self.prompt, str) else self.prompt
        return hashlib.blake2b(repr(messages).encode(), digest_size=16).hexdigest()

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Problem:
        """A problem from a row of a problems file; keys that aren't fields go into ``metadata``.

        Raises:
            UsageError: the row isn't a problem; the message names field and fault.
        """
        known = {name: value for name, value in row.items() if name in cls.model_fields and name != "metadata"}
        given = row.get("metadata") or {}
        if not isinstance(given, Mapping):
            raise UsageError(f"metadata: an object is allowed, found {type(given).__name__}")
        rest = {name: value for name, value in row.items() if name not in cls.model_fields}
        try:
            return cls(**known, metadata={**rest, **given})
        except ValidationError as error:
            raise UsageError(explain(error)) from error


class DepthExploration(Record):
    """Depth-conditioned exploration: sample from posteriors read off the last layers.

    Tan et al., "Restoring Exploration after Post-Training: Latent Exploration Decoding for Large Reasoning
    Models", ICML 2026, arXiv 2602.01698.

    Attributes:
        depths: How many posteriors, the final layer's included (the paper's d); at most the model's blocks.
            1 is plain top-k sampling.
        top_k: How many of the final layer's most probable tokens are candidates; at most the vocabulary.
        norm: Whether the model's final norm is applied to the shallower states ("final", the paper's figure) or
            they go into the head as they are ("none", the authors' released code).
        layers: Which states: "paper" takes h(n-1) … h(n-d+1), "official" skips one: h(n-2) … h(n-d).
        exploit: Whether a row explores only with probability 1 - p(most probable token). Off, every row always
            explores; the paper loses 14.7 points of pass@1 that way.
    """

    depths: int = Field(default=8, ge=1)
    top_k: int = Field(default=20, ge=1)
    norm: Literal["final", "none"] = "final"
    layers: Literal["paper", "official"] = "paper"
    exploit: bool = True

    def blocks(self, n_blocks: int) -> tuple[int, ...]:
        """After how many blocks each shallower slot's state is read, nearest the top first; length depths - 1."""
        first = n_blocks - (1 if self.layers == "paper" else 2)
        return tuple(range(first, first - (self.depths - 1), -1))


_PRESETS: dict[str, dict[str, Any]] = {
    "paper": {"depths": 8, "top_k": 20, "norm": "final", "layers": "paper"},
    "official": {"depths": 8, "top_k": 8, "norm": "none", "layers": "official"},
}


class Decoding(Record):
    """How the next token is chosen.

    Attributes:
        temperature: Divides the logits; 0 is greedy: deterministic, and nothing else below applies.
        top_k, top_p, min_p: Filters of the plain sampler, in transformers' order (top-k, then top-p, then
            min-p); None, 1.0 and 0.0 leave everything in.
        exploration: Depth-conditioned exploration inside ``span``; None is the plain sampler everywhere.
        span: Where to explore: "think" between the model's thinking tags only, "all", "none"; "auto" is "think"
            for a model that has thinking tags and "all" for one that has none. What "auto" came to stands on
            every branch.
    """

    temperature: float = Field(default=0.6, ge=0.0)
    top_k: int | None = Field(default=None, ge=1)
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    min_p: float = Field(default=0.0, ge=0.0, lt=1.0)
    exploration: DepthExploration | None = None
    span: Span = "auto"

    @classmethod
    def plain(
        cls, temperature: float = 1.0, *, top_k: int | None = None, top_p: float = 1.0, min_p: float = 0.0
    ) -> Decoding:
        """Ordinary sampling."""
        return cls(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)

    @classmethod
    def greedy(cls) -> Decoding:
        """The most probable token, always; the smallest id where two are equally probable."""
        return cls(temperature=0.0)

    @classmethod
    def led(
        cls,
        preset: str = "paper",
        *,
        temperature: float = 0.6,
        depths: int | None = None,
        top_k: int | None = None,
        norm: Literal["final", "none"] | None = None,
        layers: Literal["paper", "official"] | None = None,
        exploit: bool = True,
        span: Span = "auto",
    ) -> Decoding:
        """Latent exploration decoding with the paper's settings or those of its authors' released code.

        Raises:
            UsageError: no such preset.
        """
        if preset not in _PRESETS:
            raise UsageError(f"no LED preset is called {preset!r}; there are {', '.join(sorted(_PRESETS))}")
        chosen = {"depths": depths, "top_k": top_k, "norm": norm, "layers": layers}
        settings = _PRESETS[preset] | {name: value for name, value in chosen.items() if value is not None}
        return cls(temperature=temperature, exploration=DepthExploration(exploit=exploit, **settings), span=span)

    @classmethod
    def parse(cls, text: str) -> Decoding:
        """A decoding from its name on a command line: ``NAME`` or ``NAME:key=value,key=value``.

        Names are ``led.paper``, ``led.official``, ``plain`` and ``greedy``; keys are the keyword arguments of the
        constructor of that name, e.g. ``led.paper:depths=4,temperature=1.0``.

        Raises:
            UsageError: an unknown name or key, or a value out of its limits.
        """
        name, _, given = text.partition(":")
        makers: dict[str, Callable[..., Decoding]] = {
            "led.paper": partial(cls.led, "paper"),
            "led.official": partial(cls.led, "official"),
            "plain": cls.plain,
            "greedy": cls.greedy,
        }
        if name not in makers:
            raise UsageError(f"no decoding is called {name!r}; there are {', '.join(makers)}")
        options = dict(_option(item, name) for item in given.split(",") if item.strip())
        try:
            return makers[name](**options)
        except TypeError:
            raise UsageError(
                f"decoding {name} does not take {', '.join(options)}; see `led-agent solve --help`"
            ) from None
        except ValidationError as error:
            raise UsageError(f"decoding {text}: {explain(error)}") from error

    @property
    def is_greedy(self) -> bool:
        return self.temperature == 0.0

    @property
    def label(self) -> str:
        """A short name for tables: ``greedy``, ``plain T=0.8``, ``led d=8 k=20 T=0.6``."""
        if self.is_greedy:
            return "greedy"
        parts = [f"T={self.temperature:g}"]
        if self.exploration is not None and self.span != "none":
            parts = [f"d={self.exploration.depths}", f"k={self.exploration.top_k}", *parts]
            return " ".join(["led", *parts])
        parts += [f"top_k={self.top_k}"] if self.top_k is not None else []
        parts += [f"top_p={self.top_p:g}"] if self.top_p < 1.0 else []
        parts += [f"min_p={self.min_p:g}"] if self.min_p > 0.0 else []
        return " ".join(["plain", *parts])

    def check_model(self, n_blocks: int, vocab: int) -> None:
        """Refuse settings that this model can't carry out.

        Raises:
            UsageError: naming the field, the limit and the remedy.
        """
        if self.top_k is not None and self.top_k > vocab:
            raise UsageError(f"decoding.top_k is {self.top_k}, but the vocabulary has {vocab} tokens; use at most that")
        if self.exploration is None:
            return
        if self.exploration.depths > n_blocks:
            raise UsageError(
                f"decoding.exploration.depths is {self.exploration.depths}, but the model has {n_blocks} blocks; "
                f"use at most that, e.g. Decoding.led(depths={n_blocks})"
            )
        if self.exploration.top_k > vocab:
            raise UsageError(
                f"decoding.exploration.top_k is {self.exploration.top_k}, but the vocabulary has {vocab} tokens; "
                "use at most that"
            )


def _option(item: str, name: str) -> tuple[str, object]:
    key, equals, value = (part.strip() for part in item.partition("="))
    if not equals or not key or not value:
        raise UsageError(f"decoding {name}: expected key=value, found {item!r}")
    if value.lower() in ("true", "false"):
        return key, value.lower() == "true"
    for number in (int, float):
        try:
            return key, number(value)
        except ValueError:
            continue
    return key, value


class DecodeRequest(Record):
    """All that is needed to grow one branch, anywhere: complete, immutable, named.

    Sent twice it gives the same tokens, so a lost request is simply sent again.

    Attributes:
        id: The node that it will become, unique within its problem's tree.
        parent: The node that it continues.
        problem: The problem's key.
        prompt: What the model is asked.
        prefix_ids: Tokens already generated on the path to ``parent``; the branch continues after them.
        seed: 63-bit seed of this branch's counter-based random numbers.
        max_tokens: At most so many new tokens.
        stop: Strings that end the answer; cut from the text.
        step: Strings that end a step of a longer answer; kept in the text, and the branch may be continued.
        purpose: What the strategy wants it for, e.g. "explore" or "fallback"; shown on the tree.
        trigger: Why it was proposed, for people.
    """

    id: str
    parent: str
    problem: str
    prompt: str | tuple[Message, ...]
    decoding: Decoding
    seed: int = Field(ge=0, lt=2**63)
    max_tokens: int = Field(ge=1)
    prefix_ids: tuple[int, ...] = ()
    stop: tuple[str, ...] = ()
    step: tuple[str, ...] = ()
    purpose: str = "explore"
    trigger: str = ""


class Branch(Record):
    """What a decoder grew for one request: text and tokens after the parent's, and how they came about.

    ``Branch(text="…")`` is enough to try a verifier on.

    Attributes:
        text: The new text, special tokens left out, a stop string cut off.
        finish: "eos" the model ended; "stop" a stop string; "step" a step boundary; "length" the token limit;
            "cancelled" and "error" speak for themselves.
        token_ids: The new tokens.
        logprobs: Each token's log-probability (nat) under the law that it was sampled from.
        final_logprobs: The same under the model's unperturbed final posterior at temperature 1.
        entropies: Entropy (nat) of that final posterior at each position.
        explored: Whether each token was drawn from a shallower posterior.
        span: Where exploration was on: what "auto" came to for this model.
        prefill_tokens: Prompt tokens computed for this branch (0 where another branch had computed them).
        error: What went wrong, with ``finish="error"``.
        seconds: From admission to the last token.
    """

    text: str
    id: str = ""
    finish: Finish = "eos"
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    final_logprobs: tuple[float, ...] = ()
    entropies: tuple[float, ...] = ()
    explored: tuple[bool, ...] = ()
    span: Literal["think", "all", "none"] = "none"
    prefill_tokens: int = 0
    error: str | None = None
    seconds: float = 0.0

    @property
    def mean_logprob(self) -> float | None:
        """Mean of ``final_logprobs``; None where there are none."""
        return sum(self.final_logprobs) / len(self.final_logprobs) if self.final_logprobs else None


class Verdict(Record):
    """What a verifier says of a branch.

    Attributes:
        status: "accepted", "rejected", "abstained" (can't judge) or "error" (the verifier itself failed). An
            error is never a rejection.
        score: In [0, 1]; by default 1 for accepted and 0 otherwise.
        reason: One line for people.
        verifier: Whose verdict it is.
        seconds: How long it took.
        answer: The final answer that was judged, where the verifier extracts one.
    """

    status: VerdictStatus
    score: float = Field(default=-1.0, validate_default=True)
    reason: str = ""
    verifier: str = ""
    seconds: float = Field(default=0.0, ge=0.0)
    answer: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _default_score(cls, data: object) -> object:
        if isinstance(data, Mapping) and data.get("score") is None:
            return {**data, "score": 1.0 if data.get("status") == "accepted" else 0.0}
        return data

    @field_validator("score")
    @classmethod
    def _in_unit(cls, value: float) -> float:
        if not 0.0 <= value <= 1.0:
            raise ValueError(f"a score lies in [0, 1], found {value:g}")
        return value


class Budget(Record):
    """What a search may spend; None is no limit.

    Attributes:
        tokens: Generated tokens over all branches. Branches are watched as they grow, so the last few steps of
            the live branches may run over.
        seconds: Wall-clock time from the problem's first request.
        branches: Requests sent to a decoder.
        verifier_calls: Calls of verifiers.
    """

    tokens: int | None = Field(default=None, ge=1)
    seconds: float | None = Field(default=None, gt=0)
    branches: int | None = Field(default=None, ge=1)
    verifier_calls: int | None = Field(default=None, ge=1)


class Usage(Record):
    """What a search spent."""

    generated_tokens: int = 0
    prefill_tokens: int = 0
    seconds: float = 0.0
    branches: int = 0
    verifier_calls: int = 0
