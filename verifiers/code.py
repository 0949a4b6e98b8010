"""Where the program stands in an answer. Text only: untrusted source is not parsed here, as a parser can be crashed.

An answer may hold several readings of what its program is (which block, with or without the prompt before it); they are
returned in order, and the sandbox takes the first that compiles.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from functools import lru_cache

from led_agent.answers import after_thinking

__all__ = ["prelude_of", "programs_in"]

_LONGEST = 200_000  # characters of a program
_READINGS = 8
_FENCE = re.compile(r"^[ \t]*(```+|~~~+)[ \t]*([\w+#.-]*)[^\n]*$", re.MULTILINE)
_LANGUAGES = ("", "python", "python3", "py", "py3")
_BEGINS = re.compile(r"^(?:(?:async[ \t]+)?def |class |import |from \w[\w.]* import |@\w)", re.MULTILINE)
_PROSE = re.compile(r"\n\s*\n(?=[A-Z*#>-][^\n(=]*(?:\n|$))")


def programs_in(text: str, names: Iterable[str], prompt: str = "") -> tuple[str, ...]:
    """The readings of an answer's program, the likeliest first; none where there is no code in it.

    Fenced blocks after ``</think>``, the last first, those that define one of ``names`` before the others; else the
    text itself. Where the prompt is code that is to be continued, its continuation.

    Args:
        text: The answer.
        names: Names that the tests call.
        prompt: The problem's text.
    """
    final = after_thinking(text)
    wanted = [re.compile(rf"^\s*(?:(?:async\s+)?def|class)\s+{re.escape(name)}\b|^{re.escape(name)}\s*=", re.MULTILINE)
              for part in names for name in [part.partition(".")[0]]]  # fmt: skip
    blocks = _blocks(final)
    found = [block for block in reversed(blocks) if any(name.search(block) for name in wanted)]
    found += [block for block in reversed(blocks) if block not in found]
    stub = _code_of(prompt)
    if not blocks:
        found = _unfenced(final, stub, any(name.search(final) for name in wanted))
    elif stub is not None and not any(name.search(found[0]) for name in wanted):
        found.insert(0, f"{stub}\n{found[0]}")  # the body alone, to go on from the prompt
    return tuple(dict.fromkeys(reading[:_LONGEST] for reading in found if reading.strip()))[:_READINGS]


def prelude_of(prompt: str, without: str | None) -> str:
    """What a prompt that is code gives its answer: imports and helpers, but not the function that is asked for."""
    source = _code_of(prompt)
    if source is None:
        return ""
    kept = [
        node
        for node in ast.parse(source).body
        if getattr(node, "name", None) != (without or "").partition(".")[0]
        and isinstance(node, ast.Import | ast.ImportFrom | ast.FunctionDef | ast.ClassDef | ast.Assign | ast.AnnAssign)
    ]
    return "\n".join(ast.unparse(node) for node in kept)


def _blocks(text: str) -> list[str]:
    """Fenced blocks of Python, in order; the last may be open, where the answer was cut off."""
    blocks: list[str] = []
    opened: re.Match[str] | None = None
    for fence in _FENCE.finditer(text):
        if opened is None:
            opened = fence
        elif fence[1].startswith(opened[1]) and not fence[2]:
            _keep(blocks, opened, text[opened.end() + 1 : fence.start()])
            opened = None
    if opened is not None:
        _keep(blocks, opened, text[opened.end() + 1 :])
    return blocks


def _keep(blocks: list[str], fence: re.Match[str], content: str) -> None:
    if fence[2].lower() in _LANGUAGES:
        blocks.append(_dedented(content, fence[0]))


def _dedented(content: str, fence: str) -> str:
    """A block inside a list item is indented with its fence."""
    margin = fence[: len(fence) - len(fence.lstrip())]
    return re.sub(rf"^{re.escape(margin)}", "", content, flags=re.MULTILINE) if margin else content


def _unfenced(final: str, stub: str | None, defines: bool) -> list[str]:
    """Readings of a text without fences: all of it, a continuation of the prompt, or from where code begins."""
    continued = [f"{stub}\n{final}", f"{stub}\n{_PROSE.split(final)[0]}"] if stub is not None else []
    found = [final, *continued] if defines else [*continued, final]
    begins = _BEGINS.search(final)
    if begins is not None:
        code = final[begins.start() :]
        found += [code, _PROSE.split(code)[0]]
    elif stub is None:
        return []  # words only
    return found


@lru_cache(maxsize=256)
def _code_of(prompt: str) -> str | None:
    """The prompt's own code (it is trusted): all of it, or a fenced block; None where it is prose."""
    for source in (prompt, *reversed(_blocks(prompt))):
        if _BEGINS.search(source):
            try:
                ast.parse(source)
            except (SyntaxError, ValueError, RecursionError, MemoryError):
                continue
            return source
    return None
