"""Differentiable soft quantization, DSQ (Gong et al., ICCV 2019, arXiv 1908.05033).

Within each step of the grid, at a distance r from its middle, rounding is approximated by `tanh(k r) / tanh(k / 2)`,
whose ends meet the grid; `k = ln(2 / a - 1)` for the approximation's distance `a = 1 - tanh(k / 2)` from a true step
(equations 4 to 9, in units of a step). The forward pass rounds (the paper's sign), the backward pass differentiates the
soft curve. The distance a is learned, within (0, 1/2).

What the source leaves open and what is chosen here: one a per tensor, starting at `softness` (0.2); the ends of the
range are the common observer's and the weights' largest magnitude (the paper learns them too: that is here `lsq` and
`pact`); no gradient where activations are clipped; range mapping factors and settling work as with INT8.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Le
from torch import Tensor, nn

from oaq_repro.accumulator import Accumulator
from oaq_repro.methods.base import Method
from oaq_repro.quant.numerics import QParams, QTensor, rowwise
from oaq_repro.quant.observers import ObserverConfig
from oaq_repro.quant.quantizers import Activation, ActivationQuantizer, WeightQuantizer

SOFTEST, HARDEST = 0.499, 0.001


@dataclass
class DSQ(Method):
    """INT8 training with a soft step's gradient. softness: where the learned distance from a true step starts."""

    sees_accumulator: ClassVar[bool] = False

    softness: Annotated[float, Ge(HARDEST), Le(SOFTEST)] = 0.2

    def activation_quantizer(
        self, bits: int, activation: Activation, observer: ObserverConfig, scalable: bool
    ) -> ActivationQuantizer:
        """Soft gradients."""
        return DSQActivation(bits, activation, observer, scalable, self.softness)

    def weight_quantizer(self, bits: int, per_channel: bool) -> WeightQuantizer:
        """Soft gradients."""
        return DSQWeight(bits, per_channel, self.softness)


def soft_round(x: Tensor, softness: Tensor) -> Tensor:
    """Round half to even; the gradients, to x and to softness (scalar), are those of the soft curve."""
    a = softness.clamp(HARDEST, SOFTEST)
    below = x.detach().floor()
    soft = below + 0.5 + torch.tanh((2 / a - 1).log() * (x - below - 0.5)) / (2 * (1 - a))
    return x.detach().round() + (soft - soft.detach())  # the second term is an exact zero


class DSQActivation(ActivationQuantizer):
    """The common quantizer with soft rounding. Parameter: softness (float32 scalar)."""

    def __init__(
        self, bits: int, activation: Activation, observer: ObserverConfig, scalable: bool, softness: float
    ) -> None:
        super().__init__(bits, activation, observer, scalable)
        self.softness = nn.Parameter(torch.tensor(softness))

    def encode(self, ratio: Tensor, scale: Tensor, zero_point: Tensor, q_max: Tensor) -> QTensor:
        """The same codes."""
        codes = (soft_round(ratio, self.softness) + zero_point).clamp(torch.zeros_like(q_max), q_max)
        return QTensor(codes, scale, zero_point, q_max)


class DSQWeight(WeightQuantizer):
    """The common quantizer with soft rounding. Parameter: softness (float32 scalar)."""

    def __init__(self, bits: int, per_channel: bool, softness: float) -> None:
        super().__init__(bits, per_channel)
        self.softness = nn.Parameter(torch.tensor(softness))

    def codes(self, weight: Tensor, scale: Tensor, x: QParams, accumulator: Accumulator) -> Tensor:
        """The same codes."""
        return soft_round(weight / rowwise(scale, weight), self.softness)
