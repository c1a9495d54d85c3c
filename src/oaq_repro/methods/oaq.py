"""Overflow aware quantization (arXiv 2005.13297; IJCAI 2020, pages 868-875).

One range mapping factor alpha per input tensor of a layer, weights and activation alike, starts at 1; the
scale is `alpha * range / (2^8 - 1)`. While training, the outputs that differ between the narrow and the
32-bit accumulator are counted on a batch (N_o, without the bias); alpha rises while there are any and falls
slightly while there are none.

What the source leaves open and what is chosen here, each a config field: the update rule is a third-party
reading, `alpha += min(lr * ln(1 + N_o / B), lr_max)`, else `alpha -= lr`, every `interval` steps after
`warmup_steps` (B: images in the batch); the 1 inside the logarithm keeps alpha from falling while
0 < N_o < B. It is blind to a layer's size, so `rule: scale_free` is offered, our own: of the excess
`r = max|acc| / limit` on the batch every operand takes half, `alpha += min(alpha * ln(r) / 2, lr_max)`, and where
r < 1 it falls likewise, by at most `lr`. An activation with several consumers follows the worst one. The image's alpha
stays 1. The decrease stops at `decrease_until` of fine-tuning; then ranges are settled and frozen.
"""

import math
from dataclasses import dataclass
from typing import Literal

import pytorch_lightning as pl
import torch

from oaq_repro.errors import SettingsError
from oaq_repro.fields import Count, Fraction, Positive, Whole
from oaq_repro.methods.base import Method
from oaq_repro.methods.controller import BatchOverflow, OverflowController
from oaq_repro.quant.calibrate import ALPHA_CAP
from oaq_repro.quant.network import QuantizedNetwork, input_quantizer, layers

SMALLEST_PEAK = 1e-6  # a dead layer's peak is 0, whose logarithm is not finite


@dataclass
class OAQ(Method):
    """Range mapping factors trained with overflow in the loop.

    rule: how alpha moves, `paper` or `scale_free` (module docstring). interval: steps between updates (M).
    lr, lr_max: step size of alpha and its bound. warmup_steps: steps before the first update. decrease_until:
    part of fine-tuning (0 to 1) after which alpha no longer falls.
    """

    rule: Literal["paper", "scale_free"] = "paper"
    interval: Count = 50
    lr: Positive = 0.02
    lr_max: Positive = 0.2
    warmup_steps: Whole = 0
    decrease_until: Fraction = 0.8

    def __post_init__(self) -> None:
        """A step is at most its bound (SettingsError)."""
        if self.lr > self.lr_max:
            raise SettingsError(f"lr, lr_max: found {self.lr} and {self.lr_max}, expected lr of at most lr_max")

    def callbacks(self) -> list[pl.Callback]:
        """The controller of the alphas."""
        return [OAQController(self)]


class OAQController(OverflowController):
    """Moves every alpha by the rule above."""

    def __init__(self, method: OAQ) -> None:
        super().__init__(method.interval, method.warmup_steps)
        self.method = method

    def step(self, seen: BatchOverflow, alpha: float, batch_size: int, progress: float) -> float:
        """Change of `alpha` for what was seen on a batch of `batch_size` images."""
        method = self.method
        scale_free = alpha * math.log(max(seen.peak, SMALLEST_PEAK)) / 2
        if seen.events:
            rise = scale_free if method.rule == "scale_free" else method.lr * math.log(1.0 + seen.events / batch_size)
            return min(rise, method.lr_max)
        if progress >= method.decrease_until:
            return 0.0
        return max(scale_free, -method.lr) if method.rule == "scale_free" else -method.lr

    @torch.no_grad()
    def update(
        self, model: QuantizedNetwork, overflow: dict[str, BatchOverflow], batch_size: int, progress: float
    ) -> None:
        """Move the weights' alphas by each layer's step and the activations' by their worst consumer's."""
        worst: dict[int, float] = {}
        activations = {}
        for name, layer in layers(model).items():
            weights = layer.weight_quantizer.alpha
            weights.add_(self.step(overflow[name], float(weights), batch_size, progress)).clamp_(1.0, ALPHA_CAP)
            quantizer = input_quantizer(model, name)
            if quantizer.scalable:
                activations[id(quantizer)] = quantizer
                step = self.step(overflow[name], float(quantizer.alpha), batch_size, progress)
                worst[id(quantizer)] = max(step, worst.get(id(quantizer), -math.inf))
        for key, quantizer in activations.items():
            quantizer.alpha.add_(worst[key]).clamp_(1.0, ALPHA_CAP)
