"""A transformers model with a classification head, as a scorer of token sequences.

This file knows heads, labels, padding and memory. It does not know problems, branches or verdicts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    PreTrainedModel,
)

from led_agent.engine.cpu import limit_threads
from led_agent.engine.model import DTYPES, device_of, without_bars
from led_agent.errors import ModelError, UsageError

__all__ = ["Classifier", "Row"]

_HEADS = {
    "ForSequenceClassification": AutoModelForSequenceClassification,
    "ForTokenClassification": AutoModelForTokenClassification,
}
_FORWARD_TOKENS = 16_384  # of one forward, padding included: what bounds its activations
_PROBES = ((3, 5), (4, 6, 3, 7, 5))  # positions in the vocabulary, of two lengths
_TOLERANCES = {torch.float32: 1e-4, torch.bfloat16: 0.1, torch.float16: 0.02}  # of a logit
_UNBOUNDED = 10**9  # what tokenizers say where no limit is known is far above


@dataclass(frozen=True)
class Row:
    """A sequence to score: its token ids, and for a token classifier the positions that are scored."""

    ids: Sequence[int]
    marks: Sequence[int] = ()


class Classifier:
    """Scores in [0, 1] of token sequences.

    One output is taken through the logistic function; of two or more, the probability of the wanted label is the score
    (each label's own where the model says that it is trained for several labels at once).

    Args:
        model: A sequence or token classifier.
        tokenizer: Its own.
        label: Name or number of the wanted label; None is the second of two.

    Raises:
        ModelError: no label is named and there are more than two, or it isn't one of them.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: Any, label: str | None = None) -> None:
        self.model, self.tokenizer = model.train(False), tokenizer
        self.by_token = type(model).__name__.endswith("ForTokenClassification")
        self._label = _label_index(model.config, label)
        self._pads = self._padding_is_harmless()

    @classmethod
    def load(cls, path: str | Path, *, device: str = "auto", dtype: str = "auto", label: str | None = None) -> Self:
        """Load a classifier and its tokenizer from a folder or a hub id.

        Args:
            device: "auto" (CUDA where there is one), or a torch device.
            dtype: "auto" (bfloat16 on CUDA, else float32), "float32", "bfloat16" or "float16".

        Raises:
            ModelError: it isn't there, has no classification head, lacks weights for it, or has no such label.
            UsageError: no such device or dtype.
        """
        place = device_of(device)
        if dtype not in ("auto", *DTYPES):
            raise UsageError(f"no dtype is called {dtype!r}; use auto, {', '.join(DTYPES)}")
        kind = DTYPES["bfloat16" if place.type == "cuda" else "float32"] if dtype == "auto" else DTYPES[dtype]
        if place.type == "cpu":
            limit_threads()
        try:
            with without_bars():
                family = _head(AutoConfig.from_pretrained(path), path)
                model, told = family.from_pretrained(path, dtype=kind, output_loading_info=True)
                tokenizer = AutoTokenizer.from_pretrained(path)
        except (OSError, ValueError, KeyError) as error:
            told_first = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise ModelError(f"can't load the classifier {str(path)!r}: {told_first}") from error
        if told["missing_keys"]:  # transformers would go on with random numbers in their place
            missing = ", ".join(sorted(told["missing_keys"])[:4])
            raise ModelError(
                f"{path} lacks weights of {type(model).__name__}: {missing}; choose one that was trained as it"
            )
        moved: PreTrainedModel = torch.nn.Module.to(model, place)  # its own `to` is untyped
        return cls(moved, tokenizer, label)

    @property
    def context(self) -> int | None:
        """Tokens that a sequence may have; None where no limit is known."""
        limits = (
            getattr(self.model.config, "max_position_embeddings", None),
            getattr(self.tokenizer, "model_max_length", None),
        )
        known = [int(limit) for limit in limits if limit is not None and 0 < limit < _UNBOUNDED]
        return min(known) if known else None

    @torch.inference_mode()
    def scores(self, rows: Sequence[Row]) -> list[list[float]]:
        """Each row's scores in [0, 1]: one of a sequence classifier, one for each mark of a token classifier.

        Rows of like lengths are computed together, as many as fit into the memory of one forward. NaN where the model
        computed no finite number.
        """
        found: list[list[float]] = [[] for _ in rows]
        for batch in self._batches(rows):
            logits = self._logits([rows[i].ids for i in batch])
            for place, i in enumerate(batch):
                wanted = logits[place, list(rows[i].marks)] if self.by_token else logits[place : place + 1]
                found[i] = self._probability(wanted.float()).tolist()
        return found

    def _batches(self, rows: Sequence[Row]) -> Iterator[list[int]]:
        """Which rows to compute together: sorted by length, padding within the bound; of one length only, where padding
        would change what this model says."""
        batch: list[int] = []
        for i in sorted(range(len(rows)), key=lambda i: len(rows[i].ids)):
            longest = len(rows[i].ids)
            full = (len(batch) + 1) * longest > _FORWARD_TOKENS
            if batch and (full or (not self._pads and len(rows[batch[0]].ids) != longest)):
                yield batch
                batch = []
            batch.append(i)
        if batch:
            yield batch

    def _logits(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """[rows, labels] of a sequence classifier, [rows, positions, labels] of a token classifier; padded on the
        right, where absolute positions stay what they are and causal models never look."""
        length = max(map(len, rows))
        known = self.model.config.get_text_config().pad_token_id
        pad = known if known is not None else _unused(rows, self.model.config)
        ids = torch.full((len(rows), length), pad)
        mask = torch.zeros_like(ids)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row)
            mask[i, : len(row)] = 1
        place = self.model.device
        config = self.model.config.get_text_config()
        try:
            # A classifier without a padding token refuses more than one row; with one that stands in none of them, it
            # reads each row at its last token, as it does alone.
            config.pad_token_id = pad
            logits: Tensor = self.model(input_ids=ids.to(place), attention_mask=mask.to(place)).logits
        finally:
            config.pad_token_id = known
        return logits

    def _probability(self, logits: Tensor) -> Tensor:
        """[n] of logits [n, labels]."""
        if logits.shape[-1] == 1 or self.model.config.problem_type == "multi_label_classification":
            return logits[:, self._label].sigmoid()
        return logits.softmax(-1)[:, self._label]

    @torch.inference_mode()
    def _padding_is_harmless(self) -> bool:
        """Whether a short row says the same beside a long one as alone, tried: not every family reads its answer where
        padding doesn't matter."""
        rows = [[at % self.model.config.get_text_config().vocab_size for at in probe] for probe in _PROBES]
        try:
            together = self._logits(rows)
        except (ValueError, RuntimeError, IndexError):  # a family with demands on its rows
            return False
        tolerance = _TOLERANCES[self.model.dtype]
        for i, row in enumerate(rows):
            alone = self._logits([row])[0]
            beside = together[i, : len(row)] if self.by_token else together[i]
            if not torch.allclose(alone, beside, rtol=tolerance, atol=tolerance):
                return False
        return True


def _head(config: Any, path: str | Path) -> Any:
    """The family to load a model by, from the head that it was saved with."""
    named = getattr(config, "architectures", None) or []
    for ending, family in _HEADS.items():
        if any(name.endswith(ending) for name in named):
            return family
    raise ModelError(
        f"{path} holds {', '.join(named) or 'a model of no named kind'}, which has no classification head; a reward "
        f"model's name ends in {' or '.join(_HEADS)}"
    )


def _label_index(config: Any, label: str | None) -> int:
    names = {int(i): str(name) for i, name in config.id2label.items()}
    listed = ", ".join(f"{name!r}" for name in names.values())
    if label is None:
        if len(names) > 2:
            raise ModelError(f"this model has {len(names)} labels ({listed}); name the wanted one: label=…")
        return len(names) - 1
    chosen = [i for i, name in names.items() if label in (name, str(i))]
    if not chosen:
        raise ModelError(f"this model has no label {label!r}; it has {listed}")
    return chosen[0]


def _unused(rows: Sequence[Sequence[int]], config: Any) -> int:
    """A token id that stands in none of the rows."""
    taken = {token for row in rows for token in row}
    return next((i for i in range(config.get_text_config().vocab_size) if i not in taken), 0)
