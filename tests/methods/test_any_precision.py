"""Weights of any width from one tensor against Python's integers, clips, and that folding loses nothing."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from quant.networks import images
from torch import nn

from oaq_repro.accumulator import NAMED
from oaq_repro.deploy.lower import lower
from oaq_repro.errors import InputError
from oaq_repro.integer.reference import Reference
from oaq_repro.methods.any_precision import (
    AtWidth,
    Clip,
    TruncatedWeights,
    any_precision,
    integer_weights,
    reference_codes,
    reference_weights,
    set_width,
    truncated,
)
from oaq_repro.methods.videoiq import VideoIQ, WidthsConfig
from oaq_repro.models.backbones import create
from oaq_repro.quant.calibration.calibrate import calibrate, freeze
from oaq_repro.quant.config import Override, QuantizationConfig
from oaq_repro.quant.network import input_quantizer, layers

pytestmark = pytest.mark.usefixtures("one_thread")
SEEDS = st.integers(0, 2**31)
BITS = st.sampled_from([2, 3, 4, 5, 6, 7, 8])
WIDTHS = (8, 4, 2)


def draw(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 7, 8])
def test_truncation_is_an_integer_shift(bits):
    q = torch.arange(-128, 128)
    d = 2 ** (8 - bits)
    expected = [v if bits == 8 else 2 * math.floor(v / d) + 1 for v in range(-128, 128)]
    found = truncated(q, bits).tolist()
    assert found == expected
    if bits < 8:
        assert max(map(abs, found)) == 2**bits - 1 and all(code % 2 for code in found)
        assert max(abs(v - code * d / 2) for v, code in zip(range(-128, 128), found, strict=True)) <= d / 2
        assert len(set(found)) == 2**bits


@settings(max_examples=30, deadline=None)
@given(SEEDS, BITS)
def test_weights_of_all_widths_come_from_one_tensor(seed, bits):
    """A code is the shifted 8-bit code, and its value is at most half a step from the 8-bit one's."""
    weight = draw(seed, 5, 3, 3, 3)
    high, step = integer_weights(weight, 8)
    low, scale = integer_weights(weight, bits)
    for channel in range(5):
        for q, c in zip(high[channel].flatten().tolist(), low[channel].flatten().tolist(), strict=True):
            assert c == (q if bits == 8 else 2 * (q >> (8 - bits)) + 1)
        error = (low[channel] * scale[channel] - high[channel] * step[channel]).abs().max()
        assert error <= step[channel] * 2 ** (8 - bits) / 2 * (1 + 1e-5) * (bits < 8)
    assert torch.allclose(high * step[:, None, None, None], weight, atol=step.max().item() / 2 * 1.001)


@settings(max_examples=30, deadline=None)
@given(SEEDS, BITS)
def test_the_reference_formula(seed, bits):
    weight = draw(seed, 4, 6)
    w = weight.double().numpy()
    t = np.tanh(w) / (2 * np.abs(np.tanh(w)).max()) + 0.5
    q = np.rint(t * 255)
    d = 2 ** (8 - bits)
    low = np.floor(q / d) * d
    high, codes = reference_codes(weight, bits)
    near = np.abs(high.numpy() - q) <= 1  # float32 may round a tie the other way
    assert near.all() and codes.min() >= 0 and codes.max() <= 2**bits - 1
    same = high.numpy() == q
    if same.all() and low.mean() > 0:
        np.testing.assert_allclose(
            reference_weights(weight, bits), 2 * low / 255 * q.mean() / low.mean() - 1, atol=1e-5
        )


def test_the_largest_code_of_four_bits_is_15():
    """Truncated in float32 from 32 bits it is 16."""
    assert reference_codes(torch.tensor([1.0, -1.0, 0.3]), 4)[1].tolist()[:2] == [15, 0]
    q = torch.round(torch.ones(()) * (2.0**32 - 1))
    assert torch.floor(q / 2**28) == 16


@given(SEEDS, st.sampled_from([2, 4, 8]))
def test_a_clip_has_the_levels_of_its_width(seed, bits):
    clip = Clip(WIDTHS)
    clip.bits = bits
    x = 4 * draw(seed, 50)
    end, levels = min(6.0, bits), 2**bits - 1
    expected = np.rint(np.clip(x.numpy(), 0, end) * levels / end) * end / levels
    np.testing.assert_allclose(clip(x).detach().numpy(), expected, atol=end / levels * 1.001 if bits == 8 else 1e-5)
    clip(x).sum().backward()
    assert [name for name, p in clip.ends.items() if p.grad is not None] == [str(bits)]


@given(SEEDS, st.sampled_from([2, 3, 4, 7]))
def test_the_quantizer_gives_odd_codes(seed, bits):
    weight = draw(seed, 3, 40).requires_grad_()
    quantizer = TruncatedWeights(bits, per_channel=True)
    quantizer.attach(weight)
    scale = quantizer.scale(weight)
    codes = quantizer.codes(weight, scale)
    assert (codes % 2 == 1).all() and codes.abs().max() == 2**bits - 1
    assert ((codes * scale[:, None] - weight).abs() <= scale[:, None] * 1.001).all()
    codes.sum().backward()
    assert torch.allclose(weight.grad, (1 / scale)[:, None].expand_as(weight))


def plain():
    """Two convolutions behind a first one, and a linear layer."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 12, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(12), nn.ReLU(),
        nn.Conv2d(12, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5),
    )  # fmt: skip


def resnet():
    return create("resnet18", 0.125, 5, 3)


def mobilenet():
    """Batch norm and activation in one module."""
    return create("mobilenetv1", 0.25, 5, 3)


def several(make):
    """The network at several widths, its statistics of every width gathered."""
    torch.manual_seed(0)
    made = make()
    for module in made.modules():  # scales of both signs; timm starts some at 0
        if isinstance(module, nn.BatchNorm2d):
            signs = torch.randint(0, 2, module.weight.shape) * 2 - 1
            module.weight.data = signs * nn.init.uniform_(module.weight.data, 0.5, 1.5)
            nn.init.normal_(module.bias, 0.5, 0.3)
    network = any_precision(made, WIDTHS, "integer").train()
    with torch.no_grad():
        for bits in WIDTHS:
            set_width(network, bits)
            for seed in range(3):
                network(images(4, 32, seed=seed))
    return network.eval()


CONFIG = QuantizationConfig(NAMED["int32"])


def quantized_at(network, bits, config=CONFIG, method=None):
    method = VideoIQ() if method is None else method
    made = method.quantized(AtWidth(network, bits), config, (3, 32, 32))
    calibrate(made, [images(4, 32, seed=seed) for seed in range(3)])
    freeze(made.eval())
    return made


@pytest.mark.parametrize("make", [plain, resnet, mobilenet])
@pytest.mark.parametrize("bits", WIDTHS)
def test_the_plain_network_of_a_width_is_the_network_at_that_width(make, bits):
    """Its weights and norms; clips become ranges of quantizers, so they are compared where they do not act."""
    network = several(make)
    for module in network.modules():
        if isinstance(module, Clip):
            module.forward = torch.relu
    set_width(network, bits)
    x = images(2, 32, seed=7)
    with torch.no_grad():
        expected = network(x)
        found = AtWidth(network, bits).dense(x)
    assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("make", [plain, resnet, mobilenet])
@pytest.mark.parametrize("bits", WIDTHS)
def test_the_graph_of_a_width_has_its_codes_and_its_clips(make, bits):
    """Codes are those of the tensor, with the sign of the norm's scale; the integer graph is the simulation."""
    network = several(make)
    at = AtWidth(network, bits)
    model = quantized_at(network, bits)
    ends = at.rectified(model, (3, 32, 32))
    assert len(ends) >= len(at.clips) > 0
    for name, end in ends.items():
        quantizer = model.get_submodule(name).output
        assert (quantizer.low, quantizer.high, quantizer.bits) == (0.0, pytest.approx(end), bits)
    graph = lower(model)
    rows = {layer.name: layer.weight for layer in graph.layers()}
    assert list(at.codes) == list(rows)
    assert [b for b, _ in at.codes.values()] == [8, *[bits] * (len(rows) - 2), 8]
    for name, (own, codes) in at.codes.items():
        found = torch.from_numpy(rows[name].astype(np.int64))
        same = (found == codes).flatten(1).all(1) | (found == -codes).flatten(1).all(1)
        assert same.all()
        if own < 8:
            assert (found % 2 == 1).all()
        assert layers(model)[name].weight_quantizer.bits == own
    x = images(3, 32, seed=9)
    run = Reference(graph).run(x.numpy())
    with torch.no_grad():
        assert np.array_equal(run.outputs[0], model(x).numpy())


def test_a_networks_ends_keep_8_bits_and_layers_read_the_width():
    model = quantized_at(several(plain), 2)
    found = {
        name: (layer.weight_quantizer.bits, input_quantizer(model, name).bits) for name, layer in layers(model).items()
    }
    assert list(found.values()) == [(8, 8), (2, 2), (2, 2), (8, 8)]
    own = Override("6", weight_bits=8)
    with_own = quantized_at(several(plain), 2, QuantizationConfig(NAMED["int32"], overrides={"own": own}))
    assert layers(with_own)["6"].weight_quantizer.bits == 8  # what the user says wins


def test_the_reference_formula_is_rounded_to_8_bits():
    method = VideoIQ(precision=WidthsConfig(formula="reference"))
    torch.manual_seed(0)
    network = any_precision(plain(), WIDTHS, "reference").train()
    with torch.no_grad():
        for bits in WIDTHS:
            set_width(network, bits)
            network(images(4, 32))
    model = quantized_at(network.eval(), 2, method=method)
    layer = layers(model)["3"]
    codes, _ = layer.quantized_weight(input_quantizer(model, "3").parameters_of_range())
    assert all(len(row.unique()) <= 4 for row in codes) and layer.weight_quantizer.bits == 8


def test_weights_with_one_scale_are_refused():
    with pytest.raises(InputError, match="quantization.per_channel: found false, expected true with method videoiq"):
        quantized_at(several(plain), 4, QuantizationConfig(NAMED["int32"], per_channel=False))


@pytest.mark.parametrize("widths", [(4, 2), (8, 2, 4), (8, 8), (8, 4, 4)])
def test_widths_fall_from_8(widths):
    with pytest.raises(InputError, match="widths: found .*, expected different bits, falling from 8"):
        WidthsConfig(widths)
