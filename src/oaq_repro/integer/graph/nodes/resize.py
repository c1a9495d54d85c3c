"""Other heights and widths. Where resizing reads: `oaq_repro.resampling`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from oaq_repro.accumulator import is_integer
from oaq_repro.fixed_point import SHARE_BITS, resize_shares, shifted
from oaq_repro.integer.graph.arithmetic import Array, QParams
from oaq_repro.integer.graph.nodes.base import PassingNode, RoundingNode, Shape
from oaq_repro.resampling import nearest_pixels, resize_taps

LARGEST_FACTOR = 1 << 24
Factor = tuple[int, int, int, int]  # numerator and denominator of the height, and of the width


@dataclass(frozen=True, eq=False)
class Resize(RoundingNode, PassingNode):
    """Bilinear, on codes, QParams unchanged: inputs (x, like), x at the height and width of `like`; or (x,) and a
    `factor` as that of `ResizeNearest`.

    float32: `a * (1 - t) + b * t` between rows (upper, lower), then between columns of the unrounded result, then rint,
    clamp to [0, q_max]. Where a, b and t come from: `resampling.resize_taps`.
    dyadic and fixed16: `(sum + 2^21) >> 22` of codes times the integers of `fixed_point.resize_shares` along both axes.
    """

    inputs_count: ClassVar[int | None] = None
    align_corners: bool
    factor: Factor | None = None

    def check_fields(self) -> None:
        super().check_fields()
        self.expect_flag("align_corners")
        if self.factor is not None:
            _check_factor(self)
        wanted = 2 if self.factor is None else 1
        self.expect(len(self.inputs) == wanted, "inputs", f"{wanted} names (two without a factor, one with it)")

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        self.expect_images(inputs)
        return (inputs[0][0], *(inputs[1][1:] if self.factor is None else _resized(self, inputs)))

    def reference(self, inputs: Sequence[Array], sources: Sequence[QParams]) -> Array:
        x = inputs[0]
        size = self.output_shape([(part.shape[3], *part.shape[1:3]) for part in inputs])[1:]
        if x.shape[1:3] == size:
            return x
        exact = self.requantization != "float32"
        values: Array = x.astype(np.int64 if exact else np.float32)
        for axis in (1, 2):
            first, second, t = resize_taps(x.shape[axis], size[axis - 1], self.align_corners)
            a, b = resize_shares(t) if exact else (np.float32(1) - t, t)
            a, b = (share.reshape((-1, 1, 1) if axis == 1 else (-1, 1)) for share in (a, b))
            values = values.take(first, axis) * a + values.take(second, axis) * b
        if exact:
            return shifted(values, 2 * SHARE_BITS).astype(np.uint8)
        np.rint(values, out=values)
        return np.clip(values, 0, self.output.q_max).astype(np.uint8)

    def channel_sources(self, inputs: Sequence[Shape]) -> tuple[str, ...]:
        return self.inputs[:1]


@dataclass(frozen=True, eq=False)
class ResizeNearest(PassingNode):
    """Nearest pixel, codes and QParams unchanged: [N, C, H, W] to [N, C, floor(H * n / d), floor(W * n / d)].

    `factor`: (n, d) of the height and of the width. Which pixel, in exact integers: `resampling.nearest_pixels`.
    """

    factor: Factor
    rule: Literal["floor", "half_pixel"] = "floor"

    def check_fields(self) -> None:
        super().check_fields()
        _check_factor(self)
        self.expect(self.rule in ("floor", "half_pixel"), "rule", "floor or half_pixel")

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        self.expect_images(inputs)
        return (inputs[0][0], *_resized(self, inputs))

    def pixels(self, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows and columns that are taken, int64 each."""
        down, across = self.factor[:2], self.factor[2:]
        return nearest_pixels(height, *down, self.rule), nearest_pixels(width, *across, self.rule)

    def reference(self, inputs: Sequence[Array], sources: Sequence[QParams]) -> Array:
        rows, columns = self.pixels(*inputs[0].shape[1:3])
        return inputs[0].take(rows, 1).take(columns, 2)

    def channel_sources(self, inputs: Sequence[Shape]) -> tuple[str, ...]:
        return self.inputs


def _check_factor(node: Resize | ResizeNearest) -> None:
    right = isinstance(node.factor, tuple) and len(node.factor) == 4
    right = right and all(is_integer(v) and 1 <= v <= LARGEST_FACTOR for v in node.factor or ())
    node.expect(right, "factor", "four integers from 1 to 2^24: a fraction of the height, one of the width")


def _resized(node: Resize | ResizeNearest, inputs: Sequence[Shape]) -> tuple[int, int]:
    """Height and width multiplied by the factor, rounded down."""
    assert node.factor is not None
    up, down, wider, narrower = node.factor
    height, width = inputs[0][1] * up // down, inputs[0][2] * wider // narrower
    if min(height, width) < 1:
        raise node.misfit(inputs, "a height and width of which a pixel is left")
    return height, width
