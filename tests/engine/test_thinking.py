"""Where exploration is on: inside the model's thinking, whatever the tags are made of."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from led_agent.decoding import exploration_law
from led_agent.engine import EngineRequest
from led_agent.engine.model import Thinking
from led_agent.engine.state import RowState
from led_agent.types import Branch, Decoding, DepthExploration
from tests.engine.reference import branches, layer_logits, make_engine
from tests.tiny import tiny_model, tiny_tokenizer

EVERY = DepthExploration(depths=6, top_k=20, exploit=False)  # explores wherever it may: flags show the span
THINK = Decoding(temperature=1.0, exploration=EVERY)


def engine_with(think: str, seed: int = 0, slots: int = 16):
    tokenizer = tiny_tokenizer(think=think)
    model = tiny_model("llama", seed=seed, vocab_size=len(tokenizer), initializer_range=0.08)
    return make_engine(model, tokenizer, slots=slots), tokenizer


def make_tags_likely(engine) -> None:
    """Bend the head so that the tags' pieces come often, and so whole tags now and then."""
    tags, head = engine.parts.thinking, engine.parts.head
    bonus = torch.zeros(engine.parts.vocab)
    bonus[list({*tags.open, *tags.close})] = 3.0 if len(tags.open) == 1 else 4.5
    engine.parts.head = lambda states: head(states) + bonus


def inside(branch: Branch, open_: tuple[int, ...], close: tuple[int, ...], thinking: bool) -> list[bool]:
    """For each token, whether it was drawn inside the thinking span: the rule, spelled out over the whole list."""
    spans = []
    ids = branch.token_ids
    for at in range(len(ids)):
        spans.append(thinking)
        if ids[at + 1 - len(open_) : at + 1] == open_ and at + 1 >= len(open_):
            thinking = True
        if ids[at + 1 - len(close) : at + 1] == close and at + 1 >= len(close):
            thinking = False
    return spans


@pytest.mark.parametrize("think", ["token", "pieces"])
@pytest.mark.parametrize("opened", [True, False])
def test_exploration_is_on_between_the_tags_only(think: str, opened: bool):
    engine, tokenizer = engine_with(think)
    tags = engine.parts.thinking
    assert len(tags.open) == (1 if think == "token" else 3)
    prompt = tokenizer.encode("w1 w2 <think>\n" if opened else "w1 w2 <think> w3 w4 w5", add_special_tokens=False)
    make_tags_likely(engine)
    grown = branches(engine, EngineRequest("x", prompt, THINK, max_tokens=160, n=24))
    switched = 0
    for branch in grown.values():
        assert branch.span == "think"
        spans = inside(branch, tags.open, tags.close, opened)
        switched += sum(a != b for a, b in itertools.pairwise(spans))
        for explored, on in zip(branch.explored, spans, strict=True):
            assert on or not explored
        # Inside, all explore but the tokens of the closing tag itself.
        closing = set(tags.close)
        missed = [t for t, e, on in zip(branch.token_ids, branch.explored, spans, strict=True) if on and not e]
        assert set(missed) <= closing
        for at, (token, on) in enumerate(zip(branch.token_ids, spans, strict=True)):
            if on and token == tags.close[-1] and branch.token_ids[at + 1 - len(tags.close) : at + 1] == tags.close:
                assert not branch.explored[at]
    assert switched > 5


def test_a_model_without_tags_explores_everywhere_and_says_so():
    engine, _ = engine_with("none")
    grown = branches(engine, EngineRequest("x", [4, 5], THINK, max_tokens=20))["x"]
    assert grown.span == "all"
    assert all(grown.explored)
    off = branches(engine, EngineRequest("x", [4, 5], THINK.model_copy(update={"span": "none"}), max_tokens=20))["x"]
    assert (off.span, any(off.explored)) == ("none", False)


def test_outside_the_span_the_sampler_is_the_plain_one_to_the_bit():
    engine, tokenizer = engine_with("token")
    prompt = tokenizer.encode("w1 w2 w3", add_special_tokens=False)
    led = branches(engine, EngineRequest("x", prompt, THINK.model_copy(update={"top_p": 0.8}), seed=5, max_tokens=40))
    plain = branches(engine, EngineRequest("x", prompt, Decoding.plain(1.0, top_p=0.8), seed=5, max_tokens=40))
    ids = led["x"].token_ids
    tags = engine.parts.thinking
    until = ids.index(tags.open[0]) + 1 if tags.open[0] in ids else len(ids)
    assert ids[:until] == plain["x"].token_ids[:until]
    assert led["x"].logprobs[:until] == plain["x"].logprobs[:until]


def test_the_closing_tag_keeps_its_unexplored_probability():
    engine, tokenizer = engine_with("token", seed=6, slots=64)  # a seed for which exploration would change it much
    prompt = tokenizer.encode("w1 w2 <think>", add_special_tokens=False)
    close = engine.parts.thinking.close[0]
    model = tiny_model("llama", seed=6, vocab_size=len(tokenizer), initializer_range=0.08).double()
    wide = EVERY.model_copy(update={"top_k": len(tokenizer)})
    logits = layer_logits(model, prompt, wide)
    ids, law = exploration_law(logits, wide, 1.0, held=torch.tensor([close]))
    true = torch.zeros(len(tokenizer), dtype=torch.float64).scatter(0, ids[0], law[0])
    assert math.isclose(true[close], logits[0, 0].softmax(-1)[close], rel_tol=1e-9)
    _, free = exploration_law(logits, wide, 1.0)
    unheld = float(free[0][ids[0] == close])
    n = 8000
    decoding = Decoding(temperature=1.0, exploration=wide, siblings="independent")
    grown = branches(engine, EngineRequest("x", prompt, decoding, max_tokens=1, n=n))
    counts = torch.bincount(torch.tensor([b.token_ids[0] for b in grown.values()]), minlength=len(tokenizer)).double()
    noise = math.sqrt(n * float(true[close]))
    assert abs(n * unheld - n * float(true[close])) > 6 * noise  # else the next line could not tell
    assert abs(float(counts[close]) - n * float(true[close])) < 3.5 * noise
    likely = true * n >= 5
    chi2 = float(((counts - n * true) ** 2 / (n * true))[likely].sum())
    assert chi2 < int(likely.sum()) + 5 * math.sqrt(2 * int(likely.sum()))


def test_a_branch_that_continues_inside_its_thinking_goes_on_exploring():
    engine, tokenizer = engine_with("token")
    tags = engine.parts.thinking
    prompt = tokenizer.encode("w1", add_special_tokens=False)
    for prefix, on in (
        ((*tags.open, 9, 9), True),
        ((*tags.open, 9, *tags.close), False),
        ((*tags.open, 9, *tags.close, 9, *tags.open), True),
        ((9, 9), False),
    ):
        grown = branches(engine, EngineRequest("x", prompt, THINK, prefix_ids=prefix, max_tokens=1))["x"]
        assert grown.explored == (on and grown.token_ids != tags.close,)


def test_a_tag_in_several_pieces_is_followed_across_a_continuation():
    """The prefix ends in the middle of </think>: what completes it must still end the thinking."""
    tags = Thinking(open=(7, 8), close=(1, 2, 3))
    state = RowState(4, tags, torch.device("cpu"))
    state.place(0, token=2, position=5, seed=1, thinking=True, recent=[9, 9, 1, 2])
    state.place(1, token=2, position=5, seed=1, thinking=True, recent=[1, 2, 2])
    assert state.closing(torch.tensor([0, 1])).tolist() == [3, 1]
    state.advance(torch.tensor([3, 3]))
    assert state.thinking.tolist()[:2] == [False, True]
    state.advance(torch.tensor([7, 1]))
    state.advance(torch.tensor([8, 2]))
    assert state.thinking.tolist()[:2] == [True, True]
    assert state.closing(torch.tensor([0, 1])).tolist() == [1, 3]
    state.advance(torch.tensor([1, 3]))
    assert state.thinking.tolist()[:2] == [True, False]
