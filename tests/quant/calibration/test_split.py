import math

import pytest
import torch
import torch.nn.functional as F
from quant.networks import Classifier, Pyramid, images, quantized, trained
from torch import nn

from oaq_repro.accumulator import NAMED, Accumulator
from oaq_repro.errors import InputError
from oaq_repro.quant.calibration.calibrate import count_overflow
from oaq_repro.quant.calibration.settle import SettleConfig, settle
from oaq_repro.quant.calibration.split import CANDIDATES, SplitErrors, fixed_share, output_errors
from oaq_repro.quant.network import input_quantizer, layers
from oaq_repro.settings.schema import build_part


class Fork(nn.Module):
    """One tensor that three layers read, with weights of very different size."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.loud, self.quiet, self.last = nn.Conv2d(8, 6, 3), nn.Conv2d(8, 6, 3), nn.Conv2d(12, 2, 1)

    def forward(self, x):
        x = self.stem(x).relu()
        return self.last(torch.cat([self.loud(x), self.quiet(x)], 1))


def fork(bits=16, **config):
    torch.manual_seed(3)
    network = Fork().eval()
    with torch.no_grad():
        network.loud.weight.abs_()  # sums that add up
        network.quiet.weight[1:, 1:] *= 0.02  # small codes: this layer fits
    model = quantized(network, **config)
    for name in ("loud", "quiet"):
        layers(model)[name].accumulator = Accumulator(bits)
    for name in ("stem", "last"):
        layers(model)[name].accumulator = NAMED["int32"]
    return model


def settled(split, model=None, **config):
    model = model or fork(**config)
    before = {name: meter.peaks for name, meter in count_overflow(model, [images()]).items()}
    report = settle(model, lambda: [images()], SettleConfig(margin=1.1, split=split))
    return model, before, report


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_the_activation_takes_its_share_of_the_worst_excess_and_each_channel_the_rest_of_its_own(share):
    model, before, report = settled(share)
    assert report.shares == {"stem": share} and not any(report.events.values())
    excess = 1.1 * float(max(before["loud"].max(), before["quiet"].max()))
    taken = float(input_quantizer(model, "loud").alpha)
    assert taken == pytest.approx(excess**share, rel=0.03)  # a later pass may add a little
    for name in ("loud", "quiet"):
        alpha = layers(model)[name].weight_quantizer.alpha
        left = 1.1 * before[name] / excess**share
        torch.testing.assert_close(alpha.double(), left.clamp(min=1.0), rtol=0.03, atol=0.0)
        assert (alpha[left < 0.97] == 1).all()


def test_with_all_of_it_the_weights_keep_their_bits_and_with_nothing_the_activation_does():
    whole, _, _ = settled(1.0)
    assert layers(whole)["loud"].weight_quantizer.alpha.max() < 1.03
    nothing, _, _ = settled(0)
    assert input_quantizer(nothing, "loud").alpha == 1


@pytest.mark.parametrize("granularity", ["channel", "tensor"])
def test_the_share_of_least_error_is_found_for_all_consumers_together(granularity):
    """Errors worked out from real tensors alone, quantized by hand; all consumers' added."""
    model = fork(granularity=granularity)
    x = images()
    peaks = {name: meter.peaks for name, meter in count_overflow(model, [x]).items()}
    if granularity == "tensor":
        peaks = {name: found.max().expand_as(found) for name, found in peaks.items()}
    needs = {name: (1.1 * found).clamp(min=1) for name, found in peaks.items()}
    excess = float(max(needs["loud"].max(), needs["quiet"].max()))
    seen = {}
    for name in ("loud", "quiet"):
        layers(model)[name].register_forward_pre_hook(lambda m, inputs, name=name: seen.update({name: inputs[0]}))
    with torch.no_grad():
        model(x)
    total = torch.zeros(len(CANDIDATES), dtype=torch.float64)
    source = input_quantizer(model, "loud")
    for name in ("loud", "quiet"):
        layer, real = layers(model)[name], seen[name].dequantize().double()
        exact = F.conv2d(real, layer.weight.detach().double(), layer.bias.detach().double())
        scale, zero, top = (float(v) for v in layer.output.parameters_of_range())
        clip = lambda y: y.clamp(-zero * scale, (top - zero) * scale)  # noqa: B023, E731
        for index, share in enumerate(CANDIDATES):
            taken = excess**share
            step = taken * float(source.high) / 255  # the tensor is behind a ReLU: from zero
            activation = (real / step).round().clamp(max=round(255 / taken)) * step
            alpha = (needs[name] / taken).clamp(min=1)
            unit = (alpha * layer.weight.detach().abs().amax((1, 2, 3)) / 127).reshape(-1, 1, 1, 1)
            weight = (layer.weight.detach() / unit).round() * unit
            error = clip(F.conv2d(activation, weight, layer.bias.detach().double())) - clip(exact)
            total[index] += error.square().sum() / clip(exact).square().sum()
    choice = SplitErrors(model, needs)
    assert set(choice.layers) == {"loud", "quiet"} and choice.excess == {"stem": pytest.approx(excess)}
    for name in choice.layers:
        choice.add(name, seen[name])
    assert choice.shares() == {"stem": CANDIDATES[int(total.argmin())]}
    found = sum(
        (e := output_errors(layers(model)[n], source, seen[n], needs[n], excess))[:-1] / e[-1] for n in choice.layers
    )
    torch.testing.assert_close(found, total, rtol=0.02, atol=1e-9)
    assert source.alpha == 1 and layers(model)["loud"].weight_quantizer.alpha.eq(1).all()  # only tried


def test_settling_takes_the_share_of_least_error_once():
    model, _, report = settled("output_error")
    assert report.shares["stem"] in CANDIDATES and not any(report.events.values())
    with torch.no_grad():
        exact = fork()(images())
        errors = {None: float((model(images()) - exact).square().sum())}
    for share in (0.0, 0.5, 1.0):
        other, _, _ = settled(share)
        with torch.no_grad():
            errors[share] = float((other(images()) - exact).square().sum())
    assert errors[None] <= 1.3 * min(errors.values())  # nearly the best for the network's output too


def test_a_candidate_beyond_the_cap_is_not_chosen():
    model = fork(bits=12)
    x = images()
    peaks = {name: meter.peaks for name, meter in count_overflow(model, [x]).items()}
    needs = {name: found.clamp(min=1) for name, found in peaks.items()}
    excess = float(needs["loud"].max())
    assert 16 < excess < 256
    seen = []
    layers(model)["loud"].register_forward_pre_hook(lambda m, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        model(x)
    errors = output_errors(layers(model)["loud"], input_quantizer(model, "loud"), seen[0], needs["loud"], excess)
    possible = [max(excess**s, excess ** (1 - s)) <= 16 for s in CANDIDATES]
    assert errors[:-1].isfinite().tolist() == possible and 0 < sum(possible) < len(CANDIDATES)


def test_the_image_takes_nothing():
    model = quantized(trained(Classifier()))
    layers(model)["stem.0"].accumulator = Accumulator(13)
    report = settle(model, lambda: [images()], SettleConfig())
    assert "input" not in report.shares and input_quantizer(model, "stem.0").alpha == 1
    assert (layers(model)["stem.0"].weight_quantizer.alpha > 1).any()


def test_nothing_to_choose():
    model = quantized(trained(Pyramid()), accumulator="int32")
    choice = SplitErrors(model, {name: torch.ones(len(layer.weight)) for name, layer in layers(model).items()})
    assert choice.shares() == {} and not choice.layers


@pytest.mark.parametrize("split, share", [("even", 0.5), ("output_error", None), (0, 0.0), (1, 1.0), (0.65, 0.65)])
def test_splits(split, share):
    assert fixed_share(build_part(SettleConfig, {"split": split}, "settle").split) == share


@pytest.mark.parametrize("split", ["x", -0.1, 1.1, math.nan, True, None])
def test_bad_splits(split):
    with pytest.raises(InputError, match=r"settle\.split: found .*'output_error' or 'even'"):
        build_part(SettleConfig, {"split": split}, "settle")
