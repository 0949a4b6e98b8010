"""A search for programs: judged in the sandbox, refused before anything is decoded where they can't be."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from led_agent import Problem, Search, Verdict, solve
from led_agent.errors import UsageError
from led_agent.strategies import BestOfN
from led_agent.testing import ScriptedDecoder
from led_agent.verifiers import UnitTests, math_answer, sandbox, unit_tests

WRONG = "```python\ndef add(a, b):\n    return a - b\n```"
RIGHT = "```python\ndef add(a, b):\n    return a + b\n```"
PROBLEM = Problem(prompt="Write add(a, b).", id="add", entry_point="add", tests="assert add(1, 2) == 3")

pytestmark = pytest.mark.skipif(sandbox.chosen() is None, reason="no tier of the sandbox holds on this machine")


@pytest.fixture
def verifier() -> Iterator[UnitTests]:
    made = unit_tests()
    yield made
    made.close()


def test_a_problem_with_tests_is_judged_by_them_where_no_verifier_is_named() -> None:
    decoder = ScriptedDecoder([WRONG, "no code", RIGHT], slots=1)
    solution = solve(PROBLEM, decoder=decoder, strategy=BestOfN(3, stop_at_first=False))
    assert solution.verified
    assert solution.text == RIGHT
    rejected = {node.branch.text: node.reason for node in solution.tree.nodes() if node.branch}
    assert "got -1, expected 3" in rejected[WRONG]
    assert "a fenced block is looked for" in rejected["no code"]


def test_a_problem_that_no_verifier_can_judge_is_refused_before_anything_is_decoded(verifier: UnitTests) -> None:
    decoder = ScriptedDecoder([RIGHT])
    bare = Problem(prompt="Write add(a, b).")
    with pytest.raises(UsageError, match=r"no tests to run.*no reference answer"):
        solve(bare, decoder=decoder, verifiers=[verifier, math_answer()])
    assert decoder.requests == []


def test_tests_that_cannot_be_run_are_refused_before_anything_is_decoded(verifier: UnitTests) -> None:
    decoder = ScriptedDecoder([RIGHT])
    broken = PROBLEM.model_copy(update={"tests": "assert add(1, 2 == 3"})
    with pytest.raises(UsageError, match="line 1"):
        solve(broken, decoder=decoder, verifiers=[verifier])
    assert decoder.requests == []


def test_among_many_problems_one_without_tests_fails_alone(verifier: UnitTests) -> None:
    decoder = ScriptedDecoder(lambda request: RIGHT)
    with Search(decoder=decoder, strategy=BestOfN(1), verifiers=[verifier]) as search:
        good, bad = search.solve_many([PROBLEM, Problem(prompt="Write something.", id="other")])
    assert good.verified
    assert bad.status == "failed"
    assert "no tests" in bad.reason


def test_without_a_sandbox_no_code_is_run_and_nothing_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    def holed(tier: sandbox.Tier, *, cached: bool = True) -> sandbox.Report:
        return sandbox.Report(tier, available=False, reason=f"{tier} leaks")

    monkeypatch.setattr(sandbox, "_found", {})
    monkeypatch.setattr(sandbox, "probe", holed)
    decoder = ScriptedDecoder([RIGHT])
    with pytest.raises(sandbox.SandboxUnavailable, match=r"A: A leaks; B: B leaks.*unsafe_no_sandbox"):
        solve(PROBLEM, decoder=decoder)
    assert decoder.requests == []


def test_a_verdict_without_a_sandbox_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "_found", {})
    monkeypatch.setattr(sandbox, "probe", lambda tier, cached=True: sandbox.Report(tier, available=False, reason="no"))
    solution = solve(
        PROBLEM,
        decoder=ScriptedDecoder([WRONG, RIGHT], slots=1),
        strategy=BestOfN(2, stop_at_first=False),
        verifiers=[unit_tests(unsafe_no_sandbox=True)],
    )
    verdicts: list[Verdict] = [verdict for node in solution.tree.nodes() for verdict in node.verdicts]
    assert [verdict.status for verdict in verdicts] == ["rejected", "accepted"]
    assert all(verdict.reason.startswith("(no sandbox) ") for verdict in verdicts)
