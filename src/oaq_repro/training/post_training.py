"""What follows training and calibration: the method's guarantee, settling, bias correction."""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from oaq_repro.data.base import DataModule
from oaq_repro.methods.base import Method
from oaq_repro.quant.bias_correction import correct_biases
from oaq_repro.quant.calibrate import ImageBatches, count_overflow
from oaq_repro.quant.network import QuantizedNetwork
from oaq_repro.quant.settle import SettleReport, settle
from oaq_repro.training.stage import images_of


def post_training(
    quantized: QuantizedNetwork,
    reference: QuantizedNetwork | None,
    method: Method,
    data: DataModule,
    trainer_config: Mapping[str, Any],
) -> tuple[SettleReport, dict[str, float]]:
    """`finish`, settling, and where there is a `reference`, the network before calibration, bias correction.

    Returns the last settling's report and what `correct_biases` does. Corrected biases shift the inputs of all that
    follows, so settling goes over the images again.
    """
    loader = data.calibration_dataloader()

    def passing(description: str, batches: int | None = None) -> ImageBatches:
        return lambda: images_of(loader, torch.device("cpu"), batches, trainer_config, description)

    method.finish(quantized, passing("finishing"))
    if reference is None:
        return settle_or_count(quantized, method, passing), {}
    if method.settle is not None:
        settle_or_count(quantized, method, passing)
    corrected = correct_biases(quantized, reference, passing("correcting biases"))
    return settle_or_count(quantized, method, passing), corrected


def settle_or_count(quantized: QuantizedNetwork, method: Method, passing: Callable[..., ImageBatches]) -> SettleReport:
    """Settle by the method's configuration, or only count overflow on the same images where it has none."""
    if method.settle is not None:
        return settle(quantized, passing("settling", method.settle.batches), method.settle)
    report = SettleReport()
    report.see(count_overflow(quantized, passing("counting overflow")()))
    return report
