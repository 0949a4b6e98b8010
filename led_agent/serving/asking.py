"""From what a client asks for to what a search is made with; what can't be had here is refused.

A client is a stranger: it names strategies and verifiers of led_agent, and nothing that would import or run code of its
choosing, read files, or ask other hosts. Which verifiers run code is said at ``RUNS_CODE``.
"""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from pydantic import ValidationError

from led_agent.errors import UsageError, explain
from led_agent.judging import refuse
from led_agent.models import embedded_refusal, is_embedded
from led_agent.protocols import Strategy, Verifier
from led_agent.search import DefaultVerifiers
from led_agent.serving.limits import Limits, RefusedError
from led_agent.serving.schemas import ChatMessage, ChatRequest, LedOptions, RunRequest
from led_agent.strategies import BestOfN, Fallback
from led_agent.strategies.named import parse_strategy
from led_agent.types import Budget, Decoding, Message, Problem
from led_agent.verifiers import matches
from led_agent.verifiers.named import parse_verifier

__all__ = ["OFFERED", "RUNS_CODE", "Defaults", "Order", "order_of"]

OFFERED = ("math_answer", "countdown", "consensus", "matches")
RUNS_CODE = ("unit_tests",)
_LARGEST_RANK = 256  # of an esamp distiller: it is kept for each slot


class Defaults:
    """What the server's owner chose, for requests that don't say otherwise.

    Args:
        verifiers: By the names that they were given at the start, settings and all: clients may ask for these, too.
            Without any, each problem has those that it calls for.
        code: Whether verifiers that run code may be asked for.
    """

    def __init__(
        self,
        *,
        strategy: Strategy | None = None,
        decoding: Decoding | None = None,
        verifiers: Mapping[str, Verifier] | None = None,
        max_tokens: int = 512,
        code: bool = False,
    ) -> None:
        self.strategy, self.decoding, self.max_tokens, self.code = strategy, decoding, max_tokens, code
        self.own = dict(verifiers or {})
        self._called_for = DefaultVerifiers()
        known = [*OFFERED, *(RUNS_CODE if code else ())]
        self._named: dict[str, Verifier] = {name: parse_verifier(name) for name in known if name != "matches"}

    @property
    def names(self) -> list[str]:
        """Verifiers that may be asked for."""
        return [*self.own, *(name for name in (*self._named, "matches:REGEX") if name not in self.own)]

    def verifier(self, text: str) -> Verifier:
        """One that a client names.

        Raises:
            RefusedError: it isn't offered here.
        """
        if text in self.own or text in self._named:
            return self.own.get(text) or self._named[text]
        name, _, pattern = text.partition(":")
        if name == "matches" and pattern:
            try:
                return matches(pattern)
            except UsageError as error:
                raise RefusedError(f"led.verifiers: {error}", param="led.verifiers") from error
        if name in RUNS_CODE and not self.code:
            raise RefusedError(
                f"led.verifiers: {name} runs code, and is switched off over HTTP; whoever starts the server switches "
                "it on with --allow-code",
                status=403, param="led.verifiers", code="code_not_allowed",
            )  # fmt: skip
        raise RefusedError(
            f"led.verifiers: {text[:80]!r} is not offered here; there are {', '.join(self.names)}, without settings",
            param="led.verifiers",
        )

    def verifiers_for(self, problem: Problem) -> tuple[Verifier, ...]:
        """Those of a problem whose client names none."""
        return tuple(self.own.values()) if self.own else self._called_for(problem)

    def close(self) -> None:
        for verifier in (*self.own.values(), *self._named.values(), *self._called_for.all):
            close = getattr(verifier, "close", None)
            if callable(close):
                close()


@dataclass(frozen=True)
class Order:
    """One request, checked: all that a run is made of."""

    problem: Problem
    strategy: Strategy
    verifiers: tuple[Verifier, ...]
    decoding: Decoding
    budget: Budget
    seed: int
    max_tokens: int
    stop: tuple[str, ...]
    choices: int = 1
    prompt_tokens: int = field(default=0, compare=False)

    @property
    def single(self) -> bool:
        """Whether its one branch is the answer, and can be told while it grows: nothing takes a token back."""
        return isinstance(self.strategy, BestOfN) and self.strategy.n == 1 and self.decoding.guard is None


def order_of(
    asked: RunRequest, name: str, *, model: str, decoding: Decoding, defaults: Defaults, limits: Limits
) -> Order:
    """What a request comes to.

    Args:
        name: The run's, and its problem's.
        model: The one that is served.
        decoding: What it decodes with where nobody says otherwise.

    Raises:
        RefusedError: the request is at fault, or beyond what the server allows.
    """
    options = asked.led or LedOptions()
    problem = _problem(asked, options, name, model)
    if options.tests is not None and not defaults.code:
        raise RefusedError(
            "led.tests: verifiers that run code are switched off over HTTP; whoever starts the server switches them on "
            "with --allow-code",
            status=403, param="led.tests", code="code_not_allowed",
        )  # fmt: skip
    named = [defaults.verifier(text) for text in options.verifiers] if options.verifiers is not None else None
    verifiers = tuple(named) if named is not None else defaults.verifiers_for(problem)
    try:
        refuse(verifiers, problem)
    except UsageError as error:
        raise RefusedError(str(error), param="led.verifiers") from error
    choices = _within(asked.n, limits.choices, "n") if isinstance(asked, ChatRequest) else 1
    chosen = _decoding(asked, options, decoding)
    return Order(
        problem=problem,
        strategy=_strategy(options, chosen, defaults, limits, choices),
        verifiers=verifiers,
        decoding=chosen,
        budget=_budget(options, limits),
        seed=asked.seed if asked.seed is not None else secrets.randbelow(2**53),
        max_tokens=_max_tokens(asked, defaults, limits),
        stop=_stop(asked.stop),
        choices=choices,
    )


def _problem(asked: RunRequest, options: LedOptions, name: str, model: str) -> Problem:
    if asked.model is not None and asked.model != model:
        told = f"the model {asked.model[:80]!r} is not served here; there is {model!r}"
        raise RefusedError(told, status=404, param="model", code="model_not_found")
    messages = tuple(_message(message) for message in asked.messages)
    alone = len(messages) == 1 and messages[0].role == "user"
    tests = options.tests if options.tests is None or isinstance(options.tests, str) else tuple(options.tests)
    try:
        problem = Problem(
            prompt=messages[0].content if alone else messages,
            id=name,
            answer=options.answer,
            tests=tests,
            entry_point=options.entry_point,
        )
    except ValidationError as error:
        raise RefusedError(f"messages: {explain(error).removeprefix('Problem: ')}", param="messages") from error
    refusal = embedded_refusal(problem.text) if is_embedded(model) else None
    if refusal is not None:
        raise RefusedError(refusal, param="messages")
    return problem


def _message(given: ChatMessage) -> Message:
    content = given.content if isinstance(given.content, str) else "".join(part.text for part in given.content)
    return Message(role="system" if given.role == "developer" else given.role, content=content)


def _decoding(asked: RunRequest, options: LedOptions, default: Decoding) -> Decoding:
    """What is named, else the server's own; with the sampler's settings that stand beside it."""
    try:
        chosen = Decoding.parse(options.decoding) if options.decoding is not None else default
    except UsageError as error:
        raise RefusedError(f"led.decoding: {error}", param="led.decoding") from error
    if chosen.distiller is not None and chosen.distiller.rank > _LARGEST_RANK:
        told = f"led.decoding: rank is {chosen.distiller.rank}; here at most {_LARGEST_RANK} is allowed"
        raise RefusedError(told, param="led.decoding")
    names = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
    given: dict[str, Any] = {name: value for name in names if (value := getattr(asked, name)) is not None}
    try:
        return chosen.replace(**given) if given else chosen
    except UsageError as error:
        raise RefusedError(str(error), param=next(iter(given))) from error


def _strategy(options: LedOptions, decoding: Decoding, defaults: Defaults, limits: Limits, choices: int) -> Strategy:
    if options.strategy is not None:
        if options.n is not None:
            raise RefusedError("give led.strategy or led.n, not both: its settings follow its name", param="led.n")
        try:
            strategy = _strategy_of(options.strategy)
        except (UsageError, RecursionError) as error:
            raise RefusedError(f"led.strategy: {error}", param="led.strategy") from error
        _check_numbers(strategy, limits.branches)
        return strategy
    if options.n is None and defaults.strategy is not None:
        return defaults.strategy
    if options.n is None and decoding.is_greedy:
        return BestOfN(1)
    n = _within(options.n, limits.branches, "led.n") if options.n is not None else max(8, choices)
    return Fallback(BestOfN(min(n, limits.branches), stop_at_first=choices == 1))


@lru_cache(256)  # they are frozen, and reading a name takes milliseconds
def _strategy_of(text: str) -> Strategy:
    return parse_strategy(text, own=False)


def _check_numbers(strategy: object, most: int) -> None:
    """Refuse a strategy that is set to grow more than the server allows, however it is composed."""
    if isinstance(strategy, Sequence) and not isinstance(strategy, str):
        for part in strategy:
            _check_numbers(part, most)
    if not dataclasses.is_dataclass(strategy):
        return
    for one in dataclasses.fields(strategy):
        value = getattr(strategy, one.name)
        if isinstance(value, int) and not one.name.endswith("tokens") and value > most:
            told = f"led.strategy: {one.name} is {value}; here at most {most} is allowed"
            raise RefusedError(told, param="led.strategy")
        _check_numbers(value, most)


def _budget(options: LedOptions, limits: Limits) -> Budget:
    given = options.budget.model_dump() if options.budget is not None else {}
    for name, most in (("seconds", limits.seconds), ("branches", limits.branches), ("tokens", limits.tokens)):
        wanted = given.get(name)
        given[name] = wanted if wanted is not None and (most is None or wanted <= most) else most
    return Budget(**given)


def _max_tokens(asked: RunRequest, defaults: Defaults, limits: Limits) -> int:
    newer = asked.max_completion_tokens if isinstance(asked, ChatRequest) else None
    name, given = ("max_completion_tokens", newer) if newer is not None else ("max_tokens", asked.max_tokens)
    return _within(given, limits.max_tokens, name) if given is not None else min(defaults.max_tokens, limits.max_tokens)


def _stop(given: str | list[str] | None) -> tuple[str, ...]:
    found = (given,) if isinstance(given, str) else tuple(given or ())
    if not all(found):
        raise RefusedError("stop: an empty string ends every answer at once; leave it out", param="stop")
    return found


def _within(value: int, most: int, name: str) -> int:
    if value > most:
        raise RefusedError(f"{name} is {value}; here at most {most} is allowed", param=name)
    return value
