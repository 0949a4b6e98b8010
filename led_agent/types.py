"""The records that travel between the rooms: frozen, strict, JSON-serialisable.

This file knows what a problem, a decoding, a branch and a verdict are. It does not know how any of them comes
about: no torch, no tree, no model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from led_agent.errors import UsageError, explain
from led_agent.record import Record
from led_agent.settings import (
    Decoding,
    DepthExploration,
    LatentDistiller,
    LatentNoise,
    LayerContrast,
    QualityGuard,
)

__all__ = [
    "Branch",
    "Budget",
    "Confidence",
    "DecodeRequest",
    "Decoding",
    "DepthExploration",
    "LatentDistiller",
    "LatentNoise",
    "LayerContrast",
    "Message",
    "Problem",
    "QualityGuard",
    "Record",
    "Rollback",
    "Sibling",
    "Usage",
    "Verdict",
]

VerdictStatus = Literal["accepted", "rejected", "abstained", "error"]
Finish = Literal["eos", "stop", "step", "length", "cancelled", "error"]


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


class Sibling(Record):
    """Which of the branches that were asked for together a branch is.

    Attributes:
        group: 63-bit seed that all of them share.
        index: Its own number, from 0.
        of: How many there are.
    """

    group: int = Field(ge=0, lt=2**63)
    index: int = Field(ge=0)
    of: int = Field(ge=1)

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if self.index >= self.of:
            raise ValueError(f"sibling {self.index} of {self.of}: indices run from 0 to {self.of - 1}")
        return self


class DecodeRequest(Record):
    """All that is needed to grow one branch, anywhere: complete, immutable, named.

    Sent twice it gives the same tokens, so a lost request is simply sent again.

    Attributes:
        id: The node that it will become, unique within its problem's tree.
        parent: The node that it continues.
        problem: The problem's key.
        prompt: What the model is asked.
        prefix_ids: Tokens already generated on the path to ``parent``; the branch continues after them.
        keep: How many of ``parent``'s own tokens are the last of ``prefix_ids``, where the branch forks inside it;
            None where it continues all of them.
        exclude: Tokens that its first one must not be: it is drawn from what the law leaves without them.
        seed: 63-bit seed of this branch's counter-based random numbers.
        sibling: Its place among branches that were asked for together, for what they share (``Decoding.siblings``,
            orthogonal noise); None where it stands alone.
        max_tokens: At most so many new tokens.
        stop: Strings that end the answer; cut from the text.
        step: Strings that end a step of a longer answer; kept in the text, and the branch may be continued.
        max_step_tokens: A step ends after so many new tokens at the latest; None is no such limit.
        step_tokens: Token ids that end a step, besides ``step``.
        part: Which part of a composed strategy wanted it, as a path; empty where there is only one (``Tree.part``).
        purpose: What the strategy wants it for, e.g. "explore" or "fallback"; shown on the tree.
        trigger: Why it was proposed, for people.
    """

    id: str
    parent: str
    problem: str
    prompt: str | tuple[Message, ...]
    decoding: Decoding
    seed: int = Field(ge=0, lt=2**63)
    sibling: Sibling | None = None
    max_tokens: int = Field(ge=1)
    prefix_ids: tuple[int, ...] = ()
    keep: int | None = Field(default=None, ge=0)
    exclude: tuple[int, ...] = ()
    stop: tuple[str, ...] = ()
    step: tuple[str, ...] = ()
    max_step_tokens: int | None = Field(default=None, ge=1)
    step_tokens: tuple[int, ...] = ()
    part: str = ""
    purpose: str = "explore"
    trigger: str = ""

    @property
    def trace(self) -> str:
        """32 hex digits that name this request wherever it goes, in the logs of decoders and in their errors: a digest
        of problem, node and seed, so that a request that is sent again keeps it."""
        text = f"{self.problem}\n{self.id}\n{self.seed}".encode()
        return hashlib.blake2b(text, digest_size=16).hexdigest()


class Rollback(Record):
    """The quality guard turned a branch back.

    Attributes:
        cause: What was measured: "logprob", "entropy", "repetition", "length" or "nonfinite".
        measured, threshold: What was found, and the guard's limit: nat for the first two, times and tokens for the
            next two, 0 for the last.
        at: How many tokens the branch had.
        back_to: To how many it was cut.
        lasting: Whether it goes on conservatively for good, and not only to the end of the step.
    """

    cause: Literal["logprob", "entropy", "repetition", "length", "nonfinite"]
    measured: float
    threshold: float
    at: int
    back_to: int
    lasting: bool


class Branch(Record):
    """What a decoder grew for one request: text and tokens after the parent's, and how they came about.

    ``Branch(text="…")`` is enough to try a verifier on.

    Attributes:
        text: The new text, special tokens left out, a stop string cut off.
        kept_text: What the tokens read as that it keeps of its parent, where it forks inside it.
        finish: "eos" the model ended; "stop" a stop string; "step" a step boundary; "length" the token limit;
            "cancelled" and "error" speak for themselves.
        token_ids: The new tokens.
        logprobs: Each token's log-probability (nat) under the law that it was sampled from, given the noise where
            there is any (and given the gate's outcome with ``DepthExploration.gate_first``). Of a first token that was
            drawn with others excluded, it is that under the whole law.
        final_logprobs: The same under the model's unperturbed final posterior at temperature 1.
        entropies: Entropy (nat) of that final posterior at each position.
        explored: Whether each token was drawn from a shallower posterior.
        noise_scales: The scale σ of the latent noise that each token was decoded with, as the controller had it then;
            empty for a branch without noise.
        span: Where exploration was on: what "auto" came to for this model.
        rollbacks: Where the quality guard turned it back.
        discarded: Tokens that were computed and rolled back; not in ``token_ids``, but spent.
        prefill_tokens: Prompt tokens computed for this branch (0 where another branch had computed them).
        error: What went wrong, with ``finish="error"``.
        seconds: From admission to the last token.
        decoder: Which decoder of a cluster grew it; empty in the search's own process.
        attempts: How many times it was sent to a decoder before it came back; more than once where one died.
    """

    text: str
    kept_text: str = ""
    id: str = ""
    finish: Finish = "eos"
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    final_logprobs: tuple[float, ...] = ()
    entropies: tuple[float, ...] = ()
    explored: tuple[bool, ...] = ()
    noise_scales: tuple[float, ...] = ()
    span: Literal["think", "all", "none"] = "none"
    rollbacks: tuple[Rollback, ...] = ()
    discarded: int = 0
    prefill_tokens: int = 0
    error: str | None = None
    seconds: float = 0.0
    decoder: str = ""
    attempts: int = Field(default=1, ge=0)

    @property
    def logprob(self) -> float | None:
        """The whole branch's log-probability (nat) under the laws that drew it; None where they aren't known."""
        known = bool(self.token_ids) and len(self.logprobs) == len(self.token_ids)
        return sum(self.logprobs) if known else None

    @property
    def final_logprob(self) -> float | None:
        """The whole branch's log-probability (nat) under the model's own posterior; None where it isn't known."""
        known = bool(self.token_ids) and len(self.final_logprobs) == len(self.token_ids)
        return sum(self.final_logprobs) if known else None

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
        feedback: What a model may be told when it is asked again; None is the reason. A verifier whose reason names the
            right answer says here what gives nothing away.
    """

    status: VerdictStatus
    score: float = Field(default=-1.0, validate_default=True)
    reason: str = ""
    verifier: str = ""
    seconds: float = Field(default=0.0, ge=0.0)
    answer: str | None = None
    feedback: str | None = None

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


class Confidence(Record):
    """How far an answer that no verifier accepted can be trusted, from how the branches agree.

    Attributes:
        answer: What the leading answer reads as.
        votes, of: How many branches gave it, and how many gave any.
        share: ``votes / of``.
        entropy: Of the distribution of answers over the branches (nat).
        logprob: Mean log-probability (nat) a token, under the model's own posterior, of the best branch that gave it;
            None where it isn't known.
        probability: Of its being right, from the other three (``led_agent.confidence``).
        calibrated: Whether that map was fitted to this model, as it was to the embedded ones; else it is the share,
            which rises with the chance of being right, and is no more than that.
    """

    answer: str
    votes: int = Field(ge=1)
    of: int = Field(ge=1)
    share: float = Field(ge=0.0, le=1.0)
    entropy: float = Field(ge=0.0)
    logprob: float | None = None
    probability: float = Field(ge=0.0, le=1.0)
    calibrated: bool = False


class Budget(Record):
    """What a search may spend; None is no limit.

    Attributes:
        tokens: Generated tokens over all branches, rolled back ones included. It may be run over by the tokens of one
            step, one for each live branch at most; where the branches of a problem are on several decoders of a
            cluster, by what these decode between two reports (1 s). A branch is begun only where it could be paid
            whole, beside those under way, or where none is.
        prefill_tokens: Prompt tokens computed over all branches, run over by those admitted together at most.
        seconds: Wall-clock time from the problem's first request. Verifiers that compare branches are asked at the
            end, and have 5 s more where there is less left.
        branches: Requests sent to a decoder.
        verifier_calls: Verdicts of verifiers, one a branch and verifier; a call that raised and is tried again counts
            once.
    """

    tokens: int | None = Field(default=None, ge=1)
    prefill_tokens: int | None = Field(default=None, ge=1)
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
