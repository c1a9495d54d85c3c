"""Empirical bias correction (Nagel et al., ICCV 2019, arXiv 1906.04721, section 4.2 and appendix D).

Rounding shifts the mean of what a layer adds up, by channel: weights' errors do not cancel where inputs are never
negative, and neither do those of the layers before. The shift is measured on images and taken off the bias, layer after
layer, so that each is measured behind layers that are corrected already.

What the source leaves open and what is chosen here: the mean is that of the sums before the activation, over the first
`IMAGES` calibration images; the layers' true means are those of the float network with batch norm folded; a channel of
which the bias says how fine its scale may be (`numerics.smallest_scale`) is left alone, so that no code changes.
"""

import torch
from torch import Tensor, nn

from oaq_repro.quant.calibration.calibrate import ImageBatches, freeze, layer_by_layer
from oaq_repro.quant.layers import QuantLayer
from oaq_repro.quant.modules import Value
from oaq_repro.quant.network import QuantizedNetwork, set_quantizing
from oaq_repro.quant.numerics import QTensor, smallest_scale


@torch.no_grad()
def correct_biases(model: QuantizedNetwork, reference: QuantizedNetwork, images: ImageBatches) -> dict[str, float]:
    """Shift every bias by what quantization adds to the mean of its channel's sums; in place.

    reference: the same network with its float weights; it is left in calibration mode. Returns by layer the largest
    shift of a channel, in codes of the layer's output.
    """
    true: dict[str, Tensor] = {}
    found: dict[str, float] = {}

    def see(name: str, layer: QuantLayer, x: Value) -> None:
        assert isinstance(x, Tensor)
        true[name] = _mean(layer.product(x, layer.weight, layer.bias))

    def correct(name: str, layer: QuantLayer, x: Value) -> None:
        assert isinstance(x, QTensor)
        found[name] = float((_correct(layer, x, true[name]).abs() / layer.output.parameters_of_range().scale).max())

    set_quantizing(reference, False)
    freeze(reference)
    layer_by_layer(reference, images, see)
    layer_by_layer(model, images, correct)
    return found


def _correct(layer: QuantLayer, x: QTensor, true: Tensor) -> Tensor:
    """Give the bias with which the mean sums for the input x are `true` [O]; returns its change, float32 [O]."""
    codes, _, scale = layer.weight_codes(x.qparams)
    before, quantizer = layer.bias, layer.weight_quantizer
    bias = (true - _mean(layer.product(x.centred(), codes, None)) * scale).to(before)
    limit = layer.bias_limit
    floor = torch.maximum(smallest_scale(before, x.qparams, limit), smallest_scale(bias, x.qparams, limit))
    free = quantizer.scale(layer.weight) > (floor if quantizer.per_channel else floor.max())
    layer.bias = nn.Parameter(torch.where(free, bias, before))  # its own, also where layers have had one together
    return layer.bias - before


def _mean(sums: Tensor) -> Tensor:
    """Mean of every channel of [N, O] or [N, O, H, W], float64 [O]."""
    return sums.double().flatten(2).mean(2).mean(0) if sums.dim() == 4 else sums.double().mean(0)
