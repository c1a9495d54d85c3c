"""Convolutions and transposed convolutions."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import ClassVar

import numpy as np

from oaq_repro.accumulator import is_integer
from oaq_repro.integer.graph.nodes.base import LARGEST_PARAMETER, Padded, Shape
from oaq_repro.integer.graph.nodes.layers import Layer, Part, whole
from oaq_repro.integer.graph.windows import Pair, Sides, Window
from oaq_repro.transposed import Phase, output_size, phases

LARGEST_PARTS = 1 << 10  # each is a step of the engine and several nodes in ONNX


@dataclass(frozen=True, eq=False)
class Convolution(Layer, Padded):
    """Weights [O, I / groups, kh, kw] that slide over an image; what lies outside has the code zero_point."""

    stride: Pair
    padding: Sides
    dilation: Pair
    groups: int

    weight_rank: ClassVar[int] = 4

    @abstractmethod
    def sizes(self, height: int, width: int) -> Sequence[int]:
        """Height and width of the value for such an image; below 1 where the kernel does not fit."""

    @property
    def channel_groups(self) -> int:
        return self.groups

    @property
    def depthwise(self) -> bool:
        return self.weight.shape[1] == 1 and self.groups == len(self.weight)

    @property
    def kernel_weight(self) -> np.ndarray:
        return self.weight.transpose(0, 2, 3, 1)

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
        sizes = self.sizes(*inputs[0][1:])
        if min(sizes) < 1:
            raise self.misfit(inputs, "a padded height and width that hold the kernel")
        return (len(self.weight), *sizes)


@dataclass(frozen=True, eq=False)
class Conv(Convolution):
    """Convolution."""

    @property
    def window(self) -> Window:
        """What one output reads."""
        return Window((self.weight.shape[2], self.weight.shape[3]), self.stride, self.padding, self.dilation)

    @property
    def parts(self) -> tuple[Part, ...]:
        return (whole(self.window),)

    def sizes(self, height: int, width: int) -> Sequence[int]:
        return self.window.counts((height, width))


@dataclass(frozen=True, eq=False)
class ConvTranspose(Convolution):
    """Transposed convolution with weights [O, I / groups, kh, kw] (PyTorch and ONNX have [I, O / groups, kh, kw]).

    Its fields are those of torch.nn.ConvTranspose2d: `padding` takes outputs away at four sides, `output_padding` adds
    some at the bottom and at the right. The accumulator of an output has its real products alone, as `transposed.py`
    orders them.
    """

    output_padding: Pair = (0, 0)

    def check_fields(self) -> None:
        super().check_fields()
        added, largest = self.output_padding, [max(s, d) for s, d in zip(self.stride, self.dilation, strict=True)]
        right = isinstance(added, tuple) and len(added) == 2
        right = right and all(is_integer(n) and 0 <= n < most for n, most in zip(added, largest, strict=True))
        self.expect(right, "output_padding", "two integers from 0, smaller than stride or dilation")
        few = self.stride[0] * self.stride[1] <= LARGEST_PARTS
        self.expect(few, "stride", f"at most {LARGEST_PARTS} pixels")

    @property
    def parts(self) -> tuple[Part, ...]:
        return tuple(
            Part(
                Window(
                    (rows.kernel, columns.kernel),
                    (1, 1),
                    (rows.padding[0], columns.padding[0], rows.padding[1], columns.padding[1]),
                    (rows.dilation, columns.dilation),
                ),
                rows.taps,
                columns.taps,
                (rows.first, columns.first),
                self.stride,
            )
            for rows, columns in product(*self._phases())
        )

    def _phases(self) -> Iterator[tuple[Phase, ...]]:
        """Of height and width."""
        for kernel, stride, dilation, padding, added in self._axes():
            yield phases(kernel, stride, dilation, padding, added)

    def _axes(self) -> Iterator[tuple[int, int, int, Pair, int]]:
        top, left, bottom, right = self.padding
        ends = ((top, bottom), (left, right))
        yield from zip(self.weight.shape[2:], self.stride, self.dilation, ends, self.output_padding, strict=True)

    def sizes(self, height: int, width: int) -> Sequence[int]:
        return [output_size(size, *axis) for size, axis in zip((height, width), self._axes(), strict=True)]
