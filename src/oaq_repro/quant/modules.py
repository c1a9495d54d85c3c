"""Quantized modules: the nodes of the trained graph, one to one with the nodes of the integer graph.

Each module acts on what reaches it. Where the input does not quantize (`QuantInput.quantizing`, calibration) plain real
tensors flow along the edges, the network computes what the BN-folded float network computes, and the observers watch.
Where it does, `QTensor`s flow, and every module computes the exact formula of its integer twin in
`oaq_repro.integer.graph.nodes`.
Convolutions and linear layers are in `layers.py`, pools in `pools.py`, resizes in `resize.py`.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oaq_repro.errors import InputError
from oaq_repro.quant.numerics import QTensor
from oaq_repro.quant.quantizers import ActivationQuantizer
from oaq_repro.quant.requantization import dyadic_values, exactly, ratio_of, sum_values
from oaq_repro.requantization import Requantization

Value = QTensor | Tensor


class QuantModule(nn.Module):
    """Base of all quantized modules.

    `output`: the quantizer of the result, or None where the codes of the input pass through unchanged in scale (pooling
    by maximum, resize, flatten). `requantization`: how codes are rounded from integers that are not codes; None where
    they are copied, looked up or made from real numbers.
    """

    output: ActivationQuantizer | None
    requantization: Requantization | None = None

    def __init__(self) -> None:
        super().__init__()
        self.output = None

    def output_channels(self, inputs: Sequence[int | None]) -> int | None:
        """Channels of the result from those of the inputs; None where they are not known."""
        return inputs[0]

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
    """Quantizes the float image; the only place where real numbers enter.

    quantizing: whether codes flow from here on, see the module docstring.
    """

    output: ActivationQuantizer
    quantizing = False

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


class QuantRequantize(QuantModule):
    """A new scale for a tensor; carries an activation that follows something other than a convolution."""

    output: ActivationQuantizer

    def __init__(self, output: ActivationQuantizer) -> None:
        super().__init__()
        self.output = output

    def forward(self, x: Value) -> Value:
        """Any shape."""
        return self.output.quantize_real(x.dequantize()) if isinstance(x, QTensor) else self._finish(x)


class RoundingModule(QuantRequantize):
    """A module whose codes are rounded from integers."""

    requantization: Requantization = "float32"

    def rounded(self, smooth: QTensor, values: Callable[[Requantization], Tensor]) -> QTensor:
        """The codes of the float formula, or with their gradient those of an integer one, whose `values` are int64."""
        if self.requantization == "float32" or self.output.draws:
            return smooth
        return exactly(smooth, values(self.requantization))


class QuantAdd(RoundingModule):
    """Sum of two tensors of the same shape, each on its own scale."""

    def forward(self, a: Value, b: Value) -> Value:  # type: ignore[override]
        """`(a - z_a) * s_a + (b - z_b) * s_b`, in this order, then the output quantizer."""
        if isinstance(a, QTensor) and isinstance(b, QTensor):
            smooth = self.output.quantize_real(a.dequantize() + b.dequantize())
            return self.rounded(smooth, partial(sum_values, a, b, smooth.qparams))
        assert isinstance(a, Tensor) and isinstance(b, Tensor)
        return self._finish(a + b)


class QuantMultiply(RoundingModule):
    """Product of two tensors: of the same shape, or [N, C, H, W] with a factor [N, C, 1, 1] per channel."""

    def forward(self, a: Value, b: Value) -> Value:  # type: ignore[override]
        """`(a - z_a) * (b - z_b)`, an integer, then one multiplier `s_a * s_b / s_out`, as a layer's sum."""
        if isinstance(a, QTensor) and isinstance(b, QTensor):
            product, scale = a.centred() * b.centred(), a.scale * b.scale
            smooth = self.output(product, scale)
            return self.rounded(smooth, lambda _: dyadic_values(product, ratio_of(scale, smooth.qparams)))
        assert isinstance(a, Tensor) and isinstance(b, Tensor)
        return self._finish(a * b)


class QuantConcat(QuantRequantize):
    """Concatenation along the channels, every part brought to one scale."""

    def output_channels(self, inputs: Sequence[int | None]) -> int | None:
        """Those of all parts."""
        known = [count for count in inputs if count is not None]
        return sum(known) if len(known) == len(inputs) else None

    def forward(self, *parts: Value) -> Value:
        """parts: [N, C_i, H, W] each."""
        real = torch.cat([p.dequantize() if isinstance(p, QTensor) else p for p in parts], dim=1)
        return self.output.quantize_real(real) if isinstance(parts[0], QTensor) else self._finish(real)


class QuantPixelShuffle(QuantModule):
    """Channels moved into the image (torch.nn.PixelShuffle); codes pass through."""

    def __init__(self, block: int) -> None:
        super().__init__()
        self.block = block

    def output_channels(self, inputs: Sequence[int | None]) -> int | None:
        """A block's pixels come from as many channels."""
        return None if inputs[0] is None else inputs[0] // self.block**2

    def forward(self, x: Value) -> Value:
        """[N, C * block^2, H, W] to [N, C, H * block, W * block]."""
        if isinstance(x, QTensor):
            return x._replace(codes=F.pixel_shuffle(x.codes, self.block))
        return F.pixel_shuffle(x, self.block)


class QuantFlatten(QuantModule):
    """[N, ...] to [N, K], with `keepdims` to [N, K, 1, 1].

    single: of images of one pixel. count: K, where the network says so. InputError for others.
    """

    def __init__(self, keepdims: bool = False, single: bool = False, count: int | None = None) -> None:
        super().__init__()
        self.keepdims, self.single, self.count = keepdims, single, count

    def output_channels(self, inputs: Sequence[int | None]) -> int | None:
        """Pixels count as well: not known, unless there is one."""
        return inputs[0] if self.single else self.count

    def forward(self, x: Value) -> Value:
        """Codes pass through."""
        return x._replace(codes=self._flat(x.codes)) if isinstance(x, QTensor) else self._flat(x)

    def _flat(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        expected = x.shape[1] if self.single else self.count
        if expected not in (None, flat.shape[1]):
            raise InputError(f"view or squeeze: found values {list(x.shape)}, expected {expected} of each image")
        return flat[:, :, None, None] if self.keepdims else flat
