"""Strategies: what to try next. Each is a frozen, picklable dataclass with ``propose(tree, slots)``."""

if __name__ != "led_agent.strategies":
    raise ImportError("this folder is led_agent.strategies; import it under that name")

from led_agent.strategies.abmcts import ABMCTS
from led_agent.strategies.beam import Beam
from led_agent.strategies.best_of_n import BestOfN
from led_agent.strategies.dvts import DVTS
from led_agent.strategies.entropy_branching import EntropyBranching
from led_agent.strategies.escalate import Escalate
from led_agent.strategies.fallback import Fallback
from led_agent.strategies.mcts import MCTS
from led_agent.strategies.particle_filter import ParticleFilter
from led_agent.strategies.portfolio import Portfolio
from led_agent.strategies.repair import Repair
from led_agent.strategies.tree_of_thoughts import TreeOfThoughts
from led_agent.strategies.voting import SelfConsistency, WeightedVote
from led_agent.strategies.without_replacement import WithoutReplacement

__all__ = [
    "ABMCTS",
    "DVTS",
    "MCTS",
    "Beam",
    "BestOfN",
    "EntropyBranching",
    "Escalate",
    "Fallback",
    "ParticleFilter",
    "Portfolio",
    "Repair",
    "SelfConsistency",
    "TreeOfThoughts",
    "WeightedVote",
    "WithoutReplacement",
]
