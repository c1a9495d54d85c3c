import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from quant.networks import Classifier, quantized, trained

from oaq_repro.errors import InputError
from oaq_repro.methods.controller import BatchOverflow
from oaq_repro.quant.network import input_quantizer, layers
from oaq_repro.settings.schema import build

NONE = BatchOverflow(0, 0.5)


def controller(**fields):
    return build("method", {"kind": "oaq"} | fields).callbacks()[0]


@given(st.integers(1, 10**7), st.integers(1, 512), st.floats(0, 1))
def test_any_overflow_raises_alpha(events, batch_size, progress):
    """`ln(N_o / B)` would lower it for 0 < N_o < B."""
    step = controller(lr=0.02, lr_max=0.2).step(BatchOverflow(events, 1.5), 1.0, batch_size, progress)
    assert 0 < step <= 0.2
    assert step == pytest.approx(min(0.02 * math.log(1 + events / batch_size), 0.2))


def test_no_overflow_lowers_alpha_until_the_last_part():
    rule = controller(lr=0.02, decrease_until=0.8)
    assert rule.step(NONE, 2.0, 32, 0.79) == -0.02
    assert rule.step(NONE, 2.0, 32, 0.8) == 0.0
    assert rule.step(BatchOverflow(5, 1.1), 2.0, 32, 0.99) > 0


@given(st.floats(1.001, 8), st.floats(1, 8), st.integers(1, 10**6), st.integers(1, 512))
def test_the_scale_free_rule_removes_the_excess_and_does_not_look_at_the_size(peak, alpha, events, batch_size):
    rule = controller(rule="scale_free", lr_max=1e9)
    seen = BatchOverflow(events, peak)
    step = rule.step(seen, alpha, batch_size, 1.0)
    assert step == rule.step(BatchOverflow(1, peak), alpha, 1, 0.0)
    assert math.exp(2 * step / alpha) == pytest.approx(peak)  # two operands, to first order in the step
    assert controller(rule="scale_free", lr_max=0.2).step(seen, alpha, batch_size, 1.0) <= 0.2


def test_the_scale_free_rule_falls_no_further_than_it_must():
    rule = controller(rule="scale_free", lr=0.02, decrease_until=0.8)
    assert rule.step(BatchOverflow(0, 0.3), 1.5, 32, 0.0) == -0.02
    assert rule.step(BatchOverflow(0, 0.999), 1.5, 32, 0.0) == pytest.approx(0.75 * math.log(0.999))
    assert rule.step(BatchOverflow(0, 0.0), 1.5, 32, 0.0) == -0.02
    assert rule.step(BatchOverflow(0, 0.3), 1.5, 32, 0.9) == 0.0


def model_with(events, **fields):
    model = quantized(trained(Classifier()))
    overflow = {name: BatchOverflow(events.get(name, 0), 1.0) for name in layers(model)}
    controller(**fields).update(model, overflow, batch_size=4, progress=0.0)
    return model


def test_both_operands_of_an_overflowing_layer_move_and_the_others_stay_at_one():
    model = model_with({"depthwise.0": 400})
    step = min(0.02 * math.log(101), 0.2)
    assert float(layers(model)["depthwise.0"].weight_quantizer.alpha) == pytest.approx(1 + step)
    assert float(input_quantizer(model, "depthwise.0").alpha) == pytest.approx(1 + step)
    for name in ("stem.0", "expand.0", "project.0", "head"):
        assert layers(model)[name].weight_quantizer.alpha == 1
        assert input_quantizer(model, name).alpha == 1


def test_the_images_alpha_never_moves():
    model = model_with({"stem.0": 10_000})
    assert input_quantizer(model, "stem.0").alpha == 1
    assert layers(model)["stem.0"].weight_quantizer.alpha > 1


def test_a_shared_tensor_follows_its_worst_consumer():
    from oaq_repro.quant.network import QuantizedNetwork

    model = quantized(trained(Classifier()))
    assert isinstance(model, QuantizedNetwork)
    model.meta["sources"]["project.0"] = model.meta["sources"]["depthwise.0"]  # two consumers of one tensor
    overflow = {name: NONE for name in layers(model)} | {"project.0": BatchOverflow(4000, 2.0)}
    controller().update(model, overflow, batch_size=4, progress=0.0)
    shared = input_quantizer(model, "depthwise.0")
    assert shared.alpha == layers(model)["project.0"].weight_quantizer.alpha > 1
    assert layers(model)["depthwise.0"].weight_quantizer.alpha == 1


def test_alpha_stays_between_one_and_the_cap():
    model = quantized(trained(Classifier()))
    many = {name: BatchOverflow(10**9, 9.0) for name in layers(model)}
    rule = controller(lr=0.5, lr_max=0.9)
    for _ in range(40):
        rule.update(model, many, batch_size=1, progress=0.0)
    assert {float(layer.weight_quantizer.alpha) for layer in layers(model).values()} == {16.0}
    for _ in range(60):
        rule.update(model, {name: NONE for name in layers(model)}, batch_size=1, progress=0.0)
    assert {float(layer.weight_quantizer.alpha) for layer in layers(model).values()} == {1.0}


@pytest.mark.parametrize(
    "fields",
    [
        {"interval": 0},
        {"lr": 0.0},
        {"lr": 0.5, "lr_max": 0.1},
        {"decrease_until": 1.5},
        {"warmup_steps": -1},
        {"rule": "x"},
    ],
)
def test_bad_fields(fields):
    with pytest.raises(InputError, match=f"method.{next(iter(fields))}"):
        build("method", {"kind": "oaq"} | fields)
