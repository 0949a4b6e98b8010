"""The arms on a tiny model: each runs, makes what was asked for, and is left alone by the others."""

from __future__ import annotations

import importlib.util
import threading
from pathlib import Path

import pytest
import torch
from transformers import GenerationConfig

from led_agent.bench import bench, llama
from led_agent.bench.gguf_file import dequantised
from led_agent.bench.harness import WARM_UP
from led_agent.bench.peers import ENGINE, LED, Peers
from led_agent.bench.workload import Workload
from led_agent.errors import ModelError, UsageError
from led_agent.models import known_models, locate, made_from

WORK = Workload(branches=3, prompt=20, new=7)
NAMES = {
    "generate": "generate",
    "static": "generate, static cache",
    "continuous": "continuous batching",
    "llama.cpp": "llama.cpp",
}


@pytest.fixture
def peers(saved_model: Path) -> Peers:
    return Peers(str(saved_model), WORK)


def test_all_arms_of_a_model_in_one_run(saved_model: Path):
    found = bench(str(saved_model), WORK, rounds=2, peers=("continuous", "generate", "static"))
    assert [arm.name for arm in found.comparison.arms] == [ENGINE, LED, *list(NAMES.values())[:3]]
    assert [arm.error for arm in found.comparison.arms] == [None] * 5
    assert [len(arm.rates) for arm in found.comparison.arms] == [2] * 5
    assert [(r.arm, r.base) for r in found.comparison.ratios] == [
        (LED, ENGINE),
        *((ENGINE, name) for name in list(NAMES.values())[:3]),
    ]
    assert (found.workload.dtype, found.device, found.threads) == ("float32", "cpu", torch.get_num_threads())
    assert found.absent == ()


@pytest.mark.parametrize("peer", ["generate", "static", "continuous"])
def test_a_peer_makes_exactly_what_was_asked_for_though_the_model_may_end_earlier(peers: Peers, peer: str):
    """The model's own end-of-text token is one of 97 in a nearly even posterior: it would come."""
    arm = peers.arm(peer)
    assert not isinstance(arm, str)
    arm.warm_up()
    for number in range(3):
        tokens, seconds = arm.run(number)
        assert tokens == 21
        assert seconds > 0


def test_continuous_batching_gives_the_shared_model_its_attention_back_and_is_stopped(peers: Peers):
    arm = peers.arm("continuous")
    assert not isinstance(arm, str)
    before = peers._model.config._attn_implementation
    threads = set(threading.enumerate())  # other tests may have left some behind
    arm.warm_up()
    arm.run(0)
    assert peers._model.config._attn_implementation == before
    assert not [t for t in threading.enumerate() if t not in threads and not t.daemon]


def test_a_peer_samples_at_the_temperature_asked_for(saved_model: Path):
    """So cold that all branches are the greedy one, in every peer."""
    cold = Peers(str(saved_model), Workload(branches=2, prompt=9, new=5, temperature=1e-4))
    ids = torch.tensor([WORK.prompt_ids(0, cold.vocab)[:9]])
    greedy = cold._model.generate(
        ids, generation_config=GenerationConfig(max_new_tokens=5, min_new_tokens=5, pad_token_id=0)
    )[0, 9:].tolist()
    from led_agent.bench.peers import ContinuousBatching

    batching = ContinuousBatching(cold._model, cold.workload)
    assert batching.grow(ids[0].tolist(), 5)[0] == [greedy] * 2


def test_tokens_that_are_missing_are_an_error(peers: Peers):
    arm = peers._arm("short", lambda _number, work: ([[1] * work.new] * (work.branches - 1), 1.0))
    with pytest.raises(ModelError, match="3 branches of 7 tokens were asked for; there are 2 of 7 to 7"):
        arm.run(0)


def test_led_notes_what_it_explored_and_plain_decoding_explores_nothing(saved_model: Path):
    from led_agent.types import Decoding

    made = Peers(str(saved_model), WORK)
    led = Decoding.led("paper", temperature=0.8, span="all", exploit=False)
    for decoding, least in ((Decoding.plain(0.8), 0.0), (led, 0.5)):
        arm, noted = made.engine_arm("it", decoding)
        arm.run(0)
        assert (noted.explored[0] > 0) == (least > 0)
        assert noted.explored[0] >= least


def test_nothing_is_left_of_a_prompt_from_round_to_round(saved_model: Path):
    made = Peers(str(saved_model), WORK)
    prefilled = []
    for name in ("a", "b"):
        _, arm = made.engine_arm(name, made.engine_decoding())
        for number in (WARM_UP, 0, 1):
            done, _ = arm._grow(number, WORK)
            prefilled.append(sum(branch.prefill_tokens for branch in done))
    assert len(set(prefilled)) == 1
    assert prefilled[0] > 0


def test_what_does_not_fit_the_context_is_refused(saved_model: Path):
    with pytest.raises(UsageError, match="don't fit the model's context of 256"):
        Peers(str(saved_model), Workload(prompt=250, new=7))


# --- llama.cpp -----------------------------------------------------------------------------------------------------


def test_without_the_package_llama_cpp_is_absent_with_what_to_install(
    saved_model: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(llama, "missing", lambda: "llama_cpp isn't installed: pip install llama-cpp-python")
    found = bench(str(saved_model), WORK, rounds=1, peers=("llama.cpp",))
    assert [(absent.name, absent.reason) for absent in found.absent] == [
        ("llama.cpp", "llama_cpp isn't installed: pip install llama-cpp-python")
    ]


def test_without_a_file_llama_cpp_is_absent_with_how_to_give_one(saved_model: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(llama, "missing", lambda: None)
    assert "--gguf" in str(Peers(str(saved_model), WORK).arm("llama.cpp"))


def test_the_package_is_looked_for():
    assert (llama.missing() is None) == (importlib.util.find_spec("llama_cpp") is not None)


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    packaged = made_from(locate("smollm2"))
    if packaged is None:
        pytest.skip(f"smollm2 isn't converted from a GGUF file here: {known_models()[-1].source}")
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setenv("LED_AGENT_CACHE", str(tmp_path_factory.mktemp("cache")))
    try:
        return dequantised(packaged, "bfloat16")
    finally:
        monkeypatch.undo()


def test_the_gguf_file_holds_the_engines_own_weights(gguf: Path):
    from gguf import GGUFReader
    from gguf.quants import dequantize
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(locate("smollm2"), dtype=torch.bfloat16)
    tensors = {tensor.name: tensor for tensor in GGUFReader(gguf).tensors}
    ours = model.model
    for name, weight in (
        ("token_embd.weight", ours.embed_tokens.weight),
        ("blk.7.ffn_down.weight", ours.layers[7].mlp.down_proj.weight),
        ("blk.29.attn_v.weight", ours.layers[29].self_attn.v_proj.weight),
        ("output_norm.weight", ours.norm.weight),
    ):
        theirs = torch.tensor(dequantize(tensors[name].data, tensors[name].tensor_type))
        assert torch.equal(theirs, weight.detach().float()), name


@pytest.mark.skipif(llama.missing() is not None, reason=str(llama.missing()))
def test_llama_cpp_grows_every_branch_from_the_one_prompt(gguf: Path):
    """So cold that all are greedy: they are one branch, and the engine's."""
    from led_agent.engine import Engine, EngineRequest
    from led_agent.types import Decoding

    engine = Engine.load("smollm2", dtype="float32", slots=1)  # of the same weights: they are bfloat16's
    ids = engine.parts.tokenizer.encode("The capital of France is Paris. The capital of Italy is")
    work = Workload(branches=3, prompt=len(ids), new=6, temperature=1e-4)
    request = EngineRequest("a", ids, Decoding.greedy(), max_tokens=6)
    expected = [list(e.branch.token_ids) for e in engine.generate([request]) if e.branch is not None]
    peer = llama.LlamaCpp(gguf, work, vocab=49152, threads=1)
    assert peer.grow(ids, 6, seed=0) == expected * 3
    assert peer.grow(ids, 6, seed=1) == expected * 3  # nothing is left of the round before
    peer.close()
    with pytest.raises(UsageError, match="vocabulary of 49152 tokens, the model one of 97"):
        llama.LlamaCpp(gguf, work, vocab=97, threads=1)


@pytest.mark.skipif(llama.missing() is not None, reason=str(llama.missing()))
def test_what_llama_cpp_cannot_load_is_named(tmp_path: Path):
    nonsense = tmp_path / "model.gguf"
    nonsense.write_bytes(b"nonsense")
    with pytest.raises(ModelError, match=r"can't load .*model\.gguf"):
        llama.LlamaCpp(nonsense, WORK, vocab=97, threads=1)
