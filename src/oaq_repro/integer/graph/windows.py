"""Sliding windows: sizes by PyTorch's rules, and views of what they read. One definition for layers and pools."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Pair = tuple[int, int]


@dataclass(frozen=True)
class Window:
    """Sizes in pixels, of height and width. `ceil`: a partial window at the end counts as well."""

    kernel: Pair
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    ceil: bool = False

    def counts(self, sizes: tuple[int, ...]) -> list[int]:
        """Windows along height and width of an image of these sizes; below 1 where none fits."""
        return [
            window_count(size, self.kernel[i], self.stride[i], self.padding[i], self.dilation[i], self.ceil)
            for i, size in enumerate(sizes)
        ]

    def borders(self, sizes: tuple[int, ...]) -> list[tuple[int, int]]:
        """Pixels that windows read before and after each axis."""
        found = []
        for i, (size, count) in enumerate(zip(sizes, self.counts(sizes), strict=True)):
            needed = (count - 1) * self.stride[i] + self.dilation[i] * (self.kernel[i] - 1) + 1
            found.append((self.padding[i], max(needed - size - self.padding[i], 0)))
        return found

    def taps(self, x: Array, fill: int) -> Iterator[Array]:
        """One view [N, H', W', C] per position within the kernel, of x [N, H, W, C] with a border of `fill`."""
        sizes = x.shape[1:3]
        counts = self.counts(sizes)
        padded = np.pad(x, ((0, 0), *self.borders(sizes), (0, 0)), constant_values=fill)
        ends = [(count - 1) * stride + 1 for count, stride in zip(counts, self.stride, strict=True)]
        for row in range(0, self.kernel[0] * self.dilation[0], self.dilation[0]):
            for column in range(0, self.kernel[1] * self.dilation[1], self.dilation[1]):
                yield padded[:, row : row + ends[0] : self.stride[0], column : column + ends[1] : self.stride[1]]


def window_count(size: int, kernel: int, stride: int, padding: int, dilation: int, ceil: bool) -> int:
    """Windows along one axis, by PyTorch's rules: `ceil` adds a partial one unless it starts in the right padding."""
    free = size + 2 * padding - dilation * (kernel - 1) - 1
    if free < 0 and not ceil:
        return 0
    count = (-(-free // stride) if ceil else free // stride) + 1
    if ceil and (count - 1) * stride >= size + padding:
        count -= 1
    return count
