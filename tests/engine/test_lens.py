"""The tuned lens: its law against float64 hidden states, its file, its training, and where it is looked for."""

from __future__ import annotations

import copy
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from led_agent.decoding import exploration_law
from led_agent.engine import Engine, EngineRequest
from led_agent.engine.choose import posteriors
from led_agent.engine.lens import TunedLens
from led_agent.engine.model import ModelParts, load_parts
from led_agent.engine.tuning import divergences, train_lens
from led_agent.errors import MachineError, UsageError
from led_agent.models import cache_folder, lens_place, lens_places, locate, name_of
from led_agent.types import Branch, Decoding, DepthExploration
from tests.engine.reference import branches
from tests.tiny import tiny_model, tiny_tokenizer

PROMPT, OTHER = [3, 14, 15, 92, 65, 35, 89], [27, 18, 28]
TUNED = DepthExploration(depths=5, top_k=10, norm="tuned", exploit=False)


def random_lens(model: Any, size: float = 0.1) -> TunedLens:
    generator = torch.Generator().manual_seed(7)
    blocks, width = model.config.num_hidden_layers, model.config.hidden_size
    weight = size * torch.randn(blocks - 1, width, width, generator=generator)
    return TunedLens(weight, size * torch.randn(blocks - 1, width, generator=generator))


def lensed_engine(model: Any, lens: TunedLens, **settings: Any) -> Engine:
    engine = Engine(ModelParts.of(copy.deepcopy(model)), **settings)
    engine.parts.lens = lens
    return engine


@torch.no_grad()
def naive_laws(
    model: Any, lens: TunedLens, branch: Branch, exploration: DepthExploration, temperature: float
) -> torch.Tensor:
    """float64 [new, vocab]: each next token's law, by transformers' own hidden states in float64."""
    exact = copy.deepcopy(model).double()
    ids = [*PROMPT, *branch.token_ids]
    out = exact.model(input_ids=torch.tensor([ids]), output_hidden_states=True, use_cache=False)
    at = slice(len(PROMPT) - 1, len(ids) - 1)
    slots = [out.last_hidden_state[0, at]]
    for block in exploration.blocks(len(exact.model.layers)):
        h = out.hidden_states[block][0, at]
        moved = h + h @ lens.weight[block - 1].double().T + lens.bias[block - 1].double()
        slots.append(exact.model.norm(moved))
    logits = exact.lm_head(torch.stack(slots, 1))
    candidates, law = exploration_law(logits, exploration, temperature)
    return torch.zeros_like(logits[:, 0]).scatter(1, candidates, law)


@pytest.mark.parametrize("family", ["llama", "qwen3", "smollm"])
@pytest.mark.parametrize("exploration", [TUNED, DepthExploration(depths=4, top_k=7, norm="tuned", layers="official")])
@pytest.mark.parametrize("ahead", [0, 3])
def test_the_law_is_that_of_translated_hidden_states(family: str, exploration: DepthExploration, ahead: int):
    model = tiny_model(family, initializer_range=0.15)
    lens = random_lens(model)
    engine = lensed_engine(model, lens, ahead=ahead)
    decoding = Decoding(temperature=0.8, exploration=exploration, span="all")
    grown = branches(engine, EngineRequest("x", PROMPT, decoding, max_tokens=7, n=6))
    final = exploration.model_copy(update={"norm": "final"})
    apart = 0.0
    for branch in grown.values():
        laws = naive_laws(model, lens, branch, exploration, 0.8)
        taken = laws.gather(1, torch.tensor(branch.token_ids)[:, None]).squeeze(1).log()
        torch.testing.assert_close(torch.tensor(branch.logprobs).double(), taken, atol=1e-4, rtol=1e-4)
        plain = naive_laws(model, TunedLens.zeros(len(model.model.layers), len(lens.bias[0])), branch, final, 0.8)
        apart = max(apart, float((laws - plain).abs().sum(1).max()))
    assert apart > 0.05, "the lens must have moved the law"


def test_zero_translators_are_the_final_norm_to_the_bit():
    model = tiny_model("qwen3", initializer_range=0.15)
    engine = lensed_engine(model, TunedLens.zeros(6, 48))
    grown = [
        branches(
            engine,
            EngineRequest(norm, PROMPT, Decoding.led(depths=6, top_k=12, norm=norm, span="all"), max_tokens=30, n=5),
        )
        for norm in ("tuned", "final")
    ]
    for tuned, final in zip(*(rows.values() for rows in grown), strict=True):
        assert (tuned.token_ids, tuned.logprobs, tuned.explored) == (final.token_ids, final.logprobs, final.explored)
    assert any(any(branch.explored) for branch in grown[0].values())


def test_a_row_is_the_same_to_the_bit_whatever_else_is_in_the_batch():
    model = tiny_model("llama")
    parts = ModelParts.of(model)
    parts.lens = random_lens(model)
    generator = torch.Generator().manual_seed(0)
    states, warmth = torch.randn(23, 4, 48, generator=generator), torch.full((23,), 0.7)
    ids = torch.randint(97, (23, 10), generator=generator)
    with torch.inference_mode():
        whole = posteriors(parts, states, ids, warmth, TUNED)
        for rows in (1, 2, 3, 4, 5, 7, 8, 13, 22):
            assert torch.equal(posteriors(parts, states[:rows], ids[:rows], warmth[:rows], TUNED), whole[:rows])
    engine = lensed_engine(model, parts.lens)
    decoding = Decoding(temperature=0.8, exploration=TUNED, span="all", siblings="independent")
    request = EngineRequest("a", PROMPT, decoding, seed=5, max_tokens=20)
    alone = branches(engine, request)["a"]
    crowd = branches(
        engine, request, *(EngineRequest(f"b{i}", OTHER, decoding, seed=i, max_tokens=9) for i in range(6))
    )
    assert (crowd["a"].token_ids, crowd["a"].logprobs) == (alone.token_ids, alone.logprobs)


def test_states_keep_their_dtype_and_are_translated_in_float32():
    lens = random_lens(tiny_model("llama"))
    states = torch.randn(4, 2, 48).bfloat16()
    moved = lens.translate(states, (5, 2))
    for slot, block in enumerate((5, 2)):
        h = states[:, slot].double()
        exact = h + h @ lens.weight[block - 1].double().T + lens.bias[block - 1].double()
        assert float((moved[:, slot].double() - exact).abs().max()) <= 2**-8 * float(exact.abs().max())
    assert moved.dtype == torch.bfloat16


def test_embeddings_have_no_translator():
    engine = lensed_engine(tiny_model("llama"), TunedLens.zeros(6, 48))
    engine.check(EngineRequest("x", PROMPT, Decoding.led("official", depths=5)))
    with pytest.raises(UsageError, match=r"reads the embeddings of this model of 6 blocks.*at most 5"):
        engine.check(EngineRequest("x", PROMPT, Decoding.led("official", depths=6, norm="tuned")))


# --- training ------------------------------------------------------------------------------------------------------


def states_of(model: Any, seed: int, positions: int = 600) -> torch.Tensor:
    """[n, positions, hidden] of random text, by transformers' own modules."""
    raw: list[torch.Tensor] = []
    hook = model.model.layers[-1].register_forward_hook(lambda _m, _a, out: raw.append(out))
    ids = torch.randint(97, (positions // 30, 30), generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        out = model.model(input_ids=ids, output_hidden_states=True, use_cache=False)
    hook.remove()
    last = raw[0] if torch.is_tensor(raw[0]) else raw[0][0]
    return torch.stack([*out.hidden_states[1:-1], last]).flatten(1, 2)


def test_divergences_are_the_naive_ones():
    model = tiny_model("qwen3", initializer_range=0.15)
    parts, lens, states = ModelParts.of(model), random_lens(model), states_of(model, 1, 60)
    exact = copy.deepcopy(model).double()

    def said(h: torch.Tensor) -> torch.Tensor:
        return exact.lm_head(exact.model.norm(h)).log_softmax(-1)

    with torch.no_grad():
        h = states.double()
        for used in (None, lens):
            moved = [
                h[i] if used is None else h[i] + h[i] @ lens.weight[i].double().T + lens.bias[i].double()
                for i in range(5)
            ]
            final = said(h[-1])
            expected = torch.stack([(final.exp() * (final - said(m))).sum(-1) for m in moved])
            torch.testing.assert_close(divergences(parts, states, used), expected, atol=1e-4, rtol=1e-4)


def test_training_brings_every_depth_nearer_on_text_that_it_has_not_seen():
    model = tiny_model("llama", initializer_range=0.15)
    parts, fresh = ModelParts.of(model), states_of(model, 2)
    lens = train_lens(parts, [states_of(model, 1, 3000)], steps=60, seed=0)
    before, after = (divergences(parts, fresh, one).mean(1) for one in (None, lens))
    assert bool((after < before).all()), (before, after)
    assert float((after / before)[0]) < 0.9


def test_training_depends_on_its_seed_and_on_nothing_else():
    model = tiny_model("llama", initializer_range=0.15)
    parts, states = ModelParts.of(model), states_of(model, 1)
    one, again, other = (train_lens(parts, [states], steps=4, seed=seed) for seed in (0, 0, 1))
    split = train_lens(parts, [states[:, :200], states[:, 200:]], steps=4, seed=0)
    for lens in (again, split):
        assert torch.equal(one.weight, lens.weight)
        assert torch.equal(one.bias, lens.bias)
    assert not torch.equal(one.weight, other.weight)
    assert not any(p.grad is not None for p in model.parameters()), "the model itself is not trained"


# --- the file ------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model of the user's own, without a lens."""
    place = tmp_path / "mine"
    tokenizer = tiny_tokenizer()
    tiny_model("llama", vocab_size=len(tokenizer), eos_token_id=2).save_pretrained(place)
    tokenizer.save_pretrained(place)
    return place


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    cache = tmp_path / "cache"
    monkeypatch.setenv("LED_AGENT_CACHE", str(cache))
    return cache


def request(norm: Any = "tuned") -> EngineRequest:
    return EngineRequest("x", [5, 9, 2], Decoding.led(depths=4, norm=norm, span="all"), max_tokens=3)


def write(folder: Path, **changes: str) -> Path:
    """A lens where the model in this folder will look for it."""
    parts = load_parts(folder)
    place = lens_place(str(folder), parts.fingerprint())
    random_lens(parts.model).save(place, {"fingerprint": parts.fingerprint(), **changes})
    return place


def test_a_missing_lens_is_refused_at_the_border_with_what_to_do(folder: Path):
    engine = Engine(load_parts(folder))
    with pytest.raises(UsageError) as refused:
        engine.submit(request())
    for part in (str(folder / "tuned_lens.safetensors"), "or", "lenses", f"run `led-agent tune-lens {folder}`"):
        assert part in str(refused.value)
    assert not engine.busy
    assert branches(engine, request("final"))["x"].finish == "length"
    with pytest.raises(UsageError, match=r"ModelParts\.lens"):
        Engine(ModelParts.of(tiny_model())).check(request())


def test_an_embedded_model_is_named_as_one_names_it():
    engine = Engine.load("countdown")
    with pytest.raises(UsageError, match=r"run `led-agent tune-lens countdown`"):
        engine.check(request())


def test_a_lens_comes_back_as_it_was_and_is_used(folder: Path):
    place = write(folder)
    assert place == folder / "tuned_lens.safetensors"
    parts = load_parts(folder)
    engine = Engine(parts)
    grown = branches(engine, request())
    assert len(grown["x"].token_ids) == 3
    kept = random_lens(parts.model)
    assert parts.lens is not None
    assert torch.equal(parts.lens.weight, kept.weight)
    assert torch.equal(parts.lens.bias, kept.bias)


def test_a_lens_in_the_cache_serves_a_folder_that_holds_none(folder: Path):
    place, parts = write(folder), load_parts(folder)
    cached = lens_places(str(folder), parts.fingerprint())[-1]
    cached.parent.mkdir(parents=True)
    place.rename(cached)
    assert parts.tuned().weight.shape == (5, 48, 48)


def test_another_models_lens_is_refused(folder: Path):
    place = write(folder, fingerprint="0123abcd")
    with pytest.raises(UsageError, match=r"fingerprint is 0123abcd, this model's is [0-9a-f]{32}; run `led-agent tune"):
        Engine(load_parts(folder)).check(request())
    write(folder)
    Engine(load_parts(folder)).check(request())
    with pytest.raises(UsageError, match=f"{place} was made for other weights or another dtype"):
        Engine(load_parts(folder, dtype="bfloat16")).check(request())


def test_a_torn_file_or_one_of_another_kind_is_refused(folder: Path):
    place = write(folder)
    whole = place.read_bytes()
    for torn in (whole[:-100], whole[:40], b""):
        place.write_bytes(torn)
        with pytest.raises(UsageError, match=r"can't read the tuned lens .*; run `led-agent tune-lens"):
            Engine(load_parts(folder)).check(request())
    shutil.copy(folder / "model.safetensors", place)
    with pytest.raises(UsageError, match=r"is no tuned lens that can be read: .*; run `led-agent tune-lens"):
        Engine(load_parts(folder)).check(request())


@pytest.mark.parametrize(
    ("blocks", "width", "told"),
    [(6, 32, r"1\.weight is \(32, 32\), wanted is \(48, 48\)"), (5, 48, "5.weight is nothing"), (7, 48, "is more")],
)
def test_other_shapes_are_refused(folder: Path, blocks: int, width: int, told: str):
    parts = load_parts(folder)
    TunedLens.zeros(blocks, width).save(folder / "tuned_lens.safetensors", {"fingerprint": parts.fingerprint()})
    with pytest.raises(UsageError, match=rf"doesn't fit a model of 6 blocks and width 48: .*{told}"):
        parts.tuned()


def test_entries_that_are_not_finite_are_refused(folder: Path):
    parts = load_parts(folder)
    lens = TunedLens.zeros(6, 48)
    lens.bias[3, 7] = math.nan
    lens.save(folder / "tuned_lens.safetensors", {"fingerprint": parts.fingerprint()})
    with pytest.raises(UsageError, match="entries that aren't finite; run"):
        parts.tuned()


def test_a_file_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path):
    (tmp_path / "taken").mkdir()
    lens = TunedLens.zeros(3, 8)
    with pytest.raises(MachineError, match="can't write the lens"):
        lens.save(tmp_path / "taken", {})
    with pytest.raises(MachineError, match="can't write the lens"):
        lens.save(tmp_path / "nowhere" / "lens", {})
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_where_a_lens_lies(folder: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    cached = own_cache / "lenses" / "ab.safetensors"
    assert lens_places(str(folder), "ab") == [folder / "tuned_lens.safetensors", cached]
    assert lens_places(locate("countdown"), "ab") == [cached]
    assert lens_places("Qwen/Qwen3-4B-Thinking-2507", "ab") == [cached]
    converted = own_cache / "models" / "some"
    converted.mkdir(parents=True)
    assert lens_places(str(converted), "ab") == [cached]
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    snapshot = tmp_path / "hub" / "models--a--b" / "snapshots" / "c"
    snapshot.mkdir(parents=True)
    assert lens_places(str(snapshot), "ab") == [cached]
    assert lens_place(locate("countdown"), "ab") == cached
    assert cached.parent.is_dir()
    assert name_of(locate("countdown-sft")) == "countdown-sft"
    assert name_of(str(folder)) == str(folder)
    assert cache_folder() == own_cache


def test_a_folder_that_cannot_be_written_to_has_its_lens_in_the_cache(
    folder: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("os.access", lambda path, _mode: Path(path) != folder)  # whoever runs the test, root as well
    assert lens_place(str(folder), "ab") == own_cache / "lenses" / "ab.safetensors"
    (own_cache / "lenses").rmdir()
    (own_cache / "lenses").write_text("in the way")
    with pytest.raises(MachineError, match="set LED_AGENT_CACHE to another folder, or give --out FILE"):
        lens_place(str(folder), "ab")
