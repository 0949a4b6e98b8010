"""What ``diagnose`` found of a model, as records, and what it recommends: pure functions of the figures.

This file does not know how anything is measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from typing import Literal

from led_agent.types import Record

__all__ = [
    "CAVEAT",
    "TOP_K",
    "Accuracy",
    "AtTemperature",
    "Depth",
    "Diagnosis",
    "Estimate",
    "Movement",
    "Norm",
    "Reading",
    "Recommendation",
    "recommend",
]

TOP_K = 20  # candidates of LED's law, as in the paper
CAVEAT = (
    "This is an expectation from the model's entropies, not a measured gain; the paper's own gains are about one "
    "point. Measure it on problems with answers before relying on it."
)
_FEWEST = 5  # problems on which an interval over problems says something
_SAME_LANGUAGE = 0.5  # agreement with the final layer from which a posterior counts as readable
_SAME_WORDS = 0.05  # agreement that the raw states must have more, to be preferred to normed ones
_RISE = 0.2  # of the final entropy
_DEEPEST = 12  # posteriors: the paper's figure is flat from there on
_BEST_RATE = 0.15  # the method was reported at rates of 0.1 to 0.2

Norm = Literal["final", "none"]


class Estimate(Record):
    """A mean over problems and its 95 % percentile bootstrap interval, 2000 resamples of the problems."""

    mean: float
    low: float
    high: float


class Reading(Record):
    """Posteriors read off one depth.

    Attributes:
        entropy: nat, at temperature 1.
        agreement: How often the most probable token is the final layer's.
        rise: Entropy less the final layer's at the same positions, nat.
    """

    entropy: Estimate
    agreement: Estimate
    rise: Estimate


class Depth(Record):
    """After ``depth`` blocks: read with the model's final norm, and without it."""

    depth: int
    normed: Reading
    raw: Reading

    def reading(self, norm: Norm) -> Reading:
        return self.normed if norm == "final" else self.raw


class AtTemperature(Record):
    """A share at a sampling temperature."""

    temperature: float
    share: Estimate


class Movement(Record):
    """Mean total variation between LED's law over ``depths`` posteriors and plain top-k sampling."""

    depths: int
    norm: Norm
    temperature: float
    distance: Estimate


class Accuracy(Record):
    """Shares of branches that the default verifiers accept, over the problems that call for any, and the slope of
    accuracy over temperature (least squares; per unit of temperature)."""

    problems: int
    at: tuple[AtTemperature, ...]
    slope: Estimate


class Recommendation(Record):
    """What the figures suggest. ``depths`` and ``norm`` are what LED would be tried with, even where it is not
    recommended; ``decoding`` is the command line's spelling of the whole."""

    use_led: bool
    depths: int
    norm: Norm
    temperature: float
    reason: str
    decoding: str


class Diagnosis(Record):
    """A model, measured on tokens that it generated itself.

    Attributes:
        blocks: The model's depth.
        problems: How many the figures are of.
        samples, max_tokens, seed: As asked for.
        span: "think": positions inside its thinking; "all": all generated ones.
        generated: Tokens in that span, in the branches at temperature 1.
        positions: Of these, how many were looked at, evenly spread.
        law_positions: Of those, at how many LED's law was computed.
        cut: The share of the branches at temperature 1 that ended at ``max_tokens``.
        depths: Entropies, the shallowest first.
        rates: Exploration rates, 1 - p(most probable token).
        movements: How far LED would move the sampler.
        accuracy: None where fewer than two problems can be judged.
        notes: What a reader has to know besides.
        caveat: What a recommendation is not.
    """

    model: str
    blocks: int
    problems: int
    samples: int
    max_tokens: int
    seed: int
    span: Literal["think", "all"]
    generated: int
    positions: int
    law_positions: int
    cut: float
    depths: tuple[Depth, ...]
    rates: tuple[AtTemperature, ...]
    movements: tuple[Movement, ...]
    accuracy: Accuracy | None
    recommendation: Recommendation
    notes: tuple[str, ...] = ()
    caveat: str = CAVEAT


# --- the recommendation --------------------------------------------------------------------------------------------


def recommend(
    depths: Sequence[Depth],
    rates: Sequence[AtTemperature],
    slope: Estimate | None,
    *,
    problems: int,
    vocab: int,
    everywhere: bool = False,
) -> Recommendation:
    """What the figures suggest.

    LED is expected to help only where entropy collapses at the last layer: where some layer that it would read, in
    the final layer's own language, is clearly less sure.

    Args:
        depths: All of a model's, the shallowest first.
        slope: Of accuracy over temperature, where it is known.
        problems: How many the figures are of.
        vocab: Tokens that can be sampled.
        everywhere: Whether LED would have to be told to explore outside thinking tags.
    """
    late = late_depths(depths)
    norm = better_norm(late)
    usable = readable(late, norm)
    count = min(max(2, 1 + len(usable)), len(depths))
    use, reason = _expectation(depths[-1], late, usable, norm, problems)
    temperature, why = best_temperature(rates, slope, explores=use)
    decoding = f"led.paper:depths={count},temperature={temperature:g}" if use else f"plain:temperature={temperature:g}"
    if use:
        decoding += ",norm=none" if norm == "none" else ""
        decoding += f",top_k={vocab}" if vocab < TOP_K else ""
        decoding += ",span=all" if everywhere else ""
    return Recommendation(
        use_led=use, depths=count, norm=norm, temperature=temperature, reason=f"{reason}; {why}", decoding=decoding
    )


def late_depths(depths: Sequence[Depth]) -> list[Depth]:
    """The last third of the depths without the final one, nearest the top first: at least one where there is one, and
    no more than LED reads with 12 posteriors."""
    n = len(depths)
    first = min(2 * n // 3 + 1, n - 1)  # after how many blocks
    return [depth for depth in reversed(depths[:-1]) if depth.depth >= first][: _DEEPEST - 1]


def better_norm(late: Sequence[Depth]) -> Norm:
    """The final norm, unless posteriors without it agree with the final layer clearly more often. Where both name the
    same tokens, those without it are of no use: their logits are so large that hardly any entropy is left."""
    more = [depth.raw.agreement.mean - depth.normed.agreement.mean for depth in late]
    return "none" if more and sum(more) / len(more) > _SAME_WORDS else "final"


def readable(late: Sequence[Depth], norm: Norm) -> list[Depth]:
    """From the top down, the depths that speak the final layer's language, up to the first that doesn't."""
    return list(takewhile(lambda depth: depth.reading(norm).agreement.mean >= _SAME_LANGUAGE, late))


def collapse(final: Estimate, usable: Sequence[Depth], norm: Norm) -> Depth | None:
    """The depth with the most entropy above the final layer's, where that is clearly above it."""
    risen = [depth for depth in usable if _is_clear(depth.reading(norm).rise, final)]
    return max(risen, key=lambda depth: depth.reading(norm).rise.mean, default=None)


def _is_clear(rise: Estimate, final: Estimate) -> bool:
    return rise.mean >= _RISE * final.mean and rise.low > 0


def best_temperature(rates: Sequence[AtTemperature], slope: Estimate | None, *, explores: bool) -> tuple[float, str]:
    """What accuracy is known to want, the lowest or the highest temperature measured; where it wants neither for sure,
    the one whose exploration rate is nearest the middle of the range that LED was reported in, or without LED the
    lowest. And which of the rules it was."""
    measured = [rate.temperature for rate in rates]
    if slope is not None and (slope.high < 0 or slope.low > 0):
        t, does = (min(measured), "falls") if slope.high < 0 else (max(measured), "rises")
        return t, f"T={t:g} as accuracy {does} with temperature (slope {_interval(slope)} per unit)"
    if not explores:
        return min(measured), f"T={min(measured):g} as accuracy isn't known to rise with temperature"
    chosen = min(rates, key=lambda rate: abs(rate.share.mean - _BEST_RATE))
    return chosen.temperature, (
        f"T={chosen.temperature:g} as its exploration rate of {chosen.share.mean:.2f} is the nearest to {_BEST_RATE:g} "
        "(the method was reported at 0.1 to 0.2)"
    )


def _expectation(
    final: Depth, late: Sequence[Depth], usable: Sequence[Depth], norm: Norm, problems: int
) -> tuple[bool, str]:
    """Whether LED is expected to help, and why."""
    if not late:
        return False, "the model has a single block, so there is no shallower posterior to explore"
    last = final.normed.entropy
    if not usable:
        nearest, least = late[0].reading(norm).agreement.mean, min(d.reading(norm).agreement.mean for d in late)
        return False, (
            "the layers before the last don't read as its language (the nearest one's most probable token is the final "
            f"one in {nearest:.0%} of positions, in the last third of the depths it is so in {least:.0%} at least): "
            "LED is expected not to help"
        )
    found = collapse(last, usable, norm)
    if found is None:
        before = [depth.reading(norm).entropy.mean for depth in usable]
        return False, (
            f"entropy does not collapse at the last layer ({last.mean:.2f} nat, the ones before it {min(before):.2f} "
            f"to {max(before):.2f}): LED is expected not to help"
        )
    reading = found.reading(norm)
    told = (
        f"entropy collapses at the last layer: {last.mean:.2f} nat, against {reading.entropy.mean:.2f} after block "
        f"{found.depth} of {final.depth} (rise {_interval(reading.rise)})"
    )
    if problems < _FEWEST:
        return False, f"{told}, but {problems} problems are too few to rely on it: give at least {_FEWEST}"
    return True, f"{told}; {len(usable)} of the layers before it read as its language"


def _interval(estimate: Estimate) -> str:
    return f"{estimate.mean:+.2f}, 95 % {estimate.low:+.2f} to {estimate.high:+.2f}"
