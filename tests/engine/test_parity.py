"""The engine against plain per-sequence forwards of the same weights, family by family."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from led_agent.engine import EngineRequest
from led_agent.types import Decoding, DepthExploration
from tests.engine.reference import branches, full_logits, greedy, make_engine, true_law
from tests.tiny import FAMILIES, tiny_model

PROMPT = [3, 14, 15, 92, 65, 35, 89, 79, 32, 38, 46]
OTHER = [27, 18, 28]


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_tokens_and_logits_are_those_of_a_plain_forward(family: str):
    model = tiny_model(family)
    engine = make_engine(model, slots=5)
    seen: list[torch.Tensor] = []
    head = engine.parts.head
    engine.parts.head = lambda states: seen.append(head(states)) or seen[-1]  # type: ignore[method-assign]
    grown = branches(
        engine,
        EngineRequest("a", PROMPT, Decoding.greedy(), max_tokens=40),
        EngineRequest("b", OTHER, Decoding.greedy(), max_tokens=25),
    )
    assert list(grown["a"].token_ids) == greedy(model, PROMPT, 40)
    assert list(grown["b"].token_ids) == greedy(model, OTHER, 25)
    logits = full_logits(model, [*PROMPT, *grown["a"].token_ids])[len(PROMPT) - 1 : -1]
    ours = torch.stack([step[0] for step in seen[:40]])
    assert float((ours - logits).abs().max()) <= 1e-5 * max(1.0, float(logits.abs().max()))
    clean = logits.log_softmax(-1)
    expected = clean.gather(1, torch.tensor(grown["a"].token_ids)[:, None]).squeeze(1)
    torch.testing.assert_close(torch.tensor(grown["a"].final_logprobs), expected, atol=1e-4, rtol=1e-4)
    entropy = -(clean.exp() * clean).sum(-1)
    torch.testing.assert_close(torch.tensor(grown["a"].entropies), entropy, atol=1e-4, rtol=1e-4)
    assert set(grown["a"].logprobs) == {0.0}


EXPLORATIONS = [
    DepthExploration(depths=6, top_k=12),
    DepthExploration(depths=6, top_k=12, norm="none", layers="official"),
    DepthExploration(depths=3, top_k=97, layers="official"),
    DepthExploration(depths=4, top_k=5, exploit=False),
    DepthExploration(depths=1, top_k=9),
]


@pytest.mark.parametrize("exploration", EXPLORATIONS, ids=lambda e: f"d{e.depths}-{e.norm}-{e.layers}-{e.exploit}")
def test_the_first_token_follows_the_law_of_the_hidden_states(exploration: DepthExploration):
    model = tiny_model("qwen3", initializer_range=0.15)
    n, temperature = 4000, 0.9
    law = true_law(copy.deepcopy(model).double(), PROMPT, exploration, temperature)
    engine = make_engine(model, slots=64)
    decoding = Decoding(temperature=temperature, exploration=exploration, span="all", siblings="independent")
    grown = branches(engine, EngineRequest("x", PROMPT, decoding, seed=11, max_tokens=1, n=n))
    tokens = torch.tensor([b.token_ids[0] for b in grown.values()])
    counts = torch.bincount(tokens, minlength=97).double()
    assert float(counts[law == 0].sum()) == 0
    likely = law * n >= 5
    rest_seen, rest_due = float(counts[~likely].sum()), float(n * law[~likely].sum())
    chi2 = float(((counts - n * law) ** 2 / (n * law))[likely].sum()) + (rest_seen - rest_due) ** 2 / max(rest_due, 1)
    freedom = int(likely.sum())
    assert chi2 < freedom + 5 * math.sqrt(2 * freedom)


def test_the_law_later_in_a_branch_is_that_of_its_own_prefix():
    """Taps and caches must be those of the row: each branch's second token against the law behind its first."""
    model = tiny_model("llama", initializer_range=0.15)
    exploration = DepthExploration(depths=5, top_k=6)
    engine = make_engine(model, slots=32)
    decoding = Decoding(temperature=1.0, exploration=exploration, span="all", siblings="independent")
    grown = branches(engine, EngineRequest("x", OTHER, decoding, seed=5, max_tokens=2, n=3000))
    double = copy.deepcopy(model).double()
    firsts = [b.token_ids[0] for b in grown.values()]
    common = max(set(firsts), key=firsts.count)
    law = true_law(double, [*OTHER, common], exploration, 1.0)
    seconds = torch.tensor([b.token_ids[1] for b in grown.values() if b.token_ids[0] == common])
    n = len(seconds)
    counts = torch.bincount(seconds, minlength=97).double()
    assert n > 400
    assert float(counts[law == 0].sum()) == 0
    distance = float((counts / n - law).abs().sum()) / 2
    noise = float((2 * law * (1 - law) / (math.pi * n)).sqrt().sum()) / 2  # expected under the law
    assert distance < 1.5 * noise + 0.01


def test_explored_log_probabilities_are_those_of_the_law_drawn_from():
    model = tiny_model("llama", initializer_range=0.15)
    exploration = DepthExploration(depths=4, top_k=8, exploit=False)
    law = true_law(copy.deepcopy(model).double(), PROMPT, exploration, 0.8)
    engine = make_engine(model)
    decoding = Decoding(temperature=0.8, exploration=exploration, span="all")
    for branch in branches(engine, EngineRequest("x", PROMPT, decoding, max_tokens=1, n=20)).values():
        assert branch.explored == (True,)
        assert math.isclose(branch.logprobs[0], math.log(law[branch.token_ids[0]]), abs_tol=1e-4)
