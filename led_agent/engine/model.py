"""A loaded model, seen as parts: blocks, final norm, head, tokenizer. What isn't covered is refused by name.

This file knows transformers' model classes. It does not know slots or sampling.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.utils import logging

from led_agent.engine.cpu import limit_threads, preferred_dtype
from led_agent.engine.lens import TunedLens, find_lens
from led_agent.engine.memory import free_bytes
from led_agent.engine.trunk import Memory, Perturbation, Trunk
from led_agent.errors import ModelError, UsageError

__all__ = ["DTYPES", "SUPPORTED", "ModelParts", "Thinking", "device_of", "load_parts", "without_bars"]

# Proven by parity tests on random models of each. All have model.layers, model.norm and lm_head, and apply nothing
# between the two that a shallower state would have to go through as well.
SUPPORTED = ("llama", "mistral", "qwen2", "qwen3", "smollm3")
_SAMPLES = 64  # of each weight's entries, for a fingerprint
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# Rotary tables that change with the longest row of a batch: a branch would then depend on its neighbours.
_UNSTEADY_ROPE = ("dynamic", "longrope")


@dataclass(frozen=True)
class Thinking:
    """The token sequences that open and close a model's thinking; empty where it has no such tags."""

    open: tuple[int, ...] = ()
    close: tuple[int, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.close)


@dataclass
class ModelParts:
    """A model's parts, as the engine needs them.

    Attributes:
        model: The transformers model whose weights are used, in evaluation mode.
        trunk: Its forward.
        tokenizer: None for a model used with token ids only.
        vocab: Tokens that can be sampled: the head's columns without its padding.
        context: Positions that a sequence may have.
        eos: Token ids that end an answer.
        thinking: Its thinking tags.
        path: The folder or hub id that it was loaded from; None for one that was handed over.
        lens: Its tuned lens, on its device, once ``tuned`` has been asked for it.
    """

    model: PreTrainedModel
    trunk: Trunk
    tokenizer: Any
    vocab: int
    context: int
    eos: frozenset[int]
    thinking: Thinking
    path: str | None = None
    lens: TunedLens | None = None

    @classmethod
    def of(cls, model: PreTrainedModel, tokenizer: Any = None, *, path: str | None = None) -> ModelParts:
        """Take a model apart. It stays usable as it was; its weights must not change any more.

        Raises:
            ModelError: its architecture isn't covered; the message says what stands against it.
        """
        _check_architecture(model)
        model.train(False)
        return cls(
            model=model,
            trunk=Trunk(model, spare_bytes=free_bytes(model.device) // 3 if model.device.type == "cpu" else 0),
            tokenizer=tokenizer,
            vocab=_vocab(model, tokenizer),
            context=_context(model.config),
            eos=_eos(model, tokenizer),
            thinking=_thinking(tokenizer),
            path=path,
        )

    @property
    def n_blocks(self) -> int:
        return len(self.model.model.layers)

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        return self.model.dtype

    @property
    def width(self) -> int:
        """Of the residual stream."""
        return int(self.model.config.hidden_size)

    @property
    def tied(self) -> bool:
        """Whether the head is the embeddings again."""
        return bool(self.model.config.tie_word_embeddings)

    @property
    def kv_shape(self) -> tuple[int, int, int]:
        """(layers, kv_heads, head_dim) of the keys and values."""
        return self.n_blocks, self.trunk.kv_heads, self.trunk.head_dim

    def fingerprint(self) -> str:
        """Hex digest of names, shapes, dtype and a few thousand of the weights, spread over all of them: enough to tell
        one checkpoint from another, at no cost."""
        digest = hashlib.blake2b(f"{self.dtype} {self.vocab} {self.context}".encode(), digest_size=16)
        for name, weight in self.model.named_parameters():
            flat = weight.detach().reshape(-1)
            some = flat[:: max(1, len(flat) // _SAMPLES)][:_SAMPLES].float().cpu()
            digest.update(f"{name} {tuple(weight.shape)}".encode() + some.numpy().tobytes())
        return digest.hexdigest()

    def forward(
        self,
        ids: Tensor,
        positions: Tensor,
        memory: Memory,
        taps: Collection[int] = (),
        changes: Sequence[Perturbation] = (),
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """``Trunk.forward``: the final states [n, hidden] of tokens [n], normed, and tapped residual streams."""
        return self.trunk.forward(ids, positions, memory, taps, changes)

    def head(self, states: Tensor) -> Tensor:
        """Logits [rows, vocab] of states [rows, hidden], in the model's dtype, padding columns left out."""
        return self.trunk.head(states)[..., : self.vocab]

    def norm(self, states: Tensor) -> Tensor:
        """The final norm."""
        return self.trunk.norm(states)

    def tuned(self) -> TunedLens:
        """The model's tuned lens, read at the first need and kept.

        Raises:
            UsageError: there is none, or what there is isn't this model's.
        """
        if self.lens is None:
            found = find_lens(self.path, self.fingerprint(), n_blocks=self.n_blocks, width=self.width)
            self.lens = found.to(self.device)
        return self.lens


def load_parts(path: str | Path, *, device: str = "auto", dtype: str = "auto") -> ModelParts:
    """Load a model and its tokenizer from a folder, or a hub id.

    Args:
        device: "auto" (CUDA where there is one), or a torch device.
        dtype: "auto" (bfloat16 on CUDA, and on a CPU where it is stored so and is faster there; else float32),
            "float32", "bfloat16" or "float16".

    Raises:
        ModelError: it isn't there, or its architecture isn't covered.
        UsageError: no such device or dtype.
    """
    place = device_of(device)
    if dtype not in ("auto", *DTYPES):
        raise UsageError(f"no dtype is called {dtype!r}; use auto, {', '.join(DTYPES)}")
    if place.type == "cpu":
        limit_threads()
    try:
        with without_bars():
            config = AutoConfig.from_pretrained(path)
            _refuse_early(config)
            kind = _dtype(dtype, place, config)
            model = AutoModelForCausalLM.from_pretrained(path, dtype=kind)
            tokenizer = AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"can't load the model {str(path)!r}: {_first_line(error)}") from error
    moved: PreTrainedModel = torch.nn.Module.to(model, place)  # its own `to` is untyped
    return ModelParts.of(moved, tokenizer, path=str(path))


@contextmanager
def without_bars() -> Iterator[None]:
    """Keep transformers from drawing progress bars: a program that has a display of its own would be torn by them."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def device_of(name: str) -> torch.device:
    """The device of a name: "auto" is CUDA where there is one.

    Raises:
        UsageError: torch has no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"no device is called {name!r}; use auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"device {name!r}: torch sees no CUDA device here; use auto or cpu")
    return device


def _dtype(name: str, device: torch.device, config: Any) -> torch.dtype:
    if name == "auto":
        return preferred_dtype(config) if device.type == "cpu" else torch.bfloat16
    return DTYPES[name]


def _refuse_early(config: Any) -> None:
    """What the configuration alone tells, before gigabytes are read."""
    kind = getattr(config, "model_type", "?")
    if kind not in SUPPORTED:
        raise ModelError(
            f"models of type {kind!r} aren't covered: the engine has been proven on {', '.join(SUPPORTED)} only, "
            "in which it looks for the blocks as model.layers, the final norm as model.norm and the head as lm_head; "
            "choose a model of one of these"
        )
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if not kinds <= {"full_attention", "sliding_attention"}:
        raise ModelError(f"this {kind} model has layers of type {', '.join(sorted(kinds))}; only attention is covered")
    rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    if rope in _UNSTEADY_ROPE:
        raise ModelError(
            f"this {kind} model has {rope!r} rotary positions, which change with the longest row of a batch; "
            "a model with fixed ones (default, linear, llama3, yarn) is needed"
        )


def _check_architecture(model: PreTrainedModel) -> None:
    _refuse_early(model.config)
    base = getattr(model, "model", None)
    found = [f"model.{name}" for name in ("layers", "norm") if hasattr(base, name)]
    found += ["lm_head"] if hasattr(model, "lm_head") else []
    if len(found) < 3:
        raise ModelError(
            f"{type(model).__name__} can't be taken apart: looked for model.layers, model.norm and lm_head, found "
            f"{' and '.join(found) or 'none of them'}; load it as a causal language model"
        )


def _vocab(model: PreTrainedModel, tokenizer: Any) -> int:
    columns = int(model.lm_head.weight.shape[0])
    if tokenizer is None:
        return columns
    return min(columns, 1 + int(max(tokenizer.get_vocab().values())))


def _context(config: Any) -> int:
    """Positions that a sequence may have. Where layers have a sliding window, no more than it: up to there it has no
    effect, and the engine is exact."""
    limits = [config.max_position_embeddings]
    slides = "sliding_attention" in (getattr(config, "layer_types", None) or [])
    if config.model_type == "mistral" or slides:
        limits.append(getattr(config, "sliding_window", None) or config.max_position_embeddings)
    return int(min(limits))


def _eos(model: PreTrainedModel, tokenizer: Any) -> frozenset[int]:
    found: set[int] = set()
    sources = (getattr(model, "generation_config", None), model.config, tokenizer)
    for source in sources:
        value = getattr(source, "eos_token_id", None)
        found.update([value] if isinstance(value, int) else value or [])
    return frozenset(found)


def _thinking(tokenizer: Any) -> Thinking:
    """A model thinks between tags where its chat template or its added tokens name them."""
    if tokenizer is None:
        return Thinking()
    named = str(getattr(tokenizer, "chat_template", None) or "") + " ".join(tokenizer.get_added_vocab())
    if "</think>" not in named:
        return Thinking()
    encode = [tuple(tokenizer.encode(tag, add_special_tokens=False)) for tag in ("<think>", "</think>")]
    return Thinking(*encode)
