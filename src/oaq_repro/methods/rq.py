"""Relaxed quantization, RQ (Louizos et al., ICLR 2019, arXiv 1810.01875), in its straight-through form.

A value x is taken as x plus logistic noise of width sigma, so that the grid point g (in steps) has the probability
`S((g + 1/2 - x) / sigma) - S((g - 1/2 - x) / sigma)`, S the logistic function. While training a point is drawn, and
the gradient, to x and sigma, is that of the Gumbel-softmax relaxation at `temperature`; evaluation rounds to the most
probable point, which is the nearest.

What the source leaves open and what is chosen here: of the grid only the four points around x are looked at, as eight
bits have 256 (the paper cuts the grid off at a distance too); one sigma per tensor, learned in the log domain from 1/3
of a step; the points drawn go forward whole (the paper's RQ ST), so that accumulators see integers; the range is the
common observer's and the weights' largest magnitude (the paper learns the scale: that is here `lsq`); no gradient where
activations are clipped.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oaq_repro.accumulator import Accumulator
from oaq_repro.fields import Positive
from oaq_repro.methods.base import Method
from oaq_repro.quant.numerics import QParams, QTensor, rowwise
from oaq_repro.quant.observers import ObserverConfig
from oaq_repro.quant.quantizers import Activation, ActivationQuantizer, WeightQuantizer

START = 1 / 3  # sigma in steps: the paper's start
LEAST = 1e-6  # of a probability, before its logarithm


@dataclass
class RQ(Method):
    """INT8 training with stochastic rounding of a learned width. temperature: of the relaxation, above 0."""

    sees_accumulator: ClassVar[bool] = False

    temperature: Positive = 1.0

    def activation_quantizer(
        self, bits: int, activation: Activation, observer: ObserverConfig, scalable: bool
    ) -> ActivationQuantizer:
        """Drawn codes."""
        return RQActivation(bits, activation, observer, scalable, self.temperature)

    def weight_quantizer(self, bits: int, per_channel: bool) -> WeightQuantizer:
        """Drawn codes."""
        return RQWeight(bits, per_channel, self.temperature)


def logits(x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """The four grid points around x and the logarithms of their probabilities (not normalized), [..., 4] each."""
    points = x.detach().floor()[..., None] + torch.arange(-1.0, 3.0, device=x.device)
    away = points - x[..., None]
    probability = torch.sigmoid((away + 0.5) / sigma) - torch.sigmoid((away - 0.5) / sigma)
    return points, probability.clamp(min=LEAST).log()


def draw(x: Tensor, sigma: Tensor, temperature: float) -> Tensor:
    """One grid point for every value, integer-valued; the gradient is that of the relaxation."""
    points, scores = logits(x, sigma)
    soft = F.gumbel_softmax(scores, tau=temperature)
    hard = points.gather(-1, soft.argmax(-1, keepdim=True)).squeeze(-1)
    mean = (soft * points).sum(-1)
    return hard + (mean - mean.detach())  # the second term is an exact zero


class RQActivation(ActivationQuantizer):
    """The common quantizer with drawn codes while training. Parameter: log_sigma (float32 scalar)."""

    def __init__(
        self, bits: int, activation: Activation, observer: ObserverConfig, scalable: bool, temperature: float
    ) -> None:
        super().__init__(bits, activation, observer, scalable)
        self.temperature = temperature
        self.log_sigma = nn.Parameter(torch.tensor(math.log(START)))

    @property
    def draws(self) -> bool:  # type: ignore[override]
        """While training."""
        return self.training

    def encode(self, ratio: Tensor, scale: Tensor, zero_point: Tensor, q_max: Tensor) -> QTensor:
        """As the base, or drawn."""
        if self.training:
            ratio = draw(ratio, self.log_sigma.exp(), self.temperature)
        return super().encode(ratio, scale, zero_point, q_max)


class RQWeight(WeightQuantizer):
    """The common quantizer with drawn codes while training. Parameter: log_sigma (float32 scalar)."""

    def __init__(self, bits: int, per_channel: bool, temperature: float) -> None:
        super().__init__(bits, per_channel)
        self.temperature = temperature
        self.log_sigma = nn.Parameter(torch.tensor(math.log(START)))

    def codes(self, weight: Tensor, scale: Tensor, x: QParams, accumulator: Accumulator) -> Tensor:
        """As the base, or drawn."""
        if not self.training:
            return super().codes(weight, scale, x, accumulator)
        limit = rowwise(self.largest_codes(), weight)
        return draw(weight / rowwise(scale, weight), self.log_sigma.exp(), self.temperature).clamp(-limit, limit)
