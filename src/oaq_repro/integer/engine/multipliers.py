"""What takes sums to codes, as the program has it: multipliers of one requantization (csrc/kernels.hpp)."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from oaq_repro import _kernels
from oaq_repro.fixed_point import dyadic, fixed16
from oaq_repro.integer.graph.arithmetic import Array
from oaq_repro.integer.graph.nodes import Add, Layer, QParams, RoundingNode


def of_layer(layer: Layer, source: QParams, channels: slice, length: int) -> Any:
    """Those of these output channels, with as many behind them as make `length`."""
    missing = (0, length - len(layer.bias[channels]))
    if layer.requantization == "float32":
        return _kernels.Multipliers.float32(np.pad(layer.multiplier[channels], missing))
    ratio = layer.ratio(source)[channels]
    if layer.requantization == "fixed16":
        return _kernels.Multipliers.fixed16(_int32(np.pad(fixed16(ratio), missing)))
    multiplier, shift = dyadic(ratio)
    return _kernels.Multipliers.dyadic(_int32(np.pad(multiplier, missing)), _int32(np.pad(shift, missing, mode="edge")))


def of_values(node: RoundingNode, real: Array, ratio: Array) -> Any:
    """Those of a node without weights, float32 [n] of float32 and float64 [n] of the others, which are all dyadic."""
    if node.requantization == "float32":
        return _kernels.Multipliers.float32(np.atleast_1d(real))
    multiplier, shift = dyadic(np.atleast_1d(ratio))
    return _kernels.Multipliers.dyadic(_int32(multiplier), _int32(shift))


def of_sum(node: Add, sources: Sequence[QParams]) -> Any:
    """Those of two values; of float32 their scales and the sum's."""
    if node.requantization == "float32":
        return _kernels.Multipliers.float32(np.array([q.scale for q in (*sources, node.output)], np.float32))
    multipliers, shift = node.terms(sources)
    made = _kernels.Multipliers.fixed16 if node.requantization == "fixed16" else _kernels.Multipliers.dyadic
    return made(_int32(multipliers), np.full(len(multipliers), shift, np.int32))


def largest_values(layer: Layer, source: QParams, sums: Array) -> Array:
    """Values, float64 [O], that sums of these magnitudes are scaled to before they are clamped."""
    if layer.requantization == "float32":
        return np.asarray(sums * layer.multiplier.astype(np.float64))
    if layer.requantization == "fixed16":
        return np.minimum(sums, 1 << 15) * layer.ratio(source)
    multiplier, shift = dyadic(layer.ratio(source))
    return np.asarray(sums * np.ldexp(multiplier.astype(np.float64), -shift))


def _int32(values: Array) -> Array:
    return values.astype(np.int32)
