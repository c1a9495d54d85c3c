import math

import pytest
import torch
from quant.networks import Classifier, images, quantized, trained

from oaq_repro.deploy import checked_engine as network
from oaq_repro.deploy.checked_engine import CheckedEngine, Simulation
from oaq_repro.deploy.lower import lower
from oaq_repro.deploy.record_sections import cost_section, layer_rows
from oaq_repro.quant.network import layers


def test_rows_are_those_of_the_engines_that_evaluated(monkeypatch):
    compiled = []

    class Counted(network.Engine):
        def __init__(self, graph, shape, threads, mode):
            super().__init__(graph, shape, threads, mode)
            compiled.append((shape, mode))

    monkeypatch.setattr(network, "Engine", Counted)
    model = quantized(trained(Classifier()), accumulator="int16")
    graph, x = lower(model), images(4)
    simulation = Simulation(model)
    fast, certified = (CheckedEngine(graph, simulation, mode, threads=2) for mode in ("fast", "certified"))
    for dense in (simulation, fast, certified):
        dense(x)
    shape = list(x.shape[1:])
    rows = layer_rows(fast, certified, shape)
    assert compiled == [(tuple(shape), "fast"), (tuple(shape), "certified")]
    assert [row["name"] for row in rows] == [layer.name for layer in graph.layers()]
    for row, route, sure in zip(rows, fast.engine(shape).routes, certified.engine(shape).routes, strict=True):
        assert (row["name"], row["route"]) == (route.name, f"{route.registers}, {route.claim}")
        assert (row["name"], row["route_certified"]) == (sure.name, sure.registers)
        assert row["overflow_seen"] == simulation.totals()[row["name"]]
        assert row["outputs"] == simulation.outputs[row["name"]] > 0
        assert row["bits_input"] == 8
    for row, layer in zip(rows, graph.layers(), strict=True):
        assert row["levels_weight"] == len({int(code) for code in layer.weight.flat})


def test_cost_is_that_of_the_integer_graph():
    model = quantized(trained(Classifier()))
    graph = lower(model)
    shapes = graph.shapes((3, 16, 16))
    cost = cost_section(model, (3, 16, 16))
    codes = [code for layer in graph.layers() for code in layer.weight.flat]
    assert cost["macs"] == sum(layer.products(shapes[layer.name]) for layer in graph.layers())
    assert cost["weight_bytes"] == len(codes)
    assert cost["density"] == pytest.approx(sum(code != 0 for code in codes) / len(codes))
    assert cost["bops"] == 64 * cost["macs"]


def rows_of(model):
    graph = lower(model)
    simulation = Simulation(model)
    fast, certified = (CheckedEngine(graph, simulation, mode, threads=1) for mode in ("fast", "certified"))
    for dense in (simulation, fast, certified):
        dense(images())
    return layer_rows(fast, certified, (3, 16, 16))


@pytest.mark.parametrize("granularity", ["channel", "tensor"])
def test_alpha_and_bits_of_weights_are_mean_and_range(granularity):
    model = quantized(trained(Classifier()), granularity=granularity)
    alpha = layers(model)["expand.0"].weight_quantizer.alpha
    alpha.copy_(torch.arange(16) / 4 + 1 if granularity == "channel" else torch.full((16,), 2.0))
    row = next(r for r in rows_of(model) if r["name"] == "expand.0")
    if granularity == "tensor":
        assert row["alpha_weight"] == 2.0 and row["bits_weight"] == math.log2(2 * 64 + 1)
        assert not {key for key in row if key.endswith(("_min", "_max"))}
        return
    assert (row["alpha_weight"], row["alpha_weight_min"], row["alpha_weight_max"]) == (2.875, 1.0, 4.75)
    bits = [math.log2(2 * round(127 / a) + 1) for a in alpha.tolist()]
    assert row["bits_weight"] == pytest.approx(sum(bits) / 16)
    assert (row["bits_weight_min"], row["bits_weight_max"]) == pytest.approx((min(bits), max(bits)))


def test_rows_say_how_sums_become_codes():
    model = quantized(trained(Classifier()), requantization="float32")
    assert {(row["requantization"], row["requantization_reason"]) for row in rows_of(model)} == {("float32", None)}
