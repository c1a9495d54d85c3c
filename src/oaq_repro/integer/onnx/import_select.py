"""Selections of channels in ONNX models: Gather, Slice, Split."""

from collections.abc import Sequence

import numpy as np

from oaq_repro.integer.graph import nodes as ir
from oaq_repro.integer.onnx.reader import OnnxNode
from oaq_repro.integer.onnx.values import Values, moved


def gather(values: Values, node: OnnxNode) -> None:
    """Gather of channels at constant indices."""
    _expect_channels(values, node, node.attribute("axis", 0))
    indices = values.constant(node, 1)
    if indices is None or indices.dtype.kind != "i" or indices.ndim != 1 or indices.size == 0:
        raise node.error(f"input {node.input(1)!r}: expected constant integers of one dimension")
    if indices.min() < 0:
        indices = indices + (indices < 0) * values.shape_at(node, 0)[0]
    _select(values, node, indices, node.outputs[0])


def slice_channels(values: Values, node: OnnxNode) -> None:
    """Slice along the channels."""
    starts, ends = values.integers(node, 1), values.integers(node, 2)
    axes = values.integers(node, 3) if node.input(3) else tuple(range(len(starts)))
    steps = values.integers(node, 4) if node.input(4) else (1,) * len(starts)
    if not len(starts) == len(ends) == len(axes) == len(steps) == 1 or steps[0] == 0:
        raise node.error(f"axes: found {list(axes)}, expected one axis, the channels")
    _expect_channels(values, node, axes[0])
    count = values.shape_at(node, 0)[0]
    # Out of range is cut as in Python, but for what lies before the first: a start is the first, an end includes it.
    start, end = max(starts[0], -count), ends[0] if ends[0] >= -count or steps[0] > 0 else None
    _select(values, node, range(count)[start : end : steps[0]], node.outputs[0])


def split(values: Values, node: OnnxNode) -> None:
    """Split of the channels."""
    _expect_channels(values, node, node.attribute("axis", 0))
    count, parts = values.shape_at(node, 0)[0], len(node.outputs)
    sizes = values.integers(node, 1) if node.input(1) else node.attribute("split", ())
    if node.attribute("num_outputs", parts) != parts:
        raise node.error(f"num_outputs: expected that of the outputs, {parts}")
    if not sizes:
        size = -(-count // parts)  # the last part may be smaller (opset 18)
        sizes = (*(size,) * (parts - 1), count - size * (parts - 1))
    if len(sizes) != parts or min(sizes) < 1 or sum(sizes) != count:
        raise node.error(f"split: found {list(sizes)} for {count} channels, expected {parts} parts of them")
    first = 0
    for size, output in zip(sizes, node.outputs, strict=True):
        if output:
            _select(values, node, range(first, first + size), output)
        first += size


def _select(values: Values, node: OnnxNode, channels: Sequence[int] | np.ndarray, output: str) -> None:
    taken = np.asarray(channels, np.int64)
    if taken.size == 0:
        raise node.error("found a selection of no channels, expected at least one")
    moved(values, node, lambda name, x, q: ir.Select(name, (x,), q, taken), output)


def _expect_channels(values: Values, node: OnnxNode, axis: int) -> None:
    rank = values.rank(node, 0)
    if axis not in (1, 1 - rank):
        raise node.error(f"axis: found {axis} for a value of {rank} dimensions, expected 1 (the channels)")
