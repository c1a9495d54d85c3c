"""The engine's epilogues at the ends of what they take, against the reference."""

from dataclasses import replace

import numpy as np
import pytest
from integer.engine.test_engine import ISAS, check, codes_to_images, single
from oracles.random_graphs import random_images
from oracles.reference import around, q
from oracles.requantization import requantized

from oaq_repro import _kernels
from oaq_repro.accumulator import NAMED, Accumulator
from oaq_repro.integer import graph as ir
from oaq_repro.integer.engine import Engine
from oaq_repro.integer.engine.sums import MODES, WHOLE
from oaq_repro.integer.reference import Reference

INTEGERS = ("dyadic", "fixed16")
HALF = 2**15


def layer_graph(requantization, m, bias, groups=1, accumulator="int16", zero_point=3):
    """A 3x3 convolution of 35 outputs whose sums overflow 16 bits; m / 2^15 of every output takes them to codes."""
    rng = np.random.default_rng(0)
    weight = rng.integers(-90, 91, (35, 35 // groups, 3, 3))
    graph = single(weight, 150, 9, NAMED[accumulator], padding=(1, 1), groups=groups, multiplier=1 / 64)
    m = np.resize(m, 35)
    scale = (m / HALF).astype(np.float32)
    layer = replace(
        graph.nodes[1], bias=np.resize(bias, 35).astype(np.int32), weight_scale=scale, multiplier=scale,
        requantization=requantization, output=replace(graph.nodes[1].output, zero_point=zero_point),
    )  # fmt: skip
    graph = replace(graph, nodes=(graph.nodes[0], layer, graph.nodes[2]))
    return graph, codes_to_images(rng.choice([0, 150, 150, 75], (2, 35, 9, 7)), graph)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("groups", [1, 35])
@pytest.mark.parametrize("requantization", INTEGERS)
def test_sums_that_overflow_and_biases_that_saturate(requantization, groups, mode, isa):
    graph, images = layer_graph(requantization, [1, 40, 300, HALF - 1], [0, 32767, -32768, 14000], groups)
    engine = check(graph, images, mode, isa)
    if mode == "fast":
        assert set(engine.routes[0].sums) == {WHOLE}
        assert Reference(graph).run(images).events["layer"].sum() > (0 if groups == 35 else 1000)
    assert engine.routes[0].requantization == requantization and f" {requantization} " in engine.explain()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("groups", [1, 35])
@pytest.mark.parametrize("bits", [9, 12, 14, 16, 17, 24])
@pytest.mark.parametrize("requantization", INTEGERS)
def test_sums_of_other_widths(requantization, bits, groups, isa):
    graph, images = layer_graph(requantization, [40, 300, 1, 2000], [0, 9000, -9000], groups)
    check(graph.with_accumulator(Accumulator(bits=bits)), images, "fast", isa)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("ratio", [2.0**-40, 2.0**-31, 0.4999999, 0.5, 0.75, 1.0, 3.0, 200.0, 2.0**20, 2.0**35])
def test_dyadic_ratios_of_all_sizes(ratio, isa):
    """Large ones take values out of 32 bits: what the kernels do not have is emulated."""
    rng = np.random.default_rng(1)
    graph = single(rng.integers(-9, 10, (20, 5, 1, 1)), 255, 100, NAMED["int16"], multiplier=ratio)
    graph = requantized(graph, "dyadic")
    images = codes_to_images(rng.integers(0, 256, (1, 5, 6, 6)), graph)
    for mode in MODES:
        engine = check(graph, images, mode, isa)
    assert (engine.routes[0].kind == "reference") == (ratio > 2.0**19)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("requantization", INTEGERS)
def test_values_without_weights(requantization, isa):
    """Sums, products and averages at scales that are alike, far apart, and so large or small that all is clamped."""
    rng = np.random.default_rng(2)
    fields = {"requantization": requantization}
    for s_a, s_b, s_out in ((1, 1, 2), (1, 1e-4, 1), (3, 2.9, 0.7), (2.0**30, 1, 2.0**-20), (2.0**-40, 2.0**-44, 1)):
        a, b, output = q(s_a, 17, 255), q(s_b, 200, 255), q(s_out, 90, 201)
        nodes = (
            ir.Elementwise("b", ("x",), b, rng.permutation(256).astype(np.uint8)),
            ir.Add("sum", ("x", "b"), output, **fields),
            ir.Multiply("product", ("x", "b"), output, **fields),
            ir.GlobalAvgPool("pixel", ("b",), b, True, **fields),
            ir.Multiply("scaled", ("x", "pixel"), output, **fields),
            ir.AvgPool("mean", ("x",), output, (3, 2), (1, 2), (1, 1, 1, 0), False, **fields),
            ir.Resize("resized", ("x",), a, False, (7, 3, 5, 2), **fields),
        )
        graph = around(*nodes, source=a, outputs=tuple(node.name for node in nodes))
        images = random_images(rng, 1, (11, 9, 6)) * np.float32(70 * s_a)
        check(graph, images, "fast", isa, trace=True)
        check(graph, images, "certified", isa, threads=2)


def test_constants_that_kernels_cannot_take():
    ones = np.ones(4, np.int32)
    for multiplier, shift in ((-ones, ones), (ones, 0 * ones), (ones, 63 * ones), (ones, ones[:3])):
        with pytest.raises(ValueError, match="expected"):
            _kernels.Multipliers.dyadic(multiplier, shift)
    for arguments in ((-ones,), (HALF * ones,), (ones, 31 * ones), (ones, ones[:3])):
        with pytest.raises(ValueError, match="expected"):
            _kernels.Multipliers.fixed16(*arguments)
    with pytest.raises(ValueError, match="bias: expected -32768 to 32767"):
        _kernels.LayerConstants(ones, HALF * ones, _kernels.Multipliers.fixed16(ones), 0, 0, 255, 0)
    with pytest.raises(ValueError, match="three arrays of one length"):
        _kernels.LayerConstants(ones, ones, _kernels.Multipliers.fixed16(ones[:3]), 0, 0, 255, 0)
    engine = Engine(single(np.full((3, 8, 1, 1), 64)), (8, 2, 2))
    program, value = engine._program, _kernels.Value(0, 1, 1, 4, 0, 0, 0)
    for method, kinds in ((program.add, ("float32", "dyadic", "fixed16")), (program.multiply, ("fixed16",))):
        for kind in kinds:
            made = _kernels.Multipliers.float32(ones.astype(np.float32)) if kind == "float32" else None
            made = made or getattr(_kernels.Multipliers, kind)(*[ones] * (1 + (kind == "dyadic")))
            with pytest.raises(ValueError, match="multiplier"):
                method(value, value, value, made, 0, 0, 0, 255)
