"""Learned step size quantization, LSQ (Esser et al., ICLR 2020, arXiv 1902.08153).

Codes `round(clip(v / s, -Q_N, Q_P))` with a learned step s; rounding and clipping as they stand, straight through,
give equation 3: `dv_hat/ds = round(v/s) - v/s` inside, `-Q_N` or `Q_P` outside. The gradient of s is multiplied by
`1 / sqrt(N * Q_P)` (section 2.2), N the number of weights or of features, and s starts as `2 * mean|v| / sqrt(Q_P)`.

What the source leaves open and what is chosen here:

- The parameter is the range `Q_P * s`, its gradient multiplied by another Q_P^2: SGD moves s exactly as in the paper,
  while Adam, whose steps do not know a gradient's size, would move a bare s by a large part of itself.
- One step per output channel (the paper: per layer; `quantization.per_channel: false`), N then counts one channel.
- Weights are symmetric, Q_N = Q_P = 2^(b-1) - 1, as the integer kernels want them (the paper: Q_N = 2^(b-1)).
- Activations start from the mean over the calibration images; N counts the values of one image. See
  `methods.learned_range` for signed ones and ReLU6.
- A range mapping factor alpha multiplies s and shortens the codes, so settling works here too.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from oaq_repro.accumulator import Accumulator
from oaq_repro.methods.base import Method
from oaq_repro.methods.learned_range import LearnedRange
from oaq_repro.quant.numerics import SMALLEST_SCALE, QParams, round_ste, rowwise
from oaq_repro.quant.observers import ObserverConfig
from oaq_repro.quant.quantizers import Activation, ActivationQuantizer, WeightQuantizer


@dataclass
class LSQ(Method):
    """Learned steps of weights and rectified activations."""

    sees_accumulator: ClassVar[bool] = False

    def activation_quantizer(
        self, bits: int, activation: Activation, observer: ObserverConfig, scalable: bool
    ) -> ActivationQuantizer:
        """A learned step after a ReLU, else the common observer."""
        kind = ActivationQuantizer if activation == "none" else LSQActivation
        return kind(bits, activation, observer, scalable)

    def weight_quantizer(self, bits: int, per_channel: bool) -> WeightQuantizer:
        """Learned steps."""
        return LSQWeight(bits, per_channel)


def scale_gradient(value: Tensor, factor: float | Tensor) -> Tensor:
    """The same value, to the last bit whatever the factor; its gradient is multiplied by `factor`."""
    scaled = value * factor
    return value.detach() + (scaled - scaled.detach())


def range_gradient(count: float | Tensor, largest: int) -> float | Tensor:
    """Factor of a range's gradient, for N = `count` and Q_P = `largest` (module docstring)."""
    return largest**2 / (count * largest) ** 0.5


class LSQActivation(LearnedRange):
    """A learned step s, kept as the range `reach = Q_P * s`.

    Buffers: magnitude (float32, mean |v| of the calibration images), features (float32, values per image).
    """

    magnitude: Tensor
    features: Tensor

    def __init__(self, bits: int, activation: Activation, observer: ObserverConfig, scalable: bool) -> None:
        super().__init__(bits, activation, observer, scalable)
        self.largest = 2**bits - 1
        self.register_buffer("magnitude", torch.zeros(()))
        self.register_buffer("features", torch.ones(()))

    @torch.no_grad()
    def observe(self, values: Tensor, scale: Tensor) -> None:
        """Calibration, on real values: the step starts as `2 * mean|v| / sqrt(Q_P)`, within a ReLU6's 6."""
        self.magnitude.lerp_(values.abs().mean(), 1.0 / (self.observed + 1))
        self.features.fill_(values[0].numel())
        super().observe(values, scale)  # counts the batch
        reach = 2.0 * self.magnitude * math.sqrt(self.largest)
        self.reach.copy_(reach.clamp(max=6.0) if self.activation == "relu6" else reach)

    def end(self) -> Tensor:
        """As learned, the gradient scaled."""
        reach = scale_gradient(self.reach, range_gradient(self.features, self.largest))
        return reach.abs().clamp(min=SMALLEST_SCALE)


class LSQWeight(WeightQuantizer):
    """Learned steps, kept as ranges: parameter reach (float32 [O], or [1] for one per tensor)."""

    reach: nn.Parameter

    def attach(self, weight: Tensor) -> None:
        """Start as the paper says."""
        super().attach(weight)
        rows = weight.detach().flatten(1) if self.per_channel else weight.detach().reshape(1, -1)
        self.count = rows.shape[1]
        self.reach = nn.Parameter(2.0 * rows.abs().mean(1) * math.sqrt(self.largest))

    def span(self, weight: Tensor) -> Tensor:
        """As learned, the gradient scaled."""
        return scale_gradient(self.reach, range_gradient(self.count, self.largest)).abs()

    def codes(self, weight: Tensor, scale: Tensor, x: QParams, accumulator: Accumulator) -> Tensor:
        """Clipped at `Q_P / alpha`."""
        limit = rowwise(self.largest_codes(), weight)
        return round_ste((weight / rowwise(scale, weight)).clamp(-limit, limit))
