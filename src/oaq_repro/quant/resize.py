"""Bilinear resize on codes."""

import torch
import torch.nn.functional as F
from torch import Tensor

from oaq_repro.quant.modules import QuantModule, Value
from oaq_repro.quant.numerics import QTensor, round_ste
from oaq_repro.resampling import resize_taps


class QuantResize(QuantModule):
    """Bilinear resize to the spatial size of a second tensor; the codes keep their scale."""

    def __init__(self, align_corners: bool) -> None:
        super().__init__()
        self.align_corners = align_corners

    def forward(self, x: Value, like: Value) -> Value:
        """x: [N, C, h, w]; like: [N, *, H, W]; result [N, C, H, W]."""
        size = (like.codes if isinstance(like, QTensor) else like).shape[2:]
        if not isinstance(x, QTensor):
            return F.interpolate(x, size=size, mode="bilinear", align_corners=self.align_corners)
        codes = x.codes
        for dim in (2, 3):
            codes = _resize_along(codes, dim, size[dim - 2], self.align_corners)
        return x._replace(codes=torch.minimum(round_ste(codes), x.q_max).clamp(min=0.0))


def _resize_along(codes: Tensor, dim: int, size: int, align_corners: bool) -> Tensor:
    """Linear interpolation along one dimension: `a * (1 - t) + b * t`, elementwise, in float32.

    Elementwise and in this order, because a library's fused multiply-add would round differently from the
    integer engine.
    """
    source = codes.shape[dim]
    low, high, t = (torch.from_numpy(part) for part in resize_taps(source, size, align_corners))
    device = codes.device
    shape = [1] * codes.dim()
    shape[dim] = size
    weight = t.to(device).reshape(shape)
    a, b = codes.index_select(dim, low.to(device)), codes.index_select(dim, high.to(device))
    return a * (1.0 - weight) + b * weight
