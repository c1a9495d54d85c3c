"""Every operator of the graph as ONNX nodes: one function each, found by the class of the node."""

from functools import singledispatch
from math import prod
from typing import Any

import numpy as np
from onnx import TensorProto

from oaq_repro.errors import InputError
from oaq_repro.integer.graph.nodes import (
    Add,
    AvgPool,
    Concat,
    Conv,
    ConvTranspose,
    DepthToSpace,
    Dequantize,
    Elementwise,
    Flatten,
    GlobalAvgPool,
    Layer,
    Linear,
    MaxPool,
    Multiply,
    Node,
    QParams,
    Quantize,
    Requantize,
    Resize,
    ResizeNearest,
    Select,
    Shape,
    multiply_multiplier,
    pool_multiplier,
)
from oaq_repro.integer.onnx import export_integers as integers
from oaq_repro.integer.onnx.export_layers import conv, conv_transpose, linear
from oaq_repro.integer.onnx.writer import BARRIER, Writer
from oaq_repro.resampling import resize_taps


@singledispatch
def write(node: Node, to: Writer) -> None:
    """Append the node's ONNX nodes and constants; InputError for an operator that has no form in ONNX."""
    raise InputError(f"graph node {node.name!r}: found {type(node).__name__}, which has no form in ONNX")


write.register(Conv, conv)
write.register(ConvTranspose, conv_transpose)
write.register(Linear, linear)


@singledispatch
def constant_bytes(node: Node, shapes: dict[str, Shape]) -> int:
    """Bytes of a node's large constants in the model."""
    return 0


@constant_bytes.register
def _(node: Layer, shapes: dict[str, Shape]) -> int:
    return node.weight.nbytes


@constant_bytes.register
def _(node: ConvTranspose, shapes: dict[str, Shape]) -> int:
    """The weights, an index int64 per column, and one per row for each place of a column."""
    height, width = shapes[node.name][1:]
    return node.weight.nbytes + 8 * (min(node.stride[1], width) * height + width)


@constant_bytes.register
def _(node: Select, shapes: dict[str, Shape]) -> int:
    return node.channels.nbytes


@constant_bytes.register
def _(node: AvgPool, shapes: dict[str, Shape]) -> int:
    each = 4 if node.requantization == "float32" else 24  # a factor, or multiplier, divisor and excess
    return shapes[node.name][0] * prod(node.kernel) + each * prod(shapes[node.name][1:])


@constant_bytes.register
def _(node: ResizeNearest, shapes: dict[str, Shape]) -> int:
    return 8 * sum(shapes[node.name][1:])  # an index int64 per row and column


@constant_bytes.register
def _(node: Resize, shapes: dict[str, Shape]) -> int:
    """Two indices int64 and two shares float32 per row and column."""
    return 24 * sum(shapes[node.name][1:]) if shapes[node.name] != shapes[node.inputs[0]] else 0


@write.register
def _quantize(node: Quantize, to: Writer) -> None:
    to.quantized(node, node.inputs[0], node.output, node.name)


@write.register
def _dequantize(node: Dequantize, to: Writer) -> None:
    to.dequantized(node, 0, node.name)


@write.register
def _requantize(node: Requantize, to: Writer) -> None:
    if to.q[node.inputs[0]] == node.output:
        to.add("Identity", [node.inputs[0]], node.name)
    else:
        to.rescaled(node, 0, node.output, node.name)


@write.register
def _elementwise(node: Elementwise, to: Writer) -> None:
    """Codes gathered from the table: exact by construction.

    A float operator between DequantizeLinear and QuantizeLinear would not be: its last bit depends on the version of
    ONNX Runtime and on the processor (vectorized exp, erf, tanh), and at a tie that is another code.
    """
    to.looked_up(node, 0, node.table, "", node.name)


@write.register
def _multiply(node: Multiply, to: Writer) -> None:
    """The product in int32: Mul of dequantized values rounds before it is scaled."""
    acc = to.add("Mul", [to.centred(node, at, np.int32) for at in (0, 1)], to.part(node, "acc"))
    if node.requantization != "float32":
        integers.multiply(node, to, acc)
        return
    a, b = (to.q[name] for name in node.inputs)
    to.requantized(node, acc, multiply_multiplier(a, b, node.output), node.output)


@write.register
def _concat(node: Concat, to: Writer) -> None:
    parts = [
        name if to.q[name] == node.output
        else to.rescaled(node, at, node.output, to.part(node, f"part_{at}"))
        for at, name in enumerate(node.inputs)
    ]  # fmt: skip
    to.add("Concat", parts, node.name, axis=1)


@write.register
def _maxpool(node: MaxPool, to: Writer) -> None:
    """The padding of `ceil_mode` is written out: versions of ONNX Runtime differ about the last window."""
    begin, end = node.padding[:2], node.padding[2:]
    if node.ceil_mode:
        begin, end = zip(*node.window.borders(to.shapes[node.inputs[0]][1:]), strict=True)
    value, pads = node.inputs[0], [*begin, *end]
    if any(pad >= node.kernel[i % 2] for i, pad in enumerate(pads)):  # more than MaxPool takes
        amounts = to.constant(node, "pads", [0, 0, *begin, 0, 0, *end], np.int64)
        padded = to.add("Pad", [value, amounts], to.part(node, "padded"))
        # Clip changes nothing; it keeps ONNX Runtime 1.17 from moving the padding into the MaxPool again.
        largest = to.constant(node, "q_max", node.output.q_max, np.uint8)
        value, pads = to.add("Clip", [padded, "", largest], to.part(node, "padded_codes")), [0, 0, 0, 0]
    to.add(
        "MaxPool", [value], node.name, kernel_shape=node.kernel, strides=node.stride, pads=pads,
        dilations=node.dilation,
    )  # fmt: skip


@write.register
def _add(node: Add, to: Writer) -> None:
    if node.requantization != "float32":
        integers.add(node, to)
        return
    total = to.add("Add", [to.dequantized(node, 0), to.dequantized(node, 1)], to.part(node, "real"))
    lowest = to.constant(node, "lowest", BARRIER, np.float32)
    kept = to.add("Max", [total, lowest], to.part(node, "kept"))
    to.quantized(node, kept, node.output, node.name)


@write.register
def _avgpool(node: AvgPool, to: Writer) -> None:
    """Integer sums by a depthwise ConvInteger of ones: QLinearAveragePool rounds otherwise."""
    source, channels = to.q[node.inputs[0]], to.shapes[node.inputs[0]][0]
    ones = to.constant(node, "ones", np.ones((channels, 1, *node.kernel)), np.uint8)
    zero_point = to.constant(node, "zero_point_0", source.zero_point, np.uint8)
    acc = to.add(
        "ConvInteger", [node.inputs[0], ones, zero_point], to.part(node, "acc"), kernel_shape=node.kernel,
        strides=node.stride, pads=node.padding, group=channels,
    )  # fmt: skip
    counts = node.pixels(*to.shapes[node.inputs[0]][1:])
    _averaged(node, to, acc, counts if len(np.unique(counts)) > 1 else counts[0, 0])


@write.register
def _globalavgpool(node: GlobalAvgPool, to: Writer) -> None:
    source, shape = to.q[node.inputs[0]], to.shapes[node.inputs[0]]
    count = shape[1] * shape[2]
    codes = to.add("Cast", [node.inputs[0]], to.part(node, "int32"), to=TensorProto.INT32)
    axes = to.constant(node, "axes", [2, 3], np.int64)
    total = to.add("ReduceSum", [codes, axes], to.part(node, "sum"), keepdims=int(node.keepdims))
    shift = to.constant(node, "shift", count * source.zero_point, np.int32)
    acc = to.add("Sub", [total, shift], to.part(node, "acc"))
    _averaged(node, to, acc, count)


def _averaged(node: AvgPool | GlobalAvgPool, to: Writer, acc: str, count: Any) -> None:
    if node.requantization == "float32":
        to.requantized(node, acc, pool_multiplier(to.q[node.inputs[0]], node.output, count), node.output)
    else:
        integers.average(node, to, acc, count)


@write.register
def _resize(node: Resize, to: Writer) -> None:
    """Gathered rows and columns, interpolated as the reference does; rounded once."""
    sizes, wanted = to.shapes[node.inputs[0]][1:], to.shapes[node.name][1:]
    if sizes == wanted:
        to.add("Identity", [node.inputs[0]], node.name)
        return
    if node.requantization != "float32":
        integers.resize(node, to)
        return
    value = to.add("Cast", [node.inputs[0]], to.part(node, "float"), to=TensorProto.FLOAT)
    for axis, part in enumerate(("row", "column")):
        first, second, t = resize_taps(sizes[axis], wanted[axis], node.align_corners)
        terms = []
        for name, index, share in (("a", first, np.float32(1) - t), ("b", second, t)):
            taps = to.constant(node, f"{part}_{name}_index", index, np.int64)
            share = share.reshape((-1, 1) if axis == 0 else -1)
            factor = to.constant(node, f"{part}_{name}_share", share, np.float32)
            taken = to.add("Gather", [value, taps], to.part(node, f"{part}_{name}"), axis=axis + 2)
            terms.append(to.add("Mul", [taken, factor], to.part(node, f"{part}_{name}_scaled")))
        value = to.add("Add", terms, to.part(node, part))
    exact = QParams(np.float32(1), 0, node.output.q_max)
    to.quantized(node, value, exact, node.name)


@write.register
def _resizenearest(node: ResizeNearest, to: Writer) -> None:
    value = node.inputs[0]
    pixels = node.pixels(*to.shapes[value][1:])
    for axis, (part, taken) in enumerate(zip(("rows", "columns"), pixels, strict=True)):
        indices = to.constant(node, f"{part}_index", taken, np.int64)
        output = node.name if axis == 1 else to.part(node, part)
        value = to.add("Gather", [value, indices], output, axis=axis + 2)


@write.register
def _select(node: Select, to: Writer) -> None:
    to.add("Gather", [node.inputs[0], to.constant(node, "channels", node.channels, np.int64)], node.name, axis=1)


@write.register
def _flatten(node: Flatten, to: Writer) -> None:
    if node.keepdims:
        to.add("Reshape", [node.inputs[0], to.constant(node, "shape", [0, -1, 1, 1], np.int64)], node.name)
    else:
        to.add("Flatten", [node.inputs[0]], node.name, axis=1)


@write.register
def _depthtospace(node: DepthToSpace, to: Writer) -> None:
    """ONNX Runtime's DepthToSpace is of floats."""
    if to.integers:
        integers.depth_to_space(node, to)
        return
    value = to.add("DepthToSpace", [to.dequantized(node, 0)], to.part(node, "real"), blocksize=node.block, mode="CRD")
    to.quantized(node, value, node.output, node.name)
