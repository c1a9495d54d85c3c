"""ONNX models of one quantized layer, in every form that tools write; input 'x', output 'y'."""

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

F32 = np.float32
Y_SCALE, ONE, FIRST = F32(4000), F32(1), np.uint8(0)


def assemble(nodes, constants, shape, opset=21, x_type=TensorProto.FLOAT) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", x_type, list(shape))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def node(op: str, inputs: list[str], output: str, **attributes: Any) -> onnx.NodeProto:
    domain, _, op = op.rpartition(".")
    return helper.make_node(op, inputs, [output], name=output, domain=domain, **attributes)


def layer_model(
    op: str,
    weight: np.ndarray,
    shape: tuple[int, ...],
    x_zero: Any = FIRST,
    w_zero: Any = None,
    x_scale: Any = ONE,
    w_scale: Any = ONE,
    y_scale: Any = Y_SCALE,
    bounds: tuple[int, int] | None = None,
    requantized: bool = True,
    axis: int = 0,
    opset: int = 21,
    **attributes: Any,
) -> onnx.ModelProto:
    """Image or rows 'x' -> codes -> the layer 'layer' -> y; op: an operator between DequantizeLinear, or on codes."""
    w_zero = np.zeros((), weight.dtype) if w_zero is None else w_zero
    x_zero, y_zero = np.asarray(x_zero), np.asarray(x_zero)
    y_zero = np.asarray(128 if y_zero.dtype == np.uint8 else 0, y_zero.dtype)
    constants = {
        "xs": x_scale, "xz": x_zero, "w": weight, "ws": w_scale, "wz": w_zero, "ys": y_scale, "yz": y_zero,
    }  # fmt: skip
    nodes, codes = [node("QuantizeLinear", ["x", "xs", "xz"], "codes")], "codes"
    if bounds is not None:
        constants |= {"low": np.asarray(bounds[0], x_zero.dtype), "high": np.asarray(bounds[1], x_zero.dtype)}
        nodes.append(node("Clip", ["codes", "low", "high"], "clipped"))
        codes = "clipped"
    last = node("DequantizeLinear", ["layer", "ys", "yz"], "y")
    if op in ("QLinearConv", "QLinearMatMul", "com.microsoft.QLinearConv"):
        inputs = [codes, "xs", "xz", "w", "ws", "wz", "ys", "yz"]
        nodes += [node(op, inputs, "layer", **attributes), last]
    elif op == "com.microsoft.QGemm":
        nodes += [node(op, [codes, "xs", "xz", "w", "ws", "wz", "", "ys", "yz"], "layer", **attributes), last]
    elif op in ("ConvInteger", "MatMulInteger"):
        nodes += [node(op, [codes, "w", "xz", "wz"], "layer", **attributes), node("Cast", ["layer"], "y", to=1)]
    elif op == "com.microsoft.MatMulIntegerToFloat":
        nodes += [node(op, [codes, "w", "xs", "ws", "xz", "wz"], "layer"), node("Identity", ["layer"], "y")]
    else:
        nodes += [
            node("DequantizeLinear", [codes, "xs", "xz"], "x_real"),
            node("DequantizeLinear", ["w", "ws", "wz"], "w_real", **({"axis": axis} if opset >= 13 else {})),
            node(op, ["x_real", "w_real"], "layer", **attributes),
        ]
        if requantized:
            nodes += [
                node("QuantizeLinear", ["layer", "ys", "yz"], "y_codes"),
                node("DequantizeLinear", ["y_codes", "ys", "yz"], "y"),
            ]
        else:
            nodes.append(node("Identity", ["layer"], "y"))
    return assemble(nodes, constants, shape, opset)
