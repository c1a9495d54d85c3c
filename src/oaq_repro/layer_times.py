"""How long every layer takes in this engine at each of several widths, and the file that keeps it.

Fewer bits allow longer 16-bit sums that no input can overflow, and so other kernels, in the engine's mode `certified`;
codes of fewer bits than 8 are not stored or multiplied any faster. Times are those of one thread, so they depend on the
machine, and a search is only repeated by reading the same file again.
"""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from oaq_repro.deploy.lower import lower
from oaq_repro.errors import InputError
from oaq_repro.integer.engine import Engine
from oaq_repro.quant.mixed_precision.input_bits import SUFFIX
from oaq_repro.quant.network import QuantizedNetwork, layers

ROUNDS, SECONDS = 200, 20.0  # at most, so many in any case:
LEAST_ROUNDS = 5

Milliseconds = Annotated[float, Field(ge=0)]


class LayerTimes(BaseModel):
    """milliseconds: of one image, by layer and bits of its weights and input; median over `rounds`, in which the widths
    take turns. kernels: the instruction set. image: [C, H, W]."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    kernels: str
    image: tuple[int, int, int]
    rounds: int
    milliseconds: dict[str, dict[int, Milliseconds]]

    def of(self, names: Sequence[str], widths: Sequence[int], path: Path) -> dict[str, dict[int, float]]:
        """Those of some layers and widths; InputError, which names the file, where it lacks one."""
        for name in names:
            if missing := sorted(set(widths) - self.milliseconds.get(name, {}).keys()):
                raise InputError(f"{path}: milliseconds: found none of {name} at {missing[0]} bits, expected {widths}")
        return {name: {bits: self.milliseconds[name][bits] for bits in widths} for name in names}


def read_times(path: Path) -> LayerTimes:
    """A file of times; InputError for one that is none."""
    try:
        return LayerTimes.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}), expected the times of layers") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "file"
        raise InputError(f"{path}: {where}: {first['msg']}, expected the times of layers") from error


def layer_times(networks: Mapping[int, QuantizedNetwork], input_shape: Sequence[int]) -> LayerTimes:
    """Of every layer of calibrated networks that differ in the bits of their layers only, by these bits.

    The requantization before a layer counts as its own. Timed on one image of noise [C, H, W].
    """
    graphs = {bits: lower(network) for bits, network in networks.items()}
    engines = {bits: Engine(graph, input_shape, 1, "certified") for bits, graph in graphs.items()}
    image = np.random.default_rng(0).normal(size=input_shape).astype(np.float32)
    seen: dict[int, list[dict[str, float]]] = {bits: [] for bits in engines}
    for engine in engines.values():
        engine.profile(image, 1)
    end, order = time.perf_counter() + SECONDS, list(engines)
    for done in range(ROUNDS):
        if done >= LEAST_ROUNDS and time.perf_counter() > end:
            break
        for bits in order if done % 2 else reversed(order):
            seen[bits].append(engines[bits].profile(image, 1))
    names = list(layers(next(iter(networks.values()))))
    return LayerTimes(
        kernels=next(iter(engines.values())).isa,
        image=tuple(input_shape),  # type: ignore[arg-type]
        rounds=len(seen[order[0]]),
        milliseconds={
            name: {bits: _median(found, [name, f"{name}{SUFFIX}"]) for bits, found in seen.items()} for name in names
        },
    )


def _median(profiles: Sequence[Mapping[str, float]], nodes: Sequence[str]) -> float:
    """Milliseconds that these nodes take together, 0 for one that there is not."""
    return 1e3 * float(np.median([sum(profile.get(node, 0.0) for node in nodes) for profile in profiles]))


def write_text(times: LayerTimes) -> str:
    """As `read_times` reads it."""
    return json.dumps(times.model_dump(mode="json"), indent=1) + "\n"
