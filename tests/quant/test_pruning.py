"""Which weights are left, that pruned ones stay exactly zero whatever trains, and quantizers under live batch norm."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from quant.networks import Classifier, Larger, Pyramid, images, quantized, trained
from torch import nn

from oaq_repro.accumulator import NAMED
from oaq_repro.errors import SettingsError
from oaq_repro.methods.base import Method
from oaq_repro.quant.calibration.calibrate import freeze
from oaq_repro.quant.config import Override, QuantizationConfig
from oaq_repro.quant.conversion.trace import keep_computed_weights
from oaq_repro.quant.network import input_qparams, layers
from oaq_repro.quant.numerics import exchanged
from oaq_repro.quant.pruning import (
    PruningConfig,
    held_magnitudes,
    largest_left,
    prunable,
    prune,
    quantize_live,
    stop_quantizing,
    zeros_held,
)

pytestmark = pytest.mark.usefixtures("one_thread")
CONFIG = QuantizationConfig(accumulator=NAMED["int16"], weight_bits=4, activation_bits=6)


def mlp():
    torch.manual_seed(0)
    dense = nn.Sequential(
        nn.Flatten(), nn.Linear(48, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.ReLU(),
        nn.Linear(8, 5),
    )  # fmt: skip
    return dense


def small_images(count=16, seed=0):
    return torch.randn(count, 3, 4, 4, generator=torch.Generator().manual_seed(seed))


def pruned(dense, config, start=None):
    prune(dense, config, start if start is not None else dense.state_dict())
    return dense


def plain(dense):
    for module in list(dense.modules()):
        keep_computed_weights(module)
    return dense


def train(dense, steps, **adam):
    optimizer = torch.optim.Adam(dense.parameters(), lr=1e-2, **adam)
    dense.train()
    for step in range(steps):
        loss = nn.functional.cross_entropy(dense(small_images(seed=step)), torch.arange(16) % 5)
        optimizer.zero_grad()
        (loss + 1e-3 * held_magnitudes(dense)).backward()
        optimizer.step()
    return dense


def zeros(dense):
    return [module.weight.detach() == 0 for module in prunable(dense)]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.lists(st.integers(1, 9), min_size=1, max_size=4), st.floats(0.01, 0.99))
def test_the_largest_of_all_layers_are_left_as_if_sorted_by_hand(seed, sizes, density):
    rng = np.random.default_rng(seed)
    scores = [rng.integers(0, 6, (2, size)).astype(np.float32) for size in sizes]  # with many ties
    left = [rng.random((2, size)) < 0.8 for size in sizes]
    found = largest_left([torch.from_numpy(s) for s in scores], [torch.from_numpy(x) for x in left], density)
    places = [(layer, *index) for layer, mask in enumerate(left) for index in np.argwhere(mask)]
    places.sort(key=lambda place: -scores[place[0]][place[1:]])  # stable: of equal ones the first
    total = sum(mask.size for mask in left)
    kept = {tuple(map(int, place)) for place in places[: round(density * total)]}
    assert {(layer, *map(int, i)) for layer, mask in enumerate(found) for i in np.argwhere(mask.numpy())} == kept


@pytest.mark.parametrize("ranking", ["magnitude", "random"])
def test_every_step_leaves_its_density_to_one_weight_and_brings_nothing_back(ranking):
    dense, before = mlp(), [torch.zeros(1).bool()] * 3
    total = sum(module.weight.numel() for module in prunable(dense))
    densities = (0.9, 0.5, 0.2, 0.033, 0.011)
    for step in range(6):
        config = PruningConfig(step=step, densities=densities, ranking=ranking)
        plain(train(pruned(dense, config), 3))
        now = zeros(dense)
        assert abs(sum(int((~z).sum()) for z in now) - (1.0, *densities)[step] * total) <= 0.5
        assert all((z | ~b).all() for z, b in zip(now, before, strict=True))
        before = now


def test_magnitudes_of_all_layers_compete():
    dense = mlp()
    with torch.no_grad():
        prunable(dense)[0].weight.mul_(1e-3)
    pruned(dense, PruningConfig(step=1, densities=(0.15,)))
    first, *others = zeros(dense)
    assert first.all() and sum(int((~z).sum()) for z in others) == 140  # of 936; the others have 168


def test_pruned_weights_are_exactly_zero_after_a_hundred_steps_of_adam():
    """Momentum that the optimizer has gathered before, weight decay and the penalty move what is behind them."""
    dense = pruned(mlp(), PruningConfig())
    optimizer = torch.optim.Adam(dense.parameters(), lr=1e-2, weight_decay=1e-2)
    dense.train()
    for step in range(120):
        if step == 20:
            for module in prunable(dense):
                module.parametrizations.weight[0].mask &= torch.rand_like(module.weight) < 0.5
            expected = zeros(dense)
        loss = nn.functional.cross_entropy(dense(small_images(seed=step)), torch.arange(16) % 5)
        optimizer.zero_grad()
        (loss + 1e-3 * held_magnitudes(dense)).backward()
        optimizer.step()
    assert any(z.any() for z in expected)
    assert all(torch.equal(z, e) for z, e in zip(zeros(dense), expected, strict=True))
    moved = [m.parametrizations.weight.original[e].abs().max() for m, e in zip(prunable(dense), expected, strict=True)]
    assert max(moved) > 0.01  # so that something had to be held
    assert all(torch.equal(z, e) for z, e in zip(zeros(plain(dense)), expected, strict=True))


def test_rewinding_restores_weights_biases_and_batch_norm_but_what_is_pruned():
    dense = mlp()
    start = copy.deepcopy(dense.state_dict())
    plain(train(pruned(dense, PruningConfig()), 20))
    weights = [module.weight.detach().clone() for module in prunable(dense)]
    assert not torch.equal(dense.state_dict()["2.running_mean"], start["2.running_mean"])
    plain(pruned(dense, PruningConfig(step=1, densities=(0.5,), rewind="start"), start))
    ranked = largest_left([w.abs() for w in weights], [torch.ones_like(w).bool() for w in weights], 0.5)
    masks = dict(zip([f"{i}.weight" for i in (1, 4, 7)], ranked, strict=True))
    for name, value in dense.state_dict().items():
        assert torch.equal(value, start[name] * masks[name] if name in masks else start[name]), name
    again = plain(pruned(mlp(), PruningConfig(step=1, densities=(0.5,)), start))
    assert not torch.equal(again.state_dict()["1.weight"], weights[0])  # `start` is not what weights are ranked by


def test_a_step_names_the_one_before_it_and_nothing_that_is_still_to_come():
    config = PruningConfig(step=2, densities=(0.5, 0.25, 0.1), ranking="random", rewind="start", l1=0.1)
    assert config.density == 0.25
    assert config.before == PruningConfig(step=1, densities=(0.5,), ranking="random", rewind="start", l1=0.1)
    assert config.before.before == PruningConfig(l1=0.1) and config.before.before.density == 1.0
    assert config.before.before.before is None
    assert config.past == PruningConfig(step=2, densities=(0.5, 0.25), ranking="random", rewind="start", l1=0.1)
    assert Method(pruning=config).prepared_before == {"pruning": config.before}
    assert Method().prepared_before is None and not Method().has_preparation


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"densities": (0.5, 0.5)}, r"densities: found \[0.5, 0.5\], expected each smaller"),
        ({"step": 3, "densities": (0.5, 0.2)}, "step: found 3, expected at most 2, one per density"),
    ],
)
def test_steps_without_a_density_are_named(fields, message):
    with pytest.raises(SettingsError, match=message):
        PruningConfig(**fields)


# -- quantizers under live batch norm ---------------------------------------------------------------------------


def shape_of(network):
    return (3, 4, 4) if isinstance(network, nn.Sequential) else (3, 16, 16)


@pytest.mark.parametrize("network", [mlp, Classifier, Pyramid, Larger])
def test_live_weights_fold_to_the_codes_of_the_integer_network(network):
    """A scale per channel follows the channel's factor, so that folding changes no code (but for ties in float32)."""
    torch.manual_seed(0)
    dense = network()
    x = small_images() if isinstance(dense, nn.Sequential) else images(8)
    pruned(dense, PruningConfig(step=1, densities=(0.5,)))
    quantize_live(dense, Method(), CONFIG, shape_of(dense))
    dense.train()
    for _ in range(3):
        dense(x)
    codes = {}
    for name, module in dense.named_modules():
        if hasattr(module, "parametrizations"):
            chain = module.parametrizations.weight
            held = chain[0](chain.original)
            rows = exchanged(held, module.groups) if isinstance(module, nn.ConvTranspose2d) else held
            limit = rows.abs().flatten(1).amax(1).clamp(min=1e-12) / 7  # 4 bits: -7 to 7
            codes[name] = torch.round(rows / limit.reshape(-1, *[1] * (rows.dim() - 1)))
            shown = exchanged(module.weight, module.groups) if isinstance(module, nn.ConvTranspose2d) else module.weight
            torch.testing.assert_close(shown, codes[name] * limit.reshape(-1, *[1] * (rows.dim() - 1)))
            assert (module.weight[held == 0] == 0).all()
    stop_quantizing(dense.eval())
    plain(dense)
    assert not any(module._forward_pre_hooks for module in dense.modules())
    model = quantized(dense, Method(), weight_bits=4, activation_bits=6, batches=[x])
    freeze(model.eval())
    for name, layer in layers(model).items():
        found, _ = layer.quantized_weight(input_qparams(model, name))
        assert (found.abs() - codes[name].abs()).abs().max() <= 1  # a negative factor of batch norm turns the sign
        assert ((found.abs() != codes[name].abs()).float().mean()) < 0.01


def test_live_quantizers_have_the_bits_of_every_layer():
    dense = trained(Classifier())
    overrides = {
        "a": Override("expand.0", weight_bits=3, input_bits=2),
        "b": Override("depthwise.0", activation_bits=5),
    }
    config = QuantizationConfig(accumulator=NAMED["int16"], weight_bits=6, activation_bits=4, overrides=overrides)
    quantize_live(pruned(dense, PruningConfig()), Method(), config, (3, 16, 16))
    seen = {}
    for name in ("stem.0", "expand.0", "depthwise.0", "project.0", "head"):
        chain = dense.get_submodule(name).parametrizations.weight
        dense.get_submodule(name).register_forward_pre_hook(
            lambda module, args, name=name: seen.update({name: len(args[0].unique())})
        )
        seen[f"{name} weights"] = chain[1].weights.bits
    assert [seen[f"{n} weights"] for n in ("stem.0", "expand.0", "project.0")] == [6, 3, 6]
    dense.train()(images(8))
    assert seen["stem.0"] <= 16 and seen["expand.0"] <= 4 and seen["project.0"] <= 32
    assert seen["project.0"] > 16  # 5 bits and not 4


def test_gradients_pass_straight_through_both_roundings():
    torch.manual_seed(0)
    dense = nn.Sequential(nn.Flatten(), nn.Linear(4, 1, bias=False))
    quantize_live(pruned(dense, PruningConfig()), Method(), CONFIG, (1, 2, 2))
    x = torch.tensor([[0.0, 1.0, 2.0, 3.1]]).reshape(1, 1, 2, 2)
    (dense.train()(x)).sum().backward()
    step = 3.1 / 63
    expected = torch.round(torch.tensor([[0.0, 1.0, 2.0, 3.1]]) / step) * step
    torch.testing.assert_close(dense[1].parametrizations.weight.original.grad, expected)


def test_zeros_of_a_quantized_network_stay_through_training_and_its_state_stays_plain():
    dense = plain(pruned(trained(Classifier()), PruningConfig(step=1, densities=(0.3,))))
    model = quantized(dense, Method(), batches=[images()])
    names = set(model.state_dict())
    expected = {name: layer.weight == 0 for name, layer in layers(model).items()}
    with zeros_held(model):
        optimizer = torch.optim.Adam(model.train().parameters(), lr=1e-2, weight_decay=0.1)
        for _ in range(5):
            loss = nn.functional.cross_entropy(model(images()), torch.arange(4))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert set(model.state_dict()) == names
    assert all(torch.equal(layer.weight == 0, expected[name]) for name, layer in layers(model).items())
    assert any(zero.any() for zero in expected.values())
