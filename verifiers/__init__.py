"""Verifiers: what judges a branch. Each is a callable ``(problem, branch) -> Verdict | bool | float``."""

if __name__ != "led_agent.verifiers":
    raise ImportError("this folder is led_agent.verifiers; import it under that name")

from led_agent.verifiers.cached import Cached, cached
from led_agent.verifiers.combine import AllOf, AnyOf, Negated, Weighted, all_of, any_of, negate, weighted
from led_agent.verifiers.consensus import Consensus, consensus
from led_agent.verifiers.countdown import Countdown, CountdownSteps, countdown, is_puzzle
from led_agent.verifiers.equivalence import equivalence_groups
from led_agent.verifiers.judge import Judge, judge
from led_agent.verifiers.matches import Matches, matches
from led_agent.verifiers.math_answer import MathAnswer, math_answer
from led_agent.verifiers.reward_model import RewardModel, reward_model
from led_agent.verifiers.unit_tests import UnitTests, unit_tests

__all__ = [
    "AllOf",
    "AnyOf",
    "Cached",
    "Consensus",
    "Countdown",
    "CountdownSteps",
    "Judge",
    "Matches",
    "MathAnswer",
    "Negated",
    "RewardModel",
    "UnitTests",
    "Weighted",
    "all_of",
    "any_of",
    "cached",
    "consensus",
    "countdown",
    "equivalence_groups",
    "is_puzzle",
    "judge",
    "matches",
    "math_answer",
    "negate",
    "reward_model",
    "unit_tests",
    "weighted",
]
