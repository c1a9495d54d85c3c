"""Product of two values."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from oaq_repro.fixed_point import product_ratio
from oaq_repro.integer.graph import arithmetic
from oaq_repro.integer.graph.arithmetic import Array, QParams
from oaq_repro.integer.graph.nodes.base import RoundingNode, Shape


@dataclass(frozen=True, eq=False)
class Multiply(RoundingNode):
    """`clamp(rint(float32((qa - za) * (qb - zb)) * multiplier) + z_out, 0, q_max)`, inputs (a, b), product in int32.

    multiplier = (s_a * s_b) / s_out in float32 (`multiply_multiplier`). Both have one shape, or one of them is
    [C, 1, 1] beside [C, H, W]: a factor per channel, as squeeze-and-excitation has (Hu et al. 2018).
    dyadic and fixed16: `arithmetic.requantize_dyadic` of the product with `fixed_point.product_ratio`.
    """

    inputs_count: ClassVar[int | None] = 2

    def check_sources(self, sources: Sequence[QParams]) -> None:
        with np.errstate(over="ignore"):
            finite = np.isfinite(multiply_multiplier(sources[0], sources[1], self.output))
        self.expect(bool(finite), "output", "a scale at which the multiplier is finite")

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        factor, whole = sorted(inputs)
        if factor != whole and not (len(whole) == 3 and factor == (whole[0], 1, 1)):
            raise self.misfit(inputs, "two equal shapes, or [C, H, W] and [C, 1, 1]")
        return whole

    def reference(self, inputs: Sequence[Array], sources: Sequence[QParams]) -> Array:
        a, b = (x.astype(np.int32) - np.int32(q.zero_point) for x, q in zip(inputs, sources, strict=True))
        if self.requantization != "float32":
            return arithmetic.requantize_dyadic(a * b, self.ratio(sources), self.output)
        return arithmetic.requantize(a * b, multiply_multiplier(sources[0], sources[1], self.output), self.output)

    def ratio(self, sources: Sequence[QParams]) -> Array:
        """float64 scalar for `dyadic`."""
        return product_ratio(sources[0].scale, sources[1].scale, self.output.scale)

    def channel_sources(self, inputs: Sequence[Shape]) -> tuple[str, ...]:
        return self.inputs


def multiply_multiplier(a: QParams, b: QParams, output: QParams) -> np.ndarray:
    """float32 `(s_a * s_b) / s_out`."""
    return np.asarray(a.scale * b.scale / output.scale)
