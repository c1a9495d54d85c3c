"""Float functions of one tensor of codes, as tables of codes: HardSwish, Sigmoid, x * Sigmoid(x), (x + 3) / 6.

Between a DequantizeLinear and a QuantizeLinear such operators are a table, whatever they are: every code is computed in
float32 by ONNX's reference implementation. ONNX Runtime's kernels differ from it in the last bit, so that a value at a
tie may get a neighbouring code.
"""

import numpy as np

from oaq_repro.integer.graph.arithmetic import Array, dequantize
from oaq_repro.integer.onnx.folding import evaluate
from oaq_repro.integer.onnx.meanings import Function, Real, expect_quantized
from oaq_repro.integer.onnx.reader import OnnxNode
from oaq_repro.integer.onnx.values import Values

FUNCTIONS = (
    "Abs", "Celu", "Div", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Log", "Mish", "Neg",
    "Pow", "PRelu", "Reciprocal", "Selu", "Sigmoid", "Softplus", "Softsign", "Sqrt", "Sub", "Tanh", "ThresholdedRelu",
)  # fmt: skip
"""Operators of which nothing else is known; Add, Mul, Max, Clip and Relu have integer forms of their own."""


def elementwise(values: Values, node: OnnxNode) -> None:
    """One function of the codes of one tensor; its other operands are constants of one element."""
    reals = [values.real[name] for name in node.all_inputs() if name in values.real]
    if not reals:
        values.float_value(node, 0)
    for real in reals:
        if real.function is None:
            expect_quantized(real)
    if len({real.source for real in reals}) > 1:
        raise node.error("found two tensors as operands, expected one and constants")
    operands = [
        of_codes(values, values.real[name]) if name in values.real else _number(values, node, at)
        for at, name in enumerate(node.inputs)
    ]
    node.read.update(node.attributes)
    found = evaluate(node, operands, values.model.opset)
    if found.shape != (256,) or found.dtype != np.float32:
        raise node.error(f"found a result {found.dtype} {list(found.shape)} for 256 numbers, expected one for each")
    values.real[node.outputs[0]] = Real(reals[0].source, function=Function(node, found))


def of_codes(values: Values, real: Real) -> Array:
    """The real number of every code of the node that a float tensor is computed from: float32 [256]."""
    if real.function is not None:
        return real.function.values
    numbers = dequantize(np.arange(256, dtype=np.uint8), values.q[str(real.source)])
    return np.clip(numbers, real.low, real.high).astype(np.float32)


def _number(values: Values, node: OnnxNode, at: int) -> Array | None:
    """An operand that is one number, float32 []; None where it is left out."""
    name = node.input(at)
    if not name:
        return None
    weights = values.weights.get(name)
    found = values.constant(node, at) if weights is None else weights.real(node).astype(np.float32)
    if found is None:
        raise node.error(f"input {name!r}: expected a quantized value (that a DequantizeLinear gives) or a constant")
    if found.size != 1 or found.dtype != np.float32:
        raise node.error(f"input {name!r}: found a constant operand, expected a float32 of one element")
    return found.reshape(())
