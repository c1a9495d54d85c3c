"""Sum of two values."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from oaq_repro.fixed_point import SUM_BITS, dyadic_sum, shifted
from oaq_repro.integer.graph import arithmetic
from oaq_repro.integer.graph.arithmetic import Array, QParams
from oaq_repro.integer.graph.nodes.base import RoundingNode, Shape


@dataclass(frozen=True, eq=False)
class Add(RoundingNode):
    """`clamp(rint(((qa - za) * sa + (qb - zb) * sb) / s_out) + z_out, 0, q_max)` of two values of equal shape.

    dyadic and fixed16: `clamp((((qa - za) * Ma + (qb - zb) * Mb + 2^(s-1)) >> s) + z_out, 0, q_max)` with the integers
    of `terms`; those of fixed16 need no more than 32 bits.
    """

    inputs_count: ClassVar[int | None] = 2

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        if inputs[0] != inputs[1]:
            raise self.misfit(inputs, "two equal shapes")
        return inputs[0]

    def terms(self, sources: Sequence[QParams]) -> tuple[Array, int]:
        """The multipliers Ma and Mb, int64 [2], and the shift s, where `requantization` is not float32."""
        ratios = [np.float64(source.scale) / np.float64(self.output.scale) for source in sources]
        return dyadic_sum(ratios, SUM_BITS[self.requantization])

    def reference(self, inputs: Sequence[Array], sources: Sequence[QParams]) -> Array:
        if self.requantization != "float32":
            multipliers, shift = self.terms(sources)
            a, b = (
                (x.astype(np.int64) - q.zero_point) * m for x, q, m in zip(inputs, sources, multipliers, strict=True)
            )
            return arithmetic.integer_codes(shifted(a + b, shift), self.output)
        total = arithmetic.dequantize(inputs[0], sources[0])
        total += arithmetic.dequantize(inputs[1], sources[1])
        total /= self.output.scale
        return arithmetic.to_codes(total, self.output)

    def channel_sources(self, inputs: Sequence[Shape]) -> tuple[str, ...]:
        return self.inputs
