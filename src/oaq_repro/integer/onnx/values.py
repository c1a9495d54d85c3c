"""The values of a QDQ model while it is read: what is constant, what has codes, what still waits for its codes."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from oaq_repro.errors import InputError
from oaq_repro.integer.graph import nodes as ir
from oaq_repro.integer.graph.arithmetic import Array
from oaq_repro.integer.onnx.constants import Dequantized
from oaq_repro.integer.onnx.meanings import Codes, Real, SplitChannels, clamped, expect_quantized
from oaq_repro.integer.onnx.reader import OnnxModel, OnnxNode
from oaq_repro.integer.onnx.tensors import array

SMALL = 1 << 28  # bytes of weights that any file may ask for
REUSE = 4  # times that the weights of a file may be used


class Values:
    """What is known of each tensor of a model, and the nodes of the graph that is being built."""

    def __init__(self, model: OnnxModel) -> None:
        self.model = model
        self.nodes: dict[str, ir.Node] = {}
        self.q: dict[str, ir.QParams] = {}
        self.shapes: dict[str, ir.Shape] = {} if model.input_shape is None else {model.input_name: model.input_shape}
        self.last_of_size: dict[tuple[float, ...], str] = {}  # values by height and width
        self.codes: dict[str, Codes] = {}
        self.real: dict[str, Real] = {}
        self.weights: dict[str, Dequantized] = {}
        self.folded: dict[str, Array] = {}
        self.splits: dict[str, SplitChannels] = {}
        self.readers = Counter([*model.outputs, *(name for node in model.nodes for name in node.inputs)])
        self.fresh: set[str] = set()  # tensors whose codes are those of a node made for them
        self._names = {model.input_name, *model.outputs}
        self._copies: Counter[str] = Counter()
        self._ranks: dict[str, int] = {}
        self._weight_bytes, self._most_bytes = 0, max(SMALL, REUSE * model.proto.ByteSize())

    def constant(self, node: OnnxNode, at: int) -> Array | None:
        """A constant input; None where it is left out or no constant."""
        return self.named_constant(node.input(at))

    def named_constant(self, name: str) -> Array | None:
        """A constant tensor; None where there is none of that name."""
        if name in self.model.tensors and name not in self.folded:
            self.folded[name] = array(name, self.model.tensors[name])
        return self.folded.get(name)

    def scalar(self, node: OnnxNode, at: int, default: float, dtype: Any = np.float32, rank: int = 1) -> float:
        """A constant input of one element, of at most `rank` dimensions, never NaN."""
        if not node.input(at):
            return default
        found = self.constant(node, at)
        if found is None or found.size != 1 or found.dtype != dtype or found.ndim > rank:
            expected = f"expected a constant {np.dtype(dtype).name} of one element and at most {rank} dimensions"
            raise node.error(f"input {node.input(at)!r}: {expected}")
        value = found.reshape(-1)[0].item()
        if value != value:
            raise node.error(f"input {node.input(at)!r}: found NaN, expected a number")
        return value

    def integers(self, node: OnnxNode, at: int) -> tuple[int, ...]:
        """A constant input of a few int64."""
        found = self.constant(node, at)
        if found is None or found.dtype != np.int64 or found.ndim != 1 or found.size > 8:
            raise node.error(f"input {node.input(at)!r}: expected a constant of at most 8 int64")
        return tuple(int(value) for value in found)

    def is_constant(self, name: str) -> bool:
        """Whether a tensor is a constant, be it dequantized."""
        return name in self.weights or self.named_constant(name) is not None

    def shape(self, name: str, node: OnnxNode) -> ir.Shape:
        """Shape of a value of the graph, without batch."""
        if name not in self.shapes:
            raise node.error("expected an input of the model whose channels, height and width are declared in numbers")
        return self.shapes[name]

    def shape_at(self, node: OnnxNode, at: int) -> ir.Shape:
        """Shape of an input that is a value of the graph or its codes, without batch."""
        return self.shape(self._maker(node, at), node)

    def rename(self, name: str, output: str) -> bool:
        """Let a tensor go by a second name; False where nothing is known of it."""
        known: tuple[dict[str, Any], ...] = (self.folded, self.codes, self.weights, self.real)
        for kind in known:
            if name in kind:
                kind[output] = kind[name]
                return True
        return False

    def rank(self, node: OnnxNode, at: int) -> int:
        """Number of dimensions of an input, batch included."""
        return self._ranks[self._maker(node, at)]

    def _maker(self, node: OnnxNode, at: int) -> str:
        """The node of the graph whose codes an input is, stands for, or is a function of."""
        name = node.input(at)
        if name in self.codes:
            return self.codes[name].node
        real = self.real.get(name)
        return self.value(node, at) if real is None or real.function is None else str(real.source)

    def tensor_name(self, wanted: str) -> str:
        """A name for a tensor that no node of the model reads."""
        while wanted in self.readers:
            wanted += "'"
        return wanted

    def name(self, wanted: str) -> str:
        """A name that no other node has; outputs of the model keep theirs."""
        name = wanted
        while name in self._names:
            self._copies[wanted] += 1
            name = f"{wanted}_{self._copies[wanted] + 1}"
        self._names.add(name)
        return name

    def add(self, node: ir.Node) -> str:
        """Append a node to the graph; InputError where it is wrong by itself or for its inputs' shapes."""
        node.check()
        self.nodes[node.name] = node
        if isinstance(node, ir.CodeNode):
            self.q[node.name] = node.output
        self._ranks[node.name] = node.rank(self._ranks.get(node.inputs[0], 4))
        if isinstance(node, ir.Layer):
            self._weight_bytes += node.weight.nbytes
            if self._weight_bytes > self._most_bytes:
                raise InputError(f"graph node {node.name!r}: found {self._weight_bytes} bytes of weights up to it, "
                                 f"expected at most {self._most_bytes} for this file")  # fmt: skip
        if all(name in self.shapes for name in node.inputs):
            shape = self.shapes[node.name] = node.output_shape([self.shapes[name] for name in node.inputs])
            if len(shape) == 3 and isinstance(node, ir.CodeNode):
                self.last_of_size[shape[1:]] = node.name
        return node.name

    def float_value(self, node: OnnxNode, at: int) -> Real:
        """A float input that is computed from the image."""
        name = node.input(at)
        real = self.real.get(name)
        if real is None:
            found = "found a constant operand, " if self.is_constant(name) else ""
            raise node.error(f"input {name!r}: {found}expected a quantized value (that a DequantizeLinear gives)")
        return real

    def value(self, node: OnnxNode, at: int) -> str:
        """The node of the graph whose codes a float input stands for."""
        real = self.float_value(node, at)
        expect_quantized(real)
        assert isinstance(real.source, str)
        if real.is_plain():
            return real.source
        q = self.q[real.source]
        kept = self.add(ir.Requantize(self.name(f"{real.source}.clamped"), (real.source,), clamped(node, q, real)[0]))
        self.real[node.input(at)] = Real(kept)
        return kept


def passed(values: Values, node: OnnxNode, make: Callable[[str, str, ir.QParams], ir.Node], output: str = "") -> None:
    """An operator on codes that keeps their QParams, between DequantizeLinear and QuantizeLinear or on codes.

    output: the one that is made, by default the first.
    """
    output = output or node.outputs[0]
    codes = values.codes.get(node.input(0))
    source = values.value(node, 0) if codes is None else codes.node
    added = values.add(make(values.name(node.name or output), source, values.q[source]))
    if codes is None:
        values.real[output] = Real(added)
    else:
        values.codes[output] = Codes(added, codes.offset, codes.dtype)


def moved(values: Values, node: OnnxNode, make: Callable[[str, str, ir.QParams], ir.Node], output: str = "") -> None:
    """As `passed`, for an operator that only moves values: the function of a tensor is that of the moved tensor."""
    real = values.real.get(node.input(0))
    if real is None or real.function is None:
        passed(values, node, make, output)
        return
    output, source = output or node.outputs[0], str(real.source)
    added = values.add(make(values.name(node.name or output), source, values.q[source]))
    values.real[output] = replace(real, source=added)
