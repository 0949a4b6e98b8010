from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from led_agent.decoding import exploration_law
from led_agent.decoding.exploration import FLOOR, explored_law
from led_agent.errors import UsageError
from led_agent.types import DepthExploration

QUICK = settings(max_examples=80, deadline=None)


def naive_law(
    logits: list[list[float]], k: int, temperature: float, exploit: bool, held: int = -1
) -> list[tuple[int, float]]:
    """The definition, one row, in plain Python: led's steps 3 to 8 written out."""
    posteriors = []
    for layer in logits:
        top = max(layer)
        weights = [math.exp((x - top) / temperature) for x in layer]
        posteriors.append([w / sum(weights) for w in weights])
    candidates = sorted(range(len(logits[0])), key=lambda v: (-logits[0][v], v))[:k]
    mass = sum(posteriors[0][v] for v in candidates)
    plain = {v: posteriors[0][v] / mass for v in candidates}
    best, running = None, dict.fromkeys(candidates, 0.0)
    for posterior in posteriors:
        running = {v: running[v] + max(posterior[v], 1e-6) for v in candidates}
        total = sum(running.values())
        q = {v: a / total for v, a in running.items()}
        entropy = -sum(x * math.log(x) for x in q.values())
        if best is None or entropy > best[0] + 1e-15:
            best = (entropy, q)
    q = best[1]
    if held in q:
        others = sum(x for v, x in q.items() if v != held)
        q = {v: plain[v] if v == held else x * (1 - plain[held]) / others for v, x in q.items()}
    stay = posteriors[0][candidates[0]] if exploit else 0.0
    if len(logits) == 1:
        stay = 1.0
    return [(v, stay * plain[v] + (1 - stay) * q[v]) for v in candidates]


def layer_logits(seed: int, batch: int = 2, depths: int = 4, vocab: int = 12, scale: float = 3.0) -> Tensor:
    return scale * torch.randn(batch, depths, vocab, generator=torch.Generator().manual_seed(seed)).double()


@QUICK
@given(
    st.integers(0, 10_000),
    st.integers(1, 6),
    st.integers(1, 12),
    st.sampled_from([0.3, 0.6, 1.0, 2.0]),
    st.booleans(),
    st.sampled_from([0.1, 1.0, 5.0, 40.0]),
)
def test_the_law_is_the_definition(seed: int, depths: int, k: int, temperature: float, exploit: bool, scale: float):
    logits = layer_logits(seed, depths=depths, scale=scale)
    ids, law = exploration_law(logits, DepthExploration(depths=depths, top_k=k, exploit=exploit), temperature)
    assert ids.dtype == torch.int64
    for row in range(2):
        expected = naive_law(logits[row].tolist(), k, temperature, exploit)
        assert ids[row].tolist() == [v for v, _ in expected]
        torch.testing.assert_close(
            law[row], torch.tensor([p for _, p in expected], dtype=torch.float64), atol=1e-12, rtol=1e-9
        )


@QUICK
@given(st.integers(0, 10_000), st.integers(1, 5), st.integers(1, 12), st.booleans())
def test_probabilities_sum_to_one_and_candidates_are_the_final_layers(seed: int, depths: int, k: int, exploit: bool):
    logits = layer_logits(seed, depths=depths)
    ids, law = exploration_law(logits, DepthExploration(depths=depths, top_k=k, exploit=exploit), 0.8)
    assert torch.all(law >= 0)
    torch.testing.assert_close(law.sum(-1), torch.ones(2).double())
    assert ids.tolist() == logits[:, 0].topk(k).indices.tolist()


@QUICK
@given(st.integers(0, 10_000), st.integers(1, 12), st.sampled_from([0.4, 1.0]), st.booleans())
def test_one_depth_is_plain_top_k_sampling(seed: int, k: int, temperature: float, exploit: bool):
    logits = layer_logits(seed, depths=1)
    _ids, law = exploration_law(logits, DepthExploration(depths=1, top_k=k, exploit=exploit), temperature)
    expected = (logits[:, 0].topk(k).values / temperature).softmax(-1)
    torch.testing.assert_close(law, expected)


def test_a_flatter_shallow_layer_flattens_the_law_and_a_sharper_one_does_not():
    final = torch.tensor([4.0, 2.0, 0.0, -1.0])
    flat, sharp = torch.zeros(4), torch.tensor([40.0, 0.0, 0.0, 0.0])
    exploration = DepthExploration(depths=2, top_k=4)
    _, plain = exploration_law(final[None, None], DepthExploration(depths=1, top_k=4), 1.0)
    _, explored = exploration_law(torch.stack([final, flat])[None], exploration, 1.0)
    _, unmoved = exploration_law(torch.stack([final, sharp])[None], exploration, 1.0)
    assert explored[0, 0] < plain[0, 0] - 0.01
    assert torch.all(explored[0, 1:] > plain[0, 1:])
    torch.testing.assert_close(unmoved, plain, atol=1e-5, rtol=1e-4)  # the floor of 1e-6 is all that differs


def test_greedy_has_no_gate_and_no_exploration():
    ids, law = exploration_law(layer_logits(1), DepthExploration(depths=4, top_k=5), 0.0)
    assert law.tolist() == [[1.0, 0, 0, 0, 0]] * 2
    assert ids[:, 0].tolist() == layer_logits(1)[:, 0].argmax(-1).tolist()


def test_ties_take_the_smallest_id_and_the_smallest_depth():
    logits = torch.zeros(1, 3, 6)
    ids, law = exploration_law(logits, DepthExploration(depths=3, top_k=4), 1.0)
    assert ids.tolist() == [[0, 1, 2, 3]]
    torch.testing.assert_close(law, torch.full((1, 4), 0.25))


@QUICK
@given(st.integers(0, 10_000), st.integers(0, 11), st.integers(2, 12))
def test_a_held_token_keeps_its_unexplored_probability(seed: int, token: int, k: int):
    logits = layer_logits(seed, batch=1)
    exploration = DepthExploration(depths=4, top_k=k)
    ids, law = exploration_law(logits, exploration, 1.0, held=torch.tensor([token]))
    _, plain = exploration_law(logits[:, :1], DepthExploration(depths=1, top_k=k), 1.0)
    _, free = exploration_law(logits, exploration, 1.0)
    torch.testing.assert_close(law.sum(-1), torch.ones(1).double())
    if token in ids[0].tolist():
        at = ids[0].tolist().index(token)
        torch.testing.assert_close(law[0, at], plain[0, at])
    else:
        torch.testing.assert_close(law, free)
    expected = naive_law(logits[0].tolist(), k, 1.0, True, held=token)
    torch.testing.assert_close(law[0], torch.tensor([p for _, p in expected], dtype=torch.float64))


def test_banned_tokens_stay_impossible():
    logits = layer_logits(3, vocab=8)
    logits[:, :, 5] = float("-inf")
    ids, _ = exploration_law(logits, DepthExploration(depths=4, top_k=7), 1.0)
    assert 5 not in ids.flatten().tolist()


@QUICK
@given(
    st.integers(0, 10_000),
    st.integers(1, 5),
    st.sets(st.integers(0, 11), min_size=1, max_size=11),
    st.integers(1, 12),
    st.booleans(),
    st.booleans(),
)
def test_bans_hold_in_every_slot(seed: int, depths: int, banned: set[int], k: int, exploit: bool, everywhere: bool):
    logits = layer_logits(seed, depths=depths)
    # A ban on the final layer is enough, even of the shallower layers' favourite.
    logits[:, :, sorted(banned)] = 9.0
    logits[:, : depths if everywhere else 1, sorted(banned)] = float("-inf")
    ids, law = exploration_law(logits, DepthExploration(depths=depths, top_k=k, exploit=exploit), 0.7)
    allowed = [v for v in range(12) if v not in banned]
    for row in range(2):
        of = dict(zip(ids[row].tolist(), law[row].tolist(), strict=True))
        assert len(of) == k
        assert all(of[v] == 0.0 for v in banned if v in of)
        assert math.isclose(sum(of.values()), 1.0, rel_tol=1e-12)
        assert sum(p > 0 for p in of.values()) == min(k, len(allowed))
        assert set(ids[row, : len(allowed)].tolist()) <= set(allowed)


def test_a_banned_candidate_gets_no_floor_at_any_depth():
    p = torch.tensor([[[0.9, 0.1, 0.0, 0.0], [0.2, 0.1, 0.6, 0.1], [1.0, 0.0, 0.0, 0.0]]], dtype=torch.float64)
    q, depth = explored_law(p, torch.tensor([[True, True, False, True]]))
    sums = torch.tensor([0.9 + 0.2, 0.1 + 0.1, 0.0, FLOOR + 0.1], dtype=torch.float64)
    assert int(depth) == 1
    torch.testing.assert_close(q[0], sums / sums.sum(), atol=1e-7, rtol=1e-6)
    assert q[0, 2] == 0.0


@QUICK
@given(st.integers(0, 10_000), st.integers(1, 5), st.integers(1, 9))
def test_the_explored_law_is_the_sum_of_highest_entropy(seed: int, depths: int, k: int):
    p = layer_logits(seed, batch=3, depths=depths, vocab=12).softmax(-1)[..., :k]
    q, depth = explored_law(p, torch.ones(3, k, dtype=torch.bool))
    for row in range(3):
        entropies = []
        for reach in range(depths):
            sums = [sum(max(float(p[row, j, v]), 1e-6) for j in range(reach + 1)) for v in range(k)]
            laws = [x / sum(sums) for x in sums]
            entropies.append(-sum(x * math.log(x) for x in laws))
            if reach == int(depth[row]):
                torch.testing.assert_close(q[row], torch.tensor(laws, dtype=torch.float64))
        assert entropies[int(depth[row])] >= max(entropies) - 1e-12


@QUICK
@given(st.integers(0, 10_000), st.integers(1, 4), st.booleans())
def test_deciding_the_gate_first_does_not_change_the_law(seed: int, depths: int, exploit: bool):
    logits = layer_logits(seed, depths=depths)
    laws = [
        exploration_law(logits, DepthExploration(depths=depths, top_k=6, exploit=exploit, gate_first=first), 0.8)
        for first in (False, True)
    ]
    assert torch.equal(laws[0][0], laws[1][0])
    assert torch.equal(laws[0][1], laws[1][1])


@QUICK
@given(st.integers(0, 10_000), st.integers(2, 5))
def test_exploring_never_sharpens_the_law(seed: int, depths: int):
    logits = layer_logits(seed, depths=depths)
    _, plain = exploration_law(logits[:, :1], DepthExploration(depths=1, top_k=8), 1.0)
    for exploit in (False, True):
        _, law = exploration_law(logits, DepthExploration(depths=depths, top_k=8, exploit=exploit), 1.0)
        # q has the higher entropy of the two, and entropy is concave; the floor may take a hair of it.
        assert torch.all(torch.special.entr(law).sum(-1) >= torch.special.entr(plain).sum(-1) - 1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_dtypes(dtype: torch.dtype):
    _, law = exploration_law(layer_logits(0).to(dtype), DepthExploration(depths=4, top_k=5), 1.0)
    assert law.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


@pytest.mark.parametrize(
    ("shape", "exploration", "temperature", "says"),
    [
        ((2, 3, 8), DepthExploration(depths=4, top_k=4), 1.0, "3 slots"),
        ((2, 4, 8), DepthExploration(depths=4, top_k=9), 1.0, "vocabulary has 8"),
        ((2, 4, 8), DepthExploration(depths=4, top_k=4), -0.1, "temperature"),
        ((2, 4, 8), DepthExploration(depths=4, top_k=4), float("nan"), "temperature"),
        ((4, 8), DepthExploration(depths=4, top_k=4), 1.0, "batch, d, vocab"),
    ],
)
def test_what_is_refused(shape: tuple[int, ...], exploration: DepthExploration, temperature: float, says: str):
    with pytest.raises(UsageError, match=says):
        exploration_law(torch.zeros(shape), exploration, temperature)


def test_logits_that_are_not_finite_are_refused():
    for bad in (float("nan"), float("inf")):
        logits = layer_logits(0)
        logits[1, 2, 3] = bad
        with pytest.raises(UsageError, match="finite"):
            exploration_law(logits, DepthExploration(depths=4, top_k=4), 1.0)
