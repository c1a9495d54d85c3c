"""The integer engine: runs a graph on kernels with 16-bit accumulators (csrc/). Needs NumPy and the compiled module.

Results equal the reference executor's bit for bit: in the modes `certified`, `acc32` and `exact` those of 32-bit
accumulation, in the mode `fast` those of the graph's own accumulators, overflow included (routes.py).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from oaq_repro import _kernels
from oaq_repro.errors import InputError
from oaq_repro.integer import compiling
from oaq_repro.integer.explain import table
from oaq_repro.integer.graph import Graph
from oaq_repro.integer.plan import place
from oaq_repro.integer.reorder import reorder
from oaq_repro.integer.routes import InstructionSet, Mode, check_mode

Array = np.ndarray[Any, Any]
LARGEST_ARENA = 1 << 33  # bytes


class Engine:
    """A graph compiled for images of one size.

    input_shape: [C, H, W]. threads: shared by the work of every operator. mode: see `routes`. trace: keep every value
    for `value`, at the price of memory. isa: a name of the table of kernels; by default the environment variable
    OAQ_ISA, else the best that this machine has. Raises InputError for what does not fit.
    """

    def __init__(
        self,
        graph: Graph,
        input_shape: Sequence[int],
        threads: int = 1,
        mode: Mode = "certified",
        *,
        trace: bool = False,
        isa: str | None = None,
    ) -> None:
        check_mode(mode)
        if isinstance(threads, bool) or not isinstance(threads, int) or not 1 <= threads <= 1024:
            raise InputError(f"threads: found {threads!r}, expected an integer from 1 to 1024")
        graph.validate()
        self.graph, self.mode, self.threads = graph, mode, threads
        self.input_shape = tuple(int(size) for size in input_shape)
        if len(self.input_shape) != 3 or min(self.input_shape) < 1:
            raise InputError(f"input_shape: found {list(input_shape)}, expected [channels, height, width]")
        self._shapes = graph.shapes(self.input_shape)
        kernels = InstructionSet.selected(isa)
        self.isa = kernels.isa
        if not trace:
            graph = reorder(graph, self._shapes, mode, kernels)
        placed, arena = place(graph, self._shapes, share=not trace)
        if arena > LARGEST_ARENA:
            raise InputError(
                f"input_shape: found {list(input_shape)}, which takes {arena} bytes; expected at most 2^33"
            )
        self._program = _kernels.Program(arena, threads, self.isa)
        self._values, self.routes = compiling.compile_graph(self._program, graph, placed, self._shapes, mode, kernels)
        self._traced = trace

    @property
    def output_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of the outputs of one image, in the order of `Graph.outputs`."""
        return tuple(self._shapes[name] for name in self.graph.outputs)

    def run(self, images: Array) -> tuple[Array, ...]:
        """Run float32 images [N, C, H, W]; float32 arrays [N, ...] in the order of `Graph.outputs`.

        InputError for another type or shape, NaN or infinity.
        """
        if not isinstance(images, np.ndarray) or images.dtype != np.float32 or images.shape[1:] != self.input_shape:
            found = f"{images.dtype} {list(images.shape)}" if isinstance(images, np.ndarray) else type(images).__name__
            raise InputError(f"images: found {found}, expected float32 [N, {', '.join(map(str, self.input_shape))}]")
        images = np.ascontiguousarray(images)
        if not _kernels.all_finite(images):
            raise InputError("images: found NaN or infinity, expected finite values")
        outputs = tuple(np.empty((len(images), *shape), np.float32) for shape in self.output_shapes)
        for index, image in enumerate(images):
            self._program.run(image, [output[index] for output in outputs])
        return outputs

    def value(self, name: str) -> Array:
        """Codes of a node after the last run, uint8 [C, H, W] or [K]; InputError unless the engine traces."""
        if not self._traced or name not in self._values:
            raise InputError(f"value {name!r}: found no kept codes, expected a node of codes of an engine with trace")
        value = self._values[name]
        codes = np.empty((value.height, value.width, value.channels), np.uint8)
        self._program.read(value, codes)
        return np.ascontiguousarray(codes.transpose(2, 0, 1)).reshape(self._shapes[name])

    def profile(self, image: Array, repeats: int = 10) -> dict[str, float]:
        """Mean seconds per node over `repeats` runs of one image float32 [C, H, W]."""
        outputs = [np.empty(shape, np.float32) for shape in self.output_shapes]
        seconds = self._program.profile(np.ascontiguousarray(image), outputs, repeats)
        return compiling.by_node(self.graph, seconds, repeats)

    def explain(self) -> str:
        """What runs every layer, and why, as a table."""
        return table(self.routes, self.isa, self.mode)
