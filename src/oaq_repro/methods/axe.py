"""AXE (Colbert et al., 2024, arXiv 2409.17092): accumulator-aware post-training quantization, here inside OPTQ.

OPTQ rounds a layer's weights one by one and spreads each error over those that follow (`quant.calibration.optq`). AXE
changes each weight before it is rounded: softly thresholded by what
brings the zero-centred weights of its partial sum onto the L1 ball of radius `Z = (2^P - 2) / (x_max - x_min)` codes,
then clamped to what the codes rounded before have left of the accumulator. So no input can overflow it.

What the source leaves open and what is chosen here, besides what A2Q (`methods.a2q`) lists:

- Both limits count: an input with a zero point has codes of both signs, and a weight of one sign moves both sums.
- The error that is spread is that of the whole change (`compensate: all`), or, as in the authors' package brevitas,
  that of rounding alone (`rounding`).
- What `quant.calibration.optq` says of the order, of H and of inputs that are zero.
- The source chooses bits so that little has to be given up. With 8 of them a fixed scale (`scale_start: range`) leaves
  a short filter half of its norm, so by default, `scale_start: error`, each channel takes that one of `STARTS` range
  mapping factors, from 1 to where rounding to nearest would be certified, with the least error of its sums, by H.
- Activations keep their bits and their factors.
"""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor

from oaq_repro.accumulator import Accumulator
from oaq_repro.fields import Positive
from oaq_repro.methods.a2q import STARTS
from oaq_repro.methods.a2q_plus import thresholds
from oaq_repro.methods.base import Method
from oaq_repro.quant.bounds import input_range, partial_sums, parts
from oaq_repro.quant.calibration.calibrate import ImageBatches, layer_by_layer
from oaq_repro.quant.calibration.optq import (
    DAMPING,
    FixedRangeWeight,
    codes_one_by_one,
    keep,
    second_moments,
    summed_error,
)
from oaq_repro.quant.layers import QuantLayer
from oaq_repro.quant.modules import Value
from oaq_repro.quant.network import QuantizedNetwork
from oaq_repro.quant.numerics import QParams, QTensor
from oaq_repro.quant.quantizers import WeightQuantizer

SMALLEST_FACTOR = 1e-9  # instead of an input that is never on this side of zero, which leaves room for any code


@dataclass
class AXE(Method):
    """Weights rounded one by one, so that their errors cancel and no input can overflow. Never fine-tuned.

    compensate: which error the weights that follow make up for. scale_start: `error` or `range` (both: module
    docstring). damping: of H.
    """

    fine_tune: bool = field(init=False, default=False)
    compensate: Literal["all", "rounding"] = "all"
    scale_start: Literal["error", "range"] = "error"
    damping: Positive = DAMPING
    sees_accumulator: ClassVar[bool] = False
    keeps_zeros: ClassVar[bool] = False

    def weight_quantizer(self, bits: int, per_channel: bool) -> WeightQuantizer:
        """One whose range stays where it was."""
        return FixedRangeWeight(bits, per_channel)

    def finish(self, model: QuantizedNetwork, images: ImageBatches) -> None:
        """Round layer after layer."""

        def visit(name: str, layer: QuantLayer, x: Value) -> None:
            assert isinstance(x, QTensor)
            round_layer(layer, x, self)

        layer_by_layer(model, images, visit)


def round_layer(layer: QuantLayer, x: QTensor, method: AXE) -> None:
    """Replace a layer's weights by multiples of scales that are chosen here and that no input overflows; in place."""
    quantizer, accumulator, moments = layer.weight_quantizer, layer.accumulator, second_moments(layer, x)
    rows, part = layer.weight.flatten(1), parts(layer.weight, accumulator, quantizer.meeting)
    need = quantizer.per_factor(layer.worst_case(x.qparams)).clamp(min=1.0)
    starts = STARTS if method.scale_start == "error" and need.max() > 1 else 1
    alphas, chosen, kept = quantizer.alpha.clone(), rows, torch.full_like(need, torch.inf)
    for way in torch.linspace(0, 1, starts).tolist():
        quantizer.alpha.copy_(need**way)
        _, scale = layer.quantized_weight(x.qparams)
        found = codes(rows / scale[:, None], moments, part, x.qparams, accumulator, quantizer.largest, method)
        tried = found.to(scale) * scale[:, None]
        error = summed_error(rows - tried, moments)
        if quantizer.granularity == "tensor":
            error = error.sum().expand_as(error)
        better = error < kept
        kept, alphas = torch.where(better, error, kept), torch.where(better, quantizer.alpha, alphas)
        chosen = torch.where(better[:, None], tried, chosen)
    quantizer.alpha.copy_(alphas)
    layer.hold_scales(x.qparams)
    keep(layer, chosen)


def codes(
    rows: Tensor, moments: Tensor, part: Tensor, x: QParams, accumulator: Accumulator, largest: int, method: AXE
) -> Tensor:
    """Weight codes, integer-valued float64 [O, K], of weights `rows` [O, K] in steps of the grid.

    moments: [groups, K, K]; part: the partial sum of each of the K (`bounds.parts`); x: of the layer's input; largest:
    the largest code.
    """
    low, high = (bound.double() for bound in input_range(x, accumulator))
    fall = zero_centred_thresholds(rows, part, 2 * accumulator.maximum / (high - low))
    shrink = fall.reshape(len(moments), -1, fall.shape[1])
    positive, negative = torch.zeros_like(shrink), torch.zeros_like(shrink)

    def choose(k: int, wanted: Tensor) -> tuple[Tensor, Tensor]:
        p = part[k]
        changed = wanted.sign() * (wanted.abs() - shrink[:, :, p]).clamp(min=0)
        room = rooms(positive[:, :, p], negative[:, :, p], low, high, accumulator.maximum)
        changed = torch.minimum(torch.maximum(changed, -room[0]), room[1])
        code = changed.round().clamp(-largest, largest)
        positive[:, :, p] += code.clamp(min=0)
        negative[:, :, p] += code.clamp(max=0)
        return code, (wanted if method.compensate == "all" else changed) - code

    return codes_one_by_one(rows, moments, method.damping, choose)


def zero_centred_thresholds(rows: Tensor, part: Tensor, radius: Tensor) -> Tensor:
    """Thresholds of the partial sums' weights less their mean: float64 [O, parts]."""
    mean = partial_sums(rows.double(), part) / torch.bincount(part)
    return thresholds(rows - mean[:, part], part, radius.expand(len(rows)))


def rooms(positive: Tensor, negative: Tensor, low: Tensor, high: Tensor, limit: int) -> tuple[Tensor, Tensor]:
    """How large the next code's magnitude may be, below and above zero: whole numbers in float64, shape of `positive`.

    positive, negative: sums of the codes of either sign so far; low <= 0 <= high: the input's range.
    """
    above, below = limit - (high * positive + low * negative), limit + (low * positive + high * negative)
    up, down = high.clamp(min=SMALLEST_FACTOR), (-low).clamp(min=SMALLEST_FACTOR)
    return torch.minimum(below / up, above / down).floor(), torch.minimum(above / up, below / down).floor()
