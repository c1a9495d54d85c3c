"""The engine's kernels, layer by layer: every route of every convolution shape of some networks.

A shape is timed as a graph of that one layer. Weights are all alike and of the size that makes the engine choose the
wanted route: sums of `fold` steps just fit into 16 bits. Only the layer's own node is timed.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from oaq_repro.accumulator import NAMED
from oaq_repro.benchmark.networks import ARCHITECTURES, integer_graph
from oaq_repro.benchmark.timing import Row, Variant, alternate, rows
from oaq_repro.integer import graph as ir
from oaq_repro.integer.engine import Engine
from oaq_repro.integer.engine.sums import EXACT, WHOLE, Mode, folded
from oaq_repro.integer.graph.arithmetic import Array

BASE = "16 bit"
FOLDS = (16, 8, 4, 2, 1)
ROUTES = (BASE, *(f"fold {fold}" for fold in FOLDS), "exact")
TOP = 255  # codes are in [0, TOP]
ONE = np.float32(1)


@dataclass(frozen=True)
class ConvShape:
    """Of a convolution: input [C, H, W], O outputs."""

    channels: int
    height: int
    width: int
    outputs: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    dilation: tuple[int, int]
    groups: int

    @property
    def kind(self) -> str:
        """`depthwise 3x3`, or the kernel alone."""
        size = f"{self.kernel[0]}x{self.kernel[1]}"
        return f"depthwise {size}" if 1 < self.groups == self.channels == self.outputs else size

    @property
    def name(self) -> str:
        """In words: kernel, stride, size of the image, channels."""
        strides = "" if self.stride == (1, 1) else f" /{self.stride[0]}"
        wide = "" if self.dilation == (1, 1) else f" dilation {self.dilation[0]}"
        channels = f"{self.channels}" if "depthwise" in self.kind else f"{self.channels}-{self.outputs}"
        return f"{self.kind}{strides}{wide} {self.height}x{self.width} {channels}"


def kind_of(name: str) -> str:
    """`ConvShape.kind`, from its name."""
    words = name.split()
    return " ".join(words[:2]) if words[0] == "depthwise" else words[0]


def conv_shapes(graph: ir.Graph, input_shape: Sequence[int]) -> set[ConvShape]:
    """The different ones of a graph."""
    shapes = graph.shapes(input_shape)
    found = set()
    for layer in graph.layers():
        if isinstance(layer, ir.Conv):
            channels, height, width = shapes[layer.inputs[0]]
            outputs, _, *kernel = layer.weight.shape
            geometry = (layer.stride, layer.padding, layer.dilation, layer.groups)
            found.add(ConvShape(channels, height, width, outputs, (kernel[0], kernel[1]), *geometry))
    return found


def shapes_of(networks: Iterable[str], folder: Path) -> list[ConvShape]:
    """Of several networks, by kind, then by size."""
    folder.mkdir(parents=True, exist_ok=True)
    found: set[ConvShape] = set()
    for name in networks:
        found |= conv_shapes(integer_graph(name, "int8", folder), ARCHITECTURES[name].input_shape)
    return sorted(found, key=lambda s: (s.kind, -s.height, -s.width, s.channels, s.outputs, s.stride, s.groups))


def single_layer(shape: ConvShape, weight: int) -> ir.Graph:
    """Quantize, the convolution with that weight everywhere and 16-bit accumulators that wrap, dequantize."""
    depth = shape.channels // shape.groups * shape.kernel[0] * shape.kernel[1]
    weights = np.full((shape.outputs, shape.channels // shape.groups, *shape.kernel), weight, np.int8)
    scale = np.full(shape.outputs, 1 / (depth * weight), np.float32)  # outputs fill the range
    codes = ir.QParams(ONE, 0, TOP)
    layer = ir.Conv(
        "layer", ("codes",), codes, weights, np.zeros(shape.outputs, np.int32), scale, scale, shape.stride,
        shape.padding, shape.dilation, shape.groups, accumulator=NAMED["int16"],
    )  # fmt: skip
    nodes = (ir.Quantize("codes", ("image",), codes), layer, ir.Dequantize("output", ("layer",)))
    return ir.Graph("image", nodes, ("output",))


def engine_for(shape: ConvShape, route: str, threads: int) -> Engine | None:
    """An engine that runs the shape on that route throughout; None where the shape has no such route."""
    fold = int(route.removeprefix("fold ")) if route.startswith("fold") else 1
    products = 2 * fold  # of a half sum
    mode: Mode = "certified"
    if route == BASE:
        mode = "fast"
    elif route == "exact":
        mode = "exact"
    largest = NAMED["int16"].maximum // (products * TOP)
    engine = Engine(single_layer(shape, largest), (shape.channels, shape.height, shape.width), threads, mode)
    wanted = {BASE: WHOLE, "exact": EXACT}.get(route, folded(fold))
    return engine if set(engine.routes[0].sums) == {wanted} else None


def measure_kernels(
    shapes: Sequence[ConvShape],
    threads: Sequence[int],
    rounds: int,
    clock_hz: float,
    progress: Callable[[], Any] = lambda: None,
) -> Iterator[list[Row]]:
    """The rows of one shape and number of threads after the other; `progress` is called once per round."""
    for count in threads:
        for shape in shapes:
            image = np.random.default_rng(0).uniform(0, TOP, (shape.channels, shape.height, shape.width))
            variants, macs = [], 0
            for route in ROUTES:
                engine = engine_for(shape, route, count)
                if engine is not None:
                    macs = engine.graph.layers()[0].products(engine.output_shapes[0])
                    variants.append(Variant(route, _node_time(engine, image.astype(np.float32))))
            yield rows(shape.name, count, alternate(variants, rounds, 1, progress), macs, clock_hz, base=BASE)


def _node_time(engine: Engine, image: Array) -> Callable[[], float]:
    """Seconds of the layer in the second of two runs; the first fills the caches."""

    def measure() -> float:
        engine.profile(image, 1)
        return engine.profile(image, 1)["layer"]

    return measure
