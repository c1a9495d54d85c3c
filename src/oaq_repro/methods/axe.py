"""AXE (Colbert et al., 2024, arXiv 2409.17092): accumulator-aware post-training quantization, here inside OPTQ.

OPTQ (GPTQ, arXiv 2210.17323) rounds a layer's weights one input at a time and spreads each error over the inputs that
follow, by the inverse of `H = E[x x^T]`. AXE changes each weight before it is rounded: softly thresholded by what
brings the zero-centred weights of its partial sum onto the L1 ball of radius `Z = (2^P - 2) / (x_max - x_min)` codes,
then clamped to what the codes rounded before have left of the accumulator. So no input can overflow it.

What the source leaves open and what is chosen here, besides what A2Q (`methods.a2q`) lists:

- Both limits count: an input with a zero point has codes of both signs, and a weight of one sign moves both sums.
- The error that is spread is that of the whole change (`compensate: all`), or, as in the authors' package brevitas,
  that of rounding alone (`rounding`).
- Weights are rounded in the order of their memory (input channel, row, column). H is that of the inputs that layers
  have once all layers before are quantized, on the first `IMAGES` calibration images, and is damped by `damping` times
  its mean diagonal.
- An input that is zero on all images keeps its weight (brevitas: zero).
- The source chooses bits so that little has to be given up. With 8 of them a fixed scale (`scale_start: range`) leaves
  a short filter half of its norm, so by default, `scale_start: error`, each channel takes that one of `STARTS` range
  mapping factors, from 1 to where rounding to nearest would be certified, with the least error of its sums, by H.
- Activations keep their bits and their factors.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oaq_repro.accumulator import Accumulator
from oaq_repro.fields import Positive
from oaq_repro.methods.a2q import STARTS
from oaq_repro.methods.a2q_plus import thresholds
from oaq_repro.methods.base import Method
from oaq_repro.quant.bounds import input_range, partial_sums, parts
from oaq_repro.quant.calibration.calibrate import ImageBatches, layer_by_layer
from oaq_repro.quant.layers import QuantLayer
from oaq_repro.quant.modules import Value
from oaq_repro.quant.network import QuantizedNetwork
from oaq_repro.quant.numerics import QParams, QTensor, largest_magnitude, pad
from oaq_repro.quant.overflow import Geometry
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
    damping: Positive = 0.01
    sees_accumulator: ClassVar[bool] = False

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
    layer.weight = nn.Parameter(chosen.reshape(layer.weight.shape))  # its own, also where layers have had one together


class FixedRangeWeight(WeightQuantizer):
    """The common quantizer with the range of the float weights. Buffer top: largest magnitude, float32 [O] or [1]."""

    top: Tensor

    def attach(self, weight: Tensor) -> None:
        """Keep the range."""
        super().attach(weight)
        self.register_buffer("top", largest_magnitude(weight, self.per_channel))

    def span(self, weight: Tensor) -> Tensor:
        """The range that was kept."""
        return self.top


def second_moments(layer: QuantLayer, x: QTensor) -> Tensor:
    """`sum x x^T` of what a layer's filters see, float64 [groups, K, K], K in the order of `weight.flatten(1)`.

    x: the input, codes [N, C, H, W] or [N, K].
    """
    centred, g = x.centred(), layer.geometry
    if centred.dim() == 2:
        return (centred.T @ centred).double()[None]
    kernel = layer.weight.shape[2:]
    depth = layer.weight[0].numel()
    total = centred.new_zeros(g.groups, depth, depth, dtype=torch.float64)
    transposed = g.output_padding is not None
    whole = _stretched(centred, kernel, g) if transposed else pad(centred, g.padding)
    for image in whole.split(1):  # a filter's windows of all images would not fit in memory
        seen = F.unfold(image, kernel, dilation=g.dilation, stride=1 if transposed else g.stride)
        if transposed:  # which reads inputs with its taps in the other direction
            seen = seen.reshape(-1, *kernel, seen.shape[-1]).flip(1, 2)
        seen = seen.reshape(g.groups, depth, -1)
        total += seen @ seen.transpose(1, 2)
    return total


def _stretched(x: Tensor, kernel: Sequence[int], g: Geometry) -> Tensor:
    """The input [N, C, H, W] of a transposed convolution as that of an ordinary one: `stride - 1` zeros between."""
    rows, columns = ((size - 1) * stride + 1 for size, stride in zip(x.shape[2:], g.stride, strict=True))
    stretched = x.new_zeros(*x.shape[:2], rows, columns)
    stretched[:, :, :: g.stride[0], :: g.stride[1]] = x
    reach = [dilation * (size - 1) for size, dilation in zip(kernel, g.dilation, strict=True)]
    (top, left, bottom, right), more = g.padding, g.output_padding or (0, 0)
    sides = (reach[0] - top, reach[1] - left, reach[0] - bottom + more[0], reach[1] - right + more[1])
    return pad(stretched, sides)


def summed_error(difference: Tensor, moments: Tensor) -> Tensor:
    """Squared error of every channel's sums, float64 [O], for weights that differ by `difference` [O, K]."""
    own = difference.double().reshape(len(moments), -1, difference.shape[1])
    return ((own @ moments) * own).sum(2).flatten()


def codes(
    rows: Tensor, moments: Tensor, part: Tensor, x: QParams, accumulator: Accumulator, largest: int, method: AXE
) -> Tensor:
    """Weight codes, integer-valued float64 [O, K], of weights `rows` [O, K] in steps of the grid.

    moments: [groups, K, K]; part: the partial sum of each of the K (`bounds.parts`); x: of the layer's input; largest:
    the largest code.
    """
    groups, depth, _ = moments.shape
    low, high = (bound.double() for bound in input_range(x, accumulator))
    fall = zero_centred_thresholds(rows, part, 2 * accumulator.maximum / (high - low))
    shrink, inverse = fall.reshape(groups, -1, fall.shape[1]), inverse_root(moments, method.damping)
    left = rows.double().reshape(groups, -1, depth).clone()
    found = torch.zeros_like(left)
    positive, negative = torch.zeros_like(shrink), torch.zeros_like(shrink)
    for k in range(depth):
        p = part[k]
        wanted = left[:, :, k]
        changed = wanted.sign() * (wanted.abs() - shrink[:, :, p]).clamp(min=0)
        room = rooms(positive[:, :, p], negative[:, :, p], low, high, accumulator.maximum)
        changed = torch.minimum(torch.maximum(changed, -room[0]), room[1])
        found[:, :, k] = code = changed.round().clamp(-largest, largest)
        positive[:, :, p] += code.clamp(min=0)
        negative[:, :, p] += code.clamp(max=0)
        error = (wanted if method.compensate == "all" else changed) - code
        left[:, :, k:] -= (error / inverse[:, k, k, None])[:, :, None] * inverse[:, k, None, k:]
    return found.reshape(rows.shape)


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


def inverse_root(moments: Tensor, damping: float) -> Tensor:
    """Upper Cholesky factor of the inverse of damped second moments [groups, K, K], as OPTQ uses it."""
    diagonal = moments.diagonal(dim1=1, dim2=2)
    dead = (diagonal == 0).double()
    added = dead + damping * (diagonal + dead).mean(1, keepdim=True)
    damped = moments + torch.diag_embed(added)
    return torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(damped)), upper=True)
