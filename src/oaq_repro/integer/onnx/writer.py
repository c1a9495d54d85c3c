"""What ONNX models are written with: nodes and constants under names that come from the graph's nodes."""

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from oaq_repro.integer.graph import Graph
from oaq_repro.integer.graph.arithmetic import rescaling_table
from oaq_repro.integer.graph.nodes import CodeNode, Node, QParams, RoundingNode, Shape

BARRIER = np.finfo(np.float32).min
"""Max with this changes no value. Without it ONNX Runtime (seen in 1.17 and 1.32) merges DequantizeLinear ->
QuantizeLinear with its neighbours and fuses Add into QLinearAdd; both round otherwise."""


def separator(names: list[str]) -> str:
    """What stands between a node's name and a part's (`conv1/weight`): slashes that are in no node's name."""
    slash = "/"
    while any(slash in name for name in names):
        slash += "/"
    return slash


class Writer:
    """Turns nodes into ONNX nodes and constants; the value of a node goes by the node's name."""

    def __init__(self, graph: Graph, shapes: dict[str, Shape]) -> None:
        self.graph, self.shapes = graph, shapes
        self.q = {node.name: node.output for node in graph.nodes if isinstance(node, CodeNode)}
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}
        rounding = [node for node in graph.nodes if isinstance(node, RoundingNode)]
        self.integers = any(node.requantization != "float32" for node in rounding)
        self.slash = separator([graph.input_name, *(node.name for node in graph.nodes)])

    def add(self, op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """Append an ONNX node with one output, which gives it its name; returns that."""
        self.nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    def part(self, node: Node, part: str) -> str:
        """Name of a part of a node of the graph."""
        return f"{node.name}{self.slash}{part}"

    def constant(self, node: Node, part: str, value: Any, dtype: Any) -> str:
        """Add a constant; returns its name."""
        name = self.part(node, part)
        self.constants[name] = np.asarray(value, dtype)
        return name

    def dequantized(self, node: Node, at: int, output: str | None = None) -> str:
        """The real value of a node's input number `at`."""
        q = self.q[node.inputs[at]]
        scale = self.constant(node, f"scale_{at}", q.scale, np.float32)
        zero_point = self.constant(node, f"zero_point_{at}", q.zero_point, np.uint8)
        inputs = [node.inputs[at], scale, zero_point]
        return self.add("DequantizeLinear", inputs, output or self.part(node, f"dequantized_{at}"))

    def quantized(self, node: Node, value: str, q: QParams, output: str, scale: np.float32 | None = None) -> str:
        """Codes of a float value: by `q`, or by another scale."""
        part = "" if output == node.name else output.removeprefix(node.name + self.slash) + "."
        constants = [
            self.constant(node, part + "scale", q.scale if scale is None else scale, np.float32),
            self.constant(node, part + "zero_point", q.zero_point, np.uint8),
        ]
        if q.q_max == 255:
            return self.add("QuantizeLinear", [value, *constants], output)
        largest = self.constant(node, part + "q_max", q.q_max, np.uint8)
        codes = self.add("QuantizeLinear", [value, *constants], self.part(node, part + "quantized"))
        return self.add("Clip", [codes, "", largest], output)

    def centred(self, node: Node, at: int, dtype: type[np.signedinteger]) -> str:
        """Input number `at` less its zero point, as integers of that type."""
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        codes = self.add("Cast", [node.inputs[at]], self.part(node, f"{np.dtype(dtype).name}_{at}"), to=kind)
        zero_point = self.constant(node, f"zero_point_{at}", self.q[node.inputs[at]].zero_point, dtype)
        return self.add("Sub", [codes, zero_point], self.part(node, f"centred_{at}"))

    def looked_up(self, node: Node, at: int, table: np.ndarray, part: str, output: str) -> str:
        """Input number `at` in a table of codes, uint8 [256]: exact by construction."""
        places = self.add("Cast", [node.inputs[at]], self.part(node, f"{part}int32"), to=TensorProto.INT32)
        return self.add("Gather", [self.constant(node, f"{part}table", table, np.uint8), places], output, axis=0)

    def rescaled(self, node: Node, at: int, q: QParams, output: str) -> str:
        """Input number `at` at the QParams `q`, as the reference's `rescale`; in graphs of integers by a table."""
        if self.integers:
            return self.looked_up(node, at, rescaling_table(self.q[node.inputs[at]], q), f"part_{at}_", output)
        value = self.dequantized(node, at)
        kept = self.add("Max", [value, self.constant(node, "lowest", BARRIER, np.float32)], f"{value}.kept")
        return self.quantized(node, kept, q, output)

    def requantized(self, node: Node, acc: str, multiplier: np.ndarray, q: QParams) -> None:
        """int32 sums to codes with one multiplier, or one per pixel, in separate float32 steps."""
        real = self.add("Cast", [acc], self.part(node, "float"), to=TensorProto.FLOAT)
        factor = self.constant(node, "multiplier", multiplier, np.float32)
        scaled = self.add("Mul", [real, factor], self.part(node, "scaled"))
        self.quantized(node, scaled, q, node.name, scale=np.float32(1))
