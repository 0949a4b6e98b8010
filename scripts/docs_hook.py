"""What the documentation's pages link to outside of docs/ becomes part of the site, so that one link holds in both.

Markdown files become pages, pictures and notebooks are copied, and other text files become pages that show them. A link
to a folder loses its target: on the site there is none. It knows links as Markdown writes them, and nothing of what
they mean.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
PLACE = "repository"  # where on the site the repository's other files are
_LINK = re.compile(r"(\]\()([^)\s]+)(\))")
_FENCE = re.compile(r"^ *(```|~~~)")
_COPIED = (".svg", ".png", ".ipynb")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what is linked to, and what that links to in turn."""
    named = re.findall(rf"{PLACE}/(\S+\.md)", (ROOT / "mkdocs.yml").read_text())  # by the nav
    pages = [file.src_uri for file in files if file.src_uri.endswith(".md")]
    waiting = [ROOT / name for name in named]
    waiting += [path for page in pages for path in _outside(ROOT / "docs" / page)]
    done: set[Path] = set()
    while waiting:
        path = waiting.pop()
        if path in done or path.is_dir():
            continue
        done.add(path)
        if not path.is_file():
            raise PluginError(f"a page links to {path.relative_to(ROOT)}, which is not there; mend the link")
        files.append(_file(path, config))
        if path.suffix == ".md":
            waiting += _outside(path)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links out of docs/ into links to where those files are on the site."""
    here = _source(page.file.src_uri)

    def moved(target: str) -> str | None:
        path, _, anchor = target.partition("#")
        there = (here.parent / path).resolve()
        if there.is_dir():
            return None
        to = posixpath.relpath(_uri(there), posixpath.dirname(page.file.src_uri) or ".")
        return f"{to}#{anchor}" if anchor else to

    return _relinked(markdown, moved)


def _relinked(markdown: str, moved: Callable[[str], str | None]) -> str:
    """The text with the relative targets of its links replaced, blocks of code left alone."""
    lines, inside = [], False
    for line in markdown.split("\n"):
        if _FENCE.match(line):
            inside = not inside
        lines.append(line if inside else _LINK.sub(lambda match: _link(match, moved), line))
    return "\n".join(lines)


def _link(match: re.Match[str], moved: Callable[[str], str | None]) -> str:
    if not _relative(match[2]):
        return match[0]
    target = moved(match[2])
    return f"{match[1]}{target}{match[3]}" if target is not None else "]"


def _outside(path: Path) -> Iterator[Path]:
    """Files and folders outside of docs/ that a Markdown file links to."""
    found: list[Path] = []

    def note(target: str) -> None:
        found.append((path.parent / target.partition("#")[0]).resolve())

    _relinked(path.read_text(), note)
    return (there for there in found if not there.is_relative_to(ROOT / "docs") and there.is_relative_to(ROOT))


def _relative(target: str) -> bool:
    return not target.startswith(("#", "/")) and ":" not in target


def _source(uri: str) -> Path:
    """Where in the repository a page of the site comes from."""
    if not uri.startswith(f"{PLACE}/"):
        return ROOT / "docs" / uri
    inside = uri.removeprefix(f"{PLACE}/")
    return ROOT / (inside if (ROOT / inside).is_file() else inside.removesuffix(".md"))


def _uri(path: Path) -> str:
    """Where on the site a file of the repository is."""
    if path.is_relative_to(ROOT / "docs"):
        return path.relative_to(ROOT / "docs").as_posix()
    inside = f"{PLACE}/{path.relative_to(ROOT).as_posix()}"
    return inside if path.suffix in (".md", *_COPIED) else f"{inside}.md"


def _file(path: Path, config: MkDocsConfig) -> File:
    if path.suffix in (".md", *_COPIED):
        return File.generated(config, _uri(path), abs_src_path=str(path))
    name, language = path.relative_to(ROOT).as_posix(), path.suffix.removeprefix(".")
    shown = f"# {name}\n\n````{language}\n{path.read_text()}````\n"
    return File.generated(config, _uri(path), content=shown)
