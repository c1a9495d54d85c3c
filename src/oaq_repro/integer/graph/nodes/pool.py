"""Pools: the largest code and the mean of windows, and the mean of everything."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from oaq_repro.fixed_point import mean_ratio
from oaq_repro.integer.graph import arithmetic
from oaq_repro.integer.graph.arithmetic import Array, QParams
from oaq_repro.integer.graph.nodes.base import Padded, PassingNode, RoundingNode, Shape
from oaq_repro.integer.graph.windows import Pair, Sides, Window

LARGEST_AVERAGE = (2**31 - 1) // 255  # codes whose sum fits into int32
LARGEST_KERNEL = 1 << 18  # pixels of a pool's window
LARGEST_POOLING = 1 << 36  # codes that a pool's windows read


@dataclass(frozen=True, eq=False)
class MaxPool(Padded, PassingNode):
    """Largest code of each window; padding never wins; sizes as torch.nn.MaxPool2d gives them."""

    kernel: Pair
    stride: Pair
    padding: Sides = (0, 0, 0, 0)
    dilation: Pair = (1, 1)
    ceil_mode: bool = False

    @property
    def window(self) -> Window:
        """Its window."""
        return Window(self.kernel, self.stride, self.padding, self.dilation, self.ceil_mode)

    def check_fields(self) -> None:
        super().check_fields()
        self.expect_flag("ceil_mode")
        self.expect_pairs("kernel", "stride", "dilation")
        self.expect_padding()
        reach = [(k - 1) * d + 1 for k, d in zip(self.kernel, self.dilation, strict=True)]
        half = all(2 * p <= r for p, r in zip(self.padding, reach * 2, strict=True))
        self.expect(half, "padding", "at most half the kernel")

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        return _pooled_shape(self, inputs)

    def reference(self, inputs: Sequence[Array], sources: Sequence[QParams]) -> Array:
        taps = self.window.taps(inputs[0], fill=0)  # zeros beyond the border never win over a code
        result = next(taps).copy()
        for tap in taps:
            np.maximum(result, tap, out=result)
        return result

    def channel_sources(self, inputs: Sequence[Shape]) -> tuple[str, ...]:
        return self.inputs


@dataclass(frozen=True, eq=False)
class AvgPool(Padded, RoundingNode):
    """`clamp(rint(float32(acc) * multiplier) + z_out, 0, q_max)`, acc = sum (q - z) in int32 over the window.

    multiplier = s_in / (s_out * float32(count)) in float32 (`pool_multiplier`); padding counts as zero. `count` is
    kh * kw, or without `count_include_pad` the number of the window's pixels that are not padding.
    dyadic and fixed16: `arithmetic.requantize_dyadic` of acc with `fixed_point.mean_ratio` of each window's count.
    """

    kernel: Pair
    stride: Pair
    padding: Sides = (0, 0, 0, 0)
    count_include_pad: bool = True

    @property
    def window(self) -> Window:
        """Its window."""
        return Window(self.kernel, self.stride, self.padding)

    @property
    def border(self) -> Sides:
        return self.padding

    def check_fields(self) -> None:
        super().check_fields()
        self.expect_flag("count_include_pad")
        self.expect_pairs("kernel", "stride")
        self.expect_padding()
        half = all(2 * p <= k for p, k in zip(self.padding, self.kernel * 2, strict=True))
        self.expect(half, "padding", "at most half the kernel")

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        return _pooled_shape(self, inputs)

    def pixels(self, height: int, width: int) -> np.ndarray:
        """How many pixels each window averages over, int64 [H', W']."""
        counts = []
        for axis, (size, windows) in enumerate(zip((height, width), self.window.counts((height, width)), strict=True)):
            first = np.arange(windows, dtype=np.int64) * self.stride[axis] - self.padding[axis]  # top, left
            inside = np.minimum(first + self.kernel[axis], size) - np.maximum(first, 0)
            counts.append(np.full_like(first, self.kernel[axis]) if self.count_include_pad else inside)
        return np.outer(*counts)

    def reference(self, inputs: Sequence[Array], sources: Sequence[QParams]) -> Array:
        x, source = inputs[0], sources[0]
        taps = self.window.taps(x, fill=source.zero_point)
        total = next(taps).astype(np.int32)
        for tap in taps:
            np.add(total, tap, out=total)
        total -= np.int32(prod(self.kernel) * source.zero_point)
        return _average(self, total, source, self.pixels(x.shape[1], x.shape[2])[..., None])

    def channel_sources(self, inputs: Sequence[Shape]) -> tuple[str, ...]:
        return self.inputs


@dataclass(frozen=True, eq=False)
class GlobalAvgPool(RoundingNode):
    """As `AvgPool` over the whole height and width: [N, C, 1, 1] with keepdims, else [N, C]."""

    keepdims: bool

    def check_fields(self) -> None:
        super().check_fields()
        self.expect_flag("keepdims")

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        self.expect_images(inputs)
        channels, height, width = inputs[0]
        if height * width > LARGEST_AVERAGE:
            raise self.misfit(inputs, f"at most {LARGEST_AVERAGE} pixels")
        return (channels, 1, 1) if self.keepdims else (channels,)

    def rank(self, source: int) -> int:
        return source if self.keepdims else 2

    def pixels(self, height: int, width: int) -> np.ndarray:
        """As `AvgPool.pixels`, int64 [1, 1]."""
        return np.array([[height * width]])

    def reference(self, inputs: Sequence[Array], sources: Sequence[QParams]) -> Array:
        x, source = inputs[0], sources[0]
        count = x.shape[1] * x.shape[2]
        total = x.sum(axis=(1, 2), keepdims=True, dtype=np.int64) - count * source.zero_point
        pooled = _average(self, total.astype(np.int32), source, count)
        return pooled if self.keepdims else pooled.reshape(len(pooled), -1)

    def channel_sources(self, inputs: Sequence[Shape]) -> tuple[str, ...]:
        return self.inputs


def pool_multiplier(source: QParams, output: QParams, count: int | np.ndarray) -> np.ndarray:
    """float32 `s_in / (s_out * float32(count))` of averages over `count` codes."""
    return np.asarray(np.float32(source.scale) / (np.float32(output.scale) * np.asarray(count, np.float32)))


def _average(node: AvgPool | GlobalAvgPool, total: Array, source: QParams, count: int | Array) -> Array:
    if node.requantization != "float32":
        return arithmetic.requantize_dyadic(total, mean_ratio(source.scale, node.output.scale, count), node.output)
    return arithmetic.requantize(total, pool_multiplier(source, node.output, count), node.output)


def _pooled_shape(node: MaxPool | AvgPool, inputs: Sequence[Shape]) -> Shape:
    node.expect_images(inputs)
    channels, sizes = inputs[0][0], node.window.counts(inputs[0][1:])
    if min(sizes) < 1:
        raise node.misfit(inputs, "a padded height and width that hold the kernel")
    area = prod(node.kernel)
    if area > LARGEST_KERNEL or area * channels * prod(sizes) > LARGEST_POOLING:
        raise node.misfit(inputs, "a kernel of at most 2^18 pixels, and windows of at most 2^36 codes")
    return (channels, *sizes)
