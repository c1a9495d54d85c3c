"""Sum of two values."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from oaq_repro.integer.graph import arithmetic
from oaq_repro.integer.graph.arithmetic import Array, QParams
from oaq_repro.integer.graph.nodes.base import CodeNode, Shape


@dataclass(frozen=True, eq=False)
class Add(CodeNode):
    """`clamp(rint(((qa - za) * sa + (qb - zb) * sb) / s_out) + z_out, 0, q_max)` of two values of equal shape."""

    inputs_count: ClassVar[int | None] = 2

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        if inputs[0] != inputs[1]:
            raise self.misfit(inputs, "two equal shapes")
        return inputs[0]

    def reference(self, inputs: Sequence[Array], sources: Sequence[QParams]) -> Array:
        total = arithmetic.dequantize(inputs[0], sources[0])
        total += arithmetic.dequantize(inputs[1], sources[1])
        total /= self.output.scale
        return arithmetic.to_codes(total, self.output)

    def channel_sources(self, inputs: Sequence[Shape]) -> tuple[str, ...]:
        return self.inputs
