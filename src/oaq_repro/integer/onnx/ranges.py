"""Which integers the tensors of a quantized ONNX model can hold: one pass over the nodes, unknown ones left out.

Nothing is computed. QuantizeLinear gives a tensor the range of its data type; Relu and Clip, before or after it,
narrow that; operators that only move values pass it on. What has no range has a reason.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import inf, isnan
from typing import Any

import numpy as np
from onnx import TensorProto, helper

from oaq_repro.errors import InputError
from oaq_repro.integer.graph.arithmetic import Array
from oaq_repro.integer.onnx.folding import LAYOUT, Constants
from oaq_repro.integer.onnx.reader import OnnxNode, plain
from oaq_repro.integer.onnx.tensors import CODE_BITS, type_name

MOVING = LAYOUT | {
    "DepthToSpace", "Dropout", "Expand", "Gather", "MaxPool", "Slice", "SpaceToDepth", "Split", "Tile",
}  # fmt: skip
"""Operators whose first output holds only values of the first input (Split: every output)."""
FLOATS = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE})


class NotStatic(InputError):  # noqa: N818  (a kind of InputError)
    """An operand that is float, or whose scale or zero point is computed when the model runs."""


@dataclass(frozen=True)
class CodeRange:
    """Integers of an ONNX data type, from `low` to `high`."""

    type: int
    low: int
    high: int

    @property
    def bits(self) -> int:
        """Width of the data type."""
        return CODE_BITS[self.type]

    @property
    def signed(self) -> bool:
        """Whether the data type has a sign."""
        return type_name(self.type).startswith("INT")

    def within(self, low: float, high: float) -> "CodeRange":
        """Those that are left between two bounds."""
        return replace(self, low=int(np.clip(self.low, low, high)), high=int(np.clip(self.high, low, high)))

    def joined(self, other: "CodeRange") -> "CodeRange":
        """These and those of another tensor."""
        return replace(self, low=min(self.low, other.low), high=max(self.high, other.high))


@dataclass(frozen=True)
class RealRange:
    """A tensor of real numbers `scale * (code - zero_point)`, the scale of the type that the file has."""

    codes: CodeRange
    scale: np.floating
    zero_point: int


def all_codes(data_type: int) -> CodeRange:
    """Every integer of a data type; InputError where it is none of those that codes have."""
    if data_type not in CODE_BITS or data_type == TensorProto.INT32:
        known = ", ".join(type_name(each) for each in CODE_BITS if each != TensorProto.INT32)
        raise InputError(f"found codes of type {type_name(data_type)}, expected {known}")
    bits = CODE_BITS[data_type]
    low = -(1 << (bits - 1)) if type_name(data_type).startswith("INT") else 0
    return CodeRange(data_type, low, low + (1 << bits) - 1)


def data_type(values: Array) -> int:
    """ONNX data type of an array."""
    return int(helper.np_dtype_to_tensor_dtype(values.dtype))


class Ranges:
    """What is known of the tensors of a model after the nodes that have been visited.

    types: data types of tensors that the model declares.
    """

    def __init__(self, constants: Constants, types: dict[str, int]) -> None:
        self._constants, self._types = constants, types
        self._codes: dict[str, CodeRange] = {}
        self._reals: dict[str, RealRange] = {}
        self._bounds: dict[str, tuple[float, float]] = {}  # of float tensors
        self._reasons: dict[str, InputError] = {}

    def visit(self, node: OnnxNode) -> None:
        """Take note of a node's outputs."""
        op = plain(node.op)
        handler = _HANDLERS.get(op, Ranges._move if op in MOVING else None)
        outputs = [name for name in node.outputs if name]
        if handler is None or not outputs or outputs[0] in self._constants:
            return
        try:
            handler(self, node)
        except InputError as error:
            self._reasons.update(dict.fromkeys(outputs, error))

    def real(self, name: str) -> RealRange:
        """The range of a dequantized tensor; InputError says why there is none."""
        found = self._reals.get(name)
        if found is None:
            raise self._reasons.get(name) or NotStatic("its activation is float")
        return found

    def codes(self, name: str, zero_point: str) -> tuple[CodeRange, int]:
        """The range of a tensor of codes, and its zero point, a constant or ''; InputError says why there is none."""
        if name in self._reasons:
            raise self._reasons[name]
        if zero_point and zero_point not in self._constants:
            raise NotStatic("its activation is quantized when the model runs")
        zero = self._constants.scalar(zero_point) if zero_point else None
        known = self._codes.get(name)
        if known is None:  # of an operator that is not known here: any code
            declared = self._types.get(name) if zero is None else data_type(zero)
            if declared is None:
                raise InputError(f"tensor {name!r}: found no data type, expected a zero point that has one")
            known = all_codes(declared)
        if zero is not None and data_type(zero) != known.type:
            found = f"{type_name(data_type(zero))} and codes of type {type_name(known.type)}"
            raise InputError(f"tensor {name!r}: found a zero point of type {found}, expected the same")
        return known, 0 if zero is None else int(zero)

    def _scale(self, node: OnnxNode) -> np.floating:
        if node.attribute("block_size", 0):
            raise node.error("found activations quantized in blocks, expected one scale")
        if node.input(1) not in self._constants:
            raise NotStatic("its activation is quantized when the model runs")
        found = self._constants.scalar(node.input(1))
        if found is None or data_type(found) not in FLOATS or not np.isfinite(found) or found <= 0:
            raise node.error("scale: expected a float that is finite and above 0")
        return found.flat[0]

    def _quantize(self, node: OnnxNode) -> None:
        scale, given = self._scale(node), node.input(2)
        if given and given not in self._constants:
            raise NotStatic("its activation is quantized when the model runs")
        zero = self._constants.scalar(given) if given else None
        declared = node.attribute("output_dtype", 0) or TensorProto.UINT8
        codes = all_codes(declared if zero is None else data_type(zero))
        zero_point = 0 if zero is None else int(zero)
        source = self._reals.get(node.input(0))
        if (
            source is not None
            and (source.scale, source.zero_point) == (scale, zero_point)
            and source.codes.type == codes.type
        ):
            codes = source.codes
        elif isinstance(scale, np.float32):  # the very code of a bound, as it is computed in float32
            codes = codes.within(*(_code(bound, scale, zero_point) for bound in self._float_bounds(node.input(0))))
        self._codes[node.outputs[0]] = codes

    def _dequantize(self, node: OnnxNode) -> None:
        scale = self._scale(node)
        codes, zero_point = self.codes(node.input(0), node.input(2))
        self._reals[node.outputs[0]] = RealRange(codes, scale, zero_point)

    def _float_bounds(self, name: str) -> tuple[float, float]:
        real = self._reals.get(name)
        if real is not None:
            low, high = (
                (code - real.zero_point) * np.float32(real.scale) for code in (real.codes.low, real.codes.high)
            )
            return float(low), float(high)
        return self._bounds.get(name, (-inf, inf))

    def _clip(self, node: OnnxNode) -> None:
        name, output = node.input(0), node.outputs[0]
        low, high = (0.0, inf) if node.op == "Relu" else (self._bound(node, 1, "min"), self._bound(node, 2, "max"))
        codes, real = self._codes.get(name), self._reals.get(name)
        if codes is not None:
            self._codes[output] = codes.within(low, high)
        elif real is not None and node.op == "Relu":
            self._reals[output] = replace(real, codes=real.codes.within(real.zero_point, inf))
        else:
            known = self._float_bounds(name)
            self._bounds[output] = float(np.clip(known[0], low, high)), float(np.clip(known[1], low, high))
            self._pass_reason(name, output)

    def _bound(self, node: OnnxNode, at: int, attribute: str) -> float:
        """A bound of Clip: an input since opset 11, an attribute before; none where it is no constant number."""
        missing = -inf if attribute == "min" else inf
        found = self._constants.scalar(node.input(at)) if node.input(at) else None
        bound = node.attribute(attribute, missing) if found is None else float(found)
        return missing if isnan(bound) else bound

    def _move(self, node: OnnxNode) -> None:
        for output in node.outputs if node.op == "Split" else node.outputs[:1]:
            self._pass(node.input(0), output)

    def _pass(self, name: str, output: str) -> None:
        tables: tuple[dict[str, Any], ...] = (self._codes, self._reals, self._bounds)
        for table in tables:
            if name in table:
                table[output] = table[name]
        self._pass_reason(name, output)

    def _pass_reason(self, name: str, output: str) -> None:
        if name in self._reasons:
            self._reasons[output] = self._reasons[name]

    def _cast(self, node: OnnxNode) -> None:
        if node.attribute("to", 0) in FLOATS and node.input(0) not in self._codes:
            self._pass(node.input(0), node.outputs[0])

    def _concat(self, node: OnnxNode) -> None:
        """Codes, or real numbers of one scale and zero point."""
        for name in node.inputs:
            self._pass_reason(name, node.outputs[0])
        codes = [self._codes[name] for name in node.inputs if name in self._codes]
        reals = [self._reals[name] for name in node.inputs if name in self._reals]
        if len(codes) == len(node.inputs) and len({each.type for each in codes}) == 1:
            self._codes[node.outputs[0]] = _joined(codes)
        elif len(reals) == len(node.inputs) and len({(r.codes.type, r.scale, r.zero_point) for r in reals}) == 1:
            self._reals[node.outputs[0]] = replace(reals[0], codes=_joined([each.codes for each in reals]))

    def _dynamic(self, node: OnnxNode) -> None:
        raise NotStatic("its activation is quantized when the model runs (DynamicQuantizeLinear)")


def _code(bound: float, scale: np.float32, zero_point: int) -> float:
    with np.errstate(over="ignore"):
        return float(np.rint(np.float32(bound) / scale)) + zero_point


def _joined(parts: list[CodeRange]) -> CodeRange:
    joined = parts[0]
    for part in parts[1:]:
        joined = joined.joined(part)
    return joined


_HANDLERS: dict[str, Callable[[Ranges, OnnxNode], None]] = {
    "Cast": Ranges._cast, "Clip": Ranges._clip, "Concat": Ranges._concat, "DequantizeLinear": Ranges._dequantize,
    "DynamicQuantizeLinear": Ranges._dynamic, "QuantizeLinear": Ranges._quantize, "Relu": Ranges._clip,
}  # fmt: skip
