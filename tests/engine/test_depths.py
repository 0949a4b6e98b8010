"""Reading every depth: against whole sequences forwarded anew in float64, by transformers' own hidden states."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch

from led_agent.decoding import exploration_law
from led_agent.engine import EngineRequest, depths
from led_agent.engine.depths import NORMS, DepthReader, closing_tokens, inside_thinking
from led_agent.engine.model import ModelParts
from led_agent.errors import ModelError
from led_agent.types import Decoding, DepthExploration
from tests.engine.reference import branches, make_engine
from tests.tiny import tiny_model, tiny_tokenizer

PROMPT, TOKENS = [5, 9, 2, 40], [7, 7, 31, 90, 12, 3, 55, 18, 64, 2, 71, 33, 8, 26, 49]
AT = [0, 1, 4, 5, 11, 14]
TEMPERATURES = (0.6, 1.0, 1.7)


def naive_logits(model: Any, norm: str, at: list[int] = AT) -> torch.Tensor:
    """float64 [n, len(at), vocab]: posteriors after 1 … n blocks where these of TOKENS were about to be chosen."""
    exact = copy.deepcopy(model).double()
    raw: list[torch.Tensor] = []
    exact.model.layers[-1].register_forward_hook(
        lambda _m, _a, out: raw.append(out if torch.is_tensor(out) else out[0])
    )
    with torch.no_grad():
        given = torch.tensor([PROMPT + TOKENS])
        states = exact.model(input_ids=given, output_hidden_states=True, use_cache=False).hidden_states
        stream = torch.cat([*states[1:-1], raw[0]])[:, [len(PROMPT) - 1 + i for i in at]]
        logits: torch.Tensor = exact.lm_head(exact.model.norm(stream) if norm == "final" else stream)
    return logits


@pytest.fixture(params=["llama", "qwen3", "smollm"])
def model(request: pytest.FixtureRequest) -> Any:
    return tiny_model(request.param)


@pytest.fixture(params=["one part", "many parts"])
def parts(request: pytest.FixtureRequest, model: Any, monkeypatch: pytest.MonkeyPatch) -> ModelParts:
    """The model's parts; sequences and logits in one piece, or in several."""
    if request.param == "many parts":
        monkeypatch.setattr(depths, "_CHUNK", 4)
        monkeypatch.setattr(depths, "_TILE_BYTES", 4 * 97 * 2)  # two rows of logits
    return ModelParts.of(copy.deepcopy(model))


def test_entropy_agreement_and_doubt_are_the_naive_ones(model: Any, parts: ModelParts):
    reader = DepthReader(parts, PROMPT)
    read = reader.read(reader.states(TOKENS, AT), TEMPERATURES)
    assert read.entropy.shape == read.agrees.shape == (2, 6, len(AT))
    final = naive_logits(model, "final")[-1]
    for got, agrees, norm in zip(read.entropy, read.agrees, NORMS, strict=True):
        logits = naive_logits(model, norm)
        p = logits.softmax(-1)
        np.testing.assert_allclose(got, torch.special.entr(p).sum(-1).numpy(), atol=2e-4)
        assert (agrees == (logits.argmax(-1) == final.argmax(-1)).numpy()).all()
    assert read.agrees[0, -1].all()
    assert not read.agrees.all()
    for t, doubt in zip(TEMPERATURES, read.doubt, strict=True):
        np.testing.assert_allclose(doubt, (1 - (final / t).softmax(-1).amax(-1)).numpy(), atol=2e-4)


@pytest.mark.parametrize("held", [None, [3, 40, 7, 96, 0, 11], "top"])
def test_movement_is_that_of_the_exact_law(model: Any, parts: ModelParts, held: Any):
    reader = DepthReader(parts, PROMPT)
    final = naive_logits(model, "final")[-1]
    if held == "top":  # tokens that matter
        held = final.argmax(-1).tolist()
    d_values = (2, 3, 6)
    got = reader.moved(reader.states(TOKENS, AT), d_values, TEMPERATURES, top_k=20, held=held)
    assert got.shape == (2, 3, 3, len(AT))
    for i, norm in enumerate(NORMS):
        shallow = naive_logits(model, norm).flip(0)[1:]
        slots = torch.cat([final[None], shallow]).transpose(0, 1)  # [positions, n, vocab]
        for j, t in enumerate(TEMPERATURES):
            for m, d in enumerate(d_values):
                asked = DepthExploration(depths=d, top_k=20, norm=norm)
                kept = None if held is None else torch.tensor(held)
                _, law = exploration_law(slots[:, :d], asked, t, held=kept)
                _, plain = exploration_law(slots[:, :1], DepthExploration(depths=1, top_k=20), t, held=kept)
                np.testing.assert_allclose(got[i, j, m], ((law - plain).abs().sum(-1) / 2).numpy(), atol=2e-4)
    assert got.max() > 0.05


def test_never_more_logits_at_a_time_than_a_tile_holds(parts: ModelParts, monkeypatch: pytest.MonkeyPatch):
    seen: list[int] = []
    head = parts.head
    monkeypatch.setattr(parts, "head", lambda states: seen.append(states.shape[0]) or head(states))
    reader = DepthReader(parts, PROMPT)
    states = reader.states(TOKENS, range(15))
    reader.read(states, (1.0,))
    reader.moved(states, (2, 6), (1.0,), top_k=5)
    assert max(seen) <= max(1, depths._TILE_BYTES // (4 * 97))


def test_one_token_each_will_do():
    model = tiny_model()
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[17]])).logits[0, 0].double()
    reader = DepthReader(ModelParts.of(model), [17])
    read = reader.read(reader.states([4], [0]), (1.0,))
    assert read.entropy[0, -1, 0] == pytest.approx(float(torch.special.entr(logits.softmax(-1)).sum()), abs=1e-5)


def test_states_far_outside_the_head_s_range_have_finite_entropies():
    """Logits in the thousands, as raw states give them."""
    parts = ModelParts.of(tiny_model())
    reader = DepthReader(parts, PROMPT)
    read = reader.read(1e5 * reader.states(TOKENS, AT), (0.6,))
    assert np.isfinite(read.entropy).all()
    assert read.entropy[1].max() < 1e-6 < read.entropy[0].min()


def test_a_banned_token_has_no_share_in_the_entropy(monkeypatch: pytest.MonkeyPatch):
    parts = ModelParts.of(tiny_model())
    reader = DepthReader(parts, PROMPT)
    head = parts.head
    monkeypatch.setattr(parts, "head", lambda states: head(states).index_fill(-1, torch.tensor([8]), float("-inf")))
    logits = naive_logits(tiny_model(), "final").index_fill(-1, torch.tensor([8]), float("-inf"))
    read = reader.read(reader.states(TOKENS, AT), (1.0,))
    np.testing.assert_allclose(read.entropy[0], torch.special.entr(logits.softmax(-1)).sum(-1).numpy(), atol=2e-4)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_are_refused(bad: float):
    reader = DepthReader(ModelParts.of(tiny_model()), PROMPT)
    states = reader.states(TOKENS, AT).clone()
    states[2, 1, 7] = bad
    for look in (lambda: reader.read(states, (1.0,)), lambda: reader.moved(states, (6,), (1.0,), top_k=5)):
        with pytest.raises(ModelError, match=r"aren't finite in float32; try another --dtype"):
            look()


@pytest.mark.parametrize("think", ["token", "pieces"])
@pytest.mark.parametrize(
    "prompt",
    ["w1 w2 <think>\n", "w1 w2 <think>", "w1 w2 <think> w3 w4", "w1 <think> \n \n \n", "w1 <think>\n\n w3", "w1"],
)
def test_the_thinking_span_is_the_engine_s(think: str, prompt: str):
    """An engine that explores wherever it may leaves alone what lies outside the span, and the next token of a closing
    tag; nothing else."""
    tokenizer = tiny_tokenizer(think=think)
    model = tiny_model("llama", vocab_size=len(tokenizer), initializer_range=0.08)
    engine = make_engine(model, tokenizer, slots=24)
    tags, head = engine.parts.thinking, engine.parts.head
    bonus = torch.zeros(engine.parts.vocab)
    bonus[list({*tags.open, *tags.close})] = 3.0 if think == "token" else 4.5
    engine.parts.head = lambda states: head(states) + bonus
    ids = tokenizer.encode(prompt, add_special_tokens=False)
    everywhere = Decoding(temperature=1.0, exploration=DepthExploration(depths=6, exploit=False))
    grown = branches(engine, EngineRequest("x", ids, everywhere, max_tokens=160, n=24))
    for branch in grown.values():
        inside = inside_thinking(engine.parts, ids, branch.token_ids)
        closing = closing_tokens(tags.close, branch.token_ids)
        wanted = [on and token != c for on, token, c in zip(inside, branch.token_ids, closing, strict=True)]
        assert list(branch.explored) == wanted
    assert len({flag for branch in grown.values() for flag in branch.explored}) == 2


def test_what_comes_next_of_a_closing_tag_follows_the_longest_part_that_stands():
    assert closing_tokens((1, 1, 2), [5, 1, 1, 2, 1, 9]) == [1, 1, 1, 2, 1, 1]
    assert closing_tokens((4,), [4, 4]) == [4, 4]


def test_without_tags_nothing_is_thinking():
    parts = ModelParts.of(tiny_model())
    assert inside_thinking(parts, PROMPT, TOKENS) == [False] * len(TOKENS)
