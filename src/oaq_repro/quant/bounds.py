"""Worst cases in training: the largest sum that any input whatever can reach, on the present weight codes.

The same exact bound as `integer.certificate` (every product's extremes are reached independently of all others), but on
tensors, so that methods can look at it while they train. Sums of parts are written without a loop, since a saturating
pair has thousands of them.
"""

import torch
from torch import Tensor

from oaq_repro.accumulator import Accumulator
from oaq_repro.quant.numerics import QParams
from oaq_repro.transposed import meeting_taps

Meeting = tuple[Tensor, Tensor]
"""Of every weight of a filter, in the order of `flatten(1)`: the number of the sum that its product joins, and its k
there, int64 [K] each."""


def meeting_in_transposed(weight: Tensor, stride: tuple[int, int], dilation: tuple[int, int]) -> Meeting:
    """Of the weights [O, C, kh, kw] of a transposed convolution, whose outputs have some of the taps each."""
    channels, *kernel = weight.shape[1:]
    found = []
    for size, step, reach in zip(kernel, stride, dilation, strict=True):
        phase, place, count = (torch.zeros(size, dtype=torch.int64) for _ in range(3))
        for group, taps in enumerate(meeting_taps(size, step, reach).values()):
            for at, tap in enumerate(taps):
                phase[tap], place[tap], count[tap] = group, at, len(taps)
        found.append((phase, place, count))
    (row_phase, row, _), (column_phase, column, columns) = found
    number = row_phase[:, None] * (int(column_phase.max()) + 1) + column_phase
    place_of_tap = row[:, None] * columns + column
    k = place_of_tap * channels + torch.arange(channels)[:, None, None]
    return number.expand(channels, *kernel).flatten().to(weight.device), k.flatten().to(weight.device)


def parts(weight: Tensor, accumulator: Accumulator, meeting: Meeting | None = None) -> Tensor:
    """For each weight of a filter the partial sum that its product joins, int64 [K], in the order of `flatten(1)`.

    weight: [O, C, kh, kw] or [O, K]. The order of k is that of `accumulator`: the channel runs fastest. meeting: where
    not all products join one sum.
    """
    if meeting is not None:
        number, k = (each.to(weight.device) for each in meeting)
        part = accumulator.part(k)
        return torch.unique(number * (int(part.max()) + 1) + part, return_inverse=True)[1]
    channels, *kernel = weight.shape[1:]
    k = torch.arange(weight[0].numel(), device=weight.device)
    if kernel:
        k = k.reshape(*kernel, channels).permute(2, 0, 1).flatten()
    return accumulator.part(k)


def partial_sums(values: Tensor, part: Tensor) -> Tensor:
    """Sums [O, parts] of values [O, K] over the parts of `parts`, differentiable."""
    return values.new_zeros(len(values), int(part.max()) + 1).index_add(1, part, values)


def input_range(x: QParams, accumulator: Accumulator) -> tuple[Tensor, Tensor]:
    """Smallest and largest factor of a weight in the register: `a - z` where it wraps, `a` where it saturates."""
    low = -x.zero_point if accumulator.overflow == "wrap" else torch.zeros_like(x.zero_point)
    return low.detach(), (low + x.q_max).detach()


@torch.no_grad()
def worst_case(codes: Tensor, x: QParams, accumulator: Accumulator, meeting: Meeting | None = None) -> Tensor:
    """Largest reachable partial sum of every output channel as a multiple of the limit, float64 [O].

    codes: weight codes [O, ...]; x: of the input; meeting: as `parts`. At most 1 means that no input can overflow the
    accumulator. Exact: all sums are integers below 2^53.
    """
    rows, part = codes.double().flatten(1), parts(codes, accumulator, meeting)
    low, high = (bound.double() for bound in input_range(x, accumulator))
    positive, negative = partial_sums(rows.clamp(min=0), part), partial_sums(rows.clamp(max=0), part)
    upper, lower = high * positive + low * negative, low * positive + high * negative
    return torch.maximum(upper / accumulator.maximum, lower / accumulator.minimum).amax(1)
