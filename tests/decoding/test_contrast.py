from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from led_agent.decoding.contrast import contrasted, distil, foresee, js_divergence, random_projection

QUICK = settings(max_examples=60, deadline=None)
INF = float("inf")


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def softmax(logits: list[float]) -> list[float]:
    top = max(logits)
    weights = [math.exp(x - top) for x in logits]
    total = math.fsum(weights)
    return [w / total for w in weights]


def divergence(p: list[float], q: list[float]) -> float:
    """Jensen and Shannon's, as it is defined, 0 log 0 being 0."""
    middle = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
    kl = [math.fsum(a * math.log(a / m) for a, m in zip(x, middle, strict=True) if a > 0) for x in (p, q)]
    return sum(kl) / 2


rows_of_logits = st.integers(1, 12).flatmap(
    lambda n: st.tuples(*[st.lists(st.floats(-9, 9) | st.just(-INF), min_size=n, max_size=n).filter(finite)] * 2)
)


def finite(logits: list[float]) -> bool:
    return max(logits) > -INF


# --- DoLa ----------------------------------------------------------------------------------------------------------


@QUICK
@given(rows_of_logits)
def test_the_divergence_is_the_definition(pair: tuple[list[float], list[float]]):
    p, q = (torch.tensor(x, dtype=torch.float64).log_softmax(-1) for x in pair)
    found = float(js_divergence(p, q))
    assert math.isclose(found, divergence(softmax(pair[0]), softmax(pair[1])), abs_tol=1e-12)
    assert math.isclose(found, float(js_divergence(q, p)), abs_tol=1e-14)
    assert -1e-14 <= found <= math.log(2) + 1e-14
    assert abs(float(js_divergence(p, p))) < 1e-14
    in_float32 = float(js_divergence(p.float(), q.float()))
    assert math.isclose(found, in_float32, abs_tol=2e-6)


def test_posteriors_with_nothing_in_common_differ_by_ln_2():
    p, q = torch.tensor([0.0, -INF, -INF]), torch.tensor([-INF, math.log(0.5), math.log(0.5)])
    assert math.isclose(float(js_divergence(p, q)), math.log(2), rel_tol=1e-6)


def dola(final: list[float], early: list[list[float]], plausibility: float) -> tuple[list[float], int]:
    """Chuang et al., one row, in plain Python."""
    p, others = softmax(final), [softmax(layer) for layer in early]
    divergences = [divergence(p, q) for q in others]
    chosen = divergences.index(max(divergences))
    least = plausibility * max(p)
    scores = [math.log(a) - math.log(b) if a >= least else -INF for a, b in zip(p, others[chosen], strict=True)]
    return scores, chosen


@QUICK
@given(st.integers(0, 10_000), st.integers(1, 5), st.integers(2, 15), st.sampled_from([0.03, 0.1, 0.5, 0.9]))
def test_contrasted_layers_are_the_published_scores(seed: int, layers: int, vocab: int, plausibility: float):
    final, early = 3 * randn(4, vocab, seed=seed).double(), 2 * randn(4, layers, vocab, seed=seed + 1).double()
    scores, chosen = contrasted(final, early, plausibility)
    for row in range(4):
        expected, layer = dola(final[row].tolist(), early[row].tolist(), plausibility)
        assert int(chosen[row]) == layer
        torch.testing.assert_close(scores[row], torch.tensor(expected, dtype=torch.float64))


def test_each_row_has_the_layer_that_differs_most_from_its_own_final_one():
    final = torch.tensor([[5.0, 0.0, 0.0], [0.0, 5.0, 0.0]])
    layers = torch.tensor([[5.0, 0.0, 0.0], [0.0, 5.0, 0.0]])
    _, chosen = contrasted(final, layers.expand(2, -1, -1), 0.1)
    assert chosen.tolist() == [1, 0]


def test_equal_layers_take_the_first_and_leave_only_what_is_plausible():
    final = torch.tensor([[0.2, 0.5, 0.049, 0.051, 0.2]]).log()
    early = final[:, None].expand(1, 3, 5)
    scores, chosen = contrasted(final, early, 0.1)
    assert chosen.tolist() == [0]
    torch.testing.assert_close(scores, torch.tensor([[0.0, 0.0, -INF, 0.0, 0.0]]))


def test_full_plausibility_leaves_the_most_probable_token_alone():
    scores, _ = contrasted(randn(3, 9), randn(3, 2, 9, seed=1), 1.0)
    assert scores.isfinite().sum(1).tolist() == [1, 1, 1]
    assert scores.argmax(1).tolist() == randn(3, 9).argmax(1).tolist()


def test_a_token_that_the_final_layer_bans_stays_banned():
    final = randn(2, 6)
    final[:, 2] = -INF
    scores, _ = contrasted(final, randn(2, 3, 6, seed=1), 0.01)
    assert scores[:, 2].tolist() == [-INF, -INF]
    assert not bool(scores.isnan().any())


def test_contrasted_rows_are_independent_to_the_bit():
    final, early = 3 * randn(6, 700), 3 * randn(6, 4, 700, seed=1)
    early[4] *= 1e4
    final[5, 3] = float("nan")
    scores, chosen = contrasted(final, early, 0.1)
    for row in range(5):
        alone, layer = contrasted(final[row : row + 1], early[row : row + 1], 0.1)
        assert torch.equal(alone[0], scores[row])
        assert int(layer) == int(chosen[row])


# --- ESamp ---------------------------------------------------------------------------------------------------------


def test_the_projection_is_the_same_everywhere_and_normal():
    cpu = torch.device("cpu")
    one = random_projection(64, 512, cpu)
    assert one.shape == (64, 512)
    assert one.dtype == torch.float32
    assert torch.equal(one, random_projection(64, 512, cpu))
    assert torch.equal(one[:16], random_projection(16, 512, cpu))  # a smaller rank is a part of it
    numbers = one.double().flatten() * math.sqrt(512)
    n = len(numbers)
    assert abs(float(numbers.mean())) < 5 / math.sqrt(n)
    assert abs(float(numbers.var()) - 1) < 5 * math.sqrt(2 / n)
    assert abs(float(numbers.pow(4).mean()) - 3) < 5 * math.sqrt(96 / n)
    apart = torch.corrcoef(one.double()) - torch.eye(64)
    assert float(apart.abs().max()) < 6 / math.sqrt(512)


def test_the_projection_stays_what_it_was():
    # Frozen: a change would change every branch that was ever recorded with this method.
    found = random_projection(2, 4, torch.device("cpu"))
    torch.testing.assert_close(
        found,
        torch.tensor([[-0.4699449, 0.3812866, 0.0283942, -0.3638951], [0.2499077, -0.9700217, -0.4361795, 0.0972381]]),
        atol=2e-6,
        rtol=2e-6,
    )


def foreseen_by_definition(
    projection: list[list[float]], weights: list[list[float]], shallow: list[float]
) -> tuple[list[float], list[float]]:
    """One row: f(h) = V tanh(P h / rms(h))."""
    rms = math.sqrt(math.fsum(x * x for x in shallow) / len(shallow) + 1e-12)
    features = [math.tanh(math.fsum(a * x / rms for a, x in zip(row, shallow, strict=True))) for row in projection]
    return [math.fsum(w * f for w, f in zip(row, features, strict=True)) for row in weights], features


@QUICK
@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(1, 9), st.sampled_from([1e-2, 1.0, 300.0]))
def test_foreseeing_is_the_definition(seed: int, rank: int, width: int, size: float):
    projection, weights = randn(rank, width, seed=seed), randn(3, width, rank, seed=seed + 1)
    shallow = size * randn(3, width, seed=seed + 2)
    found, features = foresee(projection, weights, shallow)
    assert found.shape == (3, width)
    assert features.shape == (3, rank)
    for row in range(3):
        expected, hidden = foreseen_by_definition(projection.tolist(), weights[row].tolist(), shallow[row].tolist())
        torch.testing.assert_close(found[row], torch.tensor(expected), atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(features[row], torch.tensor(hidden), atol=1e-5, rtol=1e-4)


@QUICK
@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(1, 9), st.sampled_from([0.1, 0.5, 1.0]))
def test_distilling_is_one_step_of_normalised_least_mean_squares(seed: int, rank: int, width: int, rate: float):
    weights, features = randn(2, width, rank, seed=seed), randn(2, rank, seed=seed + 1)
    error = randn(2, width, seed=seed + 2)
    found = distil(weights, features, error, rate)
    for row in range(2):
        power = math.fsum(float(f) ** 2 for f in features[row])
        for i in range(width):
            for j in range(rank):
                step = rate * float(error[row, i]) * float(features[row, j]) / power
                assert math.isclose(
                    float(found[row, i, j]), float(weights[row, i, j]) + step, abs_tol=1e-4, rel_tol=1e-4
                )


@QUICK
@given(st.integers(0, 10_000), st.sampled_from([0.25, 0.5, 1.0]))
def test_a_step_takes_its_share_of_the_error_away(seed: int, rate: float):
    projection = random_projection(16, 24, torch.device("cpu"))
    weights, shallow, target = randn(3, 24, 16, seed=seed), randn(3, 24, seed=seed + 1), randn(3, 24, seed=seed + 2)
    foreseen, features = foresee(projection, weights, shallow)
    error = target - foreseen
    again, _ = foresee(projection, distil(weights, features, error, rate), shallow)
    torch.testing.assert_close(target - again, (1 - rate) * error, atol=2e-4, rtol=1e-4)


def test_an_untrained_distiller_foresees_nothing_and_a_trained_one_what_comes_again():
    projection = random_projection(32, 12, torch.device("cpu"))
    weights = torch.zeros(1, 12, 32)
    states = randn(3, 12)  # three that come round and round, and what each becomes
    targets = randn(3, 12, seed=1)
    assert foresee(projection, weights, states[:1])[0].tolist() == [[0.0] * 12]
    for turn in range(300):
        at = turn % 3
        foreseen, features = foresee(projection, weights, states[at : at + 1])
        weights = distil(weights, features, targets[at : at + 1] - foreseen, 0.5)
    foreseen, _ = foresee(projection, weights.expand(3, -1, -1), states)
    assert float((foreseen - targets).norm() / targets.norm()) < 1e-2


def test_a_state_of_zeros_teaches_nothing_and_breaks_nothing():
    projection, weights = random_projection(4, 6, torch.device("cpu")), randn(1, 6, 4)
    foreseen, features = foresee(projection, weights, torch.zeros(1, 6))
    assert foreseen.tolist() == [[0.0] * 6]
    assert torch.equal(distil(weights, features, torch.ones(1, 6), 1.0), weights)


@pytest.mark.parametrize("rows", [2, 5, 9])
def test_distillers_are_independent_to_the_bit(rows: int):
    projection = random_projection(64, 96, torch.device("cpu"))
    weights, shallow, error = randn(rows, 96, 64), randn(rows, 96, seed=1), randn(rows, 96, seed=2)
    shallow[rows - 1, 0] = float("nan")
    foreseen, features = foresee(projection, weights, shallow)
    trained = distil(weights, features, error, 0.5)
    for row in range(rows - 1):
        only = slice(row, row + 1)
        alone, own = foresee(projection, weights[only], shallow[only])
        assert torch.equal(alone[0], foreseen[row])
        assert torch.equal(own[0], features[row])
        assert torch.equal(distil(weights[only], own, error[only], 0.5)[0], trained[row])
