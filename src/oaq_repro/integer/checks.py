"""Checks of single nodes: types, ranges, shapes of constants. Connections: `graph.Graph.validate`."""

from collections.abc import Callable
from typing import Any

import numpy as np

from oaq_repro.errors import InputError
from oaq_repro.integer.nodes import (
    OPERATORS,
    AvgPool,
    Concat,
    Conv,
    Dequantize,
    Flatten,
    Layer,
    Linear,
    MaxPool,
    Node,
    QParams,
    ResizeNearest,
)
from oaq_repro.quant.accumulator import Accumulator

Expect = Callable[[bool, str, str], None]  # (what has to hold, field, what is expected)
LARGEST_PARAMETER = 1 << 20  # of strides, padding, dilation and kernels; the kernel has the same limit
LARGEST_FACTOR = 1 << 24
SMALLEST_SCALE, LARGEST_SCALE = 2.0**-60, 2.0**60  # no float32 operation can make a NaN of codes then


def check_node(node: Node) -> None:
    """Check one node's fields and constants by themselves; InputError names node and field."""
    if type(node) not in OPERATORS.values():
        raise InputError(f"graph: found a node of type {type(node).__name__}, expected one of {', '.join(OPERATORS)}")
    if not isinstance(node.name, str) or not node.name:
        raise InputError(f"graph: node name: found {node.name!r}, expected a string that is not empty")

    def expect(holds: bool, field: str, expected: str) -> None:
        if not holds:
            raise InputError(f"graph node {node.name!r}: {field}: found {getattr(node, field)!r}, expected {expected}")

    strings = isinstance(node.inputs, tuple) and all(isinstance(name, str) for name in node.inputs)
    expect(strings and len(node.inputs) >= 1, "inputs", "a tuple of names")
    if node.inputs_count is not None:
        expect(len(node.inputs) == node.inputs_count, "inputs", f"{node.inputs_count} names")
    if not isinstance(node, Dequantize):
        _check_qparams(node.output, expect)
    for field in ("ceil_mode", "count_include_pad", "keepdims", "align_corners"):
        if hasattr(node, field):
            expect(isinstance(getattr(node, field), bool), field, "true or false")
    for field, least in (("kernel", 1), ("stride", 1), ("padding", 0), ("dilation", 1)):
        if hasattr(node, field):
            value = getattr(node, field)
            right = isinstance(value, tuple) and len(value) == 2
            right = right and all(_integer(v) and least <= v <= LARGEST_PARAMETER for v in value)
            expect(right, field, f"two integers from {least} to 2^20")
    if isinstance(node, Conv | Linear):
        _check_layer(node, expect)
    elif isinstance(node, MaxPool):
        reach = [(k - 1) * d + 1 for k, d in zip(node.kernel, node.dilation, strict=True)]
        expect(all(2 * p <= r for p, r in zip(node.padding, reach, strict=True)), "padding", "at most half the kernel")
    elif isinstance(node, AvgPool):
        half = all(2 * p <= k for p, k in zip(node.padding, node.kernel, strict=True))
        expect(half, "padding", "at most half the kernel")
    elif isinstance(node, ResizeNearest):
        right = isinstance(node.factor, tuple) and len(node.factor) == 4
        right = right and all(_integer(v) and 1 <= v <= LARGEST_FACTOR for v in node.factor)
        expect(right, "factor", "four integers from 1 to 2^24: a fraction of the height, one of the width")
        expect(node.rule in ("floor", "half_pixel"), "rule", "floor or half_pixel")
    elif isinstance(node, Concat):
        expect(_integer(node.axis) and node.axis == 1, "axis", "1 (the channels)")
    elif isinstance(node, Flatten):
        expect(_integer(node.start_dim) and node.start_dim == 1, "start_dim", "1")


def _check_qparams(q: QParams, expect: Expect) -> None:
    expect(isinstance(q, QParams) and isinstance(q.scale, np.float32), "output", "QParams with a float32 scale")
    expect(bool(SMALLEST_SCALE <= q.scale <= LARGEST_SCALE), "output", "a scale from 2^-60 to 2^60")
    expect(_integer(q.q_max) and 1 <= q.q_max <= 255, "output", "q_max from 1 to 255")
    expect(_integer(q.zero_point) and 0 <= q.zero_point <= q.q_max, "output", "zero_point from 0 to q_max")


def _check_layer(node: Layer, expect: Expect) -> None:
    rank = 4 if isinstance(node, Conv) else 2
    _check_array(node, "weight", np.int8, (None,) * rank)
    outputs = node.weight.shape[0]
    _check_array(node, "bias", np.int32, (outputs,))
    for field in ("weight_scale", "multiplier"):
        _check_array(node, field, np.float32, (outputs,))
        value = getattr(node, field)
        if not (np.isfinite(value).all() and (value > 0).all()):
            raise InputError(f"graph node {node.name!r}: {field}: expected finite values above 0 only")
    expect(isinstance(node.accumulator, Accumulator), "accumulator", "an Accumulator")
    expect(isinstance(node.accumulator_reason, str), "accumulator_reason", "text")
    if isinstance(node, Conv):
        right = _integer(node.groups) and 1 <= node.groups <= LARGEST_PARAMETER and outputs % node.groups == 0
        expect(right, "groups", f"a divisor of the {outputs} output channels")


def _check_array(node: Layer, field: str, dtype: type, shape: tuple[int | None, ...]) -> None:
    value: Any = getattr(node, field)
    name = np.dtype(dtype).name
    if not isinstance(value, np.ndarray):
        raise InputError(f"graph node {node.name!r}: {field}: found {type(value).__name__}, expected a {name} array")
    wanted = "[" + ", ".join("n" if size is None else str(size) for size in shape) + "]"
    fits = len(value.shape) == len(shape) and all(w in (None, s) for w, s in zip(shape, value.shape, strict=True))
    if value.dtype != dtype or not fits or value.size == 0:
        found = f"{value.dtype} {list(value.shape)}"
        raise InputError(f"graph node {node.name!r}: {field}: found {found}, expected {name} {wanted}, not empty")


def _integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
