"""What follows training and calibration: the method's guarantee, settling, rounding, bias correction."""

from dataclasses import dataclass, field
from functools import partial

import torch

from oaq_repro.methods.base import Method
from oaq_repro.quant.calibration.bias_correction import correct_biases
from oaq_repro.quant.calibration.calibrate import ImageBatches, count_overflow
from oaq_repro.quant.calibration.settle import SettleConfig, SettleReport, settle
from oaq_repro.quant.network import QuantizedNetwork
from oaq_repro.run import Run
from oaq_repro.training.stage import calibration_images

CPU = torch.device("cpu")


@dataclass
class PostTraining:
    """What was seen: in the last pass over the settle set; by layer the largest shift of a bias, in output codes."""

    settled: SettleReport
    bias_shifts: dict[str, float] = field(default_factory=dict)


def post_training(
    run: Run, quantized: QuantizedNetwork, method: Method, reference: QuantizedNetwork | None
) -> PostTraining:
    """`finish`, settling, `adapt`, and where there is a `reference`, the network before calibration, bias correction.

    Weights and biases that change shift the inputs of all that follows, so settling goes over the images again.
    """

    def images(what: str) -> ImageBatches:
        return partial(calibration_images, run, CPU, None, what)

    def settle_first() -> None:
        if method.settle is not None:
            settled(run, quantized, method.settle, CPU)

    shifts: dict[str, float] = {}
    method.finish(quantized, images("finishing"))
    if method.adapts:
        settle_first()
        method.adapt(quantized, images("rounding weights"))
    if reference is not None:
        settle_first()
        shifts = correct_biases(quantized, reference, images("correcting biases"))
    return PostTraining(settle_or_count(run, quantized, method), shifts)


def settle_or_count(run: Run, quantized: QuantizedNetwork, method: Method) -> SettleReport:
    """Settle by the method's configuration, or only count overflow on the same images where it has none."""
    if method.settle is not None:
        return settled(run, quantized, method.settle, CPU)
    report = SettleReport()
    report.see(count_overflow(quantized, calibration_images(run, CPU, None, "counting overflow")))
    return report


def settled(run: Run, quantized: QuantizedNetwork, config: SettleConfig, device: torch.device) -> SettleReport:
    """Settle on the calibration images."""
    return settle(quantized, partial(calibration_images, run, device, config.batches, "settling"), config)
