"""Where the program stands in an answer. Text only: untrusted source is not parsed here, as a parser can be crashed.

An answer may hold several readings of what its program is (which block, with or without the prompt before it); they are
returned in order, and the sandbox takes the first that compiles.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from led_agent.answers import after_thinking

__all__ = ["prelude_of", "programs_in"]

_LONGEST = 200_000  # characters of a program
_READINGS = 8
_BLOCKS = 200  # the last ones; more is no answer
# Everything below reads text that anybody may have written: no pattern may take more than linear time.
_FENCE = re.compile(r"^([ \t]*)(```+|~~~+)[ \t]*([\w+#.-]*)([^\n]*)$", re.MULTILINE)
_PYTHON = ("python", "python3", "py", "py3", "pycon")
_BEGINS = re.compile(r"^(?:(?:async[ \t]+)?def |class |import |from \w[\w.]* import |@\w)", re.MULTILINE)
_PROSE = re.compile(r"\n[ \t]*\n(?=[A-Z*#>-][^\n(=]*(?:\n|$))")
_PROMPTED = re.compile(r"\s*>>> ")
_READS = re.compile(r"\binput\(|\bstdin\b|\bopen\(0\b")
_BINDS = re.compile(r"^(?:(?:async[ \t]+)?def|class)[ \t]+(\w+)|^(\w+)[ \t]*=(?!=)", re.MULTILINE)
_IMPORTS = re.compile(r"^(?:from[ \t]+[\w.]+[ \t]+)?import[ \t]+([^\n#]+)", re.MULTILINE)
_WORD = re.compile(r"[^\W\d]\w*")


@dataclass(frozen=True)
class _Block:
    """A fenced block: its language, what is in it, and where its fences begin and end."""

    language: str
    content: str
    begin: int
    end: int


def programs_in(text: str, names: Iterable[str], prompt: str = "") -> tuple[str, ...]:
    """The readings of an answer's program, the likeliest first; none where there is no code in it.

    Fenced blocks after ``</think>``, the last first, those that define one of ``names`` before the others (without
    names: those that read an input), with the blocks before it that define what it uses; at the end all of them in
    one. Blocks in other languages count only where there is nothing else. Without fences the text itself. Where the
    prompt is code that is to be continued, its continuation.

    Args:
        text: The answer.
        names: Names that the tests call.
        prompt: The problem's text.
    """
    final = after_thinking(text).replace("\r\n", "\n")
    wanted = [_definition(name.partition(".")[0]) for name in names] or [_READS]
    fenced = _blocks(final)
    python = [block for block in fenced if block.language in _PYTHON]
    plain = [block for block in fenced if not block.language]
    stub = _code_of(prompt)
    blocks = sorted(python + plain, key=lambda block: block.begin)
    ordered = [block.content for block in blocks]
    ranked = [block.content for block in sorted(blocks, key=lambda block: _unlikely(block, wanted))]
    if not ranked or not _defines(ranked[0], wanted):
        outside = _outside(final, fenced)
        loose = _unfenced(outside, stub if not ranked else None, _defines(outside, wanted))
        ranked = loose + ranked if _defines(outside, wanted) or not ranked else ranked + loose
        ranked += [block.content for block in reversed(fenced)]
    found = [_with_its_needs(ranked[0], ordered)] if ranked else []
    if ranked and stub is not None and ordered and not _defines(ranked[0], wanted):
        found[:0] = [f"{stub}\n{ranked[0]}", f"{stub}\n{_indented(ranked[0])}"]  # the body alone, to go on from it
    found += ranked[: _READINGS - 3]
    if len(ordered) > 1:
        found.append("\n".join(ordered))
    if python:
        last = max(fence.start() for fence in _FENCE.finditer(final))  # a fence before it may stand in a string
        found.append(final[python[0].begin : last].partition("\n")[2])
    distinct = dict.fromkeys(reading[:_LONGEST] for reading in found if reading.strip())
    return tuple(distinct)[:_READINGS]


def _definition(name: str) -> re.Pattern[str]:
    name = re.escape(name)
    start = r"^[ \t]*(?:async[ \t]+def|def|class)[ \t]+"
    return re.compile(rf"{start}{name}\b|^{name}[ \t]*(?::[^=\n]+)?=(?!=)", re.MULTILINE)


def _defines(content: str, wanted: list[re.Pattern[str]]) -> bool:
    return any(name.search(content) for name in wanted)


def _unlikely(block: _Block, wanted: list[re.Pattern[str]]) -> tuple[int, bool, int]:
    """What defines most comes first; then what says it is Python (an example's output doesn't); then the last."""
    defined = sum(bool(name.search(block.content)) for name in wanted)
    return -defined, block.language not in _PYTHON, -block.begin


def _outside(text: str, fenced: list[_Block]) -> str:
    ends = [0, *(block.end for block in fenced)]
    begins = [*(block.begin for block in fenced), len(text)]
    return "\n".join(text[end:begin] for end, begin in zip(ends, begins, strict=True))


def _with_its_needs(content: str, blocks: list[str]) -> str:
    """A block behind those before it that define what it uses and doesn't define: its helpers and imports."""
    if content not in blocks:
        return content
    kept, used, bound = [content], set(_WORD.findall(content)), _bound(content)
    for earlier in reversed(blocks[: len(blocks) - 1 - blocks[::-1].index(content)]):
        offered = _bound(earlier)
        if (offered & used) - bound:
            kept.insert(0, earlier)
            used |= set(_WORD.findall(earlier))
            bound |= offered
    return "\n".join(kept)


def _bound(content: str) -> set[str]:
    """Names that a source binds at its outermost level, as far as text tells."""
    names = {one or other for one, other in _BINDS.findall(content)}
    return names.union(*(_WORD.findall(listed) for listed in _IMPORTS.findall(content)))


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
        and not _is_stub(node)
    ]
    return "\n".join(ast.unparse(node) for node in kept)


def _blocks(text: str) -> list[_Block]:
    """Fenced blocks in order; the last may be open, where the answer was cut off."""
    blocks: list[_Block] = []
    opened: re.Match[str] | None = None
    for fence in _FENCE.finditer(text):
        if opened is None:
            opened = fence
        elif fence[2].startswith(opened[2]) and not (fence[3] or fence[4].strip()) and _as_far_out(fence, opened):
            blocks.append(_block(opened, text[opened.end() + 1 : fence.start()], fence.end()))
            opened = None
    if opened is not None:
        blocks.append(_block(opened, text[opened.end() + 1 :], len(text)))
    return blocks[-_BLOCKS:]


def _as_far_out(closing: re.Match[str], opening: re.Match[str]) -> bool:
    """As in CommonMark: a fence that stands four columns further in is text, as in a docstring."""
    return len(closing[1].expandtabs(4)) < len(opening[1].expandtabs(4)) + 4


def _block(fence: re.Match[str], content: str, end: int) -> _Block:
    """A block inside a list item is indented with its fence."""
    margin = len(fence[1])
    if margin:
        content = "\n".join(line[min(margin, len(line) - len(line.lstrip(" \t"))) :] for line in content.split("\n"))
    return _Block(fence[3].lower(), _typed(content), fence.start(), end)


def _typed(content: str) -> str:
    """What was typed, where a block is a transcript of Python's prompt; else the block."""
    if not _PROMPTED.match(content):
        return content
    lines = (line.lstrip(" \t") for line in content.split("\n"))
    return "\n".join(line[4:] for line in lines if line.startswith((">>> ", "... ")) or line in (">>>", "..."))


def _indented(body: str) -> str:
    """A body whose first line has lost its indentation: all of it one level in, where no line has any."""
    first = body.lstrip("\n")
    rest = first.partition("\n")[2]
    flat = not rest.startswith((" ", "\t"))
    return "\n".join(f"    {line}" for line in first.split("\n")) if flat else f"    {first}"


def _unfenced(final: str, stub: str | None, defines: bool) -> list[str]:
    """Readings of a text without fences: all of it, a continuation of the prompt, or from where code begins."""
    if _PROMPTED.match(final):
        return [_typed(final)]
    first = _PROSE.split(final, maxsplit=1)[0]
    continued = [f"{stub}\n{part}" for part in (final, first, _indented(final), _indented(first))] if stub else []
    found = [final, *continued] if defines else [*continued, final]
    begins = _BEGINS.search(final)
    if begins is not None:
        code = final[begins.start() :]
        found[1:1] = [code, _PROSE.split(code, maxsplit=1)[0]]
    elif stub is None:
        return [final] if _READS.search(final) else []  # words only
    return found


def _is_stub(node: ast.stmt) -> bool:
    """Whether a definition is but a promise, for the answer to keep."""
    if isinstance(node, ast.ClassDef):
        methods = [part for part in node.body if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef)]
        return bool(methods) and all(map(_is_stub, methods))
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return False
    promises = (ast.Pass, ast.Raise)
    return all(
        isinstance(part, promises) or (isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant))
        for part in node.body
    )


@lru_cache(maxsize=256)
def _code_of(prompt: str) -> str | None:
    """The prompt's own code (it is trusted): all of it, or a fenced block; None where it is prose."""
    for source in (prompt, *(block.content for block in reversed(_blocks(prompt)))):
        if _BEGINS.search(source):
            try:
                ast.parse(source)
            except (SyntaxError, ValueError, RecursionError, MemoryError):
                continue
            return source
    return None
