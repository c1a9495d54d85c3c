"""PACT (Choi et al., arXiv 1805.06085) with the weights of DoReFa-Net (Zhou et al., arXiv 1606.06160).

Activations: `clip(x, 0, alpha)` on a uniform grid; alpha is learned with the gradient 1 where x >= alpha and 0 below
(PACT, equation 3). Alpha (here `reach`, as alpha is the range mapping factor) has an L2 penalty.
Weights: `tanh(w) / max|tanh(w)|` on a uniform grid in [-1, 1] (DoReFa, equation 9).

What the sources leave open and what is chosen here:

- `clip_decay` is the penalty's factor: `clip_decay / 2 * sum(alpha^2)` joins the loss, which is weight decay written
  out. PACT uses the weights' own decay, 2e-4 on CIFAR-10, 1e-4 on ImageNet.
- Alpha starts at the calibrated maximum: a float parent is fine-tuned (the paper trains from a constant).
- DoReFa's grid has 2^b levels and no zero. Here it is the symmetric one with zero, `round((2^(b-1) - 1) * t)`, whose
  codes are int8.
- DoReFa leaves the scale to the batch norm behind. Here that is folded, so the scale of a channel is the one that
  brings `scale * codes` nearest to w, `<w, t> / <t, t> / (2^(b-1) - 1)`; scale and maximum carry no gradient.
- Maximum and scale per output channel (DoReFa: per layer; `quantization.per_channel: false`).
- Signed activations and ReLU6: `methods.learned_range`. A range mapping factor stretches both grids, so settling works.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from oaq_repro.accumulator import Accumulator
from oaq_repro.fields import NonNegative
from oaq_repro.methods.base import Method
from oaq_repro.methods.learned_range import LearnedRange
from oaq_repro.quant.network import QuantizedNetwork
from oaq_repro.quant.numerics import SMALLEST_SCALE, QParams, QTensor, largest_magnitude, rowwise
from oaq_repro.quant.observers import ObserverConfig
from oaq_repro.quant.quantizers import Activation, ActivationQuantizer, WeightQuantizer


@dataclass
class PACT(Method):
    """Learned clips of rectified activations; tanh-normalized weights. clip_decay: factor of the clips' L2 penalty."""

    sees_accumulator: ClassVar[bool] = False

    clip_decay: NonNegative = 1e-4

    def activation_quantizer(
        self, bits: int, activation: Activation, observer: ObserverConfig, scalable: bool
    ) -> ActivationQuantizer:
        """A learned clip after a ReLU, else the common observer."""
        kind = ActivationQuantizer if activation == "none" else ClippedActivation
        return kind(bits, activation, observer, scalable)

    def weight_quantizer(self, bits: int, per_channel: bool) -> WeightQuantizer:
        """DoReFa's."""
        return TanhWeight(bits, per_channel)

    def penalty(self, model: QuantizedNetwork) -> Tensor | float:
        """`clip_decay / 2 * sum(alpha^2)`."""
        clips = [m.reach.square() for m in model.modules() if isinstance(m, ClippedActivation)]
        return self.clip_decay / 2 * torch.stack(clips).sum() if clips else 0.0


class ClippedActivation(LearnedRange):
    """Clip at `reach`; the gradient of the clip is that of PACT, not that of a step."""

    def parameters_of_range(self) -> QParams:
        """Constants: the clip learns in `encode`."""
        scale, zero_point, q_max = super().parameters_of_range()
        return QParams(scale.detach(), zero_point.detach(), q_max)

    def encode(self, ratio: Tensor, scale: Tensor, zero_point: Tensor, q_max: Tensor) -> QTensor:
        """Codes as ever; where the clip acts, the real value `scale * codes` is the clip and so is its gradient."""
        x = super().encode(ratio, scale, zero_point, q_max)
        end = self.end()
        return x._replace(codes=x.codes + (ratio >= q_max) * ((end - end.detach()) / scale))


class TanhWeight(WeightQuantizer):
    """`round((2^(b-1) - 1) / alpha * tanh(w) / max|tanh(w)|)` with the scale that fits the weights best."""

    def squashed_span(self, weight: Tensor) -> Tensor:
        """`max|tanh(w)|`, float32 [O] or [1]."""
        return largest_magnitude(weight.tanh(), self.per_channel).clamp(min=SMALLEST_SCALE)

    def span(self, weight: Tensor) -> Tensor:
        """f, with which `f * tanh(w) / max|tanh(w)|` is nearest to w: both become codes on the grid that ends at f."""
        real = weight.detach().flatten(1) if self.per_channel else weight.detach().reshape(1, -1)
        squashed = real.tanh()
        return (
            self.squashed_span(weight)
            * (real * squashed).sum(1)
            / squashed.square().sum(1).clamp(min=SMALLEST_SCALE**2)
        )

    def codes(self, weight: Tensor, scale: Tensor, x: QParams, accumulator: Accumulator) -> Tensor:
        """Of `f * tanh(w) / max|tanh(w)|`."""
        factor = self.span(weight) / self.squashed_span(weight)
        return super().codes(weight.tanh() * rowwise(factor, weight), scale, x, accumulator)
