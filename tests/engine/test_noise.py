"""Latent noise in the engine: where it goes, where it must not, and how much of it there is."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from led_agent.decoding.noise import perturb
from led_agent.engine import Engine, EngineRequest
from led_agent.engine import engine as engine_module
from led_agent.engine.cache import SlotCache
from led_agent.engine.growing import Prefix
from led_agent.types import Branch, Decoding, DepthExploration, LatentNoise, QualityGuard, Sibling
from tests.engine.reference import branches, full_logits, make_engine
from tests.tiny import FAMILIES, tiny_model, tiny_tokenizer

TOKENIZER = tiny_tokenizer()
MODEL = tiny_model("llama", vocab_size=len(TOKENIZER), initializer_range=0.15)
PROMPT = [3, 14, 15, 9, 65, 35]
NEWLINE = TOKENIZER.convert_tokens_to_ids("\n")
FIRST, LAST = 3, 4  # of six blocks, the middle third
LED = DepthExploration(depths=5, top_k=12)
KINDS = {
    "plain": LatentNoise(sigma=0.5),
    "tangent": LatentNoise(sigma=0.5, tangent=True),
    "orthogonal": LatentNoise(sigma=0.5, orthogonal=True),
    "hold": LatentNoise(sigma=0.5, hold=4),
    "step": LatentNoise(sigma=0.5, hold="step"),
    "confidence": LatentNoise(sigma=0.5, scale="confidence"),
    "entropy": LatentNoise(sigma=0.5, scale="entropy", target=2.0),
    "prompt_end": LatentNoise(sigma=0.5, prompt_end=True),
}
every_kind = pytest.mark.parametrize("noise", KINDS.values(), ids=KINDS.keys())


def noisy(noise: LatentNoise, **changes: Any) -> Decoding:
    return Decoding(temperature=0.9, latent_noise=noise, span="all", **changes)


def engine_of(slots: int = 8) -> Engine:
    """Without an end of sequence, so that branches are as long as they may be."""
    engine = make_engine(MODEL, TOKENIZER, slots=slots)
    engine.parts.eos = frozenset()
    return engine


def same(a: Branch, b: Branch) -> bool:
    """To the bit."""
    names = ("token_ids", "logprobs", "final_logprobs", "entropies", "explored", "finish")
    return all(getattr(a, name) == getattr(b, name) for name in names)


def crowd(count: int, seed: int) -> list[EngineRequest]:
    """Neighbours of all kinds and lengths."""
    pick = random.Random(seed)
    kinds = [noisy(noise) for noise in KINDS.values()]
    kinds += [Decoding.plain(1.1, top_p=0.9), Decoding.greedy(), Decoding(exploration=LED, span="all")]
    return [
        EngineRequest(
            f"n{seed}-{i}",
            [pick.randrange(len(TOKENIZER)) for _ in range(pick.randrange(1, 30))],
            pick.choice(kinds),
            seed=pick.randrange(2**40),
            max_tokens=pick.randrange(1, 45),
        )
        for i in range(count)
    ]


def make_newlines_likely(engine: Engine) -> None:
    head, bonus = engine.parts.head, torch.zeros(engine.parts.vocab)
    bonus[NEWLINE] = 4.0
    engine.parts.head = lambda states: head(states) + bonus  # type: ignore[method-assign]


@dataclass
class Moved:
    """One call of perturb, for one block: rows [m], as it was asked and what came of it."""

    states: torch.Tensor
    direction: torch.Tensor
    amount: torch.Tensor
    result: torch.Tensor


@dataclass
class Record:
    """What was perturbed, by step; a step without noise is an empty list."""

    steps: list[list[Moved]] = field(default_factory=list)

    def run(self, engine: Engine, *requests: EngineRequest) -> dict[str, Branch]:
        for request in requests:
            engine.submit(request)
        grown: dict[str, Branch] = {}
        while engine.busy:
            self.steps.append([])
            grown |= {event.id: event.branch for event in engine.step() if event.branch is not None}
        return grown

    def amounts(self) -> list[float]:
        """Of the first row, a step each."""
        return [float(calls[0].amount[0]) if calls else 0.0 for calls in self.steps]


@pytest.fixture
def record(monkeypatch: pytest.MonkeyPatch) -> Iterator[Record]:
    kept = Record()

    def keep(states: Any, direction: Any, amount: Any, *, tangent: bool) -> Any:
        result = perturb(states, direction, amount, tangent=tangent)
        kept.steps[-1].append(Moved(states.clone(), direction.clone(), amount.clone(), result.clone()))
        return result

    monkeypatch.setattr("led_agent.engine.step.perturb", keep)
    return kept


# --- what it must not change -----------------------------------------------------------------------------------------


@every_kind
def test_no_noise_is_the_plain_decoder_to_the_bit(noise: LatentNoise):
    off = noise.model_copy(update={"sigma": 0.0})
    for exploration in (None, LED):
        silent = EngineRequest("x", PROMPT, noisy(off, exploration=exploration), seed=5, max_tokens=40, n=3)
        plain = EngineRequest(
            "x", PROMPT, Decoding(temperature=0.9, exploration=exploration, span="all"), seed=5, max_tokens=40, n=3
        )
        alone, other = branches(engine_of(), silent), branches(engine_of(), plain)
        mixed = branches(engine_of(5), *crowd(4, 1), silent)
        for name in other:
            assert same(alone[name], other[name])
            assert same(mixed[name], other[name])


def test_plain_neighbours_do_not_change_by_a_bit():
    plain = EngineRequest("x", PROMPT, Decoding.plain(0.9), seed=5, max_tokens=60)
    led = EngineRequest("y", PROMPT, Decoding(exploration=LED, span="all"), seed=6, max_tokens=60)
    alone = branches(engine_of(1), plain) | branches(engine_of(1), led)
    loud = [EngineRequest(f"z{i}", PROMPT, noisy(n), seed=i, max_tokens=70) for i, n in enumerate(KINDS.values())]
    among = branches(engine_of(16), *loud[:4], plain, led, *loud[4:])
    assert same(among["x"], alone["x"])
    assert same(among["y"], alone["y"])


@every_kind
def test_a_noisy_branch_is_the_same_in_any_company_to_the_bit(noise: LatentNoise):
    request = EngineRequest("x", PROMPT, noisy(noise), seed=77, max_tokens=40, sibling=Sibling(group=8, index=1, of=3))
    alone = branches(engine_of(1), request)["x"]
    plain = EngineRequest("x", PROMPT, Decoding.plain(0.9), seed=77, max_tokens=40, sibling=request.sibling)
    assert alone.token_ids != branches(engine_of(1), plain)["x"].token_ids
    for slots, seed in ((2, 1), (9, 2)):
        engine, others = engine_of(slots), crowd(8, seed)
        assert same(alone, branches(engine, *others[:5], request, *others[5:])["x"])
    assert same(alone, branches(engine, request)["x"])  # with its prompt's keys and values kept from before


# --- where it goes ---------------------------------------------------------------------------------------------------


def held(engine: Engine) -> torch.Tensor:
    """Keys and values [2, layers, heads, positions, dim] of the first slot."""
    cache = engine._cache
    return torch.stack([cache.keys[:, 0].transpose(-1, -2), cache.values[:, 0]])


@pytest.mark.parametrize("prompt_end", [False, True])
def test_noise_never_reaches_the_prompts_keys_and_values(prompt_end: bool):
    noise = LatentNoise(sigma=0.5, prompt_end=prompt_end)
    loud, quiet = engine_of(2), engine_of(2)
    loud.submit(EngineRequest("x", PROMPT, noisy(noise), seed=5, max_tokens=30))
    quiet.submit(EngineRequest("x", PROMPT, Decoding.plain(0.9), seed=5, max_tokens=30))
    end = len(PROMPT) - 1
    for step in range(6):
        loud.step()
        quiet.step()
        # Keys and values [2, layers, heads, positions, dim]; those of block FIRST itself are made from its input.
        ours, theirs = held(loud), held(quiet)
        assert torch.equal(ours[..., :end, :], theirs[..., :end, :])
        assert torch.equal(ours[:, :FIRST, :, end], theirs[:, :FIRST, :, end])
        assert torch.equal(ours[:, FIRST:, :, end], theirs[:, FIRST:, :, end]) != prompt_end
        if step == 1 and not prompt_end:  # the first token was drawn from the same state: it is the same
            assert torch.equal(ours[:, :FIRST, :, end + 1], theirs[:, :FIRST, :, end + 1])
            for layer in range(FIRST, 6):
                assert not torch.equal(ours[:, layer, :, end + 1], theirs[:, layer, :, end + 1])
    whole = Prefix(tuple(PROMPT), ())
    kept, clean = loud._prefixes[whole], quiet._prefixes[whole]
    assert torch.equal(kept.kv, clean.kv)


def test_what_continues_a_branch_starts_from_clean_keys_and_values():
    engine = engine_of()
    grown = branches(engine, EngineRequest("a", PROMPT, noisy(KINDS["plain"]), seed=5, max_tokens=12))["a"]
    child = branches(engine, EngineRequest("b", parent="a", decoding=Decoding.plain(0.9), seed=6, max_tokens=9))["b"]
    known = EngineRequest("b", PROMPT, Decoding.plain(0.9), prefix_ids=grown.token_ids, seed=6, max_tokens=9)
    assert same(child, branches(engine_of(), known)["b"])


def test_blocks_say_behind_which_blocks_it_is_added(monkeypatch: pytest.MonkeyPatch):
    seen: list[list[int]] = []
    engine = engine_of(1)
    forward = engine.parts.forward

    def watched(ids: torch.Tensor, positions: torch.Tensor, memory: Any, taps: Any = (), changes: Any = ()) -> Any:
        if isinstance(memory, SlotCache):  # a decode step
            seen.append([at for at, _ in changes])
        return forward(ids, positions, memory, taps, changes)

    monkeypatch.setattr(engine.parts, "forward", watched)
    for blocks, after in ((None, [FIRST, LAST]), ((2, 5), [2, 3, 4, 5]), ((6, 6), [6])):
        seen.clear()
        decoding = noisy(LatentNoise(sigma=0.5, blocks=blocks))
        branches(engine, EngineRequest("x", PROMPT, decoding, max_tokens=3))
        assert seen == [[], after, after]


def thinking_engine() -> tuple[Engine, Any]:
    """A model that writes both tags often."""
    tokenizer = tiny_tokenizer(think="token")
    engine = make_engine(tiny_model("llama", vocab_size=len(tokenizer), initializer_range=0.08), tokenizer, slots=4)
    tags, head, bonus = engine.parts.thinking, engine.parts.head, torch.zeros(engine.parts.vocab)
    bonus[[*tags.open, *tags.close]] = 3.0
    engine.parts.eos = frozenset()
    engine.parts.head = lambda states: head(states) + bonus  # type: ignore[method-assign]
    return engine, tokenizer


@pytest.mark.parametrize("text", ["w1 w2 <think>", "w1 w2 w3"])
def test_there_is_noise_inside_the_thinking_only(record: Record, text: str):
    engine, tokenizer = thinking_engine()
    prompt = tokenizer.encode(text, add_special_tokens=False)
    (opened,), (closed,) = engine.parts.thinking.open, engine.parts.thinking.close
    decoding = noisy(LatentNoise(sigma=0.7)).replace(span="think")
    grown = record.run(engine, EngineRequest("x", prompt, decoding, seed=4, max_tokens=120))["x"]
    assert grown.span == "think"
    inside, due = text.endswith("<think>"), []
    for at, token in enumerate(grown.token_ids):  # the forward that this token was drawn from
        due.append(0.7 if inside and at > 0 else 0.0)
        inside = (inside or token == opened) and token != closed
    assert record.amounts() == pytest.approx(due)
    assert grown.noise_scales == pytest.approx(due)
    assert len(set(due)) == 2
    assert sum(a != b for a, b in itertools.pairwise(due)) > 4
    plain = branches(engine, EngineRequest("x", prompt, Decoding.plain(0.9), seed=4, max_tokens=120))["x"]
    first = due.index(0.7)
    assert grown.token_ids[:first] == plain.token_ids[:first]
    assert grown.logprobs[:first] == plain.logprobs[:first]
    assert grown.token_ids != plain.token_ids


def test_a_thinking_model_that_is_not_thinking_is_the_plain_one():
    engine, tokenizer = thinking_engine()
    prompt = tokenizer.encode("w1 <think> w2 </think> w3", add_special_tokens=False)
    head, ban = engine.parts.head, torch.zeros(engine.parts.vocab)
    ban[list(engine.parts.thinking.open)] = -100.0
    engine.parts.head = lambda states: head(states) + ban  # type: ignore[method-assign]
    decoding = noisy(LatentNoise(sigma=0.7)).replace(span="auto")
    loud = branches(engine, EngineRequest("x", prompt, decoding, seed=4, max_tokens=40))["x"]
    plain = branches(engine, EngineRequest("x", prompt, Decoding.plain(0.9), seed=4, max_tokens=40))["x"]
    assert (loud.token_ids, loud.logprobs) == (plain.token_ids, plain.logprobs)
    assert loud.final_logprobs == pytest.approx(plain.final_logprobs, abs=1e-4)


# --- directions ------------------------------------------------------------------------------------------------------


def test_seeds_have_directions_of_their_own(record: Record):
    requests = [EngineRequest(f"x{i}", PROMPT, noisy(KINDS["plain"]), seed=i, max_tokens=12) for i in range(4)]
    grown = record.run(engine_of(), *requests)
    assert len({branch.token_ids for branch in grown.values()}) == 4
    width = engine_of().parts.width
    drawn = torch.stack([call.direction for calls in record.steps[1:] for call in calls])  # [calls, rows, width]
    flat = drawn.reshape(-1, width)
    assert float((flat @ flat.T / width).fill_diagonal_(0).abs().max()) < 6 / math.sqrt(width)
    assert float(flat.mean()) == pytest.approx(0, abs=5 / math.sqrt(flat.numel()))
    assert float(flat.var()) == pytest.approx(1, abs=5 * math.sqrt(2 / flat.numel()))


def test_a_direction_is_held_for_so_many_tokens(record: Record):
    record.run(engine_of(), EngineRequest("x", PROMPT, noisy(LatentNoise(sigma=0.5, hold=4)), max_tokens=30))
    runs = [len(list(group)) for _, group in itertools.groupby(c[0].direction.tolist() for c in record.steps[1:])]
    assert set(runs[1:-1]) == {4}
    assert len(runs) > 5


def test_a_direction_is_held_until_the_step_ends(record: Record):
    engine = engine_of()
    make_newlines_likely(engine)
    grown = record.run(engine, EngineRequest("x", PROMPT, noisy(KINDS["step"]), seed=2, max_tokens=60))["x"]
    assert grown.token_ids.count(NEWLINE) > 3
    step, numbered = 0, []
    for token in grown.token_ids[:-1]:
        step += token == NEWLINE
        numbered.append(step)
    found = [tuple(calls[0].direction[0].tolist()) for calls in record.steps[1:]]
    for i, j in itertools.combinations(range(len(found)), 2):
        assert (found[i] == found[j]) == (numbered[i] == numbered[j])


def test_tangent_noise_turns_a_state_and_keeps_its_length(record: Record):
    record.run(engine_of(), EngineRequest("x", PROMPT, noisy(KINDS["tangent"]), max_tokens=12))
    moves = [call for calls in record.steps for call in calls]
    assert len(moves) == 22
    for move in moves:
        torch.testing.assert_close(move.result.norm(dim=-1), move.states.norm(dim=-1), atol=0, rtol=1e-5)
        turned = torch.cosine_similarity(move.result, move.states)
        assert 0.8 < float(turned) < 0.95  # 1 / sqrt(1 + 0.5²) = 0.894


def test_siblings_have_orthogonal_directions_wherever_they_grow(record: Record):
    decoding = noisy(KINDS["orthogonal"])
    together = record.run(engine_of(), EngineRequest("x", PROMPT, decoding, seed=9, max_tokens=10, n=5))
    frames = [[call.direction for call in calls] for calls in record.steps[1:]]  # [steps][blocks], each [5, width]
    for gram in (direction.double() @ direction.double().T for calls in frames for direction in calls):
        lengths = gram.diagonal().sqrt()
        assert float((gram / lengths[:, None] / lengths).fill_diagonal_(0).abs().max()) < 1e-6
    seeds = seeds_of(decoding, 9, 5)
    apart = {}
    for engine, members in ((engine_of(2), (0, 3)), (engine_of(4), (4, 2, 1))):
        record.steps.clear()
        requests = [
            EngineRequest(
                f"x/{i}", PROMPT, decoding, seed=seeds[i], max_tokens=10, sibling=Sibling(group=9, index=i, of=5)
            )
            for i in members
        ]
        apart |= record.run(engine, *requests)
        for calls, frame in zip(record.steps[1:], frames, strict=True):
            for call, direction in zip(calls, frame, strict=True):
                assert torch.equal(call.direction, direction[list(members)])
    for name, branch in together.items():
        assert same(branch, apart[name])


def seeds_of(decoding: Decoding, seed: int, n: int) -> list[int]:
    """The seeds that an engine gives the branches of one request."""
    engine = engine_of(1)
    engine.submit(EngineRequest("x", PROMPT, decoding, seed=seed, max_tokens=1, n=n))
    return [growing.seed for growing in engine._waiting]


def test_a_branch_that_stands_alone_has_orthogonal_noise_too():
    grown = branches(engine_of(), EngineRequest("x", PROMPT, noisy(KINDS["orthogonal"]), max_tokens=10))["x"]
    other = branches(engine_of(), EngineRequest("x", PROMPT, noisy(KINDS["plain"]), max_tokens=10))["x"]
    assert grown.token_ids == other.token_ids  # one direction is orthogonal as it is


# --- how much --------------------------------------------------------------------------------------------------------


def posteriors(engine: Engine) -> list[torch.Tensor]:
    """The log-posteriors [vocab] of row 0, step by step, as the engine computes them."""
    seen: list[torch.Tensor] = []
    head = engine.parts.head

    def keep(states: torch.Tensor) -> torch.Tensor:
        logits = head(states)
        seen.append(logits[0].double().log_softmax(-1))
        return logits

    engine.parts.head = keep  # type: ignore[method-assign]
    return seen


def test_doubt_scales_the_noise(record: Record):
    engine = engine_of(1)
    seen = posteriors(engine)
    grown = record.run(engine, EngineRequest("x", PROMPT, noisy(KINDS["confidence"]), max_tokens=30))["x"]
    due = [0.0] + [0.5 * (1 - float(before.exp().max())) for before in seen[:29]]
    assert record.amounts() == pytest.approx(due, abs=1e-5)
    assert grown.noise_scales == pytest.approx(due, abs=1e-5)
    assert max(due) - min(due[1:]) > 0.05


def test_the_controller_aims_at_an_entropy(record: Record):
    engine = engine_of(1)
    seen = posteriors(engine)
    record.run(engine, EngineRequest("x", PROMPT, noisy(KINDS["entropy"]), max_tokens=30))
    due, gain = [0.0], 1.0
    for before in seen[:29]:
        entropy = float(torch.special.entr(before.exp()).sum())
        gain = min(1.0, max(0.01, gain * math.exp(min(2.0, max(-2.0, 0.5 * (2.0 - entropy))))))
        due.append(0.5 * gain)
    assert record.amounts() == pytest.approx(due, abs=1e-5)
    assert min(due[1:]) < 0.3


@every_kind
def test_a_moved_state_is_moved_by_its_own_size(noise: LatentNoise, record: Record):
    record.run(engine_of(), EngineRequest("x", PROMPT, noisy(noise), max_tokens=6))
    for calls in record.steps:
        for call in calls:
            by = (call.result - call.states).norm(dim=-1) / call.states.norm(dim=-1)
            assert 0 < float(by) < 2 * float(call.amount) + 1e-6


# --- what is recorded ------------------------------------------------------------------------------------------------


def assert_clean(branch: Branch, before: list[int]) -> None:
    logits = full_logits(MODEL, [*before, *branch.token_ids])[len(before) - 1 : -1].double()
    posterior = logits.log_softmax(-1)
    expected = posterior.gather(1, torch.tensor(branch.token_ids)[:, None])[:, 0]
    torch.testing.assert_close(torch.tensor(branch.final_logprobs).double(), expected, atol=1e-4, rtol=0)
    entropy = torch.special.entr(posterior.exp()).sum(-1)
    torch.testing.assert_close(torch.tensor(branch.entropies).double(), entropy, atol=1e-4, rtol=0)


@pytest.mark.parametrize("exploration", [None, LED], ids=["alone", "led"])
def test_the_final_posterior_that_is_recorded_is_the_models_own(exploration: DepthExploration | None):
    engine = engine_of()
    decoding = noisy(KINDS["prompt_end"], exploration=exploration)
    grown = branches(
        engine,
        EngineRequest("long", PROMPT, decoding, seed=1, max_tokens=150),
        EngineRequest("one", PROMPT, decoding, seed=2, max_tokens=1),
        EngineRequest("short", [7], decoding, seed=3, max_tokens=20),
        EngineRequest("known", PROMPT, decoding, seed=4, max_tokens=20, prefix_ids=[8, 9, 10]),
    )
    for name, before in (("long", PROMPT), ("one", PROMPT), ("short", [7]), ("known", [*PROMPT, 8, 9, 10])):
        assert_clean(grown[name], before)
        assert any(grown[name].explored) == (exploration is not None) or name == "one"
    child = branches(engine, EngineRequest("child", parent="long", decoding=decoding, seed=5, max_tokens=20))["child"]
    assert_clean(child, [*PROMPT, *grown["long"].token_ids])
    noisier = torch.tensor(grown["long"].logprobs) - torch.tensor(grown["long"].final_logprobs)
    assert float(noisier.abs().max()) > 0.1


def test_a_branch_that_is_cancelled_has_the_models_own_posterior_too():
    engine = engine_of(2)
    engine.submit(EngineRequest("x", PROMPT, noisy(KINDS["plain"]), max_tokens=50))
    for _ in range(7):
        engine.step()
    (event,) = engine.cancel(["x"])
    assert event.branch is not None
    assert len(event.branch.token_ids) == 7
    assert_clean(event.branch, PROMPT)


def test_noise_and_exploration_go_together():
    both = noisy(KINDS["plain"], exploration=LED)
    led = Decoding(temperature=0.9, exploration=LED, span="all")
    grown = [
        branches(engine_of(), EngineRequest("x", PROMPT, d, seed=7, max_tokens=40))["x"]
        for d in (both, led, noisy(KINDS["plain"]))
    ]
    assert len({branch.token_ids for branch in grown}) == 3
    assert [any(branch.explored) for branch in grown] == [True, True, False]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_can_be_perturbed(family: str):
    model = tiny_model(family, initializer_range=0.15)
    prompt = [3, 14, 15, 92, 65]
    loud, quiet = noisy(KINDS["tangent"]), Decoding.plain(0.9)
    grown = [
        branches(make_engine(model), EngineRequest("x", prompt, d, seed=7, max_tokens=20))["x"] for d in (loud, quiet)
    ]
    assert grown[0].logprobs[0] == grown[1].logprobs[0]  # the prompt's end is clean
    assert grown[0].logprobs[1] != grown[1].logprobs[1]


@pytest.mark.parametrize(("guard", "room"), [(None, 6), (QualityGuard(every=2), 200)])
def test_scoring_takes_room_for_what_a_branch_has_unless_it_goes_on(
    monkeypatch: pytest.MonkeyPatch, guard: QualityGuard | None, room: int
):
    """A branch that is scored once, at its end, must not set aside clean keys and values for all that it might be."""
    engine, made = make_engine(MODEL), []
    scorer = engine_module.CleanScorer
    monkeypatch.setattr(engine_module, "CleanScorer", lambda *given: made.append(given[3]) or scorer(*given))
    decoding = Decoding.noise(0.1, span="all").replace(guard=guard)
    engine.submit(EngineRequest("x", PROMPT, decoding, max_tokens=200))
    for _ in range(6):
        engine.step()
    [done] = engine.cancel(["x"])
    assert done.branch is not None
    assert len(done.branch.final_logprobs) == 6
    assert made == [room]
