"""Quantizers: how a tensor becomes codes.

A method (room `methods/`) supplies its own quantizers by subclassing these two.
"""

import math
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from oaq_repro.accumulator import Accumulator
from oaq_repro.errors import InputError
from oaq_repro.quant.bounds import Meeting
from oaq_repro.quant.numerics import (
    BIAS_LIMIT,
    FIXED16_BIAS_LIMIT,
    QParams,
    QTensor,
    channelwise,
    largest_magnitude,
    round_ste,
    rowwise,
    smallest_scale,
    symmetric_scale,
    to_codes,
)
from oaq_repro.quant.observers import ObserverConfig, over_ranks
from oaq_repro.quant.requantization import snapped, unit_of

Activation = Literal["none", "relu", "relu6"]
Granularity = Literal["channel", "tensor"]
FUSED: dict[Activation, tuple[float, float]] = {
    "none": (-math.inf, math.inf),
    "relu": (0.0, math.inf),
    "relu6": (0.0, 6.0),
}
"""Where the activations cut real numbers off."""
DYNAMIC = (
    "ranges are found anew for every image (quantization.observer.kind=dynamic), the constants of a graph are fixed"
)


class ActivationQuantizer(nn.Module):
    """Per-tensor uint8 quantizer of one activation, with its observer and its range mapping factor alpha.

    Buffers (all in the checkpoint): low, high (observed real range, float32), alpha (float32, >= 1),
    observed (int64 number of batches seen). bounds: real numbers beyond which the range need not reach, as what reads
    the value makes no difference there. draws: whether codes are drawn in training, which no formula replaces.
    """

    low: Tensor
    high: Tensor
    bounds: tuple[float, float] = (-math.inf, math.inf)
    draws = False
    alpha: Tensor
    observed: Tensor

    def __init__(self, bits: int, activation: Activation, observer: ObserverConfig, scalable: bool = True) -> None:
        """`activation` is the function fused into this quantizer's clamp; `scalable`: whether alpha may move.

        Raises InputError for bits outside 2 to 8.
        """
        super().__init__()
        if not 2 <= bits <= 8:
            raise InputError(f"quantization.activations.bits: found {bits}, expected 2 to 8 (codes are uint8)")
        self.bits, self.activation, self.observer, self.scalable = bits, activation, observer, scalable
        self.observing = True
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.zeros(()))
        self.register_buffer("alpha", torch.ones(()))
        self.register_buffer("observed", torch.zeros((), dtype=torch.int64))

    @property
    def no_integer_form(self) -> str | None:
        """Why a graph of integers cannot do this; None where it can."""
        return DYNAMIC if self.observer.dynamic else None

    def limits(self) -> tuple[float, float]:
        """Where the activation, and what reads the value, cut real numbers off."""
        (low, high), (below, above) = FUSED[self.activation], self.bounds
        return max(low, below), min(high, above)

    @torch.no_grad()
    def observe(self, values: Tensor, scale: Tensor) -> None:
        """Update the running range with one batch of `values * scale`."""
        limits = self.limits()
        low, high = over_ranks(self.observer, *self.observer.batch_range(values.detach(), scale, self.bits, limits))
        low, high = low.clamp(*limits), high.clamp(*limits)
        # the running mean starts as a plain mean, so that the first batches weigh alike
        slowest = 1.0 if self.observer.dynamic else self.observer.momentum
        weight = torch.clamp(1.0 / (self.observed + 1), min=slowest)
        self.low.lerp_(low.to(self.low.dtype), weight)
        self.high.lerp_(high.to(self.high.dtype), weight)
        self.observed += 1

    def track(self, values: Tensor, scale: Tensor) -> None:
        """Called with every quantized batch: in training the running range follows; a learned range need not.

        A dynamic range is that of the batch, in evaluation as well.
        """
        if self.observer.dynamic or (self.observing and self.training):
            self.observe(values, scale)

    def parameters_of_range(self) -> QParams:
        """Scale, zero point and largest code, float32 scalars."""
        return self.observer.parameters(self.low, self.high, self.bits, self.alpha)

    def forward(self, values: Tensor, scale: Tensor) -> QTensor:
        """Quantize `values * scale`: integer-valued sums with a scalar or per-channel [C] scale, float32."""
        self.track(values, scale)
        return self.requantize(values, scale, self.parameters_of_range())

    def requantize(self, values: Tensor, scale: Tensor, output: QParams) -> QTensor:
        """Codes of `values * scale` at the QParams `output`, values and scale as in `forward`."""
        multiplier = scale / output.scale
        if multiplier.dim():
            multiplier = channelwise(multiplier, values)
        return self.encode(values * multiplier, *output)

    def quantize_real(self, real: Tensor) -> QTensor:
        """Quantize real values by division, the formula of ONNX QuantizeLinear (input, add, concat)."""
        self.track(real, torch.ones((), device=real.device))
        scale, zero_point, q_max = self.parameters_of_range()
        return self.encode(real / scale, scale, zero_point, q_max)

    def encode(self, ratio: Tensor, scale: Tensor, zero_point: Tensor, q_max: Tensor) -> QTensor:
        """Codes of values already divided by the scale; where a method's gradient differs, it differs here."""
        return QTensor(to_codes(ratio, zero_point, q_max), scale, zero_point, q_max)


class WeightQuantizer(nn.Module):
    """Symmetric int8 quantizer of one layer's weights, with its range mapping factors.

    A method says what the range is (`span`, in `steps` steps of the grid) and how weights become `codes` at a given
    scale. Range mapping factors and the floor of the scale are applied here, once for all methods.

    Buffer alpha (float32 [O]): the factor of every output channel. granularity: whether channels have factors of their
    own, `channel`, or all of them the same one, `tensor`, as they must where they share their scale. meeting: which
    products meet in a sum, None: all of an output channel (`bounds.parts`).
    """

    alpha: Tensor

    def __init__(self, bits: int, per_channel: bool) -> None:
        """per_channel: one scale per output channel, else one for all. Raises InputError for bits outside 2 to 8."""
        super().__init__()
        if not 2 <= bits <= 8:
            raise InputError(f"quantization.weights.bits: found {bits}, expected 2 to 8 (codes are int8)")
        self.bits, self.per_channel = bits, per_channel
        self.granularity: Granularity = "channel" if per_channel else "tensor"
        self.steps = self.largest
        self.meeting: Meeting | None = None
        self.register_buffer("alpha", torch.ones(()))
        self.register_load_state_dict_pre_hook(_one_for_all)

    @property
    def largest(self) -> int:
        """Largest integer that is multiplied; the range is symmetric."""
        return 2 ** (self.bits - 1) - 1

    @property
    def grid_bits(self) -> int:
        """Of the integers that are multiplied, which codes of `bits` bits stand for; here codes are these integers."""
        return self.bits

    def table_bytes(self, weight: Tensor) -> float:
        """Of what has to be kept besides codes and scales to decode the weights [O, ...]; here nothing."""
        return 0.0

    def attach(self, weight: Tensor) -> None:
        """Called once with the float weights [O, ...] of the layer that owns this quantizer.

        Here factors and learned parameters get their shape and their start.
        """
        self.alpha = self.alpha.expand(len(weight)).clone()

    def span(self, weight: Tensor) -> Tensor:
        """Real magnitude that `steps` steps of the grid span where alpha is 1: float32 [O], or [1] unless per_channel.

        Here the present largest magnitude, so there is nothing to calibrate.
        """
        return largest_magnitude(weight, self.per_channel)

    def codes(self, weight: Tensor, scale: Tensor, x: QParams, accumulator: Accumulator) -> Tensor:
        """Integer-valued float32 codes in the shape of `weight` [O, ...] at `scale` [O]; carries the gradient.

        x, accumulator: as `forward` has them; here neither is looked at.
        """
        return round_ste(weight / rowwise(scale, weight))

    def scale(self, weight: Tensor) -> Tensor:
        """`alpha * span / steps`, float32 [O]; the floor of `forward` comes on top."""
        return symmetric_scale(self.span(weight), self.steps, self.alpha, len(weight))

    def forward(
        self, weight: Tensor, bias: Tensor, x: QParams, accumulator: Accumulator, output: QParams | None = None
    ) -> tuple[Tensor, Tensor]:
        """Codes (integer-valued float32, shape of `weight` [O, ...]) and scale (float32 [O]).

        bias: float32 [O]. x: of the layer's input. accumulator: what the products are summed in. output: of the layer,
        where its sums are requantized by fixed16, which asks for scales and biases that it has.
        """
        floor = smallest_scale(bias, x, BIAS_LIMIT if output is None else FIXED16_BIAS_LIMIT)
        scale = torch.maximum(self.scale(weight), floor if self.per_channel else floor.max())
        if output is not None:
            scale = snapped(scale, unit_of(x, output))
        return self.codes(weight, scale, x, accumulator), scale

    def of_sums(self, sums: Tensor, accumulator: Accumulator) -> Tensor:
        """What a layer adds its bias to, from its exact sums [N, O, ...]; here they themselves."""
        return sums

    def largest_codes(self) -> Tensor:
        """Largest code under the range mapping factors, `round(largest / alpha)`: float32, broadcasts to [O]."""
        return torch.round(self.largest / self.alpha)

    def per_factor(self, values: Tensor) -> Tensor:
        """What each factor has to answer to, [O]: every channel's own value or, with one factor, the largest of all."""
        return values if self.granularity == "channel" else values.max().expand_as(values)

    def raise_factors(self, by: Tensor) -> None:
        """Multiply every channel's factor by what it needs, [O], at least 1; one factor by the largest of these."""
        self.alpha.mul_(self.per_factor(by).to(self.alpha))


class QuantizerFactory(Protocol):
    """What conversion needs of a method."""

    def activation_quantizer(
        self, bits: int, activation: Activation, observer: ObserverConfig, scalable: bool
    ) -> ActivationQuantizer:
        """A quantizer for one activation tensor."""

    def weight_quantizer(self, bits: int, per_channel: bool) -> WeightQuantizer:
        """A quantizer for one layer's weights."""


def _one_for_all(module: nn.Module, state: dict[str, Any], prefix: str, *rest: Any) -> None:
    """Before a state dict is loaded: a single factor, as earlier versions have it, is that of every channel."""
    name = f"{prefix}alpha"
    if name in state and state[name].dim() == 0:
        state[name] = state[name].expand_as(module.alpha)


def quantize_bias(bias: Tensor, scale: Tensor) -> Tensor:
    """The int32 bias at scale `s_a * s_w`, integer-valued float32 [O], straight-through gradient."""
    return round_ste(bias / scale)
