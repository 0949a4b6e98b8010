"""How tokens are computed fast: slots over the unmodified transformers forward, continuously refilled."""

from led_agent.engine.engine import BranchEvent, Engine, EngineRequest

__all__ = ["BranchEvent", "Engine", "EngineRequest"]
