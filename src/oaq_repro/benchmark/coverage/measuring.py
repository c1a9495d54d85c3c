"""One network from float to integers, run in every way, and timed."""

import os
import warnings
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from oaq_repro.accumulator import NAMED
from oaq_repro.benchmark.case import macs
from oaq_repro.benchmark.coverage.named import NAMED_NETWORKS, SEED, parameters_of, with_random_weights
from oaq_repro.benchmark.coverage.records import NetworkRecord, Timing
from oaq_repro.benchmark.machine import Isa, describe, versions
from oaq_repro.benchmark.networks import smooth_noise
from oaq_repro.benchmark.peers import FORMS, faster
from oaq_repro.benchmark.timing import Variant, alternate, wall
from oaq_repro.deploy.lower import lower
from oaq_repro.errors import InputError
from oaq_repro.integer.engine import Engine
from oaq_repro.integer.engine.routes import InstructionSet
from oaq_repro.integer.engine.sums import MODES, Mode
from oaq_repro.integer.graph import Dequantize, Graph, Quantize
from oaq_repro.integer.onnx.exporter import build_model
from oaq_repro.integer.onnx.session import onnx_session, run_onnx
from oaq_repro.integer.reference import Reference
from oaq_repro.methods.int8 import Int8
from oaq_repro.quant.calibration.calibrate import calibrate, freeze
from oaq_repro.quant.calibration.settle import SettleConfig, settle
from oaq_repro.quant.config import Override, QuantizationConfig
from oaq_repro.quant.conversion.convert import quantize_network
from oaq_repro.quant.network import QuantizedNetwork

IMAGES = 2  # that calibration and settling see; results are compared on the first
TIMED: tuple[Mode, ...] = ("certified", "fast", "acc32")
ONNXRUNTIME = "onnxruntime"


def check(name: str, graphs: Path) -> NetworkRecord:
    """Convert, lower and run a network; its graph is kept in the folder `graphs`. An InputError is the record's.

    16-bit accumulators but for the first and the last layer, settled on the images that are compared, on which so no
    accumulator overflows: all modes have to give what the simulation does.
    """
    named = NAMED_NETWORKS[name]
    torch.manual_seed(SEED)
    network = named.build()
    images = smooth_noise(IMAGES, named.input_shape, SEED)
    record = NetworkRecord(
        name=name,
        library=named.library,
        input_shape=named.input_shape,
        parameters=parameters_of(network),
        kernels=InstructionSet.selected().isa,
        packages=versions(),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, about padding="same"
        try:
            model = _quantized(with_random_weights(network, images), images)
            graph = lower(model)
        except InputError as error:
            record.error = str(error)
            return record
        with torch.no_grad():
            found = model(images[:1])
    simulated = [x.numpy() for x in ([found] if isinstance(found, torch.Tensor) else found)]
    operators = Counter(type(node).__name__ for node in graph.nodes if not isinstance(node, Quantize | Dequantize))
    record.macs, record.operators = macs(graph, named.input_shape), dict(operators.most_common())
    record.equal = compared(graph, images[:1].numpy(), simulated)
    graphs.mkdir(parents=True, exist_ok=True)
    graph.save(_graph_path(graphs, name))
    return record


def _quantized(network: torch.nn.Module, images: torch.Tensor) -> QuantizedNetwork:
    ends = {
        role: Override(match=f"@{role}", accumulator=NAMED["int32"], reason="as in training")
        for role in ("first", "last")
    }
    config = QuantizationConfig(NAMED["int16"], overrides=ends)
    model = quantize_network(network, Int8(), config, images.shape[1:])
    calibrate(model, [images])
    settle(model, lambda: [images], SettleConfig(split="even"))
    freeze(model)
    return model.eval()


def compared(graph: Graph, images: np.ndarray, expected: list[np.ndarray]) -> dict[str, bool]:
    """For the reference, the engine's modes and ONNX Runtime whether their outputs are those expected, bit for bit."""
    shape = images.shape[1:]
    runs = {"reference": Reference(graph).run(images).outputs}
    runs |= {mode: Engine(graph, shape, mode=mode).run(images) for mode in MODES}
    runs[ONNXRUNTIME] = tuple(run_onnx(build_model(graph, shape), images))
    return {
        way: len(found) == len(expected) and all(map(np.array_equal, found, expected)) for way, found in runs.items()
    }


def time(record: NetworkRecord, graphs: Path, rounds: int, isa: Isa) -> Timing:
    """Time the engine and ONNX Runtime's int8, in the faster of two forms, one image on one thread.

    InputError where the graph that `check` kept is not in `graphs`.
    """
    graph, shape = Graph.load(_graph_path(graphs, record.name)), record.input_shape
    image = smooth_noise(1, shape, SEED).numpy()
    variants = [Variant(mode, wall(partial(Engine(graph, shape, 1, mode).run, image))) for mode in TIMED]
    sessions = {form: onnx_session(build(graph, shape), exact=False, threads=1) for form, build in FORMS.items()}
    feed = {graph.input_name: image}
    runs: dict[str, Callable[[], Any]] = {form: partial(session.run, None, feed) for form, session in sessions.items()}
    form = faster(runs)
    variants.append(Variant(ONNXRUNTIME, wall(runs[form])))
    seconds = alternate(variants, rounds)
    return Timing(
        milliseconds={name: round(1e3 * float(np.median(values)), 3) for name, values in seconds.items()},
        onnxruntime_form=form,
        rounds=rounds,
        machine=describe(isa) | {"load_average": list(os.getloadavg())},
    )


def _graph_path(graphs: Path, name: str) -> Path:
    return graphs / f"{name}.npz"
