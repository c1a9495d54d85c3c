"""Constant weights of ONNX layers: their codes, and where in them which zero point and which scale apply.

Zero points and numbers of scales are arrays of the codes' shape, so that whatever moves the codes moves them alike.
"""

from dataclasses import dataclass

import numpy as np

from oaq_repro.errors import InputError
from oaq_repro.integer.graph.arithmetic import Array
from oaq_repro.integer.onnx.folding import LAYOUT, Constants
from oaq_repro.integer.onnx.matrices import Arrange
from oaq_repro.integer.onnx.ranges import CodeRange, NotStatic, all_codes, data_type
from oaq_repro.integer.onnx.reader import OnnxNode, plain


@dataclass(frozen=True, eq=False)
class WeightCodes:
    """int32 arrays of one shape: codes, the zero point of each, the number of its scale. `type`: that of the codes."""

    type: CodeRange
    codes: Array
    zero_points: Array
    scales: Array


def dequantized_weights(constants: Constants, node: OnnxNode, name: str) -> WeightCodes:
    """Weights that a DequantizeLinear gives, laid out anew afterwards or not; InputError says what else was found."""
    moved: list[OnnxNode] = []
    maker = constants.maker(name)
    while maker is not None and plain(maker.op) in LAYOUT | {"Cast"}:
        moved.append(maker)
        maker = constants.maker(maker.input(0))
    if maker is None or plain(maker.op) != "DequantizeLinear":
        raise NotStatic("its weights are float")
    if maker.attribute("block_size", 0):
        raise node.error("its weights are quantized in blocks: no sum of all products has one scale")
    name, scale, zero_point = (maker.input(at) for at in range(3))
    found = weights_of_codes(constants, node, name, scale, zero_point, maker.attribute("axis", 1))
    parts = [found.codes, found.zero_points, found.scales]
    for maker in reversed(moved):
        if plain(maker.op) != "Cast":
            others = [constants.get(each) for each in maker.inputs[1:]]
            parts = [constants.run(maker, [part, *others]) for part in parts]
    return WeightCodes(found.type, *parts)


def weights_of_codes(
    constants: Constants, node: OnnxNode, name: str, scale: str, zero_point: str, axis: int
) -> WeightCodes:
    """Codes with the constants `scale` and `zero_point`, '' where there is none: one, or one per index of `axis`."""
    codes = constants.get(name)
    if codes is None:
        raise node.error("its weights are no constant")
    kind = all_codes(data_type(codes))

    def spread(name: str, values: Array | None) -> Array:
        if values is None:
            raise NotStatic("its weights are quantized when the model runs")
        if values.size == 1:
            values = values.reshape(())
        elif values.ndim == 1 and -codes.ndim <= axis < codes.ndim and values.size == codes.shape[axis]:
            values = values.reshape([-1 if at == axis % codes.ndim else 1 for at in range(codes.ndim)])
        elif values.ndim != codes.ndim or any(a not in (1, b) for a, b in zip(values.shape, codes.shape, strict=True)):
            found = f"{list(values.shape)} values for weights of the shape {list(codes.shape)}"
            raise InputError(f"{name!r}: found {found}, expected one scale or zero point per index of axis {axis}")
        return np.broadcast_to(values.astype(np.int32), codes.shape)

    none = np.zeros((), np.int32)
    zeros = constants.get(zero_point) if zero_point else none
    scales = constants.get(scale) if scale else none
    numbers = None if scales is None else np.arange(scales.size).reshape(scales.shape)
    return WeightCodes(kind, codes.astype(np.int32), spread(zero_point, zeros), spread(scale, numbers))


def multiplied(node: OnnxNode, weights: WeightCodes, arrange: Arrange) -> tuple[Array, Array]:
    """Weights [O, K] whose products a register adds up, and those that an instruction for signed codes multiplies.

    The first have their zero points folded in where that fits the width, see `audit`. InputError where the products of
    one sum have several scales.
    """
    scales = arrange(weights.scales, "edge")
    if (scales != scales[:, :1]).any():
        raise node.error("found several scales within one sum of products, expected one per output channel")
    half = 1 << (weights.type.bits - 1)
    raw = arrange(weights.codes if weights.type.signed else weights.codes - half, "constant")
    folded = weights.codes - weights.zero_points
    limit = 1 << (max(weights.type.bits, 8) - 1)
    fits = -limit <= folded.min() and folded.max() < limit
    return arrange(folded, "constant") if fits else raw, raw
