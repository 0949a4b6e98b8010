"""What each row of a batch carries from step to step. Tensors only; which branch a row belongs to is not known here."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from led_agent.decoding.sampling import DRAW_TOKEN, Drawn, uniform
from led_agent.decoding.siblings import ENOUGH
from led_agent.engine.model import Thinking

__all__ = ["RowState"]


class RowState:
    """What each row carries from step to step: tensors with one entry a slot.

    Attributes:
        token: int64, the token that goes into the next forward.
        position: int64, where it stands in the sequence.
        seed: int64.
        thinking: bool, whether the row is inside its thinking.
        recent: int64 [slots, w], the last tokens, -1 where there are none; w the longer thinking tag's length.
        code, room: float64, a stratified sibling's code, and how much is left of the interval that it lies in; a row
            whose room is used up, or that has none, draws its own numbers.
        begins: int64, the first position that may carry noise.
        doubt, gain: float32, 1 - the probability of the last step's most probable token, and the noise controller.
        steps: int64, steps of thought that were completed.
        seen: bool [slots, vocab], tokens that the row has; empty until a row with a repetition penalty comes.
        distillers: float32 [slots, hidden, rank] by rank; empty until a row that needs one comes.
    """

    def __init__(self, slots: int, thinking: Thinking, device: torch.device) -> None:
        zeros = torch.zeros(slots, dtype=torch.long, device=device)
        self.token, self.position, self.seed = zeros.clone(), zeros.clone(), zeros.clone()
        self.begins, self.steps = zeros.clone(), zeros.clone()
        self.code, self.room = zeros.double(), zeros.double()
        self.doubt, self.gain = torch.ones(slots, device=device), torch.ones(slots, device=device)
        self.thinking = zeros.bool()
        self.tags = thinking
        self._tags = {tag: torch.tensor(tag, device=device) for tag in (thinking.open, thinking.close)}
        width = max(len(thinking.open), len(thinking.close), 1)
        self.recent = torch.full((slots, width), -1, dtype=torch.long, device=device)
        self.seen = torch.empty(0, 0, dtype=torch.bool, device=device)
        self.distillers: dict[int, Tensor] = {}

    def place(
        self,
        row: int,
        token: int,
        position: int,
        seed: int,
        *,
        thinking: bool,
        recent: Sequence[int],
        begins: int = 0,
        steps: int = 0,
        code: float | None = None,
    ) -> None:
        """Begin a branch in a row, or begin it again further back."""
        self.token[row], self.position[row], self.seed[row], self.thinking[row] = token, position, seed, thinking
        self.begins[row], self.steps[row], self.doubt[row], self.gain[row] = begins, steps, 1.0, 1.0
        self.code[row], self.room[row] = (code, 1.0) if code is not None else (0.0, 0.0)
        width = self.recent.shape[1]
        tail = list(recent[-width:])
        self.recent[row] = torch.tensor([-1] * (width - len(tail)) + tail, device=self.recent.device)

    def remember(self, row: int, ids: Sequence[int], vocab: int) -> None:
        """Note the tokens that a row has, for its repetition penalty."""
        if not len(self.seen):
            self.seen = torch.zeros(len(self.token), vocab, dtype=torch.bool, device=self.token.device)
        self.seen[row] = False
        self.seen[row, torch.tensor(ids, device=self.token.device)] = True

    def clear_distiller(self, row: int, rank: int, width: int) -> None:
        """An untrained distiller for a row."""
        if rank not in self.distillers:
            self.distillers[rank] = torch.zeros(len(self.token), width, rank, device=self.token.device)
        self.distillers[rank][row] = 0.0

    def move(self, source: int, target: int) -> None:
        """Copy one row's state onto another."""
        for tensor in self.tensors():
            tensor[target] = tensor[source]

    def tensors(self) -> list[Tensor]:
        """All there are, a row's entries at its index."""
        kept = [self.token, self.position, self.seed, self.thinking, self.recent, self.begins, self.steps]
        kept += [self.code, self.room, self.doubt, self.gain, *self.distillers.values()]
        return [*kept, self.seen] if len(self.seen) else kept

    def numbers(self, rows: int) -> tuple[Tensor, Tensor]:
        """The number in [0, 1) that draws each row's next token, float64 [rows], and bool [rows]: whether it is a
        sibling's code."""
        coded = self.room[:rows] > ENOUGH
        own = uniform(self.seed[:rows], self.position[:rows] + 1, DRAW_TOKEN)
        return torch.where(coded, self.code[:rows], own), coded

    def follow(self, drawn: Drawn, coded: Tensor) -> None:
        """Let the codes, bool [rows] of those that drew, go on inside the intervals that were taken."""
        rows = len(coded)
        self.code[:rows] = torch.where(coded, drawn.code, self.code[:rows])
        self.room[:rows] *= torch.where(coded, drawn.width, 1.0)

    def advance(self, token: Tensor, taken: Tensor | None = None) -> None:
        """Take in the tokens just chosen, int64 [rows]; of the rows in ``taken``, bool [rows], where it is given."""
        rows = len(token)
        keeps = torch.ones_like(token, dtype=torch.bool) if taken is None else taken
        self.token[:rows] = torch.where(keeps, token, self.token[:rows])
        self.position[:rows] += keeps
        if len(self.seen):
            self.seen[torch.arange(rows, device=token.device), token] |= keeps
        if not self.tags:
            return
        recent = torch.cat([self.recent[:rows, 1:], token[:, None]], 1)
        self.recent[:rows] = torch.where(keeps[:, None], recent, self.recent[:rows])
        opened, closed = self._ends_with(self.tags.open, rows), self._ends_with(self.tags.close, rows)
        self.thinking[:rows] = (self.thinking[:rows] | opened) & ~closed

    def closing(self, rows: Tensor) -> Tensor:
        """int64 [rows]: the token that would come next in ``</think>``; its first token where none of it stands yet."""
        close = self.tags.close
        recent = self.recent[rows]
        found = torch.full((len(rows),), close[0], device=recent.device)
        for length in range(1, len(close)):
            begun = self._tags[close][:length]
            found = torch.where((recent[:, -length:] == begun).all(1), close[length], found)
        return found

    def _ends_with(self, tag: tuple[int, ...], rows: int) -> Tensor:
        return (self.recent[:rows, -len(tag) :] == self._tags[tag]).all(1)
