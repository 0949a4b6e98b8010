"""Every strategy on a real language model, chat template and all: its costs are the engine's to the token."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from led_agent import Branch, Budget, Decoding, Problem, Search, Verdict, strategies
from led_agent.local import LocalDecoder
from led_agent.protocols import Strategy
from led_agent.strategies._steps import Steps

PROBLEM = Problem(prompt="Tom has 3 apples and buys 4 more. How many apples has he? Answer with a number.", id="apples")
SMALL: dict[str, dict[str, Any]] = {
    "MCTS": {"simulations": 4, "batch": 2},
    "Beam": {"width": 2, "expand": 2, "max_depth": 3},
    "DVTS": {"n": 4, "width": 2, "max_depth": 3},
    "TreeOfThoughts": {"propose_n": 2, "keep": 2, "max_depth": 3},
    "ParticleFilter": {"n": 3, "max_depth": 3},
    "Repair": {"inner": strategies.BestOfN(2), "rounds": 2},
    "Fallback": {"inner": strategies.BestOfN(2), "repairs": 1, "tries": 2},
    "Escalate": {"inner": strategies.BestOfN(4), "every": 2},
    "Portfolio": {"strategies": (strategies.BestOfN(3), strategies.EntropyBranching(3, roots=1)), "n": 4},
}


def small(name: str) -> Strategy:
    """A strategy with a handful of branches."""
    kind: type[Any] = getattr(strategies, name)
    given = SMALL.get(name, {"n": 3})
    if issubclass(kind, Steps):
        given = {**given, "step": "sentence", "max_step_tokens": 4}
    made: Strategy = kind(**given)
    return made


class Fussy:
    """Rejects everything, and ranks unfinished answers by their length."""

    name = "fussy"

    def __call__(self, problem: Problem, branch: Branch) -> Verdict:
        return Verdict(status="rejected", score=0.3, reason="the answer should be in words", answer=branch.text[-5:])

    def step(self, problem: Problem, branch: Branch) -> float:
        return min(0.9, 0.1 + len(branch.text) / 200)


@pytest.fixture(scope="module")
def decoder(smollm2: str) -> Iterator[LocalDecoder]:
    made = LocalDecoder.load(smollm2, slots=8, dtype="float32")
    yield made
    made.close()


@pytest.mark.slow
@pytest.mark.parametrize("name", strategies.__all__)
def test_a_strategy_runs_on_a_language_model_and_adds_up(decoder: LocalDecoder, name: str) -> None:
    engine = decoder.engine
    before = engine.generated_tokens, engine.prefill_tokens
    search = Search(
        decoder=decoder, strategy=small(name), verifiers=[Fussy()], decoding=Decoding.plain(1.0), max_tokens=8,
        budget=Budget(tokens=400, prefill_tokens=2000, branches=40, verifier_calls=60), seed=5,
    )  # fmt: skip
    solution = search.solve(PROBLEM)
    spent = engine.generated_tokens - before[0], engine.prefill_tokens - before[1]
    assert (solution.usage.generated_tokens, solution.usage.prefill_tokens) == spent
    assert solution.status in ("exhausted", "budget")
    assert not solution.verified
    assert solution.text
    assert len(solution.tree) > 2
    assert not any(node.status == "failed" for node in solution.tree.nodes())


@pytest.mark.slow
def test_repair_puts_answer_and_reason_to_the_model(decoder: LocalDecoder) -> None:
    solution = Search(decoder=decoder, strategy=small("Repair"), verifiers=[Fussy()], max_tokens=8).solve(PROBLEM)
    repairs = [node for node in solution.tree.nodes() if node.purpose == "repair"]
    assert len(repairs) == 2
    for node in repairs:
        assert node.request is not None
        assert not isinstance(node.request.prompt, str)
        assert node.parent is not None
        said = [message.content for message in node.request.prompt]
        assert solution.tree.text(node.parent).strip() in said
        assert "the answer should be in words" in said[-1]
        assert len(decoder.render(node.request.prompt)) > len(decoder.render(PROBLEM.prompt))
