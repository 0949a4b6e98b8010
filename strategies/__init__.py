"""Strategies: what to try next. Each is a frozen, picklable dataclass with ``propose(tree, slots)``."""

if __name__ != "led_agent.strategies":
    raise ImportError("this folder is led_agent.strategies; import it under that name")

from led_agent.strategies.abmcts import ABMCTS
from led_agent.strategies.best_of_n import BestOfN
from led_agent.strategies.entropy_branching import EntropyBranching
from led_agent.strategies.fallback import Fallback

__all__ = ["ABMCTS", "BestOfN", "EntropyBranching", "Fallback"]
