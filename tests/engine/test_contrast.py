"""DoLa and exploratory sampling in the engine, against their definitions computed naively in float64."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from led_agent.decoding.contrast import random_projection
from led_agent.engine import Engine, EngineRequest
from led_agent.engine.model import ModelParts
from led_agent.types import Branch, Decoding, LatentDistiller
from tests.engine.reference import branches, full_logits, make_engine
from tests.tiny import tiny_model, tiny_tokenizer

PROMPT = [3, 14, 15, 92, 65, 35]
MODEL = tiny_model("llama", initializer_range=0.15)
DOUBLE = copy.deepcopy(MODEL).double()


def same(a: Branch, b: Branch) -> bool:
    """To the bit."""
    names = ("token_ids", "logprobs", "final_logprobs", "entropies", "explored", "finish")
    return all(getattr(a, name) == getattr(b, name) for name in names)


@torch.no_grad()
def streams(model: Any, ids: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """The residual stream by block [blocks, len, hidden], 0 the embeddings, and the normed final states."""
    out = model.model(input_ids=torch.tensor([ids]), output_hidden_states=True, use_cache=False)
    return torch.stack(out.hidden_states)[:-1, 0], out.last_hidden_state[0]


# --- DoLa ------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def dola(model: Any, ids: list[int], layers: tuple[int, ...], plausibility: float) -> tuple[torch.Tensor, int]:
    """Scores float64 [vocab] of the next token, and the layer that it was contrasted with."""
    stream, final = streams(model, ids)
    p = model.lm_head(final[-1]).softmax(-1)
    others = [model.lm_head(model.model.norm(stream[layer, -1])).softmax(-1) for layer in layers]

    def kl(a: torch.Tensor, b: torch.Tensor) -> float:
        return float((a * (a / b).log()).sum())

    divergences = [0.5 * kl(p, (p + q) / 2) + 0.5 * kl(q, (p + q) / 2) for q in others]
    chosen = max(range(len(layers)), key=lambda i: divergences[i])
    scores = torch.where(p >= plausibility * p.max(), (p / others[chosen]).log(), float("-inf"))
    return scores, layers[chosen]


def assert_dola(model: Any, branch: Branch, prompt: list[int], decoding: Decoding, layers: tuple[int, ...]) -> set[int]:
    """Each token's log-probability, or with temperature 0 each token itself; the layers that were chosen."""
    assert decoding.contrast is not None
    chosen = set()
    for at, (token, logprob) in enumerate(zip(branch.token_ids, branch.logprobs, strict=True)):
        scores, layer = dola(model, [*prompt, *branch.token_ids[:at]], layers, decoding.contrast.plausibility)
        chosen.add(layer)
        if decoding.is_greedy:
            assert int(scores.argmax()) == token
        else:
            expected = float((scores / decoding.temperature).log_softmax(-1)[token])
            assert math.isclose(logprob, expected, abs_tol=2e-4)
    return chosen


@pytest.mark.parametrize(
    ("given", "layers"), [("low", (0, 2)), ("high", (3, 5)), ((1, 4, 5), (1, 4, 5))], ids=["low", "high", "named"]
)
def test_rows_are_contrasted_each_with_its_own_layer(given: Any, layers: tuple[int, ...]):
    prompts = {f"x{i}": [(7 * i + 11 * k) % 97 for k in range(3 + i)] for i in range(6)}
    decodings = [Decoding.dola(given, temperature=t, plausibility=a) for t, a in ((0.0, 0.1), (0.8, 0.05), (1.3, 0.3))]
    requests = [
        EngineRequest(name, prompt, decodings[i % 3], seed=i, max_tokens=10)
        for i, (name, prompt) in enumerate(prompts.items())
    ]
    model = tiny_model("qwen3", seed=1, initializer_range=0.4)
    double = copy.deepcopy(model).double()
    grown = branches(make_engine(model), *requests, EngineRequest("p", PROMPT, Decoding.plain(1.0), max_tokens=12))
    chosen = set()
    for request in requests:
        branch = grown[request.id]
        assert branch.span == "all"
        assert not any(branch.explored)
        chosen |= assert_dola(double, branch, prompts[request.id], request.decoding, layers)
        logits = full_logits(model, [*prompts[request.id], *branch.token_ids])[len(prompts[request.id]) - 1 : -1]
        clean = logits.log_softmax(-1).gather(1, torch.tensor(branch.token_ids)[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(branch.final_logprobs), clean, atol=1e-4, rtol=0)
    assert len(chosen) > 1  # else a choice for the batch would do as well


def test_tied_embeddings_are_not_contrasted_with_themselves():
    model = tiny_model("smollm", initializer_range=0.15)
    decoding = Decoding.dola(temperature=1.0)
    grown = branches(make_engine(model), EngineRequest("x", PROMPT, decoding, max_tokens=8))["x"]
    assert assert_dola(copy.deepcopy(model).double(), grown, PROMPT, decoding, (2,)) == {2}


def test_dola_on_a_language_model(smollm2: str):
    model = AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32).eval()
    double = copy.deepcopy(model).double()
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    engine = Engine(ModelParts.of(model, tokenizer), slots=4)
    chosen = set()
    for given, layers in (("low", tuple(range(2, 15, 2))), ("high", tuple(range(15, 30, 2)))):
        decodings = {"g": Decoding.dola(given, temperature=0.0), "s": Decoding.dola(given, temperature=0.9)}
        prompts = {"g": tokenizer.encode("The capital of Italy is"), "s": tokenizer.encode("17 + 25 =")}
        grown = branches(engine, *(EngineRequest(n, prompts[n], d, seed=3, max_tokens=3) for n, d in decodings.items()))
        for name, branch in grown.items():
            chosen |= assert_dola(double, branch, prompts[name], decodings[name], layers)
    assert len(chosen) > 2


def test_dola_composes_with_filters_and_a_penalty():
    decoding = Decoding.dola(temperature=0.9).replace(top_k=3, repetition_penalty=1.5)
    for branch in branches(make_engine(MODEL), EngineRequest("x", PROMPT, decoding, max_tokens=12, n=4)).values():
        for at, token in enumerate(branch.token_ids):
            ids = [*PROMPT, *branch.token_ids[:at]]
            stream, final = streams(DOUBLE, ids)
            with torch.no_grad():
                z = DOUBLE.lm_head(final[-1])
                early = DOUBLE.lm_head(DOUBLE.model.norm(stream[[0, 2], -1])).log_softmax(-1)
            seen = torch.tensor(sorted(set(ids)))
            z[seen] = torch.where(z[seen] < 0, z[seen] * 1.5, z[seen] / 1.5)
            p = z.log_softmax(-1)
            middle = torch.logaddexp(p, early) - math.log(2)
            divergence = (p.exp() * (p - middle) + early.exp() * (early - middle)).sum(-1)
            scores = (p - early[int(divergence.argmax())]).masked_fill(p < p.max() + math.log(0.1), float("-inf"))
            top = scores.topk(3)
            assert token in top.indices.tolist()
            expected = (top.values / 0.9).log_softmax(-1)[top.indices.tolist().index(token)]
            assert math.isclose(branch.logprobs[at], float(expected), abs_tol=2e-4)


# --- exploratory sampling --------------------------------------------------------------------------------------------


@torch.no_grad()
def esamp(model: Any, prompt: list[int], tokens: list[int], decoding: Decoding) -> list[float]:
    """Each token's log-probability, with a distiller of float64 that is trained along the branch's own tokens."""
    distiller = decoding.distiller
    assert distiller is not None
    stream, final = streams(model, [*prompt, *tokens])
    width = final.shape[1]
    first = random_projection(distiller.rank, width, torch.device("cpu")).double()
    last, logprobs = torch.zeros(width, distiller.rank, dtype=torch.float64), []
    for at, token in enumerate(tokens):
        where = len(prompt) - 1 + at
        shallow, true = stream[1, where], final[where]
        features = torch.tanh(first @ (shallow / shallow.square().mean().sqrt()))
        foreseen = last @ features
        z, other = model.lm_head(true), model.lm_head(foreseen)
        moved = ((1 + distiller.beta) * z - distiller.beta * other) / decoding.temperature
        kept = torch.ones_like(z, dtype=torch.bool)
        if decoding.top_k is not None:
            kept &= z >= z.topk(decoding.top_k).values[-1]
        kept &= (z / decoding.temperature).softmax(-1) >= decoding.min_p * (z / decoding.temperature).softmax(-1).max()
        logprobs.append(float(moved.masked_fill(~kept, float("-inf")).log_softmax(-1)[token]))
        last += distiller.rate * torch.outer(true - foreseen, features) / features.square().sum()
    return logprobs


ESAMP = [
    Decoding.esamp(0.3, temperature=0.9, span="all"),
    Decoding.esamp(2.0, temperature=1.2, rank=16, rate=0.2, span="all"),
    Decoding.esamp(0.5, temperature=0.8, rank=33, rate=1.0, top_k=10, span="all"),
    Decoding.esamp(0.5, temperature=1.0, min_p=0.05, span="all"),
]


def esamp_requests() -> list[EngineRequest]:
    return [EngineRequest(f"x{i}", PROMPT[: 2 + i], ESAMP[i % 4], seed=40 + i, max_tokens=10 + 4 * i) for i in range(5)]


@pytest.mark.parametrize("slots", [1, 2, 8])
def test_a_distiller_is_trained_along_its_own_branch_from_nothing(slots: int):
    """With few slots rows are refilled and moved: what the branch before has taught must be gone."""
    requests = esamp_requests()
    grown = branches(make_engine(MODEL, slots=slots), *requests)
    alone = branches(make_engine(MODEL, slots=1), requests[3])
    assert same(alone["x3"], grown["x3"])
    for request in requests:
        branch = grown[request.id]
        assert request.prompt_ids is not None
        expected = esamp(DOUBLE, list(request.prompt_ids), list(branch.token_ids), request.decoding)
        assert branch.logprobs == pytest.approx(expected, abs=5e-4)
        untrained = request.decoding.distiller.model_copy(update={"rate": 1e-9}) if request.decoding.distiller else None
        still = esamp(
            DOUBLE, list(request.prompt_ids), list(branch.token_ids), request.decoding.replace(distiller=untrained)
        )
        assert max(abs(a - b) for a, b in zip(still, expected, strict=True)) > 0.01


def test_siblings_do_not_share_a_distiller():
    decoding = ESAMP[0]
    grown = branches(make_engine(MODEL), EngineRequest("x", PROMPT, decoding, seed=3, max_tokens=15, n=5))
    for branch in grown.values():
        expected = esamp(DOUBLE, PROMPT, list(branch.token_ids), decoding)
        assert branch.logprobs == pytest.approx(expected, abs=5e-4)


def test_little_to_move_is_nearly_plain():
    plain = branches(make_engine(MODEL), EngineRequest("x", PROMPT, Decoding.plain(0.9), seed=3, max_tokens=15))["x"]
    faint = Decoding.esamp(1e-6, temperature=0.9, span="all")
    grown = branches(make_engine(MODEL), EngineRequest("x", PROMPT, faint, seed=3, max_tokens=1))["x"]
    logits = full_logits(MODEL, PROMPT)[-1]
    assert grown.logprobs[0] == pytest.approx(float((logits / 0.9).log_softmax(-1)[grown.token_ids[0]]), abs=1e-4)
    assert plain.span == "none"


# --- outside the span ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "decoding",
    [Decoding.dola(temperature=0.9, span="think"), Decoding.esamp(2.0, temperature=0.9, span="think")],
    ids=["dola", "esamp"],
)
def test_outside_the_thinking_both_are_plain(decoding: Decoding):
    tokenizer = tiny_tokenizer(think="token")
    model = tiny_model("llama", vocab_size=len(tokenizer), initializer_range=0.15)
    engine = make_engine(model, tokenizer)
    engine.parts.eos = frozenset()
    plain = Decoding.plain(0.9)
    for text, differs in (("w1 w2 w3", False), ("w1 <think> w2 </think> w3", False), ("w1 w2 <think>", True)):
        prompt = tokenizer.encode(text, add_special_tokens=False)
        grown, other = (
            branches(engine, EngineRequest("x", prompt, d, seed=8, max_tokens=30))["x"] for d in (decoding, plain)
        )
        opened = engine.parts.thinking.open[0]
        until = grown.token_ids.index(opened) + 1 if opened in grown.token_ids else 30
        if differs:
            assert grown.logprobs != other.logprobs
            continue
        assert until > 3
        # Both lay the same law in another order, so tokens are compared by their log-probabilities.
        ids = [*prompt, *grown.token_ids[:until]]
        law = (full_logits(model, ids)[len(prompt) - 1 : -1] / 0.9).log_softmax(-1)
        expected = law.gather(1, torch.tensor(grown.token_ids[:until])[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(grown.logprobs[:until]), expected, atol=1e-4, rtol=0)
        assert grown.token_ids[:until] == other.token_ids[:until]
    none = branches(engine, EngineRequest("x", [4, 5], decoding.replace(span="none"), seed=8, max_tokens=30))["x"]
    bare = branches(engine, EngineRequest("x", [4, 5], plain, seed=8, max_tokens=30))["x"]
    assert same(none, bare)


def test_a_distiller_needs_sampling():
    greedy = Decoding(temperature=0.0, distiller=LatentDistiller(beta=5.0), span="all")
    grown = branches(make_engine(MODEL), EngineRequest("x", PROMPT, greedy, max_tokens=15))["x"]
    assert same(grown, branches(make_engine(MODEL), EngineRequest("x", PROMPT, Decoding.greedy(), max_tokens=15))["x"])
