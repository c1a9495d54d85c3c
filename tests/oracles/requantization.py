"""Integer requantization written a second time, in Python's integers and fractions; and graphs that have it."""

from dataclasses import replace
from fractions import Fraction
from math import floor

import numpy as np

from oaq_repro.integer import graph as ir

HALF = Fraction(1, 2)


def rounded(value) -> int:
    """To the nearest integer, half up."""
    return floor(Fraction(value) + HALF)


def dyadic(ratio, bits: int = 31) -> tuple[int, int]:
    """M and s: with the largest s of at most 2 * bits at which round(ratio * 2^s) has no more than `bits` bits."""
    for shift in range(2 * bits, 0, -1):
        multiplier = rounded(Fraction(ratio) * 2**shift)
        if multiplier < 2**bits:
            return multiplier, shift
    return 2**bits - 1, 1


def clamped(value: int, output: ir.QParams) -> int:
    return min(max(value + output.zero_point, 0), output.q_max)


def dyadic_code(y: int, ratio, output: ir.QParams) -> int:
    multiplier, shift = dyadic(ratio)
    return clamped(rounded(Fraction(y * multiplier, 2**shift)), output)


def fixed16_code(y: int, m: int, output: ir.QParams) -> int:
    return clamped(rounded(Fraction(min(max(y, -32768), 32767) * m, 32768)), output)


def product_ratio(a: ir.QParams | np.float32, b, output: ir.QParams) -> Fraction:
    """Of scales whose product is rounded to float32."""
    return Fraction(float(np.float64(np.float32(a) * np.float32(b)) / np.float64(output.scale)))


def requantized(graph: ir.Graph, requantization: str) -> ir.Graph:
    """A graph whose nodes round so. With fixed16, weight scales become those that can have it and biases have 16 bits;
    layers that cannot take dyadic."""
    nodes = []
    for node in graph.nodes:
        if isinstance(node, ir.Layer) and requantization == "fixed16":
            node = _snapped(node, graph.qparams(node.inputs[0]))
        elif isinstance(node, ir.RoundingNode):
            node = replace(node, requantization=requantization)
        nodes.append(node)
    return replace(graph, nodes=tuple(nodes))


def _snapped(layer: ir.Layer, source: ir.QParams) -> ir.Layer:
    unit = float(layer.output.scale) / float(source.scale) / 2**15
    m = np.maximum(np.ceil(layer.weight_scale / unit), 1)
    if m.max() > 2**15 - 1:
        return replace(layer, requantization="dyadic")
    scale = (m * unit).astype(np.float32)
    return replace(
        layer,
        weight_scale=scale,
        multiplier=source.scale * scale / layer.output.scale,
        bias=layer.bias.clip(-(2**15), 2**15 - 1),
        requantization="fixed16",
    )
