from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from led_agent.decoding.noise import Frames, directions, next_gain, orthogonal_frame, perturb, scale
from led_agent.decoding.sampling import normals
from led_agent.types import LatentNoise, Sibling

QUICK = settings(max_examples=60, deadline=None)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def is_distributed(cumulative: Tensor) -> None:
    """Kolmogorov's test of numbers that went through the distribution they should have."""
    found, n = cumulative.flatten().double().sort().values, cumulative.numel()
    steps = torch.arange(n).double() / n
    distance = float(torch.maximum(found - steps, steps + 1 / n - found).max())
    assert distance * math.sqrt(n) < 2.5


def is_standard_normal_vector(x: Tensor) -> None:
    """Of [n, width]: every coordinate, the covariance, and the squared length."""
    n, width = x.shape
    x = x.double()
    for coordinate in x.unbind(1):
        is_distributed(torch.special.ndtr(coordinate))
    assert float(x.mean(0).abs().max()) < 5 / math.sqrt(n)
    assert float((x.T @ x / n - torch.eye(width)).abs().max()) < 6 * math.sqrt(2 / n)
    is_distributed(torch.special.gammainc(torch.tensor(width / 2).double(), x.square().sum(1) / 2))  # chi-square


# --- directions ----------------------------------------------------------------------------------------------------


def test_directions_are_the_normal_numbers_of_seed_and_counter():
    seeds, counters = torch.tensor([1, 2**62, 1]), torch.tensor([0, 5, 1])
    found = directions(seeds, counters, 3, 10)
    assert found.shape == (3, 3, 10)
    assert found.dtype == torch.float32
    assert torch.equal(found.flatten(1), normals(seeds, counters, 30))
    for i in range(3):
        assert torch.equal(found[i : i + 1], directions(seeds[i : i + 1], counters[i : i + 1], 3, 10))


def test_directions_differ_by_seed_counter_and_layer_and_are_normal():
    n = 4000
    many = directions(torch.arange(n), torch.full((n,), 3), 2, 4)
    is_standard_normal_vector(many.flatten(1))  # layers are independent of each other, too
    in_time = directions(torch.full((n,), 9), torch.arange(n), 1, 4)[:, 0]
    is_standard_normal_vector(torch.cat([in_time[:-1], in_time[1:]], 1))


# --- orthogonal frames ---------------------------------------------------------------------------------------------


@QUICK
@given(
    st.integers(0, 2**63 - 1), st.integers(0, 10_000), st.integers(0, 3), st.integers(1, 3), st.sampled_from([2, 7, 24])
)
def test_a_frame_is_orthogonal_in_every_layer(group: int, counter: int, block: int, layers: int, width: int):
    size = 1 + group % width
    frame = orthogonal_frame(group, counter, block, size, layers, width)
    assert frame.shape == (size, layers, width)
    assert frame.dtype == torch.float32
    for layer in frame.double().unbind(1):
        unit = layer / layer.norm(dim=1, keepdim=True)
        torch.testing.assert_close(unit @ unit.T, torch.eye(size).double(), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("size", "width"), [(1, 5), (3, 5), (5, 5)])
def test_each_vector_of_a_frame_alone_is_standard_normal(size: int, width: int):
    n = 3000
    frames = torch.stack([orthogonal_frame(group, 7, 0, size, 2, width) for group in range(n)])
    for member in range(size):
        is_standard_normal_vector(frames[:, member, 0])
        is_standard_normal_vector(frames[:, member, 1])
    across = frames[:, 0].flatten(1)  # layers are independent of each other
    assert float((across.T @ across / n)[:width, width:].abs().max()) < 6 / math.sqrt(n)


def test_a_frame_keeps_the_lengths_that_gaussian_vectors_have():
    lengths = orthogonal_frame(3, 0, 0, 40, 1, 64)[:, 0].norm(dim=1)
    assert float(lengths.min()) < 7.6 < 8.4 < float(lengths.max())


def asked(frames: Frames, group: int, of: int, order: list[int], counter: int = 0, width: int = 6) -> dict[int, Tensor]:
    return {i: frames.direction(Sibling(group=group, index=i, of=of), counter, 2, width) for i in order}


def test_siblings_agree_on_a_frame_wherever_they_grow_and_in_whatever_order():
    here, there = Frames(), Frames()
    one = asked(here, 11, 5, [0, 1, 2, 3, 4])
    other = asked(there, 11, 5, [4, 2])  # a machine that has only these two
    for i in (4, 2):
        assert torch.equal(one[i], other[i])
    for other_counter in range(200):  # long enough that nothing is kept
        asked(here, 12, 2, [0], counter=other_counter)
    again = asked(here, 11, 5, [3, 0])
    assert torch.equal(again[3], one[3])
    assert torch.equal(again[0], one[0])
    whole = torch.stack([one[i] for i in range(5)])
    assert torch.equal(whole, orthogonal_frame(11, 0, 0, 5, 2, 6))


def test_frames_differ_by_group_and_by_counter():
    frames = Frames()
    found = [asked(frames, group, 3, [1], counter=counter)[1] for group in (1, 2) for counter in (0, 1)]
    assert len({tuple(x.flatten().tolist()) for x in found}) == 4


def test_more_siblings_than_dimensions_have_several_frames():
    width, of, n = 4, 10, 800
    vectors = torch.stack([one_layer(group, of, width) for group in range(n)]).double()  # [n, of, width]
    unit = vectors / vectors.norm(dim=-1, keepdim=True)
    products = unit @ unit.transpose(1, 2)  # [n, of, of]
    block = torch.arange(of) // width
    same = (block[:, None] == block) & ~torch.eye(of, dtype=torch.bool)
    assert float(products[:, same].abs().max()) < 1e-5
    apart = products[:, block[:, None] != block]
    assert abs(float(apart.mean())) < 5 / math.sqrt(n * width)
    # Of independent directions the squared cosine is 1 / width on average.
    assert abs(float(apart.square().mean()) - 1 / width) < 0.02
    for member in range(of):
        is_distributed(torch.special.ndtr(vectors[:, member, 0]))


def one_layer(group: int, of: int, width: int) -> Tensor:
    """All of a group's directions in the first layer, [of, width]."""
    found = asked(Frames(), group, of, list(range(of)), width=width)
    return torch.stack([found[i][0] for i in range(of)])


# --- how much ------------------------------------------------------------------------------------------------------


def test_how_much_noise_each_row_gets():
    doubt, gain = torch.tensor([0.0, 0.25, 1.0]), torch.tensor([1.0, 0.5, 0.01])
    by = {
        name: scale(LatentNoise(sigma=0.2, scale=name), doubt, gain) for name in ("constant", "confidence", "entropy")
    }
    torch.testing.assert_close(by["constant"], torch.tensor([0.2, 0.2, 0.2]))
    torch.testing.assert_close(by["confidence"], torch.tensor([0.0, 0.05, 0.2]))
    torch.testing.assert_close(by["entropy"], torch.tensor([0.2, 0.1, 0.002]))
    assert all(amount.dtype == torch.float32 for amount in by.values())


@QUICK
@given(st.floats(0.01, 1.0), st.floats(0, 12), st.floats(0.1, 5))
def test_the_controller_raises_noise_below_the_target_and_lowers_it_above(gain: float, entropy: float, target: float):
    before = torch.tensor([gain])
    after = float(next_gain(before, torch.tensor([entropy]), target))
    assert 0.01 <= round(after, 8) <= 1.0
    if entropy < target - 1e-3:
        assert after > gain or gain > 0.99999
    elif entropy > target + 1e-3:
        assert after < gain or gain < 0.01001
    expected = min(1.0, max(0.01, gain * math.exp(min(2.0, max(-2.0, 0.5 * (target - entropy))))))
    assert math.isclose(after, expected, rel_tol=1e-5)


def test_the_controller_finds_the_noise_that_meets_the_target():
    # A model whose entropy grows with its noise; from either side, and to a bound where the target is out of reach.
    gain = torch.tensor([1.0, 0.01, 0.3, 0.3])
    target = 1.0
    for _ in range(200):
        entropy = torch.stack([0.5 + gain[0], 0.5 + gain[1], 0.1 * gain[2], 3 + gain[3]])
        gain = next_gain(gain, entropy, target)
    torch.testing.assert_close(gain, torch.tensor([0.5, 0.5, 1.0, 0.01]), atol=1e-4, rtol=1e-3)


# --- what becomes of a state ---------------------------------------------------------------------------------------


def moved_by_definition(h: list[float], epsilon: list[float], amount: float, tangent: bool) -> list[float]:
    width = len(h)
    length = math.sqrt(math.fsum(x * x for x in h))
    rms = length / math.sqrt(width)
    if tangent:
        along = math.fsum(e * x for e, x in zip(epsilon, h, strict=True)) / length**2
        epsilon = [e - along * x for e, x in zip(epsilon, h, strict=True)]
    moved = [x + amount * rms * e for x, e in zip(h, epsilon, strict=True)]
    if tangent:
        longer = math.sqrt(math.fsum(x * x for x in moved))
        moved = [x * length / longer for x in moved]
    return moved


@QUICK
@given(
    st.integers(0, 10_000),
    st.integers(2, 40),
    st.floats(0.01, 3.0),
    st.booleans(),
    st.sampled_from([1e-3, 1.0, 500.0]),
)
def test_states_are_moved_by_the_definition(seed: int, width: int, amount: float, tangent: bool, size: float):
    h, epsilon = size * randn(3, width, seed=seed), randn(3, width, seed=seed + 1)
    amounts = torch.tensor([amount, 0.5 * amount, 2 * amount])
    found = perturb(h, epsilon, amounts, tangent=tangent)
    assert found.dtype == torch.float32
    for i in range(3):
        expected = moved_by_definition(h[i].tolist(), epsilon[i].tolist(), float(amounts[i]), tangent)
        torch.testing.assert_close(found[i], torch.tensor(expected), atol=1e-5 * size, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tangent", [False, True])
def test_no_noise_is_the_state_to_the_bit(dtype: torch.dtype, tangent: bool):
    h = (30 * randn(4, 16)).to(dtype)
    h[1, 2], h[2, 3], h[3] = float("nan"), float("inf"), 0.0
    epsilon = randn(4, 16, seed=1)
    epsilon[0, 0], epsilon[3, 1] = float("nan"), float("inf")
    found = perturb(h, epsilon, torch.zeros(4), tangent=tangent)
    assert found.dtype == dtype
    bits = torch.int32 if dtype == torch.float32 else torch.int16
    assert torch.equal(found.view(bits), h.view(bits))


@pytest.mark.parametrize(("dtype", "slack"), [(torch.float32, 0.0), (torch.bfloat16, 2.0**-8)])
@pytest.mark.parametrize("sigma", [0.05, 0.3, 1.0])
def test_the_noise_is_sigma_of_the_states_length(dtype: torch.dtype, slack: float, sigma: float):
    width = 4096
    h = (7 * randn(8, width)).to(dtype)
    found = perturb(h, randn(8, width, seed=1), torch.full((8,), sigma), tangent=False)
    assert found.dtype == dtype
    ratio = (found.float() - h.float()).norm(dim=1) / h.float().norm(dim=1)
    assert float((ratio - sigma).abs().max()) < sigma * 5 / math.sqrt(2 * width) + slack


def test_a_tangent_move_turns_the_state_and_keeps_its_length():
    h, epsilon = 40 * randn(6, 256), randn(6, 256, seed=1)
    amount = torch.linspace(0.05, 2, 6)
    found = perturb(h, epsilon, amount, tangent=True).double()
    h = h.double()
    length = h.norm(dim=1)
    torch.testing.assert_close(found.norm(dim=1), length, atol=0, rtol=1e-6)
    unit = h / length[:, None]
    ahead = (found * unit).sum(1)
    sideways = found - ahead[:, None] * unit
    across = epsilon.double() - (epsilon.double() * unit).sum(1, keepdim=True) * unit
    torch.testing.assert_close(torch.cosine_similarity(sideways, across), torch.ones(6).double(), atol=1e-6, rtol=0)
    # It is moved at right angles, by amount · rms · |ε|, and then shortened.
    tangent_of_angle = amount.double() * across.norm(dim=1) / math.sqrt(256)
    torch.testing.assert_close(sideways.norm(dim=1) / ahead, tangent_of_angle, atol=0, rtol=1e-5)


def test_noise_along_the_state_does_not_move_it_when_tangent():
    h = randn(2, 16)
    torch.testing.assert_close(perturb(h, 3 * h, torch.ones(2), tangent=True), h, atol=1e-6, rtol=1e-5)


def test_bfloat16_states_are_moved_in_float32():
    h, epsilon, amount = (5 * randn(5, 64)).bfloat16(), randn(5, 64, seed=1), torch.full((5,), 0.2)
    for tangent in (False, True):
        exact = perturb(h.float(), epsilon, amount, tangent=tangent)
        assert torch.equal(perturb(h, epsilon, amount, tangent=tangent), exact.bfloat16())


@pytest.mark.parametrize("tangent", [False, True])
def test_a_state_of_zeros_stays(tangent: bool):
    assert perturb(torch.zeros(1, 8), randn(1, 8), torch.ones(1), tangent=tangent).tolist() == [[0.0] * 8]


@pytest.mark.parametrize("tangent", [False, True])
def test_rows_are_moved_alone(tangent: bool):
    h, epsilon = randn(7, 576), randn(7, 576, seed=1)
    amount = torch.tensor([0.1, 0.0, 1.0, 0.2, 0.0, 0.5, 0.3])
    together = perturb(h, epsilon, amount, tangent=tangent)
    h_bad, epsilon_bad = h.clone(), epsilon.clone()
    h_bad[3], epsilon_bad[5] = float("nan"), float("inf")
    beside_bad = perturb(h_bad, epsilon_bad, amount, tangent=tangent)
    for i in range(7):
        alone = perturb(h[i : i + 1], epsilon[i : i + 1], amount[i : i + 1], tangent=tangent)
        assert torch.equal(alone[0], together[i])
        if i not in (3, 5):
            assert torch.equal(beside_bad[i], together[i])
