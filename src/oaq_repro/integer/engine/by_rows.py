"""Dense layers that run together with the depthwise layer that alone reads them, some rows at a time. Our choice.

In the first half of a MobileNet the expanded values are several times as large as what is expanded, and as what the
depthwise layer leaves: more than a cache holds. Made and read in strips of rows they never leave it
(csrc/program_rows.cpp).
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from oaq_repro.integer.engine.reorder import Ordered
from oaq_repro.integer.engine.routes import scales_within_int32
from oaq_repro.integer.graph.nodes import Layer, Lookup, Shape

SMALLEST = 1 << 16  # bytes of a value between the layers for which strips are worth while
BUFFER = 48 << 10  # bytes of the rows that are held, about: what an L2 cache has beside all else
LARGEST_WEIGHTS = 1 << 16  # bytes of the dense layer's, which every strip reads anew


@dataclass(frozen=True)
class Strips:
    """Of the value between two layers. dense, depthwise: their names. height: its rows. held: those that are held."""

    dense: str
    depthwise: str
    height: int
    held: int


def by_rows(ordered: Ordered, shapes: Mapping[str, Shape]) -> dict[str, Strips]:
    """The values, by name, that are made and read in strips."""
    graph = ordered.graph
    nodes = {node.name: node for node in graph.nodes}
    readers = Counter(name for node in graph.nodes for name in node.inputs)
    found = {}
    for reader in graph.layers():
        name = reader.inputs[0]
        maker = nodes.get(name)
        if isinstance(maker, Lookup) and readers[name] == readers[maker.inputs[0]] == 1:
            maker = nodes.get(maker.inputs[0])  # whose step looks up
        if not (isinstance(maker, Layer) and readers[name] == 1 and _has_kernels(maker, ordered)):
            continue
        if not (reader.depthwise and reader.channel_groups > 1 and _has_kernels(reader, ordered)):
            continue
        channels, height, width = shapes[name]
        if maker.depthwise and maker.channel_groups > 1 or channels * height * width < SMALLEST:
            continue
        if maker.weight.size <= LARGEST_WEIGHTS:
            found[name] = Strips(maker.name, reader.name, height, _held(reader, width * channels))
    return found


def _has_kernels(layer: Layer, ordered: Ordered) -> bool:
    """Whether kernels run the whole layer as one part."""
    demanded = ordered.demands[layer.name]
    source = ordered.graph.qparams(layer.inputs[0])
    return len(layer.parts) == 1 and demanded is not None and scales_within_int32(layer, source, demanded)


def _held(reader: Layer, row: int) -> int:
    """Rows, of so many bytes, that are held: as many as the depthwise layer reads for one strip of its own."""
    window = reader.parts[0].window
    read = (window.kernel[0] - 1) * window.dilation[0] + 1
    return read + window.stride[0] * (max(BUFFER // row - read, 0) // window.stride[0])
