"""Decodings: what they take, what they refuse and with which words, what they are called, and their JSON."""

from __future__ import annotations

import contextlib
import json
import math
import pickle
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from led_agent.errors import UsageError, explain
from led_agent.record import Record
from led_agent.settings import (
    Decoding,
    DepthExploration,
    LatentDistiller,
    LatentNoise,
    LayerContrast,
    QualityGuard,
)

QUICK = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])

# --- one of each, generated --------------------------------------------------------------------------------------

counts = st.integers(1, 10**6)
above_0 = st.floats(0, 1e6, exclude_min=True)
spans = st.sampled_from(["auto", "think", "all", "none"])
explorations = st.builds(
    DepthExploration,
    depths=st.integers(1, 99),
    top_k=counts,
    norm=st.sampled_from(["final", "none", "tuned"]),
    layers=st.sampled_from(["paper", "official"]),
    exploit=st.booleans(),
    gate_first=st.booleans(),
)
noises = st.builds(
    LatentNoise,
    sigma=st.floats(0, 10),
    blocks=st.none() | st.lists(st.integers(1, 99), min_size=2, max_size=2).map(sorted).map(tuple),
    tangent=st.booleans(),
    orthogonal=st.booleans(),
    hold=counts | st.just("step"),
    scale=st.sampled_from(["constant", "confidence", "entropy"]),
    target=above_0,
    prompt_end=st.booleans(),
)
contrasts = st.builds(
    LayerContrast,
    layers=st.sampled_from(["low", "high"]) | st.lists(st.integers(0, 99), min_size=1, max_size=4).map(tuple),
    plausibility=st.floats(0, 1, exclude_min=True),
)
distillers = st.builds(
    LatentDistiller,
    beta=st.floats(0, 10, exclude_min=True),
    rank=st.integers(1, 4096),
    rate=st.floats(0, 1, exclude_min=True),
)
quality_guards = st.builds(
    QualityGuard,
    window=counts,
    min_logprob=st.none() | st.floats(-1e6, 0, exclude_max=True),
    max_entropy=st.none() | above_0,
    ngram=counts,
    repeats=st.none() | st.integers(2, 99),
    max_tokens=st.none() | counts,
    temperature=st.floats(0, 99),
    longest_step=counts,
    every=counts,
)
laws = st.one_of(
    st.just({}),
    st.fixed_dictionaries({"exploration": explorations}),
    st.fixed_dictionaries({"contrast": contrasts}),
    st.fixed_dictionaries({"distiller": distillers}),
)
others = st.fixed_dictionaries(
    {
        "temperature": st.floats(0, 1e6),
        "top_k": st.none() | counts,
        "top_p": st.floats(0, 1, exclude_min=True),
        "min_p": st.floats(0, 1, exclude_max=True),
        "typical_p": st.floats(0, 1, exclude_min=True),
        "repetition_penalty": above_0,
        "latent_noise": st.none() | noises,
        "guard": st.none() | quality_guards,
        "span": spans,
        "siblings": st.sampled_from(["stratified", "independent"]),
        "boundaries": st.lists(st.text(min_size=1, max_size=3), max_size=3).map(tuple),
    }
)
decodings = st.builds(lambda law, rest: Decoding(**law, **rest), laws, others)

RECORDS: dict[type[Record], st.SearchStrategy[Any]] = {
    Decoding: decodings,
    DepthExploration: explorations,
    LatentNoise: noises,
    LayerContrast: contrasts,
    LatentDistiller: distillers,
    QualityGuard: quality_guards,
}


def refusal(kind: type[Record], /, **fields: Any) -> str:
    """The one line that says why ``kind`` refuses these fields."""
    with pytest.raises(ValidationError) as caught:
        kind(**fields)
    return explain(caught.value)


# --- JSON and pickles ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", RECORDS, ids=lambda kind: kind.__name__)
@given(data=st.data())
@QUICK
def test_json_and_pickling_lose_nothing(kind: type[Record], data: st.DataObject) -> None:
    record = data.draw(RECORDS[kind])
    for again in (
        kind.model_validate_json(record.model_dump_json()),
        kind.model_validate(json.loads(json.dumps(record.model_dump(mode="json")))),
        pickle.loads(pickle.dumps(record)),
    ):
        assert again == record
        assert hash(again) == hash(record)
        assert type(again) is kind


@pytest.mark.parametrize("kind", RECORDS, ids=lambda kind: kind.__name__)
def test_no_setting_can_be_changed_and_none_is_made_up(kind: type[Record]) -> None:
    record = kind()
    name = next(iter(kind.model_fields))
    with pytest.raises(ValidationError, match="frozen"):
        setattr(record, name, getattr(record, name))
    assert "colour: Extra inputs are not permitted" in refusal(kind, colour="red")


def test_decodings_of_earlier_versions_still_load() -> None:
    # As led_agent 0.1 wrote them, before there was anything but exploration.
    written = (
        '{"temperature":0.6,"top_k":null,"top_p":1.0,"min_p":0.0,"exploration":{"depths":8,"top_k":20,"norm":"final",'
        '"layers":"paper","exploit":true},"span":"auto"}'
    )
    assert Decoding.model_validate_json(written) == Decoding.led("paper")
    plain = '{"temperature":0.8,"top_k":5,"top_p":0.9,"min_p":0.1,"exploration":null,"span":"all"}'
    assert Decoding.model_validate_json(plain) == Decoding(temperature=0.8, top_k=5, top_p=0.9, min_p=0.1, span="all")


# --- decodings -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.1),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("temperature", "warm"),
        ("top_k", 0),
        ("top_k", -1),
        ("top_k", 2.5),
        ("top_p", 0.0),
        ("top_p", 1.01),
        ("top_p", math.nan),
        ("min_p", -0.01),
        ("min_p", 1.0),
        ("min_p", math.nan),
        ("span", "answer"),
        ("exploration", "paper"),
    ],
)
def test_a_decoding_out_of_its_limits_is_refused(field: str, value: Any) -> None:
    assert field in refusal(Decoding, **{field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [("depths", 0), ("depths", -3), ("depths", 1.5), ("top_k", 0), ("norm", "rms"), ("layers", "all"), ("exploit", 7)],
)
def test_an_exploration_out_of_its_limits_is_refused(field: str, value: Any) -> None:
    assert field in refusal(DepthExploration, **{field: value})


def test_the_smallest_settings_are_allowed() -> None:
    assert Decoding(temperature=0, top_k=1, top_p=1e-9, min_p=0).is_greedy
    assert DepthExploration(depths=1, top_k=1).blocks(4) == ()


def test_the_presets() -> None:
    paper = Decoding.led()
    assert paper == Decoding.led("paper")
    assert paper.exploration == DepthExploration(depths=8, top_k=20, norm="final", layers="paper", exploit=True)
    official = Decoding.led("official")
    assert official.exploration == DepthExploration(depths=8, top_k=8, norm="none", layers="official", exploit=True)
    for preset in (paper, official):
        assert (preset.temperature, preset.top_k, preset.top_p, preset.min_p, preset.span) == (
            0.6,
            None,
            1.0,
            0.0,
            "auto",
        )


def test_a_preset_with_one_setting_changed_keeps_the_others() -> None:
    changed = Decoding.led("official", depths=4, temperature=1.0, span="all", exploit=False)
    assert changed.exploration == DepthExploration(depths=4, top_k=8, norm="none", layers="official", exploit=False)
    assert (changed.temperature, changed.span) == (1.0, "all")


def test_an_unknown_preset_is_refused_with_those_there_are() -> None:
    with pytest.raises(UsageError, match=r"'papr'.*official, paper"):
        Decoding.led("papr")


def test_plain_and_greedy_do_not_explore() -> None:
    assert Decoding.plain().exploration is None
    assert Decoding.plain().temperature == 1.0
    assert Decoding.plain(0.8, top_k=5, top_p=0.9, min_p=0.1) == Decoding(
        temperature=0.8, top_k=5, top_p=0.9, min_p=0.1
    )
    assert Decoding.greedy().is_greedy
    assert Decoding.greedy().exploration is None
    assert not Decoding.plain(1e-6).is_greedy


@pytest.mark.parametrize(
    ("layers", "depths", "n_blocks", "expected"),
    [
        ("paper", 8, 28, (27, 26, 25, 24, 23, 22, 21)),
        ("official", 8, 28, (26, 25, 24, 23, 22, 21, 20)),
        ("paper", 4, 4, (3, 2, 1)),
        ("official", 4, 4, (2, 1, 0)),
        ("paper", 2, 10, (9,)),
        ("official", 1, 10, ()),
    ],
)
def test_which_blocks_are_read(layers: Any, depths: int, n_blocks: int, expected: tuple[int, ...]) -> None:
    assert DepthExploration(depths=depths, layers=layers).blocks(n_blocks) == expected


@given(exploration=explorations, spare=st.integers(0, 50))
@QUICK
def test_the_blocks_are_within_any_model_that_is_deep_enough(exploration: DepthExploration, spare: int) -> None:
    n_blocks = exploration.depths + spare
    blocks = exploration.blocks(n_blocks)
    assert len(blocks) == exploration.depths - 1
    assert all(0 <= block < n_blocks for block in blocks)
    assert list(blocks) == sorted(set(blocks), reverse=True)


# --- decodings and models ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("decoding", "told"),
    [
        (Decoding.plain(top_k=101), r"decoding\.top_k is 101, but the vocabulary has 100"),
        (Decoding.led(top_k=101), r"decoding\.exploration\.top_k is 101, but the vocabulary has 100"),
        (Decoding.led(depths=13), r"decoding\.exploration\.depths is 13, but the model has 12.*depths=12"),
    ],
)
def test_what_a_model_cannot_carry_out_is_refused_with_the_remedy(decoding: Decoding, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        decoding.check_model(12, 100)


@pytest.mark.parametrize(
    "decoding", [Decoding.plain(top_k=100), Decoding.led(top_k=100, depths=12), Decoding.greedy(), Decoding.plain()]
)
def test_settings_at_the_models_limits_are_taken(decoding: Decoding) -> None:
    decoding.check_model(12, 100)


# --- decodings from a command line ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("led.paper", Decoding.led("paper")),
        ("led.official", Decoding.led("official")),
        ("plain", Decoding.plain()),
        ("greedy", Decoding.greedy()),
        ("plain:", Decoding.plain()),
        ("plain:temperature=0.8", Decoding.plain(0.8)),
        ("plain:temperature=1,top_k=5,top_p=0.5,min_p=0.1", Decoding.plain(1.0, top_k=5, top_p=0.5, min_p=0.1)),
        ("led.paper:norm=tuned", Decoding.led("paper", norm="tuned")),
        (
            "led.paper:depths=4,norm=none,layers=official,exploit=false,span=all",
            Decoding.led("paper", depths=4, norm="none", layers="official", exploit=False, span="all"),
        ),
        ("led.official: depths = 4 , exploit = True ,", Decoding.led("official", depths=4)),
    ],
)
def test_a_decoding_by_name(text: str, expected: Decoding) -> None:
    assert Decoding.parse(text) == expected


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "no decoding is called ''"),
        ("led", "led.paper, led.official, plain, greedy"),
        ("Greedy", "no decoding is called 'Greedy'"),
        ("greedy:temperature=1", "does not take temperature"),
        ("plain:depths=4", "does not take depths"),
        ("led.paper:preset=official", "does not take preset"),
        ("plain:temperature", "expected key=value, found 'temperature'"),
        ("plain:=1", "expected key=value"),
        ("plain:temperature=", "expected key=value"),
        ("plain:temperature=-1", "temperature.*greater than or equal to 0"),
        ("plain:temperature=nan", "temperature.*finite"),
        ("plain:temperature=inf", "temperature.*finite"),
        ("plain:temperature=hot", "temperature.*'hot'"),
        ("plain:top_p=0", "top_p.*greater than 0"),
        ("led.paper:depths=0", "depths.*greater than or equal to 1"),
        ("led.paper:depths=2.5", "depths"),
        ("led.paper:norm=rms", "norm.*'rms'"),
        ("led.paper:span=body", "span.*'body'"),
    ],
)
def test_a_bad_decoding_is_refused_in_words(text: str, told: str) -> None:
    with pytest.raises(UsageError, match=told) as caught:
        Decoding.parse(text)
    assert "\n" not in str(caught.value)


@given(text=st.text(max_size=30) | st.tuples(st.sampled_from(["plain:", "led.paper:"]), st.text()).map("".join))
@QUICK
def test_any_text_is_a_decoding_or_a_usage_error(text: str) -> None:
    with contextlib.suppress(UsageError):
        assert isinstance(Decoding.parse(text), Decoding)


@pytest.mark.parametrize(
    ("decoding", "label"),
    [
        (Decoding.greedy(), "greedy"),
        (Decoding.led(temperature=0.0), "greedy"),
        (Decoding.plain(0.8), "plain T=0.8"),
        (Decoding.plain(1.0, top_k=5, top_p=0.9, min_p=0.05), "plain T=1 top_k=5 top_p=0.9 min_p=0.05"),
        (Decoding.led(), "led d=8 k=20 T=0.6"),
        (Decoding.led("official", temperature=1.0), "led d=8 k=8 T=1"),
        (Decoding.led(span="none"), "plain T=0.6"),
    ],
)
def test_a_decodings_label(decoding: Decoding, label: str) -> None:
    assert decoding.label == label


# --- limits of each method's own settings --------------------------------------------------------------------------

NUMBERS_THAT_ARE_NONE = [math.nan, math.inf, -math.inf, "much"]


def refused(kind: type[Record], **values: list[Any]) -> list[Any]:
    return [pytest.param(kind, field, value, id=f"{field}={value}") for field in values for value in values[field]]


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        *refused(
            Decoding,
            typical_p=[0.0, 1.01, -1.0, *NUMBERS_THAT_ARE_NONE],
            repetition_penalty=[0.0, -1.0, *NUMBERS_THAT_ARE_NONE],
            siblings=["spread", True, None],
            boundaries=["\n", [""], ["\n", ""], [3], None],
            latent_noise=[0.1, {"sigma": 0.1, "colour": "pink"}],
            contrast=["low"],
            distiller=[0.1],
            guard=[True],
        ),
        *refused(
            LatentNoise,
            sigma=[-0.01, 10.01, *NUMBERS_THAT_ARE_NONE],
            blocks=[(0, 1), (3, 2), (-1, 4), (1,), (1, 2, 3), 4, (1.5, 2), "middle"],
            hold=[0, -1, 1.5, "span", None],
            scale=["linear", None],
            target=[0.0, -1.0, *NUMBERS_THAT_ARE_NONE],
            tangent=["maybe"],
            orthogonal=["maybe"],
            prompt_end=["maybe"],
        ),
        *refused(
            LayerContrast,
            layers=["middle", (), (-1,), (0, -2), 1.5, None],
            plausibility=[0.0, 1.01, -0.1, *NUMBERS_THAT_ARE_NONE],
        ),
        *refused(
            LatentDistiller,
            beta=[0.0, -0.1, 10.01, *NUMBERS_THAT_ARE_NONE],
            rank=[0, -1, 4097, 1.5],
            rate=[0.0, 1.01, -0.1, *NUMBERS_THAT_ARE_NONE],
        ),
        *refused(
            QualityGuard,
            window=[0, -1, 1.5, None],
            min_logprob=[0.0, 0.1, *NUMBERS_THAT_ARE_NONE],
            max_entropy=[0.0, -0.1, *NUMBERS_THAT_ARE_NONE],
            ngram=[0, -1, 1.5, None],
            repeats=[1, 0, -1, 2.5],
            max_tokens=[0, -1, 1.5],
            temperature=[-0.1, *NUMBERS_THAT_ARE_NONE],
            longest_step=[0, -1, None],
            every=[0, -1, None],
        ),
        *refused(DepthExploration, gate_first=["maybe", None]),
    ],
)
def test_a_setting_out_of_its_limits_is_refused_by_name(kind: type[Record], field: str, value: Any) -> None:
    said = refusal(kind, **{field: value})
    assert said.startswith((field, kind.__name__))
    assert field in said
    assert "\n" not in said.replace("'\n'", "")


@pytest.mark.parametrize(
    ("kind", "fields", "told"),
    [
        (LatentNoise, {"hold": 0}, "hold is a number of tokens, at least 1, or 'step'; found 0"),
        (LatentNoise, {"blocks": (3, 2)}, "blocks are a first and a last one, counted from 1; found (3, 2)"),
        (LatentNoise, {"blocks": (0, 2)}, "blocks are a first and a last one, counted from 1; found (0, 2)"),
        (LatentNoise, {"sigma": 11}, "sigma: Input should be less than or equal to 10 (found '11')"),
        (LayerContrast, {"layers": ()}, "layers are 'low', 'high' or layers from 0 on; found ()"),
        (LayerContrast, {"layers": (2, -1)}, "layers are 'low', 'high' or layers from 0 on; found (2, -1)"),
        (QualityGuard, {"repeats": 1}, "repeats: Input should be greater than or equal to 2 (found '1')"),
        (
            Decoding,
            {"boundaries": ["\n", ""]},
            "boundaries has an empty string; give strings that end a step of thought",
        ),
    ],
)
def test_what_a_refusal_says(kind: type[Record], fields: dict[str, Any], told: str) -> None:
    assert told in refusal(kind, **fields)


@pytest.mark.parametrize(
    "record",
    [
        LatentNoise(sigma=0, blocks=(1, 1), hold=1, target=1e-9),
        LatentNoise(sigma=10, blocks=(4, 4), hold="step"),
        LayerContrast(layers=(0,), plausibility=1.0),
        LatentDistiller(beta=10, rank=4096, rate=1),
        LatentDistiller(beta=1e-9, rank=1, rate=1e-9),
        QualityGuard(window=1, min_logprob=-1e-9, max_entropy=1e-9, ngram=1, repeats=2, max_tokens=1, temperature=0),
        QualityGuard(min_logprob=None, max_entropy=None, repeats=None, max_tokens=None, longest_step=1, every=1),
        Decoding(typical_p=1e-9, repetition_penalty=1e-9, boundaries=()),
    ],
)
def test_settings_at_their_limits_are_taken(record: Record) -> None:
    assert type(record).model_validate(record.model_dump()) == record


METHODS = {"exploration": DepthExploration(), "contrast": LayerContrast(), "distiller": LatentDistiller()}


@pytest.mark.parametrize(
    "names",
    [("exploration", "contrast"), ("exploration", "distiller"), ("contrast", "distiller"), tuple(METHODS)],
)
def test_methods_that_change_the_law_exclude_each_other(names: tuple[str, ...]) -> None:
    said = refusal(Decoding, **{name: METHODS[name] for name in names})
    assert f"{' and '.join(names)} each change the law of the next token; choose one of them" in said
    with pytest.raises(UsageError, match="each change the law"):
        Decoding(**{names[0]: METHODS[names[0]]}).replace(**{name: METHODS[name] for name in names[1:]})


@pytest.mark.parametrize("name", METHODS)
def test_noise_and_guard_go_with_any_method(name: str) -> None:
    together = Decoding(**{name: METHODS[name]}, latent_noise=LatentNoise(), guard=QualityGuard())
    assert together.has_methods
    assert together.noisy


# --- other values --------------------------------------------------------------------------------------------------


def test_replacing_keeps_the_rest_and_changes_nothing_in_place() -> None:
    before = Decoding.led("official", depths=4, span="all")
    after = before.replace(latent_noise=LatentNoise(sigma=0.05), temperature=1.0)
    assert (after.exploration, after.span, after.temperature) == (before.exploration, "all", 1.0)
    assert after.latent_noise == LatentNoise(sigma=0.05)
    assert before.latent_noise is None
    assert after.replace(latent_noise=None, temperature=before.temperature) == before
    assert before.replace() == before
    assert before.replace(exploration=None, contrast=LayerContrast()).contrast == LayerContrast()


@given(decoding=decodings)
@QUICK
def test_replacing_nothing_changes_nothing(decoding: Decoding) -> None:
    assert decoding.replace() == decoding
    assert decoding.replace(temperature=0.25).replace(temperature=decoding.temperature) == decoding


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"temperature": -1}, r"decoding: temperature: .*greater than or equal to 0"),
        ({"warmth": 1}, r"decoding: warmth: Extra inputs"),
        ({"latent_noise": {"sigma": 11}}, r"decoding: latent_noise\.sigma: .*less than or equal to 10"),
        ({"guard": {"window": 0}}, r"decoding: guard\.window: .*greater than or equal to 1"),
        ({"contrast": LayerContrast()}, r"decoding: .*exploration and contrast each change the law"),
    ],
)
def test_replacing_checks_what_it_is_given(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match=told) as caught:
        Decoding.led().replace(**changes)
    assert "\n" not in str(caught.value)


# --- which blocks --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n_blocks", "expected"),
    [(1, (1,)), (2, (1,)), (3, (2,)), (4, (2,)), (6, (3, 4)), (12, (5, 6, 7, 8)), (28, tuple(range(10, 19)))],
)
def test_noise_is_behind_the_middle_third(n_blocks: int, expected: tuple[int, ...]) -> None:
    assert LatentNoise().after(n_blocks) == expected


@pytest.mark.parametrize("n_blocks", range(1, 65))
def test_the_middle_third_is_never_empty_and_in_the_middle(n_blocks: int) -> None:
    after = LatentNoise().after(n_blocks)
    assert after == tuple(range(after[0], after[-1] + 1))
    assert 1 <= after[0] <= after[-1] <= n_blocks
    assert abs(len(after) - n_blocks / 3) < 1
    below, above = after[0] - 1, n_blocks - after[-1]
    assert abs(below - above) <= 1


def test_noise_is_behind_the_blocks_that_were_asked_for() -> None:
    assert LatentNoise(blocks=(4, 7)).after(12) == (4, 5, 6, 7)
    assert LatentNoise(blocks=(12, 12)).after(12) == (12,)


@pytest.mark.parametrize(
    ("layers", "n_blocks", "tied", "expected"),
    [
        # The published candidates: every other layer of the lower and the upper half.
        ("low", 32, False, (0, 2, 4, 6, 8, 10, 12, 14)),
        ("high", 32, False, (16, 18, 20, 22, 24, 26, 28, 30)),
        ("low", 30, True, (2, 4, 6, 8, 10, 12, 14)),
        ("high", 30, True, (15, 17, 19, 21, 23, 25, 27, 29)),
        ("low", 40, False, tuple(range(0, 20, 2))),
        ("high", 40, False, tuple(range(20, 40, 2))),
        # Of more than 40 layers the first and the last 20.
        ("low", 41, False, tuple(range(0, 20, 2))),
        ("high", 41, False, tuple(range(21, 41, 2))),
        ("low", 80, False, tuple(range(0, 20, 2))),
        ("low", 80, True, tuple(range(2, 20, 2))),
        ("high", 80, False, (60, 62, 64, 66, 68, 70, 72, 74, 76, 78)),
        ((3, 1), 32, True, (3, 1)),
    ],
)
def test_which_layers_are_contrasted(layers: Any, n_blocks: int, tied: bool, expected: tuple[int, ...]) -> None:
    assert LayerContrast(layers=layers).blocks(n_blocks, tied=tied) == expected


@pytest.mark.parametrize("layers", ["low", "high"])
@pytest.mark.parametrize("tied", [False, True])
def test_there_is_always_a_layer_to_contrast_and_never_the_last(layers: Any, tied: bool) -> None:
    for n_blocks in range(1, 100):
        blocks = LayerContrast(layers=layers).blocks(n_blocks, tied=tied)
        assert blocks
        assert all(0 <= block < n_blocks for block in blocks)
        if tied and n_blocks > 1:
            assert 0 not in blocks


# --- what a model cannot carry out ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("decoding", "told"),
    [
        (Decoding.noise(blocks=(3, 13)), r"decoding\.latent_noise\.blocks is \(3, 13\), but the model has 12 blocks"),
        (Decoding.dola((2, 12)), r"decoding\.contrast\.layers has 12, but the last layer to contrast with is 11"),
        (Decoding.esamp(top_k=101), r"decoding\.top_k is 101, but the vocabulary has 100 tokens; use at most that"),
        (Decoding.led("official", depths=13), r"decoding\.exploration\.depths is 13.*Decoding\.led\(depths=12\)"),
    ],
)
def test_methods_that_a_model_cannot_carry_out_are_refused(decoding: Decoding, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        decoding.check_model(12, 100)


@pytest.mark.parametrize(
    "decoding",
    [
        Decoding.noise(blocks=(12, 12)),
        Decoding.noise(),
        Decoding.dola((0, 11)),
        Decoding.dola("high"),
        Decoding.esamp(top_k=100),
        Decoding.led("official", depths=12),
    ],
)
def test_methods_at_the_models_limits_are_taken(decoding: Decoding) -> None:
    decoding.check_model(12, 100)
    if decoding.exploration is not None:
        assert min(decoding.exploration.blocks(12)) == 0


# --- what it comes to ----------------------------------------------------------------------------------------------


def test_greedy_leaves_only_penalty_and_contrast() -> None:
    rest: dict[str, Any] = {"latent_noise": LatentNoise(sigma=1.0), "temperature": 0.0}
    assert not Decoding(exploration=DepthExploration(), **rest).has_methods
    assert not Decoding(distiller=LatentDistiller(), **rest).has_methods
    assert Decoding(contrast=LayerContrast(), **rest).has_methods
    assert not Decoding(contrast=LayerContrast(), **rest).noisy


def test_noise_of_nothing_is_no_method() -> None:
    assert not Decoding.noise(0.0).noisy
    assert not Decoding.noise(0.0).has_methods
    assert Decoding.noise(0.01).noisy
    assert not Decoding.plain().has_methods


def test_what_a_branch_goes_on_with_when_it_was_turned_back() -> None:
    guarded = Decoding.led(temperature=1.4).replace(guard=QualityGuard(temperature=0.2), latent_noise=LatentNoise())
    conservative = guarded.conservative
    assert conservative.temperature == 0.2
    assert not conservative.has_methods
    assert conservative.exploration is conservative.latent_noise is conservative.guard is None
    assert guarded.replace(guard=QualityGuard(temperature=0)).conservative.is_greedy


def test_filters_and_penalty_stay_when_turned_back() -> None:
    plain = Decoding(temperature=0.9, top_k=9, top_p=0.8, min_p=0.1, typical_p=0.7, repetition_penalty=1.2)
    guarded = plain.replace(distiller=LatentDistiller(), guard=QualityGuard(temperature=0.2))
    assert guarded.conservative == plain.replace(temperature=0.2)


def test_the_ready_made_ones() -> None:
    assert Decoding.noise(0.3, hold="step", span="all") == Decoding(
        temperature=0.6, latent_noise=LatentNoise(sigma=0.3, hold="step"), span="all"
    )
    assert Decoding.dola() == Decoding(temperature=0.6, contrast=LayerContrast(layers="low"), span="all")
    assert Decoding.esamp(0.2, rank=8, top_p=0.9) == Decoding(
        temperature=0.6, distiller=LatentDistiller(beta=0.2, rank=8), top_p=0.9
    )
    assert Decoding.plain(typical_p=0.9, repetition_penalty=1.1) == Decoding(
        temperature=1.0, typical_p=0.9, repetition_penalty=1.1
    )
    assert Decoding.led(gate_first=True).exploration == DepthExploration(gate_first=True)


@pytest.mark.parametrize(
    ("decoding", "label"),
    [
        (Decoding.noise(0.1), "plain T=0.6 noise σ=0.1"),
        (Decoding.noise(0.0), "plain T=0.6"),
        (Decoding.noise(0.1, span="none"), "plain T=0.6"),
        (Decoding.noise(0.1, temperature=0), "greedy"),
        (Decoding.led().replace(latent_noise=LatentNoise(sigma=0.05)), "led d=8 k=20 T=0.6 noise σ=0.05"),
        (Decoding.led().replace(guard=QualityGuard()), "led d=8 k=20 T=0.6 guarded"),
        (Decoding.dola(), "dola low T=0.6"),
        (Decoding.dola("high", temperature=0), "dola high T=0"),
        (Decoding.dola((2, 4)), "dola layers T=0.6"),
        (Decoding.dola(span="none"), "plain T=0.6"),
        (Decoding.dola(temperature=0, span="none"), "greedy"),
        (Decoding.esamp(0.2), "esamp β=0.2 T=0.6"),
        (Decoding.esamp(top_p=0.9), "esamp β=0.1 T=0.6 top_p=0.9"),
        (Decoding.esamp(temperature=0), "greedy"),
        (Decoding.plain(typical_p=0.9), "plain T=1 typical_p=0.9"),
        (Decoding.plain(repetition_penalty=1.1), "plain T=1 penalty=1.1"),
        (Decoding(temperature=0, repetition_penalty=1.1), "greedy penalty=1.1"),
    ],
)
def test_the_label_names_each_method(decoding: Decoding, label: str) -> None:
    assert decoding.label == label


@given(decoding=decodings)
@QUICK
def test_a_label_is_one_line(decoding: Decoding) -> None:
    assert decoding.label.strip() == decoding.label != ""
    assert "\n" not in decoding.label


# --- methods from a command line -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("noise", Decoding.noise()),
        (
            "noise:sigma=0.2,blocks=4-8,tangent=true,orthogonal=true,hold=step,span=all",
            Decoding.noise(0.2, blocks=(4, 8), tangent=True, orthogonal=True, hold="step", span="all"),
        ),
        (
            "noise:hold=16,scale=entropy,target=0.5,prompt_end=true,temperature=1",
            Decoding.noise(hold=16, scale="entropy", target=0.5, prompt_end=True, temperature=1.0),
        ),
        ("dola", Decoding.dola()),
        ("dola:layers=high,plausibility=0.2,temperature=0", Decoding.dola("high", plausibility=0.2, temperature=0.0)),
        ("dola:layers=2+4+6", Decoding.dola((2, 4, 6))),
        ("esamp", Decoding.esamp()),
        (
            "esamp:beta=0.3,rank=16,rate=1,top_k=50,top_p=0.9,min_p=0.1",
            Decoding.esamp(0.3, rank=16, rate=1.0, top_k=50, top_p=0.9, min_p=0.1),
        ),
        ("led.paper:gate_first=true", Decoding.led(gate_first=True)),
        ("plain:typical_p=0.9,repetition_penalty=1.2", Decoding.plain(typical_p=0.9, repetition_penalty=1.2)),
        # with each
        ("led.paper:noise=0.05", Decoding.led().replace(latent_noise=LatentNoise(sigma=0.05))),
        (
            "led.official:depths=4,noise=0.05,noise.hold=step,noise.blocks=2-3",
            Decoding.led("official", depths=4).replace(
                latent_noise=LatentNoise(sigma=0.05, hold="step", blocks=(2, 3))
            ),
        ),
        ("plain:noise.scale=confidence", Decoding.plain().replace(latent_noise=LatentNoise(scale="confidence"))),
        ("plain:guard=true", Decoding.plain().replace(guard=QualityGuard())),
        ("plain:guard=false", Decoding.plain()),
        ("noise:guard.window=8", Decoding.noise().replace(guard=QualityGuard(window=8))),
        (
            "dola:guard=true,guard.temperature=0,guard.min_logprob=-2.5",
            Decoding.dola().replace(guard=QualityGuard(temperature=0.0, min_logprob=-2.5)),
        ),
        ("greedy:siblings=independent", Decoding.greedy().replace(siblings="independent")),
        ("greedy:guard=true", Decoding.greedy().replace(guard=QualityGuard())),
        (
            "led.paper:top_p=0.9,min_p=0.1,typical_p=0.8,repetition_penalty=1.1,top_k=12",
            Decoding.led(top_k=12).replace(top_p=0.9, min_p=0.1, typical_p=0.8, repetition_penalty=1.1),
        ),
        ("dola:top_p=0.9", Decoding.dola().replace(top_p=0.9)),
    ],
)
def test_a_method_by_name(text: str, expected: Decoding) -> None:
    assert Decoding.parse(text) == expected


def test_one_layer_to_contrast_by_name() -> None:
    assert Decoding.parse("dola:layers=2") == Decoding.dola((2,))


@pytest.mark.parametrize("text", ["led.paper:noise=true", "plain:noise=true"])
def test_noise_that_is_only_switched_on_is_not_the_number_one(text: str) -> None:
    # As ``guard=true`` it may stand for the defaults, or be refused; True must not become sigma = 1.0.
    with contextlib.suppress(UsageError):
        assert Decoding.parse(text).latent_noise == LatentNoise()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("nois", "no decoding is called 'nois'; there are led.paper, led.official, plain, greedy, noise, dola, esamp"),
        ("noise:depth=3", "noise does not take depth"),
        ("noise:noise=0.2", "noise does not take noise"),
        ("dola:top_k=5", "dola does not take top_k"),
        ("greedy:top_p=0.5", "greedy does not take top_p"),
        ("plain:noise.depth=3", r"latent_noise\.depth: Extra inputs"),
        ("plain:noise=loud", r"latent_noise\.sigma: .*'loud'"),
        ("plain:noise=-1", r"latent_noise\.sigma: .*greater than or equal to 0"),
        ("plain:noise.blocks=8-4", r"blocks are a first and a last one, counted from 1; found \(8, 4\)"),
        ("plain:noise.hold=0", "hold is a number of tokens, at least 1, or 'step'; found 0"),
        ("plain:noise.hold=span", "hold"),
        ("noise:sigma=11", "sigma: .*less than or equal to 10"),
        ("noise:blocks=4", "blocks: .*tuple"),
        ("plain:guard=1", r"guard is true or false, found 1; its settings are guard\.KEY=VALUE"),
        ("plain:guard=strict", "guard is true or false, found 'strict'"),
        ("plain:guard.window=0", r"guard\.window: .*greater than or equal to 1"),
        ("plain:guard.colour=red", r"guard\.colour: Extra inputs"),
        ("plain:siblings=spread", "siblings: .*'stratified' or 'independent'.*'spread'"),
        ("dola:layers=middle", "layers"),
        ("dola:layers=2+-4", r"layers"),
        ("esamp:beta=0", "beta: .*greater than 0"),
        ("esamp:rank=0", "rank: .*greater than or equal to 1"),
        ("led.paper:repetition_penalty=0", "repetition_penalty: .*greater than 0"),
    ],
)
def test_a_bad_method_is_refused_in_words(text: str, told: str) -> None:
    with pytest.raises(UsageError, match=told) as caught:
        Decoding.parse(text)
    assert "\n" not in str(caught.value)


def test_only_what_is_not_taken_is_named() -> None:
    with pytest.raises(UsageError, match="does not take depths;"):
        Decoding.parse("plain:temperature=0.5,depths=4")


keys = st.sampled_from(
    [
        "noise",
        "noise.hold",
        "noise.blocks",
        "guard",
        "guard.window",
        "siblings",
        "layers",
        "temperature",
        "sigma",
        "hold",
    ]
)
values = st.sampled_from(
    ["true", "false", "1", "0.5", "4-8", "2+4", "step", "low", "-", "+", "1-", "nan", "independent"]
)


@given(
    name=st.sampled_from(["led.paper", "plain", "greedy", "noise", "dola", "esamp"]),
    options=st.lists(st.tuples(keys, values).map("=".join), max_size=3),
)
@settings(QUICK, max_examples=300)
def test_any_options_make_a_decoding_or_a_usage_error(name: str, options: list[str]) -> None:
    with contextlib.suppress(UsageError):
        assert isinstance(Decoding.parse(f"{name}:{','.join(options)}"), Decoding)
