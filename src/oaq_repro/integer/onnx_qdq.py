"""The values of a QDQ model while it is read: what is constant, what has codes, what still waits for its codes.

A QuantizeLinear gives the operation before it its output's QParams. Codes of the model and of the graph differ by an
offset: int8 codes are shifted by 128, and codes that a Relu or Clip before the QuantizeLinear excludes are cut off,
so that every value of the graph has codes from 0 to q_max. Both are exact.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from oaq_repro.errors import InputError
from oaq_repro.integer import nodes as ir
from oaq_repro.integer.checks import check_node
from oaq_repro.integer.onnx_reader import OnnxModel, OnnxNode, array
from oaq_repro.integer.shapes import Shape, output_shape

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Codes:
    """A tensor of codes: code of the model = code of the graph's node + offset."""

    node: str
    offset: int


@dataclass(frozen=True, eq=False)
class Pending:
    """An operation whose result is not quantized yet; `build(name, output)` makes the graph's node."""

    origin: OnnxNode
    build: Callable[[str, ir.QParams], ir.Node]


@dataclass(frozen=True, eq=False)
class Real:
    """A float tensor: the value of a node of the graph, or a pending one, clamped to [low, high]."""

    source: str | Pending
    low: float = -np.inf
    high: float = np.inf


@dataclass(frozen=True, eq=False)
class Weights:
    """A dequantized constant: `(values - zero_point) * scale`, scale and zero_point [] or along `axis`."""

    values: Array
    scale: Array
    zero_point: Array
    axis: int


class Values:
    """What is known of each tensor of a model, and the nodes of the graph that is being built."""

    def __init__(self, model: OnnxModel) -> None:
        self.model = model
        self.nodes: dict[str, ir.Node] = {}
        self.q: dict[str, ir.QParams] = {}
        self.shapes: dict[str, Shape] = {} if model.input_shape is None else {model.input_name: model.input_shape}
        self.codes: dict[str, Codes] = {}
        self.real: dict[str, Real] = {}
        self.weights: dict[str, Weights] = {}
        self.folded: dict[str, Array] = {}
        self.readers = Counter([*model.outputs, *(name for node in model.nodes for name in node.inputs)])
        self._fresh: set[str] = set()  # tensors whose codes are those of a node made for them
        self._names = {model.input_name, *model.outputs}

    def constant(self, node: OnnxNode, at: int) -> Array | None:
        """A constant input; None where it is left out or no constant."""
        return self.named_constant(node.input(at))

    def named_constant(self, name: str) -> Array | None:
        """A constant tensor; None where there is none of that name."""
        if name in self.model.tensors and name not in self.folded:
            self.folded[name] = array(name, self.model.tensors[name])
        return self.folded.get(name)

    def scalar(self, node: OnnxNode, at: int, default: float) -> float:
        """A constant input of one element."""
        if not node.input(at):
            return default
        found = self.constant(node, at)
        if found is None or found.size != 1:
            raise node.error(f"input {node.input(at)!r}: expected a constant of one element")
        return found.reshape(-1)[0].item()

    def integers(self, node: OnnxNode, at: int) -> tuple[int, ...]:
        """A constant input of a few int64."""
        found = self.constant(node, at)
        if found is None or found.dtype != np.int64 or found.ndim != 1 or found.size > 8:
            raise node.error(f"input {node.input(at)!r}: expected a constant of at most 8 int64")
        return tuple(int(value) for value in found)

    def shape(self, name: str, node: OnnxNode) -> Shape:
        """Shape of a value of the graph, without batch."""
        if name not in self.shapes:
            raise node.error("expected an input of the model whose channels, height and width are declared in numbers")
        return self.shapes[name]

    def name(self, wanted: str) -> str:
        """A name that no other node has; outputs of the model keep theirs."""
        name, count = wanted, 1
        while name in self._names:
            count += 1
            name = f"{wanted}_{count}"
        self._names.add(name)
        return name

    def add(self, node: ir.Node) -> str:
        """Append a node to the graph; InputError where it is wrong by itself or for its inputs' shapes."""
        check_node(node)
        self.nodes[node.name] = node
        if not isinstance(node, ir.Dequantize):
            self.q[node.name] = node.output
        if all(name in self.shapes for name in node.inputs):
            self.shapes[node.name] = output_shape(node, [self.shapes[name] for name in node.inputs])
        return node.name

    def value(self, node: OnnxNode, at: int) -> str:
        """The node of the graph whose codes a float input stands for."""
        name = node.input(at)
        real = self.real.get(name)
        if real is None:
            raise node.error(f"input {name!r}: expected a value that a DequantizeLinear gives")
        if isinstance(real.source, Pending):
            raise real.source.origin.error("found a float result that is not quantized, expected a QuantizeLinear")
        if real.low == -np.inf and real.high == np.inf:
            return real.source
        q = self.q[real.source]
        clamped, _ = _clamped(node, q, real)
        kept = self.add(ir.Requantize(self.name(f"{real.source}.clamped"), (real.source,), clamped))
        self.real[name] = Real(kept)
        return kept

    def quantize(self, node: OnnxNode) -> None:
        """QuantizeLinear: of a constant, of the model's input, or of what is pending."""
        scale, zero_point, offset = self._parameters(node)
        constant = self.constant(node, 0)
        if constant is not None:
            self.folded[node.outputs[0]] = _quantized(node, constant, scale, zero_point)
            return
        if scale.size != 1 or zero_point.size != 1:
            raise node.error("found several scales for an activation, expected one")
        if offset is None:
            raise node.error(f"found {zero_point.dtype} codes, expected uint8 or int8")
        q = ir.QParams(np.float32(scale.reshape(-1)[0]), int(zero_point.reshape(-1)[0]) - offset, 255)
        real = self.real.get(node.input(0))
        if node.input(0) == self.model.input_name:
            added = self.add(ir.Quantize(self.name(node.outputs[0]), (self.model.input_name,), q))
            self.codes[node.outputs[0]] = Codes(added, offset)
            self._fresh.add(node.outputs[0])
            return
        if real is None:
            raise node.error(f"input {node.input(0)!r}: expected a float value")
        q, low = _clamped(node, q, real)
        before = len(self.nodes)
        self.codes[node.outputs[0]] = Codes(self._with_output(node, real.source, q), offset + low)
        if len(self.nodes) > before:
            self._fresh.add(node.outputs[0])

    def _with_output(self, node: OnnxNode, source: str | Pending, q: ir.QParams) -> str:
        if isinstance(source, Pending):
            return self.add(source.build(self.name(source.origin.name or node.outputs[0]), q))
        known = self.q[source]
        if (known.scale, known.zero_point) == (q.scale, q.zero_point) and known.q_max <= q.q_max:
            return source
        return self.add(ir.Requantize(self.name(node.outputs[0]), (source,), q))

    def dequantize(self, node: OnnxNode) -> None:
        """DequantizeLinear: of a constant (weights, bias) or of codes, with the QParams they were made with."""
        scale, zero_point, offset = self._parameters(node)
        constant = self.constant(node, 0)
        if constant is not None:
            self.weights[node.outputs[0]] = Weights(constant, scale, zero_point, node.attribute("axis", 1))
            return
        codes = self.codes.get(node.input(0))
        if codes is None or offset is None:
            raise node.error(f"input {node.input(0)!r}: expected a constant, or the uint8 or int8 of a QuantizeLinear")
        q = self.q[codes.node]
        if scale.size != 1 or zero_point.size != 1:
            raise node.error("found several scales for an activation, expected one")
        found = float(scale.reshape(-1)[0]), int(zero_point.reshape(-1)[0]) - codes.offset
        if found != (float(q.scale), q.zero_point):
            raise node.error("found another scale or zero point than that of the QuantizeLinear before it")
        self.real[node.outputs[0]] = Real(codes.node)

    def _parameters(self, node: OnnxNode) -> tuple[Array, Array, int | None]:
        """Scale float32, zero point, and the offset of the codes' type (None for others than 8 bits)."""
        node.expect(block_size=0)
        scale, zero_point = self.constant(node, 1), self.constant(node, 2)
        if scale is None or scale.dtype != np.float32 or scale.ndim > 1 or not (np.isfinite(scale) & (scale > 0)).all():
            raise node.error(f"scale {node.input(1)!r}: expected constants, float32, finite and above 0")
        if node.input(2) and zero_point is None:
            raise node.error(f"zero point {node.input(2)!r}: expected a constant")
        if zero_point is None:
            zero_point = np.zeros_like(scale, np.int32 if node.op == "DequantizeLinear" else np.uint8)
            if node.op == "DequantizeLinear" and node.input(0) in self.codes:
                zero_point = zero_point.astype(np.uint8)
        if zero_point.ndim > 1 or zero_point.size != scale.size or zero_point.dtype.kind not in "iu":
            raise node.error(f"zero point {node.input(2)!r}: expected as many integers as there are scales")
        return scale, zero_point, {np.dtype(np.uint8): 0, np.dtype(np.int8): -128}.get(zero_point.dtype)

    def clip_codes(self, node: OnnxNode) -> None:
        """Clip of codes: a smaller q_max."""
        codes = self.codes[node.input(0)]
        low, high = self.scalar(node, 1, -np.inf), self.scalar(node, 2, np.inf)
        q = self.q[codes.node]
        if low > codes.offset or high - codes.offset < max(q.zero_point, 1):
            raise node.error("expected the smallest code 0 and a largest one that is at least the zero point")
        clipped = replace(q, q_max=int(min(q.q_max, high - codes.offset)))
        name = codes.node
        if node.input(0) in self._fresh and self.readers[node.input(0)] == 1:
            self.nodes[name] = replace(self.nodes[name], output=clipped)  # type: ignore[arg-type]
            self.q[name] = clipped
        elif clipped != q:
            name = self.add(ir.Requantize(self.name(node.outputs[0]), (name,), clipped))
        self.codes[node.outputs[0]] = Codes(name, codes.offset)


def _clamped(node: OnnxNode, q: ir.QParams, real: Real) -> tuple[ir.QParams, int]:
    """QParams of the codes that [low, high] leaves of `q`, and the first of these codes."""

    def code(bound: float) -> int:
        with np.errstate(over="ignore"):
            scaled = np.rint(np.float32(bound) / q.scale) + np.float32(q.zero_point)
        return int(np.clip(scaled, 0, q.q_max))

    low, high = code(real.low), code(real.high)
    if not low <= q.zero_point <= high or low == high:
        raise node.error(f"found a clamp to [{real.low}, {real.high}], expected one that holds 0 and several codes")
    return ir.QParams(q.scale, q.zero_point - low, high - low), low


def _quantized(node: OnnxNode, values: Array, scale: Array, zero_point: Array) -> Array:
    """QuantizeLinear of float32 constants."""
    axis = node.attribute("axis", 1)
    if values.dtype != np.float32 or not np.isfinite(values).all():
        raise node.error(f"input {node.input(0)!r}: expected finite float32 values")
    if scale.size != 1:
        axis = along(node, values, scale, axis)
        shape = [-1 if at == axis else 1 for at in range(values.ndim)]
        scale, zero_point = scale.reshape(shape), zero_point.reshape(shape)
    limits = np.iinfo(zero_point.dtype)
    with np.errstate(over="ignore"):
        codes = np.rint(values / scale) + zero_point.astype(np.float64)
    return np.clip(codes, limits.min, limits.max).astype(zero_point.dtype)


def along(node: OnnxNode, values: Array, scale: Array, axis: int) -> int:
    """The axis that has one scale per index, from 0 on."""
    if not -values.ndim <= axis < values.ndim or values.shape[axis] != scale.size:
        raise node.error(f"axis: found {axis} and {scale.size} scales for the shape {list(values.shape)}")
    return axis % values.ndim


def unsupported(node: OnnxNode, known: list[str]) -> InputError:
    """The error for an operator that has no integer form here."""
    return node.error(f"no integer form is known for this operator, expected one of {', '.join(known)}")
