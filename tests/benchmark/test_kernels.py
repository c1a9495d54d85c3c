"""Shapes, and graphs that make the engine choose the route to time."""

import numpy as np
import pytest

from oaq_repro.accumulator import NAMED
from oaq_repro.benchmark.kernels import (
    ROUTES,
    ConvShape,
    conv_shapes,
    engine_for,
    kind_of,
    measure_kernels,
    shapes_of,
    single_layer,
)
from oaq_repro.integer.engine.sums import EXACT, WHOLE, folded
from oaq_repro.integer.reference import Reference

DENSE = ConvShape(64, 7, 6, 32, (1, 1), (1, 1), (0, 0, 0, 0), (1, 1), 1)
WIDE = ConvShape(16, 9, 9, 20, (3, 3), (2, 2), (1, 1, 1, 1), (1, 1), 1)
DEPTHWISE = ConvShape(40, 9, 8, 40, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 40)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("shape", [DENSE, WIDE, DEPTHWISE])
def test_the_engine_takes_the_wanted_route(shape, route):
    engine = engine_for(shape, route, 1)
    if engine is None:  # longer sums than the layer has
        longest = {DENSE: 16, WIDE: 8, DEPTHWISE: 4}[shape]
        assert route.startswith("fold") and int(route.split()[1]) > longest
        return
    sums = {"16 bit": WHOLE, "exact": EXACT}.get(route)
    assert set(engine.routes[0].sums) == {folded(int(route.split()[1])) if sums is None else sums}
    rng = np.random.default_rng(0)
    image = rng.integers(0, 3, (1, shape.channels, shape.height, shape.width)).astype(np.float32)
    reference = Reference(engine.graph.with_accumulator(NAMED["int32"])).run(image).outputs[0]
    np.testing.assert_array_equal(engine.run(image)[0], reference)


@pytest.mark.parametrize("shape", [DENSE, WIDE, DEPTHWISE])
def test_shapes_are_found_again_and_named(shape):
    assert conv_shapes(single_layer(shape, 3), (shape.channels, shape.height, shape.width)) == {shape}
    assert kind_of(shape.name) == shape.kind
    assert len({one.name for one in (DENSE, WIDE, DEPTHWISE)}) == 3


def test_products():
    graph = single_layer(DEPTHWISE, 1)
    assert graph.layers()[0].products((40, 9, 8)) == 40 * 9 * 9 * 8


def test_rows(tiny, tmp_path):
    shapes = shapes_of([tiny], tmp_path)
    assert {shape.kind for shape in shapes} == {"1x1", "3x3", "depthwise 3x3"}
    rounds: list[int] = []
    (group,) = measure_kernels([DENSE], [1], 2, 3e9, lambda: rounds.append(1))
    assert [row.variant for row in group] == list(ROUTES) and len(rounds) == 2
    assert all(row.median_ms > 0 and row.mac_per_cycle > 0 and row.rounds == 2 for row in group)
    assert group[0].ratio_to_fast == 1.0
