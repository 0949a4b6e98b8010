"""One HTML file of a run, or of two side by side: it opens anywhere, fetches nothing, and runs nothing but its own
script.

Trees are taken one at a time, so that a run over more problems than memory holds can be exported: the index grows in
the file itself, and details, gzipped, in a temporary file that is put behind it. This file knows the page's format and
no tree.
"""

from __future__ import annotations

import base64
import gzip
import io
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from typing import IO, Any

from led_agent.errors import MachineError
from led_agent.pages.data import FORMAT, problem_row
from led_agent.pages.shading import Shading
from led_agent.tree import Tree

__all__ = ["as_json", "html_of", "page", "write_html"]

_PLACE = "<!--LED_DATA-->"
_NODES = 64  # of one chunk, and
_BYTES = 2_000_000  # about so much JSON at most, unless one node alone has more
# What could end the element, or begin a comment in it, and what older parsers take for the end of a line.
_ESCAPES = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}

Progress = Callable[[int], None]
"""Told every few branches how many more have been written."""


def page(name: str) -> str:
    """One of the pages that were built from web/: "viewer.html" or "page.html"."""
    return files("led_agent.pages").joinpath(name).read_text(encoding="utf-8")


def as_json(data: object) -> str:
    """Data as JSON for a browser, in ASCII: half characters are escaped, and numbers that aren't finite are null."""
    try:
        return json.dumps(data, separators=(",", ":"), allow_nan=False)
    except ValueError:
        return json.dumps(_finite(data), separators=(",", ":"), allow_nan=False)


def html_of(
    trees: Iterable[Tree],
    *,
    title: str,
    other: Iterable[Tree] | None = None,
    other_title: str = "",
    shading: Shading | None = None,
) -> str:
    """The page as text, for notebooks; ``write_html`` does the same in little memory."""
    out = io.StringIO()
    _write(out, trees, title, other, other_title, shading or Shading(), None)
    return out.getvalue()


def write_html(
    path: Path,
    trees: Iterable[Tree],
    *,
    title: str,
    other: Iterable[Tree] | None = None,
    other_title: str = "",
    shading: Shading | None = None,
    progress: Progress | None = None,
) -> None:
    """Write the page. What was there is replaced once the new file is whole; an interrupted call leaves it alone.

    Args:
        other: A second run, to be compared with the first: problems of the same key are put side by side.
        shading: The tokenizers to lay texts over tokens with; by default those of the models that the trees name.

    Raises:
        MachineError: the file can't be written.
        LedError: what the trees raise while they are read.
    """
    made = ""
    try:
        with tempfile.NamedTemporaryFile(
            "w", encoding="ascii", dir=path.parent, prefix=f".{path.name}.", suffix=".tmp", delete=False
        ) as out:
            made = out.name
            _write(out, trees, title, other, other_title, shading or Shading(), progress)
        Path(made).chmod(0o666 & ~_umask())
        Path(made).replace(path)
    except OSError as error:
        raise MachineError(f"can't write {path}: {error.strerror}; choose another file") from error
    finally:
        if made:
            with suppress(OSError):
                Path(made).unlink()


def _umask() -> int:
    """What the system takes from a new file's permissions: temporary files are made for one's own eyes only."""
    now = os.umask(0)
    os.umask(now)
    return now


def _write(
    out: IO[str],
    trees: Iterable[Tree],
    title: str,
    other: Iterable[Tree] | None,
    other_title: str,
    shading: Shading,
    progress: Progress | None,
) -> None:
    before, place, after = page("viewer.html").partition(_PLACE)
    if not place:
        raise MachineError(f"the viewer's page lacks {_PLACE}; this installation is broken, install led-agent again")
    out.write(_ascii(before))
    _write_run(out, trees, title, "", shading, progress)
    if other is not None:
        _write_run(out, other, other_title, "-b", shading, progress)
    out.write(_ascii(after))


def _ascii(markup: str) -> str:
    """The page's own markup, of which only a comment may hold more than ASCII."""
    return markup.encode("ascii", "xmlcharrefreplace").decode("ascii")


def _write_run(
    out: IO[str], trees: Iterable[Tree], title: str, side: str, shading: Shading, progress: Progress | None
) -> None:
    with tempfile.TemporaryFile("w+", encoding="ascii") as details:
        head = as_json({"format": FORMAT, "title": title, "live": False})
        out.write(f'<script type="application/json" id="led-index{side}">{_safe(head[:-1])},"problems":[')
        chunks = 0
        for number, tree in enumerate(trees):
            out.write(("," if number else "") + "\n" + _safe(as_json(problem_row(tree))))
            for packed, place in _packed(tree, shading, progress):
                details.write(
                    f'<script type="application/octet-stream+base64" id="led-details{side}-{chunks}" '
                    f'data-led-details="{side or "-a"}" data-problem="{number}" {place}>{packed}</script>\n'
                )
                chunks += 1
        out.write("]}</script>\n")
        details.seek(0)
        shutil.copyfileobj(details, out)


def _packed(tree: Tree, shading: Shading, progress: Progress | None) -> Iterator[tuple[str, str]]:
    """The details of one problem's nodes, in chunks, and whose each holds; of a node that has nothing to tell yet there
    is null in its place."""
    rows: list[str] = []
    nodes, size = tree.nodes(), 0
    for place, node in enumerate(nodes, 1):
        rows.append(as_json(shading.detail(tree, node.id)) if node.branch is not None or node.notes else "null")
        size += len(rows[-1])
        if len(rows) == _NODES or size >= _BYTES or place == len(nodes):
            packed = gzip.compress(f"[{','.join(rows)}]".encode("ascii"), 6, mtime=0)
            yield base64.b64encode(packed).decode("ascii"), f'data-from="{place - len(rows)}" data-count="{len(rows)}"'
            if progress is not None:
                progress(len(rows))
            rows, size = [], 0


def _safe(text: str) -> str:
    return text.translate(_ESCAPES)


def _finite(data: Any) -> Any:
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if isinstance(data, dict):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    return data
