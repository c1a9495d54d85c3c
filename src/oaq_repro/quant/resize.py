"""Resizes on codes."""

from fractions import Fraction

import torch
import torch.nn.functional as F
from torch import Tensor

from oaq_repro.fixed_point import Array
from oaq_repro.quant.modules import QuantModule, Value
from oaq_repro.quant.numerics import QTensor, round_ste
from oaq_repro.quant.requantization import exactly, resized_values
from oaq_repro.requantization import Requantization
from oaq_repro.resampling import nearest_pixels, resize_taps

Factor = tuple[Fraction, Fraction]
"""Of height and width."""


class QuantResize(QuantModule):
    """Bilinear resize by a factor, or without one to the spatial size of a second tensor; codes keep their scale."""

    requantization: Requantization = "float32"

    def __init__(self, align_corners: bool, factor: Factor | None = None) -> None:
        super().__init__()
        self.align_corners, self.factor = align_corners, factor

    def forward(self, x: Value, like: Value | None = None) -> Value:
        """x: [N, C, h, w]; like: [N, *, H, W], or None with a factor; result [N, C, H, W]."""
        given = x if like is None else like
        size = tuple((given.codes if isinstance(given, QTensor) else given).shape[2:])
        if self.factor is not None:
            size = tuple(int(part * factor) for part, factor in zip(size, self.factor, strict=True))
        if not isinstance(x, QTensor):
            return F.interpolate(x, size=size, mode="bilinear", align_corners=self.align_corners)
        taps = [
            resize_taps(before, after, self.align_corners)
            for before, after in zip(x.codes.shape[2:], size, strict=True)
        ]
        codes = x.codes
        for dim, along in zip((2, 3), taps, strict=True):
            codes = _resize_along(codes, dim, *along)
        smooth = x._replace(codes=torch.minimum(round_ste(codes), x.q_max).clamp(min=0.0))
        if self.requantization == "float32":
            return smooth
        return exactly(smooth, resized_values(x.codes, taps) - x.zero_point.long())


class QuantResizeNearest(QuantModule):
    """Nearest pixels at a multiple of the size; codes pass through. `rule`: that of `resampling.nearest_pixels`."""

    def __init__(self, factor: Factor, rule: str) -> None:
        super().__init__()
        self.factor, self.rule = factor, rule

    def forward(self, x: Value) -> Value:
        """[N, C, h, w]."""
        codes = x.codes if isinstance(x, QTensor) else x
        for dim, factor in zip((2, 3), self.factor, strict=True):
            pixels = nearest_pixels(codes.shape[dim], factor.numerator, factor.denominator, self.rule)
            codes = codes.index_select(dim, torch.from_numpy(pixels).to(codes.device))
        return x._replace(codes=codes) if isinstance(x, QTensor) else codes


def _resize_along(codes: Tensor, dim: int, first: Array, second: Array, t: Array) -> Tensor:
    """Linear interpolation along one dimension: `a * (1 - t) + b * t`, elementwise, in float32.

    Elementwise and in this order, because a library's fused multiply-add would round differently from the
    integer engine.
    """
    low, high, share = (torch.from_numpy(part).to(codes.device) for part in (first, second, t))
    weight = share.reshape((-1, 1) if dim == 2 else (-1,))
    a, b = codes.index_select(dim, low), codes.index_select(dim, high)
    return a * (1.0 - weight) + b * weight
