import copy
import math
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from quant.networks import Classifier, Pyramid, images, trained

from oaq_repro.accumulator import NAMED, Accumulator
from oaq_repro.deploy.lower import lower
from oaq_repro.errors import InputError
from oaq_repro.methods.int8 import Int8
from oaq_repro.quant.calibration.calibrate import calibrate, count_overflow
from oaq_repro.quant.calibration.settle import SettleConfig, settle
from oaq_repro.quant.config import Override, QuantizationConfig
from oaq_repro.quant.conversion.convert import quantize_network
from oaq_repro.quant.network import input_quantizer, layers
from oaq_repro.quant.numerics import pad
from oaq_repro.settings.schema import build_part

POLICIES = ["int16", "int16_lanes8", "int16_block", "pair_saturating"]
PAPER = {"granularity": "tensor"}
EVEN = {"split": "even"}


NARROW = Accumulator(13)


def narrow(accumulator=NARROW, network=Classifier, seed=0, **config):
    """A network whose accumulators of 13 bits overflow a lot."""
    model = quantize_network(trained(network(), seed), Int8(), QuantizationConfig(accumulator, **config))
    calibrate(model, [images()])
    return model.eval()


def exact_sums(model, batches):
    """Sums [N, O, ...] of every layer on all batches, in float64, from a convolution of its own."""
    found = {name: [] for name in layers(model)}

    def see(name, layer, x):
        codes, zero_point = x.codes.double(), float(x.zero_point)
        weight = layer.quantized_weight(x)[0].detach().double()
        if weight.dim() == 2:
            found[name].append((codes - zero_point) @ weight.T)
        else:
            g = layer.geometry
            found[name].append(
                F.conv2d(pad(codes - zero_point, g.padding), weight, None, g.stride, 0, g.dilation, g.groups)
            )

    hooks = [
        layer.register_forward_pre_hook(lambda module, inputs, name=name: see(name, module, inputs[0]))
        for name, layer in layers(model).items()
    ]
    with torch.no_grad():
        for batch in batches:
            model(batch)
    for hook in hooks:
        hook.remove()
    return {name: torch.cat(parts) for name, parts in found.items()}


def settled_as_the_paper_has_it(model, batches, margin, passes=20):
    """One factor per tensor, every excess shared by square roots: written out with numbers, one layer at a time."""
    for done in range(1, passes + 1):
        excess, events = {}, 0
        for name, sums in exact_sums(model, batches).items():
            limit = 2 ** (layers(model)[name].accumulator.bits - 1)
            highest, lowest = np.float32(sums.max()), np.float32(sums.min())
            peak = max(highest / np.float32(limit - 1), lowest / np.float32(-limit))
            events += int(((sums > limit - 1) | (sums < -limit)).sum())
            if margin * float(peak) > 1:
                excess[name] = margin * float(peak)
        if not events and (done > 1 or not excess):
            return
        for name, need in list(excess.items()):
            share = math.sqrt(need) if input_quantizer(model, name).scalable else 1.0
            weight = float(layers(model)[name].weight_quantizer.alpha.max()) * need / share
            if max(weight, float(input_quantizer(model, name).alpha) * share) > 16:
                layers(model)[name].accumulator = Accumulator(32)
                del excess[name]
        start = {name: float(input_quantizer(model, name).alpha) for name in excess}
        for name, need in excess.items():
            quantizer = input_quantizer(model, name)
            if quantizer.scalable:
                risen = np.float32(start[name] * math.sqrt(need))
                quantizer.alpha.fill_(max(float(quantizer.alpha), float(risen)))
        for name, need in excess.items():
            rest = need / (float(input_quantizer(model, name).alpha) / start[name])
            weights = layers(model)[name].weight_quantizer
            if rest > 1:
                weights.alpha.fill_(float(np.float32(float(weights.alpha.max())) * np.float32(rest)))
    raise AssertionError("did not settle")


def integers(model):
    return {layer.name: (layer.weight, layer.bias, layer.multiplier, layer.output) for layer in lower(model).layers()}


@pytest.mark.parametrize("network, seed, bits", [(Classifier, 0, 12), (Classifier, 1, 14), (Pyramid, 0, 13)])
def test_the_papers_setting_gives_its_integers_bit_for_bit(network, seed, bits):
    batches = [images(), images(seed=2)]
    found = narrow(Accumulator(bits), network, seed, **PAPER)
    expected = copy.deepcopy(found)
    settle(found, lambda: batches, SettleConfig(margin=1.2, **EVEN))
    settled_as_the_paper_has_it(expected, batches, 1.2)
    assert any(layer.weight_quantizer.alpha.max() > 1 for layer in layers(found).values())
    mine, theirs = integers(found), integers(expected)
    for name in theirs:
        for a, b in zip(mine[name][:3], theirs[name][:3], strict=True):
            assert np.array_equal(a, b)
        assert mine[name][3] == theirs[name][3]


@pytest.mark.parametrize(
    "policy, network, factors, split",
    [("int16", Pyramid, {}, {}), *((policy, Classifier, {}, {}) for policy in POLICIES)]
    + [("int16", Pyramid, PAPER, EVEN), ("int16_lanes8", Classifier, PAPER, {}), ("int16_block", Classifier, {}, EVEN)],
)
def test_settling_ends_overflow(policy, network, factors, split):
    model = narrow(NAMED[policy].with_bits(12), network, **factors)
    report = settle(model, lambda: [images(), images(seed=2)], SettleConfig(**split))
    assert report.images == 8 and report.passes > 1
    assert not any(report.events.values())
    again = count_overflow(model, [images(), images(seed=2)])
    assert sum(meter.total() for meter in again.values()) == 0
    for name, layer in layers(model).items():
        alpha = layer.weight_quantizer.alpha
        assert ((alpha >= 1.0) & (alpha <= 16.0)).all()
        assert input_quantizer(model, name).alpha <= 16.0


def test_the_images_alpha_stays_one_and_the_weights_take_it_all():
    model = narrow()
    settle(model, lambda: [images()], SettleConfig())
    assert input_quantizer(model, "stem.0").alpha == 1
    assert (layers(model)["stem.0"].weight_quantizer.alpha > 1).any()


@pytest.mark.parametrize(
    "factors, words", [({}, r"above 16 in [1-9]\d* of 8 channels \(peak"), (PAPER, r"above 16 \(peak")]
)
def test_a_layer_beyond_the_cap_gets_32_bits_and_says_why(factors, words):
    model = narrow(Accumulator(8), overrides={"mine": Override("@last", accumulator=NAMED["int32"])}, **factors)
    report = settle(model, lambda: [images()], SettleConfig())
    assert "stem.0" in report.replaced
    stem = layers(model)["stem.0"]
    assert stem.accumulator == NAMED["int32"]
    assert re.search(f"settle: int8 needs alpha {words}", stem.accumulator_reason)
    assert not any(report.events.values())


def test_nothing_to_settle_takes_one_pass():
    model = narrow(NAMED["int32"])
    report = settle(model, lambda: [images()], SettleConfig())
    assert report.passes == 1
    assert all(layer.weight_quantizer.alpha.eq(1).all() for layer in layers(model).values())


def test_too_few_passes_is_an_error():
    with pytest.raises(InputError, match="1 passes were not enough"):
        settle(narrow(), lambda: [images()], SettleConfig(max_passes=1))


@pytest.mark.parametrize(
    "fields, field",
    [
        ({"margin": 0.9}, "margin"),
        ({"max_passes": 0}, "max_passes"),
        ({"split": "x"}, "split"),
        ({"split": 1.1}, "split"),
        ({"split": True}, "split"),
    ],
)
def test_bad_settle_fields(fields, field):
    with pytest.raises(InputError, match=f"settle.{field}"):
        build_part(SettleConfig, fields, "settle")


@settings(max_examples=5, deadline=None)
@given(
    st.sampled_from([Classifier, Pyramid]), st.integers(0, 2**31), st.integers(12, 18), st.floats(1, 1.5),
    st.sampled_from(["output_error", "even", 0.0, 0.3, 1.0]),
)  # fmt: skip
def test_no_channel_passes_its_limit_and_those_that_need_nothing_keep_their_bits(network, seed, bits, margin, split):
    model, batches = narrow(Accumulator(bits), network, seed % 1000), [images(), images(seed=2)]
    unused = exact_sums(model, batches)
    settle(model, lambda: batches, SettleConfig(margin=margin, split=split))
    limit = 2 ** (bits - 1)
    for name, sums in exact_sums(model, batches).items():
        layer = layers(model)[name]
        if layer.accumulator.bits == bits:
            assert ((sums >= -limit) & (sums <= limit - 1)).all()
        alpha = layer.weight_quantizer.alpha
        assert ((alpha >= 1) & (alpha <= 16)).all()
        quiet = unused[name].abs().transpose(0, 1).flatten(1).amax(1) < limit / margin / 1.5
        assert (alpha[quiet] == 1).all()


@pytest.mark.parametrize("name", ["depthwise.0", "project.0"])
def test_scales_that_a_bias_holds_up_are_raised_from_there(name):
    """Factors below the floor of the scale shrink no sum: raised from 1, they would go on to the cap."""
    model = narrow(Accumulator(11), requantization="fixed16")
    layer, quantizer = layers(model)[name], input_quantizer(model, name)
    with torch.no_grad():
        own = layer.weight_quantizer.scale(layer.weight) * quantizer.parameters_of_range().scale
        layer.bias.copy_(3 * 2**14 * own)  # the floor is three times the scale
    report = settle(model, lambda: [images()], SettleConfig(margin=2.5))
    assert report.passes == 2 and name not in report.replaced


@pytest.mark.parametrize("granularity", ["channel", "tensor"])
def test_a_channel_that_is_almost_switched_off_costs_the_others_nothing(granularity):
    """A floor holds its scale a million times above that of its weights; a factor that all share must not follow it."""
    model, plain = (narrow(Accumulator(12), granularity=granularity) for _ in range(2))
    with torch.no_grad():
        layers(model)["project.0"].weight[0] *= 1e-9
        layers(model)["project.0"].bias[0] = 1.0
    for network in (model, plain):
        settle(network, lambda: [images()], SettleConfig(split="even"))
    found, usual = (layers(network)["project.0"].weight_quantizer.alpha for network in (model, plain))
    assert usual.max() > 1 and (found[1:] <= usual[1:]).all()
    assert granularity == "channel" or len(found.unique()) == 1
