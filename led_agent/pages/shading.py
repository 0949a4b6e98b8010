"""Which tokenizer a tree's texts can be laid over its tokens with: one that is on this machine, or none.

Nothing is fetched for it: a model that is only named in a run need not be here, and its text is then shown unshaded.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from led_agent.errors import LedError
from led_agent.models import known_models
from led_agent.pages.data import Pieces, detail
from led_agent.tree import Tree

__all__ = ["Shading"]


class Shading:
    """The tokenizers of the models that trees name, each loaded once.

    Args:
        model: Whose tokenizer to use where a tree doesn't name its model, as those of old runs don't.
    """

    def __init__(self, model: str | None = None) -> None:
        self._model = model
        self._found: dict[str, Pieces | None] = {}
        self._loading = threading.Lock()

    def pieces(self, tree: Tree) -> Pieces | None:
        """What splits the texts of this tree; None where its tokenizer isn't at hand."""
        name = tree.started.model or self._model or ""
        with self._loading:
            if name not in self._found:
                folder = _folder(name)
                self._found[name] = _load(folder) if folder is not None else None
            return self._found[name]

    def detail(self, tree: Tree, node: str) -> dict[str, Any]:
        """As ``data.detail``; without pieces where they don't spell the text: then it is another model's tokenizer."""
        pieces = self.pieces(tree)
        found = detail(tree, node, _fitting(pieces) if pieces is not None else None)
        if found["pieces"] is not None and not "".join(found["pieces"]).startswith(found["text"]):
            found["pieces"] = None
        return found


def _fitting(pieces: Pieces) -> Pieces:
    """A tokenizer that knows none of these tokens is a wrong one; libraries say so in many ways."""

    def split(ids: Sequence[int], before: Sequence[int]) -> list[str]:
        try:
            return pieces(ids, before)
        except (IndexError, KeyError, OverflowError, TypeError, ValueError):
            return []

    return split


def _folder(name: str) -> Path | None:
    """Where a model's tokenizer lies on this machine."""
    if not name:
        return None
    for model in known_models():
        if model.name == name:
            return Path(model.path) if model.path is not None and Path(model.path).is_dir() else None
    if Path(name).expanduser().is_dir():
        return Path(name).expanduser()
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        return None
    from huggingface_hub import try_to_load_from_cache

    try:
        found = try_to_load_from_cache(name, "tokenizer.json")
    except ValueError:  # no name that a hub could know
        return None
    return Path(found).parent if isinstance(found, str) else None


def _load(folder: Path) -> Pieces | None:
    from led_agent.engine.tokens import Tokens

    try:
        return Tokens.load(folder).pieces
    except LedError:
        return None
