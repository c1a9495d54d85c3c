"""What narrow accumulators do to a quantized model: one row per layer, from exact worst cases (`certificate`).

Two questions. Which register is wide enough for any input whatever? And does the layer give the same results on every
processor? x86 processors with AVX2 or AVX-512 but without VNNI multiply uint8 codes by int8 weights with `vpmaddubsw`,
which saturates the sum of two neighbouring products at 16 bits (ONNX Runtime, onnxruntime_session_options_config_keys.h
on "session.x64quantprecision"). ONNX Runtime pairs products along K in the order (kernel row, kernel column, channel):
it reorders weights OIHW to HWIO and unfolds images in NHWC (qlinearconv.cc); other runtimes may pair them otherwise.

What is multiplied, and what the register holds. Corrections for zero points are no products: one that is known
beforehand, of the activation (z_a * sum(w)), is where a wrapping register starts, so that the sum of (a - z_a) * w has
to fit (`accumulator`). A weight's zero point is folded into the weights, w - z_w, where these fit into the
weight's width (8 or 16 bits, signed); otherwise the codes themselves are multiplied, unsigned ones less half their
range, and the correction z_w * sum(a - z_a), which depends on the input, is added outside the register.

Where ONNX Runtime's products saturate (versions 1.17 to 1.32; tried on 1.32 with AVX2 alone): `onnx.audit`.
Depthwise convolutions with one output per channel are called exact: ONNX Runtime computes them with full 16 x 16 bit
products and 32-bit sums (`MlasConvDepthwiseKernelAvx2` in mlas/lib/intrinsics/avx2/qdwconv_avx2.cpp).
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, computed_field, field_serializer

from oaq_repro.accumulator import NAMED, Accumulator
from oaq_repro.integer.certificate import certify_matrix, reach_of_matrix
from oaq_repro.integer.graph import Graph
from oaq_repro.integer.graph.arithmetic import Array
from oaq_repro.integer.graph.nodes import Conv, ConvTranspose, Layer, Linear, QParams

Kind = Literal["conv", "depthwise", "transposed", "linear"]
Pairs = Literal["exact", "depends on pairing", "possible"]
Products = Literal["exact", "neighbours", "unknown"]
KINDS: dict[type[Layer], Kind] = {Conv: "conv", ConvTranspose: "transposed", Linear: "linear"}
SHORTEST_BLOCK = 2  # a block of one product saves nothing over 32 bits
PAIR = NAMED["pair_saturating"]


class Saturated(BaseModel):
    """What saturating pairs change in a layer on given images, its input being exact (`saturation`)."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    outputs: int = Field(description="output codes of all images together")
    changed: int = Field(description="of these, codes that are others with saturating pairs")
    images: int = Field(description="images with such a code")


class LayerAudit(BaseModel):
    """One layer."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str
    kind: Kind = Field(
        description="conv; depthwise: one input and one output channel per group; transposed: ConvTranspose; linear: "
        "Gemm or MatMul"
    )
    depth: int = Field(description="products per output, K; of a transposed convolution the most that meet in a pixel")
    q_max: int = Field(description="largest code of the input, counted from the smallest one that can occur")
    worst_case: float = Field(
        description="largest partial sum / limit of a 16-bit register that holds the whole sum; above 1 some input "
        "overflows it"
    )
    longest_block: int = Field(
        description="products, in the order (kernel row, kernel column, channel), that a 16-bit register holds on any "
        "input; 0 where there is no such number"
    )
    pairs: Pairs = Field(
        description="whether a sum of two products can saturate at 16 bits on x86 without VNNI; exact: never in ONNX "
        "Runtime, or however products are paired; possible: in ONNX Runtime's order of products; depends on pairing: "
        "not in that order but in another, or ONNX Runtime has no integer kernel for the layer and other runtimes may"
    )
    narrowest: Accumulator | None = Field(
        description="name of the narrowest accumulator that no input overflows: int16, int16 in blocks, int32; null "
        "where 32 bits do not suffice"
    )
    saturated: Saturated | None = Field(
        default=None,
        description="counted on images that were given, with pairs in ONNX Runtime's order of products; null without "
        "images and where `pairs` is exact",
    )

    @field_serializer("narrowest")
    def _name_of_narrowest(self, value: Accumulator | None) -> str | None:
        return None if value is None else value.name

    @computed_field(description="the fields of `narrowest`")  # type: ignore[prop-decorator]
    @property
    def accumulator(self) -> Accumulator | None:
        """The narrowest accumulator once more: in JSON, by its fields."""
        return self.narrowest

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; the accumulator by name and by fields."""
        return self.model_dump(mode="json")


class PassedOver(BaseModel):
    """A layer without a row."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str
    op: str = Field(description="the ONNX operator, with its domain where that is not ONNX's own")
    reason: str


class Audit(BaseModel):
    """A whole model; every Conv, ConvTranspose, Gemm and MatMul, in whatever form, is in one of both lists."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    layers: tuple[LayerAudit, ...] = Field(description="layers that were audited, in the order of the model")
    passed_over: tuple[PassedOver, ...] = Field(default=(), description="layers that were not")
    notes: tuple[str, ...] = Field(default=(), description="what else a reader should know of the model")

    @computed_field(description="how many layers the model has")  # type: ignore[prop-decorator]
    @property
    def total(self) -> int:
        """Layers of the model, audited or not."""
        return len(self.layers) + len(self.passed_over)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, of the schema `audit_schema`."""
        return self.model_dump(mode="json")


def audit_schema() -> dict[str, Any]:
    """JSON schema of what `python -m oaq_repro.integer audit --json` prints."""
    return Audit.model_json_schema(mode="serialization")


@dataclass(frozen=True, eq=False)
class Operands:
    """What a layer multiplies.

    matrix: integers [O, K] whose products with codes less zero point the register adds up. q: codes of the input,
    counted from the smallest; its scale plays no part. raw: the weights [O, K] that a saturating instruction would
    multiply with uint8 codes of at most `raw_max`, None where an operand has more than 8 bits. products: how ONNX
    Runtime adds pairs on x86 without VNNI: saturating neighbours, exactly, or not known.
    """

    name: str
    kind: Kind
    matrix: Array
    q: QParams
    raw: Array | None
    raw_max: int
    products: Products


def audit(graph: Graph) -> tuple[LayerAudit, ...]:
    """One row per layer, in order; InputError where the graph is not valid. The layers' accumulators play no part."""
    graph.validate()
    return tuple(audit_layer(_operands(layer, graph.qparams(layer.inputs[0]))) for layer in graph.layers())


def audit_layer(found: Operands) -> LayerAudit:
    """The row of a layer."""
    whole = certify_matrix(found.name, found.matrix, found.q, NAMED["int16"])
    narrowest: Accumulator | None = None
    if whole.certified:
        narrowest = NAMED["int16"]
    elif whole.longest_block >= SHORTEST_BLOCK:
        narrowest = Accumulator(bits=16, block=whole.longest_block)
    elif NAMED["int32"].minimum <= whole.lower and whole.upper <= NAMED["int32"].maximum:
        narrowest = NAMED["int32"]
    return LayerAudit(
        name=found.name,
        kind=found.kind,
        depth=found.matrix.shape[1],
        q_max=found.q.q_max,
        worst_case=whole.worst_case,
        longest_block=whole.longest_block,
        pairs=_pairs(found),
        narrowest=narrowest,
    )


def _operands(layer: Layer, q: QParams) -> Operands:
    """A layer of a graph: int8 weights, run by ONNX Runtime as `onnx.exporter` writes it."""
    kind = next(kind for operator, kind in KINDS.items() if isinstance(layer, operator))
    exact = layer.depthwise or layer.requantization != "float32"  # which is written with uint8 weights
    matrix, products = layer.matrix, "exact" if exact else "neighbours"
    kind = "depthwise" if layer.depthwise and kind == "conv" else kind
    return Operands(layer.name, kind, matrix, q, matrix, q.q_max, products)  # type: ignore[arg-type]


def _pairs(found: Operands) -> Pairs:
    if found.products == "exact" or found.raw is None or not _any_pair_saturates(found.raw, found.raw_max):
        return "exact"
    if found.products == "unknown":
        return "depends on pairing"
    lower, upper = reach_of_matrix(found.raw, QParams(np.float32(1), 0, found.raw_max), PAIR)
    return "depends on pairing" if PAIR.minimum <= lower and upper <= PAIR.maximum else "possible"


def _any_pair_saturates(weight: Array, largest_code: int) -> bool:
    """Whether the two largest or the two smallest weights of an output channel saturate together."""
    ordered = np.sort(np.pad(weight.astype(np.int64), ((0, 0), (1, 1))), axis=1)  # a product may stand beside zero
    largest, smallest = ordered[:, -2:].sum(axis=1).max(), ordered[:, :2].sum(axis=1).min()
    return bool(largest_code * largest > PAIR.maximum or largest_code * smallest < PAIR.minimum)
