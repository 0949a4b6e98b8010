"""What a study of exploration compares: ways of getting branches, each by a decoding that a user can name.

This file knows names. It does not know how anything is drawn, nor what came of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, Self

from pydantic import model_validator

from led_agent.record import Record
from led_agent.strategies.named import parse_strategy
from led_agent.types import Decoding
from led_agent.verifiers.named import parse_verifier

__all__ = [
    "TEMPERATURES",
    "Arm",
    "Candidates",
    "Goal",
    "law_arms",
    "new_arms",
    "plain_arms",
    "search_arms",
    "sibling_arms",
    "step_arms",
]

TEMPERATURES = (0.6, 1.0, 1.2, 1.4)
Draw = Literal["independent", "together", "search"]
Goal = Literal["pass@k", "tokens"]


class Arm(Record):
    """A way of getting branches of a problem.

    Attributes:
        name: As tables have it.
        family: What it is one of, for the order of tables and the colours of pictures.
        decoding: As ``--decoding`` takes it.
        draw: "independent" samples; siblings drawn "together", in groups with common random numbers; or the branches of
            a "search", one after another.
        group: How many siblings are drawn together.
        strategy: The search's, as ``--strategy`` takes it.
        verifiers: The search's, as ``--verifier`` takes them; none are those that say what is right.
        max_tokens: New tokens a branch, at most; None is the study's.
    """

    name: str
    family: str
    decoding: str
    draw: Draw = "independent"
    group: int = 1
    strategy: str | None = None
    verifiers: tuple[str, ...] = ()
    max_tokens: int | None = None

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.draw == "search") != (self.strategy is not None):
            raise ValueError(f"arm {self.name!r}: a search has a strategy, and nothing else has")
        self.law  # noqa: B018 - a bad name is refused now
        if self.strategy is not None:
            parse_strategy(self.strategy)
        for verifier in self.verifiers:
            parse_verifier(verifier)
        return self

    @property
    def law(self) -> Decoding:
        """The decoding, siblings as the arm draws them."""
        siblings = "stratified" if self.draw == "together" else "independent"
        return Decoding.parse(self.decoding).replace(siblings=siblings)


class Candidates(Record):
    """Settings of one kind among which a development split chooses; the first stands where nothing is tuned.

    Attributes:
        kind: The name of what is chosen.
        goal: What for: pass@k at the largest k, then pass@1; or problems solved within few tokens.
    """

    kind: str
    arms: tuple[Arm, ...]
    goal: Goal = "pass@k"


def plain_arms(temperatures: Iterable[float] = TEMPERATURES, max_tokens: int | None = None) -> tuple[Arm, ...]:
    """Plain sampling; of so many tokens a branch, where that isn't the study's number."""
    of = f", {max_tokens} tokens" if max_tokens is not None else ""
    return tuple(
        Arm(name=f"plain, T={t:g}{of}", family="plain", decoding=f"plain:temperature={t:g}", max_tokens=max_tokens)
        for t in temperatures
    )


def law_arms(blocks: int, temperature: float, *, lens: bool = False, quick: bool = False) -> list[Arm | Candidates]:
    """Everything that draws independent branches from a law of the next token, but plain sampling by itself.

    Args:
        blocks: The model's.
        temperature: The one that plain sampling does best at; methods are tried at it and at 1.
        lens: Whether the model has a tuned lens.
    """
    warm = tuple(dict.fromkeys((1.0, temperature)))
    depths = [d for d in (4, 2, 8, 12) if d <= blocks]
    led = [f"led.paper:depths={d},temperature={t:g}" for d in depths for t in warm]
    sigmas = [f"noise:sigma={s},temperature={t:g}" for s in ("0.05", "0.1", "0.2") for t in warm]
    held = [f"noise:sigma=0.05,temperature=1,hold={hold}" for hold in ("1", "step")]
    both = [f"led.paper:depths={min(4, blocks)},temperature=1,noise={s}" for s in ("0.05", "0.02", "0.1")]
    deep = min(8, blocks)
    found: list[Arm | Candidates] = [
        Arm(name="LED paper", family="LED", decoding=f"led.paper:depths={deep}"),
        Arm(name="LED official", family="LED", decoding=f"led.official:depths={min(deep, blocks - 1)}"),
        _candidates("LED, tuned", "LED", led),
        _candidates("noise, tuned", "noise", [*sigmas, *held]),
        _candidates("LED + noise, tuned", "LED + noise", both),
    ]
    if quick:
        return found
    if lens:
        tuned = [f"led.paper:depths={d},temperature={t:g},norm=tuned" for d in depths[2:] or depths for t in warm]
        found.append(_candidates("LED, tuned lens", "LED", tuned))
    return [
        Arm(name="top-p 0.95, T=1", family="plain", decoding="plain:temperature=1,top_p=0.95"),
        Arm(name="top-p 0.95, T=1.4", family="plain", decoding="plain:temperature=1.4,top_p=0.95"),
        Arm(name="min-p 0.05, T=1.4", family="plain", decoding="plain:temperature=1.4,min_p=0.05"),
        Arm(name="min-p 0.02, T=2", family="plain", decoding="plain:temperature=2,min_p=0.02"),
        *found,
        Arm(name="DoLa", family="peers", decoding="dola:temperature=1"),
        Arm(name="ESamp", family="peers", decoding="esamp:temperature=1"),
    ]


def sibling_arms(blocks: int, temperature: float, size: int) -> Candidates:
    """Stratified siblings of one size, alone and with LED and noise."""
    led = f"led.paper:depths={min(4, blocks)},temperature=1"
    warm = [f"plain:temperature={t:g}" for t in dict.fromkeys((1.0, temperature))]
    decodings = [*warm, "noise:sigma=0.05,temperature=1", led, f"{led},noise=0.05"]
    return Candidates(
        kind="stratified, tuned",
        arms=tuple(
            Arm(name=f"stratified: {one}", family="siblings", decoding=one, draw="together", group=size)
            for one in dict.fromkeys(decodings)
        ),
    )


def new_arms(blocks: int, temperature: float, n: int) -> list[Candidates]:
    """Whole branches without replacement, each of them new; and with answers that don't repeat."""
    laws = [f"plain:temperature={t:g}" for t in dict.fromkeys((1.0, temperature, 0.6))]
    laws.append(f"led.paper:depths={min(4, blocks)},temperature=1")
    distinct = ",distinct_answers=true"
    return [
        _searches("without replacement, tuned", f"without-replacement:n={n},batch=1", laws),
        _searches("distinct answers, tuned", f"without-replacement:n={n},batch=1{distinct}", laws[:-1]),
    ]


def search_arms(default: str, n: int, max_tokens: int | None) -> list[Arm | Candidates]:
    """Searches with a verifier: ladders, of whole branches.

    Args:
        default: The decoding that searches have where none is named.
        n: Branches before a ladder falls back.
        max_tokens: New tokens a branch, at most, where that isn't the study's number.
    """
    laws = [default, "plain:temperature=0.6", "plain:temperature=1"]
    ladders = [default, f"{default},temperature=1", *laws[1:]]
    kinds = {
        "ladder, tuned": (f"fallback(best-of-n:n={n})", ladders),
        "escalating ladder, tuned": (f"fallback(escalate(best-of-n:n={n}))", laws[:2]),
        "ladder without replacement, tuned": (f"fallback(without-replacement:n={n},batch=1)", laws),
    }
    first = Arm(
        name="the default ladder", family="search", decoding=default, draw="search", strategy="fallback(best-of-n:n=8)",
        max_tokens=max_tokens,
    )  # fmt: skip
    return [
        first,
        *(
            _searches(kind, strategy, decodings, goal="tokens", max_tokens=max_tokens)
            for kind, (strategy, decodings) in kinds.items()
        ),
    ]


def step_arms(default: str, step: str, verifier: str, max_tokens: int | None) -> list[Candidates]:
    """Searches on steps, alone and in a ladder.

    Args:
        default: The decoding that searches have where none is named.
        step: Where a step ends, as settings of a strategy.
        verifier: One that judges steps.
    """
    laws = ["plain:temperature=0.6", "plain:temperature=1", default]
    one = f"without-replacement:n=64,{step},order=breadth"
    return [
        _searches(kind, strategy, laws, goal="tokens", max_tokens=max_tokens, verifiers=(verifier,))
        for kind, strategy in (("steps, tuned", one), ("ladder on steps, tuned", f"fallback({one})"))
    ]


def _candidates(kind: str, family: str, decodings: Sequence[str]) -> Candidates:
    return Candidates(
        kind=kind, arms=tuple(Arm(name=f"{kind}: {d}", family=family, decoding=d) for d in dict.fromkeys(decodings))
    )


def _searches(
    kind: str,
    strategy: str,
    decodings: Sequence[str],
    *,
    goal: Goal = "pass@k",
    max_tokens: int | None = None,
    verifiers: tuple[str, ...] = (),
) -> Candidates:
    arms = (
        Arm(
            name=f"{kind}: {one}", family="search", decoding=one, draw="search", strategy=strategy, verifiers=verifiers,
            max_tokens=max_tokens,
        )
        for one in dict.fromkeys(decodings)
    )  # fmt: skip
    return Candidates(kind=kind, arms=tuple(arms), goal=goal)
