"""The quality guard at work: branches that degrade are turned back, and nothing else changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from led_agent.engine import Engine, EngineRequest
from led_agent.engine.cache import SlotCache
from led_agent.engine.choose import choose
from led_agent.engine.model import load_parts
from led_agent.models import locate
from led_agent.types import Branch, Decoding, DepthExploration, QualityGuard, Rollback, Sibling
from tests.engine.reference import branches, greedy, make_engine
from tests.tiny import tiny_model, tiny_tokenizer

TOKENIZER = tiny_tokenizer()
MODEL = tiny_model("llama", vocab_size=len(TOKENIZER), initializer_range=0.15)
PROMPT = [3, 14, 15, 9, 65, 35]
NEWLINE = TOKENIZER.convert_tokens_to_ids("\n")
LED = DepthExploration(depths=5, top_k=12)
# Nothing is watched but what a test asks for; afterwards greedy.
QUIET: dict[str, Any] = {"min_logprob": None, "max_entropy": None, "repeats": None, "temperature": 0.0}


def guarded(decoding: Decoding | None = None, **settings: Any) -> Decoding:
    chosen = decoding if decoding is not None else Decoding.plain(1.0)
    return chosen.replace(guard=QualityGuard(**{**QUIET, **settings}), span="all")


def engine_of(slots: int = 8) -> Engine:
    """Without an end of sequence, so that branches are as long as they may be."""
    engine = make_engine(MODEL, TOKENIZER, slots=slots)
    engine.parts.eos = frozenset()
    return engine


def same(a: Branch, b: Branch) -> bool:
    """To the bit."""
    names = ("token_ids", "logprobs", "final_logprobs", "entropies", "explored", "finish", "rollbacks", "discarded")
    return all(getattr(a, name) == getattr(b, name) for name in names)


Trouble = Callable[[Any], torch.Tensor | None]


@pytest.fixture
def bend(monkeypatch: pytest.MonkeyPatch) -> Callable[[Engine, Trouble], Engine]:
    """Let something be added to the logits of those rows of an engine that are in trouble."""

    def bent(engine: Engine, trouble: Trouble) -> Engine:
        def choosing(parts: Any, logits: torch.Tensor, *rest: Any) -> Any:
            if parts is not engine.parts:
                return choose(parts, logits, *rest)
            changes = [trouble(growing) for growing in engine._live]
            none = torch.zeros(parts.vocab)
            return choose(parts, logits + torch.stack([none if c is None else c for c in changes]), *rest)

        monkeypatch.setattr("led_agent.engine.step.choose", choosing)
        return engine

    return bent


def forced(token: int) -> torch.Tensor:
    return torch.zeros(len(TOKENIZER)).index_fill(0, torch.tensor([token]), 100.0)


def stuck(since: int, until: int = 10**9, *, name: str = "x", times: int = 9) -> Trouble:
    """While it explores, branch ``name`` writes w8 again and again from its ``since``-th token on."""

    def trouble(growing: Any) -> torch.Tensor | None:
        on = since <= len(growing.token_ids) < until and growing.id == name
        return forced(11) if on and not growing.wary and len(growing.rollbacks) < times else None

    return trouble


# --- turning back ----------------------------------------------------------------------------------------------------


def test_a_loop_is_turned_back_and_goes_on_greedily_the_second_time_for_good(bend: Any):
    decoding = guarded(ngram=2, repeats=3, longest_step=5)
    free = branches(engine_of(), EngineRequest("x", PROMPT, Decoding.plain(1.0), seed=4, max_tokens=40))["x"]
    engine = bend(engine_of(), stuck(12))
    grown = branches(engine, EngineRequest("x", PROMPT, decoding, seed=4, max_tokens=40))["x"]
    # Four in a row are three pairs: w8 at 12 … 15. The second pair began at 13, the last step before at 10.
    first = Rollback(cause="repetition", measured=3, threshold=3, at=16, back_to=10, lasting=False)
    # Greedy up to 15, where it explores, and loops, again: 15 … 18.
    second = Rollback(cause="repetition", measured=3, threshold=3, at=19, back_to=15, lasting=True)
    assert grown.rollbacks == (first, second)
    assert grown.discarded == 6 + 4
    assert grown.token_ids[:10] == free.token_ids[:10]
    assert list(grown.token_ids[10:]) == greedy(MODEL, [*PROMPT, *grown.token_ids[:10]], 30)
    assert set(grown.logprobs[10:]) == {0.0}
    lengths = {len(column) for column in (grown.logprobs, grown.final_logprobs, grown.entropies, grown.explored)}
    assert lengths == {40}


def test_after_the_conservative_step_it_explores_again(bend: Any):
    decoding = guarded(Decoding(temperature=1.0, exploration=LED), ngram=2, repeats=3, longest_step=5)
    engine = bend(engine_of(), stuck(12, times=1))
    grown = branches(engine, EngineRequest("x", PROMPT, decoding, seed=4, max_tokens=60))["x"]
    assert [(r.at, r.back_to, r.lasting) for r in grown.rollbacks] == [(16, 10, False)]
    assert list(grown.token_ids[10:15]) == greedy(MODEL, [*PROMPT, *grown.token_ids[:10]], 5)
    assert not any(grown.explored[10:15])
    assert any(grown.explored[15:20])
    assert 0.0 not in grown.logprobs[15:]


def test_a_step_ends_at_a_boundary_of_the_text(bend: Any):
    def trouble(growing: Any) -> torch.Tensor | None:
        written = len(growing.token_ids)
        if written in (3, 7, 14):
            return forced(NEWLINE)
        return stuck(9, times=1)(growing) if written >= 9 else forced(12 + written)

    decoding = guarded(Decoding(temperature=1.0, exploration=LED), ngram=1, repeats=3, longest_step=500)
    grown = branches(bend(engine_of(), trouble), EngineRequest("x", PROMPT, decoding, max_tokens=25))["x"]
    assert [(r.at, r.back_to, r.measured) for r in grown.rollbacks] == [(12, 8, 3)]
    assert set(grown.logprobs[8:15]) == {0.0}  # greedy up to the next line's end
    assert 0.0 not in grown.logprobs[15:]


@pytest.mark.parametrize(
    ("cause", "settings"),
    [("logprob", {"min_logprob": -2.0}), ("entropy", {"max_entropy": 0.5})],
)
def test_a_running_mean_past_its_threshold_turns_back_to_where_the_window_began(cause: str, settings: dict[str, float]):
    decoding = guarded(Decoding.plain(5.0), window=4, longest_step=4, **settings)
    grown = branches(engine_of(), EngineRequest("x", PROMPT, decoding, seed=3, max_tokens=30))["x"]
    free = branches(engine_of(), EngineRequest("x", PROMPT, Decoding.plain(5.0), seed=3, max_tokens=30))["x"]
    first, second = grown.rollbacks
    assert (first.cause, first.at, first.back_to, first.lasting) == (cause, 4, 0, False)
    means = free.final_logprobs if cause == "logprob" else free.entropies
    assert first.measured == pytest.approx(sum(means[:4]) / 4)
    assert first.threshold == next(iter(settings.values()))
    assert (second.at, second.back_to, second.lasting) == (8, 4, True)
    assert grown.discarded == 8
    assert list(grown.token_ids) == greedy(MODEL, PROMPT, 30)


def test_a_branch_that_explores_for_too_long_goes_on_conservatively_for_good():
    decoding = guarded(max_tokens=10, longest_step=4)
    grown = branches(engine_of(), EngineRequest("x", PROMPT, decoding, seed=4, max_tokens=30))["x"]
    free = branches(engine_of(), EngineRequest("x", PROMPT, Decoding.plain(1.0), seed=4, max_tokens=30))["x"]
    told = Rollback(cause="length", measured=11, threshold=10, at=11, back_to=8, lasting=True)
    assert grown.rollbacks == (told,)
    assert grown.token_ids[:8] == free.token_ids[:8]
    assert list(grown.token_ids[8:]) == greedy(MODEL, [*PROMPT, *free.token_ids[:8]], 22)


def test_the_guards_temperature_is_that_of_the_continuation(bend: Any):
    """By other random numbers than before; log-probabilities say at which temperature."""
    decoding = guarded(ngram=1, repeats=3, longest_step=500, temperature=0.5)
    grown = branches(bend(engine_of(), stuck(4)), EngineRequest("x", PROMPT, decoding, seed=4, max_tokens=20))["x"]
    assert grown.rollbacks[0].back_to == 0
    model = torch.tensor([PROMPT + list(grown.token_ids)])
    with torch.no_grad():
        law = (MODEL(input_ids=model).logits[0, len(PROMPT) - 1 : -1] / 0.5).log_softmax(-1)
    expected = law.gather(1, torch.tensor(grown.token_ids)[:, None])[:, 0]
    torch.testing.assert_close(torch.tensor(grown.logprobs), expected, atol=1e-4, rtol=0)


def test_what_comes_instead_is_drawn_with_other_numbers(bend: Any):
    decoding = guarded(temperature=1.0, longest_step=500)
    bare = branches(engine_of(), EngineRequest("x", PROMPT, Decoding.plain(1.0), seed=4, max_tokens=20))["x"]
    grown = branches(bend(engine_of(), unsound(7)), EngineRequest("x", PROMPT, decoding, seed=4, max_tokens=20))["x"]
    assert [r.back_to for r in grown.rollbacks] == [0]
    assert grown.token_ids[:5] != bare.token_ids[:5]


# --- not finite ------------------------------------------------------------------------------------------------------


def unsound(at: int, *, name: str = "x", times: int = 1) -> Trouble:
    def trouble(growing: Any) -> torch.Tensor | None:
        on = len(growing.token_ids) == at and growing.id == name and len(growing.rollbacks) < times
        return torch.full((len(TOKENIZER),), float("nan")) if on else None

    return trouble


def test_logits_that_are_not_finite_turn_a_guarded_branch_back_and_end_any_other(bend: Any):
    bare = branches(
        bend(engine_of(), unsound(7)), EngineRequest("x", PROMPT, Decoding.plain(1.0), seed=4, max_tokens=20)
    )["x"]
    assert (bare.finish, len(bare.token_ids)) == ("error", 7)
    decoding = guarded(longest_step=5)
    grown = branches(bend(engine_of(), unsound(7)), EngineRequest("x", PROMPT, decoding, seed=4, max_tokens=20))["x"]
    told = Rollback(cause="nonfinite", measured=0.0, threshold=0.0, at=7, back_to=5, lasting=False)
    assert (grown.finish, grown.rollbacks, grown.discarded) == ("length", (told,), 2)
    assert grown.token_ids[:5] == bare.token_ids[:5]
    assert list(grown.token_ids[5:10]) == greedy(MODEL, [*PROMPT, *bare.token_ids[:5]], 5)


def test_logits_that_stay_not_finite_end_a_guarded_branch_too(bend: Any):
    engine = bend(engine_of(), unsound(7, times=9))
    grown = branches(engine, EngineRequest("x", PROMPT, guarded(longest_step=5), seed=4, max_tokens=20))["x"]
    assert grown.finish == "error"
    assert [r.lasting for r in grown.rollbacks] == [False, True]
    assert len(grown.token_ids) == 7


def poison(engine: Engine, at: int, *, name: str = "x", times: int = 1) -> Engine:
    """Let a block's output be NaN once, as an overflow would: what is behind it writes NaN keys and values."""

    def spoil(states: torch.Tensor) -> torch.Tensor:
        poisoned = states.clone()
        for row, growing in enumerate(engine._live):
            if len(growing.token_ids) == at and growing.id == name and len(growing.rollbacks) < times:
                poisoned[row] = float("nan")
        return poisoned

    forward = engine.parts.forward

    def spoiled(ids: torch.Tensor, positions: torch.Tensor, memory: Any, taps: Any = (), changes: Any = ()) -> Any:
        behind = [(3, spoil)] if isinstance(memory, SlotCache) else []  # in decode steps only
        return forward(ids, positions, memory, taps, [*changes, *behind])

    engine.parts.forward = spoiled  # type: ignore[method-assign]
    return engine


def test_states_that_are_not_finite_are_left_behind():
    engine = poison(engine_of(), 7)
    grown = branches(engine, EngineRequest("x", PROMPT, guarded(longest_step=5), seed=4, max_tokens=20))["x"]
    assert grown.finish == "length", grown.error
    assert [(r.cause, r.at, r.back_to) for r in grown.rollbacks] == [("nonfinite", 7, 5)]
    assert list(grown.token_ids[5:10]) == greedy(MODEL, [*PROMPT, *grown.token_ids[:5]], 5)


def test_a_slot_is_sound_again_after_a_branch_whose_states_were_not_finite():
    engine = poison(engine_of(1), 7)
    bad = EngineRequest("x", PROMPT, Decoding.plain(1.0), seed=4, max_tokens=20)
    good = EngineRequest("y", PROMPT[:2], Decoding.plain(1.0), seed=4, max_tokens=20)
    grown = branches(engine, bad, good)
    assert (grown["x"].finish, len(grown["x"].token_ids)) == ("error", 7)
    assert grown["y"].finish == "length", grown["y"].error
    assert same(grown["y"], branches(engine_of(1), good)["y"])


def test_a_distiller_survives_states_that_are_not_finite():
    engine = poison(engine_of(), 7)
    decoding = guarded(Decoding.esamp(temperature=1.0), longest_step=5)
    grown = branches(engine, EngineRequest("x", PROMPT, decoding, seed=4, max_tokens=30))["x"]
    assert grown.finish == "length", grown.error
    assert [r.cause for r in grown.rollbacks] == ["nonfinite"]


# --- text ------------------------------------------------------------------------------------------------------------


def test_text_is_that_of_the_tokens_right_after_being_turned_back_and_at_the_end(bend: Any):
    engine = bend(engine_of(), stuck(12))
    request = EngineRequest("x", PROMPT, guarded(ngram=2, repeats=3, longest_step=5), seed=4, max_tokens=40)
    engine.submit(request)
    seen = []
    while engine.busy:
        seen += engine.step()
    branch = seen[-1].branch
    assert branch is not None
    texts, counts = [event.text for event in seen], [event.tokens for event in seen]
    assert counts[:-1] == list(range(1, len(seen)))  # each step is paid for, rolled back or not
    assert counts[-1] == len(branch.token_ids) + branch.discarded == 50
    turned = [i for i in range(1, len(texts)) if len(texts[i]) < len(texts[i - 1])]
    assert len(turned) == 2
    for i, rollback in zip(turned, branch.rollbacks, strict=True):
        assert texts[i] == TOKENIZER.decode(branch.token_ids[: rollback.back_to], skip_special_tokens=True)
    assert branch.text == TOKENIZER.decode(branch.token_ids, skip_special_tokens=True)


def test_a_stop_string_is_found_in_what_stands_after_being_turned_back(bend: Any):
    """It is not put together from what was cut off and what came instead."""
    decoding = guarded(ngram=2, repeats=3, longest_step=5)
    whole = branches(bend(engine_of(), stuck(12)), EngineRequest("x", PROMPT, decoding, seed=4, max_tokens=40))["x"]
    stop = TOKENIZER.decode(whole.token_ids[9:12])
    request = EngineRequest("x", PROMPT, decoding, seed=4, max_tokens=40, stop=[stop])
    grown = branches(bend(engine_of(), stuck(12)), request)["x"]
    assert whole.rollbacks[0].back_to == 10
    assert (grown.finish, grown.text) == ("stop", whole.text[: whole.text.index(stop)])


# --- neighbours ------------------------------------------------------------------------------------------------------

STRICT = {"min_logprob": -1.0, "window": 4, "longest_step": 6, "every": 4, "temperature": 0.3}
HOT = {
    "plain": guarded(Decoding.plain(2.0), **STRICT),
    "led": guarded(Decoding(temperature=1.5, exploration=LED), **STRICT),
    "noise": guarded(Decoding.noise(1.0, temperature=0.9), **STRICT),
    "doubt": guarded(Decoding.noise(1.0, temperature=0.9, scale="confidence"), **STRICT),
    "entropy": guarded(Decoding.noise(1.0, temperature=0.9, scale="entropy"), **STRICT),
    "step": guarded(Decoding.noise(1.0, temperature=0.9, hold="step", orthogonal=True), **STRICT),
    "esamp": guarded(Decoding.esamp(0.5, temperature=1.5), **STRICT),
    "dola": guarded(Decoding.dola(temperature=1.5), **STRICT),
    "penalty": guarded(Decoding.plain(2.0, repetition_penalty=1.3), **STRICT),
}


@pytest.mark.parametrize("decoding", HOT.values(), ids=HOT.keys())
def test_what_is_turned_back_does_not_depend_on_its_neighbours_to_the_bit(decoding: Decoding):
    requests = [
        EngineRequest(f"x{i}", PROMPT, decoding, seed=50 + i, max_tokens=40, sibling=Sibling(group=3, index=i, of=4))
        for i in range(4)
    ]
    together = branches(engine_of(4), *requests)
    others = [EngineRequest(name, PROMPT[:3], other, seed=8, max_tokens=55) for name, other in HOT.items()]
    crowded = branches(engine_of(6), *others, *requests)
    assert sum(len(branch.rollbacks) for branch in together.values()) > 2
    # Once at least it explores again after having been turned back, where the batch could leave its mark.
    assert any([r.lasting for r in branch.rollbacks] == [False, True] for branch in together.values())
    for request in requests:
        alone = branches(engine_of(1), request)[request.id]
        assert same(alone, together[request.id])
        assert same(alone, crowded[request.id])


def test_the_posterior_recorded_of_a_noisy_branch_that_was_turned_back_is_the_models_own():
    grown = branches(engine_of(), EngineRequest("x", PROMPT, HOT["noise"], seed=50, max_tokens=60, n=4))
    assert all(branch.rollbacks for branch in grown.values())
    for branch in grown.values():
        with torch.no_grad():
            logits = MODEL(input_ids=torch.tensor([[*PROMPT, *branch.token_ids]])).logits[0, len(PROMPT) - 1 : -1]
        expected = logits.log_softmax(-1).gather(1, torch.tensor(branch.token_ids)[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(branch.final_logprobs), expected, atol=1e-4, rtol=0)


def test_plain_neighbours_do_not_change_by_a_bit():
    plain = EngineRequest("y", PROMPT, Decoding.plain(1.0), seed=5, max_tokens=60)
    led = EngineRequest("z", PROMPT, Decoding(exploration=LED, span="all"), seed=6, max_tokens=60)
    alone = branches(engine_of(1), plain) | branches(engine_of(1), led)
    turned = [EngineRequest(name, PROMPT, d, seed=i, max_tokens=50) for i, (name, d) in enumerate(HOT.items())]
    among = branches(engine_of(11), *turned[:4], plain, *turned[4:], led)
    assert same(among["y"], alone["y"])
    assert same(among["z"], alone["z"])


@pytest.mark.parametrize(
    "decoding",
    [
        Decoding.plain(0.9, top_p=0.9),
        Decoding.greedy(),
        Decoding(temperature=0.9, exploration=LED, span="all"),
        Decoding.noise(0.2, hold="step", span="all"),
        Decoding.esamp(span="all"),
        Decoding.dola(),
    ],
    ids=lambda d: d.label,
)
def test_a_guard_that_finds_nothing_changes_nothing(decoding: Decoding):
    """To the bit; but for the recorded posterior of noisy branches, which is computed in other pieces."""
    request = EngineRequest("x", PROMPT, decoding, seed=5, max_tokens=60, n=3)
    watching = decoding.replace(guard=QualityGuard(min_logprob=-50.0, max_entropy=50.0, repeats=60))
    bare = branches(engine_of(), request)
    grown = branches(engine_of(), EngineRequest("x", PROMPT, watching, seed=5, max_tokens=60, n=3))
    for name, branch in bare.items():
        if decoding.noisy:
            assert (branch.token_ids, branch.logprobs) == (grown[name].token_ids, grown[name].logprobs)
            assert branch.final_logprobs == pytest.approx(grown[name].final_logprobs, abs=1e-4)
        else:
            assert same(branch, grown[name])


def test_a_branch_that_was_turned_back_does_not_draw_its_siblings_numbers(bend: Any):
    """Two of one request, independent; the first is turned back to its start and goes on at the same temperature."""
    decoding = guarded(temperature=1.0, longest_step=500).replace(siblings="independent")
    engine = bend(engine_of(), unsound(5, name="x/0"))
    grown = branches(engine, EngineRequest("x", PROMPT, decoding, seed=4, max_tokens=30, n=6))
    assert grown["x/0"].rollbacks[0].back_to == 0
    assert all(grown["x/0"].token_ids[:4] != grown[f"x/{i}"].token_ids[:4] for i in range(1, 6))


# --- real models -----------------------------------------------------------------------------------------------------


def test_strong_noise_on_the_embedded_model_is_caught_by_the_models_own_posterior():
    engine = Engine(load_parts(locate("countdown"), device="cpu", dtype="float32"), slots=16)
    prompt = engine.parts.tokenizer.encode("3 7 24 = 65 <think>", add_special_tokens=False)
    guard = QualityGuard(window=8, every=4, longest_step=8, min_logprob=-1.5, temperature=0.0)
    loud = Decoding.noise(2.0, temperature=0.6)
    turned = branches(engine, EngineRequest("x", prompt, loud.replace(guard=guard), seed=1, max_tokens=80, n=16))
    bare = branches(engine, EngineRequest("x", prompt, loud, seed=1, max_tokens=80, n=16))
    assert sum("logprob" in {r.cause for r in branch.rollbacks} for branch in turned.values()) > 8

    def mean(grown: dict[str, Branch]) -> float:
        each = [branch.mean_logprob or 0.0 for branch in grown.values()]
        return sum(each) / len(each)

    assert mean(turned) > mean(bare) / 2
    for branch in turned.values():
        for rollback in branch.rollbacks:
            assert rollback.back_to <= rollback.at
            if rollback.cause == "logprob":
                assert rollback.measured < rollback.threshold == -1.5
        assert len(branch.rollbacks) <= 2


def test_strong_noise_on_a_language_model_is_turned_back(smollm2: str):
    engine = Engine(load_parts(smollm2, device="cpu", dtype="float32"), slots=4)
    prompt = engine.parts.tokenizer.encode("The three largest cities of France are", add_special_tokens=False)
    guard = QualityGuard(window=6, every=3, longest_step=6, temperature=0.0)
    decoding = Decoding.noise(1.0, span="all").replace(guard=guard)
    plain = EngineRequest("p", prompt, Decoding.plain(0.6), seed=2, max_tokens=20)
    grown = branches(engine, EngineRequest("x", prompt, decoding, seed=2, max_tokens=30), plain)
    assert grown["x"].rollbacks
    assert grown["x"].rollbacks[-1].lasting
    assert grown["x"].text == engine.parts.tokenizer.decode(grown["x"].token_ids, skip_special_tokens=True)
    alone = branches(Engine(engine.parts, slots=1), plain)["p"]
    for name in ("token_ids", "logprobs", "final_logprobs"):
        assert getattr(grown["p"], name) == getattr(alone, name)
