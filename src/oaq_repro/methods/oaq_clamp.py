"""MNN's deployed form of overflow aware quantization: one integer clamp per layer.

Known of it (MNN's quantization tool): the clamp starts at 127 and goes down by 1 while a batch overflows,
and never up. The largest integer of a layer's weights and of its input is the clamp, so it is a range
mapping factor `alpha = 127 / clamp`. Our choices: checked every `interval` steps; an activation with several
consumers takes the smallest clamp among them; the image keeps all its codes.
"""

from dataclasses import dataclass

import pytorch_lightning as pl
import torch

from oaq_repro.fields import Count, Whole
from oaq_repro.methods.base import Method
from oaq_repro.methods.controller import BatchOverflow, OverflowController
from oaq_repro.quant.calibration.split import ALPHA_CAP
from oaq_repro.quant.network import QuantizedNetwork, input_quantizer, layers

LARGEST_CODE = 127


@dataclass
class OAQClamp(Method):
    """One integer clamp per layer that only goes down. interval: steps between checks."""

    interval: Count = 1
    warmup_steps: Whole = 0

    def callbacks(self) -> list[pl.Callback]:
        """The controller of the clamps."""
        return [ClampController(self.interval, self.warmup_steps)]


class ClampController(OverflowController):
    """Lowers a layer's clamp by 1 where the batch overflowed."""

    @torch.no_grad()
    def update(
        self, model: QuantizedNetwork, overflow: dict[str, BatchOverflow], batch_size: int, progress: float
    ) -> None:
        """The clamp is kept as the weights' alpha, so it is in the checkpoint like every other factor."""
        for name, layer in layers(model).items():
            alpha = layer.weight_quantizer.alpha
            if overflow[name].total:
                clamp = max(LARGEST_CODE / ALPHA_CAP, round(LARGEST_CODE / float(alpha.max())) - 1)
                alpha.fill_(LARGEST_CODE / clamp)
            quantizer = input_quantizer(model, name)
            if quantizer.scalable:
                quantizer.alpha.clamp_(min=float(alpha.max()))
