import pytest
import torch
from quant.networks import Classifier, Pyramid, images, quantized, trained

from oaq_repro.accumulator import NAMED, Accumulator
from oaq_repro.errors import InputError
from oaq_repro.methods.int8 import Int8
from oaq_repro.quant.calibrate import SettleConfig, calibrate, count_overflow, freeze, settle
from oaq_repro.quant.config import Override, QuantizationConfig
from oaq_repro.quant.convert import quantize_network
from oaq_repro.quant.network import input_quantizer, layers
from oaq_repro.quant.overflow import simulate
from oaq_repro.settings.schema import build_part

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


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("network", [Classifier, Pyramid])
def test_settling_ends_overflow(policy, network):
    model = narrow(NAMED[policy].with_bits(12), network)
    report = settle(model, lambda: [images(), images(seed=2)], SettleConfig())
    assert report.images == 8 and report.passes > 1
    assert not any(report.events.values())
    again = count_overflow(model, [images(), images(seed=2)])
    assert sum(meter.total() for meter in again.values()) == 0
    for name, layer in layers(model).items():
        assert 1.0 <= layer.weight_quantizer.alpha <= 16.0
        assert input_quantizer(model, name).alpha <= 16.0


def test_settling_shares_the_excess_between_both_operands():
    model = narrow()
    before = {name: float(meter.peak) for name, meter in count_overflow(model, [images()]).items()}
    settle(model, lambda: [images()], SettleConfig(margin=1.2))
    layer = layers(model)["depthwise.0"]
    # two consumers share the stem's tensor only through the addition, so expand -> depthwise is a plain chain
    product = float(layer.weight_quantizer.alpha) * float(input_quantizer(model, "depthwise.0").alpha)
    if before["depthwise.0"] > 1:
        assert product >= before["depthwise.0"]
        assert float(layer.weight_quantizer.alpha) == pytest.approx(
            float(input_quantizer(model, "depthwise.0").alpha), rel=0.2
        )


def test_the_images_alpha_stays_one_and_the_weights_take_it_all():
    model = narrow()
    settle(model, lambda: [images()], SettleConfig())
    assert input_quantizer(model, "stem.0").alpha == 1
    assert layers(model)["stem.0"].weight_quantizer.alpha > 1


def test_a_layer_beyond_the_cap_gets_32_bits_and_says_why():
    model = narrow(Accumulator(bits=8), overrides={"mine": Override("@last", accumulator=NAMED["int32"])})
    report = settle(model, lambda: [images()], SettleConfig())
    assert "stem.0" in report.replaced
    stem = layers(model)["stem.0"]
    assert stem.accumulator == NAMED["int32"]
    assert "needs alpha above 16" in stem.accumulator_reason
    assert not any(report.events.values())


def test_nothing_to_settle_takes_one_pass():
    model = narrow(NAMED["int32"])
    report = settle(model, lambda: [images()], SettleConfig())
    assert report.passes == 1
    assert all(layer.weight_quantizer.alpha == 1 for layer in layers(model).values())


def test_too_few_passes_is_an_error():
    with pytest.raises(InputError, match="1 passes were not enough"):
        settle(narrow(), lambda: [images()], SettleConfig(max_passes=1))


@pytest.mark.parametrize("fields, field", [({"margin": 0.9}, "margin"), ({"max_passes": 0}, "max_passes")])
def test_bad_settle_fields(fields, field):
    with pytest.raises(InputError, match=f"settle.{field}"):
        build_part(SettleConfig, fields, "settle")


def test_frozen_ranges_do_not_move():
    model = narrow()
    freeze(model)
    before = {k: v.clone() for k, v in model.state_dict().items() if isinstance(v, torch.Tensor)}
    model.train()(10 * images())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items() if isinstance(v, torch.Tensor))
