"""The modules that accumulate products: convolution and linear layer; and the layer left in float on request."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oaq_repro.accumulator import Accumulator
from oaq_repro.fixed_point import Array, is_fixed16
from oaq_repro.quant.bounds import meeting_in_transposed, worst_case
from oaq_repro.quant.modules import QuantModule, Value
from oaq_repro.quant.numerics import (
    BIAS_LIMIT,
    EXACT_FLOAT32,
    FIXED16_BIAS_LIMIT,
    QParams,
    QTensor,
    Sides,
    channelwise,
    exchanged,
    pad,
)
from oaq_repro.quant.overflow import Geometry, OverflowMeter
from oaq_repro.quant.quantizers import ActivationQuantizer, WeightQuantizer, quantize_bias
from oaq_repro.quant.requantization import Fixed16, dyadic_values, exactly, ratio_of
from oaq_repro.requantization import Requantization, fits_fixed16


class QuantLayer(QuantModule):
    """What a convolution and a linear layer share: weights, bias, accumulator, meter.

    `meter`: an OverflowMeter while somebody counts, else None; counting costs time only then.
    `probe`: called with the exact sums (carrying their gradient), the input and the weight codes of every batch,
    or None. `accumulator_reason` says why the accumulator is what it is, for the record. `requantization` is what was
    asked for; `taken_requantization` says what the layer takes.
    """

    requantization: Requantization = "float32"

    output: ActivationQuantizer

    def __init__(
        self,
        float_layer: nn.Conv2d | nn.ConvTranspose2d | nn.Linear,
        weights: WeightQuantizer,
        output: ActivationQuantizer,
        accumulator: Accumulator,
        accumulator_reason: str,
    ) -> None:
        """Takes the float layer's parameters; a missing bias becomes zeros, so that it can be learned."""
        super().__init__()
        self.weight = nn.Parameter(self.rows(float_layer).detach().clone())
        bias = float_layer.bias
        self.bias = nn.Parameter(self.weight.new_zeros(len(self.weight)) if bias is None else bias.detach().clone())
        weights.attach(self.weight)
        self.weight_quantizer, self.output = weights, output
        self.accumulator, self.accumulator_reason = accumulator, accumulator_reason
        self.geometry = Geometry()
        self.meter: OverflowMeter | None = None
        self.probe: Callable[[Tensor, QTensor, Tensor], None] | None = None

    def get_extra_state(self) -> dict[str, Any]:
        """The accumulator is in the checkpoint: settling may have changed it."""
        return {"accumulator": self.accumulator.to_dict(), "reason": self.accumulator_reason}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore the accumulator."""
        self.accumulator, self.accumulator_reason = Accumulator.parse(state["accumulator"]), state["reason"]

    def output_channels(self, inputs: Sequence[int | None]) -> int | None:
        """One per row of weights."""
        return len(self.weight)

    @staticmethod
    def rows(float_layer: Any) -> Tensor:
        """The float layer's weights as [O, ...]."""
        return float_layer.weight

    def product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The convolution or matrix product itself, with weights [O, ...]."""
        raise NotImplementedError

    def quantized_weight(self, x: QParams) -> tuple[Tensor, Tensor]:
        """Weight codes [O, ...] and weight scale [O] for this input."""
        snapped_to = self.output.parameters_of_range() if self._wants_fixed16 else None
        return self.weight_quantizer(self.weight, self.bias, x, self.accumulator, snapped_to)

    @property
    def _wants_fixed16(self) -> bool:
        return self.requantization == "fixed16" and fits_fixed16(self.accumulator)

    @property
    def bias_limit(self) -> int:
        """Largest magnitude of the integer bias."""
        return FIXED16_BIAS_LIMIT if self._wants_fixed16 else BIAS_LIMIT

    def taken_requantization(self, x: QParams) -> tuple[Requantization, str]:
        """How sums become codes for this input, and why: fixed16 needs accumulators and scales that fit it."""
        if self.requantization != "fixed16":
            return self.requantization, "asked for"
        if not self._wants_fixed16:
            return "dyadic", f"fixed16 is for sums of at most 16 bits, its accumulator is {self.accumulator.name}"
        _, weight_scale = self.quantized_weight(x)
        ratio = ratio_of(x.scale * weight_scale, self.output.parameters_of_range())
        if is_fixed16(ratio).all():
            return "fixed16", "asked for"
        return "dyadic", f"fixed16 is for ratios of scales below 1, found {ratio.max():.3g}"

    @torch.no_grad()
    def hold_scales(self, x: QParams) -> None:
        """Raise the weights' factors to the scales that fixed16 takes for this input.

        When ranges move, fixed16 then finds no smaller ones, with which a certificate would not hold any more.
        """
        if self._wants_fixed16:
            codes, _ = self.quantized_weight(x)
            empty = codes.flatten(1).eq(0).all(1)  # no scale to speak of makes these channels' sums larger
            self.weight_quantizer.raise_factors(self.held(x).masked_fill(empty, 1.0))

    def held(self, x: QParams) -> Tensor:
        """How far the floor, and fixed16, hold scales above those of their factors for this input: [O], at least 1."""
        _, scale = self.quantized_weight(x)
        return (scale / self.weight_quantizer.scale(self.weight)).clamp(min=1.0)

    def worst_case(self, x: QParams) -> Tensor:
        """Largest partial sum that any input can reach, as a multiple of the limit: float64 [O] (`quant.bounds`)."""
        codes, _ = self.quantized_weight(x)
        return worst_case(codes, x, self.accumulator, self.weight_quantizer.meeting)

    def weight_codes(self, x: QParams) -> tuple[Tensor, Tensor, Tensor]:
        """Weight codes [O, ...], bias codes [O] and their scale `s_a * s_w` [O] for this input."""
        codes, weight_scale = self.quantized_weight(x)
        scale = x.scale * weight_scale
        return codes, quantize_bias(self.bias, scale), scale

    def _exact_dtype(self, x: QTensor, weight: Tensor) -> torch.dtype:
        """float32 where it is provably exact, else float64; training does not pay for the last bits.

        GPU convolutions may transform their operands (Winograd), so evaluation there is in float64.
        """
        if self.training:
            return torch.float32
        bound = weight.detach().abs().flatten(1).sum(1).max() * x.q_max
        return torch.float64 if weight.is_cuda or bound >= EXACT_FLOAT32 else torch.float32

    def forward(self, x: Value) -> Value:
        """x: [N, C, H, W] or [N, K]; accumulates, adds the bias in 32 bits, requantizes."""
        if not isinstance(x, QTensor):
            return self._finish(self.product(x, self.weight, self.bias))
        weight, bias, scale = self.weight_codes(x.qparams)
        dtype = self._exact_dtype(x, weight)
        acc = self.product(x.centred().to(dtype), weight.to(dtype), None)
        # adding before the conversion rounds once, as converting the int32 sum does
        sums = self.weight_quantizer.of_sums(acc, self.accumulator)
        total = (sums + channelwise(bias, sums)).to(torch.float32)
        fixed16 = None
        if self._wants_fixed16:
            output = self.output.parameters_of_range()  # before this batch is seen: scales are snapped to it
            fixed16 = Fixed16.of(total, ratio_of(scale, output), output)
        if self.meter is not None:
            self.count(acc, x, weight, fixed16)
        if self.probe is not None:
            self.probe(acc, x, weight)
        if fixed16 is not None:
            smooth = self.output.requantize(total, scale, output)
            self.output.track(total, scale)
            return smooth if self.output.draws else exactly(smooth, fixed16.values())
        smooth = self.output(total, scale)
        if self.requantization == "float32" or self.output.draws:
            return smooth
        exact = sums.detach().long() + channelwise(bias, sums).detach().long()
        return exactly(smooth, dyadic_values(exact, _by_channel(ratio_of(scale, smooth.qparams), sums)))

    def count(self, acc: Tensor, x: QTensor, weight: Tensor, fixed16: Fixed16 | None) -> None:
        """Let the meter see this batch."""
        assert self.meter is not None
        images = _as_image(acc), _as_image(x.codes), x.zero_point, _as_image(weight)
        self.meter.update(*images, self.geometry, self.accumulator, fixed16)


def _by_channel(values: Array, like: Tensor) -> Array:
    """[O] so that it broadcasts along dimension 1."""
    return values.reshape(-1, *([1] * (like.dim() - 2)))


def _as_image(x: Tensor) -> Tensor:
    """[N, K] as [N, K, 1, 1]; images unchanged. Gradients are of no concern to a meter."""
    x = x.detach()
    return x if x.dim() == 4 else x[:, :, None, None]


class QuantConv2d(QuantLayer):
    """Convolution + folded batch norm + activation."""

    def __init__(
        self,
        float_layer: nn.Conv2d,
        weights: WeightQuantizer,
        output: ActivationQuantizer,
        accumulator: Accumulator,
        accumulator_reason: str,
        padding: Sides,
    ) -> None:
        """`padding`: all of it; that of `float_layer` is not looked at."""
        super().__init__(float_layer, weights, output, accumulator, accumulator_reason)
        conv = float_layer
        self.geometry = Geometry(conv.stride, padding, conv.dilation, conv.groups)  # type: ignore[arg-type]

    def product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Convolution with this layer's geometry."""
        g = self.geometry
        top, left, bottom, right = g.padding
        even = (top, left) == (bottom, right)
        return F.conv2d(
            x if even else pad(x, g.padding), weight, bias, g.stride, (top, left) if even else 0, g.dilation, g.groups
        )


class QuantConvTranspose2d(QuantLayer):
    """Transposed convolution + folded batch norm + activation; weights are [O, I / groups, kh, kw] here."""

    def __init__(
        self,
        float_layer: nn.ConvTranspose2d,
        weights: WeightQuantizer,
        output: ActivationQuantizer,
        accumulator: Accumulator,
        accumulator_reason: str,
    ) -> None:
        super().__init__(float_layer, weights, output, accumulator, accumulator_reason)
        layer: Any = float_layer
        self.geometry = Geometry(
            layer.stride, layer.padding * 2, layer.dilation, layer.groups, output_padding=layer.output_padding
        )
        weights.meeting = meeting_in_transposed(self.weight, layer.stride, layer.dilation)

    @staticmethod
    def rows(float_layer: Any) -> Tensor:
        """PyTorch has them as [I, O / groups, kh, kw]."""
        return exchanged(float_layer.weight, float_layer.groups)

    def product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Transposed convolution with this layer's geometry."""
        g = self.geometry
        kernel = exchanged(weight, g.groups)
        return F.conv_transpose2d(x, kernel, bias, g.stride, g.padding[:2], g.output_padding or 0, g.groups, g.dilation)


class QuantLinear(QuantLayer):
    """Linear layer + activation, on [N, K]."""

    def product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Matrix product."""
        return F.linear(x, weight, bias)


class QuantSkip(QuantModule):
    """A module left in float on request (override `skip`): dequantize, compute in float, quantize."""

    output: ActivationQuantizer
    no_integer_form = "left in float by an override 'skip'"

    def __init__(self, float_layer: nn.Module, output: ActivationQuantizer) -> None:
        super().__init__()
        self.float_layer, self.output = float_layer, output

    def output_channels(self, inputs: Sequence[int | None]) -> int | None:
        """Those of a layer; of other modules they are not known."""
        return getattr(self.float_layer, "out_channels", getattr(self.float_layer, "out_features", None))

    def forward(self, *inputs: Value) -> Value:
        """[N, C, H, W] or [N, K], as many as the module takes."""
        real = self.float_layer(*(x.dequantize() if isinstance(x, QTensor) else x for x in inputs))
        return self.output.quantize_real(real) if isinstance(inputs[0], QTensor) else self._finish(real)
