"""What a network costs, computed from its layers and their bits: products, bit operations, bytes of weights.

Two formulas for bit operations (BOPs) are in use. HAWQ-V3 (Yao et al., ICML 2021, arXiv 2011.10680) counts a product of
b_w and b_a bits as `b_w b_a`. QAP (Hawks et al., 2021, arXiv 2102.11289, after Baskin et al., arXiv 1804.10969) leaves
products with weights that are zero out and adds `b_w + b_a + log2 n` per product for sums of n. Only the layers that
accumulate are counted, biases in neither formula; what is left in float counts as 32 bits.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from oaq_repro.quant.conversion.trace import LAYERS
from oaq_repro.quant.layers import QuantConvTranspose2d, QuantLayer, QuantLinear
from oaq_repro.quant.network import QuantizedNetwork, input_quantizer
from oaq_repro.quant.numerics import QTensor

FLOAT_BITS = 32


def bit_operations(macs: int, bits_weight: int, bits_input: int) -> int:
    """BOPs of HAWQ-V3, `MACs b_w b_a`."""
    return macs * bits_weight * bits_input


def sparse_bit_operations(macs: int, depth: int, density: float, bits_weight: int, bits_input: int) -> float:
    """BOPs of QAP, `MACs (density b_w b_a + b_w + b_a + log2 depth)`; density: part of the weights that is not zero.

    The authors' code has two conventions that are not taken over: it counts biases in the density, and takes the first
    layer's input for 32 bits wide.
    """
    return macs * (density * bits_weight * bits_input + bits_weight + bits_input + math.log2(depth))


@dataclass(frozen=True)
class LayerCost:
    """One layer that accumulates. macs: products of one image, those with padding included; of a transposed convolution
    those with outputs that are cropped, too. depth: weights per output channel. weights: how many there are, 0 where an
    earlier layer has the same ones. density: part of them that is not zero. bits_weight, bits_input: of the grids.
    """

    name: str
    macs: int
    depth: int
    weights: int
    density: float
    bits_weight: int
    bits_input: int


@dataclass(frozen=True)
class NetworkCost:
    """All layers together, one image. bops: by HAWQ-V3's formula; bops_qap: by QAP's. weight_bytes: packed, no biases.

    density: part of the weights that is not zero.
    """

    macs: int
    bops: int
    bops_qap: float
    weight_bytes: float
    density: float


def network_cost(layers: Sequence[LayerCost]) -> NetworkCost:
    """The sum over the layers."""
    weights = sum(x.weights for x in layers)
    return NetworkCost(
        macs=sum(x.macs for x in layers),
        bops=sum(bit_operations(x.macs, x.bits_weight, x.bits_input) for x in layers),
        bops_qap=math.fsum(
            sparse_bit_operations(x.macs, x.depth, x.density, x.bits_weight, x.bits_input) for x in layers
        ),
        weight_bytes=sum(x.weights * x.bits_weight for x in layers) / 8,
        density=math.fsum(x.density * x.weights for x in layers) / weights if weights else 1.0,
    )


@torch.no_grad()
def layer_costs(model: nn.Module, input_shape: Sequence[int]) -> list[LayerCost]:
    """Every layer of a float or quantized network by name, in the order in which one image [C, H, W] passes them.

    model: in evaluation mode, and calibrated where it is quantized. A module that is called twice is one layer with the
    products of both calls. Products that are no layer's, as those of attention, are not counted.
    """
    costs: dict[str, LayerCost] = {}
    seen: dict[int, Tensor] = {}  # which keeps computed weights alive, so that no other gets their id

    def note(name: str, module: Any, inputs: tuple[Any, ...], output: Any) -> None:
        macs = _macs(module, inputs[0], output)
        if name in costs:
            costs[name] = replace(costs[name], macs=costs[name].macs + macs)
            return
        codes, bits_weight, bits_input = module.weight, FLOAT_BITS, FLOAT_BITS
        if isinstance(module, QuantLayer) and isinstance(model, QuantizedNetwork):
            codes, _ = module.quantized_weight(inputs[0].qparams)
            bits_weight, bits_input = module.weight_quantizer.bits, input_quantizer(model, name).bits
        weight = module.weight
        own = id(weight) not in seen
        seen[id(weight)] = weight
        costs[name] = LayerCost(
            name=name,
            macs=macs,
            depth=codes.numel() // _output_channels(module),
            weights=codes.numel() if own else 0,
            density=int(codes.count_nonzero()) / codes.numel(),
            bits_weight=bits_weight,
            bits_input=bits_input,
        )

    hooks = [
        module.register_forward_hook(partial(note, name))
        for name, module in model.named_modules()
        if isinstance(module, (*LAYERS, QuantLayer))
    ]
    try:
        model(torch.zeros(1, *input_shape, device=next(model.parameters()).device))
    finally:
        for hook in hooks:
            hook.remove()
    return list(costs.values())


def _output_channels(module: Any) -> int:
    """Of a float or quantized layer."""
    if isinstance(module, QuantLayer):
        return len(module.weight)
    return module.out_features if isinstance(module, nn.Linear) else module.out_channels


def _macs(module: Any, x: Any, y: Any) -> int:
    """A weight is multiplied once per position: of the output, or of a transposed convolution's input."""
    transposed = isinstance(module, (nn.ConvTranspose2d, QuantConvTranspose2d))
    shape = _shape(x if transposed else y)
    linear = isinstance(module, (nn.Linear, QuantLinear))
    return module.weight.numel() * math.prod(shape[1:-1] if linear else shape[2:])


def _shape(value: Tensor | QTensor) -> tuple[int, ...]:
    return tuple((value.codes if isinstance(value, QTensor) else value).shape)
