"""Times of nodes, their shares and rates."""

import numpy as np
import pytest
from oracles.random_graphs import random_graph, random_images
from oracles.reference import small_network

from oaq_repro import _kernels
from oaq_repro.errors import InputError
from oaq_repro.integer.engine import Engine
from oaq_repro.integer.engine.node_times import clock_hz, node_times, table
from oaq_repro.integer.engine.sums import MODES
from oaq_repro.integer.graph.nodes import Layer


@pytest.mark.parametrize("threads", [1, 2])
def test_rates_follow_from_times(threads, monkeypatch):
    case = small_network()
    engine = Engine(case.graph, (3, 16, 12), threads)
    seconds = {node.name: 1e-3 * (i + 1) for i, node in enumerate(case.graph.nodes)}
    monkeypatch.setattr(engine, "profile", lambda image, repeats: seconds)
    times = node_times(engine, case.images[0], 3, clock=2e9)
    assert [time.name for time in times] == list(seconds)
    assert sum(time.share for time in times) == pytest.approx(1)
    by_name = {time.name: time for time in times}
    dilated = by_name["dilated"]  # 6 outputs, 4 of 8 inputs each, 3x3, 4x3 pixels
    assert dilated.macs == 6 * 4 * 9 * 4 * 3 and dilated.operator == "Conv" and dilated.route.startswith("dense, ")
    assert dilated.mac_per_ns == pytest.approx(1e-9 * dilated.macs / dilated.seconds)
    assert dilated.mac_per_cycle == pytest.approx(dilated.macs / (dilated.seconds * 2e9 * threads))
    assert by_name["classifier"].macs == 5 * 22
    assert (by_name["add"].macs, by_name["add"].route, by_name["add"].mac_per_cycle) == (0, "", 0.0)


def test_every_graph_has_times_of_every_node():
    for seed in range(30):
        graph, shape = random_graph(seed)
        engine = Engine(graph, shape, 1 + seed % 2, MODES[seed % 4])
        times = node_times(engine, random_images(np.random.default_rng(seed), 1, shape)[0], 2, 1e9)
        assert [time.name for time in times] == [node.name for node in graph.nodes]
        assert {time.name for time in times if time.route} == {layer.name for layer in graph.layers()}
        text = table(times, 1e9, engine.threads).splitlines()
        assert len(text) == len(times) + 3 and "100.0 %" in text[-2]


def test_products_are_counted_with_the_kernel():
    graph, shapes = small_network().graph, small_network().graph.shapes((3, 16, 12))
    found = {node.name: node.products(shapes[node.name]) for node in graph.nodes if isinstance(node, Layer)}
    assert found["stem"] == 8 * 3 * 9 * 8 * 6 and found["depthwise"] == 8 * 9 * 8 * 6 and found["classifier"] == 110


def test_bad_images_are_refused():
    case = small_network()
    with pytest.raises(InputError, match="image: found"):
        node_times(Engine(case.graph, (3, 16, 12)), case.images, 1, 1e9)


def test_the_clock_is_the_fastest_that_was_measured(monkeypatch):
    found = iter([1e9, 3e9, 2e9] + [1e9] * 100)
    monkeypatch.setattr(_kernels, "clock_hz", lambda: next(found))
    assert clock_hz() == 3e9


def test_the_clock_is_one_that_processors_have():
    """Not that of additions which the processor joins."""
    assert 0 < _kernels.clock_hz() < 10e9
