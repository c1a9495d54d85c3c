"""Empirical bias correction (Nagel et al., ICCV 2019, arXiv 1906.04721, section 4.2 and appendix D).

Rounding shifts the mean of what a layer adds up, by channel: weights' errors do not cancel where inputs are never
negative, and neither do those of the layers before. The shift is measured on images and taken off the bias, layer after
layer, so that each is measured behind layers that are corrected already.

What the source leaves open and what is chosen here: the mean is that of the sums before the activation, over the first
`IMAGES` calibration images; the layers' true means are those of the float network with batch norm folded; a channel of
which the bias says how fine its scale may be (`numerics.smallest_scale`) is left alone, so that no code changes.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from oaq_repro.quant.calibrate import ImageBatches, first_images
from oaq_repro.quant.layers import QuantLayer
from oaq_repro.quant.network import QuantizedNetwork, set_quantizing
from oaq_repro.quant.numerics import QTensor, smallest_scale
from oaq_repro.quant.quantizers import ActivationQuantizer


@torch.no_grad()
def correct_biases(model: QuantizedNetwork, reference: QuantizedNetwork, images: ImageBatches) -> dict[str, float]:
    """Shift every bias by what quantization adds to the mean of its channel's sums; in place.

    reference: the same network with its float weights. Returns by layer the largest shift of a channel, in codes of the
    layer's output.
    """
    batch = torch.cat(list(first_images(images)))
    modes = model.training, reference.training
    set_quantizing(reference.eval(), False)
    means = _Means(reference)
    means.run(batch)
    corrections = _Corrections(model.eval(), means.found)
    corrections.run(batch)
    model.train(modes[0])
    reference.train(modes[1])
    return corrections.found


class _Means(fx.Interpreter):
    """Runs a network in float; `found`: every layer's mean sums before the activation, float64 [O]."""

    def __init__(self, model: QuantizedNetwork) -> None:
        super().__init__(model)
        self.found: dict[str, Tensor] = {}
        for module in model.modules():
            if isinstance(module, ActivationQuantizer):
                module.observing = False

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        layer = self.fetch_attr(target)
        if isinstance(layer, QuantLayer):
            self.found[target] = _mean(layer.product(args[0], layer.weight, layer.bias))
        return super().call_module(target, args, kwargs)


class _Corrections(fx.Interpreter):
    """Runs a quantized network and corrects each layer before it runs; `found`: the largest shifts."""

    def __init__(self, model: QuantizedNetwork, true: Mapping[str, Tensor]) -> None:
        super().__init__(model)
        self.true = true
        self.found: dict[str, float] = {}

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        layer = self.fetch_attr(target)
        if isinstance(layer, QuantLayer):
            shift = _correct(layer, args[0], self.true[target])
            self.found[target] = float((shift.abs() / layer.output.parameters_of_range()[0]).max())
        return super().call_module(target, args, kwargs)


def _correct(layer: QuantLayer, x: QTensor, true: Tensor) -> Tensor:
    """Give the bias with which the mean sums for the input x are `true` [O]; returns its change, float32 [O]."""
    codes, _, scale = layer.weight_codes(x)
    before, quantizer = layer.bias, layer.weight_quantizer
    bias = (true - _mean(layer.product(x.centred(), codes, None)) * scale).to(before)
    floor = torch.maximum(smallest_scale(before, x), smallest_scale(bias, x))
    free = quantizer.scale(layer.weight) > (floor if quantizer.per_channel else floor.max())
    layer.bias = nn.Parameter(torch.where(free, bias, before))  # its own, also where layers have had one together
    return layer.bias - before


def _mean(sums: Tensor) -> Tensor:
    """Mean of every channel of [N, O] or [N, O, H, W], float64 [O]."""
    return sums.double().flatten(2).mean(2).mean(0) if sums.dim() == 4 else sums.double().mean(0)
