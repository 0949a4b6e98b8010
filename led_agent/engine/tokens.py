"""Between text and tokens: what a prompt is for a model, and what each token of an output adds to its text.

This takes a tokenizer alone: neither weights nor torch are loaded for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from led_agent.engine.text import Detokenizer
from led_agent.errors import ModelError, UsageError
from led_agent.types import Message

__all__ = ["Tokens"]


class Tokens:
    """A model's tokenizer, or none, for a model that is used with token ids only."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """The tokenizer of a model's folder or hub id.

        Raises:
            ModelError: it isn't there.
        """
        from transformers import AutoTokenizer

        try:
            return cls(AutoTokenizer.from_pretrained(path))
        except (OSError, ValueError, KeyError) as error:
            told = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise ModelError(f"can't load the tokenizer of {str(path)!r}: {told}") from error

    @property
    def chats(self) -> bool:
        """Whether the model has a chat template."""
        return getattr(self._tokenizer, "chat_template", None) is not None

    def render(self, prompt: str | Sequence[Message]) -> list[int]:
        """Token ids of a prompt: through the model's chat template, or as it is where the model has none.

        Raises:
            UsageError: chat messages for a model without a chat template, or a template that refuses them.
        """
        if self._tokenizer is None:
            raise UsageError("this engine has no tokenizer; a search needs one")
        if not self.chats:
            if not isinstance(prompt, str):
                raise UsageError("this model has no chat template, so it takes a plain prompt, not chat messages")
            return [int(t) for t in self._tokenizer.encode(prompt)]
        messages = (
            [{"role": "user", "content": prompt}] if isinstance(prompt, str) else [m.model_dump() for m in prompt]
        )
        try:
            text: str = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        except Exception as error:  # a template is the model's own code
            raise UsageError(f"the model's chat template refuses these messages: {error}") from error
        return [int(t) for t in self._tokenizer.encode(text, add_special_tokens=False)]

    def pieces(self, ids: Sequence[int], before: Sequence[int] = ()) -> list[str]:
        """The text that each token adds to what the tokens of the same output ``before`` it read as; empty for a
        special token, and for one that leaves a character incomplete: that comes with the token that completes it, or
        with the last."""
        text = Detokenizer(self._tokenizer, before)
        found = [text.append(token) for token in ids]
        if found:
            whole = "".join(found)
            found[-1] += text.finish()[len(whole) :]
        return found
