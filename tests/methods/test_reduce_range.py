import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from quant.networks import Classifier, images, quantized, trained

from oaq_repro.accumulator import NAMED
from oaq_repro.deploy.lower import lower
from oaq_repro.integer.certificate import certify
from oaq_repro.methods.reduce_range import ReduceRange
from oaq_repro.quant.network import input_qparams, layers
from oaq_repro.quant.numerics import QParams

ONE = torch.ones(())


@given(st.integers(0, 2**31), st.integers(3, 8))
def test_the_largest_code_of_every_channel_is_a_power_of_two(seed, bits):
    weight = torch.randn(5, 7, 3, 3, generator=torch.Generator().manual_seed(seed))
    quantizer = ReduceRange().weight_quantizer(bits, True)
    codes, scale = quantizer(weight, torch.zeros(5), QParams(ONE, 0 * ONE, 255 * ONE), NAMED["int16"])
    assert codes.flatten(1).abs().amax(1).tolist() == [2 ** (bits - 2)] * 5
    expected = weight.abs().flatten(1).amax(1) / 2 ** (bits - 2)
    torch.testing.assert_close(scale, expected)
    torch.testing.assert_close(codes, (weight / expected.reshape(-1, 1, 1, 1)).round(), atol=1, rtol=0)


def test_pairs_cannot_saturate_whatever_the_input():
    graph = lower(quantized(trained(Classifier()), ReduceRange(), accumulator="pair_saturating"))
    assert all(certify(layer, graph.qparams(layer.inputs[0])).certified for layer in graph.layers())
    plain = lower(quantized(trained(Classifier()), accumulator="pair_saturating"))
    assert not all(certify(layer, plain.qparams(layer.inputs[0])).certified for layer in plain.layers())


@pytest.mark.parametrize("name", ["stem.0", "depthwise.0", "head"])
def test_real_weights_stay_what_they_were(name):
    model = quantized(trained(Classifier()), ReduceRange())
    layer = layers(model)[name]
    codes, scale = layer.quantized_weight(input_qparams(model, name))
    error = (codes * scale.reshape(-1, *([1] * (codes.dim() - 1))) - layer.weight).abs()
    assert (error <= scale.reshape(-1, *([1] * (codes.dim() - 1))) / 2 + 1e-6).all()
    assert torch.isfinite(model(images())).all()
