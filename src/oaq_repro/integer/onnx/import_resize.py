"""Resize of ONNX as nodes of an integer graph. Source: Resize in ONNX's Operators.md."""

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from oaq_repro.integer.graph import nodes as ir
from oaq_repro.integer.onnx.reader import OnnxNode
from oaq_repro.integer.onnx.values import Values
from oaq_repro.resampling import nearest_pixels

LINEAR = ("half_pixel", "pytorch_half_pixel", "align_corners")
NEAREST = {("asymmetric", "floor"): "floor", ("half_pixel", "round_prefer_floor"): "half_pixel"}
LARGEST_SIZE = 1 << 22  # of height or width


@dataclass(frozen=True)
class _Axis:
    """Height or width: sizes before and after, and the scale that places pixels."""

    before: int
    after: float
    scale: np.float32

    @property
    def size(self) -> int:
        """Whole pixels after."""
        return int(np.float32(self.before) * self.scale) if self.after != int(self.after) else int(self.after)


def resize(values: Values, node: OnnxNode, name: str, x: str) -> ir.Node:
    """The graph's node for a Resize of the value x in height and width; InputError for what has no integer form."""
    mode, place = node.attribute("mode", "nearest"), node.attribute("coordinate_transformation_mode", "half_pixel")
    rounding = node.attribute("nearest_mode", "round_prefer_floor")
    node.expect(antialias=0)
    node.input(1)  # the region of interest, for a placement that is refused here
    axes = _axes(values, node, x)
    if mode == "nearest":
        if (place, rounding) not in NEAREST:
            known = " or ".join(" with ".join(pair) for pair in NEAREST)
            raise node.error(f"found nearest, {place!r} with {rounding!r}, expected {known}")
        rule = NEAREST[place, rounding]
        if all(axis.size == axis.before for axis in axes):  # ONNX Runtime copies, whatever the scales are
            factor = [1, 1, 1, 1]
        else:
            factor = [part for axis in axes for part in _factor(node, axis, rule)]
        return ir.ResizeNearest(name, (x,), values.q[x], tuple(factor), rule)  # type: ignore[arg-type]
    if mode != "linear" or place not in LINEAR:
        raise node.error(f"found {mode!r} with {place!r}, expected nearest, or linear with {', '.join(LINEAR)}")
    if node.input(0) in values.codes:  # ONNX Runtime cuts fractions of codes off, ONNX says nothing
        raise node.error("found linear on codes, whose rounding ONNX does not define; expected it between "
                         "DequantizeLinear and QuantizeLinear (QDQ)")  # fmt: skip
    before, size = tuple(axis.before for axis in axes), tuple(axis.after for axis in axes)
    if place == "pytorch_half_pixel" and 1.0 in size and size != before:
        raise node.error("found pytorch_half_pixel and a size of 1, expected half_pixel")
    like = values.last_of_size.get(size)
    if like is not None:
        return ir.Resize(name, (x, like), values.q[x], place == "align_corners")
    if any(axis.after != axis.size for axis in axes) or not all(1 <= axis.size <= LARGEST_SIZE for axis in axes):
        raise node.error(f"found a size of {list(size)}, expected whole numbers from 1 to {LARGEST_SIZE}")
    parts = [Fraction(axis.size, axis.before).as_integer_ratio() for axis in axes]
    return ir.Resize(name, (x,), values.q[x], place == "align_corners", (*parts[0], *parts[1]))


def _axes(values: Values, node: OnnxNode, x: str) -> tuple[_Axis, _Axis]:
    """Height and width, where nothing else changes."""
    axes = tuple(axis + 4 * (axis < 0) for axis in node.attribute("axes", (0, 1, 2, 3)))
    if sorted(axes) not in ([0, 1, 2, 3], [2, 3]):
        raise node.error(f"axes: found {list(axes)}, expected all four, or height and width")
    shape = values.shape(x, node)
    if len(shape) != 3:
        raise node.error(f"found an input of shape {['N', *shape]}, expected [N, C, H, W]")
    scales, sizes = values.constant(node, 2), values.constant(node, 3)
    if node.input(3):
        if sizes is None or sizes.dtype != np.int64 or sizes.shape != (len(axes),) or not (sizes > 0).all():
            raise node.error(f"sizes {node.input(3)!r}: expected {len(axes)} constants int64 above 0")
        if node.input(2) and (scales is None or scales.size):
            raise node.error("found scales and sizes, expected one of them")
        wanted = dict(zip(axes, sizes.tolist(), strict=True))
        kept = wanted.get(0, 1) in (1, values.model.batch) and wanted.get(1, shape[0]) == shape[0]
        parts = [_Axis(shape[at - 1], wanted[at], np.float32(wanted[at]) / np.float32(shape[at - 1])) for at in (2, 3)]
    else:
        if scales is None or scales.dtype != np.float32 or scales.shape != (len(axes),) or not (scales > 0).all():
            raise node.error(f"expected constant sizes, or {len(axes)} constant scales float32 above 0")
        factors = dict(zip(axes, scales, strict=True))
        kept = factors.get(0, 1) == factors.get(1, 1) == 1 and bool(np.isfinite(scales).all())
        parts = [_Axis(shape[at - 1], float(factors[at]) * shape[at - 1], factors[at]) for at in (2, 3)]
    if not kept:
        raise node.error(f"found sizes or scales that change more than height and width of {['N', *shape]}")
    return parts[0], parts[1]


def _factor(node: OnnxNode, axis: _Axis, rule: str) -> tuple[int, int]:
    """The fraction whose exact pixels are those that ONNX Runtime computes in float32 (upsamplebase.h)."""
    size = axis.size
    if not 1 <= size <= LARGEST_SIZE:
        raise node.error(f"found a size of {size}, expected 1 to {LARGEST_SIZE}")
    i = np.arange(size, dtype=np.float32)
    if rule == "floor":
        expected = np.floor(i / axis.scale)
    else:
        position = (i + np.float32(0.5)) / axis.scale - np.float32(0.5)
        expected = np.ceil(position - np.float32(0.5))
    expected = np.clip(expected, 0, axis.before - 1)
    exact = Fraction(float(axis.scale)).limit_denominator(64)
    for fraction in (Fraction(size, axis.before), exact):
        n, d = fraction.numerator, fraction.denominator
        if axis.before * n // d == size and np.array_equal(nearest_pixels(axis.before, n, d, rule), expected):
            return n, d
    raise node.error(f"found the scale {axis.scale} of {axis.before} pixels, whose places are no exact fractions")
