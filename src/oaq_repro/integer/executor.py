"""Runs an integer graph on the CPU and counts accumulator overflow. Needs NumPy and the compiled kernel only.

Results do not depend on the number of threads: every image is computed by itself, exactly or elementwise in float32.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from oaq_repro.errors import InputError
from oaq_repro.integer import operators
from oaq_repro.integer.graph import Graph
from oaq_repro.integer.nodes import (
    Add,
    AvgPool,
    Concat,
    Conv,
    Dequantize,
    Flatten,
    GlobalAvgPool,
    Linear,
    MaxPool,
    Node,
    Quantize,
    Requantize,
    Resize,
    ResizeNearest,
)

Array = np.ndarray[Any, Any]
LARGEST_CHUNK = 16  # images that one task holds values of


@dataclass(frozen=True, eq=False)
class Execution:
    """What a run gave, for N images.

    outputs: float32 arrays [N, ...] in the order of `Graph.outputs`.
    Per layer: `events` int64 [N], outputs of that image with any partial sum outside its register;
    `outputs_per_image`, all outputs of an image; `peak`, the largest value / maximum or value / minimum of any partial
    sum (above 1: overflow).
    `values`: where traced, codes uint8 (NCHW or [N, K]) of every node that has codes.
    """

    outputs: tuple[Array, ...]
    events: dict[str, Array]
    outputs_per_image: dict[str, int]
    peak: dict[str, float]
    values: dict[str, Array] = field(default_factory=dict)


class Executor:
    """Executes a graph; validates it first (InputError). `threads`: images are shared among that many workers."""

    def __init__(self, graph: Graph, threads: int = 1) -> None:
        """Validate and plan when each value is last read."""
        if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
            raise InputError(f"threads: found {threads!r}, expected an integer of at least 1")
        graph.validate()
        self.graph = graph
        self.threads = threads
        self._qparams = {node.name: node.output for node in graph.nodes if not isinstance(node, Dequantize)}
        last = {name: index for index, node in enumerate(graph.nodes) for name in node.inputs}
        for index, node in enumerate(graph.nodes):
            last.setdefault(node.name, index)
        self._dead: dict[int, list[str]] = {}
        for name, index in last.items():
            if name not in graph.outputs and name != graph.input_name:
                self._dead.setdefault(index, []).append(name)

    def run(self, images: Array, trace: bool = False) -> Execution:
        """Run float32 images [N, C, H, W]; InputError for another type, a shape that does not fit, NaN or infinity."""
        if not isinstance(images, np.ndarray) or images.dtype != np.float32 or images.ndim != 4 or images.size == 0:
            found = f"{images.dtype} {list(images.shape)}" if isinstance(images, np.ndarray) else type(images).__name__
            raise InputError(f"images: found {found}, expected a NumPy array float32 [N, C, H, W], not empty")
        if not np.isfinite(images).all():
            raise InputError("images: found NaN or infinity, expected finite values")
        self.graph.shapes(images.shape[1:])
        size = min(-(-len(images) // self.threads), LARGEST_CHUNK)
        chunks = [images[start : start + size] for start in range(0, len(images), size)]
        if self.threads == 1 or len(chunks) == 1:
            parts = [self._run_chunk(chunk, trace) for chunk in chunks]
        else:
            with ThreadPoolExecutor(min(self.threads, len(chunks))) as pool:
                parts = list(pool.map(lambda chunk: self._run_chunk(chunk, trace), chunks))
        first = parts[0]
        return Execution(
            outputs=tuple(np.concatenate(arrays) for arrays in zip(*(part.outputs for part in parts), strict=True)),
            events={name: np.concatenate([part.events[name] for part in parts]) for name in first.events},
            outputs_per_image=first.outputs_per_image,
            peak={name: max(part.peak[name] for part in parts) for name in first.peak},
            values={name: np.concatenate([part.values[name] for part in parts]) for name in first.values},
        )

    def _run_chunk(self, images: Array, trace: bool) -> Execution:
        values: dict[str, Array] = {self.graph.input_name: _channels_last(images)}
        result = Execution((), {}, {}, {})
        for index, node in enumerate(self.graph.nodes):
            with np.errstate(over="ignore"):  # infinity is clamped
                value = self._run_node(node, [values[name] for name in node.inputs], result)
            values[node.name] = value
            if trace and value.dtype == np.uint8:
                result.values[node.name] = _channels_first(value)
            for name in self._dead.get(index, ()):
                del values[name]
        outputs = tuple(_channels_first(values[name]) for name in self.graph.outputs)
        return Execution(outputs, result.events, result.outputs_per_image, result.peak, result.values)

    def _run_node(self, node: Node, inputs: list[Array], result: Execution) -> Array:
        """One node on channels-last values; a layer leaves its counts in `result`."""
        x = inputs[0]
        if isinstance(node, Quantize):
            return operators.quantize(x, node.output)
        sources = [self._qparams[name] for name in node.inputs]
        source = sources[0]
        match node:
            case Conv() | Linear():
                acc, events, lowest, highest = operators.accumulate(node, x, source)
                per_image = events.reshape(len(events), -1)
                result.events[node.name] = per_image.sum(axis=1, dtype=np.int64)
                result.outputs_per_image[node.name] = per_image.shape[1]
                policy = node.accumulator
                result.peak[node.name] = max(highest / policy.maximum, lowest / policy.minimum)
                acc += node.bias  # int32, modulo 2^32
                return operators.requantize(acc, node.multiplier, node.output)
            case Add():
                return operators.add(x, inputs[1], source, sources[1], node.output)
            case Concat():
                parts = [operators.rescale(part, q, node.output) for part, q in zip(inputs, sources, strict=True)]
                return np.concatenate(parts, axis=-1)
            case Requantize():
                return operators.rescale(x, source, node.output)
            case MaxPool():
                return operators.max_pool(node, x)
            case AvgPool():
                return operators.average_pool(node, x, source)
            case GlobalAvgPool():
                pooled = operators.global_average_pool(x, source, node.output)
                return pooled if node.keepdims else pooled.reshape(len(pooled), -1)
            case Resize():
                return operators.resize(node, x, (inputs[1].shape[1], inputs[1].shape[2]))
            case ResizeNearest():
                return operators.resize_nearest(node, x)
            case Flatten():
                return _channels_first(x).reshape(len(x), -1)
            case Dequantize():
                return operators.dequantize(x, source)
        raise InputError(f"graph node {node.name!r}: no such operator")  # validate() has seen to it


def _channels_last(x: Array) -> Array:
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1))


def _channels_first(x: Array) -> Array:
    """NCHW (or [N, K] as it is), contiguous."""
    return np.ascontiguousarray(np.moveaxis(x, -1, 1)) if x.ndim == 4 else x
