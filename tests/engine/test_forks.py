"""Branches that go on from what others have generated: nothing is computed twice, and what is excluded is not drawn."""

from __future__ import annotations

import math
from collections import Counter

import pytest

from led_agent.engine import Engine, EngineRequest
from led_agent.engine.model import ModelParts
from led_agent.types import Branch, Decoding, DepthExploration
from tests.engine.reference import make_engine
from tests.tiny import tiny_model, tiny_tokenizer

PARTS = ModelParts.of(tiny_model("llama", initializer_range=0.15, num_hidden_layers=3))
PROMPT = [3, 14, 15, 92, 65, 35]
LED = Decoding(temperature=0.9, exploration=DepthExploration(depths=3, top_k=12), span="all")
LAWS = {"plain": Decoding.plain(1.1), "led": LED, "gate first": Decoding.led("official", depths=3, gate_first=True)}


def grow(engine: Engine, name: str, decoding: Decoding, **asked: object) -> Branch:
    request = EngineRequest(name, PROMPT, decoding, **asked)  # type: ignore[arg-type]
    (branch,) = (event.branch for event in engine.generate([request]) if event.branch is not None)
    return branch


@pytest.mark.parametrize("kept", [1, 5, 11, 12])
def test_a_fork_inside_an_ended_branch_computes_no_prefix(kept: int) -> None:
    engine = Engine(PARTS, slots=2)
    whole = grow(engine, "whole", Decoding.greedy(), max_tokens=12)
    longer = grow(Engine(PARTS, slots=2), "longer", Decoding.greedy(), max_tokens=18)
    before = engine.prefill_tokens
    assert before == whole.prefill_tokens == len(PROMPT) - 1
    fork = grow(engine, "fork", Decoding.greedy(), prefix_ids=whole.token_ids[:kept], max_tokens=18 - kept)
    assert whole.token_ids + fork.token_ids[12 - kept :] == longer.token_ids
    assert whole.logprobs[:kept] + fork.logprobs == longer.logprobs
    assert fork.prefill_tokens == 0
    assert engine.prefill_tokens == before
    assert engine.generated_tokens == 12 + 18 - kept


def test_what_nobody_has_left_behind_is_computed_once_and_counted() -> None:
    tokens = grow(Engine(PARTS), "whole", Decoding.greedy(), max_tokens=12).token_ids
    engine = Engine(PARTS, slots=3)
    requests = [
        EngineRequest(name, PROMPT, Decoding.greedy(), prefix_ids=tokens[:8], max_tokens=4) for name in ("a", "b", "c")
    ]
    branches = [event.branch for event in engine.generate(requests) if event.branch is not None]
    assert [branch.token_ids for branch in branches] == [tokens[8:]] * 3
    assert sum(branch.prefill_tokens for branch in branches) == engine.prefill_tokens == len(PROMPT) - 1 + 8
    assert engine.generated_tokens == 12


@pytest.mark.parametrize("law", LAWS)
def test_excluded_tokens_are_not_drawn_and_the_rest_keeps_its_law(law: str) -> None:
    """Drawn 3000 times: each token's frequency is its probability over what is left, within five deviations."""
    draws = 3000
    engine = Engine(PARTS, slots=64)

    def first_tokens(exclude: tuple[int, ...]) -> list[Branch]:
        requests = [
            EngineRequest(f"{i}", PROMPT, LAWS[law], seed=i, max_tokens=1, exclude=exclude) for i in range(draws)
        ]
        return [event.branch for event in engine.generate(requests) if event.branch is not None]

    free = Counter(branch.token_ids[0] for branch in first_tokens(()))
    likely = tuple(token for token, _ in free.most_common(2))
    left = Counter(branch.token_ids[0] for branch in first_tokens(likely))
    assert not set(likely) & set(left)
    remains = sum(free.values()) - sum(free[token] for token in likely)
    for token, count in free.most_common(8)[2:]:
        p = count / remains
        spread = math.sqrt(p * (1 - p) * (1 / draws + 1 / remains))
        assert left[token] / draws == pytest.approx(p, abs=5 * spread)


@pytest.mark.parametrize("law", [*LAWS, "greedy"])
@pytest.mark.parametrize("other", [*LAWS, "greedy"])
def test_what_is_drawn_without_some_tokens_does_not_depend_on_the_batch(law: str, other: str) -> None:
    """Where LED explores inside the thinking only, a plain sampler draws for all rows first: it must leave the numbers
    that draw once more as they were."""
    tokenizer = tiny_tokenizer(think="token")
    model = tiny_model("llama", vocab_size=len(tokenizer), initializer_range=0.15, num_hidden_layers=3)
    parts = make_engine(model, tokenizer).parts
    prompt = [*PROMPT[:3], *parts.thinking.open]
    laws = {name: law.replace(span="auto", siblings="independent") for name, law in LAWS.items()}
    laws["greedy"] = Decoding.greedy()
    likely = tuple(range(3, 40))

    def first_tokens(other: str) -> list[tuple[tuple[int, ...], tuple[float, ...]]]:
        wanted = [
            EngineRequest(f"{i}", prompt, laws[law], seed=i, max_tokens=1, exclude=likely if i % 2 else likely[:1])
            for i in range(30)
        ]
        beside = [EngineRequest(f"beside {i}", prompt, laws[other], seed=i, max_tokens=1) for i in range(10)]
        mixed = [r for three in zip(wanted[::3], wanted[1::3], wanted[2::3], beside, strict=True) for r in three]
        found = {e.id: e.branch for e in Engine(parts, slots=16).generate(mixed) if e.branch is not None}
        return [(found[r.id].token_ids, found[r.id].logprobs) for r in wanted]

    assert first_tokens(other) == first_tokens(law)


def test_the_log_probability_without_some_tokens_is_that_under_the_whole_law() -> None:
    engine = Engine(PARTS, slots=4)
    plain = Decoding.plain(1.0)
    first = grow(engine, "first", plain, seed=1, max_tokens=1)
    seen: tuple[int, ...] = ()
    total = 0.0
    for at in range(30):
        branch = grow(engine, f"{at}", plain, seed=at, max_tokens=2, exclude=seen)
        assert branch.token_ids[0] not in seen
        assert branch.logprobs[0] == pytest.approx(branch.final_logprobs[0], abs=1e-5)
        seen += branch.token_ids[:1]
        total += math.exp(branch.logprobs[0])
    assert 0 < total < 1 + 1e-5
    assert first.logprobs[0] == pytest.approx(first.final_logprobs[0], abs=1e-5)


def test_greedy_without_the_best_takes_the_second_best() -> None:
    engine = Engine(PARTS)
    best = grow(engine, "best", Decoding.greedy(), max_tokens=1)
    second = grow(engine, "second", Decoding.greedy(), max_tokens=1, exclude=best.token_ids)
    others = [grow(engine, f"{i}", Decoding.plain(1.0), seed=i, max_tokens=1) for i in range(40)]
    beaten = [branch for branch in others if branch.token_ids not in (best.token_ids, second.token_ids)]
    assert beaten
    assert all(branch.final_logprobs[0] <= second.final_logprobs[0] + 1e-6 for branch in beaten)


def test_where_nothing_is_left_to_draw_the_branch_fails() -> None:
    engine = Engine(PARTS)
    narrow = Decoding.plain(1.0, top_k=1)
    only = grow(engine, "only", narrow, max_tokens=1)
    failed = grow(engine, "failed", narrow, max_tokens=4, exclude=only.token_ids)
    assert failed.finish == "error"
    assert failed.error is not None
    assert "without the 1 excluded tokens" in failed.error
    assert grow(engine, "after", narrow, max_tokens=1).token_ids == only.token_ids


def test_a_step_ends_after_so_many_tokens_and_can_be_gone_on_from() -> None:
    whole = grow(Engine(PARTS), "whole", LED, seed=4, max_tokens=12)
    engine = Engine(PARTS, slots=2)
    step = grow(engine, "step", LED, seed=4, max_tokens=12, max_step_tokens=5)
    assert (step.finish, step.token_ids) == ("step", whole.token_ids[:5])
    rest = grow(engine, "rest", Decoding.greedy(), prefix_ids=step.token_ids, max_tokens=7, max_step_tokens=7)
    assert (rest.finish, rest.prefill_tokens) == ("length", 0)


def test_a_step_ends_at_a_token_of_a_set_and_can_be_gone_on_from() -> None:
    whole = grow(Engine(PARTS), "whole", Decoding.greedy(), max_tokens=12)
    at = next(k for k in range(3, 11) if whole.token_ids[k] not in whole.token_ids[:k])
    engine = Engine(PARTS, slots=2)
    ends = (whole.token_ids[at], 10**6)
    step = grow(engine, "step", Decoding.greedy(), max_tokens=12, step_tokens=ends)
    assert (step.finish, step.token_ids) == ("step", whole.token_ids[: at + 1])
    rest = grow(
        engine,
        "rest",
        Decoding.greedy(),
        prefix_ids=step.token_ids,
        max_tokens=11 - at,
        step_tokens=whole.token_ids[:1],
    )
    assert (rest.finish, rest.prefill_tokens) == ("length", 0)
    assert step.token_ids + rest.token_ids == whole.token_ids
