"""Where the final answer stands in a model's output. Text only: no verifier and no library is needed for it."""

from __future__ import annotations

import re

__all__ = ["after_thinking", "boxed", "final_answer", "marked_answer"]

_MARK = re.compile(r"(?:####|(?:final\s+)?answer\s*(?:is|:|=))\s*(?:[:=]\s*)?([^\n]+)", re.IGNORECASE)
_NUMBER = re.compile(r"[-+]?(?:\d[\d,]*\.?\d*|\.\d+)(?:\s*/\s*\d+)?%?")


def after_thinking(text: str, close: str = "</think>") -> str:
    """What follows the last ``</think>``; all of the text where there is none."""
    return text.rpartition(close)[2]


def boxed(text: str) -> str | None:
    r"""The content of the last ``\boxed{…}``, braces balanced; None where there is none or it is left open."""
    start = text.rfind(r"\boxed{")
    if start < 0:
        return None
    depth = 0
    begin = start + len(r"\boxed{")
    for at in range(begin - 1, len(text)):
        depth += (text[at] == "{") - (text[at] == "}")
        if depth == 0:
            return text[begin:at].strip()
    return None


def final_answer(text: str) -> str | None:
    r"""The answer that a text ends in: the last ``\boxed{…}``, else after the last "answer is" or "####", else its
    last number; None where there is none of these."""
    answer = after_thinking(text)
    inside = boxed(answer)
    if inside is not None:
        return inside
    marks = _MARK.findall(answer)
    region = marks[-1] if marks else answer
    numbers = _NUMBER.findall(region)
    if numbers:
        return str(numbers[-1]).strip().rstrip(".,")
    return str(region).strip().rstrip(".").strip() or None if marks else None


def marked_answer(text: str) -> str | None:
    r"""The answer as it stands, words and all: the last ``\boxed{…}``, else all of the line that follows the last
    "####", else as ``final_answer`` reads it."""
    answer = after_thinking(text)
    inside = boxed(answer)
    if inside is not None:
        return inside
    _, mark, after = answer.rpartition("####")
    line = after.strip().partition("\n")[0].strip()
    return line if mark and line else final_answer(text)
