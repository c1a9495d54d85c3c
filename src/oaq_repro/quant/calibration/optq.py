"""OPTQ (GPTQ; Frantar et al., ICLR 2023, arXiv 2210.17323): weights are rounded one by one, so that errors cancel.

Of every filter each weight's rounding error is spread over the weights that follow, by the inverse of `H = E[x x^T]`,
so that the sums of the layer change least.

What the source leaves open and what is chosen here: weights are rounded in the order of their memory (input channel,
row, column). H is that of the inputs that layers have once all layers before are quantized, on the first `IMAGES`
calibration images, and is damped by `DAMPING` times its mean diagonal. An input that is zero on all images keeps its
weight (brevitas: zero). Codes stay within what range mapping factors leave of them.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oaq_repro.quant.calibration.calibrate import ImageBatches, layer_by_layer
from oaq_repro.quant.layers import QuantLayer
from oaq_repro.quant.modules import Value
from oaq_repro.quant.network import QuantizedNetwork
from oaq_repro.quant.numerics import QTensor, largest_magnitude, pad
from oaq_repro.quant.overflow import Geometry
from oaq_repro.quant.quantizers import WeightQuantizer

DAMPING = 0.01
Choice = Callable[[int, Tensor], tuple[Tensor, Tensor]]
"""Of number k and the weights wanted there, float64 [groups, O / groups] in steps: codes, and the errors to spread."""


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


@torch.no_grad()
def round_weights(model: QuantizedNetwork, images: ImageBatches) -> None:
    """Round all layers' weights under their present scales, layer after layer; in place.

    The weights become multiples of their scales. Their quantizers have to keep their ranges (`FixedRangeWeight`).
    """

    def visit(name: str, layer: QuantLayer, x: Value) -> None:
        assert isinstance(x, QTensor)
        _, scale = layer.quantized_weight(x.qparams)
        rows, limit = layer.weight.flatten(1) / scale[:, None], layer.weight_quantizer.largest_codes().double()
        limit = limit.expand(len(rows)).reshape(layer.geometry.groups, -1)

        def choose(k: int, wanted: Tensor) -> tuple[Tensor, Tensor]:
            code = wanted.round().clamp(-limit, limit)
            return code, wanted - code

        found = codes_one_by_one(rows, second_moments(layer, x), DAMPING, choose)
        keep(layer, found.to(scale) * scale[:, None])

    layer_by_layer(model, images, visit)


def keep(layer: QuantLayer, rows: Tensor) -> None:
    """Give the layer the weights `rows` [O, K]: its own, also where layers have had one together."""
    layer.weight = nn.Parameter(rows.reshape(layer.weight.shape))


def codes_one_by_one(rows: Tensor, moments: Tensor, damping: float, choose: Choice) -> Tensor:
    """Weight codes, integer-valued float64 [O, K], of weights `rows` [O, K] in steps of the grid.

    moments: [groups, K, K]. damping: of these, a part of their mean diagonal.
    """
    groups, depth, _ = moments.shape
    inverse = inverse_root(moments, damping)
    left = rows.double().reshape(groups, -1, depth).clone()
    found = torch.zeros_like(left)
    for k in range(depth):
        found[:, :, k], error = choose(k, left[:, :, k])
        left[:, :, k:] -= (error / inverse[:, k, k, None])[:, :, None] * inverse[:, k, None, k:]
    return found.reshape(rows.shape)


def second_moments(layer: QuantLayer, x: QTensor) -> Tensor:
    """`H = sum x x^T` of what a layer's filters see, float64 [groups, K, K], K in the order of `weight.flatten(1)`.

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


def inverse_root(moments: Tensor, damping: float) -> Tensor:
    """Upper Cholesky factor of the inverse of damped second moments [groups, K, K], as OPTQ uses it."""
    diagonal = moments.diagonal(dim1=1, dim2=2)
    dead = (diagonal == 0).double()
    added = dead + damping * (diagonal + dead).mean(1, keepdim=True)
    damped = moments + torch.diag_embed(added)
    return torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(damped)), upper=True)
