"""The audit of any ONNX model: its quantized layers one by one, from their operands, whatever else the model holds.

A layer is a Conv, ConvTranspose, Gemm or MatMul between DequantizeLinear nodes, or one of the operators on codes
(QLinearConv, MatMulInteger, ...), ONNX's or ONNX Runtime's. Whatever keeps one from being audited is its reason.

Where ONNX Runtime adds saturated pairs on x86 without VNNI (1.32, seen with AVX2 alone; sources: mlas/lib/platform.cpp
and qgemm.h; GemmU8S8Dispatch, ConvSymU8S8Dispatch):

- uint8 codes by int8 weights: yes, by QLinearConv, QLinearMatMul, QGemm, MatMulInteger alike, and by what it makes of
  Conv, MatMul, Gemm between DequantizeLinear nodes; neighbours are those in the order of k within a group, at any
  batch, rank and number of groups
- ConvInteger: only int8 codes by uint8 weights, also in depthwise ones, as the weights are the left operand of its
  product there (conv_integer.cc); neighbours are those in the order (channel, kernel row, kernel column)
- uint8 weights: no (GemmU8U8Dispatch: 16-bit products, `vpmaddwd`; for int8 codes there is scalar code alone)
- int8 codes by int8 weights: no in operators on codes (scalar code in 32 bits, MlasGemmQuantDispatchDefault; with
  AVX-VNNI-INT8 exact too); yes between DequantizeLinear nodes, because codes are turned into uint8 before
  (optimizer/qdq_transformer/qdq_s8_to_u8.cc; where that is not possible they stay exact, which is not told apart here)
- depthwise with one output per channel: no
- a Conv whose result is not quantized again, ConvTranspose, and operands of 4 or 16 bits between DequantizeLinear
  nodes: there is no integer kernel; they run in float
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
from onnx import AttributeProto

from oaq_repro.errors import InputError
from oaq_repro.integer.audit import Audit, Kind, LayerAudit, Operands, PassedOver, Products, audit, audit_layer
from oaq_repro.integer.graph.nodes import QParams
from oaq_repro.integer.onnx.exporter import METADATA_KEY
from oaq_repro.integer.onnx.folding import Constants
from oaq_repro.integer.onnx.importer import import_onnx
from oaq_repro.integer.onnx.matrices import Arrange, conv_rows, linear_rows, transposed_rows
from oaq_repro.integer.onnx.ranges import CodeRange, NotStatic, Ranges
from oaq_repro.integer.onnx.reader import MICROSOFT, OnnxNode, node_of, opset_of, plain, read_proto
from oaq_repro.integer.onnx.weights import WeightCodes, dequantized_weights, multiplied, weights_of_codes

OLDEST_OPSET, NEWEST_OPSET = 10, 23  # QuantizeLinear came with 10; newer ones may have changed what is read here


@dataclass(frozen=True)
class Place:
    """Numbers of the inputs that are an operand, its scale and its zero point; None where an operator has none."""

    value: int
    scale: int | None = None
    zero_point: int | None = None


@dataclass(frozen=True)
class Form:
    """An operator's operands; `on_codes`: they are codes, not real numbers that DequantizeLinear nodes give."""

    kind: Kind
    x: Place = Place(0)
    weight: Place = Place(1)
    on_codes: bool = False


_CODES, _INTEGER = (Place(0, 1, 2), Place(3, 4, 5), True), (Place(0, None, 2), Place(1, None, 3), True)
FORMS = {
    "Conv": Form("conv"),
    "ConvTranspose": Form("transposed"),
    "Gemm": Form("linear"),
    "MatMul": Form("linear"),
    "ConvInteger": Form("conv", *_INTEGER),
    "MatMulInteger": Form("linear", *_INTEGER),
    "QLinearConv": Form("conv", *_CODES),
    "QLinearMatMul": Form("linear", *_CODES),
    f"{MICROSOFT}QLinearConv": Form("conv", *_CODES),
    f"{MICROSOFT}QGemm": Form("linear", *_CODES),
    f"{MICROSOFT}MatMulIntegerToFloat": Form("linear", Place(0, 2, 4), Place(1, 3, 5), True),
    f"{MICROSOFT}FusedConv": Form("conv"),
    f"{MICROSOFT}FusedGemm": Form("linear"),
    f"{MICROSOFT}FusedMatMul": Form("linear"),
}
NEVER_STATIC = {
    f"{MICROSOFT}DynamicQuantizeMatMul": "its activation is quantized when the model runs",
    f"{MICROSOFT}MatMulNBits": "its activation is float",
}
LAYERS = FORMS.keys() | NEVER_STATIC.keys()


def audit_onnx(path: Path | str) -> Audit:
    """All layers of a model; InputError, naming the file, where it is no ONNX model, or is not statically quantized.

    A model that this package exported is audited as the graph it was made from.
    """
    try:
        proto = read_proto(path)
        opset = opset_of(proto, OLDEST_OPSET)
        if any(entry.key == METADATA_KEY for entry in proto.metadata_props):
            try:
                return Audit(layers=audit(import_onnx(path)))
            except InputError:
                pass  # somebody has changed the model since
        return _Auditor(proto, Path(path).parent, opset).audit()
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: found text that is not UTF-8, expected an ONNX model") from error


class _Auditor:
    def __init__(self, proto: onnx.ModelProto, folder: Path, opset: int) -> None:
        self._proto, self._opset = proto, opset
        self._nodes = tuple(_named(node_of(node), at) for at, node in enumerate(proto.graph.node))
        self._constants = Constants(proto, self._nodes, folder, opset)
        values = (*proto.graph.input, *proto.graph.value_info)
        self._ranges = Ranges(self._constants, {value.name: value.type.tensor_type.elem_type for value in values})
        self._readers: dict[str, list[OnnxNode]] = defaultdict(list)
        for node in self._nodes:
            for name in set(node.inputs):
                self._readers[name].append(node)

    def audit(self) -> Audit:
        rows: list[LayerAudit] = []
        passed_over: list[PassedOver] = []
        unread = [
            layer
            for function in self._proto.functions
            for layer in _layers(function.node, f"inside the function {function.name!r}, which is not read")
        ]
        static = False
        for node in self._nodes:
            self._ranges.visit(node)
            unread += _inside(node)
            if node.op not in LAYERS:
                continue
            try:
                rows.append(audit_layer(self._operands(node)))
            except InputError as error:
                static |= not isinstance(error, NotStatic)
                reason = str(error).removeprefix(f"{node.label}: ")
                passed_over.append(PassedOver(name=node.name, op=node.op, reason=reason))
        if not rows and not passed_over and not unread:
            raise InputError("found no Conv, ConvTranspose, Gemm or MatMul, expected a model with layers")
        if not rows and not unread and not static:
            raise InputError(
                f"this is not a statically quantized model: found {len(passed_over)} layers, and none whose weights "
                f"and activations are quantized (node {passed_over[0].name!r}: {passed_over[0].reason}); expected what "
                "onnxruntime.quantization.quantize_static makes, with quant_format=QuantFormat.QDQ, or another tool"
            )
        notes: tuple[str, ...] = ()
        if self._opset > NEWEST_OPSET:
            notes = (f"Opset {self._opset} is newer than {NEWEST_OPSET}, the newest one that is known here.",)
        return Audit(layers=tuple(rows), passed_over=(*passed_over, *unread), notes=notes)

    def _operands(self, node: OnnxNode) -> Operands:
        if node.op in NEVER_STATIC:
            raise NotStatic(NEVER_STATIC[node.op])
        form, x, place = FORMS[node.op], FORMS[node.op].x, FORMS[node.op].weight
        constant = [node.input(each.value) in self._constants for each in (x, place)]
        left = form.kind == "linear" and constant == [True, False]
        if left:
            x, place = place, x
        codes, zero_point = self._activation(node, x, form.on_codes)
        if not any(constant):
            both = form.kind == "linear" and self._activation(node, place, form.on_codes)
            raise node.error("both operands are activations" if both else "its weights are no constant")
        transposed = node.attribute("transA" if left else "transB", 0) != 0
        weights = self._weights(
            node, place, form.on_codes, 0 if form.kind == "conv" else -1 if left == transposed else -2
        )
        shape = weights.codes.shape
        if not weights.codes.size or len(shape) < (1 if form.kind == "linear" else 3):
            raise node.error(f"found weights of the shape {list(shape)}")
        arrange: Arrange = conv_rows
        if form.kind != "conv":
            arrange = linear_rows(left, transposed) if form.kind == "linear" else transposed_rows(node, shape)
        depthwise = form.kind == "conv" and shape[1] == 1 and node.attribute("group", 1) == shape[0]
        matrix, raw = multiplied(node, weights, arrange)
        low, high = min(codes.low, zero_point), max(codes.high, zero_point)  # padding has the code zero_point
        raw_max = high + (1 << (codes.bits - 1) if codes.signed else 0)
        if _exchanged(node, codes, weights.type):  # the largest sums of either sign are those of codes with one sign
            raw, raw_max = -weights.codes.reshape(shape[0], -1), max(high, -low)
        return Operands(
            name=node.name,
            kind="depthwise" if depthwise else form.kind,
            matrix=matrix,
            q=QParams(np.float32(1), zero_point - low, high - low),
            raw=raw if max(codes.bits, weights.type.bits) <= 8 else None,
            raw_max=raw_max,
            products=self._products(node, form, codes, weights.type, left, depthwise),
        )

    def _activation(self, node: OnnxNode, place: Place, on_codes: bool) -> tuple[CodeRange, int]:
        """The codes that an operand can have, and its zero point."""
        name = node.input(place.value)
        if on_codes:
            return self._ranges.codes(name, "" if place.zero_point is None else node.input(place.zero_point))
        real = self._ranges.real(name)
        return real.codes, real.zero_point

    def _weights(self, node: OnnxNode, place: Place, on_codes: bool, axis: int) -> WeightCodes:
        """axis: that of output channels."""
        name = node.input(place.value)
        if not on_codes:
            return dequantized_weights(self._constants, node, name)
        scale, zero_point = ("" if at is None else node.input(at) for at in (place.scale, place.zero_point))
        return weights_of_codes(self._constants, node, name, scale, zero_point, axis)

    def _products(
        self, node: OnnxNode, form: Form, codes: CodeRange, weights: CodeRange, left: bool, depthwise: bool
    ) -> Products:
        """How ONNX Runtime adds pairs of products, see the head of this file."""
        if _exchanged(node, codes, weights):
            return "neighbours"
        if depthwise or node.op == "ConvInteger":
            return "exact"
        if form.on_codes:
            return "unknown" if left else "neighbours" if weights.signed and not codes.signed else "exact"
        if form.kind == "transposed" or left or (codes.bits, weights.bits) != (8, 8):
            return "unknown"
        if form.kind == "conv" and not self._quantized(node):
            return "unknown"
        return "neighbours" if weights.signed else "exact"

    def _quantized(self, node: OnnxNode) -> bool:
        """Whether a result is quantized again, with no more than a Relu or Clip before."""
        readers = self._readers[node.outputs[0]]
        behind = [next_ for each in readers if each.op in ("Relu", "Clip") for next_ in self._readers[each.outputs[0]]]
        return any(plain(each.op) == "QuantizeLinear" for each in (*readers, *behind))


def _exchanged(node: OnnxNode, codes: CodeRange, weights: CodeRange) -> bool:
    """Whether the weights are what an instruction for uint8 by int8 takes as uint8, and the codes the other operand."""
    return node.op == "ConvInteger" and codes.signed and not weights.signed


def _named(node: OnnxNode, at: int) -> OnnxNode:
    """A node that has a name: its own, or that of its first output."""
    return replace(node, name=node.name or next((name for name in node.outputs if name), f"node {at}"))


def _inside(node: OnnxNode) -> Iterator[PassedOver]:
    """Layers in the sub-graphs of a node."""
    return _layers_in(node.attributes.values(), f"inside a sub-graph of {node.label}, which is not read")


def _layers(nodes: Iterable[onnx.NodeProto], reason: str) -> Iterator[PassedOver]:
    for at, proto in enumerate(nodes):
        node = _named(node_of(proto), at)
        if node.op in LAYERS:
            yield PassedOver(name=node.name, op=node.op, reason=reason)
        yield from _layers_in(proto.attribute, reason)


def _layers_in(attributes: Iterable[AttributeProto], reason: str) -> Iterator[PassedOver]:
    for attribute in attributes:
        for graph in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
            yield from _layers(graph.node, reason)
