"""The integer graph: what a trained network becomes, and all that reference, engine, certificates and exporters read.

Nodes and their arithmetic: `oaq_repro.integer.graph.nodes`. Our choice of format.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from oaq_repro.accumulator import Accumulator
from oaq_repro.errors import InputError
from oaq_repro.integer.graph import file as graph_file
from oaq_repro.integer.graph.nodes import OPERATORS, CodeNode, Dequantize, Layer, Node, QParams, Quantize, Shape
from oaq_repro.integer.graph.shapes import all_shapes


@dataclass(frozen=True, eq=False)
class Graph:
    """Nodes in topological order; a node's value goes by its name. `input_name`: the float32 image [N, C, H, W].

    `outputs` name Dequantize nodes. Call `validate` on a graph made by hand; `load` and `Reference` do.
    """

    input_name: str
    nodes: tuple[Node, ...]
    outputs: tuple[str, ...]

    def validate(self) -> None:
        """Check fields, constants and connections; InputError names the first node and field that is wrong."""
        if not isinstance(self.input_name, str) or not self.input_name:
            raise InputError(f"graph: input_name: found {self.input_name!r}, expected a string that is not empty")
        if not isinstance(self.nodes, tuple) or not isinstance(self.outputs, tuple):
            raise InputError("graph: nodes and outputs: expected tuples")
        known: dict[str, Node] = {}
        for node in self.nodes:
            if type(node) not in OPERATORS.values():
                expected = f"one of {', '.join(OPERATORS)}"
                raise InputError(f"graph: found a node of type {type(node).__name__}, expected {expected}")
            node.check()
            if node.name in known or node.name == self.input_name:
                raise InputError(f"graph node {node.name!r}: name: found twice, expected unique names")
            for name in node.inputs:
                self._check_input(node, name, known)
            node.check_sources([x.output for name in node.inputs if isinstance(x := known.get(name), CodeNode)])
            known[node.name] = node
        if not self.outputs:
            raise InputError("graph: outputs: found none, expected at least one")
        for name in self.outputs:
            if not isinstance(name, str) or not isinstance(known.get(name), Dequantize):
                raise InputError(f"graph: outputs: found {name!r}, expected the name of a Dequantize node")

    def _check_input(self, node: Node, name: str, known: dict[str, Node]) -> None:
        if isinstance(node, Quantize):
            if name != self.input_name:
                expected = f"the graph's input {self.input_name!r}"
                raise InputError(f"graph node {node.name!r}: inputs: found {name!r}, expected {expected}")
        elif name not in known:
            raise InputError(f"graph node {node.name!r}: inputs: found {name!r}, expected the name of an earlier node")
        elif isinstance(known[name], Dequantize):
            raise InputError(f"graph node {node.name!r}: inputs: found {name!r}, a float value, expected codes")

    def layers(self) -> tuple[Layer, ...]:
        """The nodes that accumulate products, in order."""
        return tuple(node for node in self.nodes if isinstance(node, Layer))

    def node(self, name: str) -> Node:
        """The node of that name; InputError where there is none."""
        for node in self.nodes:
            if node.name == name:
                return node
        raise InputError(f"graph: found no node {name!r}")

    def qparams(self, name: str) -> QParams:
        """QParams of a value of codes (of a layer's input: `graph.qparams(layer.inputs[0])`)."""
        node = self.node(name)
        if not isinstance(node, CodeNode):
            raise InputError(f"graph node {name!r}: a float value, expected codes")
        return node.output

    def with_accumulator(self, accumulator: Accumulator) -> "Graph":
        """A copy in which every layer has that accumulator and no reason; constants are shared."""
        nodes = tuple(
            replace(node, accumulator=accumulator, accumulator_reason="") if isinstance(node, Layer) else node
            for node in self.nodes
        )
        return replace(self, nodes=nodes)

    def shapes(self, input_shape: Sequence[int]) -> dict[str, Shape]:
        """Shape of every value, without batch, for an input [C, H, W]; InputError where a node's inputs do not fit."""
        return all_shapes(self.nodes, self.input_name, input_shape)

    def save(self, path: Path | str) -> Path:
        """Write one .npz (constants, and a JSON header) atomically; InputError where the disk refuses."""
        self.validate()
        return graph_file.save(path, self.input_name, self.nodes, self.outputs)

    @staticmethod
    def load(path: Path | str) -> "Graph":
        """Read and validate what `save` wrote, never unpickling; InputError names the file and what is wrong."""
        graph = Graph(*graph_file.load(path))
        try:
            graph.validate()
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
        return graph
