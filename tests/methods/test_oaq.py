import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from quant.networks import Classifier, images, quantized, trained

from oaq_repro.accumulator import NAMED
from oaq_repro.errors import InputError
from oaq_repro.methods.controller import BatchOverflow
from oaq_repro.quant.calibration.split import CANDIDATES
from oaq_repro.quant.network import QuantizedNetwork, input_quantizer, layers
from oaq_repro.settings.schema import build

EVEN = {"split": "even"}
PAPER = {"granularity": "tensor"}


def controller(**fields):
    return build("method", {"kind": "oaq"} | fields).callbacks()[0]


def step(rule, events, peak, alpha, batch_size, progress, share=0.5):
    """Change of one factor whose operand takes `share` of the excess."""
    numbers = [torch.tensor(float(x), dtype=torch.float64) for x in (events, share * math.log(max(peak, 1e-6)))]
    return float(rule.step(*numbers, 2 * share, torch.tensor(alpha), batch_size, progress))


def seen(model, events=0, peak=0.5):
    """The same overflow in every channel of every layer."""
    return {name: channels(len(layer.weight), events, peak) for name, layer in layers(model).items()}


def channels(count, events, peak):
    return BatchOverflow(torch.full((count,), float(events)), torch.full((count,), float(peak)))


@given(st.integers(1, 10**7), st.integers(1, 512), st.floats(0, 1))
def test_any_overflow_raises_alpha(events, batch_size, progress):
    """`ln(N_o / B)` would lower it for 0 < N_o < B."""
    change = step(controller(lr=0.02, lr_max=0.2), events, 1.5, 1.0, batch_size, progress)
    assert 0 < change <= 0.2
    assert change == pytest.approx(min(0.02 * math.log(1 + events / batch_size), 0.2))


def test_no_overflow_lowers_alpha_until_the_last_part():
    rule = controller(lr=0.02, decrease_until=0.8)
    assert step(rule, 0, 0.5, 2.0, 32, 0.79) == -0.02
    assert step(rule, 0, 0.5, 2.0, 32, 0.8) == 0.0
    assert step(rule, 5, 1.1, 2.0, 32, 0.99) > 0


@given(st.floats(1.001, 8), st.floats(1, 8, width=32), st.integers(1, 10**6), st.integers(1, 512), st.floats(0, 1))
def test_the_scale_free_rule_removes_the_excess_and_does_not_look_at_the_size(peak, alpha, events, batch_size, share):
    rule = controller(rule="scale_free", lr_max=1e9)
    change = step(rule, events, peak, alpha, batch_size, 1.0)
    assert change == step(rule, 1, peak, alpha, 1, 0.0)
    both = step(rule, events, peak, alpha, 1, 1.0, share) + step(rule, events, peak, alpha, 1, 1.0, 1 - share)
    assert math.exp(both / alpha) == pytest.approx(peak)  # two operands, to first order in the step
    assert step(controller(rule="scale_free", lr_max=0.2), events, peak, alpha, batch_size, 1.0) <= 0.2


def test_the_scale_free_rule_falls_no_further_than_it_must():
    rule = controller(rule="scale_free", lr=0.02, decrease_until=0.8)
    assert step(rule, 0, 0.3, 1.5, 32, 0.0) == -0.02
    assert step(rule, 0, 0.999, 1.5, 32, 0.0) == pytest.approx(0.75 * math.log(0.999))
    assert step(rule, 0, 0.0, 1.5, 32, 0.0) == -0.02
    assert step(rule, 0, 0.3, 1.5, 32, 0.9) == 0.0


def after(changes, config=(), **fields):
    """A network after one update in which the named layers saw `changes` and the others nothing."""
    model = quantized(trained(Classifier()), **dict(config))
    overflow = seen(model) | {name: BatchOverflow(*map(torch.tensor, pair)) for name, pair in changes.items()}
    controller(**fields).update(model, overflow, batch_size=4, progress=0.0)
    return model


@pytest.mark.parametrize("config", [PAPER, {}])
def test_both_operands_of_an_overflowing_layer_move_and_the_others_stay_at_one(config):
    model = after({"depthwise.0": ([400.0] + 15 * [0.0], [1.5] + 15 * [0.9])}, config=config.items(), **EVEN)
    expected = 1 + min(0.02 * math.log(101), 0.2)
    weights = layers(model)["depthwise.0"].weight_quantizer.alpha
    assert float(input_quantizer(model, "depthwise.0").alpha) == pytest.approx(expected)
    assert weights.tolist() == pytest.approx(16 * [expected] if config else [expected] + 15 * [1.0])
    for name in ("stem.0", "expand.0", "project.0", "head"):
        assert layers(model)[name].weight_quantizer.alpha.eq(1).all()
        assert input_quantizer(model, name).alpha == 1


def test_channels_move_by_their_own_events_and_fall_by_their_own():
    model = quantized(trained(Classifier()))
    rule = controller(lr=0.02, lr_max=9.0, **EVEN)
    alpha = layers(model)["expand.0"].weight_quantizer.alpha
    alpha.fill_(3.0)
    events = [0.0, 1.0, 4.0, 400.0] * 4
    overflow = seen(model) | {"expand.0": BatchOverflow(torch.tensor(events), torch.ones(16))}
    rule.update(model, overflow, batch_size=4, progress=0.0)
    expected = [3 + (0.02 * math.log(1 + n / 4) if n else -0.02) for n in events]
    assert alpha.tolist() == pytest.approx(expected)
    assert float(input_quantizer(model, "expand.0").alpha) == pytest.approx(1 + 0.02 * math.log(1 + sum(events) / 4))


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_the_scale_free_rule_leaves_to_each_channel_what_the_activation_does_not_take(share):
    peaks = [8.0, 4.0, 1.1, 0.9] + 12 * [0.5]
    pair = ([float(peak > 1) for peak in peaks], peaks)
    model = after({"depthwise.0": pair}, rule="scale_free", lr_max=9.0, split=share)
    taken = share * math.log(8)
    assert float(input_quantizer(model, "depthwise.0").alpha) == pytest.approx(1 + taken)
    expected = [1 + max(math.log(peak) - taken, 0.0) for peak in peaks]
    assert layers(model)["depthwise.0"].weight_quantizer.alpha.tolist() == pytest.approx(expected)


@pytest.mark.parametrize(
    "share, activation, weights", [(0.0, 0.0, 2.0), (0.25, 0.5, 1.5), (0.5, 1.0, 1.0), (1.0, 2.0, 0.0)]
)
def test_the_split_divides_the_papers_rise(share, activation, weights):
    model = after({"depthwise.0": (16 * [1.0], 16 * [1.5])}, config=PAPER.items(), split=share)
    rise = 0.02 * math.log(1 + 16 / 4)
    assert float(input_quantizer(model, "depthwise.0").alpha) == pytest.approx(1 + activation * rise)
    assert layers(model)["depthwise.0"].weight_quantizer.alpha.tolist() == pytest.approx(16 * [1 + weights * rise])


@pytest.mark.parametrize(
    "rule, expected", [("paper", 1 + 0.02 * math.log(1 + 8 / 4)), ("scale_free", 1 + math.log(1.2))]
)
def test_the_images_alpha_never_moves(rule, expected):
    """By the paper's rule the weights take their usual step, by ours the whole excess."""
    model = after({"stem.0": (8 * [1.0], 8 * [1.2])}, config=PAPER.items(), rule=rule, **EVEN)
    assert input_quantizer(model, "stem.0").alpha == 1
    assert layers(model)["stem.0"].weight_quantizer.alpha.tolist() == pytest.approx(8 * [expected])


def test_a_shared_tensor_follows_its_worst_consumer():
    model = quantized(trained(Classifier()))
    assert isinstance(model, QuantizedNetwork)
    model.meta["sources"]["project.0"] = model.meta["sources"]["depthwise.0"]  # two consumers of one tensor
    overflow = seen(model) | {"project.0": BatchOverflow(torch.full((8,), 500.0), torch.full((8,), 2.0))}
    controller(**EVEN).update(model, overflow, batch_size=4, progress=0.0)
    shared = input_quantizer(model, "depthwise.0")
    assert float(shared.alpha) == pytest.approx(1 + 0.02 * math.log(1 + 4000 / 4))
    assert layers(model)["depthwise.0"].weight_quantizer.alpha.eq(1).all()


def test_alpha_stays_between_one_and_the_cap():
    model = quantized(trained(Classifier()))
    many = {name: channels(len(layer.weight), 10**9, 9.0) for name, layer in layers(model).items()}
    rule = controller(lr=0.5, lr_max=0.9)
    for _ in range(40):
        rule.update(model, many, batch_size=1, progress=0.0)
    assert {a for layer in layers(model).values() for a in layer.weight_quantizer.alpha.tolist()} == {16.0}
    for _ in range(60):
        rule.update(model, seen(model), batch_size=1, progress=0.0)
    assert {a for layer in layers(model).values() for a in layer.weight_quantizer.alpha.tolist()} == {1.0}


def test_shares_are_chosen_once_and_kept_in_the_checkpoint():
    model = quantized(trained(Classifier())).train()
    for layer in layers(model).values():
        layer.accumulator = NAMED["int16"].with_bits(12)
    rule = controller(rule="scale_free")
    for _ in range(2):
        rule.watch(model)
        model(images(seed=2))
        meters = {name: layer.meter for name, layer in layers(model).items()}
        overflow = {name: BatchOverflow(meter.channel_events, meter.peaks) for name, meter in meters.items()}
        rule.update(model, overflow, batch_size=4, progress=0.0)
        assert all(layer.probe is None for layer in layers(model).values())
        first = rule.shares
    assert first and set(first) <= set(model.sources.values()) - {"input"} and set(first.values()) <= set(CANDIDATES)
    assert rule.shares is first
    again = controller(rule="scale_free")
    again.load_state_dict(rule.state_dict())
    again.watch(model)
    assert again.shares == first and all(layer.probe is None for layer in layers(model).values())


@pytest.mark.parametrize(
    "fields",
    [
        {"interval": 0},
        {"lr": 0.0},
        {"lr": 0.5, "lr_max": 0.1},
        {"decrease_until": 1.5},
        {"warmup_steps": -1},
        {"rule": "x"},
        {"split": "x"},
        {"split": -0.1},
    ],
)
def test_bad_fields(fields):
    with pytest.raises(InputError, match=f"method.{next(iter(fields))}"):
        build("method", {"kind": "oaq"} | fields)
