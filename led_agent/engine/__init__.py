"""How tokens are computed fast: slots over a transformers model's weights, continuously refilled."""

from led_agent.engine.engine import Engine
from led_agent.engine.model import ModelParts
from led_agent.engine.requests import BranchEvent, EngineRequest

__all__ = ["BranchEvent", "Engine", "EngineRequest", "ModelParts"]
