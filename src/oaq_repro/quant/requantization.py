"""Integer requantization in simulation: codes by the deployed network's integers, the gradient of the float formula.

What the forms mean: `oaq_repro.requantization`; their integers: `oaq_repro.fixed_point`. A module computes the codes of
the float formula first, with whatever gradient its method has, and `exactly` gives them the integers' values.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from oaq_repro.fixed_point import (
    FIXED16_LARGEST,
    FIXED16_SHIFT,
    INT16,
    SHARE_BITS,
    SUM_BITS,
    Array,
    dyadic,
    dyadic_sum,
    fixed16,
    is_fixed16,
    resize_shares,
    saturated16,
    shifted,
)
from oaq_repro.quant.numerics import QParams, QTensor, channelwise
from oaq_repro.requantization import Requantization

SNAPPED = 1e-6
"""Relative distance above a multiple within which a scale in float32 is that multiple."""


def exactly(smooth: QTensor, values: Tensor) -> QTensor:
    """Codes of `values`, int64 in units of the scale, with the gradient of `smooth`, which has the QParams."""
    codes = torch.minimum((values + smooth.zero_point.long()).clamp(min=0), smooth.q_max.long()).to(smooth.codes)
    if smooth.codes.requires_grad:
        codes = codes + (smooth.codes - smooth.codes.detach())  # the second term is an exact zero
    return smooth._replace(codes=codes)


def dyadic_values(total: Tensor, ratio: Array) -> Tensor:
    """int64 of integer-valued sums and the ratio of their scale and the output's, float64 that broadcasts."""
    multiplier, shift = (torch.as_tensor(part, device=total.device) for part in dyadic(ratio))
    return shifted(total.detach().long() * multiplier, shift)


def sum_values(a: QTensor, b: QTensor, output: QParams, requantization: Requantization) -> Tensor:
    """int64 of the sum of two tensors of codes."""
    (m_a, m_b), shift = dyadic_sum([ratio_of(a.scale, output), ratio_of(b.scale, output)], SUM_BITS[requantization])
    return shifted(a.centred().detach().long() * int(m_a) + b.centred().detach().long() * int(m_b), shift)


def resized_values(codes: Tensor, taps: Any) -> Tensor:
    """int64 of codes [N, C, h, w] interpolated along both axes; taps: of each what `resampling.resize_taps` gives."""
    values = codes.detach().long()
    for dim, (first, second, t) in zip((2, 3), taps, strict=True):
        shape = (-1, 1) if dim == 2 else (-1,)
        parts = zip((first, second), resize_shares(t), strict=True)
        values = sum(  # type: ignore[assignment]
            values.index_select(dim, torch.from_numpy(pixels).to(codes.device))
            * torch.from_numpy(share).to(codes.device).reshape(shape)
            for pixels, share in parts
        )
    return shifted(values, 2 * SHARE_BITS)


def ratio_of(scale: Tensor, output: QParams) -> Array:
    """float64 array of a scale, float32 scalar or [O], over the output's."""
    return (scale.detach().double() / output.scale.detach().double()).cpu().numpy()


def unit_of(x: QParams, output: QParams) -> Tensor:
    """The weight scale, float32 scalar, at which the ratio of scales is 2^-15; fixed16 takes multiples of it."""
    return output.scale.detach() / (x.scale.detach() * 2**FIXED16_SHIFT)


def snapped(scale: Tensor, unit: Tensor) -> Tensor:
    """Weight scales [O] raised to the next multiple of `unit`, straight-through.

    All of them stay as they are where one would need more than 2^15 - 1 of them: the layer cannot take fixed16 then.
    """
    multiples = torch.ceil(scale.detach() / unit * (1 - SNAPPED)).clamp(min=1)
    if multiples.max() > FIXED16_LARGEST:
        return scale
    return multiples * unit + (scale - scale.detach())  # the second term is an exact zero


@dataclass(frozen=True, eq=False)
class Fixed16:
    """Sums of a layer with its bias as fixed16 takes them, and what their saturation to 16 bits changes.

    total: integer-valued [N, O, ...]; multiplier: int64 [O]; the output's zero point and largest code.
    """

    total: Tensor
    multiplier: Tensor
    zero_point: Tensor
    q_max: Tensor

    @staticmethod
    def of(total: Tensor, ratio: Array, output: QParams) -> "Fixed16 | None":
        """From the ratio of scales, float64 [O]; None where it is no fraction that fixed16 has."""
        if not is_fixed16(ratio).all():
            return None
        multiplier = torch.from_numpy(fixed16(ratio)).to(total.device)
        return Fixed16(total.detach(), multiplier, output.zero_point, output.q_max)

    def values(self) -> Tensor:
        """int64, in units of the output's scale."""
        return self._values(saturated16(self.total))

    def _values(self, total: Tensor) -> Tensor:
        return shifted(total.long() * channelwise(self.multiplier, total), FIXED16_SHIFT)

    def _codes(self, total: Tensor) -> Tensor:
        return torch.minimum((self._values(total) + self.zero_point.long()).clamp(min=0), self.q_max.long())

    def peaks(self) -> Tensor:
        """Largest sum of every channel as a multiple of the limit, float64 [O]; a side on which the limit is clamped
        anyway does not count."""
        below, above = self._codes(self.total.new_tensor(INT16).expand(len(self.multiplier), 2).T)  # as of two images
        dims = [d for d in range(self.total.dim()) if d != 1]
        low = self.total.amin(dims).double() / INT16[0] * (below > 0)
        high = self.total.amax(dims).double() / INT16[1] * (above < self.q_max)
        return torch.maximum(low, high).clamp(min=0)

    def events(self) -> Tensor:
        """bool in the shape of `total`: whether saturation makes another code."""
        return self._codes(self.total) != self._codes(saturated16(self.total))
