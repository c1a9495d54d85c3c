"""Integer requantization in simulation. That its codes are the integer graph's: `tests/deploy/test_lower.py`."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import requantization as oracle
from quant.networks import Classifier, Gated, Pyramid, images, quantized, trained
from torch import nn

from oaq_repro.accumulator import NAMED
from oaq_repro.deploy.lower import lower
from oaq_repro.integer.reference import Reference
from oaq_repro.methods.dsq import DSQ
from oaq_repro.methods.int8 import Int8
from oaq_repro.methods.lsq import LSQ
from oaq_repro.methods.pact import PACT
from oaq_repro.methods.rq import RQ
from oaq_repro.quant.calibration.calibrate import count_overflow
from oaq_repro.quant.calibration.settle import settle
from oaq_repro.quant.modules import QuantAdd, QuantMultiply
from oaq_repro.quant.network import input_qparams, layers
from oaq_repro.quant.numerics import QParams, QTensor
from oaq_repro.quant.pools import QuantAvgPool2d, QuantGlobalAvgPool
from oaq_repro.quant.quantizers import ActivationQuantizer, ObserverConfig, WeightQuantizer
from oaq_repro.quant.requantization import Fixed16, snapped
from oaq_repro.quant.resize import QuantResize

INTEGERS = ("dyadic", "fixed16")


@settings(max_examples=200, deadline=None)
@given(st.floats(1e-8, 1e-2), st.lists(st.floats(1e-9, 1.0), min_size=1, max_size=5))
def test_scales_are_raised_to_the_next_multiple(unit, parts):
    scale, unit = torch.tensor([32000 * unit * part for part in parts]), torch.tensor(unit)
    found = snapped(scale, unit)
    multiples = (found.double() / unit.double()).round()
    assert ((found.double() / unit.double() - multiples).abs() <= 1e-6 * multiples).all()
    assert (multiples >= 1).all() and (found >= scale * (1 - 2e-6)).all()
    assert ((multiples - 1) * unit.double() <= scale.double()).all()  # the next one, not a later one
    assert torch.equal(snapped(found, unit), found)


def test_scales_that_no_multiple_reaches_stay():
    scale = torch.tensor([0.1, 32769.0])
    assert torch.equal(snapped(scale, torch.tensor(1.0)), scale)
    assert snapped(torch.tensor([0.1, 32767.0]), torch.tensor(1.0)).tolist() == [1.0, 32767.0]


def test_a_scale_that_is_learned_keeps_its_gradient():
    scale = torch.tensor([0.3, 1.7], requires_grad=True)
    found = snapped(scale, torch.tensor(1.0))
    (found * torch.tensor([2.0, 3.0])).sum().backward()
    assert found.tolist() == [1.0, 2.0] and scale.grad.tolist() == [2.0, 3.0]


def values(seed, shape=(2, 3, 6, 6), scale=0.05, zero_point=9.0):
    codes = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed)).float()
    return QTensor(codes.requires_grad_(), torch.tensor(scale), torch.tensor(zero_point), torch.tensor(255.0))


def quantizer():
    made = ActivationQuantizer(8, "none", ObserverConfig()).eval()
    made.low.fill_(-3.0)
    made.high.fill_(5.0)
    return made


@pytest.mark.parametrize("requantization", INTEGERS)
@pytest.mark.parametrize(
    "make",
    [
        lambda: QuantAdd(quantizer()),
        lambda: QuantMultiply(quantizer()),
        lambda: QuantAvgPool2d(quantizer(), (3, 2), (1, 2), (1, 0, 1, 0), False),
        lambda: QuantGlobalAvgPool(quantizer(), True),
        lambda: QuantResize(False, (2, 2)),
    ],
)
def test_gradients_are_those_of_the_float_formula(make, requantization):
    module = make()
    two = isinstance(module, (QuantAdd, QuantMultiply))
    gradients = []
    for which in ("float32", requantization):
        module.requantization = which
        inputs = [values(0), values(1, scale=0.03)] if two else [values(0)]
        out = module(*inputs)
        (out.codes * torch.arange(out.codes.numel()).reshape(out.codes.shape)).sum().backward()
        gradients.append([x.codes.grad for x in inputs])
        assert torch.equal(out.codes, out.codes.round())
    for ours, theirs in zip(*gradients, strict=True):
        assert torch.equal(ours, theirs) and ours.abs().sum() > 0


@pytest.mark.parametrize("method", [Int8, LSQ, DSQ, PACT])
@pytest.mark.parametrize("requantization", INTEGERS)
def test_methods_keep_the_gradients_of_their_own(method, requantization, monkeypatch):
    """With the same scales all gradients are those of the float formula."""
    found, codes = [], []
    for _ in range(2):
        model = quantized(trained(Classifier()), method(), requantization=requantization)
        for module in model.modules():
            if isinstance(module, (ActivationQuantizer, WeightQuantizer)):
                module.alpha.fill_(6.0)  # sums that 16 bits hold
        layer = layers(model)["depthwise.0"]
        x = model.get_submodule("expand.0")(model.get_submodule("stem.0")(model.get_submodule("input")(images())))
        out = layer(x)
        (out.codes * torch.arange(out.codes.numel()).reshape(out.codes.shape) / 1e3).sum().backward()
        found.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
        codes.append(out.codes.detach())
        monkeypatch.setattr("oaq_repro.quant.layers.exactly", lambda smooth, values: smooth)
    assert (codes[0] - codes[1]).abs().max() <= 1  # at ties
    assert found[0].keys() == found[1].keys() and "depthwise.0.weight" in found[0]
    for name, gradient in found[1].items():
        torch.testing.assert_close(found[0][name], gradient, rtol=0, atol=0)


def test_codes_that_are_drawn_stay_drawn():
    model = quantized(trained(Classifier()), RQ(), requantization="dyadic").train()
    for module in model.modules():
        if isinstance(module, ActivationQuantizer):
            module.observing = False
    with torch.no_grad():
        outputs = [model(images()) for _ in range(2)]
    assert not torch.equal(*outputs)


@pytest.mark.parametrize("network", [Classifier, Pyramid, Gated])
def test_scales_are_snapped_to_the_range_before_the_batch(network):
    """In training, where every batch moves the ranges: what is rounded and what scales are snapped to is one range."""
    model = quantized(trained(network()), requantization="fixed16").train()
    seen = []

    def see(name, layer, x, out):
        scale = (
            x.scale * layer.weight_quantizer(layer.weight, layer.bias, x.qparams, layer.accumulator, before[name])[1]
        )
        m = (scale.double() / before[name].scale.double()) * 2**15
        assert ((m - m.round()).abs() <= 1e-5 * m).all() and torch.equal(out.scale, before[name].scale)
        seen.append(name)

    before = {name: layer.output.parameters_of_range() for name, layer in layers(model).items()}
    hooks = [
        layer.register_forward_hook(lambda module, inputs, out, name=name: see(name, module, inputs[0], out))
        for name, layer in layers(model).items()
    ]
    with torch.no_grad():
        model(3 * images(seed=5))
    for hook in hooks:
        hook.remove()
    assert seen == list(before)
    after = {name: layer.output.parameters_of_range() for name, layer in layers(model).items()}
    assert any(after[name].scale > before[name].scale for name in before)
    lower(model.eval())  # which are snapped to the new ranges


def test_biases_fit_16_bits():
    model = trained(Classifier())
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm2d, nn.Linear)):
            nn.init.normal_(module.bias, 0, 50.0)
    graph = lower(quantized(model, requantization="fixed16"))
    assert max(int(np.abs(layer.bias.astype(int)).max()) for layer in graph.layers()) in range(2**13, 2**14 + 1)
    wide = lower(quantized(model, requantization="dyadic"))
    assert max(int(np.abs(layer.bias.astype(int)).max()) for layer in wide.layers()) > 2**15


def test_what_cannot_be_snapped_takes_dyadic_and_says_why():
    model = quantized(trained(Classifier()), requantization="fixed16")
    table = layers(model)
    assert table["head"].taken_requantization(input_qparams(model, "head")) == ("fixed16", "asked for")
    table["head"].accumulator = NAMED["int32"]
    expand = table["expand.0"]
    expand.output.high.fill_(1e-4)  # codes finer than the unit of the sums
    graph = lower(model)
    taken = {layer.name: layer.requantization for layer in graph.layers()}
    assert taken.pop("head") == taken.pop("expand.0") == "dyadic" and set(taken.values()) == {"fixed16"}
    found = {name: table[name].taken_requantization(input_qparams(model, name))[1] for name in ("head", "expand.0")}
    assert "16 bits, its accumulator is int32" in found["head"]
    assert "ratios of scales below 1" in found["expand.0"]
    with torch.no_grad():
        expected = model(images()).numpy()
    run = Reference(graph.with_accumulator(NAMED["int32"])).run(images().numpy())
    np.testing.assert_array_equal(run.outputs[0], expected)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**31), st.integers(0, 255), st.integers(1, 255))
def test_saturation_is_counted_where_it_changes_a_code(seed, zero_point, q_max):
    zero_point = min(zero_point, q_max)
    rng = np.random.default_rng(seed)
    m = rng.choice([1, 2, 60, 127, 200, 255, 300, 32767], 4)
    total = rng.choice([0, 40, 32767, 32768, 33000, 70000, -32768, -32769, -40000, 5000], (3, 4, 2))
    output = QParams(*(torch.tensor(float(v)) for v in (1.0, zero_point, q_max)))
    found = Fixed16.of(torch.from_numpy(total).float(), m / 2**15, output)

    def code(y, k):
        return min(max(oracle.rounded(oracle.Fraction(y * int(m[k]), 2**15)) + zero_point, 0), q_max)

    events, peaks = found.events(), [0.0] * 4
    for n, k, i in np.ndindex(total.shape):
        y = int(total[n, k, i])
        saturated = min(max(y, -32768), 32767)
        assert bool(events[n, k, i]) == (code(y, k) != code(saturated, k))
        assert int(found.values()[n, k, i]) == oracle.rounded(oracle.Fraction(saturated * int(m[k]), 2**15))
        if y > 0 and code(32767, k) < q_max:
            peaks[k] = max(peaks[k], y / 32767)
        if y < 0 and code(-32768, k) > 0:
            peaks[k] = max(peaks[k], y / -32768)
    assert found.peaks().tolist() == peaks


def loud(requantization):
    """A layer whose sums alone fit 16 bits, and with their biases do not."""
    network = nn.Sequential(nn.Conv2d(3, 6, 3, bias=True))
    nn.init.constant_(network[0].weight, 0.02)
    network[0].bias.data = torch.tensor([0.0, 0.05, 0.1, 0.15, 0.2, -0.3])
    x = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    model = quantized(network, batches=[x], requantization=requantization)
    model.get_submodule("0").weight_quantizer.alpha.fill_(18.0)
    return model, x


def test_saturated_sums_are_events_in_simulation_and_reference_and_settling_ends_them():
    model, x = loud("fixed16")
    meter = count_overflow(model, [x])["0"]
    run = Reference(lower(model)).run(x.numpy())
    assert meter.per_image().tolist() == run.events["0"].tolist() and meter.total() > 0
    assert meter.peak == pytest.approx(run.peak["0"]) and meter.peak > 1
    plain, _ = loud("dyadic")
    assert count_overflow(plain, [x])["0"].total() == 0
    settle(model, lambda: [x])
    assert count_overflow(model, [x])["0"].total() == 0
    run = Reference(lower(model)).run(x.numpy())
    with torch.no_grad():
        np.testing.assert_array_equal(run.outputs[0], model(x).numpy())
    assert not run.events["0"].any()
