"""Shifted codes against a loop over groups."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from quant.networks import Classifier, quantized, trained

from oaq_repro.accumulator import NAMED
from oaq_repro.methods.group_scale import GroupedWeight, GroupScale
from oaq_repro.quant.mixed_precision.cost import layer_costs, network_cost
from oaq_repro.quant.network import layers
from oaq_repro.quant.numerics import QParams
from oaq_repro.quant.quantizers import WeightQuantizer

ONE = torch.ones(())
X = QParams(ONE, 0 * ONE, 255 * ONE)


def coded(quantizer, weight, alpha=None):
    quantizer.attach(weight)
    if alpha is not None:
        quantizer.alpha.copy_(alpha)
    codes, scale = quantizer(weight, torch.zeros(len(weight)), X, NAMED["int32"])
    return codes.detach(), scale


def shifted(steps, bits, group):
    """One row of weights in steps of the grid: the codes, group by group."""
    limit, found = 2 ** (bits - 1) - 1, []
    for first in range(0, len(steps), group):
        part = steps[first : first + group]
        shift = next(g for g in range(9) if np.abs(part).max() <= limit * 2**g or g == 8 - bits)
        found += [int(np.clip(np.rint(v / 2**shift), -limit, limit)) << shift for v in part]
    return found


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**31), st.integers(2, 8), st.integers(1, 6), st.integers(1, 12), st.booleans(), st.floats(1.0, 9.0)
)  # fmt: skip
def test_codes_are_those_of_a_loop_over_groups(seed, bits, group, depth, per_channel, alpha):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(3, depth, generator=generator) * torch.logspace(-2, 1, depth)
    codes, scale = coded(GroupedWeight(bits, per_channel, group), weight, torch.full((3,), alpha))
    for row, found, step in zip(weight, codes, scale, strict=True):
        assert found.int().tolist() == shifted((row / step).numpy(), bits, group)
    assert codes.abs().max() <= 127


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.floats(1.0, 9.0))
def test_with_eight_bits_it_is_int8(seed, alpha):
    weight = torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(seed))
    factors = torch.full((4,), alpha)
    found, wanted = coded(GroupedWeight(8, True, 5), weight, factors), coded(WeightQuantizer(8, True), weight, factors)
    torch.testing.assert_close(found[1], wanted[1], rtol=0, atol=0)
    limit = wanted[0].abs().max() if alpha == 1 else 127
    assert torch.equal(found[0], wanted[0].clamp(-limit, limit))


@pytest.mark.parametrize("bits", [3, 4])
def test_a_quiet_group_keeps_its_bits(bits):
    """Where one weight of a channel is large, uniform codes of the others are 0, but not in a group of their own."""
    weight = torch.full((1, 32), 0.01)
    weight[0, 0] = 1.0
    limit = 2 ** (bits - 1) - 1
    for quantizer, whole in ((WeightQuantizer(bits, True), 0), (GroupedWeight(bits, True, 16), 1)):
        codes, scale = coded(quantizer, weight)
        assert bool(codes[0, 16:].ne(0).all()) == bool(whole)
    assert float((codes[0, 16:] * scale - 0.01).abs().max()) <= float(scale) / 2 and limit << (8 - bits) <= 127


def test_the_cost_counts_the_shifts():
    parent = trained(Classifier())
    model = quantized(parent, GroupScale(group=8), weight_bits=4)
    uniform = quantized(parent, weight_bits=4)
    shifts = sum(len(x.weight) * -(-x.weight[0].numel() // 8) for x in layers(model).values())
    costs = [network_cost(layer_costs(m, (3, 16, 16))) for m in (model, uniform)]
    assert costs[0].weight_bytes == costs[1].weight_bytes + shifts * 3 / 8  # shifts of 0 to 4
    assert costs[0].bops == 2 * costs[1].bops
