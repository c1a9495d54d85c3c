"""INT8 quantization-aware training in the style of TF-Lite (Jacob et al., CVPR 2018, arXiv 1712.05877).

What the source leaves open and what is chosen here: weights per output channel (the paper: per tensor; a
config field), ranges as running means of each batch's extremes, straight-through rounding, batch norm
folded once before fine-tuning rather than in every step. With `settle` it is the row `int8_settle`: the
same training, then settling alone, which shows how much of OAQ's result training with overflow adds. Without
`fine_tune` it is the row `ptq_int8`: post-training quantization with ranges from calibration.

`rounding: stochastic` (Gupta et al., ICML 2015, arXiv 1502.02551): while training, a value of x steps becomes
`floor(x + u)`, u uniform in [0, 1), whose mean is x; evaluation and the integer network round to the nearest. The
source rounds what training keeps in fixed point; here weights and activations in the forward pass.

`rounding: optq`, without training: once range mapping factors are settled, weights are rounded one by one under them,
so that their errors cancel (`quant.calibration.optq`), and factors are settled again.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from oaq_repro.accumulator import Accumulator
from oaq_repro.errors import SettingsError
from oaq_repro.methods.base import Method
from oaq_repro.quant.calibration.calibrate import ImageBatches
from oaq_repro.quant.calibration.optq import FixedRangeWeight, round_weights
from oaq_repro.quant.network import QuantizedNetwork
from oaq_repro.quant.numerics import QParams, QTensor, rowwise
from oaq_repro.quant.observers import ObserverConfig
from oaq_repro.quant.quantizers import Activation, ActivationQuantizer, WeightQuantizer


@dataclass
class Int8(Method):
    """Fake-quantized fine-tuning; alphas stay 1 during training. rounding: module docstring."""

    rounding: Literal["nearest", "stochastic", "optq"] = "nearest"
    sees_accumulator: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Only training draws; only weights that are not trained are rounded one by one (SettingsError)."""
        super().__post_init__()
        if self.rounding == "stochastic" and not self.fine_tune:
            raise SettingsError("rounding, fine_tune: found stochastic and false, expected a training, which draws")
        if self.rounding == "optq" and self.fine_tune:
            raise SettingsError("rounding, fine_tune: found optq and true, expected weights that are not trained")
        if self.rounding == "optq" and self.pruning is not None:
            raise SettingsError("rounding, pruning: found optq and one, expected nearest, which keeps zeros")

    @property
    def adapts(self) -> bool:  # type: ignore[override]
        """Where weights are rounded one by one."""
        return self.rounding == "optq"

    def adapt(self, model: QuantizedNetwork, images: ImageBatches) -> None:
        """Round them."""
        round_weights(model, images)

    def activation_quantizer(
        self, bits: int, activation: Activation, observer: ObserverConfig, scalable: bool
    ) -> ActivationQuantizer:
        """As the base, or drawn."""
        kind = StochasticActivation if self.rounding == "stochastic" else ActivationQuantizer
        return kind(bits, activation, observer, scalable)

    def weight_quantizer(self, bits: int, per_channel: bool) -> WeightQuantizer:
        """As the base, drawn, or one whose range stays where it was."""
        kinds = {"nearest": WeightQuantizer, "stochastic": StochasticWeight, "optq": FixedRangeWeight}
        return kinds[self.rounding](bits, per_channel)


def round_stochastically(x: Tensor) -> Tensor:
    """`floor(x + u)`, u uniform in [0, 1): whole numbers with the mean x; the gradient passes straight through."""
    fixed = x.detach()
    return (fixed + torch.rand_like(fixed)).floor() + (x - fixed)  # the second term is an exact zero


class StochasticActivation(ActivationQuantizer):
    """The common quantizer with drawn codes while training."""

    @property
    def draws(self) -> bool:  # type: ignore[override]
        """While training."""
        return self.training

    def encode(self, ratio: Tensor, scale: Tensor, zero_point: Tensor, q_max: Tensor) -> QTensor:
        """As the base, or drawn."""
        return super().encode(round_stochastically(ratio) if self.training else ratio, scale, zero_point, q_max)


class StochasticWeight(WeightQuantizer):
    """The common quantizer with drawn codes while training."""

    def codes(self, weight: Tensor, scale: Tensor, x: QParams, accumulator: Accumulator) -> Tensor:
        """As the base, or drawn."""
        if not self.training:
            return super().codes(weight, scale, x, accumulator)
        limit = rowwise(self.largest_codes(), weight)
        return round_stochastically(weight / rowwise(scale, weight)).clamp(-limit, limit)
