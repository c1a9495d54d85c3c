"""What the methods share that learn where the range of an activation ends (PACT, LSQ).

Only outputs of a ReLU have such a range: [0, reach]. Signed activations (linear bottlenecks, the image, sums without an
activation) keep the common observer with its zero point: the sources treat networks whose activations are all
rectified. A learned end takes the place of ReLU6's 6, which is only where it starts at most.
"""

import torch
from torch import Tensor, nn

from oaq_repro.quant.numerics import SMALLEST_SCALE, QParams, QTensor, affine_parameters
from oaq_repro.quant.observers import ObserverConfig
from oaq_repro.quant.quantizers import Activation, ActivationQuantizer


class LearnedRange(ActivationQuantizer):
    """uint8 quantizer of a rectified activation whose range [0, reach] is learned.

    Parameter: reach (float32 scalar). Calibration sets it; fine-tuning moves it by its gradient only.
    """

    def __init__(self, bits: int, activation: Activation, observer: ObserverConfig, scalable: bool) -> None:
        super().__init__(bits, activation, observer, scalable)
        self.reach = nn.Parameter(torch.zeros(()))

    @torch.no_grad()
    def observe(self, values: Tensor, scale: Tensor) -> None:
        """Calibration: the reach starts as the observed maximum."""
        super().observe(values, scale)
        self.reach.copy_(self.high)

    def track(self, values: Tensor, scale: Tensor) -> None:
        """Fine-tuning does not observe."""

    def end(self) -> Tensor:
        """The positive end of the range, float32 scalar, carrying its gradient."""
        return self.reach.abs().clamp(min=SMALLEST_SCALE)

    def encode(self, ratio: Tensor, scale: Tensor, zero_point: Tensor, q_max: Tensor) -> QTensor:
        """As the base, but without a gradient where the real value is clipped, not only where its rounded code is."""
        clipped = (ratio <= 0) | (ratio >= q_max)
        return super().encode(torch.where(clipped, ratio.detach(), ratio), scale, zero_point, q_max)

    def parameters_of_range(self) -> QParams:
        """Scale, zero point 0 and largest code, float32 scalars."""
        return affine_parameters(self.low, self.end(), self.bits, self.alpha)
