import copy

import pytest
import torch
import torch.nn.functional as F
from quant.networks import Classifier, Gated, Pyramid, images, quantized, trained
from torch import nn

from oaq_repro.accumulator import NAMED, Accumulator
from oaq_repro.errors import InputError
from oaq_repro.methods.int8 import Int8
from oaq_repro.quant.config import Override, QuantizationConfig
from oaq_repro.quant.conversion.convert import quantize_network
from oaq_repro.quant.network import input_quantizer, layers
from oaq_repro.settings.schema import build_part


def convert(network, *overrides):
    return quantize_network(
        network, Int8(), QuantizationConfig(NAMED["int16"], overrides={str(i): o for i, o in enumerate(overrides)})
    )


def test_every_node_is_swapped():
    model = convert(trained(Classifier()))
    assert [kind for _, _, kind in model.swapped] == [
        "QuantConv2d", "QuantConv2d", "QuantConv2d", "QuantConv2d", "QuantAdd", "QuantMaxPool2d", "QuantGlobalAvgPool",
        "QuantLinear",
    ]  # fmt: skip
    assert model.swapped[0][:2] == ("stem.0", "Conv2d + relu")
    assert model.left_float == []


@pytest.mark.parametrize("network", [Classifier, Gated, Pyramid])
def test_calibration_mode_computes_the_float_network(network):
    float_network = trained(network())
    model = convert(float_network).eval()
    for found, expected in zip(model(images()), float_network(images()), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("network", [Classifier, Gated, Pyramid])
def test_eight_bits_are_close_to_float(network):
    float_network = trained(network())
    model = quantized(float_network)
    for found, expected in zip(model(images()), float_network(images()), strict=True):
        assert (found - expected).abs().max() < 0.1 * expected.abs().max()


def test_inputs_are_found_through_modules_that_keep_the_scale():
    model = convert(trained(Classifier()))
    assert model.sources["stem.0"] == "input"
    assert model.sources["expand.0"] == "stem.0"
    assert model.sources["head"] == "mean"
    assert not input_quantizer(model, "stem.0").scalable
    assert input_quantizer(model, "expand.0").scalable


def test_overrides_by_name_and_role():
    model = convert(
        trained(Classifier()),
        Override("@first", accumulator=NAMED["int32"], reason="image"),
        Override("@last", weight_bits=4),
        Override("*pro*.0", accumulator=Accumulator(bits=16, block=4), activation_bits=6),
    )
    table = layers(model)
    assert table["stem.0"].accumulator == NAMED["int32"]
    assert table["stem.0"].accumulator_reason == "@first: image"
    assert table["head"].weight_quantizer.bits == 4
    assert table["project.0"].accumulator.block == 4
    assert table["project.0"].output.bits == 6
    assert table["expand.0"].accumulator == NAMED["int16"]


def test_first_and_last_are_layers_without_others_before_or_behind_them():
    """A function of the image comes first, and the sum of two layers, pooled, last: as in SqueezeNet, LR-ASPP."""

    class Ends(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.block, self.side = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)

        def forward(self, x):
            x = F.relu(self.stem(2 * x - 1))
            x = x + self.block(x)
            return F.relu(self.side(x) + x).mean((2, 3))

    model = convert(trained(Ends()), Override("@first", weight_bits=5), Override("@last", weight_bits=4))
    bits = {name: layer.weight_quantizer.bits for name, layer in layers(model).items()}
    assert bits == {"stem": 5, "block": 8, "side": 4}


def test_an_override_that_matches_nothing_is_an_error_with_the_names():
    with pytest.raises(InputError, match=r"overrides\.1\.match: 'stm\*' matches no layer.*stem.0.*head"):
        convert(trained(Classifier()), Override("@first"), Override("stm*"))


def test_overrides_are_read_from_plain_fields_and_unknown_ones_are_named():
    def read(**fields):
        return build_part(QuantizationConfig, {"accumulator": {"bits": 16}} | fields, "quantization")

    assert read(overrides={"x": {"match": "@last", "skip": True}}).overrides == {"x": Override("@last", skip=True)}
    for plain in ("int12", {"bits": 12}):
        config = read(overrides={"x": {"match": "@last", "accumulator": plain}})
        assert config.overrides["x"].accumulator == Accumulator(bits=12)
    with pytest.raises(InputError, match=r"quantization\.overrides\.x\.bitts: no such field; expected one of match"):
        read(overrides={"x": {"match": "x", "bitts": 3}})
    with pytest.raises(InputError, match=r"quantization\.accumulator: found 'int12', expected"):
        read(accumulator="int12")


def test_skip_leaves_a_layer_in_float():
    float_network = trained(Classifier())
    model = quantized(float_network, overrides={"mine": Override("head", skip=True)})
    assert model.left_float == ["head"]
    assert "head" not in layers(model)
    assert (model(images()) - float_network(images())).abs().max() < 0.1 * float_network(images()).abs().max()


@pytest.mark.parametrize(
    "module, message",
    [
        (nn.Sequential(nn.Softmax(1)), "Softmax, which has no quantized form.* or a function of one number"),
        (nn.Sequential(nn.PReLU(3)), "PReLU, which has no quantized form"),
        (nn.Sequential(nn.Conv2d(3, 3, 3, padding=1, padding_mode="reflect")), "padding of mode 'reflect'"),
        (nn.Sequential(nn.ReflectionPad2d(1), nn.Conv2d(3, 3, 3)), "ReflectionPad2d, which has no quantized form"),
        (nn.Sequential(nn.ConstantPad2d(1, 0.5), nn.Conv2d(3, 3, 3)), "Conv2d after padding with 0.5"),
        (nn.Sequential(nn.ZeroPad2d(-1), nn.Conv2d(3, 3, 3)), "padding .*-1.*at least 0"),
        (nn.Sequential(nn.ZeroPad2d(1), nn.MaxPool2d(3)), "MaxPool2d after padding with 0; expected"),
        (nn.Sequential(nn.AvgPool2d(3, ceil_mode=True)), "ceil_mode where the last window is cut off"),
        (nn.Sequential(nn.AdaptiveAvgPool2d(2)), r"adaptive pooling to \[2, 2\].*expected input_shape"),
    ],
)
def test_what_has_no_quantized_form_is_an_error(module, message):
    with pytest.raises(InputError, match=message):
        convert(module)


def test_an_activation_after_a_module_that_keeps_its_scale_is_a_node_of_its_own():
    model = convert(nn.Sequential(nn.MaxPool2d(2), nn.ReLU()))
    assert [kind for _, _, kind in model.swapped] == ["QuantMaxPool2d", "QuantRequantize"]


def test_a_constant_of_the_network_as_an_operand_is_an_error():
    class Shifted(nn.Module):
        def __init__(self):
            super().__init__()
            self.shift = nn.Parameter(torch.zeros(1, 3, 5, 5))

        def forward(self, x):
            return x + self.shift

    with pytest.raises(InputError, match="add: found shift, a constant or a size, as an operand of add"):
        convert(Shifted())


def test_a_size_as_an_operand_is_an_error():
    class Sized(nn.Module):
        def forward(self, x):
            return x * (x.size(2) * 2 + 1)

    with pytest.raises(InputError, match="a constant or a size, as an operand of mul"):
        convert(Sized())


def test_state_and_accumulators_round_trip():
    model = quantized(trained(Classifier()))
    layers(model)["expand.0"].accumulator = NAMED["int32"]
    layers(model)["expand.0"].weight_quantizer.alpha.fill_(2.5)
    other = quantized(trained(Classifier(), seed=5), batches=[images(seed=9)])
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(images()), model(images()))
    assert layers(other)["expand.0"].accumulator == NAMED["int32"]
    assert copy.deepcopy(model).sources == model.sources


@pytest.mark.parametrize("network", [Classifier, Gated, Pyramid])
def test_every_parameter_gets_a_gradient(network):
    model = quantized(trained(network())).train()
    outputs = model(images())
    sum(o.square().sum() for o in outputs).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_the_gradient_is_that_of_the_float_network():
    float_network = trained(Classifier())
    model = quantized(float_network)
    model.load_state_dict(model.state_dict())
    target = torch.randn(4, 5, generator=torch.Generator().manual_seed(3))
    (model(images()) * target).sum().backward()
    folded = convert(float_network).eval()
    (folded(images()) * target).sum().backward()
    for name in ("head", "project.0", "expand.0"):
        ours = layers(model)[name].weight.grad.flatten()
        theirs = layers(folded)[name].weight.grad.flatten()
        assert torch.nn.functional.cosine_similarity(ours, theirs, dim=0) > 0.97, name


def test_sizes_that_conversion_does_not_know_are_asked_for():
    for module in (nn.AdaptiveAvgPool2d(2), nn.Upsample(size=5), nn.Upsample(scale_factor=0.5)):
        with pytest.raises(InputError, match="expected .*input_shape"):
            convert(nn.Sequential(nn.Conv2d(3, 3, 1), module))
    network = nn.Sequential(nn.Conv2d(3, 3, 1), nn.AdaptiveAvgPool2d(2))
    with pytest.raises(InputError, match=r"from \[7, 8\] to \[2, 2\] with windows of several sizes.*this is 1 \(Adapt"):
        quantize_network(network, Int8(), QuantizationConfig(NAMED["int16"]), (3, 7, 8))
    with pytest.raises(InputError, match=r"input_shape: found \[1, 7, 8\], expected that of an image"):
        quantize_network(network, Int8(), QuantizationConfig(NAMED["int16"]), (1, 7, 8))


class Attention(nn.Module):
    """Something of the user's own that has no quantized form."""

    def forward(self, x):
        return x * torch.softmax(x.flatten(2), -1).reshape(x.shape)


def test_errors_name_the_module_of_the_user_and_the_override_that_skips_it():
    network = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Sequential(nn.Conv2d(3, 3, 1), Attention()), nn.Conv2d(3, 3, 1))
    with pytest.raises(InputError) as caught:
        convert(network)
    message = str(caught.value)
    assert "this is 1.1 (Attention)" in message
    assert """'+quantization.overrides.mine={match: "1.1", skip: true}'""" in message
    model = quantized(trained(network), overrides={"mine": Override("1.1", skip=True)})
    assert model.left_float == ["1.1"]
    assert (model(images()) - network(images())).abs().max() < 0.1 * network(images()).abs().max()


def test_a_batch_norm_without_a_layer_can_be_left_in_float():
    network = trained(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1)))
    model = quantized(network, overrides={"mine": Override("2", skip=True)})
    assert model.left_float == ["2"]
    assert (model(images()) - network(images())).abs().max() < 0.1 * network(images()).abs().max()


def test_a_skipped_layer_keeps_the_padding_before_it():
    network = trained(nn.Sequential(nn.ZeroPad2d((0, 1, 2, 3)), nn.Conv2d(3, 4, 3)))
    model = quantized(network, overrides={"mine": Override("1", skip=True)})
    assert (model(images()) - network(images())).abs().max() < 0.1 * network(images()).abs().max()


def test_what_is_no_module_cannot_be_skipped():
    class Sum(nn.Module):
        def forward(self, x):
            return x.cumsum(1)

    with pytest.raises(InputError, match="this is in the network's own forward pass"):
        convert(Sum())
    with pytest.raises(InputError, match="'skip' is for modules"):
        convert(Sum(), Override("cumsum", skip=True))


@pytest.mark.filterwarnings("error")
def test_wrappers_and_other_types_are_taken_off_and_said():
    network = trained(Classifier())
    expected = convert(network)(images())
    for wrapped, said in (
        (nn.DataParallel(copy.deepcopy(network)), "DataParallel: unwrapped, quantizing the Classifier"),
        (torch.compile(copy.deepcopy(network)), "OptimizedModule: unwrapped, quantizing the Classifier"),
        (copy.deepcopy(network).double(), "Classifier: converted from torch.float64 to torch.float32"),
    ):
        with pytest.warns(UserWarning, match=said):
            model = convert(wrapped)
        assert "stem.0" in layers(model)
        torch.testing.assert_close(model(images()), expected)
    with pytest.warns(UserWarning, match="converted from torch.float16"):
        assert convert(copy.deepcopy(network).half())(images()).dtype == torch.float32
