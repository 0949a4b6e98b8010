"""What goes over the wire: OpenAI's chat completions, and beside them what a search has of its own.

Requests are strict: what isn't known is refused, so that a misspelled setting is not passed over in silence. What of
OpenAI's interface can't be done here is refused by name (``unsupported``); what has no bearing on an answer, such as
``user``, is taken and not used.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = [
    "ChatChunk",
    "ChatCompletion",
    "ChatMessage",
    "ChatRequest",
    "ErrorReply",
    "Index",
    "LedOptions",
    "ModelList",
    "RunAccepted",
    "RunList",
    "RunRequest",
    "Settings",
]

_Text = Annotated[str, Field(max_length=500)]


class _Given(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class TextPart(_Given):
    """A piece of a message's content."""

    type: Literal["text"]
    text: str


class ChatMessage(_Given):
    """One message of the conversation. ``name`` is taken and not used."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]
    name: str | None = None


class BudgetOptions(_Given):
    """What the search may spend; the server's own limits go before."""

    tokens: int | None = Field(default=None, ge=1)
    prefill_tokens: int | None = Field(default=None, ge=1)
    seconds: float | None = Field(default=None, gt=0)
    branches: int | None = Field(default=None, ge=1)
    verifier_calls: int | None = Field(default=None, ge=1)


class LedOptions(_Given):
    """How to search: what a client of OpenAI's gives as ``extra_body={"led": {…}}``.

    ``strategy`` and ``decoding`` are named as on the command line, ``verifiers`` by name, ``matches:REGEX`` with a
    pattern. ``n`` is how many branches explore, where no strategy is named. ``answer`` is the reference answer;
    ``tests`` and ``entry_point`` are for verifiers that run code, where the server has them switched on. ``progress``
    adds chunks that tell of branches to a stream; these have no choices, and ``led`` in their place.
    """

    strategy: _Text | None = None
    decoding: _Text | None = None
    verifiers: Annotated[list[_Text], Field(max_length=8)] | None = None
    budget: BudgetOptions | None = None
    n: int | None = Field(default=None, ge=1)
    answer: str | None = None
    tests: str | list[dict[str, Any]] | None = None
    entry_point: _Text | None = None
    progress: bool = False


class RunRequest(_Given):
    """A problem to search on, and how."""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    model: str | None = None
    max_tokens: int | None = Field(default=None, ge=1)
    seed: int | None = Field(default=None, ge=0, lt=2**63)
    stop: str | Annotated[list[str], Field(max_length=16)] | None = None
    temperature: float | None = Field(default=None, ge=0, le=10)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=1)
    min_p: float | None = Field(default=None, ge=0, lt=1)
    repetition_penalty: float | None = Field(default=None, gt=0, le=10)
    led: LedOptions | None = None


class StreamOptions(_Given):
    include_usage: bool = False
    include_obfuscation: bool = False


class ResponseFormat(_Given):
    type: Literal["text"]


class ChatRequest(RunRequest):
    """A chat completion, as OpenAI's clients ask for it.

    ``n`` choices are the n best answers of the tree. Where neither ``led.strategy`` nor ``led.n`` says otherwise, a
    temperature of 0 is one greedy branch.
    """

    model: str
    max_completion_tokens: int | None = Field(default=None, ge=1)
    n: int = Field(default=1, ge=1)
    stream: bool = False
    stream_options: StreamOptions | None = None
    logprobs: bool = False
    # RefusedError unless they are as if they weren't there.
    top_logprobs: Literal[0] | None = None
    frequency_penalty: float | None = Field(default=None, ge=0, le=0)
    presence_penalty: float | None = Field(default=None, ge=0, le=0)
    logit_bias: dict[str, float] | None = Field(default=None, max_length=0)
    response_format: ResponseFormat | None = None
    tools: list[Any] | None = Field(default=None, max_length=0)
    tool_choice: Literal["none", "auto"] | None = None
    parallel_tool_calls: bool | None = None
    modalities: list[Literal["text"]] | None = None
    # Taken and not used.
    user: str | None = None
    metadata: dict[str, str] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None


# --- replies -------------------------------------------------------------------------------------------------------


class ErrorBody(BaseModel):
    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorReply(BaseModel):
    """As OpenAI's clients expect it."""

    error: ErrorBody


class LedUsage(BaseModel):
    generated_tokens: int
    prefill_tokens: int
    seconds: float
    branches: int
    verifier_calls: int


class LedResult(BaseModel):
    """What the search has to say beside its answer. ``run`` names its tree: ``GET /v1/runs/{run}``."""

    run: str
    verified: bool
    answer: str | None
    status: str
    reason: str
    seed: int
    confidence: dict[str, Any] | None
    usage: LedUsage


class TokenLogprob(BaseModel):
    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[Any] = []


class Logprobs(BaseModel):
    content: list[TokenLogprob]
    refusal: None = None


class ReplyMessage(BaseModel):
    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


Reason = Literal["stop", "length"]


class Choice(BaseModel):
    index: int
    message: ReplyMessage
    finish_reason: Reason
    logprobs: Logprobs | None = None
    led: dict[str, Any] = {}


class ChatUsage(BaseModel):
    """``completion_tokens`` are those of all branches: they were computed, whichever was chosen."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatCompletion(BaseModel):
    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: ChatUsage
    led: LedResult


class Delta(BaseModel):
    role: Literal["assistant"] | None = None
    content: str | None = None


class ChunkChoice(BaseModel):
    index: int
    delta: Delta
    finish_reason: Reason | None = None
    logprobs: Logprobs | None = None


class ChatChunk(BaseModel):
    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: ChatUsage | None = None
    led: dict[str, Any] | None = None


class ModelCard(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "led_agent"


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[ModelCard]


class RunAccepted(BaseModel):
    id: str
    status: Literal["queued", "running", "done"]


class RunSummary(BaseModel):
    id: str
    status: Literal["queued", "running", "done"]
    created: int
    prompt: str
    answer: str | None
    verified: bool
    reason: str


class RunList(BaseModel):
    object: Literal["list"] = "list"
    data: list[RunSummary]


class Index(BaseModel):
    """A run's tree as pages read it (docs/viewer.md), each node without its text."""

    model_config = ConfigDict(extra="allow")

    format: str
    title: str
    live: bool
    problems: list[dict[str, Any]]


class Settings(BaseModel):
    """What can be asked for here."""

    model: str
    embedded: bool
    example: str | None
    strategies: list[str]
    decodings: list[str]
    verifiers: list[str]
    default: dict[str, str]
    limits: dict[str, int | float | None]
    key_needed: bool
