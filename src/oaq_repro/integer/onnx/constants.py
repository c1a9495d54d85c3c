"""Constants of ONNX models: what is computed from them alone is computed while the model is read."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import AttributeProto

from oaq_repro.integer.graph.arithmetic import Array
from oaq_repro.integer.onnx.reader import OnnxNode
from oaq_repro.integer.onnx.tensors import IMPORTED, array

_NUMBERS: dict[tuple[str, int], tuple[str, Any]] = {
    ("value_int", AttributeProto.INT): ("i", np.int64), ("value_ints", AttributeProto.INTS): ("ints", np.int64),
    ("value_float", AttributeProto.FLOAT): ("f", np.float32),
    ("value_floats", AttributeProto.FLOATS): ("floats", np.float32),
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Dequantized:
    """A dequantized constant: `(values - zero_point) * scale`, scale and zero_point [] or along `axis`."""

    values: Array
    scale: Array
    zero_point: Array
    axis: int

    def real(self, node: OnnxNode) -> Array:
        """The real values, float64; `node` is where they are needed."""
        scale, zero_point = self.scale.astype(np.float64), self.zero_point.astype(np.float64)
        if scale.size > 1:
            shape = _along_only(self.values, along(node, self.values, scale, self.axis))
            scale, zero_point = scale.reshape(shape), zero_point.reshape(shape)
        elif scale.size == 1:
            scale, zero_point = scale.reshape(()), zero_point.reshape(())
        return (self.values.astype(np.float64) - zero_point) * scale

    def transposed(self, node: OnnxNode, order: tuple[int, ...]) -> "Dequantized":
        """With its axes in another order."""
        axis = order.index(along(node, self.values, self.scale, self.axis)) if self.scale.size > 1 else self.axis
        return Dequantized(self.values.transpose(order), self.scale, self.zero_point, axis)


def quantized(node: OnnxNode, values: Array, scale: Array, zero_point: Array, axis: int) -> Array:
    """QuantizeLinear of float32 constants."""
    if values.dtype != np.float32 or not np.isfinite(values).all():
        raise node.error(f"input {node.input(0)!r}: expected finite float32 values")
    if scale.size != 1:
        shape = _along_only(values, along(node, values, scale, axis))
        scale, zero_point = scale.reshape(shape), zero_point.reshape(shape)
    else:
        scale, zero_point = scale.reshape(()), zero_point.reshape(())
    limits = np.iinfo(zero_point.dtype)
    with np.errstate(over="ignore"):
        codes = np.rint(values / scale) + zero_point.astype(np.float64)
    return np.clip(codes, limits.min, limits.max).astype(zero_point.dtype)


def along(node: OnnxNode, values: Array, scale: Array, axis: int) -> int:
    """The axis that has one scale per index, from 0 on."""
    if not -values.ndim <= axis < values.ndim or values.shape[axis] != scale.size:
        raise node.error(f"axis: found {axis} and {scale.size} scales for the shape {list(values.shape)}")
    return axis % values.ndim


def _along_only(values: Array, axis: int) -> list[int]:
    return [-1 if at == axis else 1 for at in range(values.ndim)]


def order_of(node: OnnxNode, rank: int) -> tuple[int, ...]:
    """The axes that Transpose takes, for that many of them."""
    order = node.attribute("perm", tuple(reversed(range(rank))))
    if sorted(order) != list(range(rank)):
        raise node.error(f"perm: found {list(order)}, expected the axes 0 to {rank - 1} in another order")
    return tuple(order)


def value_of(node: OnnxNode, types: Collection[int] = IMPORTED) -> Array:
    """What a Constant holds: numbers, or a tensor of one of the ONNX data types `types`."""
    if len(node.attributes) != 1:
        raise node.error(f"found {len(node.attributes)} attributes, expected one value")
    ((name, found),) = node.attributes.items()
    node.read.add(name)
    if (name, found.type) == ("value", AttributeProto.TENSOR):
        return array(node.outputs[0], found.t, types)
    if (name, found.type) not in _NUMBERS:
        raise node.error(f"{name}: expected value, value_int, value_ints, value_float or value_floats")
    field, dtype = _NUMBERS[name, found.type]
    return np.asarray(getattr(found, field), dtype)
