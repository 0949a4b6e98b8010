"""math_answer: verdicts per second, and reference answers against themselves.

python -m benchmarks.math_answer FILE.jsonl [FILE.jsonl …]
"""

from __future__ import annotations

import argparse
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from led_agent.problems import read_problems
from led_agent.types import Branch, Problem
from led_agent.verifiers import math_answer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--threads", type=int, default=8)
    options = parser.parse_args()
    verify = math_answer(workers=options.workers)
    with ThreadPoolExecutor(options.threads) as pool:
        list(pool.map(lambda _: verify(Problem(prompt="?", answer="1"), Branch(text="1")), range(64)))  # start workers
        for file in options.files:
            problems, _ = read_problems(file)
            for name, form in (("boxed", "So it is $\\boxed{{{}}}$."), ("sentence", "The answer is ${}$.")):
                texts = [Branch(text=form.format(problem.answer)) for problem in problems]
                began = time.perf_counter()
                verdicts = list(pool.map(verify, problems, texts))
                rate = len(verdicts) / (time.perf_counter() - began)
                accepted = sum(verdict.status == "accepted" for verdict in verdicts)
                print(f"{file.name}, {name}: {accepted} of {len(verdicts)} accepted, {rate:.0f} verdicts/s")
    verify.close()


if __name__ == "__main__":
    main()
