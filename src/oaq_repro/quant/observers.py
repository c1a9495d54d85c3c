"""Observers: how the range of an activation tensor is found."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, distributed

from oaq_repro.fields import Percentile, PositiveFraction
from oaq_repro.quant.numerics import QParams, affine_parameters, channelwise, spread

RANGES = 64
"""How many shrunken ranges `mse` tries, at even steps down to nothing."""
SAMPLES = 1 << 14
"""Of a larger tensor `mse` looks at so many values, and at its extremes."""


@dataclass(frozen=True)
class ObserverConfig:
    """How activation ranges are observed.

    kind: `minmax` takes a batch's extremes, `percentile` the values below which `percentile` percent (and
    above which `100 - percentile` percent) of it lie, `mse` the extremes times that one of RANGES factors at which
    quantizing the batch has the least squared error (Sung et al., 2015, arXiv 1511.06488). `dynamic` is minmax of the
    tensor that is being quantized, not only in training: simulated only. momentum: weight of the newest batch in the
    running mean (TensorFlow's fake quantization uses 0.001 to 0.01 on long schedules). symmetric: a range that
    reaches below zero is `[-m, m]`, with zero at the code 2^(bits - 1), so that codes less it are signed integers.
    """

    kind: Literal["minmax", "percentile", "mse", "dynamic"] = "minmax"
    percentile: Percentile = 99.99
    momentum: PositiveFraction = 0.05
    symmetric: bool = False

    @property
    def dynamic(self) -> bool:
        """Whether every tensor has a range of its own."""
        return self.kind == "dynamic"

    def parameters(self, low: Tensor, high: Tensor, bits: int, alpha: Tensor) -> QParams:
        """The constants of an observed range, as `numerics.affine_parameters`."""
        if self.symmetric:
            low, high = symmetric_range(low, high, bits)
        return affine_parameters(low, high, bits, alpha)

    def batch_range(
        self, values: Tensor, scale: Tensor, bits: int, limits: tuple[float, float] = (-math.inf, math.inf)
    ) -> tuple[Tensor, Tensor]:
        """Lowest and highest real value of one batch; `real = values * scale` (scale: scalar or [C]).

        bits, limits: of the codes, and where an activation will cut values off, which is an error of no range.
        """
        if self.kind in ("minmax", "dynamic"):
            if scale.dim() == 0:
                low, high = values.aminmax()
                return low * scale, high * scale
            dims = [d for d in range(values.dim()) if d != 1]
            return (values.amin(dims) * scale).min(), (values.amax(dims) * scale).max()
        real = values * (channelwise(scale, values) if scale.dim() else scale)
        real = real.flatten()
        if self.kind == "mse":
            return self._of_least_error(real.clamp(*limits), bits)
        index = max(1, round(real.numel() * self.percentile / 100.0))
        high = real.kthvalue(index).values
        low = real.kthvalue(real.numel() - index + 1).values
        return low, high

    def _of_least_error(self, real: Tensor, bits: int) -> tuple[Tensor, Tensor]:
        """That of the shrunken ranges of real values [N]; of equal ones the widest."""
        factors = torch.linspace(1.0, 1.0 / RANGES, RANGES, device=real.device)
        low, high = (end * factors for end in real.aminmax())
        sample = spread(real, SAMPLES)
        parameters = self.parameters(low, high, bits, torch.ones_like(low))
        scale, zero_point, q_max = (x[:, None] for x in parameters)
        codes = torch.minimum(((sample / scale).round() + zero_point).clamp(min=0.0), q_max)
        best = ((codes - zero_point) * scale - sample).square().sum(1).argmin()
        return low[best], high[best]


def symmetric_range(low: Tensor, high: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Ranges that reach below zero widened so that zero has the code `2^(bits - 1)` and m the largest; others as found.

    m is the larger magnitude; the lowest code lies a step below -m. float32, of one shape.
    """
    half = 2 ** (bits - 1)
    reach, signed = torch.maximum(-low, high), low < 0
    return torch.where(signed, -reach * (half / (half - 1)), low), torch.where(signed, reach, high)


def over_ranks(observer: ObserverConfig, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """The range of the global batch: its extremes, or the mean of what the ranks found."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return low, high
    ends = torch.stack([-low, high])
    if observer.kind in ("minmax", "dynamic"):
        distributed.all_reduce(ends, distributed.ReduceOp.MAX)
    else:
        distributed.all_reduce(ends, distributed.ReduceOp.SUM)
        ends /= distributed.get_world_size()
    return -ends[0], ends[1]
