"""Values side by side."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from oaq_repro.accumulator import is_integer
from oaq_repro.integer.graph import arithmetic
from oaq_repro.integer.graph.arithmetic import Array, QParams
from oaq_repro.integer.graph.nodes.base import CodeNode, Shape


@dataclass(frozen=True, eq=False)
class Concat(CodeNode):
    """Join along the channels; each input as `Requantize` does (a copy where its QParams equal the output's)."""

    inputs_count: ClassVar[int | None] = None
    axis: int = 1

    def check_fields(self) -> None:
        super().check_fields()
        self.expect(is_integer(self.axis) and self.axis == 1, "axis", "1 (the channels)")

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        source = inputs[0]
        if any(len(shape) != len(source) or shape[1:] != source[1:] for shape in inputs):
            raise self.misfit(inputs, "shapes that differ in channels only")
        return (sum(shape[0] for shape in inputs), *source[1:])

    def reference(self, inputs: Sequence[Array], sources: Sequence[QParams]) -> Array:
        parts = [arithmetic.rescale(part, q, self.output) for part, q in zip(inputs, sources, strict=True)]
        return np.concatenate(parts, axis=-1)
