"""Multi-path search in latent space for reasoning models. The names in ``__all__`` are the public API; nothing else is.

They are loaded at their first use, so that ``import led_agent`` costs milliseconds and imports neither torch nor ray.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from led_agent.protocols import Decoder, Strategy, Verifier
    from led_agent.search import Search, solve, solve_many
    from led_agent.solution import Solution
    from led_agent.tree import Tree
    from led_agent.types import (
        Branch,
        Budget,
        Confidence,
        DecodeRequest,
        Decoding,
        DepthExploration,
        LatentDistiller,
        LatentNoise,
        LayerContrast,
        Problem,
        QualityGuard,
        Usage,
        Verdict,
    )

__version__ = "0.1.0"
__all__ = [
    "Branch",
    "Budget",
    "Confidence",
    "DecodeRequest",
    "Decoder",
    "Decoding",
    "DepthExploration",
    "LatentDistiller",
    "LatentNoise",
    "LayerContrast",
    "Problem",
    "QualityGuard",
    "Search",
    "Solution",
    "Strategy",
    "Tree",
    "Usage",
    "Verdict",
    "Verifier",
    "solve",
    "solve_many",
]

_HOMES = {
    "protocols": ("Decoder", "Strategy", "Verifier"),
    "search": ("Search", "solve", "solve_many"),
    "solution": ("Solution",),
    "tree": ("Tree",),
    "types": (
        "Branch",
        "Budget",
        "Confidence",
        "DecodeRequest",
        "Decoding",
        "DepthExploration",
        "LatentDistiller",
        "LatentNoise",
        "LayerContrast",
        "Problem",
        "QualityGuard",
        "Usage",
        "Verdict",
    ),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
