"""Operators of QDQ models of other tools as nodes of an integer graph: one function per operator.

Convolutions and matrix products have ONNX Runtime's arithmetic (QLinearConv, QGemm), the others that of the graph: ONNX
Runtime's fused Add, pools by average and Resize round ties otherwise, by one code, and so do convolutions that it
leaves in float (an activation or a bias that it cannot fuse). What the graph cannot express is an InputError naming the
node.
"""

from collections.abc import Callable

import numpy as np

from oaq_repro.integer import nodes as ir
from oaq_repro.integer.onnx_layers import conv, gemm, matmul, padding_of, pair
from oaq_repro.integer.onnx_qdq import Codes, Pending, Real, Values
from oaq_repro.integer.onnx_reader import OnnxNode, array

Converter = Callable[[Values, OnnxNode], None]


def _constant(values: Values, node: OnnxNode) -> None:
    if "value" in node.attributes:
        values.folded[node.outputs[0]] = array(node.outputs[0], node.attributes["value"].t)
    elif "value_ints" in node.attributes:
        values.folded[node.outputs[0]] = np.array(node.attribute("value_ints", ()), np.int64)
    elif "value_int" in node.attributes:
        values.folded[node.outputs[0]] = np.array(node.attribute("value_int", 0), np.int64)
    elif "value_float" in node.attributes:
        values.folded[node.outputs[0]] = np.array(node.attribute("value_float", 0.0), np.float32)
    else:
        raise node.error("expected value, value_int, value_ints or value_float")


def _identity(values: Values, node: OnnxNode) -> None:
    """The same value under another name: Identity, and Dropout where nothing is trained."""
    name, output = node.input(0), node.outputs[0]
    constant = values.constant(node, 0)
    if constant is not None:
        values.folded[output] = constant
    elif name in values.codes:
        values.codes[output] = values.codes[name]
    elif name in values.weights:
        values.weights[output] = values.weights[name]
    elif name in values.real:
        values.real[output] = values.real[name]
    else:
        raise node.error(f"input {name!r}: expected a quantized value or a constant")


def _clip(values: Values, node: OnnxNode) -> None:
    """Relu, Clip, and Max with a number: bounds that the next QuantizeLinear turns into codes."""
    if node.input(0) in values.codes and node.op == "Clip":
        values.clip_codes(node)
        return
    low = 0.0 if node.op == "Relu" else values.scalar(node, 1, -np.inf)
    high = values.scalar(node, 2, np.inf) if node.op == "Clip" else np.inf
    if low <= np.finfo(np.float32).min:
        low = -np.inf
    real = values.real.get(node.input(0))
    if real is None:
        raise node.error(f"input {node.input(0)!r}: expected a quantized value")
    bounds = max(real.low, low), min(real.high, high)
    values.real[node.outputs[0]] = Real(real.source, *bounds)


def _add(values: Values, node: OnnxNode) -> None:
    for at in (0, 1):
        real = values.real.get(node.input(at))
        product = real.source if real is not None else None
        constant = node.input(1 - at) in values.weights or values.constant(node, 1 - at) is not None
        if constant and isinstance(product, Pending) and product.origin.op == "MatMul":
            matmul(values, product.origin, node.input(1 - at), node)
            return
    inputs = values.value(node, 0), values.value(node, 1)
    values.real[node.outputs[0]] = Real(Pending(node, lambda name, q: ir.Add(name, inputs, q)))


def _concat(values: Values, node: OnnxNode) -> None:
    if node.attribute("axis", 1) != 1:
        raise node.error("axis: expected 1 (the channels)")
    codes = [values.codes.get(name) for name in node.inputs]
    if codes and codes[0] is not None:
        parts = [part for part in codes if part is not None]
        q, offset = values.q[parts[0].node], parts[0].offset
        if len(parts) < len(codes) or any(values.q[c.node] != q or c.offset != offset for c in parts):
            raise node.error("found codes of several scales or zero points, expected equal ones")
        added = values.add(ir.Concat(values.name(node.name or node.outputs[0]), tuple(c.node for c in parts), q))
        values.codes[node.outputs[0]] = Codes(added, offset)
        return
    inputs = tuple(values.value(node, at) for at in range(len(node.inputs)))
    values.real[node.outputs[0]] = Real(Pending(node, lambda name, q: ir.Concat(name, inputs, q)))


def _passed(values: Values, node: OnnxNode, make: Callable[[str, str, ir.QParams], ir.Node]) -> None:
    """An operator on codes that keeps their QParams, between DequantizeLinear and QuantizeLinear or on codes."""
    codes = values.codes.get(node.input(0))
    source = values.value(node, 0) if codes is None else codes.node
    added = values.add(make(values.name(node.name or node.outputs[0]), source, values.q[source]))
    if codes is None:
        values.real[node.outputs[0]] = Real(added)
    else:
        values.codes[node.outputs[0]] = Codes(added, codes.offset)


def _max_pool(values: Values, node: OnnxNode) -> None:
    if len(node.outputs) > 1:
        raise node.error("found a second output, expected one")
    kernel, stride, padding = pair(node, "kernel_shape", 0), pair(node, "strides", 1), padding_of(node)
    dilation, ceil = pair(node, "dilations", 1), node.attribute("ceil_mode", 0) != 0
    _passed(values, node, lambda name, x, q: ir.MaxPool(name, (x,), q, kernel, stride, padding, dilation, ceil))


def _average_pool(values: Values, node: OnnxNode) -> None:
    node.expect(ceil_mode=0, dilations=(1, 1))
    kernel, stride, padding = pair(node, "kernel_shape", 0), pair(node, "strides", 1), padding_of(node)
    if padding != (0, 0) and node.attribute("count_include_pad", 0) != 1:
        raise node.error("count_include_pad: found 0 with padding, expected 1")
    x = values.value(node, 0)
    pending = Pending(node, lambda name, q: ir.AvgPool(name, (x,), q, kernel, stride, padding))
    values.real[node.outputs[0]] = Real(pending)


def _global_average_pool(values: Values, node: OnnxNode) -> None:
    """GlobalAveragePool, and ReduceMean over height and width."""
    keepdims = True
    if node.op == "ReduceMean":
        keepdims = node.attribute("keepdims", 1) != 0
        axes = values.integers(node, 1) if node.input(1) else node.attribute("axes", ())
        if tuple(sorted(axis % 4 for axis in axes)) != (2, 3):
            raise node.error(f"axes: found {list(axes)}, expected height and width (2, 3)")
    x = values.value(node, 0)
    values.real[node.outputs[0]] = Real(Pending(node, lambda name, q: ir.GlobalAvgPool(name, (x,), q, keepdims)))


def _flatten(values: Values, node: OnnxNode) -> None:
    """Flatten, and Reshape to [N, C * H * W]."""
    if node.op == "Flatten":
        node.expect(axis=1)
    else:
        codes = values.codes.get(node.input(0))
        sizes = values.shape(values.value(node, 0) if codes is None else codes.node, node)
        count, wanted = int(np.prod(sizes, dtype=object)), values.integers(node, 1)
        batches = {0, -1} if values.model.batch is None else {0, -1, values.model.batch}
        rows = len(wanted) == 2 and wanted[0] in batches and wanted[1] in (count, -1) and wanted != (-1, -1)
        if not rows or node.attribute("allowzero", 0) != 0:
            raise node.error(f"shape: found {list(wanted)}, expected [N, {count}] for an input of {list(sizes)}")
    _passed(values, node, lambda name, x, q: ir.Flatten(name, (x,), q))


def _resize(values: Values, node: OnnxNode) -> None:
    """Linear Resize to the height and width of a value of the graph: the last one that has them."""
    places = ("half_pixel", "pytorch_half_pixel", "align_corners")
    place = node.attribute("coordinate_transformation_mode", "half_pixel")
    if node.attribute("mode", "nearest") != "linear" or place not in places:
        raise node.error(f"expected mode linear and coordinate_transformation_mode {', '.join(places)}")
    node.expect(antialias=0)
    shape = values.shape(values.value(node, 0), node)
    if node.input(3):
        wanted = tuple(float(size) for size in values.integers(node, 3))
        fits = len(wanted) == 4 and wanted[0] in (1, values.model.batch)
    else:
        scales = values.constant(node, 2)
        fits = scales is not None and scales.dtype == np.float32 and scales.shape == (4,) and scales[0] == 1
        if scales is None or not fits:
            raise node.error("expected constant sizes, or constant scales [1, 1, h, w]")
        wanted = (1.0, *(float(scale) * size for scale, size in zip(scales[1:], shape, strict=True)))
    size = wanted[2:]
    if not fits or wanted[1] != shape[0] or (place == "pytorch_half_pixel" and 1.0 in size and size != shape[1:]):
        raise node.error(f"found the size {list(wanted[1:])} for an input of {list(shape)}, expected equal channels")
    like = [name for name in values.q if len(values.shapes[name]) == 3 and values.shapes[name][1:] == size]
    if not like:
        raise node.error(f"found no value of height and width {list(size)} in the graph whose size could be taken")
    align_corners = place == "align_corners"
    _passed(values, node, lambda name, x, q: ir.Resize(name, (x, like[-1]), q, align_corners))


CONVERTERS: dict[str, Converter] = {
    "Add": _add, "AveragePool": _average_pool, "Clip": _clip, "Concat": _concat, "Constant": _constant, "Conv": conv,
    "DequantizeLinear": Values.dequantize, "Dropout": _identity, "Flatten": _flatten, "Gemm": gemm,
    "GlobalAveragePool": _global_average_pool, "Identity": _identity, "MatMul": matmul, "Max": _clip,
    "MaxPool": _max_pool, "QuantizeLinear": Values.quantize, "ReduceMean": _global_average_pool, "Relu": _clip,
    "Reshape": _flatten, "Resize": _resize,
}  # fmt: skip
