"""Stratified siblings in the engine: each follows its law exactly, together they are spread, wherever they grow."""

from __future__ import annotations

import copy
import functools
import math
from typing import Any

import pytest
import torch

from led_agent.decoding.processors import warped
from led_agent.engine import Engine, EngineRequest
from led_agent.engine.growing import derived
from led_agent.engine.model import load_parts
from led_agent.models import locate
from led_agent.types import Branch, Decoding, DepthExploration, LatentNoise, Sibling
from tests.engine.reference import branches, full_logits, make_engine, true_law
from tests.tiny import tiny_model
from training.countdown.problems import prompt_words, sample_puzzles

PROMPT = [3, 14, 15, 9, 65, 35]
VOCAB = 24
# So few tokens that two-token sequences can be counted, and laws that are neither flat nor sharp.
SMALL = tiny_model("qwen3", vocab_size=VOCAB, initializer_range=0.12, num_hidden_layers=6)
SHORT = [3, 14, 15, 9]
MODEL = tiny_model("llama", initializer_range=0.15)
LED = DepthExploration(depths=5, top_k=8)


def same(a: Branch, b: Branch) -> bool:
    """To the bit."""
    names = ("token_ids", "logprobs", "final_logprobs", "entropies", "explored", "finish")
    return all(getattr(a, name) == getattr(b, name) for name in names)


DECODINGS = {
    "plain": Decoding.plain(1.0),
    "top_p": Decoding.plain(1.2, top_p=0.9),
    "typical": Decoding.plain(1.0, typical_p=0.8),
    "led": Decoding(temperature=0.8, exploration=LED, span="all"),
    "gate first": Decoding(temperature=0.8, exploration=LED.model_copy(update={"gate_first": True}), span="all"),
    "noise": Decoding.noise(0.3, temperature=1.0, span="all"),
    "orthogonal": Decoding.noise(0.3, temperature=1.0, orthogonal=True, span="all"),
    "dola": Decoding.dola(temperature=1.0),
    "esamp": Decoding.esamp(0.3, temperature=1.0, span="all"),
}
every_decoding = pytest.mark.parametrize("decoding", DECODINGS.values(), ids=DECODINGS.keys())


# --- each alone ------------------------------------------------------------------------------------------------------

OF = 3


@functools.cache
def groups(name: str) -> torch.Tensor:
    """int64 [groups, siblings, 2]: many groups of siblings of two tokens each."""
    engine = make_engine(SMALL, slots=128)
    many = 400 if name in ("plain", "led", "gate first") else 200
    requests = [EngineRequest(f"g{g}", SHORT, DECODINGS[name], seed=1000 + g, max_tokens=2, n=OF) for g in range(many)]
    grown = branches(engine, *requests)
    return torch.tensor([[grown[f"g{g}/{i}"].token_ids for i in range(OF)] for g in range(many)])


def surprise(counts: torch.Tensor, expected: torch.Tensor) -> float:
    """Chi-square over its degrees of freedom, in standard deviations; rare outcomes together."""
    assert float(counts[expected == 0].sum()) == 0
    likely = expected >= 5
    chi2 = float(((counts - expected) ** 2 / expected)[likely].sum())
    rest, due = float(counts[~likely].sum()), float(expected[~likely].sum())
    chi2 += (rest - due) ** 2 / max(due, 1.0)
    return (chi2 - int(likely.sum())) / math.sqrt(2 * int(likely.sum()))


def law_of(name: str, ids: list[int]) -> torch.Tensor:
    """float64 [vocab], written from the definitions; for noise and distillers of a first token only, which noise has
    not reached and an untrained distiller foresees nothing of."""
    decoding, double = DECODINGS[name], copy.deepcopy(SMALL).double()
    if decoding.exploration is not None:
        return true_law(double, ids, decoding.exploration, decoding.temperature)
    logits = full_logits(double, ids)
    last = logits[-1] / decoding.temperature
    if decoding.distiller is not None:
        last = last * (1 + decoding.distiller.beta)
    if decoding.contrast is not None:
        early = early_logits(double, ids, decoding.contrast.blocks(6, tied=False))
        p, layers = last.log_softmax(-1), early.log_softmax(-1)
        middle = torch.logaddexp(p, layers) - math.log(2)
        kl = (p.exp() * (p - middle)).sum(-1) + (layers.exp() * (layers - middle)).sum(-1)
        kept = p >= p.max() + math.log(decoding.contrast.plausibility)
        last = (p - layers[int(kl.argmax())]).masked_fill(~kept, float("-inf"))
    return warped(last[None], (1.0, None, decoding.top_p, 0.0, decoding.typical_p)).softmax(-1)[0]


@torch.no_grad()
def early_logits(model: Any, ids: list[int], blocks: tuple[int, ...]) -> torch.Tensor:
    states = model.model(input_ids=torch.tensor([ids]), output_hidden_states=True, use_cache=False).hidden_states
    logits: torch.Tensor = model.lm_head(model.model.norm(torch.stack([states[b][0, -1] for b in blocks])))
    return logits


@pytest.mark.parametrize("name", DECODINGS)
def test_each_sibling_follows_the_law(name: str):
    tokens, law = groups(name)[..., 0], law_of(name, SHORT)
    for sibling in range(OF):
        counts = torch.bincount(tokens[:, sibling], minlength=VOCAB).double()
        assert surprise(counts, law * len(tokens)) < 5


@pytest.mark.parametrize("name", ["plain", "top_p", "typical", "led", "gate first", "dola"])
def test_each_siblings_second_token_follows_the_law_behind_its_first(name: str):
    tokens = groups(name)
    laws = {first: law_of(name, [*SHORT, first]) for first in tokens[..., 0].unique().tolist()}
    for sibling in range(OF):
        pairs = tokens[:, sibling]
        expected = torch.stack([laws[first] for first in pairs[:, 0].tolist()]).sum(0)
        assert surprise(torch.bincount(pairs[:, 1], minlength=VOCAB).double(), expected) < 5


# --- together --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 7, 16, 50])
def test_so_many_siblings_begin_with_a_token_as_its_probability_says(n: int):
    """Within one of n · p, which independent branches are not."""
    law = full_logits(MODEL, PROMPT)[-1].double().softmax(-1)
    engine, furthest = make_engine(MODEL, slots=50), {"stratified": 0.0, "independent": 0.0}
    for kind in furthest:
        decoding = Decoding.plain(1.0).model_copy(update={"siblings": kind})
        for seed in range(12):
            grown = branches(engine, EngineRequest("x", PROMPT, decoding, seed=seed, max_tokens=1, n=n))
            tokens = torch.tensor([branch.token_ids[0] for branch in grown.values()])
            away = (torch.bincount(tokens, minlength=97) - n * law).abs()
            furthest[kind] = max(furthest[kind], float(away.max()))
    assert furthest["stratified"] < 1 + 1e-4
    assert furthest["independent"] > 1 or n == 2


def test_two_token_sequences_are_spread_too():
    """The most probable first token's followers: as many of each as their share of the siblings, within 2."""
    engine, n = make_engine(MODEL, slots=64), 64
    first = int(full_logits(MODEL, PROMPT)[-1].argmax())
    law = full_logits(MODEL, PROMPT)[-1].softmax(-1)[first] * full_logits(MODEL, [*PROMPT, first])[-1].softmax(-1)
    for seed in range(6):
        grown = branches(engine, EngineRequest("x", PROMPT, Decoding.plain(1.0), seed=seed, max_tokens=2, n=n))
        seconds = [b.token_ids[1] for b in grown.values() if b.token_ids[0] == first]
        counts = torch.bincount(torch.tensor(seconds, dtype=torch.long), minlength=97)
        assert float((counts - n * law).abs().max()) < 2


@pytest.mark.parametrize(
    "law",
    [Decoding.plain(1.0), Decoding.led(depths=4, temperature=1.0, gate_first=True)],
    ids=["plain", "led-gate-first"],
)
def test_stratified_siblings_of_the_embedded_model_differ_more_than_independent_ones(law: Decoding):
    """Mean distinct sequences of 16 over 20 puzzles. Measured of plain with three seeds: 0.45, 0.45 and 0.85 more."""
    engine = Engine(load_parts(locate("countdown"), device="cpu", dtype="float32"), slots=128)
    encode = engine.parts.tokenizer.encode
    prompts = [
        encode(" ".join(prompt_words(puzzle)), add_special_tokens=False) for puzzle in sample_puzzles("test", 20, 3)
    ]
    distinct = {}
    for kind in ("stratified", "independent"):
        decoding = law.replace(siblings=kind)
        requests = [
            EngineRequest(f"p{i}", prompt, decoding, seed=100 + i, max_tokens=90, n=16)
            for i, prompt in enumerate(prompts)
        ]
        grown = branches(engine, *requests)
        each = [len({grown[f"p{i}/{k}"].token_ids for k in range(16)}) for i in range(len(prompts))]
        distinct[kind] = sum(each) / len(each)
    assert distinct["stratified"] > distinct["independent"] + MORE


MORE = 0.25


# --- wherever they grow ----------------------------------------------------------------------------------------------


@every_decoding
def test_siblings_one_by_one_on_two_engines_are_those_of_one_request_to_the_bit(decoding: Decoding):
    n, seed = 16, 321
    together = branches(
        make_engine(MODEL, slots=16), EngineRequest("x", PROMPT, decoding, seed=seed, max_tokens=14, n=n)
    )
    few = branches(make_engine(MODEL, slots=3), EngineRequest("x", PROMPT, decoding, seed=seed, max_tokens=14, n=n))
    singles = [
        EngineRequest(
            f"x/{i}",
            PROMPT,
            decoding,
            seed=derived(seed, i),
            max_tokens=14,
            sibling=Sibling(group=seed, index=i, of=n),
        )
        for i in range(n)
    ]
    apart = branches(make_engine(MODEL, slots=3), *singles[::2]) | branches(make_engine(MODEL, slots=8), *singles[1::2])
    for name, branch in together.items():
        assert same(branch, few[name])
        assert same(branch, apart[name])
    assert len({branch.token_ids for branch in together.values()}) > 8


def test_siblings_keep_their_codes_when_rows_move():
    """Of different lengths, so that one that ends makes room in the middle."""
    decoding = Decoding.plain(1.0)
    whole = branches(make_engine(MODEL, slots=9), EngineRequest("x", PROMPT, decoding, seed=6, max_tokens=12, n=9))
    singles = [
        EngineRequest(
            f"x/{i}", PROMPT, decoding, seed=derived(6, i), max_tokens=2 + i, sibling=Sibling(group=6, index=i, of=9)
        )
        for i in range(9)
    ]
    for slots in (4, 9):
        for name, branch in branches(make_engine(MODEL, slots=slots), *singles).items():
            assert branch.token_ids == whole[name].token_ids[: len(branch.token_ids)]


@every_decoding
def test_independent_siblings_are_single_requests_with_seeds_of_their_own(decoding: Decoding):
    if decoding.latent_noise is not None and decoding.latent_noise.orthogonal:
        pytest.skip("orthogonal siblings share their directions, however their tokens are drawn")
    alone = decoding.replace(siblings="independent")
    grown = branches(make_engine(MODEL), EngineRequest("x", PROMPT, alone, seed=5, max_tokens=20, n=5))
    singles = [EngineRequest(f"x/{i}", PROMPT, decoding, seed=derived(5, i), max_tokens=20) for i in range(5)]
    for name, branch in branches(make_engine(MODEL), *singles).items():
        assert same(branch, grown[name])


def test_one_sibling_of_one_stands_alone():
    request: dict[str, Any] = {"prompt_ids": PROMPT, "decoding": Decoding.plain(1.0), "seed": 5, "max_tokens": 20}
    engine = make_engine(MODEL)
    alone = branches(engine, EngineRequest("x", **request))["x"]
    only = branches(engine, EngineRequest("x", **request, sibling=Sibling(group=3, index=0, of=1)))["x"]
    assert same(alone, only)


def test_long_siblings_go_on_with_numbers_of_their_own():
    """A code has some 50 random bits; behind them branches must still differ, and still follow the law."""
    flat = tiny_model("llama", initializer_range=0.02)  # near enough 97 equal tokens: 6.6 bits each
    decoding = Decoding.plain(1.0)
    grown = branches(make_engine(flat, slots=64), EngineRequest("x", PROMPT, decoding, seed=5, max_tokens=40, n=64))
    late = torch.tensor([branch.token_ids[8:] for branch in grown.values()])
    counts = torch.bincount(late.flatten(), minlength=97).double()
    law = torch.full((97,), 1 / 97, dtype=torch.float64)
    assert surprise(counts, law * late.numel()) < 6
    assert len({tuple(row) for row in late.tolist()}) == 64
    assert max(len(set(column)) for column in late.T.tolist()) < 64  # no longer spread


def test_noise_with_orthogonal_directions_needs_no_stratified_draws():
    noise = LatentNoise(sigma=0.5, orthogonal=True)
    alone = Decoding(temperature=1.0, latent_noise=noise, span="all", siblings="independent")
    grown = branches(make_engine(MODEL), EngineRequest("x", PROMPT, alone, seed=5, max_tokens=20, n=5))
    other = branches(
        make_engine(MODEL),
        EngineRequest("x", PROMPT, alone.replace(latent_noise=LatentNoise(sigma=0.5)), seed=5, max_tokens=20, n=5),
    )
    assert [b.token_ids[0] for b in grown.values()] == [b.token_ids[0] for b in other.values()]
    assert all(grown[name].token_ids != other[name].token_ids for name in grown)
