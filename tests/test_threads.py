"""What is still at work when a program ends: its exit code must be its own, and not an abort's."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

_VERIFIERS = """
    import sys, threading, time
    from led_agent.types import Branch, Problem, Verdict
    from led_agent.verifier_pool import VerifierPool

    begun = threading.Semaphore(0)

    def busy(problem, branch):
        begun.release()
        end = time.monotonic() + 0.3
        while time.monotonic() < end:  # in and out of compiled code
            Verdict(status="rejected", reason="x", verifier="busy")
        return Verdict(status="rejected")

    def stuck(problem, branch):
        begun.release()
        threading.Event().wait()

    pool = VerifierPool(4)
    for n in range(4):
        pool.submit([{verifier}], Problem(prompt="?"), Branch(id=str(n), text=str(n)))
    for n in range(4):
        begun.acquire()
    sys.exit(3)
"""

_SEARCH = """
    import sys
    from led_agent.search import Search
    from led_agent.strategies import BestOfN

    search = Search({model!r}, strategy=BestOfN(16), verifiers=[lambda problem, branch: False], max_tokens=200)
    solutions = search.solve_many([f"w{{n}}" for n in range(50)])
    next(solutions)
    sys.exit(3)
"""


def ended(script: str) -> tuple[int, str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", textwrap.dedent(script)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    return done.returncode, done.stderr


@pytest.mark.parametrize("verifier", ["busy", "stuck"])
def test_a_program_that_ends_while_verifiers_are_asked_has_its_own_exit_code(verifier: str):
    assert ended(_VERIFIERS.format(verifier=verifier)) == (3, "")


def test_a_program_that_ends_in_the_middle_of_a_search_has_its_own_exit_code(saved_model: Path):
    assert ended(_SEARCH.format(model=str(saved_model))) == (3, "")


def test_what_was_forked_does_not_end_what_is_its_parents():
    script = """
        import os
        from led_agent.threads import ask_at_exit

        class Thing:
            def end(self):
                print("ended", os.getpid() == parent, flush=True)

        parent, thing = os.getpid(), Thing()
        ask_at_exit(thing.end)
        child = os.fork()
        if child:
            os.waitpid(child, 0)
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "ended True\n"
