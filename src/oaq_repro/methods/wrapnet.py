"""An overflow penalty in the spirit of WrapNet (Ni et al., ICLR 2021). The paper is known to us second-hand only.

Known of it: accumulators wrap modulo 2^b, a cyclic activation makes networks bear that, and a penalty on sums outside
the range makes overflow rare. Here is the penalty alone, on INT8 training: for every layer the mean over its outputs of
`relu(|acc| / limit - 1)`, where acc is the exact sum without the bias, times `penalty_weight`, joins the loss. The
gradient reaches weights and activations through the straight-through codes.

Choices: the form of the penalty and its default weight; no cyclic activation, since ours are those of the float
parent; lanes, blocks and pairs are punished part by part, which needs a second, slower convolution in every step and so
is meant for small networks.
"""

from dataclasses import dataclass

import pytorch_lightning as pl
import torch
from torch import Tensor

from oaq_repro.accumulator import Accumulator
from oaq_repro.fields import NonNegative
from oaq_repro.methods.base import Method
from oaq_repro.quant.layers import QuantLayer
from oaq_repro.quant.network import QuantizedNetwork, layers
from oaq_repro.quant.numerics import QTensor
from oaq_repro.quant.overflow import partial_convolutions


@dataclass
class WrapNet(Method):
    """INT8 training with a penalty on overflow. penalty_weight: its factor in the loss."""

    penalty_weight: NonNegative = 1.0

    def callbacks(self) -> list[pl.Callback]:
        """Probes while the network is fine-tuned."""
        return [_Probing()]

    def penalty(self, model: QuantizedNetwork) -> Tensor | float:
        """`penalty_weight` times the sum of what the probes saw in the last forward pass."""
        probes = [layer.probe for layer in layers(model).values()]
        seen = [p.excess for p in probes if isinstance(p, ExcessProbe) and p.excess is not None]
        return self.penalty_weight * torch.stack(seen).sum() if seen else 0.0


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
