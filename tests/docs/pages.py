"""README.md and the pages under docs/, taken apart: blocks of code and the marks above them, commands, links, headings.

It knows Markdown (by markdown-it-py, which rich brings) and shell lines as far as pages write them. It runs nothing.
"""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
NAMES = {path.relative_to(ROOT).as_posix(): path for path in PAGES}

_MARK = re.compile(r"<!-- block: (.*?) -->", re.DOTALL)
_CHANGE = re.compile(r"with `([^`]+)` as `([^`]+)`: (.+)", re.DOTALL)
_PARSED = re.compile(r"parsed only: (.+)", re.DOTALL)
_TOOL = re.compile(r"(?:\S*/)?led-agent")


class MarkError(ValueError):
    """A mark above a block that can't be read."""


@dataclass(frozen=True)
class Block:
    """A fenced block of code.

    Attributes:
        page: The page's path from the repository's root.
        line: Of its first line of code, from 1.
        kind: What its fence says: "python", "bash", …; empty where it says nothing.
        text: As a reader sees it.
        run: Whether it is run; else it is parsed only.
        changes: What is replaced by what before it is run.
        reason: Why it isn't run as it stands; empty where it is.
    """

    page: str
    line: int
    kind: str
    text: str
    run: bool = True
    changes: tuple[tuple[str, str], ...] = ()
    reason: str = ""

    @property
    def code(self) -> str:
        """As it is run."""
        text = self.text
        for old, new in self.changes:
            if old not in text:
                raise MarkError(f"{self.page}:{self.line}: the mark changes {old!r}, which is not in the block")
            text = text.replace(old, new)
        return text

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


@dataclass(frozen=True)
class Link:
    """A relative link or picture: ``path`` is empty where it leads to another part of the same page."""

    page: str
    line: int
    path: str
    anchor: str


@cache
def tokens(page: str) -> tuple[Token, ...]:
    return tuple(MarkdownIt("commonmark").enable("table").parse(NAMES[page].read_text()))


def blocks(page: str) -> list[Block]:
    """The fenced blocks of a page, in order. A mark belongs to the block that follows it with nothing between."""
    found: list[Block] = []
    mark = ""
    for token in tokens(page):
        if token.type == "html_block" and (said := _MARK.search(token.content)):
            mark = said[1]
        elif token.type == "fence":
            assert token.map is not None
            block = Block(page, token.map[0] + 2, token.info.strip(), token.content)
            found.append(_marked(block, mark))
            mark = ""
        elif mark and token.nesting >= 0 and token.type not in ("list_item_open", "bullet_list_open"):
            raise MarkError(f"{page}: the mark {mark!r} stands above no block")
    return found


def _marked(block: Block, mark: str) -> Block:
    if not mark:
        return block
    known = {"page": block.page, "line": block.line, "kind": block.kind, "text": block.text}
    if said := _CHANGE.fullmatch(mark):
        return Block(**known, changes=((said[1], said[2]),), reason=said[3])
    if said := _PARSED.fullmatch(mark):
        return Block(**known, run=False, reason=said[1])
    raise MarkError(f"{block}: {mark!r}; allowed are 'parsed only: REASON' and 'with `A` as `B`: REASON'")


def all_blocks(*kinds: str) -> list[Block]:
    return [block for page in NAMES for block in blocks(page) if block.kind in kinds or not kinds]


def commands(text: str) -> Iterator[list[str]]:
    """The commands of a shell block, each as its words; && and | part them, prompts and comments are left out."""
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line.removeprefix("$ "), posix=True, punctuation_chars="|&;><")
        lexer.whitespace_split = True
        words: list[str] = []
        for word in (*lexer, ";"):
            if word and not set(word) - set("|&;"):
                if words:
                    yield words
                words = []
            else:
                words.append(word)


def tool_arguments(words: list[str]) -> list[str] | None:
    """What follows ``led-agent``; None where the command is another."""
    while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
        words = words[1:]
    return words[1:] if words and _TOOL.fullmatch(words[0]) else None


def inline_commands(page: str) -> Iterator[tuple[int, list[str]]]:
    """``led-agent …`` in a sentence or a table, with the line."""
    for token in tokens(page):
        for child in token.children or ():
            if child.type == "code_inline" and _TOOL.match(child.content) and " " in child.content:
                line = token.map[0] + 1 if token.map else 0
                yield line, (tool_arguments(next(commands(child.content))) or [])


def links(page: str) -> Iterator[Link]:
    """Relative links and pictures."""
    for token in tokens(page):
        for child in token.children or ():
            target = str(child.attrGet("href") or child.attrGet("src") or "")
            if target and ":" not in target:
                path, _, anchor = target.partition("#")
                yield Link(page, token.map[0] + 1 if token.map else 0, path, anchor)


def anchors(path: Path) -> set[str]:
    """The anchors of a Markdown file's headings, as GitHub makes them."""
    found: dict[str, int] = {}
    parsed = MarkdownIt("commonmark").enable("table").parse(path.read_text())
    for token, inside in itertools.pairwise(parsed):
        if token.type == "heading_open":
            shown = "".join(child.content for child in inside.children or () if child.type in ("text", "code_inline"))
            slug = re.sub(r"[^\w\- ]", "", shown.strip().lower()).replace(" ", "-")
            found[slug] = found.get(slug, -1) + 1
    return {f"{slug}-{i}" if i else slug for slug, count in found.items() for i in range(count + 1)}
