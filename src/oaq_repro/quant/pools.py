"""Pools: averages of windows and of the whole image, and the largest code of windows."""

import torch
import torch.nn.functional as F
from torch import Tensor

from oaq_repro.fixed_point import mean_ratio
from oaq_repro.quant.modules import QuantModule, RoundingModule, Value
from oaq_repro.quant.numerics import QTensor, Sides, pad
from oaq_repro.quant.quantizers import ActivationQuantizer
from oaq_repro.quant.requantization import dyadic_values
from oaq_repro.requantization import Requantization


class QuantAvgPool2d(RoundingModule):
    """Average over windows of `kernel` values. `count_include_pad`: zero padding counts as values."""

    def __init__(
        self,
        output: ActivationQuantizer,
        kernel: tuple[int, int],
        stride: tuple[int, int],
        padding: Sides,
        count_include_pad: bool,
    ) -> None:
        super().__init__(output)
        self.kernel, self.stride, self.padding = kernel, stride, padding
        self.count_include_pad = count_include_pad

    def _sum(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(pad(x, self.padding), self.kernel, self.stride, divisor_override=1)

    def forward(self, x: Value) -> Value:
        """`round(sum(q - z) * s_in / (s_out * n))`: an integer sum, then one multiplier."""
        values = x.centred() if isinstance(x, QTensor) else x
        n: int | Tensor = self.kernel[0] * self.kernel[1]
        if not self.count_include_pad:
            n = self._sum(torch.ones_like(values[:1, :1]))
        total = self._sum(values)
        return _averaged(self, x, total, n) if isinstance(x, QTensor) else self._finish(total / n)


class QuantGlobalAvgPool(RoundingModule):
    """Average over the whole image. `keepdims`: [N, C, 1, 1] rather than [N, C]."""

    def __init__(self, output: ActivationQuantizer, keepdims: bool) -> None:
        super().__init__(output)
        self.keepdims = keepdims

    def forward(self, x: Value) -> Value:
        """As QuantAvgPool2d, over all H * W values."""
        if not isinstance(x, QTensor):
            return self._finish(x.mean((2, 3), keepdim=self.keepdims))
        total = x.centred().sum((2, 3), keepdim=self.keepdims)
        return _averaged(self, x, total, x.codes.shape[2] * x.codes.shape[3])


def _averaged(pool: RoundingModule, x: QTensor, total: Tensor, n: int | Tensor) -> QTensor:
    """Requantize a sum of n codes as ONNX Runtime's QLinearGlobalAveragePool does: s_in / (s_out * n)."""
    output = pool.output
    if isinstance(n, Tensor) and n.dim():
        output.track(total / n, x.scale)
    else:
        output.track(total, x.scale / n)
    scale, zero_point, q_max = output.parameters_of_range()
    smooth = output.encode(total * (x.scale / (scale * n)), scale, zero_point, q_max)

    def values(_: Requantization) -> Tensor:
        counts = n.cpu().numpy() if isinstance(n, Tensor) else n
        scales = x.scale.detach().cpu().numpy(), scale.detach().cpu().numpy()
        return dyadic_values(total, mean_ratio(*scales, counts))

    return pool.rounded(smooth, values)


class QuantMaxPool2d(QuantModule):
    """Maximum over windows, on the codes (the order of codes is the order of values)."""

    def __init__(
        self,
        kernel: tuple[int, int],
        stride: tuple[int, int],
        padding: Sides,
        dilation: tuple[int, int],
        ceil_mode: bool,
    ) -> None:
        super().__init__()
        self.kernel, self.stride, self.padding = kernel, stride, padding
        self.dilation, self.ceil_mode = dilation, ceil_mode

    def forward(self, x: Value) -> Value:
        """[N, C, H, W]."""

        top, left, bottom, right = self.padding

        def pool(t: Tensor) -> Tensor:
            if (top, left) == (bottom, right):
                return F.max_pool2d(t, self.kernel, self.stride, (top, left), self.dilation, self.ceil_mode)
            return F.max_pool2d(pad(t, self.padding, -torch.inf), self.kernel, self.stride, 0, self.dilation)

        return x._replace(codes=pool(x.codes)) if isinstance(x, QTensor) else pool(x)
