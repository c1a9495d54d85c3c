"""Sliding windows: sizes by PyTorch's rules, and views of what they read. One definition for layers and pools."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from oaq_repro.integer.graph.arithmetic import Array

Pair = tuple[int, int]
Sides = tuple[int, int, int, int]  # top, left, bottom, right


def four_sides(padding: Pair | Sides) -> Sides:
    """Two numbers, of height and width, as top, left, bottom and right. Anything else is as it was."""
    return padding * 2 if isinstance(padding, tuple) and len(padding) == 2 else padding


@dataclass(frozen=True)
class Window:
    """Sizes in pixels, of height and width, padding of four sides. `ceil`: a partial window at the end counts too.

    A negative padding is a number of pixels at that end that are not read.
    """

    kernel: Pair
    stride: Pair = (1, 1)
    padding: Sides = (0, 0, 0, 0)
    dilation: Pair = (1, 1)
    ceil: bool = False

    @property
    def ends(self) -> list[Pair]:
        """Padding before and after each axis."""
        return [(self.padding[0], self.padding[2]), (self.padding[1], self.padding[3])]

    def counts(self, sizes: tuple[int, ...]) -> list[int]:
        """Windows along height and width of an image of these sizes; below 1 where none fits."""
        return [
            window_count(size, self.kernel[i], self.stride[i], self.ends[i], self.dilation[i], self.ceil)
            for i, size in enumerate(sizes)
        ]

    def borders(self, sizes: tuple[int, ...]) -> list[tuple[int, int]]:
        """Pixels that windows read before and after each axis."""
        found = []
        for i, (size, count) in enumerate(zip(sizes, self.counts(sizes), strict=True)):
            needed = (count - 1) * self.stride[i] + self.dilation[i] * (self.kernel[i] - 1) + 1
            before = self.ends[i][0]
            found.append((before, max(needed - size - before, 0)))
        return found

    def seen(self, x: Array, fill: int) -> Array:
        """What windows without padding read: x [N, H, W, C] with a border of `fill`, or cut where it is negative."""
        added = [(max(before, 0), max(after, 0)) for before, after in self.ends]
        padded = np.pad(x, ((0, 0), *added, (0, 0)), constant_values=fill)
        rows, columns = (
            slice(max(-b, 0), size + min(a, 0)) for size, (b, a) in zip(padded.shape[1:3], self.ends, strict=True)
        )
        return padded[:, rows, columns]

    def taps(self, x: Array, fill: int) -> Iterator[Array]:
        """One view [N, H', W', C] per position within the kernel, of x [N, H, W, C] with a border of `fill`."""
        sizes = x.shape[1:3]
        counts = self.counts(sizes)
        padded = np.pad(x, ((0, 0), *self.borders(sizes), (0, 0)), constant_values=fill)
        lasts = [(count - 1) * stride + 1 for count, stride in zip(counts, self.stride, strict=True)]
        for row in range(0, self.kernel[0] * self.dilation[0], self.dilation[0]):
            for column in range(0, self.kernel[1] * self.dilation[1], self.dilation[1]):
                yield padded[:, row : row + lasts[0] : self.stride[0], column : column + lasts[1] : self.stride[1]]


def window_count(size: int, kernel: int, stride: int, padding: Pair, dilation: int, ceil: bool) -> int:
    """Windows along one axis, by PyTorch's rules: `ceil` adds a partial one unless it starts in the right padding."""
    free = size + sum(padding) - dilation * (kernel - 1) - 1
    if free < 0 and not ceil:
        return 0
    count = (-(-free // stride) if ceil else free // stride) + 1
    if ceil and (count - 1) * stride >= size + padding[0]:
        count -= 1
    return count
