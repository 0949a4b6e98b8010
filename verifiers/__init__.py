"""Verifiers: what judges a branch. Each is a callable ``(problem, branch) -> Verdict | bool | float``."""

if __name__ != "led_agent.verifiers":
    raise ImportError("this folder is led_agent.verifiers; import it under that name")

from led_agent.verifiers.countdown import Countdown, countdown, is_puzzle
from led_agent.verifiers.judge import Judge, judge
from led_agent.verifiers.matches import Matches, matches
from led_agent.verifiers.math_answer import MathAnswer, math_answer
from led_agent.verifiers.reward_model import RewardModel, reward_model

__all__ = [
    "Countdown",
    "Judge",
    "Matches",
    "MathAnswer",
    "RewardModel",
    "countdown",
    "is_puzzle",
    "judge",
    "matches",
    "math_answer",
    "reward_model",
]
