"""Judge a program by tests, in a sandbox: no model is needed for it."""

from led_agent import Branch, Problem
from led_agent.verifiers import unit_tests

PROBLEM = Problem(
    prompt="Write median(numbers).",
    entry_point="median",
    tests=[{"args": [[3, 1, 2]], "expect": 2}, {"args": [[1, 2, 3, 4]], "expect": 2.5}],
)
ANSWER = """```python
def median(numbers):
    return sorted(numbers)[len(numbers) // 2]
```"""

verifier = unit_tests(timeout=2.0, partial=True)
verdict = verifier(PROBLEM, Branch(text=ANSWER))
print(verdict.status, verdict.score, verdict.reason)
verifier.close()
