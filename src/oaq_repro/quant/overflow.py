"""Exact simulation of an accumulator on a convolution, and the counting of its overflow events.

Where all products of an output join one sum nothing is convolved twice: the exact sum that the forward pass has
computed anyway is compared with the range. Lanes, blocks and saturating pairs need their partial sums, which are
computed here from the same integers.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import product, zip_longest

import torch
import torch.nn.functional as F
from torch import Tensor

from oaq_repro.accumulator import Accumulator
from oaq_repro.quant.numerics import EXACT_FLOAT32, Sides, pad
from oaq_repro.transposed import output_size, phases

LARGEST_PRODUCT = 255 * 128  # of a code and a weight


@dataclass(frozen=True)
class Geometry:
    """How a convolution walks over its input. A linear layer is a 1x1 convolution on [N, K, 1, 1].

    output_padding: that of a transposed convolution (torch.nn.ConvTranspose2d); None where it is none.
    """

    stride: tuple[int, int] = (1, 1)
    padding: Sides = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    output_padding: tuple[int, int] | None = None


@dataclass
class Simulated:
    """Outcome of one convolution in an accumulator; all tensors have the shape of the output [N, O, H, W].

    value: float64, integer-valued, the sum as the accumulator delivers it, zero point corrected.
    overflowed: bool, whether any partial sum left the range.
    peaks: float64 [O], the largest partial sum of every output channel as a multiple of the limit; above 1 means
    overflow.
    """

    value: Tensor
    overflowed: Tensor
    peaks: Tensor

    @property
    def peak(self) -> float:
        """The largest of all channels."""
        return float(self.peaks.max())


def _extremes(partial: Tensor) -> tuple[Tensor, Tensor]:
    return partial.amin((0, 2, 3)), partial.amax((0, 2, 3))


def _peaks(low: Tensor, high: Tensor, accumulator: Accumulator) -> Tensor:
    return torch.maximum(high / accumulator.maximum, low / accumulator.minimum).double()


def _outside(partial: Tensor, accumulator: Accumulator) -> Tensor:
    return (partial > accumulator.maximum) | (partial < accumulator.minimum)


def partial_convolutions(
    codes: Tensor, zero_point: Tensor, weight: Tensor, geometry: Geometry, accumulator: Accumulator
) -> Iterator[Tensor]:
    """Yield the partial sums [N, O, H, W] that have to fit, in the k order of `accumulator.py`: exact in their dtype.

    Arguments as those of `simulate`. Gradients flow to codes and weights.
    """
    centred = codes.double() - zero_point.double()
    shift = zero_point.double() if accumulator.overflow == "saturate" else zero_point.new_zeros((), dtype=torch.float64)
    if geometry.output_padding is None:
        yield from _sums(pad(centred, geometry.padding) + shift, weight, geometry, accumulator)
    else:
        yield from _transposed_sums(centred, shift, weight, geometry, accumulator)


def _transposed_sums(
    centred: Tensor, shift: Tensor, weight: Tensor, geometry: Geometry, accumulator: Accumulator
) -> Iterator[Tensor]:
    """Partial sums of a transposed convolution: those of its phases, each at its place, zero where one has no more."""
    assert geometry.output_padding is not None
    top, left, bottom, right = geometry.padding
    axes = zip(weight.shape[2:], geometry.stride, geometry.dilation, ((top, bottom), (left, right)),
               geometry.output_padding, strict=True)  # fmt: skip
    axes_phases, sizes = [], []
    for size, axis in zip(centred.shape[2:], axes, strict=True):
        axes_phases.append([phase for phase in phases(*axis) if phase.taps])
        sizes.append(output_size(size, *axis))
    places, found = [], []
    for rows, columns in product(*axes_phases):
        sides = (rows.padding[0], columns.padding[0], rows.padding[1], columns.padding[1])
        part = Geometry(dilation=(rows.dilation, columns.dilation), groups=geometry.groups)
        if rows.first < sizes[0] and columns.first < sizes[1]:
            taps = weight[:, :, list(rows.taps)][:, :, :, list(columns.taps)]
            found.append(_sums(pad(centred, sides) + shift, taps, part, accumulator))
            places.append((slice(rows.first, None, geometry.stride[0]), slice(columns.first, None, geometry.stride[1])))
    for sums in zip_longest(*found):
        whole = centred.new_zeros(len(centred), len(weight), *sizes)
        for (rows_of, columns_of), values in zip(places, sums, strict=True):
            if values is not None:
                whole[:, :, rows_of, columns_of] = values
        yield whole


def _sums(x: Tensor, weight: Tensor, geometry: Geometry, accumulator: Accumulator) -> Iterator[Tensor]:
    """Partial sums of a convolution on x, padded already."""
    n, channels = x.shape[:2]
    out_channels, group_channels, kh, kw = weight.shape
    groups, k = geometry.groups, group_channels * kh * kw
    height = (x.shape[2] - geometry.dilation[0] * (kh - 1) - 1) // geometry.stride[0] + 1
    width = (x.shape[3] - geometry.dilation[1] * (kw - 1) - 1) // geometry.stride[1] + 1
    columns = F.unfold(x, (kh, kw), dilation=geometry.dilation, stride=geometry.stride)
    # unfold orders k as (channel, row, column); the kernels' order has the channel running fastest
    columns = columns.reshape(n, groups, channels // groups, kh * kw, -1).transpose(2, 3).reshape(n, groups, k, -1)
    rows = weight.double().reshape(groups, out_channels // groups, group_channels, kh * kw).transpose(2, 3)
    rows = rows.reshape(groups, out_channels // groups, k)
    part = accumulator.part(torch.arange(k, device=rows.device))
    exact = int(part.bincount().max()) * LARGEST_PRODUCT < EXACT_FLOAT32 and not (x.requires_grad or rows.requires_grad)
    if exact:  # float32 is as exact for such short sums, and twice as fast
        rows, columns = rows.float(), columns.float()
    for number in range(int(part.max()) + 1):
        products = (part == number).nonzero().squeeze(1)
        yield (rows[:, :, products] @ columns[:, :, products]).reshape(n, out_channels, height, width)


def simulate(
    codes: Tensor, zero_point: Tensor, weight: Tensor, geometry: Geometry, accumulator: Accumulator
) -> Simulated:
    """Run one convolution in `accumulator`, exactly.

    codes: integer-valued [N, C, H, W] in [0, q_max]; zero_point: scalar; weight: integer-valued
    [O, C/groups, kh, kw]. Padding has the code `zero_point`. Semantics: `oaq_repro.accumulator`.
    """
    correction = None
    if accumulator.overflow == "saturate":
        correction = zero_point.double() * weight.double().flatten(1).sum(1).reshape(1, -1, 1, 1)
    total: Tensor | None = None
    overflowed: Tensor | None = None
    peaks = torch.zeros(len(weight), dtype=torch.float64, device=codes.device)
    for partial in partial_convolutions(codes, zero_point, weight, geometry, accumulator):
        partial = partial.double()
        peaks = torch.maximum(peaks, _peaks(*_extremes(partial), accumulator))
        outside = _outside(partial, accumulator)
        if accumulator.overflow == "wrap":
            span = float(2**accumulator.bits)
            kept = torch.remainder(partial - accumulator.minimum, span) + accumulator.minimum
        else:
            kept = partial.clamp(accumulator.minimum, accumulator.maximum)
        total = kept if total is None else total + kept
        overflowed = outside if overflowed is None else overflowed | outside
    assert total is not None and overflowed is not None  # a convolution has at least one product
    return Simulated(total if correction is None else total - correction, overflowed, peaks)


def _count(partials: Iterable[Tensor], accumulator: Accumulator) -> tuple[Tensor, Tensor]:
    """Outputs with a partial sum outside the range, int64 [N, O], and every channel's peak, float64 [O]."""
    overflowed: Tensor | None = None
    peaks: Tensor | None = None
    for partial in partials:
        low, high = _extremes(partial)
        found = _peaks(low, high, accumulator)
        peaks = found if peaks is None else torch.maximum(peaks, found)
        if overflowed is None:
            overflowed = torch.zeros_like(partial, dtype=torch.bool)
        if bool((_outside(low, accumulator) | _outside(high, accumulator)).any()):  # seldom, and much dearer
            overflowed |= _outside(partial, accumulator)
    assert overflowed is not None and peaks is not None  # a convolution has at least one product
    return overflowed.sum((2, 3)), peaks


@dataclass
class OverflowMeter:
    """Counts one layer's overflow events over any number of batches.

    events: int64 per image, in the order seen, one tensor per batch; outputs: number of outputs seen. By output
    channel, None before the first batch: channel_events, int64 [O]; peaks, float64 [O], the largest partial sum as a
    multiple of the limit.
    """

    events: list[Tensor] = field(default_factory=list)
    outputs: int = 0
    channel_events: Tensor | None = None
    peaks: Tensor | None = None

    @torch.no_grad()
    def update(
        self,
        exact: Tensor,
        codes: Tensor,
        zero_point: Tensor,
        weight: Tensor,
        geometry: Geometry,
        accumulator: Accumulator,
    ) -> None:
        """Count one batch. `exact` is the corrected sum [N, O, H, W] that the forward pass has computed."""
        whole = accumulator.parts(weight[0].numel()) == 1 and accumulator.overflow == "wrap"
        partials = [exact] if whole else partial_convolutions(codes, zero_point, weight, geometry, accumulator)
        counts, peaks = _count(partials, accumulator)
        self.events.append(counts.sum(1))
        self.outputs += exact.numel()
        by_channel = counts.sum(0)
        self.channel_events = by_channel if self.channel_events is None else self.channel_events + by_channel
        self.peaks = peaks if self.peaks is None else torch.maximum(self.peaks, peaks)

    @property
    def peak(self) -> float:
        """The largest partial sum of all channels as a multiple of the limit; 0 before the first batch."""
        return 0.0 if self.peaks is None else float(self.peaks.max())

    def total(self) -> int:
        """Number of outputs with an event."""
        return int(sum(int(batch.sum()) for batch in self.events))

    def per_image(self) -> Tensor:
        """Events per image, int64 [images], on the CPU."""
        return torch.cat([batch.cpu() for batch in self.events]) if self.events else torch.zeros(0, dtype=torch.int64)
