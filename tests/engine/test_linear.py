"""Products that are packed, joined and followed by something are those of the layers they stand for."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from led_agent.engine.linear import Linear, packed_bytes

ROWS = (4, 8, 12, 64)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.parametrize("outs", [(512,), (256, 96, 96)])
def test_products_are_those_of_the_layers(outs: tuple[int, ...], *, pack: bool, bias: bool):
    torch.manual_seed(0)
    layers = [nn.Linear(512, out, bias=bias) for out in outs]
    x = torch.randn(12, 512)
    other = torch.randn(12, sum(outs))
    with torch.inference_mode():
        expected = torch.cat([layer(x.clone()) for layer in layers], -1)
        linear = Linear(layers, pack=pack)
        assert linear.packed == pack
        for found, wanted in (
            (linear(x), expected),
            (linear.silu(x), nn.functional.silu(expected)),
            (linear.times(x, other), expected * other),
            (linear.plus(x, other), expected + other),
        ):
            torch.testing.assert_close(found, wanted, atol=2e-6, rtol=2e-6)
        after = torch.cat([layer(x.clone()) for layer in layers], -1)  # the model stays usable
    torch.testing.assert_close(after, expected, atol=2e-6, rtol=2e-6)


def test_small_weights_are_not_packed_and_joined_ones_are_not_held_twice():
    layers = [nn.Linear(64, 16), nn.Linear(64, 8)]
    linear = Linear(layers, pack=True)
    assert not linear.packed
    assert layers[0].weight.untyped_storage().data_ptr() == linear.weight.untyped_storage().data_ptr()
    assert layers[1].weight.untyped_storage().data_ptr() == linear.weight.untyped_storage().data_ptr()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("pack", [False, True])
def test_a_row_is_to_the_bit_the_same_whatever_the_number_of_rows(dtype: torch.dtype, *, pack: bool):
    torch.manual_seed(0)
    linear = Linear([nn.Linear(576, 1536, bias=False, dtype=dtype)], pack=pack)
    x, other = torch.randn(64, 576).to(dtype), torch.randn(64, 1536).to(dtype)
    if dtype == torch.bfloat16 and not linear.packed:
        pytest.skip("unpacked bfloat16 products make no such promise")
    with torch.inference_mode():
        for call in (
            linear,
            linear.silu,
            lambda a: linear.times(a, other[: len(a)]),
            lambda a: linear.plus(a, other[: len(a)]),
        ):
            whole = call(x)
            for rows in ROWS:
                assert torch.equal(call(x[:rows].clone()), whole[:rows])


def test_only_what_can_be_packed_counts():
    layers = [nn.Linear(512, 512), nn.Linear(512, 512, dtype=torch.float64)]
    assert packed_bytes(layers) == 4 * 512 * 512


@pytest.mark.parametrize("supported", [True, False])
def test_bfloat16_is_packed_only_where_the_processor_multiplies_it(monkeypatch: pytest.MonkeyPatch, *, supported: bool):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: supported)
    layer = nn.Linear(512, 512, bias=False, dtype=torch.bfloat16)
    assert packed_bytes([layer]) == (2 * 512 * 512 if supported else 0)
    if not supported:
        linear, x = Linear([layer], pack=True), torch.randn(3, 512, dtype=torch.bfloat16)
        assert not linear.packed
        with torch.inference_mode():
            torch.testing.assert_close(linear(x), layer(x))
