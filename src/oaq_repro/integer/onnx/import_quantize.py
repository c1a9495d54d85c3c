"""QuantizeLinear, DequantizeLinear and Clip of codes, as what is known of the values of a model."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from onnx import TensorProto

from oaq_repro.integer.graph import nodes as ir
from oaq_repro.integer.graph.arithmetic import Array, function_table
from oaq_repro.integer.onnx.constants import Dequantized, quantized
from oaq_repro.integer.onnx.meanings import OFFSETS, Codes, Pending, Real, clamped, cut
from oaq_repro.integer.onnx.reader import OnnxNode
from oaq_repro.integer.onnx.tensors import DTYPES, type_name
from oaq_repro.integer.onnx.values import Values


def quantize(values: Values, node: OnnxNode) -> None:
    """QuantizeLinear: of a constant, of the model's input, or of what is pending."""
    if node.input(0) in values.splits:
        _before_the_split(values, node, quantize)
        return
    scale, zero_point, axis = _parameters(values, node)
    constant = values.constant(node, 0)
    if constant is not None:
        values.folded[node.outputs[0]] = quantized(node, constant, scale, zero_point, axis)
        return
    if scale.size != 1 or zero_point.size != 1:
        raise node.error("found several scales for an activation, expected one")
    offset = OFFSETS.get(zero_point.dtype)
    if offset is None:
        raise node.error(f"found {zero_point.dtype} codes, expected uint8 or int8")
    q = ir.QParams(np.float32(scale.reshape(-1)[0]), int(zero_point.reshape(-1)[0]) - offset, 255)
    before, low = len(values.nodes), 0
    if node.input(0) == values.model.input_name:
        made = values.add(ir.Quantize(values.name(node.outputs[0]), (values.model.input_name,), q))
    else:
        real = values.float_value(node, 0)
        if real.function is not None:
            table = function_table(real.function.values, q)
            made = values.add(ir.Elementwise(values.name(node.outputs[0]), (str(real.source),), q, table))
        else:
            q, low = clamped(node, q, real)
            made = _with_output(values, node, real.source, q)
    values.codes[node.outputs[0]] = Codes(made, offset + low, zero_point.dtype)
    if len(values.nodes) > before:
        values.fresh.add(node.outputs[0])


def _with_output(values: Values, node: OnnxNode, source: str | Pending, q: ir.QParams) -> str:
    if isinstance(source, Pending):
        return values.add(source.build(values.name(source.origin.name or node.outputs[0]), q))
    known = values.q[source]
    if (known.scale, known.zero_point) == (q.scale, q.zero_point) and known.q_max <= q.q_max:
        return source
    return values.add(ir.Requantize(values.name(node.outputs[0]), (source,), q))


def _before_the_split(values: Values, node: OnnxNode, convert: Callable[[Values, OnnxNode], None]) -> None:
    """Within a shuffle of channels: the same of the tensor whose channels were split."""
    split, name = values.splits[node.input(0)], values.tensor_name(f"{node.outputs[0]}.whole")
    convert(values, node.part(node.op, [split.source, *node.all_inputs()[1:]], name))
    values.splits[node.outputs[0]] = replace(split, source=name)


def dequantize(values: Values, node: OnnxNode) -> None:
    """DequantizeLinear: of a constant (weights, bias) or of codes, with the QParams they were made with."""
    if node.input(0) in values.splits:
        _before_the_split(values, node, dequantize)
        return
    scale, zero_point, axis = _parameters(values, node)
    constant = values.constant(node, 0)
    if constant is not None:
        if node.input(2) and zero_point.dtype != constant.dtype:
            raise node.error(f"zero point {node.input(2)!r}: found {zero_point.dtype}, expected {constant.dtype}")
        values.weights[node.outputs[0]] = Dequantized(constant, scale, zero_point, axis)
        return
    codes = values.codes.get(node.input(0))
    if codes is None or (node.input(2) and zero_point.dtype != codes.dtype):
        raise node.error(f"input {node.input(0)!r}: expected a constant, or the uint8 or int8 of a QuantizeLinear")
    q = values.q[codes.node]
    if scale.size != 1 or zero_point.size != 1:
        raise node.error("found several scales for an activation, expected one")
    found = float(scale.reshape(-1)[0]), int(zero_point.reshape(-1)[0]) - codes.offset
    if found != (float(q.scale), q.zero_point):
        raise node.error("found another scale or zero point than that of the QuantizeLinear before it")
    values.real[node.outputs[0]] = Real(codes.node)


def _parameters(values: Values, node: OnnxNode) -> tuple[Array, Array, int]:
    """Scale float32, zero point of the codes' type (where that is known), and axis."""
    node.expect(block_size=0)
    scale, zero_point, axis = values.constant(node, 1), values.constant(node, 2), node.attribute("axis", 1)
    if scale is None or scale.dtype != np.float32 or scale.ndim > 1 or not (np.isfinite(scale) & (scale > 0)).all():
        raise node.error(f"scale {node.input(1)!r}: expected constants, float32, finite and above 0")
    if node.input(2) and zero_point is None:
        raise node.error(f"zero point {node.input(2)!r}: expected a constant")
    quantizes = node.op == "QuantizeLinear"
    wanted = node.attribute("output_dtype", 0)
    if not quantizes and wanted not in (0, TensorProto.FLOAT):
        raise node.error(f"output_dtype: found {type_name(wanted)}, expected FLOAT")
    if zero_point is None:
        dtype = DTYPES.get(wanted or TensorProto.UINT8) if quantizes else np.int32
        if dtype is None:
            raise node.error(f"output_dtype: found {type_name(wanted)}, expected UINT8 or INT8")
        zero_point = np.zeros_like(scale, dtype)
    elif quantizes and wanted and DTYPES.get(wanted) != zero_point.dtype:
        raise node.error(f"output_dtype: found {type_name(wanted)}, expected that of the zero point")
    if zero_point.ndim > 1 or zero_point.size != scale.size or zero_point.dtype.kind not in "iu":
        raise node.error(f"zero point {node.input(2)!r}: expected as many integers as there are scales")
    return scale, zero_point, axis


def clip_codes(values: Values, node: OnnxNode) -> None:
    """Clip of codes: fewer of them."""
    codes = values.codes[node.input(0)]
    bounds = values.scalar(node, 1, -np.inf, codes.dtype), values.scalar(node, 2, np.inf, codes.dtype)
    q = values.q[codes.node]
    low, high = (int(np.clip(bound - codes.offset, 0, q.q_max)) for bound in bounds)
    clipped, name = cut(node, q, low, high), codes.node
    if node.input(0) in values.fresh and values.readers[node.input(0)] == 1:
        made = values.nodes[name]
        assert isinstance(made, ir.CodeNode)  # as `codes` has them
        values.nodes[name] = replace(made, output=clipped)
        if isinstance(made, ir.Elementwise):
            table = np.clip(made.table, low, high) - np.uint8(low)
            values.nodes[name] = replace(made, output=clipped, table=table)
        values.q[name] = clipped
    elif clipped != q:
        name = values.add(ir.Requantize(values.name(node.outputs[0]), (name,), clipped))
    values.codes[node.outputs[0]] = Codes(name, codes.offset + low, codes.dtype)
