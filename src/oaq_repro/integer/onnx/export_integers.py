"""Nodes that round by integers (requantization dyadic and fixed16) as ONNX nodes, of which none is a float operator.

Weights are uint8 around 128. ONNX Runtime has no vector code for int8 ones in ConvInteger, where they are the left
operand of its matrix product (conv_integer.cc; 5 to 14 times slower on x86), and in MatMulInteger their products
saturate on x86 without VNNI. Those of uint8 are exact on every processor.

`(y * M + 2^(s-1)) >> s` is written for ONNX's Div, which truncates toward zero, and without an overflow for any y of 32
bits: with 2^62 added all is positive, and `floor(p / 2^s + 1/2)` is `floor((floor(p / 2^(s-1)) + 1) / 2)`.
"""

from typing import Any

import numpy as np
from onnx import TensorProto

from oaq_repro.fixed_point import (
    FIXED16_SHIFT,
    INT16,
    SHARE_BITS,
    Array,
    dyadic,
    fixed16,
    mean_ratio,
    resize_shares,
)
from oaq_repro.integer.graph.nodes import (
    Add,
    AvgPool,
    Convolution,
    DepthToSpace,
    GlobalAvgPool,
    Layer,
    Linear,
    Multiply,
    Resize,
    RoundingNode,
)
from oaq_repro.integer.graph.windows import Window
from oaq_repro.integer.onnx.writer import Writer
from oaq_repro.resampling import resize_taps

LIFT_BITS = 62
WEIGHT_ZERO_POINT = 128


def unsigned(weight: Array) -> Array:
    """Weights int8 as uint8 around WEIGHT_ZERO_POINT."""
    return (weight.astype(np.int16) + WEIGHT_ZERO_POINT).astype(np.uint8)


def signed(weight: Array) -> Array:
    """The inverse of `unsigned`."""
    return (weight.astype(np.int16) - WEIGHT_ZERO_POINT).astype(np.int8)


def convolution(node: Convolution, to: Writer, window: Window, weight: str, output: str) -> str:
    """Codes of a convolution of the node's input with weights uint8 [O, I / groups, kh, kw]."""
    acc = to.add(
        "ConvInteger", [node.inputs[0], weight, *_zero_points(node, to)], f"{output}{to.slash}acc",
        kernel_shape=window.kernel, strides=window.stride, pads=window.padding, dilations=window.dilation,
        group=node.groups,
    )  # fmt: skip
    return _layer(node, to, acc, output, (-1, 1, 1))


def linear(node: Linear, to: Writer) -> None:
    """Append a MatMulInteger and what requantizes its result."""
    weight = to.constant(node, "weight", unsigned(node.weight), np.uint8)
    columns = to.add("Transpose", [weight], to.part(node, "weight_transposed"), perm=[1, 0])
    acc = to.add("MatMulInteger", [node.inputs[0], columns, *_zero_points(node, to)], to.part(node, "acc"))
    _layer(node, to, acc, node.name, (-1,))


def _zero_points(node: Layer, to: Writer) -> list[str]:
    """Of a layer's input and weights."""
    return [
        to.constant(node, "zero_point_0", to.q[node.inputs[0]].zero_point, np.uint8),
        to.constant(node, "weight_zero_point", WEIGHT_ZERO_POINT, np.uint8),
    ]


def _layer(node: Layer, to: Writer, acc: str, output: str, shape: tuple[int, ...]) -> str:
    """Codes of a layer's sums, int32; shape: with which constants [O] broadcast."""
    total = to.add(
        "Add", [acc, to.constant(node, "bias", node.bias.reshape(shape), np.int32)], f"{output}{to.slash}sum"
    )
    ratio = node.ratio(to.q[node.inputs[0]]).reshape(shape)
    if node.requantization == "dyadic":
        return dyadic_codes(node, to, total, ratio, output)
    ends = [
        to.constant(node, f"int16_{end}", value, np.int32) for end, value in zip(("low", "high"), INT16, strict=True)
    ]
    saturated = to.add("Clip", [total, *ends], f"{output}{to.slash}saturated")
    multiplier = to.constant(node, "integer_multiplier", fixed16(ratio), np.int32)
    scaled = to.add("Mul", [saturated, multiplier], f"{output}{to.slash}scaled")
    half, lift = 1 << (FIXED16_SHIFT - 1), 1 << 30  # of a positive multiple of 2^15; all of it has 32 bits
    lifted = to.add("Add", [scaled, to.constant(node, "lift", half + lift, np.int32)], f"{output}{to.slash}lifted")
    divisor = to.constant(node, "divisor", 1 << FIXED16_SHIFT, np.int32)
    shifted = to.add("Div", [lifted, divisor], f"{output}{to.slash}shifted")
    return _codes(node, to, shifted, (lift >> FIXED16_SHIFT), np.int32, output)


def dyadic_codes(node: RoundingNode, to: Writer, total: str, ratio: Array, output: str) -> str:
    """Codes of sums, int32, with ratios that broadcast."""
    multiplier, shift = dyadic(ratio)
    wide = to.add("Cast", [total], f"{output}{to.slash}int64", to=TensorProto.INT64)
    factor = to.constant(node, "integer_multiplier", multiplier, np.int64)
    return _shifted(node, to, to.add("Mul", [wide, factor], f"{output}{to.slash}scaled"), shift, output)


def _shifted(node: RoundingNode, to: Writer, total: str, shift: Any, output: str) -> str:
    """Codes of `(total + 2^(s-1)) >> s`, total int64 of at most 2^62 in magnitude."""
    shift = np.asarray(shift, np.int64)
    lifted = to.add("Add", [total, to.constant(node, "lift", 1 << LIFT_BITS, np.int64)], f"{output}{to.slash}lifted")
    divisor = to.constant(node, "divisor", np.int64(1) << (shift - 1), np.int64)
    halves = to.add("Div", [lifted, divisor], f"{output}{to.slash}halves")
    more = to.add("Add", [halves, to.constant(node, "one", 1, np.int64)], f"{output}{to.slash}more")
    shifted = to.add("Div", [more, to.constant(node, "two", 2, np.int64)], f"{output}{to.slash}shifted")
    return _codes(node, to, shifted, np.int64(1) << (LIFT_BITS - shift), np.int64, output)


def _codes(node: RoundingNode, to: Writer, value: str, lift: Any, dtype: Any, output: str) -> str:
    """uint8 of integers in units of the scale, which are too large by `lift`."""
    excess = to.constant(node, "excess", lift - node.output.zero_point, dtype)
    centred = to.add("Sub", [value, excess], f"{output}{to.slash}unclamped")
    ends = [to.constant(node, name, end, dtype) for name, end in (("lowest", 0), ("highest", node.output.q_max))]
    clamped = to.add("Clip", [centred, *ends], f"{output}{to.slash}clamped")
    return to.add("Cast", [clamped], output, to=TensorProto.UINT8)


def add(node: Add, to: Writer) -> None:
    """Two terms with multipliers of their own and one shift."""
    multipliers, shift = node.terms([to.q[name] for name in node.inputs])
    terms = []
    for at, multiplier in enumerate(multipliers):
        factor = to.constant(node, f"integer_multiplier_{at}", multiplier, np.int64)
        terms.append(to.add("Mul", [to.centred(node, at, np.int64), factor], to.part(node, f"term_{at}")))
    _shifted(node, to, to.add("Add", terms, to.part(node, "sum")), shift, node.name)


def multiply(node: Multiply, to: Writer, product: str) -> None:
    """From the product, int32."""
    dyadic_codes(node, to, product, node.ratio([to.q[name] for name in node.inputs]), node.name)


def average(node: AvgPool | GlobalAvgPool, to: Writer, total: str, count: Any) -> None:
    """From sums, int32, over `count` codes: a number, or int64 [H, W]."""
    ratio = mean_ratio(to.q[node.inputs[0]].scale, node.output.scale, count)
    dyadic_codes(node, to, total, ratio, node.name)


def resize(node: Resize, to: Writer) -> None:
    """Gathered rows and columns with whole shares of 2^-11 along each axis; all sums have 31 bits."""
    sizes, wanted = to.shapes[node.inputs[0]][1:], to.shapes[node.name][1:]
    value = to.add("Cast", [node.inputs[0]], to.part(node, "int32"), to=TensorProto.INT32)
    for axis, part in enumerate(("row", "column")):
        first, second, t = resize_taps(sizes[axis], wanted[axis], node.align_corners)
        terms = []
        for name, index, share in zip("ab", (first, second), resize_shares(t), strict=True):
            taps = to.constant(node, f"{part}_{name}_index", index, np.int64)
            factor = to.constant(node, f"{part}_{name}_share", share.reshape((-1, 1) if axis == 0 else -1), np.int32)
            taken = to.add("Gather", [value, taps], to.part(node, f"{part}_{name}"), axis=axis + 2)
            terms.append(to.add("Mul", [taken, factor], to.part(node, f"{part}_{name}_scaled")))
        value = to.add("Add", terms, to.part(node, part))
    half = to.constant(node, "half", 1 << (2 * SHARE_BITS - 1), np.int32)
    divisor = to.constant(node, "divisor", 1 << (2 * SHARE_BITS), np.int32)
    rounded = to.add("Div", [to.add("Add", [value, half], to.part(node, "more")), divisor], to.part(node, "rounded"))
    to.add("Cast", [rounded], node.name, to=TensorProto.UINT8)


def depth_to_space(node: DepthToSpace, to: Writer) -> None:
    """Pixels moved by reshaping."""
    channels, height, width = to.shapes[node.name]
    block = node.block
    split = [0, channels, block, block, height // block, width // block]
    value = to.add("Reshape", [node.inputs[0], to.constant(node, "split", split, np.int64)], to.part(node, "apart"))
    moved = to.add("Transpose", [value], to.part(node, "moved"), perm=[0, 1, 4, 2, 5, 3])
    to.add("Reshape", [moved, to.constant(node, "joined", [0, channels, height, width], np.int64)], node.name)
