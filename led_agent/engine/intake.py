"""What a request comes to on this model: refusals, the prefix that it grows from, where its methods apply."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from led_agent.engine.growing import Prefix
from led_agent.engine.memory import MemoryPlan
from led_agent.engine.model import ModelParts
from led_agent.engine.requests import EngineRequest
from led_agent.errors import UsageError
from led_agent.types import Decoding

__all__ = ["begins_thinking", "check", "prefix_of", "span_of"]


def check(request: EngineRequest, prefix: Prefix, parts: ModelParts, memory: MemoryPlan) -> None:
    """Refuse what can't be carried out.

    Raises:
        UsageError: naming what was found and what is allowed.
    """
    _check_tokens(request, prefix, parts)
    request.decoding.check_model(parts.n_blocks, parts.vocab)
    if request.decoding.exploration is not None and request.decoding.exploration.norm == "tuned":
        parts.tuned()
    limits = (("max_tokens", request.max_tokens), ("n", request.n), ("max_step_tokens", request.max_step_tokens))
    for name, value in limits:
        if value is not None and value < 1:
            raise UsageError(f"request {request.id!r}: {name} is {value}; at least 1 is needed")
    if not 0 <= request.seed < 2**63:
        raise UsageError(f"request {request.id!r}: seed is {request.seed}; allowed are 0 to 2**63 - 1")
    _check_exclusion(request, parts)
    if (request.stop or request.step) and parts.tokenizer is None:
        raise UsageError(f"request {request.id!r} has stop strings, but the engine has no tokenizer to read text with")
    length = min(len(prefix.ids) + request.max_tokens, parts.context)
    if length > memory.capacity:
        raise UsageError(
            f"request {request.id!r} may become {length} tokens long, and a slot holds {memory.capacity} "
            f"({memory.rows} slots, {memory.nbytes / 2**30:.1f} GiB in all); use fewer slots, a lower max_tokens or a "
            "shorter prompt"
        )


def _check_tokens(request: EngineRequest, prefix: Prefix, parts: ModelParts) -> None:
    if not prefix.prompt:
        raise UsageError(f"request {request.id!r} has an empty prompt; at least one token is needed")
    if len(prefix.ids) >= parts.context:
        raise UsageError(
            f"the prompt has {len(prefix.ids)} tokens, and the model's context of {parts.context} leaves no "
            "room for an answer; shorten it or choose a model with a longer context"
        )
    wrong = [t for t in prefix.ids if not 0 <= t < parts.vocab]
    if wrong:
        raise UsageError(f"request {request.id!r}: token {wrong[0]} is outside the vocabulary of {parts.vocab}")


def _check_exclusion(request: EngineRequest, parts: ModelParts) -> None:
    wrong = [t for t in request.exclude if not 0 <= t < parts.vocab]
    if wrong:
        raise UsageError(
            f"request {request.id!r}: excluded token {wrong[0]} is outside the vocabulary of {parts.vocab}"
        )
    if request.exclude and request.decoding.distiller is not None:
        raise UsageError(
            f"request {request.id!r} excludes tokens, which esamp can't: its law depends on what was decoded before; "
            "use another decoding"
        )


def prefix_of(request: EngineRequest, parent: tuple[Prefix, int] | None) -> Prefix:
    """The tokens that a request grows from.

    Args:
        parent: All tokens of the branch that it names, and how many of them are that branch's own; None where there is
            no such branch.

    Raises:
        UsageError: it names none, both or an unknown source, or keeps more of its parent than there is.
    """
    if (request.prompt_ids is None) == (request.parent is None):
        raise UsageError(f"request {request.id!r} needs either prompt_ids or a parent, and not both")
    if request.parent is None:
        if request.parent_tokens is not None:
            raise UsageError(f"request {request.id!r} has parent_tokens, and no parent")
        return Prefix(tuple(request.prompt_ids or ()), tuple(request.prefix_ids))
    if parent is None:
        raise UsageError(
            f"request {request.id!r}: the engine grows no branch {request.parent!r}, and has finished none lately"
        )
    above, own = parent
    kept = request.parent_tokens if request.parent_tokens is not None else own
    if not 0 <= kept <= own:
        raise UsageError(
            f"request {request.id!r}: parent_tokens is {kept}; branch {request.parent!r} has {own} tokens to keep"
        )
    generated = above.generated[: len(above.generated) - own + kept]
    return Prefix(above.prompt, generated + tuple(request.prefix_ids))


def span_of(decoding: Decoding, parts: ModelParts) -> Literal["think", "all", "none"]:
    """What a decoding's span comes to on a model: "auto" is "think" where the model has thinking tags, else "all";
    greedy and plain decodings have none."""
    if not decoding.has_methods:
        return "none"
    if decoding.span == "auto":
        return "think" if parts.thinking else "all"
    return decoding.span


def begins_thinking(prefix: Prefix, parts: ModelParts) -> bool:
    """Whether a branch begins inside its thinking: the prompt ends by opening it (white space may follow), or
    what was generated has opened it and not closed it. A tag that the user merely mentions does not count."""
    tags = parts.thinking
    if not tags:
        return False
    opened, closed = _rfind(prefix.generated, tags.open), _rfind(prefix.generated, tags.close)
    if opened >= 0 or closed >= 0:
        return opened > closed
    at = _rfind(prefix.prompt, tags.open)
    if at < 0:
        return False
    rest = list(prefix.prompt[at + len(tags.open) :])
    return not rest or (len(rest) <= 2 and not parts.tokenizer.decode(rest).strip())


def _rfind(ids: Sequence[int], wanted: Sequence[int]) -> int:
    """Where ``wanted`` last begins in ``ids``; -1 where it doesn't."""
    width = len(wanted)
    return next((at for at in range(len(ids) - width, -1, -1) if tuple(ids[at : at + width]) == tuple(wanted)), -1)
