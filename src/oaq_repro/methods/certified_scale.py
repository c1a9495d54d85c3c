"""Certified scales: INT8 fine-tuning, then no input can overflow any accumulator. Our own method.

After fine-tuning, with ranges frozen, the range mapping factor of each output channel's weights is raised to the
smallest at which the exact worst case of its sums (`quant.bounds`) fits the layer's accumulator: the whole sum, every
lane, block or pair. A larger scale means smaller codes, so the worst case only falls and bisection finds the factor.

Choices: only weights give way (an activation's alpha would be shared by all consumers and all channels); with one scale
or one factor per tensor the worst channel decides for all; there is no cap on these factors, since a channel whose
codes are all zero is certified, so the guarantee never fails; the network is not trained on afterwards (`fine_tune:
false` certifies a merely calibrated network).
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from oaq_repro.methods.base import Method
from oaq_repro.quant.bounds import worst_case
from oaq_repro.quant.layers import QuantLayer
from oaq_repro.quant.network import QuantizedNetwork, input_constants, layers
from oaq_repro.quant.numerics import QTensor

BISECTIONS = 20  # the factor is found to 2^(bits - 20), that is 0.00024 at 8 bits


@dataclass
class CertifiedScale(Method):
    """INT8 fine-tuning, then certified per-channel scales."""

    sees_accumulator: ClassVar[bool] = False

    def finish(self, model: QuantizedNetwork) -> None:
        """Certify every layer."""
        for name, layer in layers(model).items():
            certify_channels(layer, input_constants(model, name))


@torch.no_grad()
def certify_channels(layer: QuantLayer, x: QTensor) -> None:
    """Raise the weights' alphas until no input can overflow the layer's accumulator; channels that fit are left alone.

    x: the constants of the layer's input, final.
    """
    quantizer = layer.weight_quantizer

    def ratios(alpha: Tensor) -> Tensor:
        quantizer.alpha.copy_(alpha)
        codes, _ = layer.quantized_weight(x)
        return quantizer.per_factor(worst_case(codes, x, layer.accumulator, quantizer.meeting))

    fits = quantizer.alpha.clone()
    too_small = fits.clone()
    open_ = ratios(fits) > 1.0
    # Beyond twice the largest code every code rounds to zero.
    fits = torch.where(open_, fits * 2.0**quantizer.bits, fits)
    for _ in range(BISECTIONS):
        middle = (too_small + fits) / 2
        over = ratios(middle) > 1.0
        too_small = torch.where(over & open_, middle, too_small)
        fits = torch.where(~over & open_, middle, fits)
    ratios(fits)  # leaves the alphas at values that were seen to fit
