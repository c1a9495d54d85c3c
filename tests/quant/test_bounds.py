import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from quant.networks import Classifier, Larger, Pyramid, quantized, trained

from oaq_repro.accumulator import NAMED, Accumulator
from oaq_repro.deploy.lower import lower
from oaq_repro.integer.certificate import certify
from oaq_repro.quant.bounds import worst_case
from oaq_repro.quant.network import input_qparams, layers
from oaq_repro.quant.numerics import QParams
from oaq_repro.quant.overflow import Geometry, simulate

POLICIES = ["int16", "int16_lanes8", "int16_block", "pair_saturating"]


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 2**31),
    st.integers(0, 7),
    st.sampled_from(
        [
            Accumulator(10),
            Accumulator(10, lanes=2),
            Accumulator(10, block=3),
            Accumulator(9, overflow="saturate", block=2),
        ]
    ),
)
def test_the_bound_is_reached_by_some_input_and_passed_by_none(seed, zero_point, accumulator):
    """All corners of the input's range are tried: a linear function is largest in one of them."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randint(-127, 128, (3, 2, 1, 4), generator=generator).float()
    corners = torch.tensor(list(itertools.product([0.0, 7.0], repeat=8))).reshape(-1, 2, 1, 4)
    z, top = torch.tensor(float(zero_point)), torch.tensor(7.0)
    bound = worst_case(weight, QParams(torch.ones(()), z, top), accumulator)
    for channel in range(3):
        peak = simulate(corners, z, weight[channel : channel + 1], Geometry(), accumulator).peak
        assert bound[channel] == pytest.approx(max(peak, 0.0), rel=1e-12)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("network", [Classifier, Pyramid, Larger])
def test_the_bound_is_the_certificates(policy, network):
    model = quantized(trained(network()), accumulator=policy)
    graph = lower(model)
    for layer in graph.layers():
        module = layers(model)[layer.name]
        x = input_qparams(model, layer.name)
        certificate = certify(layer, graph.qparams(layer.inputs[0]))
        assert float(module.worst_case(x).max()) == pytest.approx(certificate.worst_case, rel=1e-12)
        assert NAMED[policy] == module.accumulator
