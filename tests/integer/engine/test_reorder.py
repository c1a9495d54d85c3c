"""Reordered graphs: equal results, longer certified sums where channels can be dealt better."""

from dataclasses import replace

import numpy as np
import pytest
from oracles.random_graphs import random_graph, random_images
from oracles.reference import around, conv

from oaq_repro.accumulator import NAMED
from oaq_repro.integer.certificate import certify
from oaq_repro.integer.engine import Engine
from oaq_repro.integer.engine.reorder import _Search, reorder
from oaq_repro.integer.engine.routes import InstructionSet
from oaq_repro.integer.engine.sums import MODES, Permits
from oaq_repro.integer.graph import Conv, Dequantize, Flatten, GlobalAvgPool, Graph, Linear, QParams, Quantize
from oaq_repro.integer.reference import Reference

INT32 = NAMED["int32"]
ONE = np.float32(1)
KERNELS = InstructionSet.selected("portable")


def uneven(hidden: int = 64, readers: int = 32) -> Graph:
    """A reader whose heavy channels stand side by side, behind a producer, a depthwise layer and its own reader."""
    rng = np.random.default_rng(0)
    q = QParams(np.float32(0.5), 0, 100)

    def conv(name, source, weight, **fields):
        outputs = len(weight)
        scale = np.full(outputs, 2.0**-8, np.float32)
        geometry = {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1), "groups": 1, **fields}
        bias = rng.integers(-99, 99, outputs).astype(np.int32)
        return Conv(name, (source,), q, weight.astype(np.int8), bias, scale, scale, accumulator=INT32, **geometry)

    heavy = np.where(np.arange(hidden) < hidden // 4, 100, 6)
    weight = rng.integers(0, heavy[None, :] + 1, (readers, hidden))[..., None, None]
    head = rng.integers(-60, 61, (10, readers)).astype(np.int8)
    scale = np.full(10, 2.0**-8, np.float32)
    nodes = (
        Quantize("x", ("image",), q),
        conv("expand", "x", rng.integers(-50, 51, (hidden, 3, 1, 1))),
        conv("depthwise", "expand", rng.integers(-50, 51, (hidden, 1, 3, 3)), groups=hidden, padding=(1, 1)),
        conv("project", "depthwise", weight),
        GlobalAvgPool("pool", ("project",), q, True),
        Flatten("flat", ("pool",), q),
        Linear("head", ("flat",), q, head, np.zeros(10, np.int32), scale, scale, accumulator=INT32),
        Dequantize("y", ("head",)),
    )
    return Graph("image", nodes, ("y",))


def test_random_graphs_keep_their_results():
    changed = 0
    for seed in range(150):
        graph, shape = random_graph(seed)
        again = reorder(graph, graph.shapes(shape), Permits.of("certified"), KERNELS).graph
        again.validate()
        changed += any(
            not np.array_equal(a.weight, b.weight) for a, b in zip(graph.layers(), again.layers(), strict=True)
        )
        images = random_images(np.random.default_rng(seed), 2, shape)
        before, after = (Reference(g.with_accumulator(INT32)).run(images).outputs for g in (graph, again))
        for a, b in zip(before, after, strict=True):
            np.testing.assert_array_equal(a, b)
    assert changed > 0


def test_heavy_channels_are_dealt_to_different_blocks():
    graph = uneven()
    shape = (3, 6, 6)
    again = reorder(graph, graph.shapes(shape), Permits.of("certified"), KERNELS).graph
    check_equal(graph, again, shape)
    folds = {
        name: [route.fold for route in Engine(g, shape, mode="fast", isa="portable", trace=True).routes[2].sums]
        for name, g in (("as is", graph), ("dealt", again))
    }
    assert min(folds["dealt"]) > max(folds["as is"])


def chain(*weights, accumulator=INT32, q_max=100) -> Graph:
    """1x1 convolutions one after the other, all values at one scale."""
    q = QParams(np.float32(0.5), 0, q_max)
    geometry = {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1), "groups": 1}
    nodes, source = [Quantize("x", ("image",), q)], "x"
    for index, weight in enumerate(weights):
        scale, bias = np.full(len(weight), 2.0**-8, np.float32), np.zeros(len(weight), np.int32)
        weight = weight[..., None, None].astype(np.int8)
        name = f"conv{index}"
        nodes.append(Conv(name, (source,), q, weight, bias, scale, scale, accumulator=accumulator, **geometry))
        source = name
    return Graph("image", (*nodes, Dequantize("y", (source,))), ("y",))


def check_equal(graph, again, shape):
    images = np.random.default_rng(1).normal(scale=20, size=(2, *shape)).astype(np.float32)
    for a, b in zip(Reference(graph).run(images).outputs, Reference(again).run(images).outputs, strict=True):
        np.testing.assert_array_equal(a, b)


def test_channels_of_short_sums_stand_in_few_panels():
    rng = np.random.default_rng(0)
    heavy = np.where(np.arange(64) % 16 == 3, 120, 20)  # one in every panel
    writer = rng.integers(0, heavy[:, None] + 1, (64, 48))
    graph = chain(rng.integers(-20, 21, (48, 3)), writer, rng.integers(-9, 10, (16, 64)))
    shape = (3, 6, 6)
    again = reorder(graph, graph.shapes(shape), Permits.of("certified"), KERNELS).graph
    check_equal(graph, again, shape)
    before, after = (Engine(g, shape, mode="fast", isa="portable", trace=True).routes[1].sums for g in (graph, again))
    assert max(route.fold for route in before) <= 2
    assert sorted(route.fold for route in after)[1:] == [16, 16, 16]


@pytest.mark.parametrize("name", ["int16", "int32", "int16_lanes8"])
def test_pairs_that_could_saturate_are_parted_but_sums_that_depend_on_the_order_stay(name):
    rng = np.random.default_rng(0)
    reader = np.where(np.arange(64) % 8 < 2, 120, rng.integers(-20, 21, (16, 64)))  # 0, 1; 8, 9; ...
    graph = chain(rng.integers(-20, 21, (64, 3)), reader, accumulator=NAMED[name], q_max=200)
    shape = (3, 6, 6)
    for mode in MODES:
        again = reorder(graph, graph.shapes(shape), Permits.of(mode), KERNELS).graph
        changed = not np.array_equal(again.node("conv1").weight, graph.node("conv1").weight)
        assert changed == (mode != "exact" and (mode, name) != ("fast", "int16_lanes8"))
        if mode == "fast":
            check_equal(graph, again, shape)


def test_channels_are_exchanged_until_fewer_pairs_have_to_be_taken_apart(monkeypatch):
    rng = np.random.default_rng(0)
    weights = np.where(rng.random((64, 24)) < 0.04, 110, rng.integers(-40, 41, (64, 24)))
    graph = chain(rng.integers(-20, 21, (24, 3)), weights, accumulator=NAMED["int16"], q_max=255)
    shape, kernels, permits = (3, 6, 6), replace(KERNELS, saturates=True), Permits.of("fast")
    exchanged = reorder(graph, graph.shapes(shape), permits, kernels)
    check_equal(graph, exchanged.graph, shape)
    monkeypatch.setattr(_Search, "_exchanged", lambda self, order: None)
    dealt = reorder(graph, graph.shapes(shape), permits, kernels)
    costs = [found.folds["conv1"].costs().mean() for found in (dealt, exchanged)]
    assert costs[0] > 1.2 and costs[1] < 1.15


def test_the_image_and_outputs_keep_their_order():
    graph = uneven()
    again = reorder(graph, graph.shapes((3, 6, 6)), Permits.of("certified"), KERNELS).graph
    np.testing.assert_array_equal(
        np.sort(again.node("head").weight, axis=1), np.sort(graph.node("head").weight, axis=1)
    )
    assert [len(set(map(bytes, g.node("expand").weight))) for g in (graph, again)][0] > 1
    for before, after in zip(graph.node("expand").weight, again.node("expand").weight, strict=True):
        assert before.shape == after.shape  # input channels of the image are not touched
    np.testing.assert_array_equal(
        np.sort(graph.node("expand").weight.reshape(64, -1), axis=0),
        np.sort(again.node("expand").weight.reshape(64, -1), axis=0),
    )


@pytest.mark.parametrize("hidden", [3, 4, 5])
def test_few_channels_are_left_alone(hidden):
    graph = uneven(hidden)
    again = reorder(graph, graph.shapes((3, 6, 6)), Permits.of("certified"), KERNELS).graph
    for a, b in zip(graph.layers()[:3], again.layers()[:3], strict=True):
        np.testing.assert_array_equal(a.weight, b.weight)


@pytest.mark.parametrize("policy", ["int16_lanes8", "pair_saturating", "int16_block"])
def test_sums_that_are_exact_in_the_given_order_stay_so(policy):
    """No input overflows a lane or block of the graph's order; those of another order could."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        weight = np.abs(np.clip(np.round(rng.normal(0, 25, (32, 64, 1, 1))), -127, 127)) * np.resize(
            [1, -1], (64, 1, 1)
        )
        accumulator, q_max = NAMED[policy], 255
        while certify(layer := reading(weight, accumulator), QParams(ONE, 0, q_max)).worst_case > 1:
            q_max -= 1
        q = QParams(ONE, 0, q_max)
        copy = conv("copy", "x", q, q, np.eye(64)[:, :, None, None], weight_scale=np.ones(64))
        graph = around(copy, layer, source=q)
        ends = np.concatenate([weight > 0, weight < 0]).astype(np.float32) * q_max  # of all sums at once
        images = np.ascontiguousarray(np.tile(ends, (1, 1, 2, 2)))
        engine = Engine(graph, (64, 2, 2), mode="fast")
        assert {route.kind for route in engine.routes} == {"dense"}
        np.testing.assert_array_equal(engine.run(images)[0], Reference(graph).run(images).outputs[0])


def reading(weight, accumulator):
    q = QParams(ONE, 100, 255)
    return conv("layer", "copy", q, q, weight, weight_scale=np.full(32, 2.0**-9), accumulator=accumulator)
