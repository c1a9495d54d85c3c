"""Overflow aware quantization (arXiv 2005.13297; IJCAI 2020, pages 868-875).

One range mapping factor alpha per input tensor of a layer, weights and activation alike, starts at 1; the
scale is `alpha * range / (2^8 - 1)`. While training, the outputs that differ between the narrow and the
32-bit accumulator are counted on a batch (N_o, without the bias); alpha rises while there are any and falls
slightly while there are none.

What the source leaves open and what is chosen here, each a config field: the update rule is a third-party
reading, `alpha += min(lr * ln(1 + N_o / B), lr_max)`, else `alpha -= lr`, every `interval` steps after
`warmup_steps` (B: images in the batch); the 1 inside the logarithm keeps alpha from falling while
0 < N_o < B. An activation with several consumers follows the worst one. The image's alpha stays 1. The
decrease stops at `decrease_until` of fine-tuning; then ranges are settled and frozen.
"""

import math
from dataclasses import dataclass

import pytorch_lightning as pl
import torch

from oaq_repro.errors import InputError
from oaq_repro.methods.base import Method
from oaq_repro.methods.controller import BatchOverflow, OverflowController, check_interval
from oaq_repro.quant.calibrate import ALPHA_CAP
from oaq_repro.quant.network import QuantizedNetwork, input_quantizer, layers


@dataclass
class OAQ(Method):
    """Range mapping factors trained with overflow in the loop.

    interval: steps between updates (M). lr, lr_max: step size of alpha and its bound. warmup_steps: steps
    before the first update. decrease_until: part of fine-tuning (0 to 1) after which alpha no longer falls.
    """

    interval: int = 50
    lr: float = 0.02
    lr_max: float = 0.2
    warmup_steps: int = 0
    decrease_until: float = 0.8

    def __post_init__(self) -> None:
        """Reject impossible fields (InputError)."""
        check_interval(self.interval, self.warmup_steps)
        if not 0 < self.lr <= self.lr_max:
            raise InputError(f"method.lr, method.lr_max: found {self.lr}, {self.lr_max}, expected 0 < lr <= lr_max")
        if not 0 <= self.decrease_until <= 1:
            raise InputError(f"method.decrease_until: found {self.decrease_until}, expected 0 to 1")

    def callbacks(self) -> list[pl.Callback]:
        """The controller of the alphas."""
        return [OAQController(self)]


class OAQController(OverflowController):
    """Moves every alpha by the rule above."""

    def __init__(self, method: OAQ) -> None:
        super().__init__(method.interval, method.warmup_steps)
        self.method = method

    def step(self, events: int, batch_size: int, progress: float) -> float:
        """Change of alpha for N_o = `events` on a batch of `batch_size` images."""
        if events:
            return min(self.method.lr * math.log(1.0 + events / batch_size), self.method.lr_max)
        return -self.method.lr if progress < self.method.decrease_until else 0.0

    @torch.no_grad()
    def update(
        self, model: QuantizedNetwork, overflow: dict[str, BatchOverflow], batch_size: int, progress: float
    ) -> None:
        """Move the weights' alphas by each layer's step and the activations' by their worst consumer's."""
        worst: dict[int, float] = {}
        activations = {}
        for name, layer in layers(model).items():
            step = self.step(overflow[name].events, batch_size, progress)
            layer.weight_quantizer.alpha.add_(step).clamp_(1.0, ALPHA_CAP)
            quantizer = input_quantizer(model, name)
            if quantizer.scalable:
                activations[id(quantizer)] = quantizer
                worst[id(quantizer)] = max(step, worst.get(id(quantizer), -math.inf))
        for key, quantizer in activations.items():
            quantizer.alpha.add_(worst[key]).clamp_(1.0, ALPHA_CAP)
