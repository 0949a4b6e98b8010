"""Your own verifier is a function: true, false, or a score in [0, 1]. Usage: custom_verifier.py [MODEL]"""

import sys

from led_agent import Branch, Decoding, Problem, solve
from led_agent.strategies import BestOfN


def short(problem: Problem, branch: Branch) -> float:
    """Prefer brevity; a score between 0 and 1 ranks branches without accepting any."""
    return max(0.01, 0.99 - len(branch.text) / 1000)


model = sys.argv[1] if len(sys.argv) > 1 else "smollm2"
plain = Decoding.plain(0.8)
solution = solve("Name a colour.", model, strategy=BestOfN(4), verifiers=[short], decoding=plain, max_tokens=24)
for node in solution.tree.leaves():
    print(f"{node.id}: {node.verdict.score:.2f} {node.branch.text!r}")
print("best:", solution.branch.id)
