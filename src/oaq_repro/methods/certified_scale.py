"""Certified scales: INT8 fine-tuning, then no input can overflow any accumulator. Our own method.

After fine-tuning, with ranges frozen, the scale of each output channel's weights is raised by the smallest factor at
which the exact worst case of its sums (`quant.bounds`) fits the layer's accumulator: the whole sum, every lane, block
or pair. A larger scale means smaller codes, so the worst case only falls and bisection finds the factor.

Choices: only weights give way (an activation's alpha would be shared by all consumers and all channels); with one scale
per tensor the worst channel decides for all; there is no cap on the factor, since a channel whose codes are all zero is
certified, so the guarantee never fails; the network is not trained on afterwards (`fine_tune: false` certifies a merely
calibrated network).
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from oaq_repro.accumulator import Accumulator
from oaq_repro.methods.base import Method
from oaq_repro.quant.bounds import worst_case
from oaq_repro.quant.layers import QuantLayer
from oaq_repro.quant.network import QuantizedNetwork, input_constants, layers
from oaq_repro.quant.numerics import QTensor, round_ste, rowwise, symmetric_scale
from oaq_repro.quant.quantizers import WeightQuantizer

BISECTIONS = 20  # the factor is found to 2^(bits - 20), that is 0.00024 at 8 bits


@dataclass
class CertifiedScale(Method):
    """INT8 fine-tuning, then certified per-channel scales."""

    sees_accumulator: ClassVar[bool] = False

    def weight_quantizer(self, bits: int, per_channel: bool) -> WeightQuantizer:
        """With a factor per channel."""
        return ChannelFactorWeight(bits, per_channel)

    def finish(self, model: QuantizedNetwork) -> None:
        """Certify every layer."""
        for name, layer in layers(model).items():
            certify_channels(layer, input_constants(model, name))


class ChannelFactorWeight(WeightQuantizer):
    """The common quantizer with another factor of the scale for every output channel: buffer factor, float32 [O]."""

    factor: Tensor

    def attach(self, weight: Tensor) -> None:
        """All factors start at 1."""
        self.register_buffer("factor", weight.new_ones(len(weight)))

    def forward(self, weight: Tensor, bias: Tensor, x: QTensor, accumulator: Accumulator) -> tuple[Tensor, Tensor]:
        """As the base."""
        alpha, floor = self.alpha * self.factor, self.smallest_scale(bias, x)
        scale = symmetric_scale(weight, self.bits, alpha, self.per_channel, floor)
        return round_ste(weight / rowwise(scale, weight)), scale


@torch.no_grad()
def certify_channels(layer: QuantLayer, x: QTensor) -> None:
    """Raise the factors of a layer until no input can overflow its accumulator; channels that fit are left alone.

    x: the constants of the layer's input, final. The layer has a ChannelFactorWeight.
    """
    quantizer = layer.weight_quantizer
    assert isinstance(quantizer, ChannelFactorWeight)

    def ratios(factor: Tensor) -> Tensor:
        quantizer.factor.copy_(factor)
        found = worst_case(layer.quantized_weight(x)[0], x, layer.accumulator)
        return found if quantizer.per_channel else found.max().expand_as(found)

    fits = quantizer.factor.clone()
    too_small = fits.clone()
    open_ = ratios(fits) > 1.0
    # Beyond twice the largest code every code rounds to zero.
    fits = torch.where(open_, fits * 2.0**quantizer.bits, fits)
    for _ in range(BISECTIONS):
        middle = (too_small + fits) / 2
        over = ratios(middle) > 1.0
        too_small = torch.where(over & open_, middle, too_small)
        fits = torch.where(~over & open_, middle, fits)
    ratios(fits)  # leaves the factors at values that were seen to fit
