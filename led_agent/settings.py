"""How tokens are chosen, as records: ``Decoding`` and the methods that it is put together from.

This file knows names, limits and defaults. What each method computes is in ``led_agent.decoding``, in torch.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from inspect import signature
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from led_agent.errors import UsageError, explain
from led_agent.record import Record

__all__ = [
    "Decoding",
    "DepthExploration",
    "LatentDistiller",
    "LatentNoise",
    "LayerContrast",
    "QualityGuard",
    "Span",
]

Span = Literal["auto", "think", "all", "none"]


class DepthExploration(Record):
    """Depth-conditioned exploration: sample from posteriors read off the last layers.

    Tan et al., "Restoring Exploration after Post-Training: Latent Exploration Decoding for Large Reasoning
    Models", ICML 2026, arXiv 2602.01698.

    Attributes:
        depths: How many posteriors, the final layer's included (the paper's d); at most the model's blocks.
            1 is plain top-k sampling.
        top_k: How many of the final layer's most probable tokens are candidates; at most the vocabulary.
        norm: Whether the model's final norm is applied to the shallower states ("final", the paper's figure) or
            they go into the head as they are ("none", the authors' released code); "tuned" translates each state by
            the model's tuned lens first (Belrose et al., 2023, arXiv 2303.08112; made by `led-agent tune-lens`), and
            then applies the norm.
        layers: Which states: "paper" takes h(n-1) … h(n-d+1), "official" skips one: h(n-2) … h(n-d).
        exploit: Whether a row explores only with probability 1 - p(most probable token). Off, every row always
            explores; the paper loses 14.7 points of pass@1 that way.
        gate_first: Decide first whether a row explores, so that only rows that do pay for the shallower posteriors.
            The law of the tokens is the same; ``Branch.logprobs`` are then those given the gate's outcome, and not
            the law's own.
    """

    depths: int = Field(default=8, ge=1)
    top_k: int = Field(default=20, ge=1)
    norm: Literal["final", "none", "tuned"] = "final"
    layers: Literal["paper", "official"] = "paper"
    exploit: bool = True
    gate_first: bool = False

    def blocks(self, n_blocks: int) -> tuple[int, ...]:
        """After how many blocks each shallower slot's state is read, nearest the top first; length depths - 1."""
        first = n_blocks - (1 if self.layers == "paper" else 2)
        return tuple(range(first, first - (self.depths - 1), -1))

    def check_lens(self, n_blocks: int) -> None:
        """Refuse to read the embeddings by a tuned lens, which begins behind the first block.

        Raises:
            UsageError: naming the field, the limit and the remedy.
        """
        if min(self.blocks(n_blocks), default=1) < 1:
            raise UsageError(
                f"decoding.exploration.depths is {self.depths} with layers='official', which reads the embeddings of "
                f"this model of {n_blocks} blocks, and a tuned lens begins behind the first block; use at most "
                f"{n_blocks - 1}"
            )


class LatentNoise(Record):
    """Gaussian noise on the residual stream behind middle blocks: h ← h + σ · rms(h) · ε.

    It is added at positions that are being decoded, inside the span; the prompt's shared keys and values never carry
    it. Keys and values of generated positions behind the first noisy block do: a branch goes on from the state that
    it was moved to. What continues a branch starts from clean ones, since its prefix is computed anew.

    Attributes:
        sigma: Noise per root mean square of the state; with an adaptive ``scale`` the most that is added. 0 is the
            plain decoder, to the bit.
        blocks: The first and the last block behind which noise is added, counted from 1; None is the middle third.
        tangent: Take the noise's component along h out, and keep h's length: the state turns and does not grow.
        orthogonal: Make the directions of siblings mutually orthogonal, up to as many at a time as the state has
            dimensions. Each sibling alone still has Gaussian noise. In the spirit of STARS, arXiv 2601.22010.
        hold: For how many tokens a direction is held: 1 is a new one for each token, "step" one until the step ends
            (see ``Decoding.boundaries``).
        scale: "constant"; "confidence", σ times the previous step's doubt (1 - its most probable token's
            probability); "entropy", a controller that raises the noise while the posterior's entropy lies below
            ``target`` and lowers it while it lies above.
        target: The controller's aim, nat.
        prompt_end: Whether the prompt's last position carries noise too, in the branch's own copy, so that the very
            first token is moved as well.
    """

    sigma: float = Field(default=0.1, ge=0.0, le=10.0)
    blocks: tuple[int, int] | None = None
    tangent: bool = False
    orthogonal: bool = False
    hold: int | Literal["step"] = 1
    scale: Literal["constant", "confidence", "entropy"] = "constant"
    target: float = Field(default=1.0, gt=0.0)
    prompt_end: bool = False

    @field_validator("hold")
    @classmethod
    def _held_long_enough(cls, value: int | str) -> int | str:
        if isinstance(value, int) and value < 1:
            raise ValueError(f"hold is a number of tokens, at least 1, or 'step'; found {value}")
        return value

    @model_validator(mode="after")
    def _blocks_in_order(self) -> Self:
        if self.blocks is not None and not 1 <= self.blocks[0] <= self.blocks[1]:
            raise ValueError(f"blocks are a first and a last one, counted from 1; found {self.blocks}")
        return self

    def after(self, n_blocks: int) -> tuple[int, ...]:
        """Behind which blocks noise is added, counted from 1, in a model of that many."""
        first, last = self.blocks or (n_blocks // 3 + 1, max(n_blocks // 3 + 1, 2 * n_blocks // 3))
        return tuple(range(first, last + 1))


class LayerContrast(Record):
    """DoLa: contrast the final layer with the earlier one that differs from it most.

    Chuang et al., "DoLa: Decoding by Contrasting Layers Improves Factuality in Large Language Models", ICLR 2024,
    arXiv 2309.03883. The layer is chosen for each row, by the true Jensen-Shannon divergence, with the final norm.

    Attributes:
        layers: "low" or "high", the published buckets (every other layer of the lower or upper half, of the first or
            last 20 in models of more than 40); or the layers themselves, 0 the embeddings.
        plausibility: Tokens less probable than this times the most probable one are left out.
    """

    layers: Literal["low", "high"] | tuple[int, ...] = "low"
    plausibility: float = Field(default=0.1, gt=0.0, le=1.0)

    @field_validator("layers", mode="before")
    @classmethod
    def _one_layer(cls, value: object) -> object:
        return (value,) if isinstance(value, int) and not isinstance(value, bool) else value

    @field_validator("layers")
    @classmethod
    def _some_layer(cls, value: str | tuple[int, ...]) -> str | tuple[int, ...]:
        if isinstance(value, tuple) and (not value or min(value) < 0):
            raise ValueError(f"layers are 'low', 'high' or layers from 0 on; found {value}")
        return value

    def blocks(self, n_blocks: int, *, tied: bool) -> tuple[int, ...]:
        """After how many blocks the candidate states are read. Where input and output embeddings are the same, the
        embeddings themselves would only say the last token again, and the low bucket begins at 2."""
        if isinstance(self.layers, tuple):
            return self.layers
        first = 2 if tied else 0
        if n_blocks <= 40:
            middle = n_blocks // 2
            chosen = range(first, middle, 2) if self.layers == "low" else range(middle, n_blocks, 2)
        else:
            chosen = range(first, 20, 2) if self.layers == "low" else range(n_blocks - 20, n_blocks, 2)
        return tuple(chosen) or (n_blocks // 2,)


class LatentDistiller(Record):
    """ESamp: move away from what a small network, trained on the branch itself, foresees.

    Zeng et al., "Large Language Models Explore by Latent Distilling" (Exploratory Sampling), ICML 2026, arXiv
    2604.24927: a distiller f predicts the last hidden state from the first block's, and the filtered candidates'
    logits z become (1 + β) z - β W f(h).

    Here each branch has its own distiller: tanh features of a fixed random projection, and a last layer that starts
    at 0 and is trained token by token by normalised least mean squares. A branch stays a function of its own prefix
    and seed; siblings do not push each other apart, as in the authors' shared one.

    Attributes:
        beta: How far to move.
        rank: Features.
        rate: Of the last layer's training, the share of the error that one step takes away.
    """

    beta: float = Field(default=0.1, gt=0.0, le=10.0)
    rank: int = Field(default=64, ge=1, le=4096)
    rate: float = Field(default=0.5, gt=0.0, le=1.0)


class QualityGuard(Record):
    """Watch a branch while it grows, and turn it back when it degrades.

    A branch that degrades is rolled back to its last sound boundary and goes on conservatively, with exploration and
    noise off, to the end of that step; the second time for good. Each event is kept on the branch with what was
    measured. None switches a watch off.

    Attributes:
        window: Tokens over which running means are taken; before that many none is.
        min_logprob: Mean log-probability (nat) of the tokens under the unperturbed final posterior, at least.
        max_entropy: Mean entropy (nat) of that posterior, at most.
        ngram, repeats: A branch loops when ``ngram`` tokens in a row have come ``repeats`` times.
        max_tokens: Tokens that a branch may explore for, at most.
        temperature: Of the conservative continuation; 0 is greedy.
        longest_step: Where no boundary has come for so many tokens, one is set.
        every: How often the unperturbed posterior is computed for branches with noise, tokens.
    """

    window: int = Field(default=32, ge=1)
    min_logprob: float | None = Field(default=-3.0, lt=0.0)
    max_entropy: float | None = Field(default=4.0, gt=0.0)
    ngram: int = Field(default=8, ge=1)
    repeats: int | None = Field(default=4, ge=2)
    max_tokens: int | None = Field(default=None, ge=1)
    temperature: float = Field(default=0.3, ge=0.0)
    longest_step: int = Field(default=64, ge=1)
    every: int = Field(default=16, ge=1)


_PRESETS: dict[str, dict[str, Any]] = {
    "paper": {"depths": 8, "top_k": 20, "norm": "final", "layers": "paper"},
    "official": {"depths": 8, "top_k": 8, "norm": "none", "layers": "official"},
}


class Decoding(Record):
    """How the next token is chosen.

    Methods that change the law (``exploration``, ``contrast``, ``distiller``) exclude each other; noise and guard go
    with any. Outside ``span`` the plain sampler is used.

    Attributes:
        temperature: Divides the logits; 0 is greedy: deterministic, and of what follows only ``repetition_penalty``
            and ``contrast`` apply.
        top_k, top_p, min_p, typical_p: Filters of the plain sampler, in transformers' order; None, 1.0, 0.0 and 1.0
            leave everything in.
        repetition_penalty: Divides positive logits of tokens that the prompt or the branch already has, and multiplies
            negative ones, before anything else; in every span.
        exploration: Depth-conditioned exploration (LED).
        latent_noise: Noise in the middle blocks.
        contrast: Contrasting layers (DoLa).
        distiller: Exploratory sampling (ESamp).
        guard: What turns a degrading branch back.
        span: Where the methods are on: "think" between the model's thinking tags only, "all", "none"; "auto" is
            "think" for a model that has thinking tags and "all" for one that has none. What "auto" came to stands on
            every branch.
        siblings: How branches that are asked for together share their random numbers: "stratified" spreads them
            evenly (Vilnis et al., "Arithmetic Sampling", ICML 2023), each alone still following the law exactly;
            "independent" does not.
        boundaries: Strings that end a step of thought, for the guard and for noise that is held for a step.
    """

    temperature: float = Field(default=0.6, ge=0.0)
    top_k: int | None = Field(default=None, ge=1)
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    min_p: float = Field(default=0.0, ge=0.0, lt=1.0)
    typical_p: float = Field(default=1.0, gt=0.0, le=1.0)
    repetition_penalty: float = Field(default=1.0, gt=0.0)
    exploration: DepthExploration | None = None
    latent_noise: LatentNoise | None = None
    contrast: LayerContrast | None = None
    distiller: LatentDistiller | None = None
    guard: QualityGuard | None = None
    span: Span = "auto"
    siblings: Literal["stratified", "independent"] = "stratified"
    boundaries: tuple[str, ...] = ("\n",)

    @model_validator(mode="after")
    def _one_law(self) -> Self:
        given = [name for name in ("exploration", "contrast", "distiller") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} each change the law of the next token; choose one of them")
        if not all(self.boundaries):
            raise ValueError("boundaries has an empty string; give strings that end a step of thought")
        return self

    # --- ready-made --------------------------------------------------------------------------------------------

    @classmethod
    def plain(
        cls,
        temperature: float = 1.0,
        *,
        top_k: int | None = None,
        top_p: float = 1.0,
        min_p: float = 0.0,
        typical_p: float = 1.0,
        repetition_penalty: float = 1.0,
    ) -> Decoding:
        """Ordinary sampling."""
        return cls(
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            typical_p=typical_p,
            repetition_penalty=repetition_penalty,
        )

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
        norm: Literal["final", "none", "tuned"] | None = None,
        layers: Literal["paper", "official"] | None = None,
        exploit: bool = True,
        gate_first: bool = False,
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
        exploration = DepthExploration(exploit=exploit, gate_first=gate_first, **settings)
        return cls(temperature=temperature, exploration=exploration, span=span)

    @classmethod
    def noise(
        cls,
        sigma: float = 0.1,
        *,
        temperature: float = 0.6,
        blocks: tuple[int, int] | None = None,
        tangent: bool = False,
        orthogonal: bool = False,
        hold: int | Literal["step"] = 1,
        scale: Literal["constant", "confidence", "entropy"] = "constant",
        target: float = 1.0,
        prompt_end: bool = False,
        span: Span = "auto",
    ) -> Decoding:
        """Latent noise and ordinary sampling."""
        noise = LatentNoise(
            sigma=sigma,
            blocks=blocks,
            tangent=tangent,
            orthogonal=orthogonal,
            hold=hold,
            scale=scale,
            target=target,
            prompt_end=prompt_end,
        )
        return cls(temperature=temperature, latent_noise=noise, span=span)

    @classmethod
    def dola(
        cls,
        layers: Literal["low", "high"] | tuple[int, ...] = "low",
        *,
        temperature: float = 0.6,
        plausibility: float = 0.1,
        span: Span = "all",
    ) -> Decoding:
        """DoLa, everywhere as published. With ``temperature=0`` it is deterministic."""
        return cls(temperature=temperature, contrast=LayerContrast(layers=layers, plausibility=plausibility), span=span)

    @classmethod
    def esamp(
        cls,
        beta: float = 0.1,
        *,
        temperature: float = 0.6,
        rank: int = 64,
        rate: float = 0.5,
        top_k: int | None = None,
        top_p: float = 1.0,
        min_p: float = 0.0,
        span: Span = "auto",
    ) -> Decoding:
        """Exploratory sampling on the candidates that the filters leave."""
        distiller = LatentDistiller(beta=beta, rank=rank, rate=rate)
        return cls(temperature=temperature, distiller=distiller, top_k=top_k, top_p=top_p, min_p=min_p, span=span)

    def replace(self, **changes: Any) -> Decoding:
        """This decoding with other values, checked: ``Decoding.led().replace(latent_noise=LatentNoise(sigma=0.05))``.

        Raises:
            UsageError: a field that there isn't, or a value out of its limits.
        """
        try:
            return type(self).model_validate({name: getattr(self, name) for name in type(self).model_fields} | changes)
        except ValidationError as error:
            raise UsageError(f"decoding: {explain(error)}") from error

    @classmethod
    def parse(cls, text: str) -> Decoding:
        """A decoding from its name on a command line: ``NAME`` or ``NAME:key=value,key=value``.

        Names are ``led.paper``, ``led.official``, ``plain``, ``greedy``, ``noise``, ``dola`` and ``esamp``; keys are
        the keyword arguments of the constructor of that name, and with each: ``noise=0.1`` and ``noise.KEY`` for a
        key of ``LatentNoise``, ``guard=true`` and ``guard.KEY`` for one of ``QualityGuard``, ``siblings``, and
        ``top_p``, ``min_p``, ``typical_p``, ``repetition_penalty``. E.g. ``led.paper:depths=4,noise=0.05,guard=true``.

        Raises:
            UsageError: an unknown name or key, or a value out of its limits.
        """
        name, _, given = text.partition(":")
        makers = cls._makers()
        if name not in makers:
            raise UsageError(f"no decoding is called {name!r}; there are {', '.join(makers)}")
        options = dict(_option(item, name) for item in given.split(",") if item.strip())
        with_each = {key: options.pop(key) for key in list(options) if _goes_with_each(key, name)}
        unknown = [key for key in options if key not in signature(makers[name]).parameters]
        if unknown:
            raise UsageError(f"decoding {name} does not take {', '.join(unknown)}; see `led-agent solve --help`")
        try:
            return makers[name](**options).replace(**_nested(with_each))
        except ValidationError as error:
            raise UsageError(f"decoding {text}: {explain(error)}") from error

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """What ``parse`` knows by name."""
        return tuple(cls._makers())

    @classmethod
    def _makers(cls) -> dict[str, Callable[..., Decoding]]:
        return {
            "led.paper": partial(cls.led, "paper"),
            "led.official": partial(cls.led, "official"),
            "plain": cls.plain,
            "greedy": cls.greedy,
            "noise": cls.noise,
            "dola": cls.dola,
            "esamp": cls.esamp,
        }

    # --- what it comes to --------------------------------------------------------------------------------------

    @property
    def is_greedy(self) -> bool:
        return self.temperature == 0.0

    @property
    def noisy(self) -> bool:
        """Whether it adds noise anywhere."""
        return self.latent_noise is not None and self.latent_noise.sigma > 0 and not self.is_greedy

    @property
    def has_methods(self) -> bool:
        """Whether there is anything that depends on the span."""
        sampled = self.exploration is not None or self.distiller is not None or self.noisy
        return self.contrast is not None or (sampled and not self.is_greedy)

    @property
    def conservative(self) -> Decoding:
        """What a branch that the guard turned back goes on with: the plain sampler and its filters, colder."""
        calm = self.guard.temperature if self.guard is not None else 0.0
        off = dict.fromkeys(("exploration", "latent_noise", "contrast", "distiller", "guard"))
        return self.replace(temperature=calm, **off)

    @property
    def label(self) -> str:
        """A short name for tables: ``greedy``, ``plain T=0.8``, ``led d=8 k=20 T=0.6``, ``plain T=0.6 noise σ=0.1``."""
        on = self.span != "none"
        told = ["greedy"] if self.is_greedy else ["plain", f"T={self.temperature:g}"]
        if self.contrast is not None and on:
            chosen = self.contrast.layers if isinstance(self.contrast.layers, str) else "layers"
            told = ["dola", chosen, f"T={self.temperature:g}"]
        elif self.exploration is not None and on and not self.is_greedy:
            told = ["led", f"d={self.exploration.depths}", f"k={self.exploration.top_k}", f"T={self.temperature:g}"]
        elif self.distiller is not None and on and not self.is_greedy:
            told = ["esamp", f"β={self.distiller.beta:g}", f"T={self.temperature:g}"]
        if not (self.exploration is not None and on) and not self.is_greedy:
            told += [f"top_k={self.top_k}"] if self.top_k is not None else []
            told += [f"top_p={self.top_p:g}"] if self.top_p < 1.0 else []
            told += [f"min_p={self.min_p:g}"] if self.min_p > 0.0 else []
            told += [f"typical_p={self.typical_p:g}"] if self.typical_p < 1.0 else []
        told += [f"penalty={self.repetition_penalty:g}"] if self.repetition_penalty != 1.0 else []
        if self.noisy and on and self.latent_noise is not None:
            told += ["noise", f"σ={self.latent_noise.sigma:g}"]
        return " ".join([*told, *(["guarded"] if self.guard is not None else [])])

    def check_model(self, n_blocks: int, vocab: int) -> None:
        """Refuse settings that this model can't carry out.

        Raises:
            UsageError: naming the field, the limit and the remedy.
        """
        for name, value in (("top_k", self.top_k), ("exploration.top_k", getattr(self.exploration, "top_k", None))):
            if value is not None and value > vocab:
                raise UsageError(f"decoding.{name} is {value}, but the vocabulary has {vocab} tokens; use at most that")
        if self.exploration is not None and self.exploration.depths > n_blocks:
            raise UsageError(
                f"decoding.exploration.depths is {self.exploration.depths}, but the model has {n_blocks} blocks; "
                f"use at most that, e.g. Decoding.led(depths={n_blocks})"
            )
        if self.exploration is not None and self.exploration.norm == "tuned":
            self.exploration.check_lens(n_blocks)
        noise = self.latent_noise.blocks if self.latent_noise is not None else None
        if noise is not None and noise[1] > n_blocks:
            raise UsageError(f"decoding.latent_noise.blocks is {noise}, but the model has {n_blocks} blocks")
        layers = self.contrast.layers if self.contrast is not None else ()
        if isinstance(layers, tuple) and layers and max(layers) >= n_blocks:
            raise UsageError(
                f"decoding.contrast.layers has {max(layers)}, but the last layer to contrast with is {n_blocks - 1}"
            )


_FILTERS = ("top_p", "min_p", "typical_p", "repetition_penalty")


def _goes_with_each(key: str, name: str) -> bool:
    head = key.partition(".")[0]
    return (
        head in ("guard", "siblings") or (head == "noise" and name != "noise") or (key in _FILTERS and name != "greedy")
    )


def _nested(options: dict[str, Any]) -> dict[str, Any]:
    """``noise=0.1, noise.hold=4`` as the field's own record."""
    fields: dict[str, Any] = {}
    for key, value in options.items():
        head, dot, inner = key.partition(".")
        field = {"noise": "latent_noise"}.get(head, head)
        if head not in ("noise", "guard"):
            fields[key] = value
        elif value is False and not dot:
            fields[field] = None
        elif head == "guard" and not dot and value is not True:
            raise UsageError(f"guard is true or false, found {value!r}; its settings are guard.KEY=VALUE")
        elif fields.get(field, {}) is not None:
            given = {} if value is True and not dot else {inner or "sigma": value}
            fields[field] = fields.get(field, {}) | given
    return fields


_SWITCHES = ("exploit", "gate_first", "tangent", "orthogonal", "prompt_end", "noise", "guard")


def _option(item: str, name: str) -> tuple[str, Any]:
    key, equals, value = (part.strip() for part in item.partition("="))
    if not equals or not key or not value:
        raise UsageError(f"decoding {name}: expected key=value, found {item!r}")
    if value.lower() in ("true", "false"):
        if key.rpartition(".")[2] not in _SWITCHES:
            raise UsageError(f"decoding {name}: {key} is no switch, found {value}")
        return key, value.lower() == "true"
    for read in (int, float, _integers):
        try:
            return key, read(value)
        except ValueError:
            continue
    return key, value


def _integers(value: str) -> tuple[int, ...]:
    """``4-8`` as (4, 8), and ``2+4+6`` as (2, 4, 6)."""
    return tuple(int(part) for part in value.replace("-", "+").split("+"))
