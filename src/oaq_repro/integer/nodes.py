"""The operators of an integer graph: frozen values that hold constants.

Every node's value is a tensor of uint8 codes, `real = scale * (code - zero_point)`, under the node's name; only the
graph's input and the values of `Dequantize` are float32. The arithmetic of each operator stands at its class and is
exact to the bit: float operations are IEEE float32 in the order written, without fma; `rint` rounds half to even.
Sources: ONNX QLinearConv and QuantizeLinear (convolution, quantization); the other operators' arithmetic is our choice.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from oaq_repro.quant.accumulator import Accumulator

Pair = tuple[int, int]


@dataclass(frozen=True)
class QParams:
    """Affine quantization of one tensor: `real = scale * (code - zero_point)`, codes uint8 in [0, q_max]."""

    scale: np.float32
    zero_point: int
    q_max: int


@dataclass(frozen=True, eq=False)
class Quantize:
    """The graph's float32 input to codes: `clamp(rint(x / scale) + zero_point, 0, q_max)`, a true division."""

    inputs_count: ClassVar[int | None] = 1
    name: str
    inputs: tuple[str, ...]
    output: QParams


@dataclass(frozen=True, eq=False)
class Conv:
    """Convolution with int8 weights [O, I / groups, kh, kw], int32 bias [O]; padding has the code zero_point.

    `clamp(rint(float32(acc + bias) * multiplier) + z_out, 0, q_max_out)`: acc is what the accumulator's policy leaves
    of sum (a - z) * w; acc + bias is int32 (modulo 2^32); its conversion to float32 rounds to nearest even; the product
    is float32. `multiplier` float32 [O] is s_in * weight_scale / s_out, `weight_scale` float32 [O] per output channel.
    """

    inputs_count: ClassVar[int | None] = 1
    name: str
    inputs: tuple[str, ...]
    output: QParams
    weight: np.ndarray
    bias: np.ndarray
    weight_scale: np.ndarray
    multiplier: np.ndarray
    stride: Pair
    padding: Pair
    dilation: Pair
    groups: int
    accumulator: Accumulator
    accumulator_reason: str = ""

    @property
    def matrix(self) -> np.ndarray:
        """Weights as int8 [O, K] in the accumulator's order of k: (kernel row, kernel column, channel of the group)."""
        return np.ascontiguousarray(self.weight.transpose(0, 2, 3, 1)).reshape(self.weight.shape[0], -1)


@dataclass(frozen=True, eq=False)
class Linear:
    """Matrix product on [N, K] with int8 weights [O, K]; arithmetic and constants as `Conv`."""

    inputs_count: ClassVar[int | None] = 1
    name: str
    inputs: tuple[str, ...]
    output: QParams
    weight: np.ndarray
    bias: np.ndarray
    weight_scale: np.ndarray
    multiplier: np.ndarray
    accumulator: Accumulator
    accumulator_reason: str = ""

    @property
    def matrix(self) -> np.ndarray:
        """Weights as int8 [O, K] in the accumulator's order of k."""
        return self.weight


@dataclass(frozen=True, eq=False)
class Add:
    """`clamp(rint(((qa - za) * sa + (qb - zb) * sb) / s_out) + z_out, 0, q_max)` of two values of equal shape."""

    inputs_count: ClassVar[int | None] = 2
    name: str
    inputs: tuple[str, ...]
    output: QParams


@dataclass(frozen=True, eq=False)
class Concat:
    """Join along the channels; each input as `Requantize` does (a copy where its QParams equal the output's)."""

    inputs_count: ClassVar[int | None] = None
    name: str
    inputs: tuple[str, ...]
    output: QParams
    axis: int = 1


@dataclass(frozen=True, eq=False)
class Requantize:
    """`clamp(rint(((q - z) * s) / s_out) + z_out, 0, q_max)`; with z_out = 0 the clamp is a ReLU."""

    inputs_count: ClassVar[int | None] = 1
    name: str
    inputs: tuple[str, ...]
    output: QParams


@dataclass(frozen=True, eq=False)
class MaxPool:
    """Largest code of each window; padding never wins; sizes as torch.nn.MaxPool2d gives them."""

    inputs_count: ClassVar[int | None] = 1
    name: str
    inputs: tuple[str, ...]
    output: QParams
    kernel: Pair
    stride: Pair
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    ceil_mode: bool = False


@dataclass(frozen=True, eq=False)
class AvgPool:
    """`clamp(rint(float32(acc) * multiplier) + z_out, 0, q_max)`, acc = sum (q - z) in int32 over the window.

    multiplier = s_in / (s_out * float32(count)) in float32 (`pool_multiplier`); padding counts as zero. `count` is
    kh * kw, or without `count_include_pad` the number of the window's pixels that are not padding.
    """

    inputs_count: ClassVar[int | None] = 1
    name: str
    inputs: tuple[str, ...]
    output: QParams
    kernel: Pair
    stride: Pair
    padding: Pair = (0, 0)
    count_include_pad: bool = True


@dataclass(frozen=True, eq=False)
class GlobalAvgPool:
    """As `AvgPool` over the whole height and width: [N, C, 1, 1] with keepdims, else [N, C]."""

    inputs_count: ClassVar[int | None] = 1
    name: str
    inputs: tuple[str, ...]
    output: QParams
    keepdims: bool


@dataclass(frozen=True, eq=False)
class Resize:
    """Bilinear, inputs (x, like): x at the height and width of `like`, on codes, QParams unchanged.

    float32: `a * (1 - t) + b * t` between rows (upper, lower), then between columns of the unrounded result, then rint,
    clamp to [0, q_max]. Where a, b and t come from: `shapes.resize_taps`.
    """

    inputs_count: ClassVar[int | None] = 2
    name: str
    inputs: tuple[str, ...]
    output: QParams
    align_corners: bool


@dataclass(frozen=True, eq=False)
class ResizeNearest:
    """Nearest pixel, codes and QParams unchanged: [N, C, H, W] to [N, C, floor(H * n / d), floor(W * n / d)].

    `factor`: (n, d) of the height and of the width. Which pixel, in exact integers: `shapes.nearest_pixels`.
    """

    inputs_count: ClassVar[int | None] = 1
    name: str
    inputs: tuple[str, ...]
    output: QParams
    factor: tuple[int, int, int, int]
    rule: Literal["floor", "half_pixel"] = "floor"


@dataclass(frozen=True, eq=False)
class Flatten:
    """[N, C, H, W] to [N, C * H * W]; codes and QParams unchanged."""

    inputs_count: ClassVar[int | None] = 1
    name: str
    inputs: tuple[str, ...]
    output: QParams
    start_dim: int = 1


@dataclass(frozen=True, eq=False)
class Dequantize:
    """float32 `(q - zero_point) * scale` with the input's QParams: an output of the graph."""

    inputs_count: ClassVar[int | None] = 1
    name: str
    inputs: tuple[str, ...]


Layer = Conv | Linear
Node = (
    Quantize
    | Conv
    | Linear
    | Add
    | Concat
    | Requantize
    | MaxPool
    | AvgPool
    | GlobalAvgPool
    | Resize
    | ResizeNearest
    | Flatten
    | Dequantize
)
OPERATORS: dict[str, type[Node]] = {
    operator.__name__: operator
    for operator in (
        Quantize, Conv, Linear, Add, Concat, Requantize, MaxPool, AvgPool, GlobalAvgPool, Resize, ResizeNearest,
        Flatten, Dequantize,
    )
}  # fmt: skip


def pool_multiplier(source: QParams, output: QParams, count: int | np.ndarray) -> np.ndarray:
    """float32 `s_in / (s_out * float32(count))` of averages over `count` codes."""
    return np.asarray(np.float32(source.scale) / (np.float32(output.scale) * np.asarray(count, np.float32)))
