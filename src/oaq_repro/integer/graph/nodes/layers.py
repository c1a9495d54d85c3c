"""The operators that accumulate products."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, replace
from math import prod
from typing import ClassVar, NamedTuple, Self

import numpy as np

from oaq_repro import _kernels
from oaq_repro.accumulator import Accumulator, is_integer
from oaq_repro.errors import InputError
from oaq_repro.integer.graph import arithmetic
from oaq_repro.integer.graph.arithmetic import Array, QParams
from oaq_repro.integer.graph.nodes.base import LARGEST_PARAMETER, CodeNode, Padded, Shape
from oaq_repro.integer.graph.windows import Pair, Sides, Window

MULTIPLIER_TOLERANCE = 1e-5  # float32 products may be taken in any order, no more


class Accumulated(NamedTuple):
    """What accumulators hold: acc int32 and events uint8 (whether any partial sum overflowed), of the value's shape.

    lowest, highest: over all partial sums, zero included.
    """

    acc: Array
    events: Array
    lowest: int
    highest: int


@dataclass(frozen=True, eq=False)
class Layer(CodeNode):
    """`clamp(rint(float32(acc + bias) * multiplier) + z_out, 0, q_max_out)` with int8 weights [O, ...], int32 bias [O].

    acc is what the accumulator's policy leaves of sum (a - z) * w; acc + bias is int32 (modulo 2^32); its conversion to
    float32 rounds to nearest even; the product is float32. `multiplier` float32 [O] is s_in * weight_scale / s_out,
    `weight_scale` float32 [O] per output channel.
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
    def window(self) -> Window:
        """What one output reads."""

    @property
    @abstractmethod
    def channel_groups(self) -> int:
        """Groups of channels, whose outputs read inputs of the same group only."""

    @property
    @abstractmethod
    def kernel_weight(self) -> np.ndarray:
        """Weights as contiguous int8 [O, kh, kw, I / groups], their axes in the accumulator's order of k."""

    @property
    def matrix(self) -> np.ndarray:
        """Weights as int8 [O, K] in the accumulator's order of k: (kernel row, kernel column, channel of the group)."""
        return self.kernel_weight.reshape(len(self.weight), -1)

    @property
    def depth(self) -> int:
        """Products per output, K."""
        return self.weight[0].size

    @property
    def depthwise(self) -> bool:
        """Whether it is a convolution of which every output channel reads one input channel of its own."""
        return False

    def products(self, output_shape: Sequence[int]) -> int:
        """Products of one image whose value is [O, H, W] or [O], padding included."""
        return self.weight.size * prod(output_shape[1:])

    @property
    def padding_added(self) -> Sides:
        return self.window.padding

    @property
    def border(self) -> Sides:
        return self.window.padding

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

    def accumulate(self, x: Array, source: QParams) -> Accumulated:
        """Run the accumulators over codes [N, H, W, C] or [N, K]."""
        policy = self.accumulator.within(self.depth)  # what has no products need not fit the kernel's integers
        images = x if x.ndim == 4 else x.reshape(1, 1, *x.shape)  # a row of N pixels: the weights are then read once
        window = self.window
        acc, events, lowest, highest = _kernels.emulate(
            np.ascontiguousarray(images), self.kernel_weight, source.zero_point, stride=window.stride,
            padding=window.padding, dilation=window.dilation, groups=self.channel_groups, bits=policy.bits,
            saturate=policy.overflow == "saturate", lanes=policy.lanes, block=policy.block,
        )  # fmt: skip
        shape = acc.shape if x.ndim == 4 else (len(x), -1)
        return Accumulated(acc.reshape(shape), events.reshape(shape), lowest, highest)

    def requantized(self, sums: Accumulated) -> Array:
        """Codes of the sums, which are overwritten."""
        acc = sums.acc
        acc += self.bias  # int32, modulo 2^32
        return arithmetic.requantize(acc, self.multiplier, self.output)

    def reference(self, inputs: Sequence[Array], sources: Sequence[QParams]) -> Array:
        return self.requantized(self.accumulate(inputs[0], sources[0]))

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
class Conv(Padded, Layer):
    """Convolution with weights [O, I / groups, kh, kw]; padding has the code zero_point."""

    stride: Pair
    padding: Sides
    dilation: Pair
    groups: int

    weight_rank: ClassVar[int] = 4

    @property
    def window(self) -> Window:
        return Window((self.weight.shape[2], self.weight.shape[3]), self.stride, self.padding, self.dilation)

    @property
    def channel_groups(self) -> int:
        return self.groups

    @property
    def depthwise(self) -> bool:
        return self.weight.shape[1] == 1 and self.groups == len(self.weight)

    @property
    def kernel_weight(self) -> np.ndarray:
        return np.ascontiguousarray(self.weight.transpose(0, 2, 3, 1))

    def check_fields(self) -> None:
        self.expect_pairs("stride", "dilation")
        self.expect_padding()
        super().check_fields()
        outputs = len(self.weight)
        right = is_integer(self.groups) and 1 <= self.groups <= LARGEST_PARAMETER and outputs % self.groups == 0
        self.expect(right, "groups", f"a divisor of the {outputs} output channels")

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        self.expect_images(inputs)
        channels = self.weight.shape[1] * self.groups
        if inputs[0][0] != channels:
            raise self.misfit(inputs, f"{channels} channels")
        sizes = self.window.counts(inputs[0][1:])
        if min(sizes) < 1:
            raise self.misfit(inputs, "a padded height and width that hold the kernel")
        return (len(self.weight), *sizes)


@dataclass(frozen=True, eq=False)
class Linear(Layer):
    """Matrix product on [N, K] with weights [O, K]."""

    weight_rank: ClassVar[int] = 2

    @property
    def window(self) -> Window:
        return Window((1, 1))

    @property
    def channel_groups(self) -> int:
        return 1

    @property
    def kernel_weight(self) -> np.ndarray:
        return np.ascontiguousarray(self.weight).reshape(len(self.weight), 1, 1, -1)

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        if len(inputs[0]) != 1 or inputs[0][0] != self.weight.shape[1]:
            raise self.misfit(inputs, f"[{self.weight.shape[1]}]")
        return (len(self.weight),)

    def rank(self, source: int) -> int:
        return 2
