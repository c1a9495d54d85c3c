import pytest
import torch
from quant.networks import Classifier, quantized, trained

from oaq_repro.errors import InputError
from oaq_repro.methods.controller import BatchOverflow
from oaq_repro.methods.oaq_clamp import OAQClamp
from oaq_repro.quant.network import input_qparams, input_quantizer, layers
from oaq_repro.quant.numerics import activation_levels
from oaq_repro.settings.schema import build


def seen(layer, events):
    """Events in the first channel only: the clamp is the layer's all the same."""
    counts = torch.zeros(len(layer.weight))
    counts[0] = events
    return BatchOverflow(counts, counts + 0.9)


def test_the_clamp_goes_down_by_one_and_never_up():
    model = quantized(trained(Classifier()))
    (rule,) = OAQClamp().callbacks()
    clamps = []
    for events in (3, 0, 1, 0, 0):
        rule.update(
            model, {name: seen(layer, events) for name, layer in layers(model).items()}, batch_size=4, progress=0.0
        )
        clamps.append(127 / float(layers(model)["expand.0"].weight_quantizer.alpha[0]))
    assert clamps == pytest.approx([126, 126, 125, 125, 125])
    assert layers(model)["expand.0"].weight_quantizer.alpha.eq(input_quantizer(model, "expand.0").alpha).all()
    assert input_quantizer(model, "stem.0").alpha == 1


def test_the_clamp_is_the_largest_weight():
    model = quantized(trained(Classifier()))
    (rule,) = OAQClamp().callbacks()
    for _ in range(27):
        rule.update(model, {name: seen(layer, 1) for name, layer in layers(model).items()}, batch_size=4, progress=0.0)
    layer = layers(model)["expand.0"]
    codes, _ = layer.quantized_weight(input_qparams(model, "expand.0"))
    assert codes.abs().max() == 100
    assert activation_levels(8, input_quantizer(model, "expand.0").alpha) == round(255 * 100 / 127)


def test_bad_interval():
    with pytest.raises(InputError, match="method.interval"):
        build("method", {"kind": "oaq_clamp", "interval": 0})
