"""A2Q, accumulator-aware quantization (Colbert et al., ICCV 2023, arXiv 2308.13504).

Per output channel `q = clip(trunc(v / ||v||_1 * min(g / s, T)))`: the norm g and the scale s are learned in the log
domain, rounding is toward zero, so `||q||_1 <= T` and no input can overflow. For P accumulator bits and unsigned N-bit
inputs `T = (2^(P-1) - 1) * 2^-N`, for signed ones twice that. A penalty `sum relu(g - T * s)` keeps g from running
away where the clip hides its gradient; its factor, 1e-3 in the paper, is the field `penalty_weight`.

What the source leaves open and what is chosen here:

- P is the layer's own accumulator. An input with a zero point ranges over [-z, q_max - z], so
  `T = (2^(P-1) - 1) / max(z, q_max + 1 - z)`: the paper's T for z = 0, and its signed one for z in the middle. A
  saturating register holds products of raw codes, hence z = 0 there.
- Lanes, blocks and pairs: T bounds the largest norm among the channel's partial sums, while g stays the norm of the
  whole channel; the penalty looks at the largest part's share of g.
- g starts as the float weights' norm and s as `max|v| / (2^(b-1) - 1)` with `scale_start: range` (as brevitas, the
  authors' package, does). Where T binds, that start multiplies the whole channel by `T * s / g`, a tenth or less at 8
  bits, which a short fine-tuning cannot make up for. So by default, `scale_start: error`, s starts, for every channel,
  at that one of `STARTS` values from there to `g / T` (where T no longer shrinks) whose codes are nearest to v.
- One s per output channel; per tensor with `quantization.per_channel: false`, g stays per channel.
- A range mapping factor multiplies s; with this method there is nothing left to settle.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from oaq_repro.accumulator import Accumulator
from oaq_repro.fields import NonNegative
from oaq_repro.methods.base import Method
from oaq_repro.quant.bounds import input_range, partial_sums, parts
from oaq_repro.quant.network import QuantizedNetwork, input_qparams, layers
from oaq_repro.quant.numerics import SMALLEST_SCALE, QParams, largest_magnitude, rowwise
from oaq_repro.quant.quantizers import WeightQuantizer

STARTS = 8


@dataclass
class A2Q(Method):
    """Weights whose norms cannot overflow the accumulator.

    penalty_weight: factor of the norms' penalty. scale_start: `error` or `range` (module docstring).
    """

    penalty_weight: NonNegative = 1e-3
    scale_start: Literal["error", "range"] = "error"

    def weight_quantizer(self, bits: int, per_channel: bool) -> WeightQuantizer:
        """A2Q's."""
        return A2QWeight(bits, per_channel)

    def start(self, model: QuantizedNetwork) -> None:
        """Where scales and norms start, now that the inputs' ranges are known."""
        for name, layer in layers(model).items():
            quantizer = layer.weight_quantizer
            assert isinstance(quantizer, A2QWeight)
            starts = STARTS if self.scale_start == "error" else 1
            quantizer.start(layer.weight, layer.bias, input_qparams(model, name), layer.accumulator, starts)

    def penalty(self, model: QuantizedNetwork) -> Tensor | float:
        """`penalty_weight * sum relu(g - T * s)` over all channels of all layers."""
        excess = []
        for name, layer in layers(model).items():
            quantizer = layer.weight_quantizer
            assert isinstance(quantizer, A2QWeight)
            excess.append(quantizer.excess(layer.weight, input_qparams(model, name), layer.accumulator).sum())
        return self.penalty_weight * torch.stack(excess).sum()


def trunc_ste(x: Tensor) -> Tensor:
    """Round toward zero; the gradient passes straight through."""
    return x + (x.trunc() - x).detach()


class A2QWeight(WeightQuantizer):
    """Learned norm and scale. Parameters: log_norm, float32 [O]; log_scale, float32 [O] or [1]; both base 2."""

    log_norm: nn.Parameter
    log_scale: nn.Parameter

    @torch.no_grad()
    def attach(self, weight: Tensor) -> None:
        """Start where quantization changes least."""
        super().attach(weight)
        self.steps = 1  # s itself is learned
        rows, top = weight.detach().flatten(1), largest_magnitude(weight, self.per_channel)
        self.log_norm = nn.Parameter(torch.linalg.vector_norm(rows, 1, dim=1).clamp(min=SMALLEST_SCALE).log2())
        self.log_scale = nn.Parameter((top / self.largest).clamp(min=SMALLEST_SCALE).log2())

    def budget(self, x: QParams, accumulator: Accumulator) -> Tensor:
        """T, the largest norm that a partial sum's codes may have; float32 scalar."""
        low, high = input_range(x, accumulator)
        return accumulator.maximum / torch.maximum(-low, high + 1)

    def centre(self, weight: Tensor, x: QParams, accumulator: Accumulator) -> Tensor:
        """What is taken off the weights before they are normalized: broadcasts to rows [O, K]."""
        return weight.new_zeros(())

    def span(self, weight: Tensor) -> Tensor:
        """One step."""
        return self.log_scale.exp2()

    def norms(self, weight: Tensor, centre: Tensor, accumulator: Accumulator) -> tuple[Tensor, Tensor]:
        """L1 norm of every centred channel, and the share of it that its largest partial sum has: float32 [O] each."""
        rows = weight.flatten(1) - centre
        per_part = partial_sums(rows.abs(), parts(weight, accumulator, self.meeting))
        share = per_part.amax(1) / per_part.sum(1).clamp(min=SMALLEST_SCALE)
        share = share.clamp(min=1 / per_part.shape[1])  # less only where all weights are zero
        return torch.linalg.vector_norm(rows, 1, dim=1).clamp(min=SMALLEST_SCALE), share

    def projected(self, weight: Tensor, radius: Tensor, accumulator: Accumulator) -> Tensor:
        """The weights from which training starts if every partial sum's L1 norm is to be at most `radius` [O]."""
        return weight

    @torch.no_grad()
    def start(self, weight: Tensor, bias: Tensor, x: QParams, accumulator: Accumulator, starts: int) -> None:
        """Try `starts` scales, from the weights' range to where T no longer shrinks, and keep the best; in place.

        weight [O, ...] and log_norm follow the scale: A2Q+ projects on a ball of its radius.
        """
        original, budget = weight.clone(), self.budget(x, accumulator)
        first = self.log_scale.clone()
        whole, share = self.norms(original, self.centre(original, x, accumulator), accumulator)
        widest = (whole * share / budget).clamp(min=SMALLEST_SCALE).log2()
        last = torch.maximum(first, widest if self.per_channel else widest.max())
        kept = torch.full_like(self.log_norm, torch.inf)
        ways = [0.0] if torch.equal(first, last) else torch.linspace(0, 1, starts).tolist()
        for way in ways:
            log_scale = torch.lerp(first, last, way)
            before = self.log_scale.clone(), self.log_norm.clone()
            self.log_scale.copy_(log_scale)
            tried = self.projected(original, budget * self.scale(original), accumulator)
            whole, _ = self.norms(tried, self.centre(tried, x, accumulator), accumulator)
            self.log_norm.copy_(whole.log2())
            codes, scale = self(tried, bias, x, accumulator)
            error = (codes * rowwise(scale, codes) - original).square().flatten(1).sum(1)
            better = error < kept if self.per_channel else (error.sum() < kept.sum()).expand_as(error)
            kept = torch.where(better, error, kept)
            weight.copy_(torch.where(rowwise(better, weight), tried, weight))
            self.log_scale.copy_(torch.where(better if self.per_channel else better[:1], log_scale, before[0]))
            self.log_norm.copy_(torch.where(better, self.log_norm, before[1]))

    def excess(self, weight: Tensor, x: QParams, accumulator: Accumulator) -> Tensor:
        """`relu(g - T * s)`, float32 [O]; with partial sums the largest one's share of g counts."""
        _, share = self.norms(weight.detach(), self.centre(weight.detach(), x, accumulator), accumulator)
        return (self.log_norm.exp2() * share - self.budget(x, accumulator) * self.scale(weight)).relu()

    def codes(self, weight: Tensor, scale: Tensor, x: QParams, accumulator: Accumulator) -> Tensor:
        """Rounded toward zero; in every partial sum their L1 norm is at most T."""
        centre = self.centre(weight, x, accumulator)
        whole, share = self.norms(weight, centre, accumulator)
        # v / ||v||_1 * min(g / s, T) = v / step, in the order of operations of the authors' package
        step = (whole / torch.minimum(self.log_norm.exp2() / scale, self.budget(x, accumulator) / share))[:, None]
        codes = trunc_ste(weight.flatten(1) / step - centre / step).clamp(-self.largest, self.largest)
        return codes.reshape(weight.shape)
