"""WrapNet (Ni et al., ICLR 2021, arXiv 2007.13242): an overflow penalty and a cyclic activation. Second-hand only.

Known of it: accumulators wrap modulo 2^b, a cyclic activation makes results invariant to that, and a penalty on sums
outside the range makes overflow rare.

The penalty, on INT8 training: for every layer the mean over its outputs of `relu(|acc| / limit - 1)`, where acc is the
exact sum without the bias, times `penalty_weight`, joins the loss. The gradient reaches weights and activations
through the straight-through codes.

The cyclic activation, with `cyclic` as its slope k: of a wrapped sum m, which lies within h = 2^(b - 1), it is m where
`|m| <= k h / (k + 1)`, and beyond `k (h - m)`, or `-k (h + m)` below: straight, back to 0 where the sum wraps. So it is
continuous and has the period 2^b, and what it makes of an exact sum is what it makes of the wrapped one. It stands
before the bias and the layer's own activation, in training and simulation; the integer graph has none, so such a run
ends with the stage `simulated`, in which sums are those of the narrow accumulator.

Choices: the form of the penalty and its default weight; no cyclic activation by default, so that networks keep an
integer form; where it stands; lanes, blocks and pairs are punished part by part, which needs a second, slower
convolution in every step and so is meant for small networks, and have no cyclic activation.
"""

from dataclasses import dataclass

import pytorch_lightning as pl
import torch
from torch import Tensor

from oaq_repro.accumulator import Accumulator
from oaq_repro.errors import InputError
from oaq_repro.fields import Count, NonNegative
from oaq_repro.methods.base import Method
from oaq_repro.quant.layers import QuantLayer
from oaq_repro.quant.network import QuantizedNetwork, layers
from oaq_repro.quant.numerics import QTensor
from oaq_repro.quant.overflow import partial_convolutions
from oaq_repro.quant.quantizers import WeightQuantizer


@dataclass
class WrapNet(Method):
    """INT8 training with a penalty on overflow. penalty_weight: its factor in the loss.

    cyclic: slope of a cyclic activation of the sums, None: there is none.
    """

    penalty_weight: NonNegative = 1.0
    cyclic: Count | None = None

    def weight_quantizer(self, bits: int, per_channel: bool) -> WeightQuantizer:
        """The common one, or one whose sums pass the cyclic activation."""
        if self.cyclic is None:
            return super().weight_quantizer(bits, per_channel)
        return CyclicWeight(bits, per_channel, self.cyclic)

    def callbacks(self) -> list[pl.Callback]:
        """Probes while the network is fine-tuned."""
        return [_Probing()]

    def penalty(self, model: QuantizedNetwork) -> Tensor | float:
        """`penalty_weight` times the sum of what the probes saw in the last forward pass."""
        probes = [layer.probe for layer in layers(model).values()]
        seen = [p.excess for p in probes if isinstance(p, ExcessProbe) and p.excess is not None]
        return self.penalty_weight * torch.stack(seen).sum() if seen else 0.0


class CyclicWeight(WeightQuantizer):
    """The common quantizer of a layer whose sums pass the cyclic activation."""

    no_integer_form = "sums pass a cyclic activation (method.cyclic), which the integer graph does not have"

    def __init__(self, bits: int, per_channel: bool, slope: int) -> None:
        super().__init__(bits, per_channel)
        self.slope = slope

    def of_sums(self, sums: Tensor, accumulator: Accumulator) -> Tensor:
        """Raises InputError for accumulators that do not wrap whole sums."""
        if accumulator.splits or accumulator.overflow != "wrap":
            raise InputError(
                f"method.cyclic, accumulator: found {self.slope} and {accumulator.name}, expected one that wraps whole "
                "sums, such as int16"
            )
        return cyclic(sums, accumulator.bits, self.slope)


def cyclic(sums: Tensor, bits: int, slope: int) -> Tensor:
    """The cyclic activation (module docstring) of sums of any shape, exact or wrapped to so many bits."""
    half = 2 ** (bits - 1)
    wrapped = sums - 2 * half * ((sums + half) / (2 * half)).floor()  # exact in float32, whatever the bits
    return torch.where(wrapped.abs() * (slope + 1) <= slope * half, wrapped, slope * (wrapped.sign() * half - wrapped))


class ExcessProbe:
    """Keeps a layer's mean excess of the last training batch, float32 scalar with its gradient."""

    def __init__(self, layer: QuantLayer) -> None:
        self.layer = layer
        self.excess: Tensor | None = None

    def __call__(self, acc: Tensor, x: QTensor, weight: Tensor) -> None:
        """acc: exact sums; x: input; weight: codes."""
        layer, accumulator = self.layer, self.layer.accumulator
        if not layer.training:
            self.excess = None
        elif accumulator.splits or accumulator.overflow == "saturate":
            codes, kernel = (t if t.dim() == 4 else t[:, :, None, None] for t in (x.codes, weight))
            partial = partial_convolutions(codes, x.zero_point, kernel, layer.geometry, accumulator)
            self.excess = torch.stack([excess(p, accumulator) for p in partial]).sum().float()
        else:
            self.excess = excess(acc, accumulator)


def excess(sums: Tensor, accumulator: Accumulator) -> Tensor:
    """Mean of `relu(|sum| / limit - 1)`, a scalar."""
    return (sums.abs() / accumulator.maximum - 1).relu().mean()


class _Probing(pl.Callback):
    """Sets the probes for the time of fine-tuning."""

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for layer in layers(pl_module.dense).values():  # type: ignore[arg-type]
            layer.probe = ExcessProbe(layer)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for layer in layers(pl_module.dense).values():  # type: ignore[arg-type]
            layer.probe = None
