"""Groups of weights with scales of their own that are powers of two of their channel's: `codes << g` inside int8.

Of a channel's weights every `group` consecutive ones, in the order of their memory, have a shift g in common. With
codes of b bits the scale of the channel is that of `(2^(b-1) - 1) << (8 - b)` steps; g is the smallest shift at which
the group's largest magnitude fits. The shifted codes are int8 numbers, so the integer network is an ordinary one and
nothing is rounded twice. With 8 bits this is INT8.

Groups with a real scale each, as the survey of Gholami et al. (2021, arXiv 2103.13630, section III.E) and Q-BERT (Shen
et al., AAAI 2020, arXiv 1909.05840) have them, need a sum per group in the accumulator; powers of two do not, as in
block floating point (Drumond et al., NeurIPS 2018, arXiv 1804.01526). Our choice: what a group is, and that shifts
follow the weights while these are trained.
"""

import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from oaq_repro.accumulator import Accumulator
from oaq_repro.fields import Count
from oaq_repro.methods.base import Method
from oaq_repro.quant.mixed_precision.search import SearchConfig
from oaq_repro.quant.numerics import QParams, rowwise
from oaq_repro.quant.quantizers import WeightQuantizer

INT8 = 8


@dataclass
class GroupScale(Method):
    """INT8 training, or calibration alone. group: how many weights share a shift."""

    group: Count = 16
    search: SearchConfig | None = field(init=False, default=None)  # its sensitivities are those of uniform grids
    sees_accumulator: ClassVar[bool] = False

    def weight_quantizer(self, bits: int, per_channel: bool) -> WeightQuantizer:
        """Shifted codes."""
        return GroupedWeight(bits, per_channel, self.group)


class GroupedWeight(WeightQuantizer):
    """Symmetric int8 quantizer of codes that are shifted by groups."""

    def __init__(self, bits: int, per_channel: bool, group: int) -> None:
        super().__init__(bits, per_channel)
        self.group, self.code_limit, self.most = group, 2 ** (bits - 1) - 1, INT8 - bits
        self.steps = self.largest

    @property
    def largest(self) -> int:
        """The largest code under the largest shift."""
        return (2 ** (self.bits - 1) - 1) << (INT8 - self.bits)

    @property
    def grid_bits(self) -> int:
        """Of the shifted codes."""
        return INT8

    def table_bytes(self, weight: Tensor) -> float:
        """Of the shifts, packed."""
        groups = len(weight) * math.ceil(weight[0].numel() / self.group)
        return groups * self.most.bit_length() / 8

    def codes(self, weight: Tensor, scale: Tensor, x: QParams, accumulator: Accumulator) -> Tensor:
        """Shifted codes; the gradient passes straight through."""
        steps = weight / rowwise(scale, weight)
        rows = steps.detach().flatten(1)
        depth = rows.shape[1]
        groups = F.pad(rows, (0, -depth % self.group)).reshape(len(rows), -1, self.group)
        reach = self.code_limit * 2.0 ** torch.arange(self.most, device=rows.device)
        shift = (groups.abs().amax(2, keepdim=True) > reach).sum(2, keepdim=True)
        unit = 2.0**shift
        found = (groups / unit).round().clamp(-self.code_limit, self.code_limit) * unit
        found = found.reshape(len(rows), -1)[:, :depth].reshape(weight.shape)
        return found + (steps - steps.detach())  # the second term is an exact zero
