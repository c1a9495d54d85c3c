import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from oaq_repro.quant.numerics import (
    QParams,
    affine_parameters,
    largest_magnitude,
    round_ste,
    smallest_scale,
    symmetric_scale,
    to_codes,
)

floats = st.floats(-1e3, 1e3, width=32)


def scalar(value):
    return torch.tensor(value, dtype=torch.float32)


@given(st.floats(-100, 0, width=32), st.floats(0, 100, width=32), st.integers(2, 8), st.floats(1, 16, width=32))
def test_affine_parameters(low, high, bits, alpha):
    scale, zero_point, q_max = affine_parameters(scalar(low), scalar(high), bits, scalar(alpha))
    assert scale > 0
    assert q_max == round((2**bits - 1) / np.float32(alpha))
    assert 0 <= zero_point <= q_max
    assert zero_point == zero_point.round()
    if high - low > 1e-3:  # zero is exact, and the ends are within a step of the codes' ends
        assert float(scale * (q_max - zero_point)) >= high - float(scale) * 1.01
        assert float(scale * (0 - zero_point)) <= low + float(scale) * 1.01


def test_alpha_scales_the_step_and_shortens_the_codes():
    one = affine_parameters(scalar(0.0), scalar(6.0), 8, scalar(1.0))
    two = affine_parameters(scalar(0.0), scalar(6.0), 8, scalar(2.0))
    assert two[0] == 2 * one[0]
    assert (one[2], two[2]) == (255, 128)


@given(st.lists(floats, min_size=1, max_size=20), st.integers(0, 255), st.integers(1, 255))
def test_to_codes_rounds_half_to_even_and_clamps(values, zero_point, q_max):
    x = torch.tensor(values, dtype=torch.float32)
    found = to_codes(x, scalar(float(zero_point)), scalar(float(q_max)))
    expected = np.clip(np.rint(np.float32(values)) + zero_point, 0, q_max)
    assert np.array_equal(found.numpy(), expected)


def test_halves_go_to_even():
    x = torch.tensor([0.5, 1.5, 2.5, -0.5])
    assert round_ste(x).tolist() == [0, 2, 2, 0]
    assert to_codes(x, scalar(1.0), scalar(255.0)).tolist() == [1, 3, 3, 1]


def test_gradient_passes_inside_the_range_only():
    x = torch.tensor([-3.0, 0.2, 100.0, 300.0], requires_grad=True)
    to_codes(x, scalar(0.0), scalar(255.0)).sum().backward()
    assert x.grad.tolist() == [0, 1, 1, 0]


@settings(max_examples=50)
@given(
    st.integers(2, 8),
    st.lists(st.floats(1, 16, width=32), min_size=4, max_size=4),
    st.booleans(),
    st.integers(0, 2**31),
)
def test_symmetric_scale(bits, alphas, per_channel, seed):
    weight = torch.randn(4, 3, generator=torch.Generator().manual_seed(seed))
    weight[0] = 0
    largest = 2 ** (bits - 1) - 1
    scale = symmetric_scale(largest_magnitude(weight, per_channel), largest, torch.tensor(alphas), 4)
    assert scale.shape == (4,) and bool((scale > 0).all())
    for row, alpha, step in zip(weight, alphas, scale, strict=True):
        whole = row if per_channel else weight
        assert float(step) == pytest.approx(max(alpha * float(whole.abs().max()) / largest, 1e-12))
        assert (row / step).round().abs().max() <= round(largest / np.float32(alpha)) + 1
    same = symmetric_scale(largest_magnitude(weight, False), largest, scalar(alphas[0]), 4)
    assert same.shape == (4,) and bool((same == same[0]).all())


def test_scale_keeps_the_bias_small():
    x = QParams(scalar(0.5), scalar(0.0), scalar(255.0))
    bias = torch.tensor([-3.0, 0.0])
    assert smallest_scale(bias, x).tolist() == pytest.approx([3.0 / 0.5 / 2**23, 0.0])
