"""What a run's integer graph, certificates and counts say, in the record's words."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from torch import nn

from oaq_repro.deploy.checked_engine import CheckedEngine, Simulation
from oaq_repro.integer.certificate import certify
from oaq_repro.integer.graph import Convolution, ConvTranspose, Layer
from oaq_repro.quant.calibration.settle import SettleReport
from oaq_repro.quant.mixed_precision.cost import layer_costs, network_cost
from oaq_repro.quant.network import input_qparams, input_quantizer, layers
from oaq_repro.quant.quantizers import WeightQuantizer


def overflow_section(settled: SettleReport, simulation: Simulation) -> dict[str, Any]:
    """`overflow` of the record: the settle set as counted in simulation, held-out data likewise."""
    return {
        "settle": settled.events,
        "settle_outputs": settled.outputs,
        "settle_images": settled.images,
        "evaluation": simulation.totals(),
        "outputs": simulation.outputs,
        "images": len(simulation.digests),
        "images_affected": len(simulation.affected()),
    }


def cost_section(network: nn.Module, input_shape: Sequence[int]) -> dict[str, Any]:
    """`cost` of the record, of a float or quantized network in evaluation mode."""
    return asdict(network_cost(layer_costs(network, input_shape)))


def layer_rows(
    fast: CheckedEngine, certified: CheckedEngine, input_shape: Sequence[int], corrected: Mapping[str, float] = {}
) -> list[dict[str, Any]]:
    """`layers` of the record: alphas, effective bits, certificate, counts and the engine's routes of every layer.

    fast, certified: one graph in these modes, evaluated on images of input_shape [C, H, W]. corrected: shifts of biases
    as `quant.calibration.bias_correction` returns them.
    """
    graph, simulation = fast.graph, fast.simulation
    quantized = simulation.network
    modules = layers(quantized)
    totals = simulation.totals()
    routes, routes_certified = (
        {route.name: route for route in integer.engine(input_shape).routes} for integer in (fast, certified)
    )
    rows = []
    for layer in graph.layers():
        source = graph.qparams(layer.inputs[0])
        certificate = certify(layer, source)
        module = modules[layer.name]
        source_quantizer = input_quantizer(quantized, layer.name)
        asked = layer.accumulator_reason == "asked for"
        taken, reason = module.taken_requantization(input_qparams(quantized, layer.name))
        rows.append(
            {
                "name": layer.name,
                "kind": _kind(layer),
                "alpha_activation": float(source_quantizer.alpha),
                "bits_activation": math.log2(source.q_max + 1),
                "bits_input": source_quantizer.bits,
                **_weights(module.weight_quantizer, layer),
                "levels_weight": len(np.unique(layer.weight)),
                "bias_shift": corrected.get(layer.name),
                "overflow_seen": totals[layer.name],
                "outputs": simulation.outputs[layer.name],
                "worst_case": certificate.worst_case,
                "certified": certificate.certified,
                "longest_block": certificate.longest_block,
                "accumulator": layer.accumulator.name,
                "requantization": taken,
                "requantization_reason": None if taken == module.requantization else reason,
                "route": f"{routes[layer.name].registers}, {routes[layer.name].claim}",
                "route_certified": routes_certified[layer.name].registers,
                "reason": None if asked else layer.accumulator_reason,
            }
        )
    return rows


def _weights(quantizer: WeightQuantizer, layer: Layer) -> dict[str, float]:
    """Alpha and effective bits of a layer's weights: mean and range over channels, or the one value for all of them."""
    largest = np.abs(layer.weight.astype(int)).reshape(len(layer.weight), -1).max(1)
    if quantizer.granularity == "tensor":
        return {"alpha_weight": float(quantizer.alpha.max()), "bits_weight": math.log2(2 * largest.max() + 1)}
    row: dict[str, float] = {}
    for name, values in (
        ("alpha_weight", quantizer.alpha.double().cpu().numpy()),
        ("bits_weight", np.log2(2 * largest + 1)),
    ):
        row |= {name: float(values.mean()), f"{name}_min": float(values.min()), f"{name}_max": float(values.max())}
    return row


def _kind(layer: Layer) -> str:
    if not isinstance(layer, Convolution):
        return "linear"
    if isinstance(layer, ConvTranspose):
        return "transposed"
    if layer.depthwise:
        return "depthwise"
    return "pointwise" if layer.weight.shape[2:] == (1, 1) else "conv"
