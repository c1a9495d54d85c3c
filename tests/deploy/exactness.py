"""Every way to run a network's integers gives the same bits: what tests of whole networks compare."""

import itertools

import numpy as np
import torch

from oaq_repro import _kernels
from oaq_repro.accumulator import NAMED
from oaq_repro.deploy.lower import lower
from oaq_repro.integer.engine import Engine
from oaq_repro.integer.graph import Graph
from oaq_repro.integer.onnx.exporter import build_model
from oaq_repro.integer.onnx.session import run_onnx
from oaq_repro.integer.reference import Reference
from oaq_repro.methods.int8 import Int8
from oaq_repro.quant.calibration.calibrate import calibrate
from oaq_repro.quant.config import QuantizationConfig
from oaq_repro.quant.conversion.convert import quantize_network
from oaq_repro.quant.layers import QuantLayer
from oaq_repro.quant.modules import QuantModule
from oaq_repro.quant.network import QuantizedNetwork

ISAS = [row["isa"] for row in _kernels.table() if row["available"]]


def quantized_for(network: torch.nn.Module, images: torch.Tensor, **config) -> QuantizedNetwork:
    """INT8 on 32 bits, converted for the size of the images and calibrated on them, in evaluation mode."""
    model = quantize_network(network, Int8(), QuantizationConfig(NAMED["int32"], **config), images.shape[1:])
    calibrate(model, [images])
    return model.eval()


def requantize_by(model: QuantizedNetwork, requantization: str) -> None:
    """Another requantization for a converted network; its layers get 16 bits, which fixed16 is for."""
    for module in model.modules():
        if isinstance(module, QuantModule) and module.requantization is not None:
            module.requantization = requantization
        if isinstance(module, QuantLayer):
            module.accumulator = NAMED["int16"]


def as_arrays(outputs) -> list[np.ndarray]:
    outputs = [outputs] if isinstance(outputs, torch.Tensor) else list(outputs)
    return [output.detach().numpy() for output in outputs]


def assert_exact(
    model: QuantizedNetwork, images: torch.Tensor, isas=ISAS, modes=("certified", "fast", "acc32"), reference=True
) -> Graph:
    """Simulation, reference, engine (all modes and instruction sets) and ONNX Runtime agree; returns the graph.

    reference: it is slow for large networks, and the engine is compared with it elsewhere.
    """
    graph = lower(model)
    with torch.no_grad():
        expected = as_arrays(model(images))
    found = {"reference": Reference(graph).run(images.numpy()).outputs} if reference else {}
    for mode, isa in itertools.product(modes, isas):
        found[f"{mode} {isa}"] = Engine(graph, images.shape[1:], mode=mode, isa=isa).run(images.numpy())
    found["onnx"] = run_onnx(build_model(graph.with_accumulator(NAMED["int32"]), images.shape[1:]), images.numpy())
    for name, outputs in found.items():
        for ours, theirs in zip(outputs, expected, strict=True):
            np.testing.assert_array_equal(ours, theirs, err_msg=name)
    return graph
