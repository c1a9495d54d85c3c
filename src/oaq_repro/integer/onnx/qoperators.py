"""Operators on codes (the QOperator form) as what they stand for: DequantizeLinear, an operator, QuantizeLinear.

ONNX Runtime runs both forms with the same kernels. Inputs as ONNX (QLinearConv, QLinearMatMul) and ONNX Runtime's
ContribOperators.md (com.microsoft) list them.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from oaq_repro.integer.onnx.constants import Dequantized
from oaq_repro.integer.onnx.import_quantize import dequantize, quantize
from oaq_repro.integer.onnx.reader import OnnxNode
from oaq_repro.integer.onnx.values import Values

Converter = Callable[[Values, OnnxNode], None]


@dataclass(frozen=True)
class QOperator:
    """How a node stands for `op`, which `convert` reads.

    operands: where inputs of three (tensor, scale, zero point) begin, None for all behind the first two; output: where
    scale and zero point of the result stand; bias: where an int32 bias stands, at the scale of input times weight;
    axis: of scales of a weight, from that of Gemm's columns where it depends on transB.
    """

    op: str
    convert: Converter
    operands: tuple[int, ...] | None = (0, 3)
    output: int = 6
    bias: int | None = None
    axis: int | None = None

    def __call__(self, values: Values, node: OnnxNode) -> None:
        """Convert the node."""
        node.expect(channels_last=0)
        places = range(2, len(node.inputs), 3) if self.operands is None else self.operands
        inputs = [self._dequantized(values, node, at) for at in places]
        if self.bias is not None and node.input(self.bias):
            inputs.append(self._bias(values, node, inputs[1]))
        if not node.input(self.output) or not node.input(self.output + 1):
            raise node.error("found no scale or zero point of the result, expected both")
        real = values.tensor_name(f"{node.outputs[0]}.real")
        self.convert(values, node.part(self.op, inputs, real))
        codes = [real, node.input(self.output), node.input(self.output + 1)]
        quantize(values, node.part("QuantizeLinear", codes, node.outputs[0]))

    def _dequantized(self, values: Values, node: OnnxNode, at: int) -> str:
        """The real value of three inputs, under a name of its own."""
        name = values.tensor_name(f"{node.outputs[0]}.input{at}")
        dequantize(values, node.part("DequantizeLinear", [node.input(at + i) for i in range(3)], name))
        weights = values.weights.get(name)
        if weights is not None:
            axis = self.axis
            if axis is None:
                axis = 0 if node.flag("transB", False) else 1
            values.weights[name] = replace(weights, axis=axis)
        return name

    def _bias(self, values: Values, node: OnnxNode, weight: str) -> str:
        """int32 at the scale of the input times that of the weight."""
        assert self.bias is not None
        name, codes = values.tensor_name(f"{node.outputs[0]}.bias"), values.constant(node, self.bias)
        scale, found = values.constant(node, 1), values.weights.get(weight)
        if codes is None or codes.dtype != np.int32 or scale is None or scale.size != 1 or found is None:
            raise node.error(f"bias {node.input(self.bias)!r}: expected constants int32")
        with np.errstate(over="ignore", under="ignore"):
            scales = scale.reshape(()) * found.scale
        values.weights[name] = Dequantized(codes, scales, np.zeros_like(scales, np.int32), 0)
        return name


def same_as(op: str, convert: Converter) -> Converter:
    """An operator of com.microsoft that is an operator of ONNX."""

    def converted(values: Values, node: OnnxNode) -> None:
        if len(node.inputs) > 3:
            raise node.error(f"found {len(node.inputs)} inputs, expected at most 3")
        convert(values, node.part(op, node.all_inputs(), node.outputs[0]))

    return converted
