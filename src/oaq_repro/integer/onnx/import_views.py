"""The same values in other shapes in ONNX models: Flatten, Reshape, Squeeze, Unsqueeze, Transpose.

A channel shuffle is three nodes: Reshape to [N, g, C / g, H, W], Transpose of the two, Reshape to [N, C, H, W].
"""

from dataclasses import replace
from math import prod

import numpy as np

from oaq_repro.integer.graph import nodes as ir
from oaq_repro.integer.onnx.constants import order_of
from oaq_repro.integer.onnx.meanings import SplitChannels
from oaq_repro.integer.onnx.reader import OnnxNode
from oaq_repro.integer.onnx.values import Values, moved

PIXELS = (2, 3)  # axes
SWAPPED = (0, 2, 1, 3, 4)


def flatten(values: Values, node: OnnxNode) -> None:
    """Flatten of all but the batch."""
    axis, rank = node.attribute("axis", 1), values.rank(node, 0)
    if axis not in (1, 1 - rank):
        raise node.error(f"axis: found {axis} for a value of {rank} dimensions, expected 1")
    _flatten(values, node)


def reshape(values: Values, node: OnnxNode) -> None:
    """Reshape to [N, K] or [N, K, 1, 1], to the shape that there is, and those of a shuffle."""
    split = values.splits.get(node.input(0))
    if split is not None:
        _join(values, node, split)
        return
    sizes = values.shape_at(node, 0)
    wanted = _wanted(values, node, sizes)
    if wanted == sizes:
        values.rename(node.input(0), node.outputs[0])
    elif wanted in ((prod(sizes),), (prod(sizes), 1, 1)):
        _flatten(values, node, keepdims=len(wanted) == 3)
    elif len(sizes) == 3 and wanted[2:] == sizes[1:] and prod(wanted[:2]) == sizes[0]:
        values.splits[node.outputs[0]] = SplitChannels(node.input(0), wanted[:2])
    else:
        raise node.error(f"shape: found {['N', *wanted]}, expected [N, {prod(sizes)}] for an input of {list(sizes)}")


def squeeze(values: Values, node: OnnxNode) -> None:
    """Squeeze of height and width."""
    _expect_pixels(values, node)
    if values.shape_at(node, 0)[1:] != (1, 1):
        raise node.error(f"found an input of {list(values.shape_at(node, 0))}, expected [C, 1, 1]")
    _flatten(values, node)


def unsqueeze(values: Values, node: OnnxNode) -> None:
    """Unsqueeze: height and width of one pixel."""
    _expect_pixels(values, node)
    if values.rank(node, 0) != 2:
        raise node.error(f"found an input of {values.rank(node, 0)} dimensions, expected [N, K]")
    _flatten(values, node, keepdims=True)


def transpose(values: Values, node: OnnxNode) -> None:
    """Transpose of constants, dequantized or not; and within a shuffle."""
    name, output = node.input(0), node.outputs[0]
    constant, weights, split = values.constant(node, 0), values.weights.get(name), values.splits.get(name)
    if constant is not None:
        values.folded[output] = constant.transpose(order_of(node, constant.ndim))
    elif weights is not None:
        values.weights[output] = weights.transposed(node, order_of(node, weights.values.ndim))
    elif split is not None and order_of(node, 5) == SWAPPED:
        values.splits[output] = replace(split, swapped=not split.swapped)
    else:
        raise node.error(f"input {name!r}: expected a constant, or channels split in two by a Reshape (values of the "
                         "network are not transposed here)")  # fmt: skip


def _join(values: Values, node: OnnxNode, split: SplitChannels) -> None:
    """The last node of a shuffle."""
    source = node.part(node.op, [split.source], node.outputs[0])
    sizes = values.shape_at(source, 0)
    parts = split.sizes[::-1] if split.swapped else split.sizes
    if _wanted(values, node, (*parts, *sizes[1:])) != sizes:
        raise node.error(f"shape: expected that of the value before its channels were split, {['N', *sizes]}")
    if not split.swapped:
        values.rename(split.source, node.outputs[0])
        return
    order = np.arange(sizes[0]).reshape(split.sizes).T.ravel()
    moved(values, source, lambda name, x, q: ir.Select(name, (x,), q, order))


def _flatten(values: Values, node: OnnxNode, keepdims: bool = False) -> None:
    moved(values, node, lambda name, x, q: ir.Flatten(name, (x,), q, keepdims=keepdims))


def _expect_pixels(values: Values, node: OnnxNode) -> None:
    axes = values.integers(node, 1) if node.input(1) else node.attribute("axes", ())
    if sorted(axis + 4 * (axis < 0) for axis in axes) != list(PIXELS):
        raise node.error(f"axes: found {list(axes)}, expected height and width (2, 3)")


def _wanted(values: Values, node: OnnxNode, sizes: ir.Shape) -> ir.Shape:
    """The shape that a Reshape asks for, without the batch, which has to stay."""
    asked, count = values.integers(node, 1), prod(sizes)
    batches = {0, -1} if values.model.batch is None else {0, -1, values.model.batch}
    if len(asked) < 2 or asked[0] not in batches or node.flag("allowzero", False):
        raise node.error(f"shape: found {list(asked)}, expected [N, {count}] for an input of {list(sizes)}")
    rest = [sizes[at] if size == 0 and at < len(sizes) else size for at, size in enumerate(asked[1:])]
    known = prod(size for size in rest if size != -1)
    if asked.count(-1) > 1 or min(rest) < -1 or known == 0 or count % known or (-1 not in rest and known != count):
        raise node.error(f"shape: found {list(asked)}, expected [N, {count}] for an input of {list(sizes)}")
    return tuple(count // known if size == -1 else size for size in rest)
