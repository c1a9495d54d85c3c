"""Calibration and settling: passes over images that set ranges and range mapping factors.

Both take an iterable factory of image batches, so the room stays free of data sets.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from oaq_repro.accumulator import NAMED
from oaq_repro.errors import InputError
from oaq_repro.fields import Count, Margin
from oaq_repro.quant.network import QuantizedNetwork, input_quantizer, layers, set_quantizing
from oaq_repro.quant.overflow import OverflowMeter
from oaq_repro.quant.quantizers import ActivationQuantizer

ImageBatches = Callable[[], Iterable[Tensor]]
"""Called once per pass; yields float32 [N, C, H, W] on the model's device."""

ALPHA_CAP = 16.0
"""Largest range mapping factor (DESIGN: 1 <= alpha <= 16): 8-bit codes have shrunk to 4 bits there."""


@torch.no_grad()
def calibrate(model: QuantizedNetwork, images: Iterable[Tensor]) -> None:
    """Observe activation ranges in float, then switch the model to quantized execution.

    Raises InputError when there are no images or a range is not finite.
    """
    was_training = model.training
    model.eval()
    set_quantizing(model, False)
    seen = 0
    for batch in images:
        model(batch)
        seen += len(batch)
    if not seen:
        raise InputError("calibration: found no images, expected at least one")
    for name, module in model.named_modules():
        if isinstance(module, ActivationQuantizer) and not torch.isfinite(module.high - module.low):
            raise InputError(
                f"{name}: calibration found the range [{module.low}, {module.high}], expected finite numbers"
            )
    set_quantizing(model, True)
    model.train(was_training)


@contextmanager
def counting(model: QuantizedNetwork) -> Iterator[dict[str, OverflowMeter]]:
    """Count overflow events of every layer while the context lasts."""
    meters = {}
    for name, layer in layers(model).items():
        layer.meter = meters[name] = OverflowMeter()
    try:
        yield meters
    finally:
        for layer in layers(model).values():
            layer.meter = None


@torch.no_grad()
def count_overflow(model: QuantizedNetwork, images: Iterable[Tensor]) -> dict[str, OverflowMeter]:
    """One evaluation pass; returns the meter of every layer."""
    was_training = model.training
    model.eval()
    with counting(model) as meters:
        for batch in images:
            model(batch)
    model.train(was_training)
    return meters


def freeze(model: QuantizedNetwork) -> None:
    """No observer moves a range any more."""
    for module in model.modules():
        if isinstance(module, ActivationQuantizer):
            module.observing = False


@dataclass(frozen=True)
class SettleConfig:
    """How far and how long settling goes. Our choice; the paper's end of training is unknown.

    margin: factor by which the limit is undercut where a layer is touched. max_passes: passes over the
    settle set before settling gives up with an error. batches: size of the settle set in batches of training
    images; None: all of them.
    """

    margin: Margin = 1.15
    max_passes: Count = 20
    batches: Count | None = None


@dataclass
class SettleReport:
    """What settling did and what the last pass over the settle set saw.

    passes made; per layer the events and the outputs checked in the last one; its images; layers whose accumulator was
    replaced, with the reason.
    """

    passes: int = 0
    images: int = 0
    events: dict[str, int] = field(default_factory=dict)
    outputs: dict[str, int] = field(default_factory=dict)
    replaced: dict[str, str] = field(default_factory=dict)

    def see(self, meters: dict[str, OverflowMeter]) -> None:
        """Take over the counts of one pass."""
        self.passes += 1
        self.events = {name: meter.total() for name, meter in meters.items()}
        self.outputs = {name: meter.outputs for name, meter in meters.items()}
        self.images = max((len(meter.per_image()) for meter in meters.values()), default=0)


@torch.no_grad()
def settle(model: QuantizedNetwork, images: ImageBatches, config: SettleConfig = SettleConfig()) -> SettleReport:
    """Raise range mapping factors until no accumulator passes its limit on the settle set.

    Every pass measures all layers; a layer whose largest partial sum times `margin` passes the limit has
    the product of its two alphas raised by that excess, shared evenly (each by its square root) or left to
    the weights where the input's alpha is fixed. A tensor with several consumers follows the worst; the
    others' weights need only the rest. Ends with the first pass, after all raises, without an event. A
    layer that would need more than `ALPHA_CAP` gets 32 bits and the reason is recorded.
    Raises InputError when `max_passes` were not enough.
    """
    report = SettleReport()
    table = layers(model)
    while report.passes < config.max_passes:
        meters = count_overflow(model, images())
        report.see(meters)
        excess = {
            name: config.margin * float(meter.peak)
            for name, meter in meters.items()
            if meter.peak is not None and config.margin * float(meter.peak) > 1.0
        }
        settled = not any(report.events.values())
        if settled and (report.passes > 1 or not excess):
            return report
        for name in _raise_alphas(model, excess):
            layer = table[name]
            peak = f"peak {excess[name] / config.margin:.3g} times the limit"
            report.replaced[name] = f"settle: {layer.accumulator.name} needs alpha above {ALPHA_CAP:g} ({peak})"
            layer.accumulator, layer.accumulator_reason = NAMED["int32"], report.replaced[name]
    left = {name: count for name, count in report.events.items() if count}
    raise InputError(
        f"settle.max_passes: {config.max_passes} passes were not enough, events left: {left}; expected none. "
        "Raise settle.max_passes or settle.margin"
    )


def _raise_alphas(model: QuantizedNetwork, excess: dict[str, float]) -> list[str]:
    """Raise alphas so that every layer's sums shrink by its excess; returns layers for which the cap forbids it."""
    table = layers(model)
    impossible = []
    inputs = {name: input_quantizer(model, name) for name in excess}
    for name, need in excess.items():
        shared = math.sqrt(need) if inputs[name].scalable else 1.0
        weight_alpha = float(table[name].weight_quantizer.alpha) * need / shared
        if max(float(inputs[name].alpha) * shared, weight_alpha) > ALPHA_CAP:
            impossible.append(name)
    wanted = {name: need for name, need in excess.items() if name not in impossible}
    before = {id(q): float(q.alpha) for q in inputs.values()}
    for name, need in wanted.items():
        quantizer = inputs[name]
        if quantizer.scalable:
            quantizer.alpha.clamp_(min=before[id(quantizer)] * math.sqrt(need))
    for name, need in wanted.items():
        quantizer = inputs[name]
        rest = need / (float(quantizer.alpha) / before[id(quantizer)])
        if rest > 1.0:
            table[name].weight_quantizer.alpha.mul_(rest)
    return impossible
