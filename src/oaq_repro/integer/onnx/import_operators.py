"""Operators of quantized models of other tools as nodes of an integer graph: one function per operator.

Convolutions and matrix products have ONNX Runtime's arithmetic (QLinearConv, QGemm), the others that of the graph: ONNX
Runtime's fused Add, pools by average and Resize round ties otherwise, by one code, and so do convolutions that it
leaves in float (an activation or a bias that it cannot fuse). What the graph cannot express is an InputError naming the
node.
"""

import numpy as np

from oaq_repro.integer.graph import nodes as ir
from oaq_repro.integer.onnx.constants import value_of
from oaq_repro.integer.onnx.import_elementwise import FUNCTIONS, elementwise
from oaq_repro.integer.onnx.import_layers import add_bias, conv, conv_transpose, gemm, matmul, padding_of, pair
from oaq_repro.integer.onnx.import_quantize import clip_codes, dequantize, quantize
from oaq_repro.integer.onnx.import_resize import resize
from oaq_repro.integer.onnx.import_select import gather, slice_channels, split
from oaq_repro.integer.onnx.import_views import flatten, reshape, squeeze, transpose, unsqueeze
from oaq_repro.integer.onnx.meanings import Codes, Function, Pending, Real
from oaq_repro.integer.onnx.qoperators import Converter, QOperator, same_as
from oaq_repro.integer.onnx.reader import OnnxNode
from oaq_repro.integer.onnx.values import Values, moved, passed


def _constant(values: Values, node: OnnxNode) -> None:
    values.folded[node.outputs[0]] = value_of(node)


def _identity(values: Values, node: OnnxNode) -> None:
    """The same value under another name: Identity, and Dropout where nothing is trained."""
    name, output = node.input(0), node.outputs[0]
    if node.op == "Dropout":
        node.input(1), node.attribute("ratio", 0.5), node.attribute("seed", 0)  # play no part
        if values.scalar(node, 2, False, np.bool_):
            raise node.error("training_mode: found true, expected a model for inference")
    values.constant(node, 0)
    if not values.rename(name, output):
        raise node.error(f"input {name!r}: expected a quantized value or a constant")


def _clip(values: Values, node: OnnxNode) -> None:
    """Relu, Clip, and Max with a number: bounds that the next QuantizeLinear turns into codes."""
    if node.op == "Clip":
        constant = values.constant(node, 0)
        if constant is not None:
            low, high = (values.scalar(node, at, bound, constant.dtype) for at, bound in ((1, -np.inf), (2, np.inf)))
            values.folded[node.outputs[0]] = np.minimum(np.maximum(constant, low), high).astype(constant.dtype)
            return
        if node.input(0) in values.codes:
            clip_codes(values, node)
            return
    real = values.float_value(node, 0)
    low = 0.0 if node.op == "Relu" else values.scalar(node, 1, -np.inf)
    high = values.scalar(node, 2, np.inf) if node.op == "Clip" else np.inf
    if low <= np.finfo(np.float32).min:
        low = -np.inf
    if real.function is not None:
        kept = np.clip(real.function.values, low, high).astype(np.float32)
        values.real[node.outputs[0]] = Real(real.source, function=Function(node, kept))
        return
    if real.high < low or high < real.low:  # one of them alone is the result
        raise node.error(f"found a clamp to [{low}, {high}] of values in [{real.low}, {real.high}]")
    bounds = max(real.low, low), min(real.high, high)
    values.real[node.outputs[0]] = Real(real.source, *bounds)


def _add(values: Values, node: OnnxNode) -> None:
    if add_bias(values, node):
        node.all_inputs()
        return
    _of_two(values, node, ir.Add)


def _multiply(values: Values, node: OnnxNode) -> None:
    _of_two(values, node, ir.Multiply)


def _of_two(values: Values, node: OnnxNode, operator: type[ir.Add | ir.Multiply]) -> None:
    """An operator of two tensors; of one tensor and a constant, or of one tensor and its function, a function of it."""
    reals = [values.real.get(name) for name in node.all_inputs()]
    a, b = reals if len(reals) == 2 else (None, None)
    if a is None or b is None or a.source == b.source and not (a.is_plain() and b.is_plain()):
        elementwise(values, node)
        return
    names = values.value(node, 0), values.value(node, 1)
    inputs = _repeated(values, *names), _repeated(values, *names[::-1])
    values.real[node.outputs[0]] = Real(Pending(node, lambda name, q: operator(name, inputs, q)))


def _repeated(values: Values, name: str, other: str) -> str:
    """A value [1, H, W] beside another [C, H, W] as one of C channels."""
    shape, whole = values.shapes.get(name, ()), values.shapes.get(other, ())
    if not (len(shape) == len(whole) == 3 and shape[0] == 1 < whole[0] and shape[1:] == whole[1:]):
        return name
    channels = np.zeros(whole[0], np.int64)
    return values.add(ir.Select(values.name(f"{name}.repeated"), (name,), values.q[name], channels))


def _concat(values: Values, node: OnnxNode) -> None:
    axis, rank = node.attribute("axis", 1), values.rank(node, 0)
    if axis not in (1, 1 - rank):
        raise node.error(f"axis: found {axis} for values of {rank} dimensions, expected 1 (the channels)")
    codes = [values.codes.get(name) for name in node.all_inputs()]
    if codes[0] is not None:
        parts = [part for part in codes if part is not None]
        q, offset, dtype = values.q[parts[0].node], parts[0].offset, parts[0].dtype
        if len(parts) < len(codes) or any(values.q[c.node] != q or c.offset != offset for c in parts):
            raise node.error("found codes of several scales or zero points, expected equal ones")
        added = values.add(ir.Concat(values.name(node.name or node.outputs[0]), tuple(c.node for c in parts), q))
        values.codes[node.outputs[0]] = Codes(added, offset, dtype)
        return
    inputs = tuple(values.value(node, at) for at in range(len(node.inputs)))
    values.real[node.outputs[0]] = Real(Pending(node, lambda name, q: ir.Concat(name, inputs, q)))


def _max_pool(values: Values, node: OnnxNode) -> None:
    kernel, stride, padding = pair(node, "kernel_shape", 0), pair(node, "strides", 1), padding_of(node)
    dilation, ceil = pair(node, "dilations", 1), node.flag("ceil_mode", False)
    passed(values, node, lambda name, x, q: ir.MaxPool(name, (x,), q, kernel, stride, padding, dilation, ceil))


def _average_pool(values: Values, node: OnnxNode) -> None:
    node.expect(ceil_mode=0, dilations=(1, 1))
    kernel, stride, padding = pair(node, "kernel_shape", 0), pair(node, "strides", 1), padding_of(node)
    counted = node.flag("count_include_pad", False) or not any(padding)
    x = values.value(node, 0)
    pending = Pending(node, lambda name, q: ir.AvgPool(name, (x,), q, kernel, stride, padding, counted))
    values.real[node.outputs[0]] = Real(pending)


def _global_average_pool(values: Values, node: OnnxNode) -> None:
    """GlobalAveragePool, and ReduceMean over height and width."""
    keepdims = True
    if node.op == "ReduceMean":
        keepdims = node.flag("keepdims", True)
        axes = values.integers(node, 1) if node.input(1) else node.attribute("axes", ())
        if sorted(axis + 4 * (axis < 0) for axis in axes) != [2, 3]:
            raise node.error(f"axes: found {list(axes)}, expected height and width (2, 3)")
    x = values.value(node, 0)
    values.real[node.outputs[0]] = Real(Pending(node, lambda name, q: ir.GlobalAvgPool(name, (x,), q, keepdims)))


def _resize(values: Values, node: OnnxNode) -> None:
    passed(values, node, lambda name, x, q: resize(values, node, name, x))


def _depth_to_space(values: Values, node: OnnxNode) -> None:
    """Mode CRD as it is; of DCR, the default, the channels are brought into the order of CRD first."""
    block, mode = node.attribute("blocksize", 0), node.attribute("mode", "DCR")
    source = node
    if mode == "DCR":
        channels = values.shape_at(node, 0)[0]
        if block < 1 or channels % block**2:
            raise node.error(f"blocksize: found {block} for {channels} channels, expected its square to divide them")
        order = np.arange(channels).reshape(block, block, -1).transpose(2, 0, 1).ravel()
        source = node.part("Gather", [node.input(0)], values.tensor_name(f"{node.outputs[0]}.channels"))
        moved(values, source, lambda name, x, q: ir.Select(name, (x,), q, order))
        source = node.part(node.op, source.outputs[:1], node.outputs[0])
    moved(values, source, lambda name, x, q: ir.DepthToSpace(name, (x,), q, block))


CONVERTERS: dict[str, Converter] = {
    **dict.fromkeys(FUNCTIONS, elementwise),
    "Add": _add, "AveragePool": _average_pool, "Clip": _clip, "Concat": _concat, "Constant": _constant, "Conv": conv,
    "ConvTranspose": conv_transpose, "DepthToSpace": _depth_to_space,
    "DequantizeLinear": dequantize, "Dropout": _identity, "Flatten": flatten, "Gather": gather, "Gemm": gemm,
    "GlobalAveragePool": _global_average_pool, "Identity": _identity, "MatMul": matmul, "Max": _clip,
    "MaxPool": _max_pool, "Mul": _multiply, "QuantizeLinear": quantize, "ReduceMean": _global_average_pool,
    "Relu": _clip, "Reshape": reshape, "Resize": _resize, "Slice": slice_channels, "Split": split,
    "Squeeze": squeeze, "Transpose": transpose, "Unsqueeze": unsqueeze,
    "QLinearConv": QOperator("Conv", conv, bias=8, axis=0),
    "QLinearMatMul": QOperator("MatMul", matmul, axis=1),
    "com.microsoft.QGemm": QOperator("Gemm", gemm, output=7, bias=6),
    "com.microsoft.QLinearAdd": QOperator("Add", _add),
    "com.microsoft.QLinearAveragePool": QOperator("AveragePool", _average_pool, (0,), 3),
    "com.microsoft.QLinearConcat": QOperator("Concat", _concat, None, 0),
    "com.microsoft.QLinearGlobalAveragePool": QOperator("GlobalAveragePool", _global_average_pool, (0,), 3),
    "com.microsoft.QLinearLeakyRelu": QOperator("LeakyRelu", elementwise, (0,), 3),
    "com.microsoft.QLinearMul": QOperator("Mul", _multiply),
    "com.microsoft.QLinearSigmoid": QOperator("Sigmoid", elementwise, (0,), 3),
    "com.microsoft.QuantizeLinear": same_as("QuantizeLinear", quantize),
    "com.microsoft.DequantizeLinear": same_as("DequantizeLinear", dequantize),
}  # fmt: skip
