"""Runs an integer graph on the CPU and counts accumulator overflow. Needs NumPy and the compiled kernel only.

Results do not depend on the number of threads: every image is computed by itself, exactly or elementwise in float32.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from oaq_repro.errors import InputError
from oaq_repro.integer.graph import Graph
from oaq_repro.integer.graph.arithmetic import Array, changed_by_saturation
from oaq_repro.integer.graph.nodes import CodeNode, Layer, Node

LARGEST_CHUNK = 16  # images that one task holds values of


@dataclass(frozen=True, eq=False)
class Execution:
    """What a run gave, for N images.

    outputs: float32 arrays [N, ...] in the order of `Graph.outputs`.
    Per layer: `events` int64 [N], outputs of that image with any partial sum outside its register, or to which the
    saturation of fixed16 gives another code; `outputs_per_image`, all outputs of an image; `peak`, the largest value /
    maximum or value / minimum of any partial sum or saturated sum (above 1: overflow).
    `values`: where traced, codes uint8 (NCHW or [N, K]) of every node that has codes.
    """

    outputs: tuple[Array, ...]
    events: dict[str, Array]
    outputs_per_image: dict[str, int]
    peak: dict[str, float]
    values: dict[str, Array] = field(default_factory=dict)


class Reference:
    """Executes a graph; validates it first (InputError). `threads`: images are shared among that many workers."""

    def __init__(self, graph: Graph, threads: int = 1) -> None:
        """Validate and plan when each value is last read."""
        if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
            raise InputError(f"threads: found {threads!r}, expected an integer of at least 1")
        graph.validate()
        self.graph = graph
        self.threads = threads
        self._qparams = {node.name: node.output for node in graph.nodes if isinstance(node, CodeNode)}
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
        sources = [self._qparams[name] for name in node.inputs if name in self._qparams]
        if not isinstance(node, Layer):
            return node.reference(inputs, sources)
        sums = node.accumulate(inputs[0], sources[0])
        policy, events, total = node.accumulator, sums.events, node.biased(sums)
        peak = max(sums.highest / policy.maximum, sums.lowest / policy.minimum)
        if node.requantization == "fixed16":
            changed, reached = changed_by_saturation(total, node.ratio(sources[0]), node.output)
            events, peak = events | changed, max(peak, reached)
        per_image = events.reshape(len(events), -1)
        result.events[node.name] = per_image.sum(axis=1, dtype=np.int64)
        result.outputs_per_image[node.name] = per_image.shape[1]
        result.peak[node.name] = peak
        return node.requantized(total, sources[0])


def _channels_last(x: Array) -> Array:
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1))


def _channels_first(x: Array) -> Array:
    """NCHW (or [N, K] as it is), contiguous."""
    return np.ascontiguousarray(np.moveaxis(x, -1, 1)) if x.ndim == 4 else x
