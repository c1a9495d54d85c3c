"""Dense and depthwise layers as one step by rows: the same codes as the reference's, whatever the strips."""

from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.reference import conv, q
from oracles.requantization import requantized

from oaq_repro import _kernels
from oaq_repro.accumulator import NAMED
from oaq_repro.integer.engine import Engine, by_rows
from oaq_repro.integer.engine.node_times import node_times, table
from oaq_repro.integer.engine.sums import MODES
from oaq_repro.integer.graph import Dequantize, Elementwise, Graph, Quantize
from oaq_repro.integer.reference import Reference
from oaq_repro.requantization import REQUANTIZATIONS

ISAS = [row["isa"] for row in _kernels.table() if row["available"]]
IMAGE, MIDDLE, RESULT = q(0.5, 20), q(0.5, 3), q(0.25, 60)


def network(rng, inputs=5, channels=40, lookup=False, other_reader=False, first=None, second=None) -> Graph:
    """Quantize, a dense layer, perhaps a lookup, a depthwise layer, dequantize."""
    first = {"kernel": (1, 1), "groups": 1} | (first or {})
    second = {"kernel": (3, 3), "padding": (1, 1), "groups": channels} | (second or {})
    shapes = (channels, inputs // first["groups"], *first.pop("kernel")), (channels, 1, *second.pop("kernel"))
    weights = [rng.integers(-127, 128, shape, np.int8) for shape in shapes]
    biases = [rng.integers(-500, 500, channels) for _ in shapes]
    made = "table" if lookup else "dense"
    nodes = [
        Quantize("x", ("image",), IMAGE),
        conv("dense", "x", IMAGE, MIDDLE, weights[0], biases[0], accumulator=NAMED["int16"], **first),
        *([Elementwise("table", ("dense",), MIDDLE, np.arange(255, -1, -1, np.uint8))] if lookup else []),
        conv("depthwise", made, MIDDLE, RESULT, weights[1], biases[1], accumulator=NAMED["int16"], **second),
        Dequantize("y", ("depthwise",)),
        *([Dequantize("z", (made,))] if other_reader else []),
    ]
    return Graph("image", tuple(nodes), ("y", "z") if other_reader else ("y",))


def compared(graph: Graph, shape, rng, mode="fast", threads=1, isa=None, buffer=0) -> Engine:
    """The engine with strips wherever there can be one, which must compute what the reference does."""
    images = rng.normal(0, 30, (2, *shape)).astype(np.float32)
    with mock.patch.multiple(by_rows, SMALLEST=0, BUFFER=buffer):
        engine = Engine(graph, shape, threads, mode, isa=isa)
    oracle = Reference(graph if mode == "fast" else graph.with_accumulator(NAMED["int32"]))
    for _ in range(2):  # what one run leaves in the buffers must not reach the next
        for found, expected in zip(engine.run(images), oracle.run(images).outputs, strict=True):
            np.testing.assert_array_equal(found, expected)
    return engine


@st.composite
def geometries(draw):
    kernel = draw(st.sampled_from([(3, 3), (5, 5), (1, 3), (4, 2), (1, 1)]))
    dilation = draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    return {
        "kernel": kernel,
        "stride": draw(st.tuples(st.integers(1, 3), st.integers(1, 3))),
        "padding": tuple(draw(st.integers(0, 3)) for _ in range(draw(st.sampled_from([2, 4])))),
        "dilation": dilation,
    }


@settings(deadline=None, max_examples=80)
@given(
    seed=st.integers(0, 10**6), second=geometries(), size=st.tuples(st.integers(9, 20), st.integers(9, 20)),
    channels=st.sampled_from([16, 32, 40, 72]), lookup=st.booleans(), threads=st.integers(1, 3),
    mode=st.sampled_from(MODES), isa=st.sampled_from(ISAS), requantization=st.sampled_from(REQUANTIZATIONS),
    buffer=st.sampled_from([0, 2000, 8000, 10**6]),
)  # fmt: skip
def test_any_geometry(seed, second, size, channels, lookup, threads, mode, isa, requantization, buffer):
    rng = np.random.default_rng(seed)
    graph = requantized(network(rng, channels=channels, lookup=lookup, second=second), requantization)
    engine = compared(graph, (5, *size), rng, mode, threads, isa, buffer)
    assert [route.step for route in engine.routes] == ["depthwise", "depthwise"]


@pytest.mark.parametrize("first", [
    {"kernel": (3, 3), "stride": (2, 2), "padding": (0, 0, 1, 1)}, {"kernel": (3, 3), "padding": (1, 1), "groups": 4},
])  # fmt: skip
@pytest.mark.parametrize("mode", MODES)
def test_any_dense_layer(first, mode):
    rng = np.random.default_rng(1)
    engine = compared(network(rng, inputs=8, first=first), (8, 21, 18), rng, mode, threads=2, buffer=3000)
    assert engine.routes[0].step == "depthwise"


@pytest.mark.parametrize("options", [
    {"other_reader": True}, {"second": {"groups": 8}}, {"first": {"groups": 40}, "inputs": 40},
])  # fmt: skip
def test_other_layers_have_steps_of_their_own(options):
    rng = np.random.default_rng(2)
    if options.get("second"):  # eight groups are no depthwise layer
        graph = network(rng, second={"kernel": (3, 3), "groups": 40})
        layer = graph.nodes[2]
        weight = np.repeat(layer.weight, 5, axis=1)
        changed = conv("depthwise", "dense", MIDDLE, RESULT, weight, layer.bias, padding=(1, 1), groups=8)
        graph = Graph("image", (*graph.nodes[:2], changed, graph.nodes[3]), ("y",))
    else:
        graph = network(rng, **options)
    engine = compared(graph, (options.get("inputs", 5), 12, 12), rng)
    assert [route.step for route in engine.routes] == ["dense", "depthwise"]


def test_small_values_and_traced_ones_stay_whole():
    graph = network(np.random.default_rng(3))
    assert Engine(graph, (5, 12, 12)).routes[0].step == "dense"
    with mock.patch.object(by_rows, "SMALLEST", 0):
        assert Engine(graph, (5, 12, 12), trace=True).routes[0].step == "dense"


def test_strips_take_less_memory_and_a_step_has_the_products_of_both():
    rng = np.random.default_rng(4)
    graph, shape = network(rng, channels=32), (5, 60, 60)
    with mock.patch.object(by_rows, "SMALLEST", 1 << 20):
        whole = Engine(graph, shape)
    strips = compared(graph, shape, rng, "certified", buffer=10_000)
    assert strips.arena_bytes < 0.7 * whole.arena_bytes
    image = np.zeros(shape, np.float32)
    times = {time.name: time for time in node_times(strips, image, 1, 1e9)}
    assert times["dense"].macs == 0 and times["depthwise"].macs == 60 * 60 * 32 * (5 + 9)
    assert times["dense"].route.endswith("in the step of depthwise")
    assert "in the step of depthwise" in table(tuple(times.values()), 1e9, 1)
