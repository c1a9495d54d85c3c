import copy

import numpy as np
import pytest
import torch
from quant.networks import Classifier, Gated, Pyramid, images, quantized, trained
from torch import nn

from oaq_repro.deploy.lower import lower
from oaq_repro.errors import SettingsError
from oaq_repro.integer.reference import Reference
from oaq_repro.methods.certified_scale import CertifiedScale
from oaq_repro.methods.int8 import Int8
from oaq_repro.quant.calibration.bias_correction import correct_biases
from oaq_repro.quant.network import layers
from oaq_repro.quant.numerics import smallest_scale


class OneLayer(nn.Module):
    """All weights but one are 0.4 steps of the grid: they round to zero, and the channel loses its mean."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 1)
        with torch.no_grad():
            self.conv.weight.fill_(0.4 / 127)
            self.conv.weight[:, 0] = torch.tensor([1.0, -1.0])[:, None, None]
            self.conv.bias.copy_(torch.tensor([0.5, -0.25]))

    def forward(self, x):
        return self.conv(x)


def pair(network, method, **config):
    """A quantized network and a copy of it in float."""
    model = quantized(network, method, **config)
    return model, copy.deepcopy(model)


def test_the_mean_of_the_outputs_is_the_float_one():
    network = OneLayer().eval()
    x = images(64).abs() + 1
    model, reference = pair(network, Int8(), accumulator="int32", batches=[x], overrides={})
    (layer,) = layers(model).values()
    before = layer.bias.detach().clone()
    with torch.no_grad():
        true = network(x).mean((0, 2, 3))
        assert ((model(x).mean((0, 2, 3)) - true).abs() > 0.005).all()
        shifts = correct_biases(model, reference, lambda: [x[:40], x[40:]])
        sums = x.double().mean((0, 2, 3))
        expected = 0.4 / 127 * sums[1:].sum()
        assert torch.allclose(layer.bias - before, expected.float().expand(2), atol=2e-3)
        step = layer.output.parameters_of_range()[0]
        assert ((model(x).mean((0, 2, 3)) - true).abs() < 0.1 * step).all()
    assert shifts == {"conv": pytest.approx(float((layer.bias.detach() - before).abs().max() / step), rel=1e-5)}


@pytest.mark.parametrize("network", [Classifier, Pyramid, Gated])
def test_every_layer_is_corrected_behind_those_before(network):
    """Coarse weights; the mean sums of each layer agree with the float network's to a bias step."""
    model, reference = pair(trained(network()), Int8(), accumulator="int32", weight_bits=3)
    x = images(8)
    shifts = correct_biases(model, reference, lambda: [x])
    assert shifts.keys() == layers(model).keys() and max(shifts.values()) > 0.1
    true, found, units = {}, {}, {}
    for name, layer in layers(reference).items():
        layer.register_forward_pre_hook(
            lambda m, a, name=name: (
                true.update({name: m.product(a[0], m.weight, m.bias).flatten(2).mean((0, -1))})
                if a[0].dim() == 4
                else true.update({name: m.product(a[0], m.weight, m.bias).mean(0)})
            )
        )
    for name, layer in layers(model).items():

        def probe(acc, x, weight, name=name, layer=layer):
            _, bias, scale = layer.weight_codes(x.qparams)
            mean = acc.mean((0, 2, 3)) if acc.dim() == 4 else acc.mean(0)
            found[name], units[name] = (mean + bias) * scale, scale

        layer.probe = probe
    with torch.no_grad():
        reference(x)
        model(x)
    for name in shifts:
        assert ((found[name] - true[name]).abs() <= 0.51 * units[name] + 1e-5).all(), name


def test_codes_stay_and_integers_are_the_simulation():
    model, reference = pair(trained(Pyramid()), CertifiedScale(), accumulator="int16")
    CertifiedScale().finish(model, lambda: [images()])
    before = [layer.weight for layer in lower(model).layers()]
    correct_biases(model, reference, lambda: [images()])
    graph = lower(model)
    assert all(np.array_equal(old, layer.weight) for old, layer in zip(before, graph.layers(), strict=True))
    x = 2 * images(3, seed=4)
    run = Reference(graph).run(x.numpy())
    with torch.no_grad():
        assert all(np.array_equal(a, b.numpy()) for a, b in zip(run.outputs, model(x), strict=True))


def test_a_channel_whose_scale_its_bias_sets_is_left_alone():
    network = OneLayer().eval()
    with torch.no_grad():
        network.conv.weight[1] *= 1e-9
        network.conv.bias[1] = 4.0
    x = images(16).abs() + 1
    model, reference = pair(network, Int8(), accumulator="int32", batches=[x], overrides={})
    (layer,) = layers(model).values()
    before = layer.bias.detach().clone()
    inputs = []
    layer.probe = lambda acc, x, weight: inputs.append(x)
    model(x)
    assert layer.weight_quantizer.scale(layer.weight)[1] < smallest_scale(layer.bias, inputs[0].qparams)[1]
    correct_biases(model, reference, lambda: [x])
    assert layer.bias[0] != before[0] and layer.bias[1] == before[1]


def test_it_is_for_networks_that_are_not_trained():
    with pytest.raises(SettingsError, match="bias_correction, fine_tune: found true and true"):
        Int8(bias_correction=True)
    assert Int8(bias_correction=True, fine_tune=False)
