"""A2Q+ (Colbert et al., ICML 2024, arXiv 2401.10432): A2Q with zero-centred channels and twice the budget.

A channel whose codes sum to nearly zero has half of its norm on either sign, so `||q||_1 <= (2^P - 2) / (2^N - 1)` is
enough: 257 instead of 128 at P = 16, N = 8. The order is what the guarantee needs: the float weights are projected on
the L1 ball of radius `T * s` once, before fine-tuning; then, in every step, they are centred, normalized and rounded
toward zero (which takes from both signs).

What the source leaves open and what is chosen here, besides what A2Q (`methods.a2q`) lists:

- The input's range is q_max long wherever its zero point lies, so `T = (2^P - 2) / q_max`, for signed inputs too.
- With lanes, blocks and pairs every partial sum is centred for itself: only that makes its two signs alike.
- Where no codes at all can overflow the accumulator (32 bits, small layers) nothing is centred: folded batch norms have
  no statistics left to make up for a filter's lost mean.
- The projection is Euclidean, per partial sum, its threshold found by bisection; g restarts from the projected weights.
  The radius follows the start of s (`scale_start`).
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from oaq_repro.accumulator import Accumulator
from oaq_repro.methods.a2q import A2Q, A2QWeight
from oaq_repro.quant.bounds import input_range, partial_sums, parts
from oaq_repro.quant.numerics import QParams
from oaq_repro.quant.quantizers import WeightQuantizer

BISECTIONS = 30


@dataclass
class A2QPlus(A2Q):
    """A2Q with zero-centred weights and a projected start."""

    keeps_zeros: ClassVar[bool] = False

    def weight_quantizer(self, bits: int, per_channel: bool) -> WeightQuantizer:
        """A2Q+'s."""
        return A2QPlusWeight(bits, per_channel)


def thresholds(rows: Tensor, part: Tensor, radius: Tensor) -> Tensor:
    """By how much magnitudes of rows [O, K] fall in their partial sum's projection on the L1 ball: float64 [O, parts].

    radius: of the ball, [O]. Zero where a partial sum lies in it.
    """
    magnitudes = rows.abs().double()
    low = torch.zeros_like(partial_sums(magnitudes, part))
    high = torch.where(partial_sums(magnitudes, part) > radius[:, None], magnitudes.amax(1)[:, None], low)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        over = partial_sums((magnitudes - middle[:, part]).clamp(min=0), part) > radius[:, None]
        low, high = torch.where(over, middle, low), torch.where(over, high, middle)
    return high


def project(rows: Tensor, part: Tensor, radius: Tensor) -> Tensor:
    """The nearest weights to `rows` [O, K] whose partial sums' L1 norms are at most `radius` [O]: soft thresholding."""
    fall = thresholds(rows, part, radius)[:, part]
    return (rows.sign() * (rows.abs().double() - fall).clamp(min=0)).to(rows.dtype)


class A2QPlusWeight(A2QWeight):
    """Zero-centred weights and the budget that they allow."""

    def budget(self, x: QParams, accumulator: Accumulator) -> Tensor:
        """T, float32 scalar."""
        low, high = input_range(x, accumulator)
        return 2 * accumulator.maximum / (high - low)

    def projected(self, weight: Tensor, radius: Tensor, accumulator: Accumulator) -> Tensor:
        """Euclidean projection."""
        return project(weight.flatten(1), parts(weight, accumulator, self.meeting), radius).reshape(weight.shape)

    def centre(self, weight: Tensor, x: QParams, accumulator: Accumulator) -> Tensor:
        """Mean of every partial sum's weights; zero where no sum could overflow."""
        rows, part = weight.flatten(1), parts(weight, accumulator, self.meeting)
        counts = torch.bincount(part)
        low, high = input_range(x, accumulator)
        if self.largest * counts.max() * torch.maximum(-low, high) <= accumulator.maximum:
            return super().centre(weight, x, accumulator)
        if len(counts) == 1:
            return rows.mean(1, keepdim=True)
        return (partial_sums(rows, part) / counts)[:, part]
