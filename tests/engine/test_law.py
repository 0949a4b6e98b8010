"""What is drawn against the exact laws: real states in float64, many draws of one position, transformers' filters."""

from __future__ import annotations

import copy
import itertools
import math
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from led_agent.decoding import exploration_law
from led_agent.decoding.exploration import explored_law
from led_agent.engine import Engine, EngineRequest
from led_agent.engine.model import ModelParts
from led_agent.models import locate
from led_agent.types import Decoding, DepthExploration
from tests.engine.reference import (
    PIECE,
    branches,
    chi_square,
    draw_position,
    layer_logits,
    make_engine,
    sequence_laws,
    true_law,
)
from tests.tiny import tiny_model, tiny_tokenizer

PROMPT = [3, 14, 15, 92, 65, 35]
TINY = tiny_model("qwen3", initializer_range=0.15)
DOUBLE = copy.deepcopy(TINY).double()

QUESTIONS = (
    "The capital of France is",
    "def fibonacci(n):\n    if n < 2:\n        return",
    "Once upon a time, in a quiet valley, there lived",
    "17 + 25 =",
    "<|im_start|>user\nName three rivers.<|im_end|>\n<|im_start|>assistant\n",
    "Q: Is 91 a prime number? Think step by step.\nA:",
)
SHAPES = list(itertools.product((2, 4, 8), ("final", "none"), ("paper", "official"), (0.6, 1.0)))


# --- real states -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def smollm(smollm2: str) -> tuple[Engine, Any]:
    """The engine, and the same weights in float64."""
    model = AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32).eval()
    double = copy.deepcopy(model).double()
    return Engine(ModelParts.of(model, AutoTokenizer.from_pretrained(smollm2)), slots=len(SHAPES)), double


def test_recorded_log_probabilities_are_those_of_a_float64_model(smollm: tuple[Engine, Any]):
    """Every depth, norm, choice of layers and temperature, on a prompt each, in one batch."""
    engine, double = smollm
    requests = {}
    for i, (depths, norm, layers, temperature) in enumerate(SHAPES):
        decoding = Decoding.led(depths=depths, norm=norm, layers=layers, temperature=temperature, span="all")
        ids = engine.parts.tokenizer.encode(QUESTIONS[i % len(QUESTIONS)], add_special_tokens=False)
        decoding = decoding.replace(siblings="independent")
        requests[f"x{i}"] = EngineRequest(f"x{i}", ids, decoding, seed=100 + i, max_tokens=8)
    grown = branches(engine, *requests.values())
    explored = 0
    for name, branch in grown.items():
        request = requests[name]
        assert request.prompt_ids is not None
        assert request.decoding.exploration is not None
        ids, new = [*request.prompt_ids, *branch.token_ids], len(branch.token_ids)
        law, final = sequence_laws(double, ids, new, request.decoding.exploration, request.decoding.temperature)
        drawn = torch.tensor(branch.token_ids)[:, None]
        expected, clean = law.gather(1, drawn).log()[:, 0], final.gather(1, drawn).log()[:, 0]
        torch.testing.assert_close(torch.tensor(branch.logprobs).double(), expected, atol=1e-4, rtol=1e-5)
        torch.testing.assert_close(torch.tensor(branch.final_logprobs).double(), clean, atol=1e-4, rtol=1e-5)
        entropy = torch.special.entr(final).sum(-1)
        torch.testing.assert_close(torch.tensor(branch.entropies).double(), entropy, atol=1e-4, rtol=5e-4)
        explored += sum(branch.explored)
    assert explored > 15


# --- many draws of one position --------------------------------------------------------------------------------------


def assert_follows(tokens: torch.Tensor, law: torch.Tensor) -> None:
    """Chi-square within five of its standard deviations; rare tokens together, impossible ones never."""
    chi2, freedom = chi_square(tokens, law)
    assert chi2 < freedom + 5 * math.sqrt(2 * freedom)


def assert_share(flags: torch.Tensor, share: float) -> None:
    noise = math.sqrt(share * (1 - share) / len(flags))
    assert abs(float(flags.double().mean()) - share) < 4.5 * noise + 1e-9


@pytest.fixture(scope="module")
def tiny() -> ModelParts:
    return make_engine(TINY).parts


@pytest.mark.parametrize("gate_first", [False, True])
@pytest.mark.parametrize(
    ("exploration", "temperature"),
    [
        (DepthExploration(depths=6, top_k=12), 0.6),
        (DepthExploration(depths=4, top_k=40, norm="none", layers="official"), 1.3),
        (DepthExploration(depths=2, top_k=3), 1.0),
        (DepthExploration(depths=5, top_k=20, exploit=False), 0.8),
    ],
    ids=["d6", "all-raw", "k3", "always"],
)
def test_the_sampler_follows_the_law_whichever_comes_first(
    tiny: ModelParts, exploration: DepthExploration, temperature: float, gate_first: bool
):
    law = true_law(DOUBLE, PROMPT, exploration, temperature)
    decoding = Decoding(temperature=temperature, exploration=exploration.model_copy(update={"gate_first": gate_first}))
    drawn = draw_position(tiny, PROMPT, decoding, "all")
    assert_follows(drawn.token, law)
    top = layer_logits(DOUBLE, PROMPT, exploration)[0, 0].div(temperature).softmax(-1).max()
    assert_share(drawn.explored, 1 - float(top) if exploration.exploit else 1.0)
    if not gate_first:
        expected = law[drawn.token].log()
        assert float((drawn.logprob.double() - expected).abs().max()) < 1e-4


@pytest.mark.parametrize("gate_first", [False, True])
def test_on_a_trained_model_too(gate_first: bool):
    engine = Engine(ModelParts.of(AutoModelForCausalLM.from_pretrained(locate("countdown"), dtype=torch.float32)))
    double = AutoModelForCausalLM.from_pretrained(locate("countdown"), dtype=torch.float64).eval()
    tokenizer = AutoTokenizer.from_pretrained(locate("countdown"))
    ids = tokenizer.encode("3 7 24 = 65 <think> 24 *", add_special_tokens=False)
    exploration = DepthExploration(depths=4, gate_first=gate_first)
    drawn = draw_position(engine.parts, ids, Decoding(temperature=1.4, exploration=exploration), "all")
    assert_follows(drawn.token, true_law(double, ids, exploration, 1.4))


@pytest.mark.parametrize("gate_first", [False, True])
def test_inside_the_thinking_the_closing_tag_is_held_and_never_counts_as_explored(gate_first: bool):
    tokenizer = tiny_tokenizer(think="token")
    model = tiny_model("llama", seed=6, vocab_size=len(tokenizer), initializer_range=0.08)
    parts = make_engine(model, tokenizer).parts
    ids = tokenizer.encode("w1 w2 <think>", add_special_tokens=False)
    close = parts.thinking.close[0]
    exploration = DepthExploration(depths=6, top_k=len(tokenizer), gate_first=gate_first)
    logits = layer_logits(model.double(), ids, exploration)
    candidates, kept = exploration_law(logits, exploration, 1.0, held=torch.tensor([close]))
    law = torch.zeros(len(tokenizer), dtype=torch.float64).scatter(0, candidates[0], kept[0])
    drawn = draw_position(parts, ids, Decoding(temperature=1.0, exploration=exploration), "think")
    assert_follows(drawn.token, law)
    p0 = logits[0, 0].softmax(-1)
    assert not bool(drawn.explored[drawn.token == close].any())
    assert_share(drawn.explored, (1 - float(p0.max())) * (1 - float(p0[close])))
    outside = draw_position(parts, ids, Decoding(temperature=1.0, exploration=exploration, span="none"), "none")
    assert_follows(outside.token, p0)
    assert not bool(outside.explored.any())


def test_with_the_gate_first_log_probabilities_are_those_given_its_outcome(tiny: ModelParts):
    exploration = DepthExploration(depths=6, top_k=12, gate_first=True)
    logits = layer_logits(DOUBLE, PROMPT, exploration) / 0.9
    p = logits.softmax(-1)
    ids = p[0, 0].topk(12).indices
    q, _ = explored_law(p[..., ids], torch.ones(1, 12, dtype=torch.bool))
    plain = p[0, 0, ids] / p[0, 0, ids].sum()
    drawn = draw_position(tiny, PROMPT, Decoding(temperature=0.9, exploration=exploration), "all", n=PIECE)
    place = (drawn.token[:, None] == ids).double().argmax(1)
    expected = torch.where(drawn.explored, q[0][place], plain[place]).log()
    assert float((plain - q[0]).abs().sum()) > 0.1
    assert float((drawn.logprob.double() - expected).abs().max()) < 1e-4
    assert 0.1 < float(drawn.explored.double().mean()) < 0.99


def test_with_a_large_vocabulary_nothing_depends_on_how_many_rows_there_are():
    """To the bit. The noise's controller and the guard go by entropies, so these must not either."""
    model = tiny_model("llama", vocab_size=40_000, initializer_range=0.1, num_hidden_layers=2)
    request = EngineRequest("x", PROMPT, Decoding.plain(1.0), seed=3, max_tokens=6)
    alone = branches(make_engine(model, slots=1), request)["x"]
    for others in (1, 2, 5):
        requests = [EngineRequest(f"o{i}", PROMPT[: i + 1], Decoding.plain(1.0), max_tokens=9) for i in range(others)]
        grown = branches(make_engine(model, slots=8), *requests, request)["x"]
        for name in ("token_ids", "logprobs", "final_logprobs", "entropies"):
            assert getattr(grown, name) == getattr(alone, name), f"{name} with {others} others"


# --- edges of the law ------------------------------------------------------------------------------------------------


def test_one_depth_is_top_k_sampling():
    led = Decoding.led(depths=1, top_k=9, temperature=0.8, span="all")
    plain = Decoding.plain(0.8, top_k=9)
    for seed in range(6):
        one = branches(make_engine(TINY), EngineRequest("x", PROMPT, led, seed=seed, max_tokens=30))["x"]
        other = branches(make_engine(TINY), EngineRequest("x", PROMPT, plain, seed=seed, max_tokens=30))["x"]
        assert one.token_ids == other.token_ids
        torch.testing.assert_close(torch.tensor(one.logprobs), torch.tensor(other.logprobs), atol=1e-5, rtol=1e-5)
        assert not any(one.explored)


def test_greedy_with_exploration_is_greedy_to_the_bit():
    for exploit in (True, False):
        led = Decoding.led(depths=6, temperature=0.0, exploit=exploit, span="all")
        one = branches(make_engine(TINY), EngineRequest("x", PROMPT, led, seed=1, max_tokens=30))["x"]
        other = branches(make_engine(TINY), EngineRequest("x", PROMPT, Decoding.greedy(), seed=2, max_tokens=30))["x"]
        names = ("token_ids", "logprobs", "final_logprobs", "entropies", "explored", "span")
        assert all(getattr(one, name) == getattr(other, name) for name in names)


@pytest.mark.parametrize(
    "decoding",
    [
        Decoding.plain(1.0),
        Decoding.plain(1.0, top_k=9),
        Decoding.plain(1.0, top_p=0.8),
        Decoding.plain(1.0, min_p=0.1),
        Decoding.plain(1.0, typical_p=0.7),
        Decoding.led(depths=6, top_k=20, temperature=1.0, span="all"),
        Decoding.led(depths=6, top_k=20, temperature=1.0, span="all", exploit=False),
        Decoding.led(depths=6, top_k=20, temperature=1.0, span="all", gate_first=True),
        Decoding.led(depths=6, top_k=20, temperature=1.0, span="all", norm="none"),
        Decoding.dola(temperature=1.0, plausibility=0.01),
        Decoding.esamp(temperature=1.0),
        Decoding.plain(1.0, repetition_penalty=1.3),
        Decoding.greedy(),
    ],
    ids=lambda d: d.label,
)
def test_banned_tokens_are_never_drawn_however_many_candidates_are_asked_for(decoding: Decoding):
    """A ban is a logit of -inf; here all but five tokens have it."""
    engine = make_engine(TINY, slots=16)
    allowed, head = torch.tensor([5, 17, 40, 41, 96]), engine.parts.head
    ban = torch.full((97,), float("-inf")).index_fill(0, allowed, 0.0)
    engine.parts.head = lambda states: head(states) + ban  # type: ignore[method-assign]
    grown = branches(engine, EngineRequest("x", PROMPT, decoding, max_tokens=25, n=16))
    for branch in grown.values():
        assert branch.finish == "length", branch.error
        assert set(branch.token_ids) <= set(allowed.tolist())
        assert all(math.isfinite(value) for value in (*branch.logprobs, *branch.final_logprobs, *branch.entropies))


# --- filters ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {"repetition_penalty": 1.4},
        {"repetition_penalty": 0.7, "top_k": 30},
        {"typical_p": 0.6},
        {"typical_p": 0.9, "top_k": 40, "repetition_penalty": 1.2},
        {"top_k": 7, "top_p": 0.85},
        {"top_p": 0.9, "min_p": 0.05},
        {"min_p": 0.2},
        {"top_k": 50, "top_p": 0.7, "min_p": 0.1, "typical_p": 0.8, "repetition_penalty": 1.1},
    ],
    ids=lambda s: "-".join(s),
)
@torch.no_grad()
def test_filters_are_those_of_transformers_generate(settings: dict[str, Any]):
    decoding = Decoding.plain(0.9, **settings)
    grown = branches(make_engine(TINY), EngineRequest("x", PROMPT, decoding, seed=3, max_tokens=14, n=4))
    tighter = 0
    for branch in grown.values():
        for at, (token, logprob) in enumerate(zip(branch.token_ids, branch.logprobs, strict=True)):
            ids = torch.tensor([[*PROMPT, *branch.token_ids[:at]]])
            out = TINY.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=True,
                temperature=0.9,
                max_new_tokens=1,
                pad_token_id=0,
                output_scores=True,
                return_dict_in_generate=True,
                **{"top_k": 0, **settings},
            )
            expected = out.scores[0][0].log_softmax(-1)
            assert math.isclose(logprob, float(expected[token]), abs_tol=1e-4)
            tighter += int(expected.isneginf().sum())
    assert tighter > 0 or set(settings) == {"repetition_penalty"}
