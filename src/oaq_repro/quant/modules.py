"""Quantized modules: the nodes of the trained graph, one to one with the nodes of the integer graph.

Each module has two modes. While `quantizing` is False (calibration) plain real tensors flow along the edges,
the network computes what the BN-folded float network computes, and the observers watch. While it is True,
`QTensor`s flow, and every module computes the exact formula of its integer twin in `oaq_repro.integer.graph`.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oaq_repro.quant.accumulator import Accumulator
from oaq_repro.quant.numerics import EXACT_FLOAT32, QTensor, channelwise, round_ste, to_codes
from oaq_repro.quant.overflow import Geometry, OverflowMeter
from oaq_repro.quant.quantizers import ActivationQuantizer, WeightQuantizer, quantize_bias

Value = QTensor | Tensor


class QuantModule(nn.Module):
    """Base of all quantized modules.

    `quantizing`: the mode (see module docstring). `output`: the quantizer of the result, or None where the
    codes of the input pass through unchanged in scale (pooling by maximum, resize, flatten).
    """

    output: ActivationQuantizer | None
    quantizing = False

    def __init__(self) -> None:
        super().__init__()
        self.output = None

    def _finish(self, real: Tensor) -> Tensor:
        """Calibration mode: apply the fused activation and let the observer see the result."""
        assert self.output is not None
        if self.output.activation == "relu":
            real = F.relu(real)
        elif self.output.activation == "relu6":
            real = F.relu6(real)
        if self.output.observing:
            self.output.observe(real, torch.ones((), device=real.device))
        return real


class QuantInput(QuantModule):
    """Quantizes the float image; the only place where real numbers enter."""

    output: ActivationQuantizer

    def __init__(self, output: ActivationQuantizer) -> None:
        super().__init__()
        self.output = output

    def forward(self, image: Tensor) -> Value:
        """image: float32 [N, C, H, W]."""
        return self.output.quantize_real(image) if self.quantizing else self._finish(image)


class QuantOutput(QuantModule):
    """Dequantizes a result of the dense part."""

    def forward(self, x: Value) -> Tensor:
        """Real values, float32, shape of x."""
        return x.dequantize() if isinstance(x, QTensor) else x


class QuantLayer(QuantModule):
    """What a convolution and a linear layer share: weights, bias, accumulator, meter.

    `meter`: an OverflowMeter while somebody counts, else None; counting costs time only then.
    `accumulator_reason` says why the accumulator is what it is, for the record.
    """

    output: ActivationQuantizer

    def __init__(
        self, float_layer: nn.Conv2d | nn.Linear, weights: WeightQuantizer, output: ActivationQuantizer,
        accumulator: Accumulator, accumulator_reason: str,
    ) -> None:
        """Takes the float layer's parameters; a missing bias becomes zeros, so that it can be learned."""
        super().__init__()
        self.weight = nn.Parameter(float_layer.weight.detach().clone())
        bias = float_layer.bias
        self.bias = nn.Parameter(self.weight.new_zeros(len(self.weight)) if bias is None else bias.detach().clone())
        self.weight_quantizer, self.output = weights, output
        self.accumulator, self.accumulator_reason = accumulator, accumulator_reason
        self.geometry = Geometry()
        self.meter: OverflowMeter | None = None

    def get_extra_state(self) -> dict[str, Any]:
        """The accumulator is in the checkpoint: settling may have changed it."""
        return {"accumulator": self.accumulator.to_dict(), "reason": self.accumulator_reason}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore the accumulator."""
        self.accumulator, self.accumulator_reason = Accumulator.parse(state["accumulator"]), state["reason"]

    def product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The convolution or matrix product itself."""
        raise NotImplementedError

    def weight_codes(self, x: QTensor) -> tuple[Tensor, Tensor, Tensor]:
        """Weight codes [O, ...], bias codes [O] and their scale `s_a * s_w` [O] for this input."""
        codes, weight_scale = self.weight_quantizer(self.weight, self.bias, x.scale)
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
        weight, bias, scale = self.weight_codes(x)
        dtype = self._exact_dtype(x, weight)
        acc = self.product(x.centred().to(dtype), weight.to(dtype), None)
        if self.meter is not None:
            self.count(acc, x, weight)
        # adding before the conversion rounds once, as converting the int32 sum does
        total = (acc + channelwise(bias, acc)).to(torch.float32)
        return self.output(total, scale)

    def count(self, acc: Tensor, x: QTensor, weight: Tensor) -> None:
        """Let the meter see this batch."""
        assert self.meter is not None
        self.meter.update(
            _as_image(acc), _as_image(x.codes), x.zero_point, _as_image(weight), self.geometry, self.accumulator
        )


def _as_image(x: Tensor) -> Tensor:
    """[N, K] as [N, K, 1, 1]; images unchanged. Gradients are of no concern to a meter."""
    x = x.detach()
    return x if x.dim() == 4 else x[:, :, None, None]


class QuantConv2d(QuantLayer):
    """Convolution + folded batch norm + activation."""

    def __init__(
        self, float_layer: nn.Conv2d, weights: WeightQuantizer, output: ActivationQuantizer,
        accumulator: Accumulator, accumulator_reason: str,
    ) -> None:
        super().__init__(float_layer, weights, output, accumulator, accumulator_reason)
        conv = float_layer
        self.geometry = Geometry(conv.stride, conv.padding, conv.dilation, conv.groups)  # type: ignore[arg-type]

    def product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Convolution with this layer's geometry."""
        g = self.geometry
        return F.conv2d(x, weight, bias, g.stride, g.padding, g.dilation, g.groups)


class QuantLinear(QuantLayer):
    """Linear layer + activation, on [N, K]."""

    def product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Matrix product."""
        return F.linear(x, weight, bias)


class QuantRequantize(QuantModule):
    """A new scale for a tensor; carries an activation that follows something other than a convolution."""

    output: ActivationQuantizer

    def __init__(self, output: ActivationQuantizer) -> None:
        super().__init__()
        self.output = output

    def forward(self, x: Value) -> Value:
        """Any shape."""
        return self.output.quantize_real(x.dequantize()) if isinstance(x, QTensor) else self._finish(x)


class QuantAdd(QuantRequantize):
    """Sum of two tensors of the same shape, each on its own scale."""

    def forward(self, a: Value, b: Value) -> Value:  # type: ignore[override]
        """`(a - z_a) * s_a + (b - z_b) * s_b`, in this order, then the output quantizer."""
        if isinstance(a, QTensor) and isinstance(b, QTensor):
            return self.output.quantize_real(a.dequantize() + b.dequantize())
        return self._finish(a + b)  # type: ignore[operator]


class QuantConcat(QuantRequantize):
    """Concatenation along the channels, every part brought to one scale."""

    def forward(self, *parts: Value) -> Value:  # type: ignore[override]
        """parts: [N, C_i, H, W] each."""
        if all(isinstance(p, QTensor) for p in parts):
            return self.output.quantize_real(torch.cat([p.dequantize() for p in parts], dim=1))  # type: ignore[union-attr]
        return self._finish(torch.cat(parts, dim=1))  # type: ignore[arg-type]


class QuantAvgPool2d(QuantRequantize):
    """Average over windows of `kernel` values, zero padding counted as values."""

    def __init__(
        self, output: ActivationQuantizer, kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int]
    ) -> None:
        super().__init__(output)
        self.kernel, self.stride, self.padding = kernel, stride, padding

    def forward(self, x: Value) -> Value:
        """`round(sum(q - z) * s_in / (s_out * n))`: an integer sum, then one multiplier."""
        n = self.kernel[0] * self.kernel[1]
        if not isinstance(x, QTensor):
            return self._finish(F.avg_pool2d(x, self.kernel, self.stride, self.padding))
        total = F.avg_pool2d(x.centred(), self.kernel, self.stride, self.padding, divisor_override=1)
        return _averaged(self.output, x, total, n)


class QuantGlobalAvgPool(QuantRequantize):
    """Average over the whole image. `keepdims`: [N, C, 1, 1] rather than [N, C]."""

    def __init__(self, output: ActivationQuantizer, keepdims: bool) -> None:
        super().__init__(output)
        self.keepdims = keepdims

    def forward(self, x: Value) -> Value:
        """As QuantAvgPool2d, over all H * W values."""
        if not isinstance(x, QTensor):
            return self._finish(x.mean((2, 3), keepdim=self.keepdims))
        total = x.centred().sum((2, 3), keepdim=self.keepdims)
        return _averaged(self.output, x, total, x.codes.shape[2] * x.codes.shape[3])


def _averaged(output: ActivationQuantizer, x: QTensor, total: Tensor, n: int) -> QTensor:
    """Requantize a sum of n codes as ONNX Runtime's QLinearGlobalAveragePool does: s_in / (s_out * n)."""
    if output.observing and output.training:
        output.observe(total, x.scale / n)
    scale, zero_point, q_max = output.parameters_of_range()
    return QTensor(to_codes(total * (x.scale / (scale * n)), zero_point, q_max), scale, zero_point, q_max)


class QuantMaxPool2d(QuantModule):
    """Maximum over windows, on the codes (the order of codes is the order of values)."""

    def __init__(
        self, kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int],
        dilation: tuple[int, int], ceil_mode: bool,
    ) -> None:
        super().__init__()
        self.kernel, self.stride, self.padding = kernel, stride, padding
        self.dilation, self.ceil_mode = dilation, ceil_mode

    def forward(self, x: Value) -> Value:
        """[N, C, H, W]."""
        def pool(t: Tensor) -> Tensor:
            return F.max_pool2d(t, self.kernel, self.stride, self.padding, self.dilation, self.ceil_mode)

        return x._replace(codes=pool(x.codes)) if isinstance(x, QTensor) else pool(x)


class QuantFlatten(QuantModule):
    """[N, ...] to [N, K]."""

    def forward(self, x: Value) -> Value:
        """Codes pass through."""
        return x._replace(codes=x.codes.flatten(1)) if isinstance(x, QTensor) else x.flatten(1)


class QuantResize(QuantModule):
    """Bilinear resize to the spatial size of a second tensor; the codes keep their scale."""

    def __init__(self, align_corners: bool) -> None:
        super().__init__()
        self.align_corners = align_corners

    def forward(self, x: Value, like: Value) -> Value:
        """x: [N, C, h, w]; like: [N, *, H, W]; result [N, C, H, W]."""
        size = (like.codes if isinstance(like, QTensor) else like).shape[2:]
        if not isinstance(x, QTensor):
            return F.interpolate(x, size=size, mode="bilinear", align_corners=self.align_corners)
        codes = x.codes
        for dim in (2, 3):
            codes = _resize_along(codes, dim, size[dim - 2], self.align_corners)
        return x._replace(codes=torch.minimum(round_ste(codes), x.q_max).clamp(min=0.0))


def _resize_along(codes: Tensor, dim: int, size: int, align_corners: bool) -> Tensor:
    """Linear interpolation along one dimension: `a * (1 - t) + b * t`, elementwise, in float32.

    Elementwise and in this order, because a library's fused multiply-add would round differently from the
    integer engine.
    """
    source = codes.shape[dim]
    low, high, t = interpolation_table(source, size, align_corners)
    device = codes.device
    shape = [1] * codes.dim()
    shape[dim] = size
    weight = t.to(device).reshape(shape)
    a, b = codes.index_select(dim, low.to(device)), codes.index_select(dim, high.to(device))
    return a * (1.0 - weight) + b * weight


def interpolation_table(source: int, size: int, align_corners: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Lower index, upper index (int64 [size]) and weight of the upper (float32 [size]).

    The half-pixel coordinates of torch and ONNX Resize, computed in float64 and rounded once.
    """
    position = torch.arange(size, dtype=torch.float64)
    if align_corners:
        position = position * ((source - 1) / (size - 1) if size > 1 else 0.0)
    else:
        position = ((position + 0.5) * (source / size) - 0.5).clamp(min=0.0)
    low = position.floor().clamp(max=source - 1)
    high = (low + 1).clamp(max=source - 1)
    return low.long(), high.long(), (position - low).to(torch.float32)


class QuantSkip(QuantModule):
    """A layer left in float on request (override `skip`): dequantize, compute in float, quantize."""

    output: ActivationQuantizer

    def __init__(self, float_layer: nn.Module, output: ActivationQuantizer) -> None:
        super().__init__()
        self.float_layer, self.output = float_layer, output

    def forward(self, x: Value) -> Value:
        """[N, C, H, W] or [N, K]."""
        if not isinstance(x, QTensor):
            return self._finish(self.float_layer(x))
        real = self.float_layer(x.dequantize())
        return self.output.quantize_real(real)
