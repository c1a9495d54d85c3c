import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from quant.networks import Classifier, Gated, Larger, Pyramid, images, quantized, trained
from torch import nn

from oaq_repro.accumulator import NAMED, Accumulator
from oaq_repro.deploy.checked_engine import CheckedEngine, Simulation
from oaq_repro.deploy.lower import lower
from oaq_repro.errors import InputError
from oaq_repro.integer.graph import Graph, RoundingNode
from oaq_repro.integer.reference import Reference
from oaq_repro.quant.calibration.calibrate import count_overflow
from oaq_repro.quant.calibration.settle import SettleConfig, settle
from oaq_repro.quant.config import Override
from oaq_repro.quant.network import layers
from oaq_repro.requantization import REQUANTIZATIONS


def outputs_of(model, x):
    with torch.no_grad():
        found = model(x)
    return [found.numpy()] if isinstance(found, torch.Tensor) else [f.numpy() for f in found]


@pytest.mark.parametrize("network", [Classifier, Pyramid, Gated])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("per_channel", [True, False])
def test_simulation_and_integers_agree_bit_for_bit(network, bits, per_channel):
    model = quantized(
        trained(network()), accumulator="int32", weight_bits=bits, activation_bits=bits, per_channel=per_channel
    )
    x = images(6, 18, seed=4)
    run = Reference(lower(model)).run(x.numpy())
    for found, expected in zip(run.outputs, outputs_of(model, x), strict=True):
        assert np.array_equal(found, expected)


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from([Pyramid, Gated, Larger]), st.sampled_from(REQUANTIZATIONS), st.integers(0, 2**31),
    st.floats(1, 8), st.floats(1, 8), st.integers(8, 20),
)  # fmt: skip
def test_agreement_for_any_weights_alphas_and_sizes(
    network, requantization, seed, alpha_weight, alpha_activation, size
):
    """Saturation of fixed16 included: the simulation saturates as the integers do."""
    model = quantized(
        trained(network(), seed), accumulator="int16", batches=[images(seed=seed)], requantization=requantization
    )
    for layer in layers(model).values():
        layer.weight_quantizer.alpha.fill_(alpha_weight)
        layer.output.alpha.fill_(alpha_activation)
    x = 2 * images(2, size, seed=seed + 1)  # beyond the calibrated range, so that clamps act
    graph = lower(model)
    taken = {node.requantization for node in graph.nodes if isinstance(node, RoundingNode)}
    assert taken <= {requantization, "dyadic" if requantization == "fixed16" else requantization}
    run = Reference(graph.with_accumulator(NAMED["int32"])).run(x.numpy())
    for found, expected in zip(run.outputs, outputs_of(model, x), strict=True):
        assert np.array_equal(found, expected)


def test_one_node_per_module():
    model = quantized(trained(Pyramid()))
    graph = lower(model)
    modules = [node.target for node in model.graph.nodes if node.op == "call_module"]
    assert [node.name for node in graph.nodes] == modules
    assert graph.outputs == ("output_0", "output_1")


def test_a_saved_graph_gives_the_same_result(tmp_path):
    graph = lower(quantized(trained(Classifier())))
    graph.save(tmp_path / "graph.npz")
    again = Graph.load(tmp_path / "graph.npz")
    x = images().numpy()
    assert np.array_equal(Reference(again).run(x).outputs[0], Reference(graph).run(x).outputs[0])


@pytest.mark.parametrize("policy", ["int16", "int16_lanes8", "int16_block", "pair_saturating"])
def test_settled_networks_run_without_an_event_on_the_settle_set(policy):
    model = quantized(trained(Classifier()))
    for layer in layers(model).values():
        layer.accumulator = NAMED[policy].with_bits(12)
    settle(model, lambda: [images()], SettleConfig())
    run = Reference(lower(model)).run(images().numpy())
    assert not any(events.any() for events in run.events.values())
    assert np.array_equal(run.outputs[0], outputs_of(model, images())[0])


def test_overflow_does_damage_and_is_reported_per_image():
    model = quantized(trained(Classifier()))
    for layer in layers(model).values():
        layer.accumulator = Accumulator(bits=12)
    simulation = Simulation(model)
    integer = CheckedEngine(lower(model), simulation, "fast", threads=2)
    x = images(6)
    assert torch.equal(simulation(x), model(x))
    damaged = integer(x)
    integer.check()  # images with events may differ, the others may not
    first = next(iter(simulation.events))
    assert len(simulation.digests) == 6 and simulation.affected()
    assert not torch.equal(damaged, model(x)) and set(integer.different) <= set(simulation.affected())
    assert simulation.totals()[first] == count_overflow(model, [x])[first].total()


@pytest.mark.parametrize(
    "accumulator, message",
    [
        (NAMED["int32"], "4 images without overflow differ"),
        (Accumulator(bits=12), "differ from the simulation"),  # in an exact mode overflow excuses no difference
    ],
)
def test_a_difference_without_an_event_is_an_error(accumulator, message):
    model = quantized(trained(Classifier()))
    for layer in layers(model).values():
        layer.accumulator = accumulator
    graph = lower(model)
    with torch.no_grad():
        layers(model)["head"].bias.add_(1.0)
    simulation = Simulation(model)
    integer = CheckedEngine(graph, simulation, "certified", threads=1)
    simulation(images()), integer(images())
    with pytest.raises(InputError, match=message):
        integer.check()


def test_the_engine_has_to_see_the_images_of_the_simulation():
    model = quantized(trained(Classifier()))
    simulation = Simulation(model)
    integer = CheckedEngine(lower(model), simulation, "fast", threads=1)
    simulation(images(4)), integer(images(3))
    with pytest.raises(InputError, match="seen 3 images, expected the 4 simulated"):
        integer.check()


def test_float_layers_cannot_be_lowered():
    model = quantized(trained(Classifier()), overrides={"mine": Override("head", skip=True)})
    with pytest.raises(InputError, match="head: left in float"):
        lower(model)


@pytest.mark.parametrize("requantization", REQUANTIZATIONS)
def test_a_sum_beyond_float32_is_still_exact(requantization):
    """K = 2048 products of the largest codes pass 2^24, where float32 loses units."""
    layer = nn.Sequential(nn.Conv2d(2048, 2, 1), nn.ReLU())
    nn.init.uniform_(layer[0].weight, 0.9, 1.0)
    x = torch.rand(2, 2048, 3, 3, generator=torch.Generator().manual_seed(0))
    model = quantized(layer, accumulator="int32", batches=[x], requantization=requantization)
    run = Reference(lower(model)).run(x.numpy())
    assert np.array_equal(run.outputs[0], outputs_of(model, x)[0])
