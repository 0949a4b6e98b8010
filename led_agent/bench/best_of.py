"""Best of N by transformers' ``generate``: what a user has without this package, and the same model, N and verifier."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from led_agent.engine.model import without_bars
from led_agent.local import LocalDecoder
from led_agent.models import locate
from led_agent.types import Branch, Decoding, Problem, Verdict

__all__ = ["BestOfGenerate", "Generated"]

Judge = Callable[[Problem, Branch], Verdict | None]


@dataclass(frozen=True)
class Generated:
    """What one call came to: N branches, and the seconds of the call with its judging.

    Attributes:
        tokens: Up to each branch's end; what is computed behind it, until the last branch ends, costs time alone.
        errors: Branches on which a verifier failed.
    """

    verified: bool
    tokens: int
    seconds: float
    errors: int


class BestOfGenerate:
    """Samples N branches of a problem by one call of ``generate``, and judges them once it has returned, up to the
    first that is accepted.

    Args:
        model: Its name; loaded in the decoder's dtype, on its device.
        decoder: Renders prompts, so that both are asked the same, and knows the tokens that end a branch.
        judge: What a whole branch comes to.
        sampling: A plain decoding.
    """

    def __init__(
        self,
        model: str | None,
        decoder: LocalDecoder,
        judge: Judge,
        sampling: Decoding,
        *,
        n: int,
        max_tokens: int,
    ) -> None:
        self._decoder, self._judge = decoder, judge
        parts = decoder.engine.parts
        with without_bars():
            made: Any = AutoModelForCausalLM.from_pretrained(locate(model), dtype=parts.dtype)
        self._model = made.to(parts.device).eval()
        self._ends = sorted(parts.eos)
        padding = self._ends[0] if self._ends else 0
        self._model.generation_config = _config(pad_token_id=padding)  # the model's own may filter or penalise
        self._config = _config(
            do_sample=True,
            temperature=sampling.temperature,
            top_k=sampling.top_k or 0,
            top_p=sampling.top_p,
            min_p=sampling.min_p or None,
            typical_p=sampling.typical_p,
            repetition_penalty=sampling.repetition_penalty,
            num_return_sequences=n,
            max_new_tokens=max_tokens,
            eos_token_id=self._ends or None,
            pad_token_id=padding,
        )

    @property
    def threads(self) -> int:
        """With which a CPU computes, here and in the engine."""
        return torch.get_num_threads()

    @torch.inference_mode()
    def solve(self, problem: Problem, seed: int) -> Generated:
        """All N branches, and whether one of them is right."""
        torch.manual_seed(seed)
        began = time.perf_counter()
        ids = torch.tensor([self._decoder.render(problem.prompt)], device=self._model.device)
        out = self._model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=self._config)
        branches = [self._branch(row) for row in out[:, ids.shape[1] :].tolist()]
        verified, errors = self._judged(problem, branches)
        return Generated(verified, sum(len(b.token_ids) for b in branches), time.perf_counter() - began, errors)

    def _judged(self, problem: Problem, branches: Sequence[Branch]) -> tuple[bool, int]:
        errors = 0
        for branch in branches:
            verdict = self._judge(problem, branch) if branch.finish == "eos" else None
            if verdict is not None and verdict.status == "accepted":
                return True, errors
            errors += verdict is not None and verdict.status == "error"
        return False, errors

    def _branch(self, tokens: Sequence[int]) -> Branch:
        end = next((at for at, token in enumerate(tokens) if token in self._ends), None)
        kept = tuple(tokens if end is None else tokens[: end + 1])
        text = "".join(self._decoder.tokens.pieces(kept))
        return Branch(text=text, token_ids=kept, finish="length" if end is None else "eos")


def _config(**settings: Any) -> GenerationConfig:
    return GenerationConfig(**settings)  # type: ignore[no-untyped-call]
