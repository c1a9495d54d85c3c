"""Many more random graphs than the unit tests have, in every mode, and mutated graph files. Run by `make fuzz`."""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from fuzz.memory import no_more_than
from integer.engine.test_engine import ISAS, check
from oracles.random_graphs import random_graph, random_images
from oracles.requantization import requantized

from oaq_repro.errors import InputError
from oaq_repro.integer.engine import Engine
from oaq_repro.integer.engine.sums import MODES
from oaq_repro.integer.graph import Graph
from oaq_repro.requantization import REQUANTIZATIONS

GRAPHS, PART = 20_000, 500
FILES = 2_000
FIRST = 2_000_000  # the unit tests have the small numbers


@pytest.mark.parametrize("first", range(FIRST, FIRST + GRAPHS, PART))
def test_random_graphs_in_all_modes(first):
    for seed in range(first, first + PART):
        graph, shape = random_graph(seed)
        graph = requantized(graph, REQUANTIZATIONS[seed // 2 % len(REQUANTIZATIONS)])
        images = random_images(np.random.default_rng(seed), 2, shape)
        for mode in MODES:
            check(graph, images, mode, ISAS[seed % len(ISAS)], threads=1 + seed % 3, trace=bool(seed % 3))


@pytest.mark.parametrize("first", range(0, FILES, 200))
def test_mutated_graph_files(tmp_path, first):
    """A file whose header or arrays say something else is refused, or it is a graph that all run alike."""
    path, ran = tmp_path / "graph.npz", 0
    for seed in range(first, first + 200):
        graph, shape = random_graph(FIRST + seed, steps=5)
        rng = np.random.default_rng(seed)
        with np.load(graph.save(path)) as archive:
            content = {name: archive[name] for name in archive.files}
        np.savez(path, **mutated(content, rng))
        images = random_images(rng, 1, shape)
        with no_more_than(2 << 30):
            try:
                found = Graph.load(path)
                engines = {mode: Engine(found, shape, mode=mode) for mode in MODES}
            except InputError:
                continue
        for mode in engines:
            check(found, images, mode, ISAS[0])
        ran += 1
    assert ran < 150


def mutated(content: dict[str, np.ndarray], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """One array of the file with another value, shape or type, missing or under another name; or another header."""
    name = str(rng.choice(sorted(content)))
    if name == "header" or rng.random() < 0.4:
        return content | {"header": _header(content["header"], rng)}
    array = content.pop(name)
    kind = rng.integers(6)
    if kind == 0:
        return content
    if kind == 1:
        return content | {f"{name}x": array}
    if kind == 2:
        return content | {name: array.astype(rng.choice([np.int8, np.int64, np.float16, np.float64, np.complex64]))}
    if kind == 3:
        return content | {name: array[..., : max(array.shape[-1] - 1, 0)] if array.ndim else array.reshape(1)}
    changed = array.copy().reshape(-1)
    if changed.size:
        info = np.iinfo if changed.dtype.kind in "iu" else np.finfo
        extreme = info(changed.dtype)
        changed[rng.integers(changed.size)] = rng.choice([extreme.min, extreme.max, 0])
    return content | {name: changed.reshape(array.shape)}


def _header(header: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The JSON header with one value replaced, at any depth."""
    made = json.loads(header.tobytes())
    places = list(_places(made))
    holder, key = places[rng.integers(len(places))]
    values = [None, True, -1, 0, 2, 255, 1 << 31, 1 << 62, 1e308, "x", "../x", [], {}, [1], [1 << 40, 1 << 40]]
    holder[key] = values[rng.integers(len(values))]
    return np.frombuffer(json.dumps(made).encode(), np.uint8)


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield value, key
        yield from _places(inner)
