import pytest
import torch
from quant.networks import Classifier, images, quantized, trained

from oaq_repro.accumulator import NAMED, Accumulator
from oaq_repro.errors import InputError
from oaq_repro.methods.int8 import Int8
from oaq_repro.quant.calibration.calibrate import calibrate, count_overflow, freeze
from oaq_repro.quant.config import QuantizationConfig
from oaq_repro.quant.conversion.convert import quantize_network
from oaq_repro.quant.network import input_quantizer, layers
from oaq_repro.quant.overflow import simulate

POLICIES = ["int16", "int16_lanes8", "int16_block", "pair_saturating"]


def narrow(accumulator=None, network=Classifier, **config):
    """A network whose 13-bit accumulators overflow a lot."""
    accumulator = accumulator or Accumulator(bits=13)
    model = quantize_network(trained(network()), Int8(), QuantizationConfig(accumulator, **config))
    calibrate(model, [images()])
    return model.eval()


def test_calibration_covers_the_images():
    model = quantized(trained(Classifier()))
    quantizer = input_quantizer(model, "stem.0")
    assert quantizer.low == images().min() and quantizer.high == images().max()
    assert quantizer.observed == 1


def test_calibration_without_images_is_an_error():
    with pytest.raises(InputError, match="found no images"):
        quantized(trained(Classifier()), batches=iter(()))


def test_calibration_with_nan_names_the_tensor():
    with pytest.raises(InputError, match="input.output: calibration found the range"):
        quantized(trained(Classifier()), batches=[images() * float("nan")])


@pytest.mark.parametrize("policy", POLICIES)
def test_counts_are_those_of_the_exact_simulation(policy):
    model = narrow(NAMED[policy].with_bits(12))
    seen = {}
    for name, layer in layers(model).items():

        def record(module, inputs, name=name, layer=layer):
            x = inputs[0]
            weight, _, _ = layer.weight_codes(x)
            as4 = lambda t: t if t.dim() == 4 else t[:, :, None, None]  # noqa: E731
            outcome = simulate(as4(x.codes), x.zero_point, as4(weight), layer.geometry, layer.accumulator)
            seen[name] = int(outcome.overflowed.sum())

        layer.register_forward_pre_hook(record)
    meters = count_overflow(model, [images()])
    assert {name: meter.total() for name, meter in meters.items()} == seen
    assert sum(seen.values()) > 0


def test_frozen_ranges_do_not_move():
    model = narrow()
    freeze(model)
    before = {k: v.clone() for k, v in model.state_dict().items() if isinstance(v, torch.Tensor)}
    model.train()(10 * images())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items() if isinstance(v, torch.Tensor))
