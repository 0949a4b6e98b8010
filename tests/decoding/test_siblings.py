from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from led_agent.decoding.sampling import lay, lay_ordered, uniform
from led_agent.decoding.siblings import ENOUGH, sibling_code

QUICK = settings(max_examples=60, deadline=None)

groups = st.integers(0, 2**63 - 1)


def circle(a: float, b: float) -> float:
    """How far apart two codes are, where 1 is 0 again."""
    return min((a - b) % 1.0, (b - a) % 1.0)


@QUICK
@given(groups, st.integers(1, 70))
def test_the_codes_of_a_group_are_evenly_spaced_behind_one_shift(group: int, of: int):
    codes = sorted(sibling_code(group, i, of) for i in range(of))
    assert all(0.0 <= code < 1.0 for code in codes)
    shift = float(uniform(torch.tensor([group]), torch.tensor([0]), 3))
    expected = sorted((i / of + shift) % 1.0 for i in range(of))
    assert all(min(circle(code, e) for e in expected) < 1e-12 for code in codes)
    gaps = [(b - a) % 1.0 for a, b in itertools.pairwise([*codes, codes[0]])] if of > 1 else []
    assert all(math.isclose(gap, 1 / of, abs_tol=1e-12) for gap in gaps)


@QUICK
@given(groups, st.integers(2, 200), st.data())
def test_the_first_few_of_many_are_spread_too(group: int, of: int, data: st.DataObject):
    first = data.draw(st.integers(1, of))
    codes = sorted(sibling_code(group, i, of) for i in range(first))
    widest = max((b - a) % 1.0 or 1.0 for a, b in itertools.pairwise([*codes, codes[0]]))
    power = of & (of - 1) == 0
    assert widest <= (2 / first if power else 4 / first) + 1e-12


@pytest.mark.parametrize(("first", "of"), [(1, 8), (2, 8), (4, 8), (8, 8), (16, 64), (32, 64)])
def test_the_first_half_or_quarter_are_spread_as_evenly_as_a_whole_group(first: int, of: int):
    codes = sorted(sibling_code(5, i, of) for i in range(first))
    for a, b in itertools.pairwise([*codes, codes[0] + 1.0]):
        assert math.isclose(b - a, 1 / first, abs_tol=1e-12)


def test_the_first_sibling_has_the_shift_itself_and_a_group_of_one_nothing_else():
    for group in (0, 1, 2**63 - 1):
        shift = float(uniform(torch.tensor([group]), torch.tensor([0]), 3))
        assert sibling_code(group, 0, 1) == shift
        assert sibling_code(group, 0, 16) == shift


def test_a_code_is_a_function_of_group_number_and_size_alone():
    asked = [(group, i, of) for group in (3, 4) for of in (3, 8) for i in range(of)]
    forwards = {key: sibling_code(*key) for key in asked}
    backwards = {key: sibling_code(*key) for key in reversed(asked)}
    assert forwards == backwards
    assert forwards[3, 1, 8] != forwards[4, 1, 8]


def chi_square(counts: Tensor, expected: Tensor) -> float:
    """In standard errors above its mean."""
    freedom = int((expected > 0).sum()) - 1
    assert float(counts[expected == 0].sum()) == 0
    kept = expected > 0
    value = float(((counts - expected) ** 2 / expected)[kept].sum())
    return (value - freedom) / math.sqrt(2 * freedom)


@pytest.mark.parametrize(("index", "of"), [(0, 4), (1, 4), (3, 4), (2, 7)])
def test_each_siblings_code_is_uniform_over_groups(index: int, of: int):
    n = 6000
    codes = torch.tensor([sibling_code(group, index, of) for group in range(n)], dtype=torch.float64)
    assert chi_square(torch.histc(codes, 32, 0, 1), torch.full((32,), n / 32)) < 5


# --- whole sequences from a tree of laws ---------------------------------------------------------------------------

SIBLINGS, GROUPS, TOKENS, DEPTH = 6, 20_000, 4, 3


def tree_of_laws() -> list[Tensor]:
    """Float64 laws of the next token by the tokens so far: [4], [4, 4] and [4, 4, 4]; some tokens are impossible."""
    generator = torch.Generator().manual_seed(7)
    laws = []
    for depth in range(DEPTH):
        weights = torch.rand((TOKENS,) * (depth + 1), generator=generator, dtype=torch.float64) ** 2 + 0.02
        weights[..., 2] *= torch.rand(weights.shape[:-1], generator=generator, dtype=torch.float64) < 0.7
        laws.append(weights / weights.sum(-1, keepdim=True))
    return laws


def law_of_sequences(laws: list[Tensor]) -> Tensor:
    return (laws[0][:, None, None] * laws[1][:, :, None] * laws[2]).flatten()


def grow(laws: list[Tensor], u: Tensor, ordered: bool) -> Tensor:
    """Sequences int64 [n, 3], each from its one number: a step's code is the next step's number."""
    taken: list[Tensor] = []
    for law in laws:
        weights = law[tuple(taken)] if taken else law.expand(len(u), -1)
        drawn = lay_ordered(weights, u) if ordered else lay(weights.float(), u)
        taken.append(drawn.token)
        u = drawn.code
    return torch.stack(taken, 1)


def codes_of_groups() -> Tensor:
    """float64 [groups, siblings]. What siblings have besides the first one's code is the same in all groups."""
    first = torch.tensor([sibling_code(group, 0, SIBLINGS) for group in range(GROUPS)], dtype=torch.float64)
    own = torch.tensor([sibling_code(0, i, SIBLINGS) for i in range(SIBLINGS)], dtype=torch.float64)
    codes = (first[:, None] + own - own[0]) % 1.0
    for group in range(0, GROUPS, 997):
        for i in range(SIBLINGS):
            assert circle(float(codes[group, i]), sibling_code(group, i, SIBLINGS)) < 1e-12
    return codes


def numbers(sequences: Tensor, length: int = DEPTH) -> Tensor:
    """The first few tokens of each sequence as one number."""
    return sum(sequences[:, at] * TOKENS ** (length - 1 - at) for at in range(length))


@pytest.mark.parametrize("ordered", [True, False], ids=["lay_ordered", "lay"])
def test_each_sibling_alone_follows_the_law_of_sequences_and_together_they_are_spread(ordered: bool):
    laws, codes = tree_of_laws(), codes_of_groups()
    law = law_of_sequences(laws)
    cells = TOKENS**DEPTH
    for index in range(SIBLINGS):
        sequences = numbers(grow(laws, codes[:, index].contiguous(), ordered))
        counts = torch.bincount(sequences, minlength=cells).double()
        assert chi_square(counts, GROUPS * law) < 5

    grown = grow(laws, codes.flatten(), ordered).view(GROUPS, SIBLINGS, DEPTH)
    for length in range(1, DEPTH + 1):
        probability = law.view(TOKENS**length, -1).sum(1)
        n = SIBLINGS * probability  # expected in a group
        beginnings = numbers(grown.flatten(0, 1), length).view(GROUPS, SIBLINGS)
        counts = torch.zeros(GROUPS, TOKENS**length).scatter_add_(1, beginnings, torch.ones(GROUPS, SIBLINGS)).double()
        assert float((counts - n).abs().max()) < 1.0  # the floor or the ceiling of n·p, always
        over = n % 1.0
        variance = (counts - n).square().mean(0)
        torch.testing.assert_close(variance, over * (1 - over), atol=0.02, rtol=0.05)
        assert torch.all(variance <= n * (1 - probability) + 0.02)  # that of independent siblings
    first = law.view(TOKENS, -1).sum(1)
    assert float((SIBLINGS * first % 1.0 * (1 - SIBLINGS * first % 1.0)).sum()) < 0.5 * float(
        (SIBLINGS * first * (1 - first)).sum()
    )


def test_independent_numbers_are_not_spread_so():
    laws = tree_of_laws()
    u = torch.rand(GROUPS * SIBLINGS, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    first = grow(laws, u, ordered=True)[:, 0].view(GROUPS, SIBLINGS)
    counts = torch.zeros(GROUPS, TOKENS).scatter_add_(1, first, torch.ones(GROUPS, SIBLINGS)).double()
    variance = counts.var(0)
    torch.testing.assert_close(variance, SIBLINGS * laws[0] * (1 - laws[0]), atol=0.03, rtol=0.05)


def test_enough_room_is_left_when_a_code_is_given_up():
    # 2^-40 of 2^-53 leaves 13 random bits in the last number that a code gives: at least a few thousand values.
    assert 2.0**-53 / ENOUGH <= 2.0**-10
