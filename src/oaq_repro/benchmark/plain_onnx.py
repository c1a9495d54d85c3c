"""A quantized ONNX model as converters usually write it: the form that other runtimes have fast kernels for.

`onnx.exporter` writes some operators so that no runtime computes them with another rounding than the reference;
that keeps runtimes from fusing them, which would slow peers down, as would requantization by integers. Here those are
plain DequantizeLinear -> Operator -> QuantizeLinear. Results may differ from the reference's by a code per such
operator. So are tables of a function that peers have kernels for, which take a layer's float32 result where nothing
else reads it, as it is fused then.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, helper, numpy_helper

from oaq_repro.integer.graph import Graph
from oaq_repro.integer.graph import nodes as ir
from oaq_repro.integer.onnx.exporter import build_model
from oaq_repro.integer.onnx.writer import separator

REWRITTEN = (
    ir.Add | ir.AvgPool | ir.Concat | ir.Elementwise | ir.GlobalAvgPool | ir.Multiply | ir.Requantize | ir.Resize
)
OPSET = 14  # the first one with HardSwish
FUNCTIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "HardSwish": lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
    "HardSigmoid": lambda x: np.clip(x / 6 + 0.5, 0, 1),
    "Sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "Swish": lambda x: x / (1 + np.exp(-x)),  # written as two operators
    "Tanh": np.tanh,
}


def build_plain_model(graph: Graph, input_shape: tuple[int, int, int]) -> onnx.ModelProto:
    """The model for float32 images [1, *input_shape]; batch 1, as peers run it fastest with fixed shapes."""
    usual = (replace(n, requantization="float32") if isinstance(n, ir.RoundingNode) else n for n in graph.nodes)
    graph = replace(graph, nodes=tuple(usual))
    model = build_model(graph, input_shape)
    shapes = graph.shapes(input_shape)
    slash = separator([graph.input_name, *(node.name for node in graph.nodes)])
    rewritten = {
        node.name: node
        for node in graph.nodes
        if isinstance(node, REWRITTEN)
        and not (isinstance(node, ir.Elementwise) and function_of(node, graph.qparams(node.inputs[0])) is None)
    }
    nodes: list[NodeProto] = []
    written: set[str] = set()
    for proto in model.graph.node:
        node = rewritten.get(proto.output[0].split(slash)[0])
        if node is None:
            nodes.append(proto)
        elif node.name not in written:
            written.add(node.name)
            writer = _Plain(graph, shapes, slash)
            nodes += writer.write(node)
            model.graph.initializer.extend(writer.constants)
    read = {value.name for value in model.graph.output}
    used = []
    for proto in reversed(nodes):
        if read & set(proto.output):
            used.append(proto)
            read.update(proto.input)
    _replace(model.graph.node, used[::-1])
    model.opset_import[0].version = OPSET
    kept = {constant.name: constant for constant in model.graph.initializer if constant.name in read}
    _replace(model.graph.initializer, list(kept.values()))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    onnx.checker.check_model(model)
    return model


def function_of(node: ir.Elementwise, source: ir.QParams) -> str | None:
    """The one of FUNCTIONS whose codes are in the table, or not more than one beside it; None where none is."""
    x = (np.arange(source.q_max + 1) - float(source.zero_point)) * float(source.scale)
    q = node.output
    for name, function in FUNCTIONS.items():
        codes = np.clip(np.rint(function(x) / float(q.scale)) + q.zero_point, 0, q.q_max)
        if np.abs(codes - node.table[: len(x)]).max() <= 1:
            return name
    return None


def _replace(field, values) -> None:
    del field[:]
    field.extend(values)


class _Plain:
    """The ONNX nodes and constants of one node of the graph."""

    def __init__(self, graph: Graph, shapes: dict[str, ir.Shape], slash: str) -> None:
        self.graph, self.shapes, self.slash = graph, shapes, slash
        self.constants: list[onnx.TensorProto] = []

    def write(self, node: ir.Node) -> Iterator[NodeProto]:
        """Dequantize, the operator, quantize."""
        assert isinstance(node, REWRITTEN)
        sources = node.inputs[:1] if isinstance(node, ir.Resize) else node.inputs
        reals = [f"{node.name}{self.slash}plain_{at}" for at in range(len(sources))]
        for at, (source, real) in enumerate(zip(sources, reals, strict=True)):
            if isinstance(node, ir.Elementwise) and self._is_fused(source):
                reals[at] = f"{source}{self.slash}real"
                continue
            inputs = [source, *self._quantization(self.graph.qparams(source), real)]
            yield helper.make_node("DequantizeLinear", inputs, [real], name=real)
        result = f"{node.name}{self.slash}plain"
        flat = isinstance(node, ir.GlobalAvgPool) and not node.keepdims
        narrow = node.output.q_max < 255
        codes = f"{result}{self.slash}codes" if flat or narrow else node.name
        if isinstance(node, ir.Requantize):
            result = reals[0]
        elif isinstance(node, ir.Elementwise):
            yield from self._function(node, reals[0], result)
        else:
            yield self._operator(node, reals, result)
        yield helper.make_node("QuantizeLinear", [result, *self._quantization(node.output, codes)], [codes], name=codes)
        if narrow:
            largest = self._constant(f"{result}{self.slash}q_max", np.uint8(node.output.q_max))
            clipped = f"{result}{self.slash}clipped" if flat else node.name
            yield helper.make_node("Clip", [codes, "", largest], [clipped], name=clipped)
            codes = clipped
        if flat:
            yield helper.make_node("Flatten", [codes], [node.name], name=node.name, axis=1)

    def _is_fused(self, source: str) -> bool:
        """Whether a value is that of a layer and read once: peers then apply a function to its float32 result."""
        readers = sum(node.inputs.count(source) for node in self.graph.nodes)
        return readers == 1 and any(layer.name == source for layer in self.graph.layers())

    def _function(self, node: ir.Elementwise, real: str, result: str) -> Iterator[NodeProto]:
        function = function_of(node, self.graph.qparams(node.inputs[0]))
        assert function is not None  # build_plain_model has looked
        if function == "Swish":
            gate = f"{result}{self.slash}gate"
            yield helper.make_node("Sigmoid", [real], [gate], name=gate)
            yield helper.make_node("Mul", [real, gate], [result], name=result)
        else:
            attributes: dict[str, Any] = {"alpha": 1 / 6, "beta": 0.5} if function == "HardSigmoid" else {}
            yield helper.make_node(function, [real], [result], name=result, **attributes)

    def _operator(self, node: ir.Node, reals: list[str], result: str) -> NodeProto:
        match node:
            case ir.Concat():
                return helper.make_node("Concat", reals, [result], name=result, axis=1)
            case ir.GlobalAvgPool():
                return helper.make_node("GlobalAveragePool", reals, [result], name=result)
            case ir.AvgPool():
                return helper.make_node(
                    "AveragePool", reals, [result], name=result, kernel_shape=node.kernel, strides=node.stride,
                    pads=node.padding, count_include_pad=int(node.count_include_pad),
                )  # fmt: skip
            case ir.Resize():
                mode = "align_corners" if node.align_corners else "half_pixel"
                sizes = self._constant(f"{result}{self.slash}sizes", np.array((1, *self.shapes[node.name]), np.int64))
                return helper.make_node(
                    "Resize", [*reals, "", "", sizes], [result], name=result, mode="linear",
                    coordinate_transformation_mode=mode,
                )  # fmt: skip
        return helper.make_node("Mul" if isinstance(node, ir.Multiply) else "Add", reals, [result], name=result)

    def _quantization(self, q: ir.QParams, owner: str) -> list[str]:
        return [
            self._constant(f"{owner}{self.slash}scale", np.float32(q.scale)),
            self._constant(f"{owner}{self.slash}zero_point", np.uint8(q.zero_point)),
        ]

    def _constant(self, name: str, value: np.ndarray | np.generic) -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name
