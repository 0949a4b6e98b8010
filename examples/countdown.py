"""Two puzzles that greedy decoding fails, then sixteen paths and a verifier. Usage: countdown.py [MODEL]"""

import sys

from led_agent import Decoding, Search
from led_agent.strategies import BestOfN

puzzles = [f"Use {numbers} to make {target}." for numbers, target in [("3, 20 and 5", 35), ("1, 7 and 8", 49)]]
model = sys.argv[1] if len(sys.argv) > 1 else "countdown"
for name, n, decoding in (("greedy", 1, Decoding.greedy()), ("search", 16, None)):
    with Search(model, strategy=BestOfN(n), decoding=decoding) as search:
        for solution in search.solve_many(puzzles):
            print(f"{name:7} {solution.problem.prompt:32} {solution.answer or '':20} {solution.reason}")
