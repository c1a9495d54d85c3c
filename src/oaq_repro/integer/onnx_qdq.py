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
from onnx import TensorProto

from oaq_repro.errors import InputError
from oaq_repro.integer import nodes as ir
from oaq_repro.integer.checks import check_node
from oaq_repro.integer.onnx_constants import Array, Weights, quantized
from oaq_repro.integer.onnx_reader import DTYPES, OnnxModel, OnnxNode, array, type_name
from oaq_repro.integer.shapes import Shape, output_shape

OFFSETS = {np.dtype(np.uint8): 0, np.dtype(np.int8): -128}  # the smallest code of each type
SMALL = 1 << 28  # bytes of weights that any file may ask for
REUSE = 4  # times that the weights of a file may be used


@dataclass(frozen=True)
class Codes:
    """A tensor of codes: code of the model, uint8 or int8, = code of the graph's node + offset."""

    node: str
    offset: int
    dtype: Any


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


class Values:
    """What is known of each tensor of a model, and the nodes of the graph that is being built."""

    def __init__(self, model: OnnxModel) -> None:
        self.model = model
        self.nodes: dict[str, ir.Node] = {}
        self.q: dict[str, ir.QParams] = {}
        self.shapes: dict[str, Shape] = {} if model.input_shape is None else {model.input_name: model.input_shape}
        self.last_of_size: dict[tuple[float, ...], str] = {}  # values by height and width
        self.codes: dict[str, Codes] = {}
        self.real: dict[str, Real] = {}
        self.weights: dict[str, Weights] = {}
        self.folded: dict[str, Array] = {}
        self.readers = Counter([*model.outputs, *(name for node in model.nodes for name in node.inputs)])
        self._fresh: set[str] = set()  # tensors whose codes are those of a node made for them
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

    def shape(self, name: str, node: OnnxNode) -> Shape:
        """Shape of a value of the graph, without batch."""
        if name not in self.shapes:
            raise node.error("expected an input of the model whose channels, height and width are declared in numbers")
        return self.shapes[name]

    def rank(self, node: OnnxNode, at: int) -> int:
        """Number of dimensions of an input, batch included."""
        name = node.input(at)
        if name in self.codes:
            return self._ranks[self.codes[name].node]
        return self._ranks[self.value(node, at)]

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
        check_node(node)
        self.nodes[node.name] = node
        if not isinstance(node, ir.Dequantize):
            self.q[node.name] = node.output
        if isinstance(node, ir.Linear | ir.Flatten) or (isinstance(node, ir.GlobalAvgPool) and not node.keepdims):
            self._ranks[node.name] = 2
        else:
            self._ranks[node.name] = self._ranks.get(node.inputs[0], 4)
        if isinstance(node, ir.Conv | ir.Linear):
            self._weight_bytes += node.weight.nbytes
            if self._weight_bytes > self._most_bytes:
                raise InputError(f"graph node {node.name!r}: found {self._weight_bytes} bytes of weights up to it, "
                                 f"expected at most {self._most_bytes} for this file")  # fmt: skip
        if all(name in self.shapes for name in node.inputs):
            shape = self.shapes[node.name] = output_shape(node, [self.shapes[name] for name in node.inputs])
            if len(shape) == 3 and not isinstance(node, ir.Dequantize):
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
        if isinstance(real.source, Pending):
            raise real.source.origin.error("found a float result that is not quantized, expected a QuantizeLinear")
        if real.low == -np.inf and real.high == np.inf:
            return real.source
        q = self.q[real.source]
        clamped, _ = _clamped(node, q, real)
        kept = self.add(ir.Requantize(self.name(f"{real.source}.clamped"), (real.source,), clamped))
        self.real[node.input(at)] = Real(kept)
        return kept

    def quantize(self, node: OnnxNode) -> None:
        """QuantizeLinear: of a constant, of the model's input, or of what is pending."""
        scale, zero_point, axis = self._parameters(node)
        constant = self.constant(node, 0)
        if constant is not None:
            self.folded[node.outputs[0]] = quantized(node, constant, scale, zero_point, axis)
            return
        if scale.size != 1 or zero_point.size != 1:
            raise node.error("found several scales for an activation, expected one")
        offset = OFFSETS.get(zero_point.dtype)
        if offset is None:
            raise node.error(f"found {zero_point.dtype} codes, expected uint8 or int8")
        q = ir.QParams(np.float32(scale.reshape(-1)[0]), int(zero_point.reshape(-1)[0]) - offset, 255)
        before, low = len(self.nodes), 0
        if node.input(0) == self.model.input_name:
            made = self.add(ir.Quantize(self.name(node.outputs[0]), (self.model.input_name,), q))
        else:
            real = self.float_value(node, 0)
            q, low = _clamped(node, q, real)
            made = self._with_output(node, real.source, q)
        self.codes[node.outputs[0]] = Codes(made, offset + low, zero_point.dtype)
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
        scale, zero_point, axis = self._parameters(node)
        constant = self.constant(node, 0)
        if constant is not None:
            if node.input(2) and zero_point.dtype != constant.dtype:
                raise node.error(f"zero point {node.input(2)!r}: found {zero_point.dtype}, expected {constant.dtype}")
            self.weights[node.outputs[0]] = Weights(constant, scale, zero_point, axis)
            return
        codes = self.codes.get(node.input(0))
        if codes is None or (node.input(2) and zero_point.dtype != codes.dtype):
            raise node.error(f"input {node.input(0)!r}: expected a constant, or the uint8 or int8 of a QuantizeLinear")
        q = self.q[codes.node]
        if scale.size != 1 or zero_point.size != 1:
            raise node.error("found several scales for an activation, expected one")
        found = float(scale.reshape(-1)[0]), int(zero_point.reshape(-1)[0]) - codes.offset
        if found != (float(q.scale), q.zero_point):
            raise node.error("found another scale or zero point than that of the QuantizeLinear before it")
        self.real[node.outputs[0]] = Real(codes.node)

    def _parameters(self, node: OnnxNode) -> tuple[Array, Array, int]:
        """Scale float32, zero point of the codes' type (where that is known), and axis."""
        node.expect(block_size=0)
        scale, zero_point, axis = self.constant(node, 1), self.constant(node, 2), node.attribute("axis", 1)
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

    def clip_codes(self, node: OnnxNode) -> None:
        """Clip of codes: fewer of them."""
        codes = self.codes[node.input(0)]
        bounds = self.scalar(node, 1, -np.inf, codes.dtype), self.scalar(node, 2, np.inf, codes.dtype)
        q = self.q[codes.node]
        low, high = (int(np.clip(bound - codes.offset, 0, q.q_max)) for bound in bounds)
        clipped, name = _cut(node, q, low, high), codes.node
        if node.input(0) in self._fresh and self.readers[node.input(0)] == 1:
            self.nodes[name] = replace(self.nodes[name], output=clipped)  # type: ignore[arg-type]
            self.q[name] = clipped
        elif clipped != q:
            name = self.add(ir.Requantize(self.name(node.outputs[0]), (name,), clipped))
        self.codes[node.outputs[0]] = Codes(name, codes.offset + low, codes.dtype)


def _clamped(node: OnnxNode, q: ir.QParams, real: Real) -> tuple[ir.QParams, int]:
    """QParams of the codes that [low, high] leaves of `q`, and the first of these codes."""

    def code(bound: float) -> int:
        with np.errstate(over="ignore"):
            scaled = np.rint(np.float32(bound) / q.scale) + np.float32(q.zero_point)
        return int(np.clip(scaled, 0, q.q_max))

    low, high = code(real.low), code(real.high)
    return _cut(node, q, low, high), low


def _cut(node: OnnxNode, q: ir.QParams, low: int, high: int) -> ir.QParams:
    """QParams of the codes from `low` to `high` alone, counted from `low` on."""
    if not low <= q.zero_point <= high or low == high:
        last = f"[{low}, {high}] of {q.q_max + 1}, with the zero point {q.zero_point}"
        raise node.error(f"found a clamp to the codes {last}; expected one that holds 0 and several codes")
    return ir.QParams(q.scale, q.zero_point - low, high - low)
