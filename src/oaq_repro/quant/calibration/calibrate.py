"""Passes over images: calibration, which sets ranges, and counting overflow. Settling is in `settle.py`.

Images come as iterables of batches, so the room stays free of data sets.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx

from oaq_repro.errors import InputError
from oaq_repro.quant.layers import QuantLayer
from oaq_repro.quant.modules import Value
from oaq_repro.quant.network import QuantizedNetwork, layers, set_quantizing
from oaq_repro.quant.overflow import OverflowMeter
from oaq_repro.quant.quantizers import ActivationQuantizer

ImageBatches = Callable[[], Iterable[Tensor]]
"""Called once per pass; yields float32 [N, C, H, W] on the model's device."""

IMAGES = 64
"""How many images a choice by the layers' outputs looks at."""


def first_images(images: ImageBatches, count: int = IMAGES) -> Iterator[Tensor]:
    """Batches that together hold the first `count` images, or all where there are fewer."""
    left = count
    for batch in images():
        yield batch[:left]
        left -= len(batch)
        if left <= 0:
            return


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


@torch.no_grad()
def layer_by_layer(
    model: QuantizedNetwork, images: ImageBatches, visit: Callable[[str, QuantLayer, Value], None]
) -> None:
    """Show every layer its input of the first `IMAGES` images, all at once, before it runs, in execution order.

    What `visit(name, layer, input)` does to a layer holds for the inputs of those that follow.
    """

    class Walk(fx.Interpreter):
        def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
            layer = self.fetch_attr(target)
            if isinstance(layer, QuantLayer):
                visit(target, layer, args[0])
            return super().call_module(target, args, kwargs)

    was_training = model.training
    Walk(model.eval()).run(torch.cat(list(first_images(images))))
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
