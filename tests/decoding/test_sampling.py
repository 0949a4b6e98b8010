from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import MinPLogitsWarper, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from led_agent.decoding.sampling import PlainSettings, inverse_cdf, plain_law, sample_plain, uniform

QUICK = settings(max_examples=60, deadline=None)


def plain(
    rows: int, vocab: int, temperature: float = 1.0, top_k: int | None = None, top_p: float = 1.0, min_p: float = 0.0
) -> PlainSettings:
    return PlainSettings.of([(temperature, top_k, top_p, min_p)] * rows, vocab)


def peaked(rows: int, vocab: int, seed: int = 0) -> torch.Tensor:
    return 3 * torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed))


def test_uniform_is_a_function_of_seed_position_and_draw_alone():
    seeds = torch.tensor([7, 7, 8, 2**62])
    positions = torch.tensor([3, 4, 3, 3])
    together = uniform(seeds, positions, 1)
    alone = torch.cat([uniform(seeds[i : i + 1], positions[i : i + 1], 1) for i in range(4)])
    assert torch.equal(together, alone)
    assert len({*together.tolist(), *uniform(seeds, positions, 0).tolist()}) == 8


def test_uniform_is_known_on_every_machine():
    # Frozen: a change would change every branch that was ever recorded with a seed.
    got = uniform(torch.tensor([0, 1, 2**63 - 1]), torch.tensor([0, 17, 100_000]), 1).tolist()
    expected = [reference_uniform(0, 0, 1), reference_uniform(1, 17, 1), reference_uniform(2**63 - 1, 100_000, 1)]
    assert got == expected


def reference_uniform(seed: int, position: int, draw: int) -> float:
    """The hash in Python's own integers."""
    mask = 2**64 - 1

    def mix(x: int) -> int:
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
        return x ^ (x >> 31)

    x = mix((mix(seed) + (position * 16 + draw) * 0x9E3779B97F4A7C15) & mask)
    return float((x >> 11) * 2.0**-53)


@pytest.mark.parametrize("draw", [0, 1])
def test_uniform_is_uniform_along_positions_and_along_seeds(draw: int):
    n = 200_000
    for u in (
        uniform(torch.full((n,), 5), torch.arange(n), draw),
        uniform(torch.arange(n), torch.full((n,), 9), draw),
    ):
        counts = torch.histc(u, 64, 0, 1)
        chi2 = float(((counts - n / 64) ** 2 / (n / 64)).sum())
        assert chi2 < 63 + 5 * math.sqrt(2 * 63)
        assert 0 <= float(u.min()) <= float(u.max()) < 1
        lagged = torch.corrcoef(torch.stack([u[:-1], u[1:]]))[0, 1]
        assert abs(float(lagged)) < 5 / math.sqrt(n)


@QUICK
@given(st.integers(1, 700), st.integers(0, 10_000), st.floats(0, 1, exclude_max=True))
def test_inverse_cdf_lands_where_the_running_sum_passes_u(n: int, seed: int, u: float):
    generator = torch.Generator().manual_seed(seed)
    weights = torch.rand(1, n, generator=generator) * (torch.rand(1, n, generator=generator) < 0.5)
    weights[0, seed % n] += 0.1
    index = int(inverse_cdf(weights, torch.tensor([u], dtype=torch.float64)))
    sums = weights[0].double().cumsum(0)
    assert weights[0, index] > 0
    below = float(sums[index - 1]) if index else 0.0
    slack = 1e-5 * float(sums[-1])
    assert below - slack <= u * float(sums[-1]) <= float(sums[index]) + slack


def test_inverse_cdf_never_leaves_the_support_at_the_very_edge():
    weights = torch.zeros(2, 1000)
    weights[0, 300], weights[1, 999] = 1e-30, 3.0
    edge = torch.tensor([1 - 2**-53, 1 - 2**-53], dtype=torch.float64)
    assert inverse_cdf(weights, edge).tolist() == [300, 999]
    assert inverse_cdf(weights, torch.zeros(2, dtype=torch.float64)).tolist() == [300, 999]


def warped(logits: torch.Tensor, temperature: float, top_k: int | None, top_p: float, min_p: float) -> torch.Tensor:
    """transformers' own filters, in the order of its generate()."""
    ids = torch.zeros(len(logits), 1, dtype=torch.long)
    chain = [TemperatureLogitsWarper(temperature)]
    chain += [TopKLogitsWarper(top_k)] if top_k else []
    chain += [TopPLogitsWarper(top_p)] if top_p < 1 else []
    chain += [MinPLogitsWarper(min_p)] if min_p else []
    for step in chain:
        logits = step(ids, logits)
    return logits.softmax(-1)


@QUICK
@given(
    st.sampled_from([0.3, 0.6, 1.0, 1.7]),
    st.sampled_from([None, 1, 2, 7, 50]),
    st.sampled_from([1.0, 0.95, 0.5, 0.05]),
    st.sampled_from([0.0, 0.05, 0.5]),
    st.integers(0, 1000),
)
def test_the_plain_law_is_that_of_transformers(
    temperature: float, top_k: int | None, top_p: float, min_p: float, seed: int
):
    logits = peaked(3, 60, seed)
    law = plain_law(logits, plain(3, 60, temperature, top_k, top_p, min_p))
    expected = warped(logits.double(), temperature, top_k, top_p, min_p)
    torch.testing.assert_close(law, expected, atol=2e-6, rtol=1e-4)


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p", "min_p"),
    [(1.0, None, 1.0, 0.0), (0.7, 5, 1.0, 0.0), (1.3, None, 0.8, 0.0), (1.0, 30, 0.9, 0.02), (0.6, None, 1.0, 0.1)],
)
def test_sampling_follows_the_law(temperature: float, top_k: int | None, top_p: float, min_p: float):
    n, vocab = 120_000, 300
    logits = peaked(1, vocab)
    setting = plain(1, vocab, temperature, top_k, top_p, min_p)
    law = plain_law(logits, setting)[0]
    rows = plain(n, vocab, temperature, top_k, top_p, min_p)
    u = uniform(torch.arange(n), torch.full((n,), 3), 1)
    token, logprob = sample_plain(logits.expand(n, -1), rows, u)
    counts = torch.bincount(token, minlength=vocab).double()
    assert float(counts[law == 0].sum()) == 0
    seen = law > 5 / n
    chi2 = float(((counts - n * law) ** 2 / (n * law))[seen].sum())
    freedom = int(seen.sum()) - 1
    assert chi2 < freedom + 5 * math.sqrt(2 * max(freedom, 1))
    torch.testing.assert_close(logprob.double(), law[token].log(), atol=1e-4, rtol=1e-4)


def test_a_nucleus_wider_than_the_first_look_is_still_exact():
    vocab = 5000
    logits = torch.zeros(2, vocab)  # flat: 90 % of the mass takes 4500 tokens
    logits[0] += 1e-3 * torch.arange(vocab).flip(0)
    setting = plain(2, vocab, top_p=0.9)
    law = plain_law(logits, setting)
    for u in (0.0, 0.5, 0.999999):
        token, logprob = sample_plain(logits, setting, torch.tensor([u, u], dtype=torch.float64))
        torch.testing.assert_close(logprob.double(), law[torch.arange(2), token].log(), atol=1e-4, rtol=1e-4)
    assert int((law[1] > 0).sum()) == 4500


def test_rows_keep_their_own_settings():
    vocab = 40
    logits = peaked(5, vocab)
    mixed = PlainSettings.of(
        [(0.0, None, 1.0, 0.0), (1.0, 1, 1.0, 0.0), (1.0, 5, 1.0, 0.0), (0.5, None, 0.7, 0.0), (0.8, None, 1.0, 0.1)],
        vocab,
    )
    best = logits.argmax(-1)
    fifth = logits.topk(5).indices[2].tolist()
    for k in range(50):
        u = uniform(torch.arange(5), torch.full((5,), k), 1)
        token, logprob = sample_plain(logits, mixed, u)
        assert token[0] == best[0]
        assert token[1] == best[1]
        assert int(token[2]) in fifth
        assert logprob[0] == 0
        nucleus = sample_plain(logits[3:4], plain(1, vocab, 0.5, top_p=0.7), u[3:4])
        loose = sample_plain(logits[4:], plain(1, vocab, 0.8, min_p=0.1), u[4:])
        assert (nucleus[0][0], nucleus[1][0]) == (token[3], logprob[3])
        assert (loose[0][0], loose[1][0]) == (token[4], logprob[4])
