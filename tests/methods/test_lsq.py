import math

import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from quant.networks import Classifier, images, quantized, trained
from torch import nn

from oaq_repro.accumulator import NAMED
from oaq_repro.methods.lsq import LSQ, LSQActivation, scale_gradient
from oaq_repro.quant.calibration.settle import SettleConfig, settle
from oaq_repro.quant.network import layers
from oaq_repro.quant.numerics import QParams
from oaq_repro.quant.quantizers import ActivationQuantizer, ObserverConfig

ONE = torch.ones(())
X = QParams(ONE, 0 * ONE, 255 * ONE)


def equation_3(ratio, lowest, highest):
    """dv_hat/ds of the paper, written out; ratio = v / s."""
    inside = torch.round(ratio) - ratio
    return torch.where(ratio <= lowest, lowest, torch.where(ratio >= highest, highest, inside)).float()


def clear_of_edges(ratio, lowest, highest):
    """Whether no ratio lies where float32 may round or clip it either way."""
    to_edges = [ratio - ratio.floor() - 0.5, ratio - lowest, ratio - highest]
    return all(distance.abs().min() > 1e-4 for distance in to_edges)


def random(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@given(st.floats(0.015625, 100.0, width=32), st.floats(0.015625, 1e6, width=32))
def test_a_scaled_gradient_leaves_the_value_as_it_is(value, factor):
    tensor = torch.tensor(value, requires_grad=True)
    found = scale_gradient(tensor, factor)
    found.backward()
    assert found.item() == value and tensor.grad.item() == factor


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 8), st.booleans(), st.floats(0.1, 1.0))
def test_the_weights_step_moves_as_the_paper_says(seed, bits, per_channel, shrink):
    weight = random(seed, 4, 3, 3, 3).requires_grad_()
    quantizer = LSQ().weight_quantizer(bits, per_channel)
    quantizer.attach(weight)
    largest, count = 2 ** (bits - 1) - 1, 27 if per_channel else 108
    with torch.no_grad():
        quantizer.reach.mul_(shrink)  # so that some weights are clipped
    step = quantizer.reach.detach() / largest
    upstream = random(seed + 1, 4, 3, 3, 3)
    assume(clear_of_edges(weight.detach() / step.reshape(-1, 1, 1, 1), -largest, largest))
    codes, scale = quantizer(weight, torch.zeros(4), X, NAMED["int16"])
    torch.testing.assert_close(scale.detach(), step.expand(4))
    (codes * scale.reshape(-1, 1, 1, 1) * upstream).sum().backward()

    per_weight = upstream * equation_3(weight.detach() / step.reshape(-1, 1, 1, 1), -largest, largest)
    gradient = per_weight.flatten(1).sum(1) if per_channel else per_weight.sum().reshape(1)
    lr = 0.01
    moved = (quantizer.reach.detach() - lr * quantizer.reach.grad) / largest
    torch.testing.assert_close(moved, step - lr * gradient / math.sqrt(count * largest), rtol=1e-4, atol=1e-6)
    inside = (weight.detach() / step.reshape(-1, 1, 1, 1)).abs() <= largest
    torch.testing.assert_close(weight.grad, upstream * inside)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 8), st.floats(0.05, 1.0))
@example(8, 8, 0.456)
def test_the_activations_step_moves_as_the_paper_says(seed, bits, shrink):
    quantizer = LSQActivation(bits, "relu", ObserverConfig(), True).train()
    largest = 2**bits - 1
    quantizer.observe(random(seed, 2, 3, 4, 4).relu(), ONE)
    with torch.no_grad():
        quantizer.reach.mul_(shrink)
    step = quantizer.reach.detach() / largest
    values, upstream = random(seed + 1, 2, 3, 4, 4).requires_grad_(), random(seed + 2, 2, 3, 4, 4)
    assume(clear_of_edges(values.detach() / step, 0, largest))
    (quantizer(values, ONE).dequantize() * upstream).sum().backward()
    gradient = (upstream * equation_3(values.detach() * (1 / step), 0, largest)).sum()
    lr = 0.01
    moved = (quantizer.reach.detach() - lr * quantizer.reach.grad) / largest
    torch.testing.assert_close(moved, step - lr * gradient / math.sqrt(48 * largest), rtol=1e-4, atol=1e-6)
    assert quantizer.observed == 1  # training moves the range by its gradient only


def test_steps_start_at_twice_the_mean_over_the_root_of_the_largest_code():
    weight, quantizer = random(0, 6, 5, 3, 3), LSQ().weight_quantizer(8, True)
    quantizer.attach(weight)
    expected = 2 * weight.abs().mean((1, 2, 3)) / math.sqrt(127)
    torch.testing.assert_close(quantizer.reach.detach() / 127, expected)
    activation = LSQActivation(4, "relu", ObserverConfig(), True)
    batches = [random(seed, 2, 3, 4, 4).relu() for seed in (1, 2, 3)]
    for batch in batches:
        activation.observe(batch, ONE)
    expected = 2 * torch.cat(batches).mean() / math.sqrt(15)
    torch.testing.assert_close(activation.parameters_of_range()[0].detach(), expected)


def test_a_relu6_starts_within_six():
    activation = LSQActivation(8, "relu6", ObserverConfig(), True)
    activation.observe(torch.full((1, 3, 2, 2), 5.0), ONE)
    assert activation.reach == 6.0


def test_signed_activations_keep_the_observer():
    model = quantized(trained(Classifier()), LSQ())
    kinds = {name: type(layer.output) for name, layer in layers(model).items()}
    assert kinds["depthwise.0"] is LSQActivation and kinds["project.0"] is ActivationQuantizer
    assert type(model.get_submodule("input").output) is ActivationQuantizer


@pytest.mark.parametrize("bits", [4, 8])
def test_training_moves_steps_and_lowers_the_loss(bits):
    torch.manual_seed(0)
    model = quantized(trained(Classifier()), LSQ(), weight_bits=bits, activation_bits=bits).train()
    target = torch.tensor([0, 1, 2, 3])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    before = {n: p.detach().clone() for n, p in model.named_parameters() if n.endswith("reach")}
    losses = []
    for _ in range(40):
        loss = nn.functional.cross_entropy(model(images()), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2
    assert all(not torch.equal(p, before[n]) for n, p in model.named_parameters() if n in before)
    assert len(before) == 5 + 3  # five layers; stem, expand, depthwise: the other activations are signed


def test_settling_works_on_learned_steps():
    model = quantized(trained(Classifier()), LSQ())
    for layer in layers(model).values():
        layer.accumulator = NAMED["int16"].with_bits(12)
    report = settle(model, lambda: [images()], SettleConfig())
    assert not any(report.events.values()) and report.passes > 1
    raised = [layer for layer in layers(model).values() if (layer.weight_quantizer.alpha > 1).any()]
    assert raised
    for layer in raised:
        codes, _ = layer.quantized_weight(X)
        assert (codes.flatten(1).abs().amax(1) <= torch.round(127 / layer.weight_quantizer.alpha)).all()
