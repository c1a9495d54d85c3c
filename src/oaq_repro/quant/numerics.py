"""The arithmetic that training, lowering and the integer engine share, on integer-valued float32 tensors.

Every formula here is the one that the integer graph executes (ONNX QLinearConv and QDQ semantics), so a
simulated forward pass and the integer engine agree bit for bit wherever no accumulator overflows. Two facts
make that possible: float32 holds every integer up to 2^24 exactly, and IEEE-754 addition, multiplication
and division are correctly rounded, so the same operations in the same order give the same bits.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Sides = tuple[int, int, int, int]
"""Padding in pixels: top, left, bottom, right."""

EXACT_FLOAT32 = 2**24
"""Integers up to this magnitude, and sums whose terms stay below it, are exact in float32."""

BIAS_LIMIT = 2**23
"""Largest magnitude of an int32 bias. Keeps it exact in float32; see `smallest_scale`."""

FIXED16_BIAS_LIMIT = 2**14
"""The same for a bias that joins a sum of 16 bits (requantization fixed16): half of what the sum may have."""

PRIME = 1_000_003
"""Distance of the values that `spread` takes."""

SMALLEST_SCALE = 1e-12
"""Floor of every scale: a constant-zero tensor must not divide by zero."""


class QParams(NamedTuple):
    """Scale, zero point and largest code of a tensor, float32 scalars (0-dim); `integer.graph.QParams` in training."""

    scale: Tensor
    zero_point: Tensor
    q_max: Tensor


class QTensor(NamedTuple):
    """A quantized tensor on an edge of the graph: `real = scale * (codes - zero_point)`.

    codes: float32 [N, ...], integer-valued, in [0, q_max]; carries the gradient. The others as `QParams` has them.
    """

    codes: Tensor
    scale: Tensor
    zero_point: Tensor
    q_max: Tensor

    @property
    def qparams(self) -> QParams:
        """All but the codes."""
        return QParams(self.scale, self.zero_point, self.q_max)

    def centred(self) -> Tensor:
        """`codes - zero_point`, float32, integer-valued."""
        return self.codes - self.zero_point

    def dequantize(self) -> Tensor:
        """The real values, float32."""
        return self.centred() * self.scale


def pad(x: Tensor, sides: Sides, value: float = 0.0) -> Tensor:
    """x [N, C, H, W] with a border of `value`; a negative number of pixels is cut off."""
    top, left, bottom, right = sides
    return F.pad(x, (left, right, top, bottom), value=value) if any(sides) else x


def round_ste(x: Tensor) -> Tensor:
    """Round half to even; the gradient passes straight through (Bengio et al. 2013)."""
    return x + (x.round() - x).detach()


class _Requantize(torch.autograd.Function):
    """`clamp(round(x) + z, 0, q_max)` in one pass each way; the gradient is that of the clamp alone."""

    @staticmethod
    def forward(ctx, x: Tensor, zero_point: Tensor, q_max: Tensor) -> Tensor:
        unclamped = x.round().add_(zero_point)
        codes = unclamped.clamp(min=0.0)
        torch.minimum(codes, q_max, out=codes)  # on CPUs, clamping between two tensors takes three times as long
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(unclamped == codes)
        return codes

    @staticmethod
    def backward(ctx, gradient: Tensor):
        (inside,) = ctx.saved_tensors
        return gradient * inside, None, None


def to_codes(x: Tensor, zero_point: Tensor, q_max: Tensor) -> Tensor:
    """`clamp(round_half_even(x) + zero_point, 0, q_max)`, x already divided by the scale.

    x: float32 of any shape; zero_point, q_max: float32 scalars. The gradient is straight-through inside
    the range and zero where the clamp acts (Jacob et al. 2018, equation 12).
    """
    return _Requantize.apply(x, zero_point, q_max)


def activation_levels(bits: int, alpha: Tensor) -> Tensor:
    """Largest code of a tensor: `round((2^bits - 1) / alpha)`, a float32 scalar.

    OAQ's scale is `alpha * range / (2^bits - 1)` (arXiv 2005.13297), so the calibrated range ends at this
    code. Codes above it are clamped: our choice, it makes `q_max` a hard bound that certificates can use.
    """
    return torch.round((2**bits - 1) / alpha)


def affine_parameters(low: Tensor, high: Tensor, bits: int, alpha: Tensor) -> QParams:
    """The constants for the range [low, high] under range mapping factor alpha.

    All arguments and results are float32 scalars; `low <= 0 <= high` is enforced, so that zero has an exact
    code. `scale = alpha * (high - low) / (2^bits - 1)` (arXiv 2005.13297), `zero_point = round(-low / scale)`.
    """
    low, high = low.clamp(max=0.0), high.clamp(min=0.0)
    scale = (alpha * (high - low) / (2**bits - 1)).clamp(min=SMALLEST_SCALE)
    q_max = activation_levels(bits, alpha)
    zero_point = torch.minimum(torch.round(-low / scale), q_max)
    return QParams(scale, zero_point, q_max)


def largest_magnitude(weight: Tensor, per_channel: bool) -> Tensor:
    """`max|w|` of weights [O, ...] without gradient: float32 [O], or [1] over all channels unless `per_channel`."""
    magnitudes = weight.detach().abs().flatten(1)
    return magnitudes.amax(1) if per_channel else magnitudes.max().reshape(1)


def symmetric_scale(span: Tensor, steps: int, alpha: Tensor, channels: int) -> Tensor:
    """Weight scale of every output channel, float32 [channels]: `alpha * span / steps`, above zero.

    span: real magnitude that `steps` steps of the grid span where alpha is 1, float32 [O] or [1]; alpha: range mapping
    factors, float32 [O] or a scalar. The order of operations is that of `affine_parameters`.
    """
    return (alpha * span / steps).expand(channels).clamp(min=SMALLEST_SCALE)


def smallest_scale(bias: Tensor, x: QParams, limit: int = BIAS_LIMIT) -> Tensor:
    """Smallest weight scale, float32 [O], at which the integer bias [O] stays below `limit`.

    A channel that batch norm folding has almost switched off would otherwise need a bias beyond int32: our choice, such
    a channel's weights do not matter. x: of the layer's input.
    """
    return bias.detach().abs() / (x.scale.detach() * limit)


def exchanged(weight: Tensor, groups: int) -> Tensor:
    """Weights [O, I / groups, kh, kw] as [I, O / groups, kh, kw], as a transposed convolution has them, and back."""
    rows, columns, *kernel = weight.shape
    split = weight.reshape(groups, rows // groups, columns, *kernel)
    return split.transpose(1, 2).reshape(groups * columns, rows // groups, *kernel)


def spread(values: Tensor, count: int) -> Tensor:
    """`count` of the values [N, ...] from all over, where there are more; the same ones each time.

    They lie a large prime apart: at even distances they would all be of the same columns or channels.
    """
    if len(values) <= count:
        return values
    return values[torch.arange(count, device=values.device) * PRIME % len(values)]


def rowwise(values: Tensor, like: Tensor) -> Tensor:
    """Reshape [O] so that it broadcasts along dimension 0 of `like` (weights [O, ...])."""
    return values.reshape(-1, *([1] * (like.dim() - 1)))


def channelwise(values: Tensor, like: Tensor) -> Tensor:
    """Reshape [C] so that it broadcasts along dimension 1 of `like` ([N, C] or [N, C, H, W])."""
    return values.reshape(1, -1, *([1] * (like.dim() - 2)))
