"""How often sums leave 16 bits when operands have 4 to 8 bits: an exact count on a trained network.

The definition, which is ours (the paper's figure 5 is not at hand in full). The graph runs on images with exact sums.
Every layer's input codes are then mapped to b bits, `a_b = rint(a * (2^b - 1) / 255)`, the zero point alike, and its
weights' codes to `w_b = rint(w * (2^(b-1) - 1) / 127)`, without clipping: coarser steps over the same range. The sums
of these codes are counted in the accumulator, whatever accumulator the graph has, in all layers but those that were
given another one than the network (by default the first and the last). So every layer sees what the network as trained
feeds it, errors of coarser codes do not travel on, and b = 8 is the network itself.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from oaq_repro.accumulator import NAMED, Accumulator
from oaq_repro.errors import InputError
from oaq_repro.integer.graph import Graph
from oaq_repro.integer.graph.arithmetic import Array
from oaq_repro.integer.graph.nodes import Layer, QParams
from oaq_repro.integer.reference import Reference

BITS = (4, 5, 6, 7, 8)
TOGETHER = "together"


@dataclass
class Count:
    """Outputs checked, outputs that overflow, images with at least one of them, images."""

    bits: int
    layer: str
    events: int = 0
    outputs: int = 0
    images_affected: int = 0
    images: int = 0

    def add(self, events: Array, outputs: int) -> None:
        """One batch: events per image [N], outputs per image."""
        self.events += int(events.sum())
        self.outputs += outputs * len(events)
        self.images_affected += int((events > 0).sum())
        self.images += len(events)


def operand_overflow(
    graph: Graph, batches: Iterable[Array], accumulator: Accumulator = NAMED["int16"], bits: Sequence[int] = BITS
) -> list[Count]:
    """Counts by bits and layer, and for these layers together, over batches float32 [N, C, H, W].

    InputError where bits are not 2 to 8, no layer keeps the network's accumulator, or there are no images.
    """
    if not bits or not all(2 <= width <= 8 for width in bits):
        raise InputError(f"bits: found {list(bits)}, expected numbers from 2 to 8")
    layers = [layer for layer in graph.layers() if layer.accumulator_reason in ("", "asked for")]
    if not layers:
        raise InputError(
            "graph: found another accumulator asked for in every layer, expected layers that keep the network's"
        )
    counts = {(width, layer.name): Count(width, layer.name) for width in bits for layer in layers}
    totals = {width: Count(width, TOGETHER) for width in bits}
    reference = Reference(graph.with_accumulator(NAMED["int32"]))
    for images in batches:
        values = reference.run(images, trace=True).values
        for width in bits:
            sums = np.zeros(len(images), np.int64)
            outputs = 0
            for layer in layers:
                source = graph.qparams(layer.inputs[0])
                events = _events(layer, values[layer.inputs[0]], source, width, accumulator)
                counts[width, layer.name].add(events.sum(axis=1), events.shape[1])
                sums += events.sum(axis=1)
                outputs += events.shape[1]
            totals[width].add(sums, outputs)
    if not all(total.images for total in totals.values()):
        raise InputError("images: found none, expected at least one batch")
    return [count for width in bits for count in (totals[width], *(counts[width, x.name] for x in layers))]


def _events(layer: Layer, codes: Array, source: QParams, bits: int, accumulator: Accumulator) -> Array:
    """Whether each output overflows, int64 [N, outputs of an image]; codes as traced, NCHW or [N, K]."""
    steps = (2**bits - 1) / 255
    weight = np.rint(layer.weight * ((2 ** (bits - 1) - 1) / 127)).astype(np.int8)
    x = np.rint(codes * steps).astype(np.uint8)
    x = np.ascontiguousarray(np.moveaxis(x, 1, -1)) if x.ndim == 4 else x
    zero_point = int(np.rint(source.zero_point * steps))
    narrow = replace(layer, weight=weight, accumulator=accumulator)
    sums = narrow.accumulate(x, replace(source, zero_point=zero_point))
    return (sums.events != 0).reshape(len(codes), -1).astype(np.int64)
