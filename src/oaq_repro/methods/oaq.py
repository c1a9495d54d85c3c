"""Overflow aware quantization (arXiv 2005.13297; IJCAI 2020, pages 868-875).

One range mapping factor alpha per input tensor of a layer, weights and activation alike, starts at 1; the
scale is `alpha * range / (2^8 - 1)`. While training, the outputs that differ between the narrow and the
32-bit accumulator are counted on a batch (N_o, without the bias); alpha rises while there are any and falls
slightly while there are none.

What the source leaves open and what is chosen here, each a config field: the update rule is a third-party
reading, `alpha += min(lr * ln(1 + N_o / B), lr_max)`, else `alpha -= lr`, every `interval` steps after
`warmup_steps` (B: images in the batch); the 1 inside the logarithm keeps alpha from falling while
0 < N_o < B. It is blind to a layer's size, so `rule: scale_free` is offered, our own: of the excess
`r = max|acc| / limit` on the batch the activation takes r^s, `alpha += min(alpha * s * ln(r), lr_max)`, the weights
the rest, and where r < 1 they fall likewise, by at most `lr`. With `quantization.granularity: channel` (ours; the
paper's is `tensor`) every output channel has a factor of its own, moved by its own N_o, or its own r beyond what the
activation takes. The share s is 1/2 with `split: even`; under the rule `paper`, whose operands both take the whole
step, another share makes the activation's rise `2 s` and the weights' `2 (1 - s)` times as large. An activation with
several consumers follows the worst one. The image's alpha stays 1. The decrease stops at `decrease_until` of
fine-tuning; then ranges are settled and frozen.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from torch import Tensor

from oaq_repro.errors import SettingsError
from oaq_repro.fields import Count, Fraction, Positive, Whole
from oaq_repro.methods.base import Method
from oaq_repro.methods.controller import BatchOverflow, OverflowController
from oaq_repro.quant.calibration.calibrate import IMAGES
from oaq_repro.quant.calibration.split import ALPHA_CAP, EVEN, Split, SplitErrors, fixed_share
from oaq_repro.quant.network import QuantizedNetwork, input_quantizer, layers
from oaq_repro.quant.numerics import QTensor

SMALLEST_PEAK = 1e-6  # a dead layer's peak is 0, whose logarithm is not finite


@dataclass
class OAQ(Method):
    """Range mapping factors trained with overflow in the loop.

    rule: how alpha moves, `paper` or `scale_free` (module docstring). interval: steps between updates (M).
    lr, lr_max: step size of alpha and its bound. warmup_steps: steps before the first update. decrease_until:
    part of fine-tuning (0 to 1) after which alpha no longer falls. split: how an excess is shared between activation
    and weights (`quant.calibration.split`); `output_error` chooses at the first update, on that batch.
    """

    rule: Literal["paper", "scale_free"] = "paper"
    interval: Count = 50
    lr: Positive = 0.02
    lr_max: Positive = 0.2
    warmup_steps: Whole = 0
    decrease_until: Fraction = 0.8
    split: Split = "output_error"

    def __post_init__(self) -> None:
        """A step is at most its bound (SettingsError)."""
        super().__post_init__()
        if self.lr > self.lr_max:
            raise SettingsError(f"lr, lr_max: found {self.lr} and {self.lr_max}, expected lr of at most lr_max")

    def callbacks(self) -> list[pl.Callback]:
        """The controller of the alphas."""
        return [OAQController(self)]


class OAQController(OverflowController):
    """Moves every alpha by the rule above.

    shares: the activations' shares that were chosen, by the name of the module that makes the tensor; None before that.
    They are part of a checkpoint.
    """

    def __init__(self, method: OAQ) -> None:
        super().__init__(method.interval, method.warmup_steps)
        self.method = method
        self.shares: dict[str, float] | None = None
        self._inputs: dict[str, QTensor] = {}

    def state_dict(self) -> dict[str, Any]:
        """For Lightning's checkpoint."""
        return {"shares": self.shares}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """From Lightning's checkpoint."""
        self.shares = state_dict["shares"]

    def watch(self, model: QuantizedNetwork) -> None:
        """Before the first update inputs are kept as well, for the choice of the shares."""
        super().watch(model)
        if self.shares is None and fixed_share(self.method.split) is None:
            for name, layer in layers(model).items():
                layer.probe = partial(self._keep, name)

    def _keep(self, name: str, acc: Tensor, x: QTensor, weight: Tensor) -> None:
        self._inputs[name] = x._replace(codes=x.codes.detach()[:IMAGES])

    def _choose(self, model: QuantizedNetwork, overflow: dict[str, BatchOverflow]) -> None:
        """Choose the shares by what was kept, for the excesses seen."""
        needs = {}
        for name, layer in layers(model).items():
            layer.probe = None
            needs[name] = overflow[name].peaks.clamp(min=1.0)
        choice = SplitErrors(model, needs)
        for name in choice.layers:
            choice.add(name, self._inputs[name])
        self.shares, self._inputs = choice.shares(), {}

    def share(self, model: QuantizedNetwork, layer: str) -> float:
        """The part of a layer's excess that its input takes; a half where there was none to choose it by."""
        fixed = fixed_share(self.method.split)
        return (self.shares or {}).get(model.sources[layer], EVEN) if fixed is None else fixed

    def step(
        self, events: Tensor, part: Tensor, rate: float, alpha: Tensor, batch_size: int, progress: float
    ) -> Tensor:
        """Change of factors `alpha` [O] or scalar for what was seen on a batch of `batch_size` images, float64.

        events: outputs that overflowed; part: logarithm of the factor by which the sums are to shrink by these alphas,
        for the scale-free rule; rate: factor of the paper's rise.
        """
        method, scale_free = self.method, alpha.double() * part
        paper = rate * method.lr * torch.log(1.0 + events / batch_size)
        rise = (scale_free if method.rule == "scale_free" else paper).clamp(0.0, method.lr_max)
        fall = scale_free.clamp(-method.lr, 0.0) if method.rule == "scale_free" else torch.full_like(rise, -method.lr)
        return torch.where(events > 0, rise, fall if progress < method.decrease_until else torch.zeros_like(fall))

    @torch.no_grad()
    def update(
        self, model: QuantizedNetwork, overflow: dict[str, BatchOverflow], batch_size: int, progress: float
    ) -> None:
        """Move the weights' alphas by each channel's step and the activations' by their worst consumer's."""
        if self._inputs:
            self._choose(model, overflow)
        worst: dict[int, float] = {}
        activations = {}
        for name, layer in layers(model).items():
            weights, quantizer, seen = layer.weight_quantizer, input_quantizer(model, name), overflow[name]
            share = self.share(model, name) if quantizer.scalable else 0.0
            excess = seen.peaks.max().clamp(min=SMALLEST_PEAK).log()
            own = weights.per_factor(seen.peaks).clamp(min=SMALLEST_PEAK).log()
            total = seen.events.sum()
            events = seen.events if weights.granularity == "channel" else total.expand_as(seen.events)
            rate = 2.0 * (1.0 - share) if quantizer.scalable else 1.0
            step = self.step(events, own - share * excess, rate, weights.alpha.cpu(), batch_size, progress)
            weights.alpha.add_(step.to(weights.alpha)).clamp_(1.0, ALPHA_CAP)
            if quantizer.scalable:
                activations[id(quantizer)] = quantizer
                taken = self.step(total, share * excess, 2.0 * share, quantizer.alpha.cpu(), batch_size, progress)
                worst[id(quantizer)] = max(float(taken), worst.get(id(quantizer), -math.inf))
        for key, quantizer in activations.items():
            quantizer.alpha.add_(worst[key]).clamp_(1.0, ALPHA_CAP)
