"""Worst cases in training: the largest sum that any input whatever can reach, on the present weight codes.

The same exact bound as `integer.certificate` (every product's extremes are reached independently of all others), but on
tensors, so that methods can look at it while they train. Sums of parts are written without a loop, since a saturating
pair has thousands of them.
"""

import torch
from torch import Tensor

from oaq_repro.accumulator import Accumulator
from oaq_repro.quant.numerics import QParams


def parts(weight: Tensor, accumulator: Accumulator) -> Tensor:
    """For each weight of a filter the partial sum that its product joins, int64 [K], in the order of `flatten(1)`.

    weight: [O, C, kh, kw] or [O, K]. The order of k is that of `accumulator`: the channel runs fastest.
    """
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
def worst_case(codes: Tensor, x: QParams, accumulator: Accumulator) -> Tensor:
    """Largest reachable partial sum of every output channel as a multiple of the limit, float64 [O].

    codes: weight codes [O, ...]; x: of the input. At most 1 means that no input can
    overflow the accumulator. Exact: all sums are integers below 2^53.
    """
    rows, part = codes.double().flatten(1), parts(codes, accumulator)
    low, high = (bound.double() for bound in input_range(x, accumulator))
    positive, negative = partial_sums(rows.clamp(min=0), part), partial_sums(rows.clamp(max=0), part)
    upper, lower = high * positive + low * negative, low * positive + high * negative
    return torch.maximum(upper / accumulator.maximum, lower / accumulator.minimum).amax(1)
