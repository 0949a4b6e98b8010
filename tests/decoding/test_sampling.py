from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import MinPLogitsWarper, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from led_agent.decoding.sampling import (
    Drawn,
    PlainSettings,
    inverse_cdf,
    lay,
    lay_ordered,
    normals,
    plain_law,
    sample_plain,
    uniform,
)

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


def reference_mix(x: int) -> int:
    """SplitMix64's finaliser in Python's own integers."""
    mask = 2**64 - 1
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
    return x ^ (x >> 31)


def reference_hash(seed: int, position: int, draw: int) -> int:
    return reference_mix((reference_mix(seed) + (position * 16 + draw) * 0x9E3779B97F4A7C15) % 2**64)


def reference_uniform(seed: int, position: int, draw: int) -> float:
    return float((reference_hash(seed, position, draw) >> 11) * 2.0**-53)


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
    drawn = sample_plain(logits.expand(n, -1), rows, u)
    token, logprob = drawn.token, drawn.logprob
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
        drawn = sample_plain(logits, setting, torch.tensor([u, u], dtype=torch.float64))
        token, logprob = drawn.token, drawn.logprob
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
        drawn = sample_plain(logits, mixed, u)
        token, logprob = drawn.token, drawn.logprob
        assert token[0] == best[0]
        assert token[1] == best[1]
        assert int(token[2]) in fifth
        assert logprob[0] == 0
        nucleus = sample_plain(logits[3:4], plain(1, vocab, 0.5, top_p=0.7), u[3:4])
        loose = sample_plain(logits[4:], plain(1, vocab, 0.8, min_p=0.1), u[4:])
        assert (nucleus.token[0], nucleus.logprob[0]) == (token[3], logprob[3])
        assert (loose.token[0], loose.logprob[0]) == (token[4], logprob[4])


row_settings = st.tuples(
    st.sampled_from([0.0, 0.5, 1.0]),
    st.sampled_from([None, 1, 4, 30, 200]),
    st.sampled_from([1.0, 0.9, 0.4]),
    st.sampled_from([0.0, 0.1]),
)


@QUICK
@given(
    st.lists(row_settings, min_size=4, max_size=4),
    st.lists(st.booleans(), min_size=4, max_size=4),
    st.integers(0, 1000),
)
def test_a_row_is_drawn_alike_whatever_else_is_in_the_batch(
    rows: list[tuple[float, int | None, float, float]], stratified: list[bool], seed: int
):
    vocab = 300
    logits = peaked(4, vocab, seed)
    u = uniform(torch.full((4,), seed), torch.arange(4), 1)
    together = sample_plain(logits, PlainSettings.of(rows, vocab, stratified=stratified), u)
    for i in range(4):
        setting = PlainSettings.of([rows[i]], vocab, stratified=[stratified[i]])
        alone = sample_plain(logits[i : i + 1], setting, u[i : i + 1])
        assert parts(alone) == parts(together, i)


@pytest.mark.parametrize("mate", [(1.0, 40, 1.0, 0.0), (1.0, 300, 1.0, 0.0), (1.0, None, 0.9, 0.0)])
def test_equal_logits_are_drawn_alike_whatever_else_is_in_the_batch(mate: tuple[float, int | None, float, float]):
    vocab = 2000
    logits = peaked(1, vocab).bfloat16().float()  # a model in bfloat16 has many equal logits
    own = (1.0, 8, 1.0, 0.0)
    u = (torch.arange(64).double() + 0.5) / 64
    alone = sample_plain(logits.expand(64, -1), PlainSettings.of([own] * 64, vocab), u)
    beside = PlainSettings.of([own] * 64 + [mate], vocab)
    together = sample_plain(logits.expand(65, -1), beside, torch.cat([u, u[:1]]))
    assert together.token[:64].tolist() == alone.token.tolist()


def parts(drawn: Drawn, row: int = 0) -> tuple[float, ...]:
    return tuple(float(field[row]) for field in (drawn.token, drawn.logprob, drawn.code, drawn.width))


def test_stratified_rows_follow_the_same_law():
    n, vocab = 60_000, 300
    logits = peaked(1, vocab)
    for min_p in (0.0, 0.03):
        law = plain_law(logits, plain(1, vocab, 0.9, min_p=min_p))[0]
        laid = PlainSettings.of([(0.9, None, 1.0, min_p)] * n, vocab, stratified=[True] * n)
        u = (torch.arange(n).double() + 0.5) / n  # evenly spread: counts are then nearly exact
        drawn = sample_plain(logits.expand(n, -1), laid, u)
        counts = torch.bincount(drawn.token, minlength=vocab).double()
        assert float((counts - n * law).abs().max()) < 1.01
        torch.testing.assert_close(drawn.width, law[drawn.token], atol=1e-9, rtol=1e-5)


# --- tokens laid on [0, 1) -----------------------------------------------------------------------------------------

HEAD = 128


def laid_out(weights: list[float]) -> tuple[list[int], list[float]]:
    """Tokens in the order in which they are laid, and the edges between their intervals, the total last."""
    by_weight = sorted(range(len(weights)), key=lambda v: (-weights[v], v))
    order = by_weight[:HEAD] + sorted(by_weight[HEAD:])
    edges = [0.0]
    for v in order:
        edges.append(edges[-1] + weights[v])
    return order, edges


def holds(drawn: Drawn, row: int, weights: list[float], order: list[int], edges: list[float], u: float) -> None:
    """Whether the token drawn is the one whose interval holds u, and all that is said of it is so."""
    total, token = edges[-1], int(drawn.token[row])
    at = order.index(token)
    low, high = edges[at] / total, edges[at + 1] / total
    assert weights[token] > 0
    assert low - 1e-12 <= u <= high + 1e-12
    assert math.isclose(float(drawn.width[row]), weights[token] / total, rel_tol=1e-9)
    assert math.isclose(float(drawn.logprob[row]), math.log(weights[token] / total), rel_tol=1e-5, abs_tol=1e-6)
    assert 0.0 <= float(drawn.code[row]) < 1.0
    assert abs(low + float(drawn.code[row]) * float(drawn.width[row]) - u) < 1e-12  # nothing of u is lost


EDGES = [0.0, 2.0**-53, 0.25, 0.5, 0.999, 1.0 - 2.0**-53]


def distinct(n: int, seed: int, spread: float, share: float) -> torch.Tensor:
    """float32 [n] positive weights, no two equal but for zeros, and about that share of zeros."""
    generator = torch.Generator().manual_seed(seed)
    ranks = torch.randperm(n, generator=generator).float()
    kept = torch.rand(n, generator=generator) >= share
    kept[seed % n] = True
    return (-spread * ranks / n).exp() * kept


@QUICK
@given(
    st.sampled_from([1, 2, 5, 127, 128, 129, 400]),
    st.integers(0, 10_000),
    st.sampled_from([0.01, 1.0, 8.0, 30.0]),
    st.sampled_from([0.0, 0.5, 0.9]),
    st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=5),
)
def test_lay_takes_the_token_whose_interval_holds_u(n: int, seed: int, spread: float, share: float, us: list[float]):
    weights = distinct(n, seed, spread, share)
    u = EDGES + us
    drawn = lay(weights.expand(len(u), -1), torch.tensor(u, dtype=torch.float64))
    order, edges = laid_out(weights.tolist())
    for row, number in enumerate(u):
        holds(drawn, row, weights.tolist(), order, edges, number)


@QUICK
@given(
    st.lists(st.sampled_from([0.0, 0.0, 1e-12, 0.1, 0.1, 1.0, 3.0]), min_size=1, max_size=40).filter(any),
    st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=5),
)
def test_lay_ordered_keeps_the_order_given(weights: list[float], us: list[float]):
    u = EDGES + us
    drawn = lay_ordered(
        torch.tensor(weights, dtype=torch.float64).expand(len(u), -1), torch.tensor(u, dtype=torch.float64)
    )
    edges = [0.0]
    for weight in weights:
        edges.append(edges[-1] + weight)
    for row, number in enumerate(u):
        holds(drawn, row, weights, list(range(len(weights))), edges, number)


@pytest.mark.parametrize("n", [3, 128, 200, 1000])
def test_the_ends_of_the_unit_interval(n: int):
    weights = torch.zeros(1, n)
    weights[0, 1], weights[0, 2] = 2.0, 1.0
    first = lay(weights, torch.tensor([0.0], dtype=torch.float64))
    last = lay(weights, torch.tensor([1 - 2.0**-53], dtype=torch.float64))
    assert (int(first.token), int(last.token)) == (1, 2)
    assert float(first.code) == 0.0
    assert 0.999 < float(last.code) < 1.0


@pytest.mark.parametrize("tiny", [1e-30, 1e-44])
def test_the_only_token_is_drawn_however_small_its_weight(tiny: float):
    weights = torch.zeros(6, 300)
    weights[:, 250] = tiny
    drawn = lay(weights, torch.tensor(EDGES, dtype=torch.float64))
    assert drawn.token.tolist() == [250] * 6
    torch.testing.assert_close(drawn.width, torch.ones(6).double())
    torch.testing.assert_close(drawn.code, torch.tensor(EDGES, dtype=torch.float64))


@pytest.mark.parametrize("n", [100, 128, 129, 5000])
def test_equal_tokens_share_the_unit_interval_alike(n: int):
    u = (torch.arange(n).double() + 0.5) / n
    drawn = lay(torch.full((1, n), 0.3).expand(n, -1), u)
    assert drawn.token.sort().values.tolist() == list(range(n))  # each one once
    torch.testing.assert_close(drawn.width, torch.full((n,), 1 / n).double())
    torch.testing.assert_close(drawn.code, torch.full((n,), 0.5).double(), atol=1e-8, rtol=0)


def test_a_heavy_tail_behind_the_head_is_laid_by_id():
    n = 5000
    weights = torch.full((n,), 1e-3)
    weights[n - HEAD :] = 1.0 + torch.arange(HEAD) / HEAD  # the head, last by id
    order, edges = laid_out(weights.tolist())
    tail = edges[HEAD] / edges[-1]
    ends = [(0, tail - 1e-9), (tail + 1e-9, 1 - 1e-9)]
    u = torch.cat([torch.linspace(start, end, 50, dtype=torch.float64) for start, end in ends])
    drawn = lay(weights.expand(len(u), -1), u)
    for row, number in enumerate(u.tolist()):
        holds(drawn, row, weights.tolist(), order, edges, number)
    behind = drawn.token[50:]
    assert behind.tolist() == sorted(behind.tolist())
    assert int(behind.max()) < n - HEAD <= int(drawn.token[:50].min())


def test_a_tail_too_light_to_be_seen_is_never_drawn_from_by_rounding():
    weights = torch.full((1, 1000), 1e-30)
    weights[0, 500] = 1.0
    drawn = lay(weights.expand(6, -1), torch.tensor(EDGES, dtype=torch.float64))
    assert drawn.token.tolist() == [500] * 6


def test_a_sum_that_rounds_up_leads_to_no_impossible_token():
    # Fewer tokens than the head holds: summed in another order they come to a little more than the head does.
    rows, n = 500, 300
    weights = torch.stack([distinct(n, seed, 30.0, 0.8) for seed in range(rows)])
    more = weights.sum(-1, dtype=torch.float64) > weights.topk(HEAD).values.double().cumsum(-1)[:, -1]
    assert int(more.sum()) > 0
    drawn = lay(weights, torch.full((rows,), 1 - 2.0**-53, dtype=torch.float64))
    assert torch.all(weights.gather(1, drawn.token[:, None]) > 0)
    least = torch.where(weights > 0, weights, float("inf")).argmin(-1)
    light = weights.gather(1, least[:, None]).squeeze(1).double() < 1e-13 * weights.double().sum(-1)
    assert torch.all((drawn.token == least) | light)  # the last of them, or one that float64 can tell from the total
    assert torch.all(drawn.width > 0)


@pytest.mark.parametrize("ordered", [False, True])
def test_the_code_is_uniform_again_given_the_token(ordered: bool):
    n = 20_000
    weights = torch.tensor([0.02, 0.5, 0.0, 0.18, 0.3])
    u = (torch.arange(n).double() + 0.5) / n
    drawn = lay_ordered(weights.double().expand(n, -1), u) if ordered else lay(weights.expand(n, -1), u)
    for token in (0, 1, 3, 4):
        codes = drawn.code[drawn.token == token].sort().values
        assert abs(len(codes) - n * float(weights[token])) <= 1
        even = (torch.arange(len(codes)).double() + 0.5) / len(codes)
        assert float((codes - even).abs().max()) < 1.5 / len(codes)


@pytest.mark.parametrize("n", [60, 500])
def test_rows_are_laid_alone(n: int):
    weights = torch.stack([distinct(n, seed, 4.0, 0.2) for seed in range(40)])
    u = uniform(torch.arange(40), torch.full((40,), 1), 1)
    together = lay(weights, u)
    ordered = lay_ordered(weights.double(), u)
    for i in range(40):
        assert parts(lay(weights[i : i + 1], u[i : i + 1])) == parts(together, i)
        assert parts(lay_ordered(weights[i : i + 1].double(), u[i : i + 1])) == parts(ordered, i)


# --- normal numbers ------------------------------------------------------------------------------------------------


def reference_normals(seed: int, position: int, n: int) -> list[float]:
    """Box and Muller in Python's own integers and floats: all cosines, then all sines."""
    base, half = reference_hash(seed, position, 2), (n + 1) // 2
    cosines, sines = [], []
    for pair in range(1, half + 1):
        bits = reference_mix((base + pair * 0x9E3779B97F4A7C15) % 2**64)
        radius = math.sqrt(-2 * math.log(((bits >> 40) + 0.5) / 2**24))
        angle = 2 * math.pi * (bits % 2**24) / 2**24
        cosines.append(radius * math.cos(angle))
        sines.append(radius * math.sin(angle))
    return (cosines + sines)[:n]


@QUICK
@given(st.integers(0, 2**63 - 1), st.integers(0, 2**31), st.integers(1, 33))
def test_normals_are_known_on_every_machine(seed: int, position: int, n: int):
    got = normals(torch.tensor([seed]), torch.tensor([position]), n)
    assert got.shape == (1, n)
    assert got.dtype == torch.float32
    expected = torch.tensor([reference_normals(seed, position, n)])
    # A radius near 0 is a small difference from 1 before the logarithm: float32 holds it to 24 bits of 1.
    torch.testing.assert_close(got, expected, atol=3e-4, rtol=3e-6)


def test_normals_stay_what_they_were():
    # Frozen: a change would change every noisy branch that was ever recorded with a seed.
    got = normals(torch.tensor([0, 123456789]), torch.tensor([0, 41]), 3)
    torch.testing.assert_close(
        got,
        torch.tensor([[0.1370112, 1.6655618, -1.5982004], [-1.1598368, 1.4184271, 0.2448732]]),
        atol=2e-6,
        rtol=2e-6,
    )


def test_normals_are_a_function_of_seed_and_position_alone():
    seeds, positions = torch.arange(50) * 7919, torch.arange(50) % 5
    together = normals(seeds, positions, 101)
    assert torch.equal(together.flip(0), normals(seeds.flip(0), positions.flip(0), 101))
    for i in range(50):
        assert torch.equal(together[i : i + 1], normals(seeds[i : i + 1], positions[i : i + 1], 101))
    assert len({row.tobytes() for row in together.numpy()}) == 50


def is_standard_normal(x: torch.Tensor) -> None:
    """Moments, and Kolmogorov's distance, each within five standard errors or a chance of about 1e-5."""
    x = x.flatten().double()
    n = len(x)
    assert abs(float(x.mean())) < 5 / math.sqrt(n)
    assert abs(float(x.var()) - 1) < 5 * math.sqrt(2 / n)
    assert abs(float((x**3).mean())) < 5 * math.sqrt(15 / n)
    assert abs(float((x**4).mean()) - 3) < 5 * math.sqrt(96 / n)
    steps = torch.arange(n).double() / n
    expected = torch.special.ndtr(x.sort().values)
    distance = float(torch.maximum(expected - steps, steps + 1 / n - expected).max())
    assert distance * math.sqrt(n) < 2.5


@pytest.mark.parametrize("n", [1, 2, 7])
def test_normals_are_normal_over_seeds_and_over_positions(n: int):
    rows = 60_000
    over_seeds = normals(torch.arange(rows), torch.full((rows,), 11), n)
    over_positions = normals(torch.full((rows,), 5), torch.arange(rows), n)
    for column in (*over_seeds.unbind(1), *over_positions.unbind(1)):
        is_standard_normal(column)


def test_one_row_of_normals_is_normal():
    is_standard_normal(normals(torch.tensor([3]), torch.tensor([9]), 300_000))


def test_normals_of_different_rows_and_columns_are_independent():
    n = 4000
    rows = torch.cat(
        [
            normals(torch.arange(60), torch.full((60,), 4), n),
            normals(torch.full((60,), 77), torch.arange(60), n),
        ]
    )
    columns = normals(torch.arange(n), torch.full((n,), 2), 120).T
    for table in (rows, columns):
        for kind in (
            table,
            table.square(),
        ):  # squares: the two numbers of one hash share a radius, and must not show it
            correlation = torch.corrcoef(kind) - torch.eye(len(kind))
            assert float(correlation.abs().max()) < 6 / math.sqrt(n)


def test_noise_has_numbers_of_its_own():
    # Those that draw tokens and gates must not be told from the noise.
    n = 20_000
    seeds, positions = torch.arange(n), torch.full((n,), 3)
    noise = torch.special.ndtr(normals(seeds, positions, 2).double())
    for draw in (0, 1, 3, 15):
        table = torch.stack([*noise.unbind(1), uniform(seeds, positions, draw)])
        assert float(torch.corrcoef(table)[2, :2].abs().max()) < 5 / math.sqrt(n)
