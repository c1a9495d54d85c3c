"""What narrow accumulators do to a quantized model: one row per layer, from exact worst cases (`certificate`).

Two questions. Which register is wide enough for any input whatever? And does the layer give the same results on every
processor? x86 processors with AVX2 or AVX-512 but without VNNI multiply uint8 codes by int8 weights with `vpmaddubsw`,
which saturates the sum of two neighbouring products at 16 bits (ONNX Runtime, onnxruntime_session_options_config_keys.h
on "session.x64quantprecision"). ONNX Runtime pairs products along K in the order (kernel row, kernel column, channel):
it reorders weights OIHW to HWIO and unfolds images in NHWC (qlinearconv.cc); other runtimes may pair them otherwise.

Depthwise convolutions with one output per channel are called exact: ONNX Runtime computes them with full 16 x 16 bit
products and 32-bit sums (`MlasConvDepthwiseKernelAvx2` in mlas/lib/intrinsics/avx2/qdwconv_avx2.cpp).
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from oaq_repro.integer.certificate import certify
from oaq_repro.integer.graph import Graph
from oaq_repro.integer.nodes import Conv, Layer
from oaq_repro.quant.accumulator import NAMED, Accumulator

Pairs = Literal["exact", "depends on pairing", "possible"]
SHORTEST_BLOCK = 2  # a block of one product saves nothing over 32 bits
PAIR = NAMED["pair_saturating"]


@dataclass(frozen=True)
class LayerAudit:
    """One layer.

    kind: conv, depthwise (one input and one output channel per group) or linear. depth: products per output, K.
    worst_case: largest partial sum / limit of a 16-bit register that holds the whole sum; above 1 it can overflow.
    longest_block: products that a 16-bit register holds on any input, 0 where there is no such number (`certificate`).
    pairs: whether a sum of two products can saturate at 16 bits without VNNI: "exact", never, however products are
    paired; "possible", already for neighbours in the order (kernel row, kernel column, channel); else "depends on
    pairing". narrowest: the narrowest accumulator that no input overflows: int16, int16 in blocks, or int32.
    """

    name: str
    kind: Literal["conv", "depthwise", "linear"]
    depth: int
    q_max: int
    worst_case: float
    longest_block: int
    pairs: Pairs
    narrowest: Accumulator

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; the accumulator by name and by fields."""
        fields = {**self.__dict__, "narrowest": self.narrowest.name}
        return {**fields, "accumulator": self.narrowest.to_dict()}


def audit(graph: Graph) -> tuple[LayerAudit, ...]:
    """One row per layer, in order; InputError where the graph is not valid. The layers' own accumulators play no part.

    "int32" is what every layer of the usual sizes fits into; it is not proved here.
    """
    graph.validate()
    return tuple(_row(graph, layer) for layer in graph.layers())


def _row(graph: Graph, layer: Layer) -> LayerAudit:
    q = graph.qparams(layer.inputs[0])
    whole = certify(layer, q, NAMED["int16"])
    if whole.certified:
        narrowest = NAMED["int16"]
    elif whole.longest_block >= SHORTEST_BLOCK:
        narrowest = Accumulator(bits=16, block=whole.longest_block)
    else:
        narrowest = NAMED["int32"]
    depthwise = isinstance(layer, Conv) and layer.weight.shape[1] == 1 and layer.groups == len(layer.weight)
    pairs: Pairs = "possible"
    if depthwise or not _any_pair_saturates(layer, q.q_max):
        pairs = "exact"
    elif certify(layer, q, PAIR).certified:
        pairs = "depends on pairing"
    return LayerAudit(
        name=layer.name,
        kind="depthwise" if depthwise else "conv" if isinstance(layer, Conv) else "linear",
        depth=layer.weight[0].size,
        q_max=q.q_max,
        worst_case=whole.worst_case,
        longest_block=whole.longest_block,
        pairs=pairs,
        narrowest=narrowest,
    )


def _any_pair_saturates(layer: Layer, q_max: int) -> bool:
    """Whether the two largest or the two smallest weights of an output channel saturate together at code q_max."""
    weight = layer.matrix.astype(np.int64)
    ordered = np.sort(np.pad(weight, ((0, 0), (1, 1))), axis=1)  # a product may stand alone: beside zero
    largest, smallest = ordered[:, -2:].sum(axis=1).max(), ordered[:, :2].sum(axis=1).min()
    return bool(q_max * largest > PAIR.maximum or q_max * smallest < PAIR.minimum)
