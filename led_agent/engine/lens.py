"""A tuned lens: for each depth an affine map that brings the residual stream to where the last block would leave it.

Belrose et al., "Eliciting Latent Predictions from Transformers with the Tuned Lens", 2023, arXiv 2303.08112. A state h
after i blocks becomes h + A_i h + b_i, and then goes through the model's own final norm and head. All zeros are the
logit lens. This file knows the maps and their file; how they are trained is ``tuning``'s, and where a model's lens lies
``led_agent.models`` knows.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
import torch.nn.functional as F  # noqa: N812
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from led_agent.errors import MachineError, UsageError
from led_agent.models import lens_places, name_of

__all__ = ["FORMAT", "TunedLens", "find_lens"]

FORMAT = "led_agent tuned lens 1"  # the number goes up when a file of before can't be read any more


@dataclass(frozen=True)
class TunedLens:
    """Translators of the states after 1 … n-1 blocks, of a model of n.

    Attributes:
        weight: float32 [n-1, hidden, hidden], A; a column for each of the state's entries.
        bias: float32 [n-1, hidden], b.
    """

    weight: Tensor
    bias: Tensor

    @classmethod
    def zeros(cls, n_blocks: int, width: int) -> Self:
        """The logit lens."""
        return cls(torch.zeros(n_blocks - 1, width, width), torch.zeros(n_blocks - 1, width))

    def translate(self, states: Tensor, blocks: Sequence[int]) -> Tensor:
        """States [e, slots, hidden] after so many blocks each, translated: computed in float32, given back in their own
        dtype. What becomes of a row is the same to the bit whatever ``e`` is, where ``e`` is a multiple of what
        ``row_multiple`` says."""
        moved = [self._one(states[:, slot].float().contiguous(), block) for slot, block in enumerate(blocks)]
        return torch.stack(moved, 1).to(states.dtype)

    def _one(self, states: Tensor, block: int) -> Tensor:
        return states + F.linear(states, self.weight[block - 1], self.bias[block - 1])

    def to(self, device: torch.device) -> Self:
        return type(self)(self.weight.to(device), self.bias.to(device))

    # --- its file ----------------------------------------------------------------------------------------------

    def save(self, path: Path, made: Mapping[str, str]) -> None:
        """Write a safetensors file, which is there whole or not at all: it is made beside its place and renamed.

        Args:
            made: What the file says of itself: the weights' ``fingerprint``, and how the lens was made.

        Raises:
            MachineError: it can't be written.
        """
        content = save(self._tensors(), {"format": FORMAT, **made})
        try:
            handle, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
        except OSError as error:
            raise MachineError(f"can't write the lens {path}: {error.strerror}") from error
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            Path(name).chmod(0o644)
            Path(name).replace(path)
        except OSError as error:
            raise MachineError(f"can't write the lens {path}: {error.strerror}") from error
        finally:
            Path(name).unlink(missing_ok=True)

    def _tensors(self) -> dict[str, Tensor]:
        """By name, of each depth its own, so that a reader may take the depths that it needs."""
        parts = {"weight": self.weight, "bias": self.bias}
        return {f"{i + 1}.{name}": all_[i].cpu().contiguous() for name, all_ in parts.items() for i in range(len(all_))}

    @classmethod
    def load(cls, path: Path, *, n_blocks: int, width: int, fingerprint: str, remedy: str) -> Self:
        """Read and check a lens.

        Args:
            remedy: What to do where the file is at fault.

        Raises:
            UsageError: it is torn, no lens, or another model's.
        """
        try:
            with safe_open(path, "pt") as file:
                made = file.metadata() or {}
                _check_made(path, made, fingerprint, remedy)
                found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        except (OSError, SafetensorError) as error:
            raise UsageError(f"can't read the tuned lens {path}: {error}; {remedy}") from error
        shapes = {"weight": (width, width), "bias": (width,)}
        wanted = {f"{i}.{name}": shape for i in range(1, n_blocks) for name, shape in shapes.items()}
        wrong = [name for name, shape in wanted.items() if name not in found or tuple(found[name].shape) != shape]
        if wrong or len(found) != len(wanted):
            told = tuple(found[wrong[0]].shape) if wrong and wrong[0] in found else "nothing" if wrong else "more"
            name = wrong[0] if wrong else "besides"
            raise UsageError(
                f"the tuned lens {path} doesn't fit a model of {n_blocks} blocks and width {width}: {name} is {told}, "
                f"wanted is {wanted.get(name, 'nothing')}; {remedy}"
            )
        stacked = (torch.stack([found[f"{i}.{name}"].float() for i in range(1, n_blocks)]) for name in shapes)
        lens = cls(*stacked)
        if not bool(lens.weight.isfinite().all() and lens.bias.isfinite().all()):
            raise UsageError(f"the tuned lens {path} has entries that aren't finite; {remedy}")
        return lens


def find_lens(path: str | None, fingerprint: str, *, n_blocks: int, width: int) -> TunedLens:
    """The lens of a model that was loaded from a folder or a hub id.

    Raises:
        UsageError: there is none, or what there is isn't this model's.
    """
    if path is None:
        raise UsageError(
            "norm='tuned' needs a tuned lens, and this model was not loaded from a folder or a hub id, by which one "
            "could be found; set ModelParts.lens, or save the model and run `led-agent tune-lens FOLDER`"
        )
    places, remedy = lens_places(path, fingerprint), f"run `led-agent tune-lens {name_of(path)}`"
    there = next((place for place in places if place.is_file()), None)
    if there is None:
        looked = " or ".join(str(place) for place in places)
        raise UsageError(f"norm='tuned' needs a tuned lens of this model, and there is none at {looked}; {remedy}")
    return TunedLens.load(there, n_blocks=n_blocks, width=width, fingerprint=fingerprint, remedy=remedy)


def _check_made(path: Path, made: Mapping[str, str], fingerprint: str, remedy: str) -> None:
    if made.get("format") != FORMAT:
        raise UsageError(
            f"{path} is no tuned lens that can be read: its format is {made.get('format')!r}, wanted is {FORMAT!r}; "
            f"{remedy}"
        )
    if made.get("fingerprint") != fingerprint:
        raise UsageError(
            f"the tuned lens {path} was made for other weights or another dtype: its fingerprint is "
            f"{made.get('fingerprint')}, this model's is {fingerprint}; {remedy}"
        )
