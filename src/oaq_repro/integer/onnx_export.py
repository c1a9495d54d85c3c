"""An integer graph as a quantized ONNX model (QDQ) that ONNX Runtime runs to the same bits as the executor on int32.

Every value is uint8; layers are DequantizeLinear -> Conv or Gemm -> QuantizeLinear, which ONNX Runtime fuses into
QLinearConv and QGemm with the executor's arithmetic; `Clip` on the codes bounds them by q_max. The other operators
are written so that ONNX Runtime cannot fuse them into kernels that round otherwise (`_BARRIER`, integer sums).
On x86 without VNNI, ONNX Runtime adds saturated pairs of products (onnxruntime_session_options_config_keys.h): equal
there for layers that `audit` calls exact, or with the session option "session.x64quantprecision" = "1".
ONNX knows no accumulators: they are in the metadata, with all that `onnx_import` needs to give the same graph back.
"""

import json
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from oaq_repro.errors import InputError
from oaq_repro.files import write_atomic
from oaq_repro.integer import graph_file
from oaq_repro.integer import nodes as ir
from oaq_repro.integer.graph import Graph
from oaq_repro.integer.shapes import Shape, nearest_pixels, pooled_pixels, resize_taps, window_count

OPSET, IR_VERSION = 13, 8  # the oldest opset with weights quantized per channel; tried on ONNX Runtime 1.17 and 1.32
METADATA_KEY = "oaq_repro.graph"
LARGEST_MODEL = (1 << 31) - 1  # bytes of one protobuf message

_BARRIER = np.finfo(np.float32).min
"""Max with this changes no value. Without it ONNX Runtime (seen in 1.17 and 1.32) merges DequantizeLinear ->
QuantizeLinear with its neighbours and fuses Add into QLinearAdd; both round otherwise."""


def export_onnx(graph: Graph, input_shape: tuple[int, int, int], path: Path | str) -> Path:
    """Write the model for float32 images [N, *input_shape], N free, atomically.

    InputError: a graph that is not valid or does not fit the shape, a model beyond protobuf's 2 GiB, a full disk.
    """
    model = build_model(graph, input_shape)
    try:
        content = model.SerializeToString(deterministic=True)
    except ValueError as error:
        raise InputError(f"{path}: the model cannot be written as one ONNX file ({error}), expected < 2 GiB") from error
    return write_atomic(path, content)


def build_model(graph: Graph, input_shape: tuple[int, int, int], largest: int = LARGEST_MODEL) -> onnx.ModelProto:
    """The model as a protobuf message; the same graph and shape give the same message.

    InputError where its constants would have more than `largest` bytes.
    """
    graph.validate()
    shapes = graph.shapes(input_shape)
    needed = sum(_constant_bytes(node, shapes) for node in graph.nodes)
    if needed > largest:
        raise InputError(f"graph: found {needed} bytes of constants, expected at most {largest} (one ONNX file)")
    writer = _Writer(graph, shapes)
    try:
        for node in graph.nodes:
            writer.write(node)
        body = helper.make_graph(
            writer.nodes,
            "oaq_repro",
            [helper.make_tensor_value_info(graph.input_name, TensorProto.FLOAT, ["N", *shapes[graph.input_name]])],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", *shapes[name]]) for name in graph.outputs],
            [numpy_helper.from_array(array, name) for name, array in writer.constants.items()],
        )
    except UnicodeEncodeError as error:
        raise InputError(f"graph: found the name {error.object!r}, expected text that UTF-8 can encode") from error
    opsets = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(body, opset_imports=opsets, ir_version=IR_VERSION, producer_name="oaq_repro")
    header, _ = graph_file.to_header(graph.input_name, graph.nodes, graph.outputs)
    helper.set_model_props(model, {METADATA_KEY: json.dumps(header)})
    return model


def _constant_bytes(node: ir.Node, shapes: dict[str, Shape]) -> int:
    """Bytes of a node's large constants in the model."""
    if isinstance(node, ir.Conv | ir.Linear):
        return node.weight.nbytes
    if isinstance(node, ir.AvgPool):
        return shapes[node.name][0] * node.kernel[0] * node.kernel[1] + 4 * prod(shapes[node.name][1:])
    if isinstance(node, ir.ResizeNearest):
        return 8 * sum(shapes[node.name][1:])  # an index int64 per row and column
    if isinstance(node, ir.Resize) and shapes[node.name] != shapes[node.inputs[0]]:
        return 24 * sum(shapes[node.name][1:])  # two indices int64 and two shares float32 per row and column
    return 0


def separator(names: list[str]) -> str:
    """What stands between a node's name and a part's (`conv1/weight`): slashes that are in no node's name."""
    slash = "/"
    while any(slash in name for name in names):
        slash += "/"
    return slash


class _Writer:
    """Turns nodes into ONNX nodes and constants; the value of a node goes by the node's name."""

    def __init__(self, graph: Graph, shapes: dict[str, Shape]) -> None:
        self.graph, self.shapes = graph, shapes
        self.q = {node.name: node.output for node in graph.nodes if not isinstance(node, ir.Dequantize)}
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}
        self.slash = separator([graph.input_name, *(node.name for node in graph.nodes)])

    def write(self, node: ir.Node) -> None:
        getattr(self, f"write_{type(node).__name__.lower()}")(node)

    def _add(self, op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    def _part(self, node: ir.Node, part: str) -> str:
        return f"{node.name}{self.slash}{part}"

    def _constant(self, node: ir.Node, part: str, value: Any, dtype: Any) -> str:
        name = self._part(node, part)
        self.constants[name] = np.asarray(value, dtype)
        return name

    def _dequantized(self, node: ir.Node, at: int, output: str | None = None) -> str:
        """The real value of a node's input number `at`."""
        q = self.q[node.inputs[at]]
        scale = self._constant(node, f"scale_{at}", q.scale, np.float32)
        zero_point = self._constant(node, f"zero_point_{at}", q.zero_point, np.uint8)
        inputs = [node.inputs[at], scale, zero_point]
        return self._add("DequantizeLinear", inputs, output or self._part(node, f"dequantized_{at}"))

    def _quantized(self, node: ir.Node, value: str, q: ir.QParams, output: str, scale: np.float32 | None = None) -> str:
        """Codes of a float value: by `q`, or by another scale."""
        part = "" if output == node.name else output.removeprefix(node.name + self.slash) + "."
        constants = [
            self._constant(node, part + "scale", q.scale if scale is None else scale, np.float32),
            self._constant(node, part + "zero_point", q.zero_point, np.uint8),
        ]
        if q.q_max == 255:
            return self._add("QuantizeLinear", [value, *constants], output)
        largest = self._constant(node, part + "q_max", q.q_max, np.uint8)
        codes = self._add("QuantizeLinear", [value, *constants], self._part(node, part + "quantized"))
        return self._add("Clip", [codes, "", largest], output)

    def _rescaled(self, node: ir.Node, at: int, q: ir.QParams, output: str) -> str:
        """Input number `at` at the QParams `q`, as the executor's `rescale`."""
        value = self._dequantized(node, at)
        kept = self._add("Max", [value, self._constant(node, "lowest", _BARRIER, np.float32)], f"{value}.kept")
        return self._quantized(node, kept, q, output)

    def _requantized(self, node: ir.Node, acc: str, multiplier: np.ndarray, q: ir.QParams) -> None:
        """int32 sums to codes with one multiplier, or one per pixel, in separate float32 steps."""
        real = self._add("Cast", [acc], self._part(node, "float"), to=TensorProto.FLOAT)
        factor = self._constant(node, "multiplier", multiplier, np.float32)
        scaled = self._add("Mul", [real, factor], self._part(node, "scaled"))
        self._quantized(node, scaled, q, node.name, scale=np.float32(1))

    def _layer(self, node: ir.Layer) -> list[str]:
        """Dequantized input, weight and bias of a layer."""
        source = self.q[node.inputs[0]]
        bias_scale = source.scale * node.weight_scale
        if not np.array_equal(bias_scale / node.output.scale, node.multiplier):
            expected = "scale of the input * weight_scale / scale of the output, in float32 and this order"
            raise InputError(f"graph node {node.name!r}: multiplier: found another value than {expected}")
        outputs = len(node.weight)
        weight = [
            self._constant(node, "weight", node.weight, np.int8),
            self._constant(node, "weight_scale", node.weight_scale, np.float32),
            self._constant(node, "weight_zero_point", np.zeros(outputs), np.int8),
        ]
        bias = [
            self._constant(node, "bias", node.bias, np.int32),
            self._constant(node, "bias_scale", bias_scale, np.float32),
        ]
        return [
            self._dequantized(node, 0),
            self._add("DequantizeLinear", weight, self._part(node, "weight_dequantized"), axis=0),
            self._add("DequantizeLinear", bias, self._part(node, "bias_dequantized"), axis=0),
        ]

    def write_quantize(self, node: ir.Quantize) -> None:
        self._quantized(node, node.inputs[0], node.output, node.name)

    def write_dequantize(self, node: ir.Dequantize) -> None:
        self._dequantized(node, 0, node.name)

    def write_conv(self, node: ir.Conv) -> None:
        real = self._add(
            "Conv", self._layer(node), self._part(node, "real"), kernel_shape=node.weight.shape[2:],
            strides=node.stride, pads=node.padding * 2, dilations=node.dilation, group=node.groups,
        )  # fmt: skip
        self._quantized(node, real, node.output, node.name)

    def write_linear(self, node: ir.Linear) -> None:
        real = self._add("Gemm", self._layer(node), self._part(node, "real"), transB=1)
        self._quantized(node, real, node.output, node.name)

    def write_requantize(self, node: ir.Requantize) -> None:
        if self.q[node.inputs[0]] == node.output:
            self._add("Identity", [node.inputs[0]], node.name)
        else:
            self._rescaled(node, 0, node.output, node.name)

    def write_concat(self, node: ir.Concat) -> None:
        parts = [
            name if self.q[name] == node.output
            else self._rescaled(node, at, node.output, self._part(node, f"part_{at}"))
            for at, name in enumerate(node.inputs)
        ]  # fmt: skip
        self._add("Concat", parts, node.name, axis=1)

    def write_maxpool(self, node: ir.MaxPool) -> None:
        """The padding of `ceil_mode` is written out: versions of ONNX Runtime differ about the last window."""
        begin, end = list(node.padding), list(node.padding)
        for axis, size in enumerate(self.shapes[node.inputs[0]][1:]):
            if node.ceil_mode:
                kernel, stride, dilation = node.kernel[axis], node.stride[axis], node.dilation[axis]
                count = window_count(size, kernel, stride, begin[axis], dilation, ceil=True)
                end[axis] = max((count - 1) * stride + dilation * (kernel - 1) + 1 - size - begin[axis], 0)
        value, pads = node.inputs[0], [*begin, *end]
        if any(pad >= node.kernel[i % 2] for i, pad in enumerate(pads)):  # more than MaxPool takes
            amounts = self._constant(node, "pads", [0, 0, *begin, 0, 0, *end], np.int64)
            padded = self._add("Pad", [value, amounts], self._part(node, "padded"))
            # Clip changes nothing; it keeps ONNX Runtime 1.17 from moving the padding into the MaxPool again.
            largest = self._constant(node, "q_max", node.output.q_max, np.uint8)
            value, pads = self._add("Clip", [padded, "", largest], self._part(node, "padded_codes")), [0, 0, 0, 0]
        self._add(
            "MaxPool", [value], node.name, kernel_shape=node.kernel, strides=node.stride, pads=pads,
            dilations=node.dilation,
        )  # fmt: skip

    def write_add(self, node: ir.Add) -> None:
        total = self._add("Add", [self._dequantized(node, 0), self._dequantized(node, 1)], self._part(node, "real"))
        lowest = self._constant(node, "lowest", _BARRIER, np.float32)
        kept = self._add("Max", [total, lowest], self._part(node, "kept"))
        self._quantized(node, kept, node.output, node.name)

    def write_avgpool(self, node: ir.AvgPool) -> None:
        """Integer sums by a depthwise ConvInteger of ones: QLinearAveragePool rounds otherwise."""
        source, channels = self.q[node.inputs[0]], self.shapes[node.inputs[0]][0]
        ones = self._constant(node, "ones", np.ones((channels, 1, *node.kernel)), np.uint8)
        zero_point = self._constant(node, "zero_point_0", source.zero_point, np.uint8)
        acc = self._add(
            "ConvInteger", [node.inputs[0], ones, zero_point], self._part(node, "acc"), kernel_shape=node.kernel,
            strides=node.stride, pads=node.padding * 2, group=channels,
        )  # fmt: skip
        counts = pooled_pixels(node, *self.shapes[node.inputs[0]][1:])
        counts = counts if len(np.unique(counts)) > 1 else counts[0, 0]
        self._requantized(node, acc, ir.pool_multiplier(source, node.output, counts), node.output)

    def write_globalavgpool(self, node: ir.GlobalAvgPool) -> None:
        source, shape = self.q[node.inputs[0]], self.shapes[node.inputs[0]]
        count = shape[1] * shape[2]
        codes = self._add("Cast", [node.inputs[0]], self._part(node, "int32"), to=TensorProto.INT32)
        axes = self._constant(node, "axes", [2, 3], np.int64)
        total = self._add("ReduceSum", [codes, axes], self._part(node, "sum"), keepdims=int(node.keepdims))
        shift = self._constant(node, "shift", count * source.zero_point, np.int32)
        acc = self._add("Sub", [total, shift], self._part(node, "acc"))
        self._requantized(node, acc, ir.pool_multiplier(source, node.output, count), node.output)

    def write_resize(self, node: ir.Resize) -> None:
        """Gathered rows and columns, interpolated in float32 as the executor does; rounded once."""
        sizes, wanted = self.shapes[node.inputs[0]][1:], self.shapes[node.name][1:]
        if sizes == wanted:
            self._add("Identity", [node.inputs[0]], node.name)
            return
        value = self._add("Cast", [node.inputs[0]], self._part(node, "float"), to=TensorProto.FLOAT)
        for axis, part in enumerate(("row", "column")):
            first, second, t = resize_taps(sizes[axis], wanted[axis], node.align_corners)
            terms = []
            for name, index, share in (("a", first, np.float32(1) - t), ("b", second, t)):
                taps = self._constant(node, f"{part}_{name}_index", index, np.int64)
                share = share.reshape((-1, 1) if axis == 0 else -1)
                factor = self._constant(node, f"{part}_{name}_share", share, np.float32)
                taken = self._add("Gather", [value, taps], self._part(node, f"{part}_{name}"), axis=axis + 2)
                terms.append(self._add("Mul", [taken, factor], self._part(node, f"{part}_{name}_scaled")))
            value = self._add("Add", terms, self._part(node, part))
        exact = ir.QParams(np.float32(1), 0, node.output.q_max)
        self._quantized(node, value, exact, node.name)

    def write_resizenearest(self, node: ir.ResizeNearest) -> None:
        value, shape = node.inputs[0], self.shapes[node.inputs[0]]
        for axis, part in enumerate(("rows", "columns")):
            numerator, denominator = node.factor[2 * axis], node.factor[2 * axis + 1]
            taken = nearest_pixels(shape[1 + axis], numerator, denominator, node.rule)
            indices = self._constant(node, f"{part}_index", taken, np.int64)
            output = node.name if axis == 1 else self._part(node, part)
            value = self._add("Gather", [value, indices], output, axis=axis + 2)

    def write_flatten(self, node: ir.Flatten) -> None:
        self._add("Flatten", [node.inputs[0]], node.name, axis=1)
