"""The integer engine: runs a graph on kernels with 16-bit accumulators (csrc/). Needs NumPy and the compiled module.

Results equal the reference's bit for bit: in the modes `certified`, `acc32` and `exact` those of 32-bit
accumulation, in the mode `fast` those of the graph's own accumulators, overflow included (sums.py).

Engines may be shared by threads and survive a fork. A lock per engine, rather than memory per call: an engine's values
lie in one arena that stays in the cache, and its own threads already share the work of one image. The lock is held for
all images of a call, the interpreter's is not: calls of one engine take turns, those of different engines run side by
side. A forked process gets new locks, whoever held the old ones, and starts its own threads when it needs them.
"""

import os
import threading
from collections.abc import Sequence
from typing import Any
from weakref import WeakSet

import numpy as np

from oaq_repro import _kernels
from oaq_repro.errors import InputError
from oaq_repro.integer.engine.by_rows import by_rows
from oaq_repro.integer.engine.compiling import compile_graph
from oaq_repro.integer.engine.explain import table
from oaq_repro.integer.engine.plan import place
from oaq_repro.integer.engine.reorder import as_given, reorder
from oaq_repro.integer.engine.routes import InstructionSet
from oaq_repro.integer.engine.sums import Mode, Permits
from oaq_repro.integer.graph import Graph
from oaq_repro.integer.graph.arithmetic import Array

LARGEST_ARENA = 1 << 33  # bytes
LARGEST_COUNT = {"threads": 1024, "repeats": 1_000_000}


class Engine:
    """A graph compiled for images of one size.

    input_shape: [C, H, W]. threads: shared by the work of every operator. mode: see `sums`. trace: keep every value
    for `value`, at the price of memory. isa: a name of the table of kernels; by default the environment variable
    OAQ_ISA, else the best that this machine has. Raises InputError for what does not fit. `arena_bytes`: of the memory
    in which all values of codes lie.
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
        permits = Permits.of(mode)
        _check_count("threads", threads)
        graph.validate()
        self.graph, self.mode, self.threads = graph, mode, threads
        self.input_shape = tuple(int(size) for size in input_shape)
        if len(self.input_shape) != 3 or min(self.input_shape) < 1:
            raise InputError(f"input_shape: found {list(input_shape)}, expected [channels, height, width]")
        self._shapes = graph.shapes(self.input_shape)
        kernels = InstructionSet.selected(isa)
        self.isa = kernels.isa
        ordered = as_given(graph, permits) if trace else reorder(graph, self._shapes, permits, kernels)
        strips = {} if trace else by_rows(ordered, self._shapes)
        placed, self.arena_bytes = place(ordered.graph, self._shapes, not trace, strips, threads)
        if self.arena_bytes > LARGEST_ARENA:
            raise InputError(
                f"input_shape: found {list(input_shape)}, which takes {self.arena_bytes} bytes; expected at most 2^33"
            )
        try:
            self._program = _kernels.Program(self.arena_bytes, threads, self.isa)
        except RuntimeError as error:  # the limit of a user or a container
            raise InputError(f"threads: found {threads}, expected as many as the system starts ({error})") from error
        self._values, self.routes = compile_graph(self._program, ordered, placed, permits, kernels, strips)
        self._traced = trace
        self._finished = False  # whether the arena holds the values of one image
        self._lock = threading.RLock()  # a signal's handler may run the engine that it interrupts between two images
        _engines.add(self)

    @property
    def output_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of the outputs of one image, in the order of `Graph.outputs`."""
        return tuple(self._shapes[name] for name in self.graph.outputs)

    def run(self, images: Array) -> tuple[Array, ...]:
        """Run float32 images [N, C, H, W]; float32 arrays [N, ...] in the order of `Graph.outputs`.

        InputError for another type or shape, NaN or infinity.
        """
        images = self._checked("images", images, ("N", *self.input_shape))
        outputs = tuple(np.empty((len(images), *shape), np.float32) for shape in self.output_shapes)
        with self._lock:
            for index, image in enumerate(images):
                self._finished = False
                self._program.run(image, [output[index] for output in outputs])
                self._finished = True
        return outputs

    def profile(self, image: Array, repeats: int = 10) -> dict[str, float]:
        """Mean seconds per node over `repeats` runs of one image float32 [C, H, W]; InputError as `run`."""
        _check_count("repeats", repeats)
        image = self._checked("image", image, self.input_shape)
        outputs = [np.empty(shape, np.float32) for shape in self.output_shapes]
        with self._lock:
            self._finished = False
            seconds = self._program.profile(image, outputs, repeats)
            self._finished = True
        return {node.name: value / repeats for node, value in zip(self.graph.nodes, seconds, strict=True)}

    def value(self, name: str) -> Array:
        """Codes of a node of the image that was run last, by whatever thread: uint8 [C, H, W] or [K].

        Threads that share an engine and want the values of their own images need a lock of their own around `run` and
        `value`. InputError unless the engine traces and has run an image.
        """
        if not self._traced or name not in self._values:
            raise InputError(f"value {name!r}: found no kept codes, expected a node of codes of an engine with trace")
        value = self._values[name]
        codes = np.empty((value.height, value.width, value.channels), np.uint8)
        with self._lock:
            if not self._finished:
                raise InputError(f"value {name!r}: found no codes, as no image has been run in this process")
            self._program.read(value, codes)
        return np.ascontiguousarray(codes.transpose(2, 0, 1)).reshape(self._shapes[name])

    def explain(self) -> str:
        """What runs every layer, and why, as a table; and the memory of the values."""
        return table(self.routes, self.isa, self.mode, self.arena_bytes)

    def _checked(self, name: str, images: Any, expected: tuple[str | int, ...]) -> Array:
        """Images as the program reads them; InputError unless they are finite, float32 and of the expected shape."""
        fits = isinstance(images, np.ndarray) and images.dtype == np.float32 and images.ndim == len(expected)
        if not fits or images.shape[-3:] != self.input_shape:
            found = f"{images.dtype} {list(images.shape)}" if isinstance(images, np.ndarray) else type(images).__name__
            raise InputError(f"{name}: found {found}, expected float32 [{', '.join(map(str, expected))}]")
        images = np.ascontiguousarray(images)
        if not _kernels.all_finite(images):
            raise InputError(f"{name}: found NaN or infinity, expected finite values")
        return images


_engines: WeakSet[Engine] = WeakSet()


def _renew_locks() -> None:
    """In a forked process, whose parent's other threads may have held them."""
    for engine in _engines:
        engine._lock = threading.RLock()


os.register_at_fork(after_in_child=_renew_locks)


def _check_count(name: str, value: Any) -> None:
    """InputError unless it is an integer from 1 to LARGEST_COUNT."""
    largest = LARGEST_COUNT[name]
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= largest:
        raise InputError(f"{name}: found {value!r}, expected an integer from 1 to {largest}")
