"""Pixels and channels in one row."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from oaq_repro.accumulator import is_integer
from oaq_repro.integer.graph.arithmetic import Array, QParams
from oaq_repro.integer.graph.nodes.base import PassingNode, Shape


@dataclass(frozen=True, eq=False)
class Flatten(PassingNode):
    """[N, C, H, W] to [N, C * H * W], with keepdims to [N, C * H * W, 1, 1]; codes and QParams unchanged."""

    start_dim: int = 1
    keepdims: bool = False

    def check_fields(self) -> None:
        super().check_fields()
        self.expect(is_integer(self.start_dim) and self.start_dim == 1, "start_dim", "1")
        self.expect_flag("keepdims")

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        return (prod(inputs[0]), 1, 1) if self.keepdims else (prod(inputs[0]),)

    def rank(self, source: int) -> int:
        return 4 if self.keepdims else 2

    def reference(self, inputs: Sequence[Array], sources: Sequence[QParams]) -> Array:
        x = inputs[0]
        flat = np.ascontiguousarray(np.moveaxis(x, -1, 1)).reshape(len(x), -1)
        return flat[:, None, None] if self.keepdims else flat

    def channel_sources(self, inputs: Sequence[Shape]) -> tuple[str, ...] | None:
        return self.inputs if prod(inputs[0][1:]) == 1 else None
