"""How long the engine takes in its modes, side by side."""

import time
from collections.abc import Sequence

import numpy as np

from oaq_repro.integer.engine.engine import Engine
from oaq_repro.integer.engine.sums import MODES
from oaq_repro.integer.graph import Graph

ROUNDS, SECONDS = 50, 4.0  # at most; three rounds at least


def latencies(graph: Graph, input_shape: Sequence[int]) -> dict[str, float]:
    """Median milliseconds of one image [C, H, W] of noise on one thread, by mode; the modes take turns."""
    image = np.random.default_rng(0).normal(size=(1, *input_shape)).astype(np.float32)
    engines = {mode: Engine(graph, input_shape, 1, mode) for mode in MODES}
    times: dict[str, list[float]] = {mode: [] for mode in MODES}
    for engine in engines.values():
        engine.run(image)
    end = time.perf_counter() + SECONDS
    for done in range(ROUNDS):
        if done >= 3 and time.perf_counter() > end:
            break
        for mode, engine in engines.items():
            start = time.perf_counter()
            engine.run(image)
            times[mode].append(1e3 * (time.perf_counter() - start))
    return {mode: float(np.median(values)) for mode, values in times.items()}
