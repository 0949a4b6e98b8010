"""How tokens are computed fast: slots over a transformers model's weights, continuously refilled.

The names are loaded at their first use: what needs a tokenizer alone (``led_agent.engine.tokens``) waits for no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from led_agent.engine.engine import Engine
    from led_agent.engine.model import ModelParts
    from led_agent.engine.requests import BranchEvent, EngineRequest

__all__ = ["BranchEvent", "Engine", "EngineRequest", "ModelParts"]

_HOME = {"BranchEvent": "requests", "Engine": "engine", "EngineRequest": "requests", "ModelParts": "model"}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
