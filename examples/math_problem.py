"""A word problem: eight exploring branches, a verifier, and a conservative fallback. Usage: math_problem.py [MODEL]"""

import sys

from led_agent import Decoding, Problem, solve
from led_agent.strategies import BestOfN, Fallback
from led_agent.verifiers import math_answer

solution = solve(
    Problem(prompt="A robe takes 2 bolts of blue fiber and half that much white. How many bolts in total?", answer="3"),
    model=sys.argv[1] if len(sys.argv) > 1 else "smollm2",
    strategy=Fallback(BestOfN(8)),
    verifiers=[math_answer()],
    decoding=Decoding.led("paper"),
    max_tokens=128,
)
print(solution.answer, "verified" if solution.verified else "not verified", "-", solution.reason)
print(solution.usage)
