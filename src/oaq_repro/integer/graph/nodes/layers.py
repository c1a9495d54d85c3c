"""The operators that accumulate products."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, replace
from math import prod
from typing import ClassVar, NamedTuple, Self

import numpy as np

from oaq_repro import _kernels
from oaq_repro.accumulator import Accumulator
from oaq_repro.errors import InputError
from oaq_repro.fixed_point import (
    FIXED16_LARGEST,
    FIXED16_SHIFT,
    is_fixed16,
    product_ratio,
    saturated16,
)
from oaq_repro.integer.graph import arithmetic
from oaq_repro.integer.graph.arithmetic import Array, QParams
from oaq_repro.integer.graph.nodes.base import RoundingNode, Shape
from oaq_repro.integer.graph.windows import Pair, Sides, Window

Taps = tuple[int, ...]
MULTIPLIER_TOLERANCE = 1e-5  # float32 products may be taken in any order, no more


class Accumulated(NamedTuple):
    """What accumulators hold: acc int32 and events uint8 (whether any partial sum overflowed), of the value's shape.

    lowest, highest: over all partial sums, zero included.
    """

    acc: Array
    events: Array
    lowest: int
    highest: int


class Part(NamedTuple):
    """Some of a layer's outputs, every step-th row and column from `first` on, as those of a convolution.

    rows, columns: the taps of the kernel that it has, in its order; () where there is none, and its weights are zero.
    The padding of `window` may be negative: so many rows or columns at that end are not read.
    """

    window: Window
    rows: Taps
    columns: Taps
    first: Pair = (0, 0)
    step: Pair = (1, 1)

    @property
    def padding(self) -> Sides:
        """That of the window as far as it adds pixels."""
        top, left, bottom, right = self.window.padding
        return max(top, 0), max(left, 0), max(bottom, 0), max(right, 0)


def whole(window: Window) -> Part:
    """The one part of a layer with such a window."""
    return Part(window, tuple(range(window.kernel[0])), tuple(range(window.kernel[1])))


@dataclass(frozen=True, eq=False)
class Layer(RoundingNode):
    """`clamp(rint(float32(acc + bias) * multiplier) + z_out, 0, q_max_out)` with int8 weights [O, ...], int32 bias [O].

    acc is what the accumulator's policy leaves of sum (a - z) * w; acc + bias is int32 (modulo 2^32); its conversion to
    float32 rounds to nearest even; the product is float32. `multiplier` float32 [O] is s_in * weight_scale / s_out,
    `weight_scale` float32 [O] per output channel.

    dyadic: `clamp((((acc + bias) * M + 2^(s-1)) >> s) + z_out, 0, q_max_out)`, M and s those of `fixed_point.dyadic`
    for `ratio`. fixed16: `clamp(((sat16(acc + bias) * m + 2^14) >> 15) + z_out, 0, q_max_out)`, m from 1 to 2^15 - 1
    that of `fixed_point.fixed16`; then scales are such that `ratio` is m / 2^15, and biases have 16 bits.
    """

    weight: np.ndarray
    bias: np.ndarray
    weight_scale: np.ndarray
    multiplier: np.ndarray
    _: KW_ONLY
    accumulator: Accumulator
    accumulator_reason: str = ""

    weight_rank: ClassVar[int]

    @property
    @abstractmethod
    def parts(self) -> tuple[Part, ...]:
        """The convolutions that its outputs come from."""

    @property
    @abstractmethod
    def channel_groups(self) -> int:
        """Groups of channels, whose outputs read inputs of the same group only."""

    @property
    @abstractmethod
    def kernel_weight(self) -> np.ndarray:
        """Weights as int8 [O, kh, kw, I / groups]."""

    def part_weight(self, part: Part) -> np.ndarray:
        """Weights of a part as contiguous int8 [O, kh, kw, I / groups], their axes in the accumulator's order of k."""
        if not part.rows or not part.columns:
            return np.zeros((len(self.weight), *part.window.kernel, self.kernel_weight.shape[3]), np.int8)
        return np.ascontiguousarray(self.kernel_weight[:, part.rows][:, :, part.columns])

    @property
    def matrix(self) -> np.ndarray:
        """Weights as int8 [O * parts, K] in the accumulator's order of k: (kernel row, kernel column, channel of the
        group). A row per output channel and part that has taps, those of a channel side by side, short ones with zeros
        behind."""
        parts = [part for part in self.parts if part.rows and part.columns]
        rows = [self.part_weight(part).reshape(len(self.weight), -1) for part in parts]
        padded = [np.pad(row, ((0, 0), (0, self.depth - row.shape[1]))) for row in rows]
        return np.stack(padded, axis=1).reshape(-1, self.depth)

    @property
    def depth(self) -> int:
        """The most products per output, K."""
        return max(prod(part.window.kernel) for part in self.parts) * self.kernel_weight.shape[3]

    @property
    def depthwise(self) -> bool:
        """Whether it is a convolution of which every output channel reads one input channel of its own."""
        return False

    def products(self, output_shape: Sequence[int]) -> int:
        """Products of one image whose value is [O, H, W] or [O], padding included."""
        taps, sizes = 0, output_shape[1:] or (1, 1)
        for part in self.parts:
            counts = [len(range(f, size, s)) for f, size, s in zip(part.first, sizes, part.step, strict=True)]
            taps += len(part.rows) * len(part.columns) * prod(counts)
        return taps * len(self.weight) * self.kernel_weight.shape[3]

    @property
    def padding_added(self) -> Sides:
        top, left, bottom, right = (max(sides) for sides in zip(*(part.padding for part in self.parts), strict=True))
        return top, left, bottom, right

    @property
    def border(self) -> Sides:
        return self.padding_added

    def check_fields(self) -> None:
        super().check_fields()
        self.expect_array("weight", np.int8, (None,) * self.weight_rank)
        outputs = self.weight.shape[0]
        self.expect_array("bias", np.int32, (outputs,))
        for field in ("weight_scale", "multiplier"):
            self.expect_array(field, np.float32, (outputs,))
            value = getattr(self, field)
            if not (np.isfinite(value).all() and (value > 0).all()):
                raise InputError(f"graph node {self.name!r}: {field}: expected finite values above 0 only")
        self.expect(isinstance(self.accumulator, Accumulator), "accumulator", "an Accumulator")
        self.expect(isinstance(self.accumulator_reason, str), "accumulator_reason", "text")

    def check_sources(self, sources: Sequence[QParams]) -> None:
        wanted = self.weight_scale.astype(np.float64) * float(sources[0].scale) / float(self.output.scale)
        if not np.allclose(self.multiplier, wanted, rtol=MULTIPLIER_TOLERANCE, atol=1e-37):
            expected = "scale of the input * weight_scale / scale of the output"
            raise InputError(f"graph node {self.name!r}: multiplier: found another value than {expected}")

        if self.requantization == "fixed16":
            self._check_fixed16(self.ratio(sources[0]))

    def _check_fixed16(self, ratio: Array) -> None:
        snapped = is_fixed16(ratio)
        if not snapped.all():
            channel = np.argmin(snapped)
            found = f"a ratio of scales of {np.ldexp(ratio[channel], FIXED16_SHIFT):.7g} / 2^15 in channel {channel}"
            expected = f"an integer from 1 to {FIXED16_LARGEST}, as requantization fixed16 needs it"
            raise InputError(f"graph node {self.name!r}: weight_scale: found {found}, expected {expected}")
        if not (saturated16(self.bias) == self.bias).all():
            found = self.bias[np.argmax(np.abs(self.bias.astype(np.int64)))]
            raise InputError(
                f"graph node {self.name!r}: bias: found {found}, expected 16 bits for requantization fixed16"
            )

    def ratio(self, source: QParams) -> Array:
        """float64 [O] for `dyadic` and `fixed16`."""
        return product_ratio(source.scale, self.weight_scale, self.output.scale)

    def accumulate(self, x: Array, source: QParams) -> Accumulated:
        """Run the accumulators over codes [N, H, W, C] or [N, K]."""
        images = x if x.ndim == 4 else x.reshape(1, 1, *x.shape)  # a row of N pixels: the weights are then read once
        parts = self.parts
        sums = self._joined(images, source) if len(parts) > 1 else self._accumulate(parts[0], images, source)
        shape = sums.acc.shape if x.ndim == 4 else (len(x), -1)
        return sums._replace(acc=sums.acc.reshape(shape), events=sums.events.reshape(shape))

    def _joined(self, images: Array, source: QParams) -> Accumulated:
        """The sums of all parts, each at its place."""
        outputs, *sizes = self.output_shape([(images.shape[3], *images.shape[1:3])])
        shape = (len(images), *sizes, outputs)
        acc, events, lowest, highest = np.zeros(shape, np.int32), np.zeros(shape, np.uint8), 0, 0
        for part in self.parts:
            if all(first < size for first, size in zip(part.first, sizes, strict=True)):
                at = (slice(None), *(slice(f, None, s) for f, s in zip(part.first, part.step, strict=True)))
                acc[at], events[at], low, high = self._accumulate(part, images, source)
                lowest, highest = min(lowest, low), max(highest, high)
        return Accumulated(acc, events, lowest, highest)

    def _accumulate(self, part: Part, images: Array, source: QParams) -> Accumulated:
        policy = self.accumulator.within(self.depth)  # what has no products need not fit the kernel's integers
        window, padding = part.window, part.window.padding
        if min(padding) < 0:
            images, padding = window.seen(images, source.zero_point), (0, 0, 0, 0)
        return Accumulated(*_kernels.emulate(
            np.ascontiguousarray(images), self.part_weight(part), source.zero_point, stride=window.stride,
            padding=padding, dilation=window.dilation, groups=self.channel_groups, bits=policy.bits,
            saturate=policy.overflow == "saturate", lanes=policy.lanes, block=policy.block,
        ))  # fmt: skip

    def biased(self, sums: Accumulated) -> Array:
        """The sums with their bias, int32 modulo 2^32; overwrites them."""
        total = sums.acc
        total += self.bias
        return total

    def requantized(self, total: Array, source: QParams) -> Array:
        """Codes of sums with their bias."""
        if self.requantization == "dyadic":
            return arithmetic.requantize_dyadic(total, self.ratio(source), self.output)
        if self.requantization == "fixed16":
            return arithmetic.requantize_fixed16(total, self.ratio(source), self.output)
        return arithmetic.requantize(total, self.multiplier, self.output)

    def reference(self, inputs: Sequence[Array], sources: Sequence[QParams]) -> Array:
        return self.requantized(self.biased(self.accumulate(inputs[0], sources[0])), sources[0])

    def channel_sources(self, inputs: Sequence[Shape]) -> tuple[str, ...] | None:
        if self.channel_groups == 1:
            return ()
        return self.inputs if self.depthwise else None

    def permuted(self, before: Array | None, after: Array | None) -> Self:
        weight = self.weight if before is None or self.channel_groups > 1 else self.weight[:, before]
        if after is None:
            return replace(self, weight=np.ascontiguousarray(weight))
        return replace(
            self,
            weight=np.ascontiguousarray(weight[after]),
            bias=self.bias[after],
            weight_scale=self.weight_scale[after],
            multiplier=self.multiplier[after],
        )


@dataclass(frozen=True, eq=False)
class Linear(Layer):
    """Matrix product on [N, K] with weights [O, K]."""

    weight_rank: ClassVar[int] = 2

    @property
    def parts(self) -> tuple[Part, ...]:
        return (whole(Window((1, 1))),)

    @property
    def channel_groups(self) -> int:
        return 1

    @property
    def kernel_weight(self) -> np.ndarray:
        return self.weight.reshape(len(self.weight), 1, 1, -1)

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        if len(inputs[0]) != 1 or inputs[0][0] != self.weight.shape[1]:
            raise self.misfit(inputs, f"[{self.weight.shape[1]}]")
        return (len(self.weight),)

    def rank(self, source: int) -> int:
        return 2
