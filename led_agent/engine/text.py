"""From tokens to text, a token at a time, and stop strings in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["Detokenizer", "find_stop"]

_UNFINISHED = "\ufffd"  # what a tokenizer gives for bytes that don't make a character yet
_CONTEXT = 16  # tokens before the first, which its text may depend on


class Detokenizer:
    """Text of a growing token sequence, special tokens left out. Without a tokenizer there is no text.

    A token's text depends on its neighbours (leading spaces, characters split over tokens), so each new piece is the
    difference between decoding a short window with and without the new tokens. ``before`` are the tokens of the same
    output that another has given out.
    """

    def __init__(self, tokenizer: Any, before: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._before = tuple(before[-_CONTEXT:])
        self._ids: list[int] = list(self._before)
        self._start = self._read = 0  # the window begins at _start; what is before _read has been given out
        self._cut = False
        self.text = ""
        self._catch_up_with_before()

    def _catch_up_with_before(self) -> None:
        """What came before has been given out by another, but for the bytes of a character that is not complete."""
        self._read = len(self._ids)
        if self._tokenizer is None:
            return
        while self._read and self._tokenizer.decode(self._ids[: self._read], skip_special_tokens=True).endswith(
            _UNFINISHED
        ):
            self._read -= 1

    def again(self, tokens: Sequence[int]) -> Detokenizer:
        """A new one that stands at the same place, and has taken these tokens."""
        fresh = Detokenizer(self._tokenizer, self._before)
        for token in tokens:
            fresh.append(token)
        return fresh

    def append(self, token: int) -> str:
        """Take a token; the text that is new by it, empty while a character is incomplete."""
        self.hold(token)
        return self.catch_up()

    def catch_up(self) -> str:
        """The text of tokens that were held, empty where there is none, or a character is incomplete."""
        if self._tokenizer is None or self._cut or self._read == len(self._ids):
            return ""
        before, after = self._window()
        if after.endswith(_UNFINISHED) or len(after) <= len(before):
            return ""
        self._start, self._read = self._read, len(self._ids)
        fresh = after[len(before) :]
        self.text += fresh
        return fresh

    def hold(self, token: int) -> None:
        """Take a token whose text is asked for later: with the next one's, by ``catch_up``, or at the end."""
        if self._tokenizer is not None:
            self._ids.append(token)

    def finish(self) -> str:
        """All text, what was held back included."""
        if self._tokenizer is not None and not self._cut:
            before, after = self._window()
            self.text += after[len(before) :]
            self._start = self._read = len(self._ids)
        return self.text

    def cut(self, at: int) -> None:
        """Drop the text from there on."""
        self.text, self._cut = self.text[:at], True

    def _window(self) -> tuple[str, str]:
        decode = self._tokenizer.decode
        before = decode(self._ids[self._start : self._read], skip_special_tokens=True)
        after = decode(self._ids[self._start :], skip_special_tokens=True)
        return before, after


def find_stop(text: Detokenizer, fresh: str, stops: Sequence[str], *, cut: bool) -> bool:
    """Whether one of the strings is completed by the ``fresh`` end of the text; with ``cut`` it and what follows go."""
    for stop in stops:
        at = text.text.find(stop, max(0, len(text.text) - len(fresh) - len(stop) + 1))
        if at >= 0:
            if cut:
                text.cut(at)
            return True
    return False
