from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from led_agent.decoding.processors import penalise, warped
from led_agent.decoding.sampling import PlainSettings, plain_law

QUICK = settings(max_examples=60, deadline=None)


def logits(rows: int, vocab: int, seed: int) -> torch.Tensor:
    return 3 * torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed))


@QUICK
@given(
    st.integers(0, 1000),
    st.sampled_from([0.3, 1.0, 1.7]),
    st.sampled_from([None, 1, 5, 30, 500]),
    st.sampled_from([1.0, 0.9, 0.3]),
    st.sampled_from([0.0, 0.05, 0.5]),
    st.sampled_from([1.0, 0.9, 0.2]),
)
def test_filters_are_those_of_transformers_one_by_one(
    seed: int, temperature: float, top_k: int | None, top_p: float, min_p: float, typical_p: float
):
    given_logits = logits(3, 50, seed)
    kept = given_logits.clone()
    found = warped(given_logits, (temperature, top_k, top_p, min_p, typical_p))
    assert torch.equal(given_logits, kept)
    for row in range(3):
        ids = torch.zeros(1, 1, dtype=torch.long)
        expected = TemperatureLogitsWarper(temperature)(ids, given_logits[row : row + 1])
        if top_k is not None:
            expected = TopKLogitsWarper(top_k)(ids, expected)
        if top_p < 1:
            expected = TopPLogitsWarper(top_p)(ids, expected)
        if min_p > 0:
            expected = MinPLogitsWarper(min_p)(ids, expected)
        if typical_p < 1:
            expected = TypicalLogitsWarper(typical_p)(ids, expected)
        assert torch.equal(found[row : row + 1], expected)
        assert bool(found[row].isfinite().any())


@pytest.mark.parametrize("filters", [(0.7, 5, 1.0, 0.0, 1.0), (1.0, None, 0.8, 0.0, 1.0), (1.3, 30, 0.9, 0.1, 1.0)])
def test_the_fast_samplers_law_is_that_of_the_filters(filters: tuple[float, int | None, float, float, float]):
    given_logits = logits(4, 60, 1)
    law = plain_law(given_logits, PlainSettings.of([filters[:4]] * 4, 60))
    torch.testing.assert_close(warped(given_logits, filters).softmax(-1).double(), law, atol=1e-6, rtol=1e-4)


def test_typical_sampling_leaves_the_most_surprising_and_the_least_out():
    # Entropy 1.28 nat: 0.2 (1.61 nat) is nearest to it, then 0.4 (0.92), then 0.1 (2.30).
    law = torch.tensor([[0.4, 0.2, 0.2, 0.1, 0.1]])
    kept = warped(law.log(), (1.0, None, 1.0, 0.0, 0.3)).isfinite()
    assert kept.tolist() == [[False, True, True, False, False]]


@QUICK
@given(st.integers(0, 1000), st.lists(st.sampled_from([0.5, 0.9, 1.0, 1.2, 3.0]), min_size=1, max_size=5), st.data())
def test_penalties_are_those_of_transformers_row_by_row(seed: int, penalties: list[float], data: st.DataObject):
    rows, vocab = len(penalties), 12
    given_logits = logits(rows, vocab, seed)
    given_logits[0, 3], given_logits[0, 4] = float("-inf"), 0.0
    tokens = [
        data.draw(st.lists(st.integers(0, vocab - 1), min_size=1, max_size=9), label=f"row {row}")
        for row in range(rows)
    ]
    seen = torch.zeros(rows, vocab, dtype=torch.bool)
    for row, ids in enumerate(tokens):
        seen[row, ids] = True
    found = penalise(given_logits, seen, torch.tensor(penalties))
    for row, (ids, penalty) in enumerate(zip(tokens, penalties, strict=True)):
        expected = RepetitionPenaltyLogitsProcessor(penalty)(torch.tensor([ids]), given_logits[row : row + 1].clone())
        torch.testing.assert_close(found[row : row + 1], expected, atol=0, rtol=1e-6)
        if penalty == 1.0:
            assert torch.equal(found[row], given_logits[row])


def test_a_penalty_makes_seen_tokens_less_probable_whatever_their_sign():
    given_logits = torch.tensor([[2.0, -2.0, 2.0, -2.0]])
    seen = torch.tensor([[True, True, False, False]])
    assert penalise(given_logits, seen, torch.tensor([2.0])).tolist() == [[1.0, -4.0, 2.0, -2.0]]
